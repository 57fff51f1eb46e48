//! A cluster for tests, in memory and without time of its own: the real `apply` and the real
//! `plan`, and agents that say what the test has them say.

use super::agenda::Agenda;
use super::plan::{Plan, plan};
use crate::model::ClusterState;
use crate::model::app::AppSpec;
use crate::model::command::{Action, Command, NodeFacts, Outcome, Report, Touched};
use crate::model::ids::{AppKey, AppName, Digest, InstanceId, NodeId, NodeName, TenantName, Zone};
use crate::model::instance::{Desired, Exit, Instance, Observed, Phase};
use crate::model::node::NodeStatus;
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

pub struct World {
    pub state: ClusterState,
    pub now: Timestamp,
    /// Whether each command is followed by a check of the indexes.
    checked: bool,
    /// Kept as the controller keeps it.
    pub agenda: Agenda,
    /// All that was touched since a test took it.
    pub touched: Touched,
    /// The last report of each instance and those before it, to be repeated late.
    pub reports: Vec<(NodeId, Report)>,
}

pub fn key(app: &str) -> AppKey {
    AppKey { tenant: TenantName::default_tenant(), app: AppName::new(app).expect("an app's name") }
}

impl World {
    pub fn new() -> Self {
        let mut world = World {
            state: ClusterState::default(),
            now: Timestamp::from_unix_ms(1_000_000_000),
            checked: true,
            agenda: Agenda::full(),
            touched: Touched::default(),
            reports: Vec::new(),
        };
        world.act(Action::InitCluster { cluster_id: 1 });
        world
    }

    /// For figures: a check costs more than what is measured.
    pub fn unchecked() -> Self {
        World { checked: false, ..Self::new() }
    }

    pub fn act(&mut self, action: Action) -> Outcome {
        let command = Command { at: self.now, by: "test".into(), action };
        let index = self.state.index + 1;
        let (outcome, _) = self.state.apply(index, &command);
        if self.checked
            && let Err(index) = self.state.check_indexes()
        {
            panic!("after {command:?} the index {index} is wrong");
        }
        self.agenda.touch(&self.state, &outcome.touched);
        self.touched.merge(outcome.touched.clone());
        outcome
    }

    pub fn advance(&mut self, by: Duration) {
        self.now = self.now.saturating_add(by);
    }

    /// Nodes get the ids 1, 2, 3 …
    pub fn add_node(&mut self, name: &str, zone: &str, capacity: Resources) -> NodeId {
        let known = self.state.nodes.values().find(|n| n.name.as_str() == name).map(|n| n.id);
        let id = known.unwrap_or(NodeId(self.state.nodes.len() as u128 + 1));
        self.act(Action::RegisterNode(NodeFacts {
            id,
            name: NodeName::new(name).expect("a node's name"),
            zone: Zone::new(zone).expect("a zone's name"),
            pool: String::new(),
            labels: Default::default(),
            capacity,
            platform: "linux/amd64".into(),
            version: "0.1.0".into(),
            addresses: vec![],
            raft_id: None,
        }));
        id
    }

    /// Specs that differ make releases that differ.
    pub fn deploy(&mut self, app: &str, spec: AppSpec, force: bool) -> Outcome {
        let image = Digest::new(&format!("sha256:{}", "a".repeat(64))).expect("a digest");
        let hash = format!("{spec:?}");
        let image_name = "image".to_owned();
        let spec = Arc::new(spec);
        self.act(Action::Deploy { app: key(app), image, image_name, spec, hash, force, reset_scale: false })
    }

    pub fn plan(&self) -> Plan {
        plan(&self.state, None, self.now)
    }

    pub fn apply(&mut self, plan: &Plan) -> Outcome {
        self.act(Action::Apply { term: 1, changes: plan.changes.clone() })
    }

    /// What the instance's agent says next; without `change` the same again, one step on.
    pub fn report(&mut self, id: InstanceId, change: impl FnOnce(&mut Observed)) {
        let Some(instance) = self.state.instance(id).cloned() else { return };
        let mut observed = instance.observed.clone();
        change(&mut observed);
        observed.step += 1;
        let report = Report { instance: id, observed };
        self.reports.push((instance.node, report.clone()));
        self.act(Action::Observe { node: instance.node, reports: vec![report] });
    }

    pub fn make_ready(&mut self, id: InstanceId) {
        let now = self.now;
        self.report(id, |seen| {
            seen.attempt = seen.attempt.max(1);
            seen.phase = Phase::Running;
            seen.ready = true;
            seen.started_at = Some(now);
            seen.failures = 0;
        });
    }

    pub fn make_unready(&mut self, id: InstanceId, why: &str) {
        self.report(id, |seen| {
            seen.attempt = seen.attempt.max(1);
            seen.phase = Phase::Running;
            seen.ready = false;
            seen.message = why.into();
        });
    }

    pub fn crash(&mut self, id: InstanceId, exit: Exit, lines: &[String]) {
        let now = self.now;
        self.report(id, |seen| {
            seen.attempt += 1;
            seen.step = 0;
            seen.phase = Phase::Backoff;
            seen.ready = false;
            seen.failures += 1;
            seen.last_exit = Some(exit);
            seen.log_tail = lines.to_vec();
            seen.retry_at = Some(now.saturating_add(Duration::from_secs(1 << seen.failures.min(5))));
        });
    }

    pub fn make_gone(&mut self, id: InstanceId) {
        self.report(id, |seen| {
            seen.phase = Phase::Stopped;
            seen.ready = false;
        });
    }

    fn instances(&self) -> Vec<Arc<Instance>> {
        self.state.instances().cloned().collect()
    }

    fn is_reachable(&self, instance: &Instance) -> bool {
        self.state.nodes.get(&instance.node).is_some_and(|n| n.status == NodeStatus::Up)
    }

    /// Every running instance of a reachable node that has not failed says that it is ready.
    pub fn all_ready(&mut self) -> bool {
        let coming =
            |i: &Instance| i.desired == Desired::Run && !i.observed.ready && i.observed.failures == 0;
        let chosen: Vec<_> =
            self.instances().into_iter().filter(|i| coming(i) && self.is_reachable(i)).collect();
        chosen.iter().for_each(|i| self.make_ready(i.id));
        !chosen.is_empty()
    }

    /// Everything that is to stop, on a reachable node, has stopped.
    pub fn all_gone(&mut self) -> bool {
        let chosen: Vec<_> = self
            .instances()
            .into_iter()
            .filter(|i| i.desired == Desired::Stop && self.is_reachable(i))
            .collect();
        chosen.iter().for_each(|i| self.make_gone(i.id));
        !chosen.is_empty()
    }
}
