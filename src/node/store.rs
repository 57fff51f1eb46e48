//! Where this node's agent reports to: the replicated state.

use crate::agent::StatusSink;
use crate::model::command::{Action, Report};
use crate::model::ids::NodeId;
use crate::raft;

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
