//! Images on this machine: a content-addressed store of blobs and unpacked layers, and
//! loading archives and folders into it. Start at `store/mod.rs` for what is on disk, at
//! `import/mod.rs` for how it gets there, at `unpack/mod.rs` for what makes it safe.
//!
//! Everything here blocks; callers in async code use `spawn_blocking`. Not here: names in
//! use (the cluster's state knows which name is which digest), mounting, registries.

mod document;
mod error;
mod import;
mod limits;
pub mod name;
mod paths;
mod platform;
mod source;
mod store;
mod streams;
mod tar;
mod unpack;

pub use document::{Image, Layer};
pub use error::Error;
pub use import::{Imported, LayerWriter, Progress};
pub use limits::Limits;
pub use platform::Platform;
pub use store::{GcReport, Pin, Store, Usage};

#[cfg(test)]
mod tests;
