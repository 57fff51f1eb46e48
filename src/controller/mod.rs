//! Leader-only loops: they watch the state, ask the scheduler and propose what it says.
//! Level-triggered: whatever woke the loop, it rereads the state and makes it right, so that
//! start-up, failover and the happy day are one path. No judgement of its own: that is
//! `scheduler`'s. Collecting what is finished (instances of which nothing is left, apps
//! without instances) is part of the plan.
//!
//! ```text
//!  store.changed() --+                                   +--> store.apply(term, changes)
//!  wake_at ----------+--> `step.rs`: plan what is dirty --+
//!  leadership -------+                                   +--> next wake_at
//! ```
//!
//! Start with [`run`]; what it decides is in `step.rs`.

mod step;
#[cfg(test)]
mod tests;

use crate::model::ClusterState;
use crate::model::command::{Change, Touched};
use crate::model::time::Timestamp;
use std::future::Future;
use std::time::Duration;
use step::{Controller, Next};
use tokio_util::sync::CancellationToken;

/// Whether this node leads, and in which term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub is_leader: bool,
}

/// What woke the loop.
#[derive(Clone, Debug)]
pub enum Wake {
    /// Commands were applied; all that they touched since the last call, merged.
    Changed(Touched),
    /// Leadership was gained, lost or passed into another term.
    Leadership,
}

/// What became of proposed changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many were refused because what they read had moved.
    pub refused: u32,
}

/// The store is closing: the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

/// Changes were not known to be made: no leader, no quorum, no time. They may still be.
#[derive(Debug, thiserror::Error)]
#[error("could not propose changes")]
pub struct ProposeError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The replicated store, as far as the controller needs it: `raft::Handle` and its
/// subscription in production, a value in tests.
pub trait Store: Send {
    /// The last applied state. Never behind what `changed` has told of.
    fn state(&self) -> ClusterState;
    fn leadership(&self) -> Leadership;
    /// The wall clock, as a value.
    fn now(&self) -> Timestamp;
    /// Waits for the next change.
    ///
    /// # Errors
    /// The store is closing.
    ///
    /// # Cancel safety
    /// Must be cancel safe: what was not returned is told by the next call.
    fn changed(&mut self) -> impl Future<Output = Result<Wake, Closed>> + Send;
    /// Proposes the changes in one command, and waits until it is applied here.
    ///
    /// # Errors
    /// It is not known to be applied.
    fn apply(
        &self,
        term: u64,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send;
}

/// How long a proposal may take: several elections. After that the loop replans.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until `shutdown` or until the store closes. Does nothing while another node leads.
pub async fn run(mut store: impl Store, shutdown: CancellationToken) {
    let mut controller = Controller::default();
    loop {
        let now = store.now();
        let wait = match controller.step(&store.state(), store.leadership(), now) {
            Next::Propose { term, changes } => {
                let proposed = tokio::time::timeout(PROPOSE_TIMEOUT, store.apply(term, changes));
                let outcome = tokio::select! {
                    () = shutdown.cancelled() => return,
                    outcome = proposed => outcome,
                };
                match outcome {
                    Ok(Ok(applied)) => controller.applied(&applied),
                    Ok(Err(error)) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "replanning");
                        controller.failed();
                    }
                    Err(_) => {
                        tracing::warn!("the cluster did not take changes in time, replanning");
                        controller.failed();
                    }
                }
                controller.pause()
            }
            Next::WaitUntil(at) => at.map(|at| at.since(now)),
        };
        let woken = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // First, so that what is touched is known before the next plan.
            woken = store.changed() => woken,
            () = sleep(wait) => continue,
        };
        match woken {
            Ok(Wake::Changed(touched)) => controller.touch(&store.state(), &touched),
            Ok(Wake::Leadership) => {}
            Err(Closed) => return,
        }
    }
}

/// For ever without a duration.
async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
