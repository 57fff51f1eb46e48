//! The wire types that `build.rs` generates from `proto/`, and their mapping to the model.

pub mod convert; // model values <-> messages

/// `nodectl.v1`: the public API, and the records of the store.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("nodectl.v1");
}

/// The descriptors of every proto file, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
