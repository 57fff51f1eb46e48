//! The process that faces the internet: the same binary, started as `nodectl proxy`, without
//! privileges and without keys. It serves its last routing table whether or not a node
//! process is there (HOUSE.md ideas 6 and 8).
//!
//! ```text
//!  node process (root)                         proxy process (its own user, no privileges)
//!  Supervisor ── control socket, frames ─────► control ──► worker per core: accept, route,
//!     │  keeps every listening socket,            │          balance, forward
//!     │  so none is lost when a side dies         └──────── gates, statistics
//!     └─ spawn.rs: start or adopt
//! ```
//! Read `supervisor.rs` for the node's side, `process.rs` for the proxy's, then `worker.rs`
//! and `forward.rs` for a request's way. What a rule matches is in `model::routes`; where
//! tables come from is not known here. TLS is not here yet.

mod backend;
mod body;
mod confine;
mod connection;
mod control;
mod convert;
mod descriptors;
mod forward;
mod framing;
mod guard;
mod headers;
mod host;
mod link;
mod listen;
mod pages;
mod process;
mod spawn;
mod stats;
mod supervisor;
mod table;
mod tick;
mod tunnel;
mod wire;
mod worker;

pub use process::main;
pub use stats::{InstanceStats, LATENCY_BOUNDS_US, ServiceStats, Stats};
pub use supervisor::{Event, GateClosed, Supervisor};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The user that the proxy becomes when the node is root: far above what distributions,
/// systemd's dynamic users (61184–65519), container runtimes (524,288 and up, in blocks) and
/// 65534 (shared with whatever else has nothing better) use.
pub const DEFAULT_UID: u32 = 1_879_000_001;

/// What the node wants of its proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// A folder of this node alone, for the control socket, the pid file and the log.
    pub run_dir: PathBuf,
    /// nodectl's own binary.
    pub program: PathBuf,
    /// Where to listen; port 0 picks a free one.
    pub http: Vec<SocketAddr>,
    /// User and group that the proxy becomes if the node is root; else it stays what it is.
    pub uid: u32,
    /// Threads, each with its own listening sockets; 0 means one for each processor.
    pub workers: usize,
    pub limits: Limits,
}

/// How long the proxy waits, and for how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request's head to its last: a slow client is closed.
    pub head_timeout: Duration,
    /// A connection without a request.
    pub idle_timeout: Duration,
    /// Without one byte of a body that the client owes, or of a response that it should read.
    pub stall_timeout: Duration,
    pub connect_timeout: Duration,
    /// From the request sent to the head of the response.
    pub response_timeout: Duration,
    /// Clients' connections at a time; 0 means as many as open files allow.
    pub max_connections: usize,
    /// How long a proxy that was asked to end finishes what it has.
    pub shutdown_drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A head is one packet; fifteen seconds cover the worst mobile link.
            head_timeout: Duration::from_secs(15),
            // As nginx; browsers give up on their own after about a minute or two.
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            // Backends are on this machine or one hop away.
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(60),
            max_connections: 0,
            shutdown_drain: Duration::from_secs(10),
        }
    }
}

/// A proxy answers in milliseconds; a machine that swaps takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the node has no proxy, or no answer from it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("port {port} is in use{by}: choose another with --http, or stop what holds it", port = .address.port())]
    PortInUse { address: SocketAddr, by: String },
    #[error("could not listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("could not {doing} {path}")]
    Folder { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("could not start the proxy from {program}")]
    Start { program: PathBuf, source: std::io::Error },
    #[error("the proxy ended while it started: {0}")]
    EndedAtStart(String),
    #[error(
        "the program with id {pid} answers on the proxy's control socket in {run_dir}, but {why}: end it, or use another folder"
    )]
    Stranger { pid: u32, run_dir: PathBuf, why: String },
    #[error("could not talk to the proxy")]
    Link(#[source] std::io::Error),
    #[error("the proxy did not answer in time")]
    NoAnswer,
    #[error("the proxy's supervisor has ended")]
    Ended,
}
