//! Makes the model durable and replicated: every change is proposed, lies durably in the log,
//! is committed and then applied, on one server as on five.
//!
//! ```text
//! propose ─► openraft ─► log.rs ─► writer.rs ─► parts.rs (wal/, names.rs), mark.rs
//!                │ committed         one sync for all who wait
//!                ▼
//!           machine.rs ─► ClusterState::apply ─► hub.rs ─► view, subscribe
//!                └─► snapshot.rs (files)
//! ```
//!
//! Not here: what a change means (`model`), who may ask for it (`api`), when it is asked for
//! (`controller`). Start with `handle.rs`, then `open.rs`; `recover.rs` says what damage is
//! found.

mod disk;
mod envelope;
mod error;
mod handle;
mod hub;
mod log;
mod machine;
mod mark;
mod names;
mod network;
mod open;
mod parts;
mod recover;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;
mod wal;
mod writer;

pub use error::{Error, ProposeError, ReadError, is_full};
pub use handle::{COMMAND_BYTES_MAX, Handle, Leadership, Metrics};
pub use hub::{Closed, Subscription, View};
pub use open::open;

use std::path::PathBuf;
use std::time::Duration;

/// Where the store is, and how it behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// A folder of its own. Made if it is not there; one process at a time.
    pub dir: PathBuf,
    /// This server's RaftId, if the store is new; an old store knows its own.
    pub raft_id: u64,
    /// Entries until a snapshot is taken; the log keeps up to twice as many.
    pub snapshot_every_entries: u64,
    /// Bytes of commands until a snapshot is taken, however few they are.
    pub snapshot_every_bytes: u64,
    /// Of one file of the log; reserved when it is made.
    pub segment_bytes: u64,
    pub heartbeat_interval: Duration,
    /// The least; the most is twice this.
    pub election_timeout: Duration,
}

impl Config {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            raft_id: 1,
            // A start replays at most twice this: well under a second.
            snapshot_every_entries: 10_000,
            snapshot_every_bytes: 32 << 20,
            segment_bytes: 8 << 20,
            // Five heartbeats to an election: a busy machine that misses two does not cause one.
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
        }
    }
}
