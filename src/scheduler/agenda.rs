//! The agenda: which apps have to be planned again. Pure bookkeeping for whoever loops; a
//! property test holds that planning what is on it equals planning everything.

use super::plan::Plan;
use crate::model::ClusterState;
use crate::model::command::Touched;
use crate::model::ids::{AppKey, NodeId};
use crate::model::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub struct Agenda {
    /// Everything is to be planned: at first, and when leadership is gained.
    all: bool,
    dirty: BTreeSet<AppKey>,
    /// Apps with something that no node took: any change of a node may help them.
    waiting: BTreeSet<AppKey>,
    /// Running deployments' deadlines, as of the last plan of each app.
    wakes: BTreeMap<AppKey, Timestamp>,
    /// The version of each node when its instances were last looked at.
    nodes: BTreeMap<NodeId, u64>,
}

impl Agenda {
    /// With everything on it.
    pub fn full() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Takes up what commands touched, `state` being the snapshot after them.
    pub fn touch(&mut self, state: &ClusterState, touched: &Touched) {
        self.dirty.extend(touched.apps.iter().cloned());
        if touched.nodes.is_empty() {
            return;
        }
        // Room may have come free, or a node.
        self.dirty.extend(self.waiting.iter().cloned());
        for id in &touched.nodes {
            let version = state.nodes.get(id).map_or(0, |node| node.modified);
            // A report of an instance touches its node too: only a change of the node itself
            // concerns everything on it.
            if self.nodes.insert(*id, version) != Some(version) {
                self.dirty.extend(state.instances_on(*id).map(|i| i.app.clone()));
            }
        }
    }

    /// Takes up the apps whose deadline has come.
    pub fn wake(&mut self, now: Timestamp) {
        let due = self.wakes.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone());
        self.dirty.extend(due);
    }

    /// What to plan: the argument of [`super::plan`]. `None` is everything.
    pub fn dirty(&self) -> Option<&BTreeSet<AppKey>> {
        if self.all { None } else { Some(&self.dirty) }
    }

    pub fn is_empty(&self) -> bool {
        !self.all && self.dirty.is_empty()
    }

    /// The nearest deadline of any app.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.wakes.values().min().copied()
    }

    /// Strikes off what was planned from `state`, and notes what the plan left.
    pub fn planned(&mut self, state: &ClusterState, plan: &Plan) {
        let mut done = std::mem::take(&mut self.dirty);
        if self.all {
            self.all = false;
            self.waiting.clear();
            self.wakes.clear();
            self.nodes = state.nodes.iter().map(|(id, node)| (*id, node.modified)).collect();
            done.extend(state.apps.keys().cloned());
        }
        if let Some(from) = &plan.unfinished {
            self.dirty = done.split_off(from);
        }
        for key in &done {
            self.waiting.remove(key);
            self.wakes.remove(key);
            let running = state.app(key).and_then(|app| app.deployment);
            if let Some(deployment) = running.and_then(|id| state.deployments.get(&(key.clone(), id))) {
                self.wakes.insert(key.clone(), deployment.deadline_at);
            }
        }
        self.waiting.extend(plan.report.iter().map(|unplaced| unplaced.app.clone()));
    }

    /// Puts apps back whose changes were not made.
    pub fn again(&mut self, apps: impl IntoIterator<Item = AppKey>) {
        self.dirty.extend(apps);
    }
}
