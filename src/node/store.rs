//! What the other rooms ask of the replicated state, answered by `raft::Handle`.

use crate::agent::StatusSink;
use crate::api;
use crate::model::command::{Action, Reply, Report};
use crate::model::ids::{NodeId, RaftId};
use crate::raft::{self, ProposeError, ReadError};

/// The API's store.
pub struct Store(pub raft::Handle);

fn view(view: raft::View) -> api::View {
    api::View { state: view.state, events: view.events }
}

fn propose_error(error: ProposeError) -> api::StoreError {
    use api::StoreError;
    match error {
        ProposeError::Rejected(rejection) => StoreError::Rejected(rejection),
        ProposeError::NoLeader { .. } => StoreError::NoLeader(error.to_string()),
        ProposeError::TooLarge { .. } => StoreError::TooLarge(error.to_string()),
        ProposeError::ShuttingDown => StoreError::ShuttingDown,
        other => StoreError::Failed(other.to_string()),
    }
}

fn read_error(error: ReadError) -> api::StoreError {
    use api::StoreError;
    match error {
        ReadError::NoLeader { .. } => StoreError::NoLeader(error.to_string()),
        ReadError::ShuttingDown => StoreError::ShuttingDown,
        #[allow(unreachable_patterns)]
        other => StoreError::Failed(other.to_string()),
    }
}

#[tonic::async_trait]
impl api::Store for Store {
    async fn propose(&self, by: &str, action: Action) -> Result<Reply, api::StoreError> {
        self.0.propose(by, action).await.map_err(propose_error)
    }

    fn view(&self) -> api::View {
        view(self.0.view())
    }

    async fn read(&self) -> Result<api::View, api::StoreError> {
        self.0.read().await.map(view).map_err(read_error)
    }

    fn watch(&self) -> Box<dyn api::Watch> {
        Box::new(Watch(self.0.subscribe()))
    }

    fn leader(&self) -> api::Leader {
        let metrics = self.0.metrics();
        api::Leader { term: metrics.term, raft_id: metrics.leader.map(RaftId) }
    }
}

struct Watch(raft::Subscription);

#[tonic::async_trait]
impl api::Watch for Watch {
    async fn changed(&mut self) -> Option<api::View> {
        self.0.changed().await.ok().map(|(next, _)| view(next))
    }
}

/// Where this node's agent reports to.
pub struct Reports {
    pub raft: raft::Handle,
    pub node: NodeId,
    pub name: String,
}

impl StatusSink for Reports {
    async fn report(&self, reports: Vec<Report>) -> Result<(), String> {
        let action = Action::Observe { node: self.node, reports };
        self.raft.propose(&self.name, action).await.map(drop).map_err(|error| error.to_string())
    }
}
