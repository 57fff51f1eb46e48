//! The replicated state as the agent (reports) and the controller (changes) use it.

use crate::agent::StatusSink;
use crate::controller::{self, Applied, Wake};
use crate::model::ClusterState;
use crate::model::command::{Action, Change, Report};
use crate::model::ids::NodeId;
use crate::model::time::Timestamp;
use crate::{clock, raft};

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

/// The controller's view of the replicated state.
pub struct Controlled {
    raft: raft::Handle,
    views: raft::Subscription,
    leadership: tokio::sync::watch::Receiver<raft::Leadership>,
}

impl Controlled {
    pub fn new(raft: raft::Handle) -> Self {
        let (views, leadership) = (raft.subscribe(), raft.leadership());
        Self { raft, views, leadership }
    }
}

impl controller::Store for Controlled {
    fn state(&self) -> ClusterState {
        self.raft.view().state
    }

    fn leadership(&self) -> controller::Leadership {
        let raft::Leadership { term, is_leader } = *self.leadership.borrow();
        controller::Leadership { term, is_leader }
    }

    fn now(&self) -> Timestamp {
        clock::now().max(self.raft.view().state.now)
    }

    async fn changed(&mut self) -> Result<Wake, controller::Closed> {
        tokio::select! {
            changed = self.views.changed() => match changed {
                Ok((_, touched)) => Ok(Wake::Changed(touched)),
                Err(_) => Err(controller::Closed),
            },
            changed = self.leadership.changed() => match changed {
                Ok(()) => Ok(Wake::Leadership),
                Err(_) => Err(controller::Closed),
            },
        }
    }

    async fn apply(&self, term: u64, changes: Vec<Change>) -> Result<Applied, controller::ProposeError> {
        let proposed = self.raft.propose_outcome("controller", Action::Apply { term, changes }).await;
        match proposed {
            Ok(outcome) => Ok(Applied { refused: outcome.refused }),
            Err(error) => Err(controller::ProposeError(Box::new(error))),
        }
    }
}
