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
    /// The plan was full when it came to this app: it and those after it are to be planned
    /// again once the plan is applied.
    pub unfinished: Option<AppKey>,
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
    let mut planner = Planner { state, now, pool: None, weight: 0, plan: Plan::default() };
    match dirty {
        Some(keys) => planner.apps(keys.iter().filter_map(|key| state.app(key)).map(|app| &**app)),
        None => planner.apps(state.apps.values().map(|app| &**app)),
    }
    planner.plan
}

struct Planner<'a> {
    state: &'a ClusterState,
    now: Timestamp,
    /// Made when the first instance is to be placed.
    pool: Option<Pool<'a>>,
    /// Of the changes so far, in changes of common size.
    weight: usize,
    plan: Plan,
}

/// Bytes of a common change. One that carries a longer message counts as several, so that a
/// plan is never larger than what the log takes as one entry.
const COMMON_BYTES: usize = 256;

impl<'a> Planner<'a> {
    /// In the order of their keys, until the plan is full.
    fn apps(&mut self, mut apps: impl Iterator<Item = &'a App>) {
        while self.plan.unfinished.is_none() {
            let Some(app) = apps.next() else { return };
            if self.room() == 0 {
                self.plan.unfinished = Some(app.key.clone());
            } else {
                self.app(app);
            }
        }
    }

    fn room(&self) -> usize {
        MAX_CHANGES.saturating_sub(self.weight)
    }

    fn push(&mut self, expects: Vec<Expect>, kind: ChangeKind) {
        self.weight += match &kind {
            ChangeKind::EndDeployment { message, .. } => 1 + message.len() / COMMON_BYTES,
            _ => 1,
        };
        self.plan.changes.push(Change { expects, kind });
    }

    fn app(&mut self, app: &'a App) {
        let goal = Goal::of(self.state, app);
        let processes = Process::all_of(self.state, &goal);
        self.forget(app, &processes);
        if goal.place.is_none() {
            self.stop_app(&goal, &processes);
            return;
        }
        if let Some(deployment) = goal.deployment {
            let pool = &mut self.pool;
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
                self.plan.unfinished = Some(app.key.clone());
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
                self.plan.unfinished = Some(goal.app.key.clone());
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
                self.plan.unfinished = Some(goal.app.key.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::app::{AppSpec, ProcessSpec};
    use crate::model::instance::Exit;
    use crate::model::resources::Resources;
    use crate::scheduler::world::World;
    use std::collections::BTreeMap;

    fn world(count: u32, apps: &[&str]) -> World {
        let mut world = World::unchecked();
        let capacity = Resources { cpu_milli: 1 << 40, memory_bytes: 1 << 60, disk_bytes: 0 };
        world.add_node("node-1", "a", capacity);
        let web = ProcessName::new("web").expect("a process's name");
        let processes = BTreeMap::from([(web, ProcessSpec { count, ..ProcessSpec::default() })]);
        let spec = AppSpec { processes, ..AppSpec::default() };
        for app in apps {
            world.deploy(app, spec.clone(), false);
        }
        world
    }

    #[test]
    fn a_plan_is_bounded_and_the_next_goes_on() {
        let mut world = world(1200, &["blog", "shop"]);
        let mut sizes = Vec::new();
        loop {
            let planned = plan(&world.state, world.agenda.dirty(), world.now);
            world.agenda.planned(&world.state, &planned);
            if planned.changes.is_empty() {
                break;
            }
            sizes.push(planned.changes.len());
            assert_eq!(world.apply(&planned).refused, 0);
        }
        assert_eq!(sizes, [1000, 1000, 400]);
        assert_eq!(world.state.instances().count(), 2400);
    }

    #[test]
    fn what_a_crashing_app_wrote_does_not_make_a_plan_large() {
        let names: Vec<String> = (0..500).map(|n| format!("app-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut world = world(1, &names);
        let planned = world.plan();
        world.apply(&planned);
        let lines = vec!["x".repeat(1000); 20];
        let all: Vec<_> = world.state.instances().map(|i| i.id).collect();
        for id in all {
            (0..3).for_each(|_| world.crash(id, Exit::Code(1), &lines));
        }
        let planned = world.plan();
        let bytes: usize = planned
            .changes
            .iter()
            .map(|change| match &change.kind {
                ChangeKind::EndDeployment { message, .. } => message.len(),
                _ => 0,
            })
            .sum();
        assert!(planned.unfinished.is_some(), "so much does not fit one plan");
        assert!(bytes < 512 * 1024, "{bytes}");
    }
}
