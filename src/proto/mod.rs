//! The wire types that `build.rs` generates from `proto/`, and their mapping to the model.

pub mod convert; // model values <-> messages

/// `nodectl.v1`: the public API, and the records of the store.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("nodectl.v1");
}

/// Metadata of a status that `Exec` ends with: what a shell's exit status would be, a number.
/// 127: there is no such command; 126: it can't be executed.
pub const EXIT_STATUS_KEY: &str = "nodectl-exit-status";

/// Metadata of an `Exec`'s answer: the instance, where several could have been meant.
pub const INSTANCE_KEY: &str = "nodectl-instance";

/// The descriptors of every proto file, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
