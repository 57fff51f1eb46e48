//! What a user sees: standard output, standard error and exit status of the real binary, against
//! a scripted node. The client is what is tested here, so the node is a double of the API on a
//! Unix socket (`node.rs`); nothing runs containers.
//!
//! Golden texts are in `golden/`; `NODECTL_UPDATE_GOLDEN=1 cargo test --test cli` rewrites them.
//! Read the difference before you accept it: JSON field names are a promise.

mod changes;
mod deploy;
mod exec;
mod fixtures;
mod golden;
mod images;
mod logs;
mod node;
mod reads;
mod terminal;
mod usage;
