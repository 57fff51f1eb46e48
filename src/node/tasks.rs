//! Every background task of a node: its name, and what its end means.

use std::future::Future;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What it means when a task ends before the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The node cannot do its work without it: it shuts down and says which task ended.
    Essential,
    /// Its work is done when it ends.
    Finite,
}

/// The tasks of one node. All end when the token is cancelled.
pub struct Tasks {
    set: tokio::task::JoinSet<()>,
    pub shutdown: CancellationToken,
    failed: mpsc::Sender<String>,
}

impl Tasks {
    /// The tasks, and where the failure of an essential one is told.
    pub fn new() -> (Tasks, mpsc::Receiver<String>) {
        // One: the first failure ends the node, later ones say nothing new.
        let (failed, failures) = mpsc::channel(1);
        (Tasks { set: tokio::task::JoinSet::new(), shutdown: CancellationToken::new(), failed }, failures)
    }

    pub fn spawn(
        &mut self,
        name: &'static str,
        policy: Policy,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let (shutdown, failed) = (self.shutdown.clone(), self.failed.clone());
        self.set.spawn(async move {
            // In a task of its own: a panic is this task's failure, told like any other.
            let ended = tokio::spawn(work).await;
            let failure = match ended {
                Ok(Ok(())) if policy == Policy::Finite || shutdown.is_cancelled() => return,
                Ok(Ok(())) => format!("{name} ended"),
                Ok(Err(error)) => format!("{name}: {error:#}"),
                Err(error) => format!("{name}: {error}"),
            };
            if shutdown.is_cancelled() {
                tracing::debug!(failure, "while shutting down");
            } else if policy == Policy::Essential {
                let _ = failed.try_send(failure);
            } else {
                tracing::warn!(failure);
            }
        });
    }

    /// Asks all tasks to end and waits for them, up to `limit`.
    pub async fn finish(mut self, limit: std::time::Duration) {
        self.shutdown.cancel();
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}
