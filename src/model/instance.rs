//! One copy of a process bound to a node: what is wanted of it (written only by the leader)
//! and what was seen of it (written only by its agent).

use super::ids::{AppKey, InstanceId, NodeId, ProcessKey, ProcessName, ReleaseNumber};
use super::time::Timestamp;
use std::fmt;
use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub app: AppKey,
    pub process: ProcessName,
    /// 1, 2, 3 …: the `3` of `shop/web.3`. While an instance is replaced, the old one and the
    /// new one share the slot; the newer id is the one that the name means.
    pub slot: u32,
    pub release: ReleaseNumber,
    pub generation: u64,
    pub node: NodeId,
    pub desired: Desired,
    pub created_at: Timestamp,
    /// Why it was placed, with the log index of the decision.
    pub cause: Cause,
    /// `restart shop/web.3`: to be replaced by a fresh instance.
    pub superseded: bool,
    pub observed: Observed,
    /// Log index of the last change of the desired part.
    pub modified: u64,
}

impl Instance {
    /// `shop/web.3`.
    pub fn name(&self) -> String {
        format!("{}/{}.{}", self.app, self.process, self.slot)
    }
    pub fn process_key(&self) -> ProcessKey {
        ProcessKey { app: self.app.clone(), process: self.process.clone() }
    }
    /// Wanted, and seen able to serve.
    pub fn is_ready(&self) -> bool {
        self.desired == Desired::Run && self.observed.ready
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub index: u64,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Desired {
    Run,
    Stop,
}

/// What the agent last said. It only rises in (attempt, step), so that late and repeated
/// reports are harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// 0: nothing was reported yet. Each start in place is a new attempt.
    pub attempt: u32,
    /// Raised by the agent with each report of this attempt.
    pub step: u32,
    pub phase: Phase,
    pub ready: bool,
    /// Where the process listens, once it runs and has a port.
    pub address: Option<SocketAddr>,
    /// How the previous attempt ended.
    pub last_exit: Option<Exit>,
    /// What a person should know now: the failing probe, the reason of a backoff.
    pub message: String,
    /// When this attempt began to run.
    pub started_at: Option<Timestamp>,
    /// In backoff: when the next attempt is due.
    pub retry_at: Option<Timestamp>,
    /// Attempts in a row that ended without a healthy while in between.
    pub failures: u32,
    /// Last lines of the log, kept when an attempt failed.
    pub log_tail: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Assigned; its node has not said anything.
    #[default]
    Pending,
    /// Layers are fetched and unpacked, the container is made.
    Preparing,
    /// Runs; its startup probe has not succeeded.
    Starting,
    Running,
    /// Ended; it is started again at `retry_at`.
    Backoff,
    /// Told to stop, not yet gone.
    Stopping,
    /// Gone for good: nothing of it is left on the node.
    Stopped,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    OutOfMemory {
        limit_bytes: u64,
    },
    /// The container never ran.
    StartFailed(String),
    /// Its shim vanished, and it was killed for that.
    ShimLost,
    /// Killed by the agent because its health checks failed.
    Unhealthy(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal(number) => write!(f, "killed by signal {number}{}", signal_name(*number)),
            Exit::OutOfMemory { limit_bytes } => {
                write!(f, "killed: out of memory (limit {})", super::resources::Bytes(*limit_bytes))
            }
            Exit::StartFailed(why) => write!(f, "could not start: {why}"),
            Exit::ShimLost => f.write_str("killed: its shim process was lost"),
            Exit::Unhealthy(why) => write!(f, "killed: {why}"),
        }
    }
}

fn signal_name(number: i32) -> &'static str {
    match number {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        31 => " (SIGSYS)",
        _ => "",
    }
}
