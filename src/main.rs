//! The binary: see `lib.rs` for the map.

fn main() {
    println!("hi");
}
