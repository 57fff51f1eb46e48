//! Makes this host match its assignments: starts, probes, restarts and stops instances, and
//! reports what it sees. It reads a watch of assignments and writes to a sink of reports; it
//! knows neither Raft nor the API, and goes on without either.
//!
//! `track.rs` is what is known of one instance, `step.rs` decides, `run.rs` performs,
//! `containers.rs` is the runtime and the images behind it.

mod ask;
pub mod containers;
mod probe;
mod reporter;
mod run;
pub mod step;
#[cfg(test)]
mod tests;
pub mod track;

pub use run::{Adopted, Agent, Config, spawn};

use crate::model::app::{Check, StopPolicy};
use crate::model::command::Report;
use crate::model::ids::InstanceId;
use crate::model::instance::Exit;
use crate::model::project::Assignment;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

/// An attempt that ended by itself; nothing of it is left.
#[derive(Clone, Debug)]
pub struct Ended {
    pub instance: InstanceId,
    pub attempt: u32,
    pub exit: Exit,
    pub log_tail: Vec<String>,
}

/// The containers of this host, as the agent uses them. One method a verb; each is complete
/// when it returns.
pub trait Containers: Send + Sync + 'static {
    /// Fetches, unpacks, creates and starts. On an error nothing is left.
    fn start(
        &self,
        assignment: &Assignment,
        attempt: u32,
    ) -> impl Future<Output = Result<Option<SocketAddr>, String>> + Send;
    /// Signals, waits, kills, removes. An attempt that is not there is stopped already.
    fn stop(
        &self,
        instance: InstanceId,
        attempt: u32,
        policy: &StopPolicy,
    ) -> impl Future<Output = ()> + Send;
    /// Kills at once; the attempt's end arrives like any other.
    fn kill(&self, instance: InstanceId, attempt: u32) -> impl Future<Output = ()> + Send;
    /// The last lines that the attempt has logged, oldest first.
    fn last_words(&self, instance: InstanceId, attempt: u32) -> Vec<String>;
    /// Asks once.
    fn probe(
        &self,
        instance: InstanceId,
        attempt: u32,
        address: Option<SocketAddr>,
        check: &Check,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// The door of the proxy: requests go in to an attempt until it is closed.
pub trait Gate: Send + Sync + 'static {
    /// Lets no new request in and returns when those inside are done, or after `drain`.
    fn close(&self, instance: InstanceId, attempt: u32, drain: Duration) -> impl Future<Output = ()> + Send;
}

/// Where reports go.
pub trait StatusSink: Send + Sync + 'static {
    fn report(&self, reports: Vec<Report>) -> impl Future<Output = Result<(), String>> + Send;
}
