//! `why`: what stands, what is waited for and what would help, as values with plain
//! sentences. Derived from one snapshot: it asks `plan` what can't be placed, so that the
//! answer is the scheduler's own.

mod tell;

use super::goal::Goal;
use super::plan::{Unplaced, plan};
use super::pool::Pool;
use super::rollout::Process;
use super::verdict;
use crate::model::ClusterState;
use crate::model::app::{App, DeploymentStatus};
use crate::model::ids::{AppKey, DeploymentId, InstanceId, NodeName, ProcessKey, ProcessName, ReleaseNumber};
use crate::model::instance::{Desired, Exit, Instance, Phase};
use crate::model::node::{Node, NodeStatus};
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    App(AppKey),
    Process(ProcessKey),
    /// `shop/web.3`; while one is replaced, both.
    Instance {
        process: ProcessKey,
        slot: u32,
    },
    Node(NodeName),
}

/// The answer: a sentence or two for each finding, the most important first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub subject: String,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// There is no such thing; what to try.
    Unknown(String),
    /// Nothing of the app is to run, and why.
    NothingWanted {
        app: AppKey,
        why: String,
    },
    Deploying {
        release: ReleaseNumber,
        waits_for: String,
        gives_up_in: Duration,
    },
    /// How the last deployment ended.
    LastDeployment {
        id: DeploymentId,
        release: ReleaseNumber,
        status: DeploymentStatus,
        message: String,
        ago: Duration,
    },
    /// A deployment failed that was not to revert: both releases are left as they are.
    Held {
        failed: ReleaseNumber,
        serving: ReleaseNumber,
    },
    Counts {
        process: ProcessName,
        ready: u32,
        wanted: u32,
    },
    Unplaced(Unplaced),
    Instance(Standing),
    Node(NodeStanding),
}

/// Where an instance is, since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub id: InstanceId,
    pub name: String,
    pub release: ReleaseNumber,
    pub node: String,
    pub node_is_down: bool,
    pub desired: Desired,
    pub phase: Phase,
    pub ready: bool,
    /// What the agent says of it now.
    pub message: String,
    /// Since the attempt began to run, or since it was placed.
    pub since: Duration,
    pub cause: String,
    /// The log index of the decision.
    pub cause_index: u64,
    pub failures: u32,
    pub last_exit: Option<Exit>,
    pub retry_in: Option<Duration>,
    pub log_tail: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStanding {
    pub name: NodeName,
    pub status: NodeStatus,
    pub cordoned: bool,
    pub draining: bool,
    pub free: Resources,
    pub capacity: Resources,
    pub instances: u32,
}

/// Why `subject` is as it is at `now`.
pub fn why(state: &ClusterState, subject: &Subject, now: Timestamp) -> Explanation {
    let asker = Asker { state, now };
    match subject {
        Subject::App(key) => asker.app(key),
        Subject::Process(key) => asker.process(key, None),
        Subject::Instance { process, slot } => asker.process(process, Some(*slot)),
        Subject::Node(name) => asker.node(name),
    }
}

struct Asker<'a> {
    state: &'a ClusterState,
    now: Timestamp,
}

impl<'a> Asker<'a> {
    fn app(&self, key: &AppKey) -> Explanation {
        let mut findings = Vec::new();
        let Some(app) = self.state.app(key) else { return self.unknown_app(key) };
        self.deployment(app, &mut findings);
        findings.extend(self.unplaced(key).into_iter().map(Finding::Unplaced));
        let goal = Goal::of(self.state, app);
        for process in Process::all_of(self.state, &goal).iter().filter(|p| p.spec.is_some()) {
            findings.push(self.counts(key, process));
        }
        // Those that are as they should be are in the counts.
        let quiet =
            |i: &Instance| i.is_ready() && self.node_of(i).is_some_and(|n| n.status == NodeStatus::Up);
        findings.extend(self.standings(key, |i| !quiet(i)));
        Explanation { subject: key.to_string(), findings }
    }

    fn process(&self, key: &ProcessKey, slot: Option<u32>) -> Explanation {
        let Some(app) = self.state.app(&key.app) else { return self.unknown_app(&key.app) };
        let mut findings = Vec::new();
        self.deployment(app, &mut findings);
        let mut unplaced = self.unplaced(&key.app);
        unplaced.retain(|u| u.process == key.process && slot.is_none_or(|slot| u.slots.contains(&slot)));
        if let Some(slot) = slot {
            unplaced.iter_mut().for_each(|u| u.slots = vec![slot]);
        }
        findings.extend(unplaced.into_iter().map(Finding::Unplaced));
        let goal = Goal::of(self.state, app);
        let processes = Process::all_of(self.state, &goal);
        let process = processes.iter().find(|p| *p.name == key.process);
        match process {
            Some(process) if slot.is_none() && process.spec.is_some() => {
                findings.push(self.counts(&key.app, process));
            }
            None if goal.place.is_some() => {
                let names: Vec<&str> = processes.iter().map(|p| p.name.as_str()).collect();
                findings.push(Finding::Unknown(format!(
                    "app {} has no process {}: it has {}",
                    key.app,
                    key.process,
                    names.join(", ")
                )));
            }
            _ => {}
        }
        let asked = |i: &Instance| i.process == key.process && slot.is_none_or(|slot| i.slot == slot);
        let standings: Vec<Finding> = self.standings(&key.app, asked).collect();
        let told = findings.iter().any(|f| matches!(f, Finding::Unplaced(_)));
        if let Some(slot) = slot.filter(|_| standings.is_empty() && !told) {
            let wanted = process.map_or(0, |p| p.wanted);
            let why = if slot > wanted {
                format!("there is no {key}.{slot}: {wanted} of {} are wanted", key.process)
            } else {
                format!("{key}.{slot} is about to be placed")
            };
            findings.push(Finding::Unknown(why));
        }
        findings.extend(standings);
        let subject = slot.map_or_else(|| key.to_string(), |slot| format!("{key}.{slot}"));
        Explanation { subject, findings }
    }

    fn node(&self, name: &NodeName) -> Explanation {
        let subject = name.to_string();
        let Some(node) = self.state.nodes.values().find(|n| n.name == *name) else {
            let text = format!("there is no node {name}: see `nodectl node ls`");
            return Explanation { subject, findings: vec![Finding::Unknown(text)] };
        };
        let used = self.state.used_on(node.id);
        let mut findings = vec![Finding::Node(NodeStanding {
            name: name.clone(),
            status: node.status,
            cordoned: node.cordoned,
            draining: node.draining,
            free: node.capacity.saturating_sub(used),
            capacity: node.capacity,
            instances: self.state.instances_on(node.id).count() as u32,
        })];
        if node.draining {
            let apps: BTreeSet<AppKey> = self.state.instances_on(node.id).map(|i| i.app.clone()).collect();
            let stuck = plan(self.state, Some(&apps), self.now).report;
            let stuck = stuck.into_iter().filter(|u| u.leaving.contains(name));
            findings.extend(stuck.map(Finding::Unplaced));
        }
        findings.extend(self.state.instances_on(node.id).map(|i| Finding::Instance(self.standing(i))));
        Explanation { subject, findings }
    }

    fn unknown_app(&self, key: &AppKey) -> Explanation {
        let text = format!("there is no app {key}: see `nodectl app ls`");
        Explanation { subject: key.to_string(), findings: vec![Finding::Unknown(text)] }
    }

    fn deployment(&self, app: &App, findings: &mut Vec<Finding>) {
        let goal = Goal::of(self.state, app);
        if let Some(running) = goal.deployment {
            let processes = Process::all_of(self.state, &goal);
            let pool = Pool::of(self.state);
            findings.push(Finding::Deploying {
                release: running.release,
                waits_for: verdict::waits_for(self.state, &goal, running, &processes, &pool, false).0,
                gives_up_in: running.deadline_at.since(self.now),
            });
            return;
        }
        if goal.place.is_none() {
            findings.push(Finding::NothingWanted { app: app.key.clone(), why: goal.why_nothing().into() });
        }
        if let (Some(failed), Some(serving)) = (goal.held, app.serving) {
            findings.push(Finding::Held { failed: failed.number, serving });
        }
        let last = self.state.deployments_of(&app.key).filter(|d| d.status.is_over()).last();
        if let Some(last) = last {
            findings.push(Finding::LastDeployment {
                id: last.id,
                release: last.release,
                status: last.status,
                message: last.message.clone(),
                ago: self.now.since(last.finished_at.unwrap_or(last.started_at)),
            });
        }
    }

    fn unplaced(&self, key: &AppKey) -> Vec<Unplaced> {
        // A plan from after the deadline ends the deployment and asks no more what was missing;
        // whoever asks why, in the moment before that is carried out, still wants to know.
        let running = self.state.app(key).and_then(|app| app.deployment);
        let running = running.and_then(|id| self.state.deployments.get(&(key.clone(), id)));
        let last = running.map_or(u64::MAX, |d| d.deadline_at.unix_ms.saturating_sub(1));
        let now = Timestamp::from_unix_ms(self.now.unix_ms.min(last));
        plan(self.state, Some(&BTreeSet::from([key.clone()])), now).report
    }

    fn counts(&self, key: &AppKey, process: &Process<'_>) -> Finding {
        let of_process = self.state.instances_of(key).filter(|i| i.process == *process.name);
        let up = |i: &Instance| self.node_of(i).is_some_and(|n| n.status == NodeStatus::Up);
        let ready = of_process.filter(|i| i.is_ready() && up(i)).count() as u32;
        Finding::Counts { process: process.name.clone(), ready, wanted: process.wanted }
    }

    fn node_of(&self, instance: &Instance) -> Option<&'a Node> {
        self.state.nodes.get(&instance.node).map(|n| &**n)
    }

    fn standings(&self, key: &AppKey, asked: impl Fn(&Instance) -> bool) -> impl Iterator<Item = Finding> {
        let chosen = self.state.instances_of(key).filter(move |i| asked(i));
        chosen.map(|i| Finding::Instance(self.standing(i)))
    }

    fn standing(&self, instance: &Instance) -> Standing {
        let node = self.node_of(instance);
        let seen = &instance.observed;
        let since = seen.started_at.filter(|_| seen.phase == Phase::Running).unwrap_or(instance.created_at);
        Standing {
            id: instance.id,
            name: instance.name(),
            release: instance.release,
            node: node.map_or_else(|| instance.node.to_string(), |n| n.name.to_string()),
            node_is_down: node.is_none_or(|n| n.status == NodeStatus::Down),
            desired: instance.desired,
            phase: seen.phase,
            ready: seen.ready,
            message: seen.message.clone(),
            since: self.now.since(since),
            cause: instance.cause.reason.clone(),
            cause_index: instance.cause.index,
            failures: seen.failures,
            last_exit: seen.last_exit.clone(),
            retry_in: seen.retry_at.filter(|_| seen.phase == Phase::Backoff).map(|at| at.since(self.now)),
            log_tail: seen.log_tail.clone(),
        }
    }
}
