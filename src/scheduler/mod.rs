//! What should run where, and why not: pure decisions over one snapshot of the state.
//! No clock, no IO, no async; integers and ordered maps only, so that equal input gives
//! equal output on every machine. Nothing here remembers anything: each rollout is derived
//! from the state anew, every time.
//!
//! ```text
//!            goal.rs       what the app wants now, and how each instance stands to that
//!               |
//! plan.rs --> rollout.rs   per process: which to stop, how many to start, in which slots
//!    |          |
//!    |       pool.rs       which node: free room, zones in balance (filter.rs says why not)
//!    |
//!    +-----> verdict.rs    whether a deployment is over, and how
//! ```
//!
//! `agenda.rs` keeps what has to be planned again; `explain.rs` answers `why`.
//! Start with [`plan`].

mod agenda;
pub mod explain;
mod filter;
mod goal;
mod plan;
mod pool;
mod rollout;
mod spread;
mod verdict;

#[cfg(test)]
mod figures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod script;
#[cfg(test)]
pub(crate) mod world;

pub use agenda::Agenda;
pub use filter::{Kind, Reason, Refusal, Remedy, Shortage};
pub use plan::{MAX_CHANGES, Plan, Unplaced, plan};
