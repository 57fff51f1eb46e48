//! What the API asks of the replicated state. `raft::Handle` answers in a node; the tests
//! answer from memory with the same `ClusterState::apply`.

use crate::model::command::{Action, Rejection, Reply};
use crate::model::ids::RaftId;
use crate::raft::View;

/// Who leads, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    pub term: u64,
    /// `None` without one.
    pub raft_id: Option<RaftId>,
}

/// The replicated state.
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns when the change is durable, applied, and seen by [`Store::view`].
    async fn propose(&self, by: &str, action: Action) -> Result<Reply, StoreError>;
    /// What this node has applied; may lag behind the leader.
    fn view(&self) -> View;
    /// A view that holds everything that was acknowledged before the call.
    async fn read(&self) -> Result<View, StoreError>;
    fn watch(&self) -> Box<dyn Watch>;
    fn leader(&self) -> Leader;
}

/// Views as they come.
#[tonic::async_trait]
pub trait Watch: Send {
    /// The next view: the latest, whatever lay between. The first call returns at once.
    /// `None` when the store is closed.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing: the next returns a view at least as new.
    async fn changed(&mut self) -> Option<View>;
}

/// Why a proposal or a read was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Names who is missing, when that is known.
    #[error("{0}")]
    NoLeader(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("this node is shutting down: ask again when it is back, or ask another")]
    ShuttingDown,
    /// The node's own fault: its disk, its log.
    #[error("{0}")]
    Failed(String),
}
