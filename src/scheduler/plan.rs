//! `plan`: what the leader should change, from one snapshot. Goes through the apps in the
//! order of their keys, and for each through its processes. Each change names what it read,
//! so that `apply` refuses only what has become wrong meanwhile.

use super::filter::{Ask, Refusal};
use super::goal::{Goal, Why};
use super::pool::{Placer, Pool};
use super::rollout::{Opening, Process, Starts, Step, Stop, plan_stops};
use super::verdict;
use crate::model::ClusterState;
use crate::model::app::App;
use crate::model::command::{Change, ChangeKind, Expect};
use crate::model::ids::{AppKey, NodeName, ProcessName, ReleaseNumber};
use crate::model::instance::Instance;
use crate::model::node::Node;
use crate::model::time::Timestamp;
use std::collections::BTreeSet;
use std::fmt;

/// Changes of one plan: about 200 KiB as a log entry, so that no entry holds replication up.
pub const MAX_CHANGES: usize = 1000;

/// What should change now, and what can't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub changes: Vec<Change>,
    /// What should run and has no node.
    pub report: Vec<Unplaced>,
    /// When to plan again though nothing changed: the nearest deadline.
    pub wake_at: Option<Timestamp>,
    /// Apps that the plan has not (wholly) looked at because it was full: to be planned again
    /// after it is applied.
    pub unfinished: BTreeSet<AppKey>,
}

/// Instances of a process that no node takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    pub app: AppKey,
    pub process: ProcessName,
    pub release: ReleaseNumber,
    pub slots: Vec<u32>,
    /// Nodes that have to be left, where they are.
    pub leaving: BTreeSet<NodeName>,
    pub refusal: Refusal,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.app, self.process);
        match self.slots.as_slice() {
            [slot] => write!(f, "{name}.{slot} ")?,
            slots => write!(f, "{} of {name} ", slots.len())?,
        }
        if self.leaving.is_empty() {
            write!(f, "can't be placed: {}", self.refusal)
        } else {
            let nodes: Vec<&str> = self.leaving.iter().map(|n| n.as_str()).collect();
            write!(f, "can't move off {} and stays there: {}", nodes.join(", "), self.refusal)
        }
    }
}

/// Plans `dirty` apps, or all. Pure: equal arguments give an equal plan, and the plan of a
/// state in which everything stands as wanted has no changes.
pub fn plan(state: &ClusterState, dirty: Option<&BTreeSet<AppKey>>, now: Timestamp) -> Plan {
    let mut planner = Planner { state, now, pool: None, plan: Plan::default() };
    match dirty {
        Some(keys) => keys.iter().filter_map(|key| state.app(key)).for_each(|app| planner.app(app)),
        None => state.apps.values().for_each(|app| planner.app(app)),
    }
    planner.plan
}

struct Planner<'a> {
    state: &'a ClusterState,
    now: Timestamp,
    /// Made when the first instance is to be placed.
    pool: Option<Pool<'a>>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn room(&self) -> usize {
        MAX_CHANGES.saturating_sub(self.plan.changes.len())
    }

    fn push(&mut self, expects: Vec<Expect>, kind: ChangeKind) {
        self.plan.changes.push(Change { expects, kind });
    }

    fn app(&mut self, app: &'a App) {
        if self.room() == 0 {
            self.plan.unfinished.insert(app.key.clone());
            return;
        }
        let goal = Goal::of(self.state, app);
        let processes = Process::all_of(self.state, &goal);
        self.forget(app, &processes);
        if goal.place.is_none() {
            self.stop_app(&goal, &processes);
            return;
        }
        if let Some(deployment) = goal.deployment {
            let pool = self.pool.get_or_insert_with(|| Pool::of(self.state));
            if let Some(end) = verdict::verdict(self.state, &goal, deployment, &processes, pool, self.now) {
                // Alone: it changes the app, and with it what everything else would expect.
                let expects = vec![
                    Expect::App(app.key.clone(), app.modified),
                    Expect::Deployment(app.key.clone(), deployment.id, deployment.modified),
                ];
                let (key, id) = (app.key.clone(), deployment.id);
                let kind = ChangeKind::EndDeployment {
                    app: key,
                    deployment: id,
                    status: end.status,
                    message: end.message,
                };
                self.push(expects, kind);
                return;
            }
            self.wake_at(deployment.deadline_at);
        }
        let remnants = processes.iter().any(|process| self.has_remnants(&goal, process));
        let others_done = processes.iter().filter(|p| p.spec.is_some()).all(Process::is_complete);
        for process in &processes {
            match process.spec {
                Some(_) => self.process(&goal, process, remnants),
                // A process that the new release has no more: kept until the rest has succeeded,
                // since the deployment may yet go back.
                None if goal.deployment.is_some() && !others_done && !recreates(&goal) => {}
                None if goal.held.is_some() => {}
                None => {
                    let reason = "the release does not have this process";
                    self.stop(&goal, process.stop_all(reason));
                }
            }
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Forgets what is gone and will not be reported again.
    fn forget(&mut self, app: &App, processes: &[Process<'a>]) {
        for instance in processes.iter().flat_map(|process| &process.gone) {
            if self.room() == 0 {
                self.plan.unfinished.insert(app.key.clone());
                return;
            }
            let reason = if self.state.nodes.contains_key(&instance.node) {
                "nothing of it is left on its node"
            } else {
                "its node is no longer in the cluster"
            };
            let expects = vec![Expect::Instance(instance.id, instance.modified)];
            self.push(expects, ChangeKind::Forget { instance: instance.id, reason: reason.into() });
        }
    }

    fn stop_app(&mut self, goal: &Goal<'a>, processes: &[Process<'a>]) {
        let app = goal.app;
        for process in processes {
            self.stop(goal, process.stop_all(goal.why_nothing()));
        }
        if app.removing && processes.iter().all(Process::is_gone) {
            let expects = vec![Expect::App(app.key.clone(), app.modified)];
            self.push(expects, ChangeKind::ForgetApp { app: app.key.clone() });
        }
    }

    /// Whether something of another release is still on a node, or about to be stopped.
    fn has_remnants(&self, goal: &Goal<'_>, process: &Process<'_>) -> bool {
        let other = |instance: &Instance| goal.place.is_some_and(|r| r.number != instance.release);
        process.recreate
            && (process.old.iter().any(|(i, why)| matches!(why, Why::Release) && other(i))
                || process.stopping.iter().any(|i| other(i)))
            || process.spec.is_none()
                && recreates(goal)
                && !(process.old.is_empty() && process.stopping.is_empty())
    }

    fn process(&mut self, goal: &Goal<'a>, process: &Process<'a>, remnants: bool) {
        let (Some(release), Some(spec)) = (goal.place, process.spec) else { return };
        let state = self.state;
        let ask = Ask { need: spec.need() };
        let can_move = || self.pool.get_or_insert_with(|| Pool::of(state)).fits(&ask);
        let step = plan_stops(state, process, can_move);
        let leaving: Vec<_> = step.leaving().collect();
        let mut starts = Starts::of(state, process, &step, process.recreate && remnants);
        let Step { stops, spread, .. } = step;
        self.stop(goal, stops);
        let stuck = if process.recreate {
            // What could move was stopped for that; what is left has nowhere to go.
            leaving.iter().map(|(instance, _)| instance.slot).collect()
        } else {
            Vec::new()
        };
        let room = self.room();
        if starts.count == 0 && stuck.is_empty() {
            return;
        }
        let mut unplaced = stuck;
        let pool = self.pool.get_or_insert_with(|| Pool::of(state));
        let mut placer = Placer::new(pool, ask, &spread);
        let mut placed = Vec::new();
        for n in 0..starts.count {
            if placed.len() == room {
                self.plan.unfinished.insert(goal.app.key.clone());
                break;
            }
            let Some(node) = placer.place() else {
                let slots = (n..starts.count).filter_map(|_| starts.next(None, goal));
                unplaced.extend(slots.map(|opening| opening.slot));
                break;
            };
            let Some(opening) = starts.next(Some(node), goal) else { break };
            placed.push((node, opening));
        }
        if !unplaced.is_empty() {
            let stays = leaving.iter().filter(|(i, _)| unplaced.contains(&i.slot));
            self.plan.report.push(Unplaced {
                app: goal.app.key.clone(),
                process: process.name.clone(),
                release: release.number,
                leaving: stays.map(|(_, node)| node.name.clone()).collect(),
                slots: unplaced,
                refusal: placer.refusal(),
            });
        }
        for (node, opening) in placed {
            self.place(goal, process, release.number, node, opening);
        }
    }

    fn place(
        &mut self,
        goal: &Goal<'a>,
        process: &Process<'a>,
        release: ReleaseNumber,
        node: &Node,
        opening: Opening,
    ) {
        let app = goal.app.key.clone();
        let expects = vec![Expect::App(app.clone(), goal.app.modified), Expect::Node(node.id, node.modified)];
        let kind = ChangeKind::Place {
            app,
            process: process.name.clone(),
            slot: opening.slot,
            release,
            generation: goal.app.generation,
            node: node.id,
            reason: opening.reason,
        };
        self.push(expects, kind);
    }

    fn stop(&mut self, goal: &Goal<'a>, stops: Vec<Stop<'a>>) {
        for stop in stops {
            if self.room() == 0 {
                self.plan.unfinished.insert(goal.app.key.clone());
                return;
            }
            let instance = stop.instance;
            let mut expects = vec![
                Expect::App(goal.app.key.clone(), goal.app.modified),
                Expect::Instance(instance.id, instance.modified),
            ];
            let node = self.state.nodes.get(&instance.node).filter(|_| stop.reads_node);
            expects.extend(node.map(|node| Expect::Node(node.id, node.modified)));
            self.push(expects, ChangeKind::Stop { instance: instance.id, reason: stop.reason });
        }
    }
}

fn recreates(goal: &Goal<'_>) -> bool {
    use crate::model::app::Strategy;
    goal.place.is_some_and(|release| release.spec.deploy.strategy == Strategy::Recreate)
}
