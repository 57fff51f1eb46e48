//! `raft::Handle` as the API's store: its errors in the words of one who called the API.

use super::store::{Leader, Store, StoreError, Watch};
use crate::model::command::{Action, Reply};
use crate::model::ids::RaftId;
use crate::model::resources::Bytes;
use crate::raft::{Handle, ProposeError, ReadError, Subscription, View};

#[tonic::async_trait]
impl Store for Handle {
    async fn propose(&self, by: &str, action: Action) -> Result<Reply, StoreError> {
        Handle::propose(self, by, action).await.map_err(|error| match error {
            ProposeError::Rejected(rejection) => StoreError::Rejected(rejection),
            ProposeError::NoLeader { leader } => StoreError::NoLeader(no_leader(&Handle::view(self), leader)),
            ProposeError::TooLarge { size_bytes, limit_bytes } => StoreError::TooLarge(format!(
                "this is {} long as it is stored, and at most {} fit: keep large files in the image, not in the manifest",
                Bytes(size_bytes),
                Bytes(limit_bytes)
            )),
            // Not the caller's fault, and not known to have failed: say so.
            error @ ProposeError::Unknown => StoreError::NoLeader(error.to_string()),
            ProposeError::ShuttingDown => StoreError::ShuttingDown,
            error @ ProposeError::Storage(_) => StoreError::Failed(error.to_string()),
        })
    }

    fn view(&self) -> View {
        Handle::view(self)
    }

    async fn read(&self) -> Result<View, StoreError> {
        Handle::read(self).await.map_err(|error| match error {
            ReadError::NoLeader { leader } => StoreError::NoLeader(no_leader(&Handle::view(self), leader)),
            ReadError::NoQuorum => StoreError::NoLeader(format!("{error}{}", servers(&Handle::view(self)))),
            ReadError::ShuttingDown => StoreError::ShuttingDown,
            ReadError::Storage(_) => StoreError::Failed(error.to_string()),
        })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(self.subscribe())
    }

    fn leader(&self) -> Leader {
        let metrics = self.metrics();
        Leader { term: metrics.term, raft_id: metrics.leader.map(RaftId) }
    }
}

#[tonic::async_trait]
impl Watch for Subscription {
    async fn changed(&mut self) -> Option<View> {
        Subscription::changed(self).await.ok().map(|(view, _)| view)
    }
}

/// Who leads if not this server; else who would be needed for there to be a leader.
fn no_leader(view: &View, leader: Option<u64>) -> String {
    let named = leader.map(|id| {
        let node = view.state.nodes.values().find(|node| node.raft_id == Some(RaftId(id)));
        node.map_or_else(|| format!("server {id}"), |node| node.name.to_string())
    });
    match named {
        Some(name) => format!("this node does not lead the cluster: ask {name}"),
        None => format!("the cluster has no leader now, try again in a moment{}", servers(view)),
    }
}

/// More than half of them must be up.
fn servers(view: &View) -> String {
    let servers: Vec<&str> = view
        .state
        .nodes
        .values()
        .filter(|node| node.raft_id.is_some())
        .map(|node| node.name.as_str())
        .collect();
    if servers.len() < 2 {
        return String::new();
    }
    format!("; it needs {} of its {} servers: {}", servers.len() / 2 + 1, servers.len(), servers.join(", "))
}
