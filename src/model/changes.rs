//! The controller's changes: each rechecks what it read, and is refused alone when that moved.

use super::apply::Effects;
use super::command::{Change, ChangeKind, Expect};
use super::event::EventKind;
use super::ids::{AppKey, InstanceId, ProcessName, ReleaseNumber};
use super::instance::{Cause, Desired, Instance, Observed, Phase};
use super::node::NodeStatus;
use super::state::ClusterState;

impl ClusterState {
    pub(super) fn apply_change(&mut self, fx: &mut Effects<'_>, change: &Change) {
        if !change.expects.iter().all(|expect| self.holds(expect)) {
            fx.refused += 1;
            return;
        }
        match &change.kind {
            ChangeKind::Place { app, process, slot, release, generation, node, reason } => {
                let taken = self.has_slot_filled(app, process, *slot, *release, *generation);
                if taken || self.release(app, *release).is_none() || !self.nodes.contains_key(node) {
                    fx.refused += 1;
                    return;
                }
                self.next_instance += 1;
                let instance = Instance {
                    id: InstanceId(self.next_instance),
                    app: app.clone(),
                    process: process.clone(),
                    slot: *slot,
                    release: *release,
                    generation: *generation,
                    node: *node,
                    desired: Desired::Run,
                    created_at: fx.command.at,
                    cause: Cause { index: fx.index, reason: reason.clone() },
                    superseded: false,
                    observed: Observed::default(),
                    modified: fx.index,
                };
                let node_name = self.nodes.get(node).map(|n| n.name.to_string()).unwrap_or_default();
                let event = fx.event(
                    EventKind::InstancePlaced,
                    Some(app),
                    instance.name(),
                    format!("v{release} placed on {node_name}: {reason}"),
                );
                event.instance = Some(instance.id);
                event.node = Some(*node);
                self.touch_instance(fx, &instance);
                self.put_instance(instance);
            }
            ChangeKind::Stop { instance, reason } => {
                let Some(old) = self.instance(*instance).filter(|i| i.desired == Desired::Run).cloned()
                else {
                    fx.refused += 1;
                    return;
                };
                let mut instance = Instance::clone(&old);
                instance.desired = Desired::Stop;
                instance.cause = Cause { index: fx.index, reason: reason.clone() };
                instance.modified = fx.index;
                let event = fx.event(
                    EventKind::InstanceStopping,
                    Some(&old.app),
                    old.name(),
                    format!("stopping: {reason}"),
                );
                event.instance = Some(old.id);
                event.node = Some(old.node);
                self.touch_instance(fx, &instance);
                self.put_instance(instance);
            }
            ChangeKind::Forget { instance, reason } => self.forget(fx, *instance, reason),
            ChangeKind::EndDeployment { app, deployment, status, message } => {
                self.end_deployment(fx, app, *deployment, *status, message.clone());
            }
            ChangeKind::ForgetApp { app } => self.forget_app(fx, app),
        }
    }

    /// Whether the slot has what a `Place` would make. No version says so: a change that was
    /// proposed twice, since its first outcome was not seen, finds the app as it was.
    fn has_slot_filled(
        &self,
        app: &AppKey,
        process: &ProcessName,
        slot: u32,
        release: ReleaseNumber,
        generation: u64,
    ) -> bool {
        let stays =
            |i: &Instance| self.nodes.get(&i.node).is_some_and(|n| n.status == NodeStatus::Up && !n.draining);
        self.instances_of(app).any(|i| {
            (&i.process, i.slot, i.release) == (process, slot, release)
                && i.generation >= generation
                && i.desired == Desired::Run
                && i.observed.phase != Phase::Stopped
                && !i.superseded
                && stays(i)
        })
    }

    fn holds(&self, expect: &Expect) -> bool {
        match expect {
            Expect::App(key, version) => self.apps.get(key).is_some_and(|a| a.modified == *version),
            Expect::Instance(id, version) => self.instance(*id).is_some_and(|i| i.modified == *version),
            Expect::Node(id, version) => self.nodes.get(id).is_some_and(|n| n.modified == *version),
            Expect::Deployment(key, id, version) => {
                self.deployments.get(&(key.clone(), *id)).is_some_and(|d| d.modified == *version)
            }
        }
    }

    pub(super) fn forget(&mut self, fx: &mut Effects<'_>, id: InstanceId, reason: &str) {
        let Some(old) = self.remove_instance(id) else { return };
        let event = fx.event(EventKind::InstanceGone, Some(&old.app), old.name(), reason.to_owned());
        event.instance = Some(id);
        event.node = Some(old.node);
        self.touch_instance(fx, &old);
    }

    fn forget_app(&mut self, fx: &mut Effects<'_>, key: &AppKey) {
        let gone = self.apps.get(key).is_some_and(|a| a.removing) && self.instances_of(key).next().is_none();
        if !gone {
            fx.refused += 1;
            return;
        }
        self.apps.remove(key);
        let releases: Vec<_> = self.releases_of(key).map(|r| r.number).collect();
        for number in releases {
            self.releases.remove(&(key.clone(), number));
        }
        let deployments: Vec<_> = self.deployments_of(key).map(|d| d.id).collect();
        for id in deployments {
            self.deployments.remove(&(key.clone(), id));
        }
        fx.touch(key);
        fx.event(EventKind::Removed, Some(key), key.to_string(), "app removed".into());
    }

    pub(super) fn touch_instance(&self, fx: &mut Effects<'_>, instance: &Instance) {
        fx.touch(&instance.app);
        fx.touched.nodes.insert(instance.node);
    }

    /// What agents say of their instances. Only rises in (attempt, step): late and repeated
    /// reports change nothing. An instance that was to stop and is gone is forgotten.
    pub(super) fn observe(
        &mut self,
        fx: &mut Effects<'_>,
        node: super::ids::NodeId,
        report: &super::command::Report,
    ) {
        let Some(old) = self.instance(report.instance).filter(|i| i.node == node).cloned() else { return };
        let seen = &report.observed;
        if (seen.attempt, seen.step) <= (old.observed.attempt, old.observed.step) {
            return;
        }
        if seen.phase != old.observed.phase || seen.ready != old.observed.ready {
            let event = fx.event(EventKind::InstancePhase, Some(&old.app), old.name(), describe(seen));
            event.instance = Some(old.id);
            event.node = Some(node);
        }
        let mut instance = Instance::clone(&old);
        instance.observed = seen.clone();
        self.touch_instance(fx, &instance);
        let over = instance.desired == Desired::Stop && seen.phase == Phase::Stopped;
        self.put_instance(instance);
        if over {
            self.forget(fx, old.id, &format!("stopped: {}", old.cause.reason));
        }
    }
}

fn describe(seen: &Observed) -> String {
    let phase = match seen.phase {
        Phase::Pending => "pending",
        Phase::Preparing => "preparing",
        Phase::Starting => "starting",
        Phase::Running if seen.ready => "ready",
        Phase::Running => "running, not ready",
        Phase::Backoff => "waiting to be started again",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
    };
    match (&seen.last_exit, seen.message.is_empty()) {
        (Some(exit), true) if seen.phase == Phase::Backoff => format!("{exit}; {phase}"),
        (_, true) => phase.to_owned(),
        (_, false) => format!("{phase}: {}", seen.message),
    }
}
