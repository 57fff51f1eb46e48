//! Values and pure rules. No clock, no randomness, no IO, no generated types.
//! Start with `state.rs` (what the cluster knows), then `command.rs` (what may change it)
//! and `apply.rs` (how).

pub mod app;
mod apply;
mod changes;
pub mod command;
pub mod event;
pub mod ids;
pub mod instance;
pub mod manifest;
pub mod near;
pub mod node;
pub mod project;
pub mod quantity;
pub mod resources;
pub mod routes;
pub mod state;
pub mod target;
pub mod time;

pub use state::ClusterState;
