//! nodectl: run web applications on your own machines.
//!
//! One crate, one binary. Each room below has one purpose; imports go one way, and
//! `tests/tidy.rs` holds them to the table in ARCHITECTURE.md. In reading order:

pub mod agent; // makes this host match its assignments
pub mod api; // the gRPC server
pub mod build; // source -> image: static sites
pub mod cli; // one file for each verb; talks only gRPC
pub mod clock; // where time, randomness and fresh ids enter
pub mod controller; // leader-only loops: watch, plan, propose
pub mod images; // content-addressed blobs, import, unpacking
pub mod model; // values and pure rules: ClusterState::apply, projections, the manifest
pub mod node;
pub mod proto; // the generated wire types, and their mapping to the model
pub mod proxy; // the process that faces the internet
pub mod raft; // makes the model durable and replicated
pub mod runtime; // containers on this host: shims, networks, logs, exec
pub mod scheduler;
pub mod telemetry; // what the node says of itself // pure: what should run where, and why not // the composition root
