//! Values and pure rules. No clock, no randomness, no IO, no generated types.
//! Start with `state.rs` (what the cluster knows) and `command.rs` (what may change it).

pub mod ids;
pub mod routes;
