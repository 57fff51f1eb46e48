//! The state in memory: one voter that is always there, unless it is told to be gone.

use crate::api::{Leader, Store, StoreError, Watch};
use crate::model::ClusterState;
use crate::model::command::{Action, Command, Rejection, Reply};
use crate::model::ids::RaftId;
use crate::model::time::Timestamp;
use crate::raft::View;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

#[derive(Default)]
pub struct Memory {
    view: watch::Sender<View>,
    pub is_leaderless: AtomicBool,
}

impl Memory {
    pub fn apply(&self, by: &str, action: Action) -> Result<Reply, Rejection> {
        let mut result = None;
        self.view.send_modify(|view| {
            let index = view.state.index + 1;
            let command = Command { at: Timestamp::from_unix_ms(index), by: by.into(), action };
            let (outcome, events) = view.state.apply(index, &command);
            for event in events {
                view.events.push(event);
            }
            result = Some(outcome.into_result());
        });
        result.expect("applied")
    }

    pub fn state(&self) -> ClusterState {
        self.view.borrow().state.clone()
    }

    fn check_leader(&self) -> Result<(), StoreError> {
        if self.is_leaderless.load(Ordering::Relaxed) {
            return Err(StoreError::NoLeader("the cluster has no leader now".into()));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Store for Memory {
    async fn propose(&self, by: &str, action: Action) -> Result<Reply, StoreError> {
        self.check_leader()?;
        Ok(self.apply(by, action)?)
    }
    fn view(&self) -> View {
        self.view.borrow().clone()
    }
    async fn read(&self) -> Result<View, StoreError> {
        self.check_leader()?;
        Ok(self.view())
    }
    fn watch(&self) -> Box<dyn Watch> {
        let mut view = self.view.subscribe();
        view.mark_changed();
        Box::new(MemoryWatch(view))
    }
    fn leader(&self) -> Leader {
        Leader { term: 3, raft_id: self.check_leader().is_ok().then_some(RaftId(1)) }
    }
}

struct MemoryWatch(watch::Receiver<View>);

#[tonic::async_trait]
impl Watch for MemoryWatch {
    async fn changed(&mut self) -> Option<View> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}
