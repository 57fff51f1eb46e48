//! The one small trait between the log and what keeps it (`parts.rs`).
//!
//! A disk keeps sealed records and understands none of them: log entries by their index, and a
//! handful of named ones. One thread writes (`writer.rs`), in order; any thread may read.

use bytes::Bytes;
use std::io;
use std::ops::Range;

/// The named records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Name {
    Identity,
    Vote,
    Committed,
    Purged,
    Snapshots,
}

impl Name {
    pub fn as_str(self) -> &'static str {
        match self {
            Name::Identity => "identity",
            Name::Vote => "vote",
            Name::Committed => "committed",
            Name::Purged => "purged",
            Name::Snapshots => "snapshots",
        }
    }
}

/// One change. Changes take effect in the order in which they are written.
#[derive(Clone, Debug)]
pub(super) enum Op {
    PutEntry { index: u64, record: Bytes },
    RemoveEntries(Range<u64>),
    Put { name: Name, record: Bytes },
}

pub(super) trait Disk: Send + Sync + 'static {
    /// Takes the changes, in order. They are visible to readers when this returns, and durable
    /// after the next [`Disk::sync`]: of what was written before a crash, a prefix survives.
    ///
    /// # Errors
    /// The disk refused; nothing may be assumed of these changes, and no more may be written.
    fn write(&self, ops: &[Op]) -> io::Result<()>;

    /// Makes everything written so far survive a power cut.
    fn sync(&self) -> io::Result<()>;

    fn get(&self, name: Name) -> io::Result<Option<Bytes>>;

    /// Entries of `range` that are there, in order, with their index: at least one if there is
    /// any, and then as many as fit into `limit_bytes`.
    fn entries(&self, range: Range<u64>, limit_bytes: usize) -> io::Result<Vec<(u64, Bytes)>>;

    fn size_bytes(&self) -> u64;
}
