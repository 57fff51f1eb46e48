//! The agent's gate is the proxy's: an instance leaves routing before it is stopped.

use crate::agent::Gate;
use crate::model::ids::InstanceId;
use crate::proxy::Supervisor;
use std::sync::Arc;
use std::time::Duration;

pub struct ProxyGate(pub Arc<Supervisor>);

impl Gate for ProxyGate {
    async fn close(&self, instance: InstanceId, attempt: u32, drain: Duration) {
        // Without a proxy there is nobody inside.
        if let Err(error) = self.0.close_gate(instance, attempt, drain).await {
            tracing::debug!(%error, %instance, "the gate was not closed");
        }
    }
}
