//! Carries reports to the cluster: the newest for each instance, one batch under way at a
//! time, again and again until it is taken.

use super::StatusSink;
use crate::model::command::Report;
use crate::model::ids::InstanceId;
use crate::model::instance::Observed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A leader that failed over is back within a second or two; asking this often is cheap.
const RETRY_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Default)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<InstanceId, Observed>,
    /// What was last taken, so that the same is not said twice.
    taken: BTreeMap<InstanceId, (u32, u32)>,
    in_flight: bool,
}

impl Reporter {
    pub fn put(&self, instance: InstanceId, observed: Observed) {
        let mut queue = self.shared.queue.lock().expect("no panic while it is held");
        let version = (observed.attempt, observed.step);
        if queue.taken.get(&instance).is_some_and(|taken| *taken >= version) {
            return;
        }
        queue.waiting.insert(instance, observed);
        drop(queue);
        self.shared.wake.notify_one();
    }

    pub fn forget(&self, instance: InstanceId) {
        let mut queue = self.shared.queue.lock().expect("no panic while it is held");
        queue.waiting.remove(&instance);
        queue.taken.remove(&instance);
    }

    /// Everything that was put has been taken by the cluster.
    pub fn is_idle(&self) -> bool {
        let queue = self.shared.queue.lock().expect("no panic while it is held");
        queue.waiting.is_empty() && !queue.in_flight
    }

    fn take(&self) -> Vec<Report> {
        let mut queue = self.shared.queue.lock().expect("no panic while it is held");
        let waiting = std::mem::take(&mut queue.waiting);
        let mut reports = Vec::with_capacity(waiting.len());
        for (instance, observed) in waiting {
            queue.taken.insert(instance, (observed.attempt, observed.step));
            reports.push(Report { instance, observed });
        }
        queue.in_flight = !reports.is_empty();
        reports
    }

    /// Carries reports for ever; ends with its task.
    pub async fn run(self, sink: impl StatusSink) {
        loop {
            let reports = self.take();
            if reports.is_empty() {
                self.shared.wake.notified().await;
                continue;
            }
            while let Err(error) = sink.report(reports.clone()).await {
                tracing::debug!(%error, "reports wait for the cluster");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            self.shared.queue.lock().expect("no panic while it is held").in_flight = false;
        }
    }
}
