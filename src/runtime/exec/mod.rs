//! Another process in a running container, confined as the container's own are.
//!
//! libcontainer's exec leaves the process in the host's user namespace and without filters,
//! so this is ours: [`client`] is the node's end, [`helper`] a short-lived process of this
//! binary that joins the container's groups and namespaces and executes the command there.
//! They talk over a socket: one [`Order`] with descriptors, then [`Word`]s both ways. Closing
//! the socket kills the process.

pub mod client;
pub mod helper;
mod pty;

pub use client::{ExecSession, ExecSpec, OpenError};

/// What to execute; sent with the three ends of its pipes, unless it gets a terminal.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Order {
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// `NAME=value`, over the container's own.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// Empty: the image's.
    #[prost(string, tag = "3")]
    pub user: String,
    /// Empty: the image's.
    #[prost(string, tag = "4")]
    pub cwd: String,
    #[prost(bool, tag = "5")]
    pub terminal: bool,
    #[prost(uint32, tag = "6")]
    pub rows: u32,
    #[prost(uint32, tag = "7")]
    pub columns: u32,
}

/// One word in either direction.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Word {
    #[prost(oneof = "Say", tags = "1, 2, 3, 4, 5")]
    pub say: Option<Say>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Say {
    /// Helper: it runs; a terminal's master comes with this word.
    #[prost(bool, tag = "1")]
    Started(bool),
    /// Helper: it could not be executed.
    #[prost(string, tag = "2")]
    Failed(String),
    /// Helper: it ended with this status, 128 + n for signals.
    #[prost(int32, tag = "3")]
    Exited(i32),
    /// Node: send it this signal.
    #[prost(int32, tag = "4")]
    Signal(i32),
    /// Helper: the container has no such command, or it is none that can be executed.
    #[prost(message, tag = "5")]
    Refused(Refused),
}

/// Why a command can't be executed, with the status that a shell would end with.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Refused {
    #[prost(int32, tag = "1")]
    pub status: i32,
    /// What follows the container's name: ``has no command `foo` ``.
    #[prost(string, tag = "2")]
    pub why: String,
}
