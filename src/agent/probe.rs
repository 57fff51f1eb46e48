//! Asks an instance how it is: every 100 ms until its first success, then at its interval.

use super::Containers;
use crate::model::app::Health;
use crate::model::ids::InstanceId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// PRODUCT manifest: while starting, every 100 ms.
const WHILE_STARTING: Duration = Duration::from_millis(100);
/// The first questions come sooner still: most servers listen within some milliseconds, and
/// each one saved is one off every deploy.
const EAGER: Duration = Duration::from_millis(5);
const EAGER_FOR: u32 = 40;

pub struct Probe {
    pub instance: InstanceId,
    pub attempt: u32,
    pub address: Option<SocketAddr>,
    pub health: Health,
    /// It was ready before this node process started.
    pub proved: bool,
}

/// Probes until the task is dropped; each answer goes to `answer`.
pub async fn run<C: Containers>(
    containers: Arc<C>,
    probe: Probe,
    answer: impl Fn(Result<(), String>) -> bool + Send,
) {
    let mut proved = probe.proved;
    let mut asked = 0u32;
    loop {
        let question = containers.probe(
            probe.instance,
            probe.attempt,
            probe.address,
            &probe.health.check,
            probe.health.timeout,
        );
        let limit = probe.health.timeout + Duration::from_millis(500);
        let result = match tokio::time::timeout(limit, question).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", probe.health.timeout.as_millis())),
        };
        proved |= result.is_ok();
        if !answer(result) {
            return;
        }
        asked = asked.saturating_add(1);
        let pause = match proved {
            true => probe.health.interval,
            false if asked <= EAGER_FOR => EAGER,
            false => WHILE_STARTING,
        };
        tokio::time::sleep(pause).await;
    }
}
