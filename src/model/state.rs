//! ClusterState: everything that the cluster agrees on, as one value. Cloning is cheap
//! (persistent maps), so the scheduler, the API and the projections each read a snapshot
//! that does not change under them.
//!
//! Many small records, tenant in every key. The indexes (`by_app`, `by_node`, `used`) are
//! derived from `instances` and are kept by the few functions at the end of this file;
//! `check_indexes` says whether they still agree, and the tests ask it.

use super::app::{App, Deployment, Release};
use super::command::ImageRecord;
use super::ids::{AppKey, DeploymentId, InstanceId, NodeId, ReleaseNumber, TenantName};
use super::instance::{Instance, Phase};
use super::node::Node;
use super::resources::Resources;
use super::time::Timestamp;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterState {
    /// Log index of the last applied command.
    pub index: u64,
    /// Zero until the cluster is made.
    pub cluster_id: u128,
    /// Raised by `restore`: orders views across a restored cluster.
    pub incarnation: u64,
    /// What every server understands; gates changes of what `apply` does.
    pub feature_level: u32,
    /// Cluster time: never goes back.
    pub now: Timestamp,
    pub next_instance: u64,
    pub next_deployment: u64,

    pub nodes: OrdMap<NodeId, Arc<Node>>,
    pub apps: OrdMap<AppKey, Arc<App>>,
    pub releases: OrdMap<(AppKey, ReleaseNumber), Arc<Release>>,
    pub deployments: OrdMap<(AppKey, DeploymentId), Arc<Deployment>>,
    pub images: OrdMap<(TenantName, String), Arc<ImageRecord>>,

    // Written through `put_instance` and `remove_instance` only.
    instances: OrdMap<InstanceId, Arc<Instance>>,
    by_app: OrdMap<AppKey, OrdSet<InstanceId>>,
    by_node: OrdMap<NodeId, OrdSet<InstanceId>>,
    used: OrdMap<NodeId, Resources>,
}

impl ClusterState {
    pub fn app(&self, key: &AppKey) -> Option<&Arc<App>> {
        self.apps.get(key)
    }

    pub fn release(&self, app: &AppKey, number: ReleaseNumber) -> Option<&Arc<Release>> {
        self.releases.get(&(app.clone(), number))
    }

    /// Oldest first.
    pub fn releases_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Arc<Release>> {
        self.releases
            .range((app.clone(), ReleaseNumber(0))..=(app.clone(), ReleaseNumber(u64::MAX)))
            .map(|(_, release)| release)
    }

    /// Oldest first.
    pub fn deployments_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Arc<Deployment>> {
        self.deployments
            .range((app.clone(), DeploymentId(0))..=(app.clone(), DeploymentId(u64::MAX)))
            .map(|(_, deployment)| deployment)
    }

    pub fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.instances.get(&id)
    }

    pub fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    /// In the order of their ids.
    pub fn instances_of<'a>(&'a self, app: &AppKey) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        self.by_app.get(app).into_iter().flatten().filter_map(|id| self.instances.get(id))
    }

    /// In the order of their ids.
    pub fn instances_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Instance>> {
        self.by_node.get(&node).into_iter().flatten().filter_map(|id| self.instances.get(id))
    }

    /// What the instances on `node` reserve together.
    pub fn used_on(&self, node: NodeId) -> Resources {
        self.used.get(&node).copied().unwrap_or_default()
    }

    /// What an instance takes of its node: its process's need, until nothing of it is left there.
    pub fn need_of(&self, instance: &Instance) -> Resources {
        if instance.observed.phase == Phase::Stopped {
            return Resources::default();
        }
        self.release(&instance.app, instance.release)
            .and_then(|release| release.spec.processes.get(&instance.process))
            .map(|process| process.need())
            .unwrap_or_default()
    }

    /// Adds or replaces an instance. Its release must be in the state.
    pub fn put_instance(&mut self, instance: Instance) {
        let id = instance.id;
        if let Some(old) = self.instances.get(&id).cloned() {
            let freed = self.need_of(&old);
            let used = self.used_on(old.node).saturating_sub(freed);
            self.set_used(old.node, used);
        } else {
            self.by_app.entry(instance.app.clone()).or_default().insert(id);
            self.by_node.entry(instance.node).or_default().insert(id);
        }
        let used = self.used_on(instance.node).saturating_add(self.need_of(&instance));
        self.set_used(instance.node, used);
        self.instances.insert(id, Arc::new(instance));
    }

    pub fn remove_instance(&mut self, id: InstanceId) -> Option<Arc<Instance>> {
        let old = self.instances.get(&id).cloned()?;
        let used = self.used_on(old.node).saturating_sub(self.need_of(&old));
        self.instances.remove(&id);
        self.set_used(old.node, used);
        remove_from_index(&mut self.by_app, &old.app, id);
        remove_from_index(&mut self.by_node, &old.node, id);
        Some(old)
    }

    /// Nothing used is no record: a state that was rebuilt equals the one that it was taken from.
    fn set_used(&mut self, node: NodeId, used: Resources) {
        if used == Resources::default() {
            self.used.remove(&node);
        } else {
            self.used.insert(node, used);
        }
    }

    /// Whether the derived indexes equal what a full recount gives; the difference if not.
    ///
    /// # Errors
    /// Names the index that disagrees.
    pub fn check_indexes(&self) -> Result<(), String> {
        let mut full = ClusterState { releases: self.releases.clone(), ..ClusterState::default() };
        for instance in self.instances.values() {
            full.put_instance(Instance::clone(instance));
        }
        let strip = |used: &OrdMap<NodeId, Resources>| -> Vec<(NodeId, Resources)> {
            used.iter().filter(|(_, r)| **r != Resources::default()).map(|(n, r)| (*n, *r)).collect()
        };
        if full.by_app != self.by_app {
            return Err("by_app".into());
        }
        if full.by_node != self.by_node {
            return Err("by_node".into());
        }
        if strip(&full.used) != strip(&self.used) {
            return Err(format!("used: {:?} but counted {:?}", strip(&self.used), strip(&full.used)));
        }
        Ok(())
    }
}

fn remove_from_index<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<InstanceId>>, key: &K, id: InstanceId) {
    if let Some(set) = index.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
