//! What can go wrong, as the caller sees it: one enum for opening the store, one for proposing.

use crate::model::command::Rejection;
use std::path::{Path, PathBuf};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was written did not come back as it was written. Nothing was changed.
    #[error(
        "the store in {} is damaged: {what}. nothing was changed. restore the data folder from a backup; \
         if this server has peers, move the folder away and join again as a new server",
        .dir.display()
    )]
    Damaged { dir: PathBuf, what: String },
    /// A newer version wrote it, in a way that this one can't read.
    #[error(
        "the store in {} was last written by nodectl {written_by}, and this is {}: {what}. \
         start nodectl {written_by} or newer with this data folder",
        .dir.display(), env!("CARGO_PKG_VERSION")
    )]
    Newer { dir: PathBuf, what: String, written_by: String },
    /// Its layout was given up before the first release that promises to read it.
    #[error(
        "the store in {} was last written by nodectl {written_by}: {what}. start that version with this \
         data folder, or choose an empty one with --data-dir and deploy there",
        .dir.display()
    )]
    Older { dir: PathBuf, what: String, written_by: String },
    #[error(
        "the store in {} is in use by another nodectl: stop that one, or choose another --data-dir",
        .dir.display()
    )]
    Locked { dir: PathBuf },
    #[error(
        "the disk is full: free some space where {} is, and start again (could not {what})",
        .dir.display()
    )]
    Full { dir: PathBuf, what: String },
    #[error("could not {what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// The store is sound, the consensus engine did not start.
    #[error("could not start the replicated store: {0}")]
    Start(String),
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// The same, told as a full disk if that is what it is.
    pub(super) fn or_full(self, dir: &Path) -> Error {
        let what = match &self {
            Error::Io { what, source } if is_full(&format!("{source:?} {source}")) => what.clone(),
            Error::Start(what) if is_full(what) => "write to the store".to_owned(),
            _ => return self,
        };
        Error::Full { dir: dir.to_owned(), what }
    }
}

/// Whether the text of a failure of the store speaks of a lack of room.
pub fn is_full(cause: &str) -> bool {
    ["StorageFull", "QuotaExceeded", "No space left", "quota exceeded"]
        .iter()
        .any(|sign| cause.contains(sign))
}

/// Why a proposed command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was committed, and `apply` refused it: nothing changed.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// This server is not the leader. Ask `leader`, or again in a moment if there is none.
    /// Nothing was written by this call.
    #[error("this server is not the leader{}", .leader.map(|id| format!(": server {id} is")).unwrap_or_default())]
    NoLeader {
        /// Its RaftId, where known.
        leader: Option<u64>,
    },
    /// Leadership moved while the command was under way: it may or may not be carried out.
    #[error(
        "the leader changed while the command was under way: look whether it was carried out, and try again"
    )]
    Unknown,
    #[error("the change is {size_bytes} bytes long, and at most {limit_bytes} fit: make it smaller")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The store failed, and this node has stopped taking part.
    #[error("the store failed: {0}")]
    Storage(String),
}

/// Why a read could not be made linearizable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this server is not the leader{}", .leader.map(|id| format!(": server {id} is")).unwrap_or_default())]
    NoLeader { leader: Option<u64> },
    /// A quorum did not confirm that this server still leads.
    #[error("most of the servers do not answer: the cluster can't confirm what is newest")]
    NoQuorum,
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the store failed: {0}")]
    Storage(String),
}
