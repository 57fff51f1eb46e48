//! One process, one step: which of its instances to stop and how many to start, from what
//! stands. The counts decide: at every step at most `wanted + surge` run, and an old one is
//! stopped only when `wanted - unavailable` ready ones stay. Which ones, and where, is
//! decided by the spread.

use super::goal::{Goal, Standing, Why, standing};
use super::spread::{Among, Candidate, Removal, Spread};
use crate::model::ClusterState;
use crate::model::app::{ProcessSpec, Release, Strategy};
use crate::model::ids::{InstanceId, ProcessName, ReleaseNumber};
use crate::model::instance::Instance;
use crate::model::node::{Node, NodeStatus};
use std::collections::{BTreeMap, BTreeSet};

/// A process and its instances, each with how it stands.
pub(super) struct Process<'a> {
    pub name: &'a ProcessName,
    /// `None`: the release to run does not have the process.
    pub spec: Option<&'a ProcessSpec>,
    /// What is to run.
    pub release: Option<ReleaseNumber>,
    pub wanted: u32,
    /// More than these are surplus: `wanted`, or what a held release wants if that is more.
    pub most: u32,
    /// What the old ones are kept for: while a deployment has not earned its place, what the
    /// release before wanted.
    pub kept_for: u32,
    pub surge: u32,
    pub unavailable: u32,
    pub recreate: bool,
    pub current: Vec<&'a Instance>,
    pub old: Vec<(&'a Instance, Why<'a>)>,
    pub lost: Vec<(&'a Instance, &'a Node)>,
    pub stopping: Vec<&'a Instance>,
    pub gone: Vec<&'a Instance>,
}

/// An instance to stop.
pub(super) struct Stop<'a> {
    pub instance: &'a Instance,
    pub reason: String,
    /// The node's mode is a part of the reason.
    pub reads_node: bool,
}

impl<'a> Process<'a> {
    /// All processes of the app: those that the release has, and those that only instances have.
    pub fn all_of(state: &'a ClusterState, goal: &Goal<'a>) -> Vec<Process<'a>> {
        let mut all: BTreeMap<&ProcessName, Process<'a>> = BTreeMap::new();
        for name in goal.place.iter().flat_map(|release| release.spec.processes.keys()) {
            all.insert(name, Process::empty(name, goal));
        }
        for instance in state.instances_of(&goal.app.key) {
            let process =
                all.entry(&instance.process).or_insert_with(|| Process::empty(&instance.process, goal));
            process.sort_in(state, goal, instance);
        }
        all.into_values().collect()
    }

    fn empty(name: &'a ProcessName, goal: &Goal<'a>) -> Self {
        let spec = goal.place.and_then(|release| release.spec.processes.get(name));
        let wanted = spec.map_or(0, |spec| goal.app.count(name, spec));
        let count = |release: Option<&Release>| {
            let spec = release.and_then(|release| release.spec.processes.get(name));
            spec.map_or(0, |spec| goal.app.count(name, spec))
        };
        let policy = goal.place.map(|release| &release.spec.deploy);
        let unavailable = policy.map_or(0, |p| p.max_unavailable.of_rounded_down(wanted));
        let surge = policy.map_or(0, |p| p.max_surge.of_rounded_up(wanted));
        Process {
            name,
            spec,
            release: goal.place.map(|release| release.number),
            wanted,
            most: count(goal.held).max(wanted),
            kept_for: count(goal.previous).max(wanted),
            // Neither surge nor unavailable: nothing could ever move.
            surge: if unavailable == 0 { surge.max(1) } else { surge },
            unavailable,
            recreate: policy.is_some_and(|p| p.strategy == Strategy::Recreate),
            current: Vec::new(),
            old: Vec::new(),
            lost: Vec::new(),
            stopping: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn sort_in(&mut self, state: &'a ClusterState, goal: &Goal<'a>, instance: &'a Instance) {
        match standing(state, goal, instance) {
            Standing::Current => self.current.push(instance),
            Standing::Old(why) => self.old.push((instance, why)),
            Standing::Lost(node) => self.lost.push((instance, node)),
            Standing::Stopping => self.stopping.push(instance),
            Standing::Gone => self.gone.push(instance),
            Standing::Held => {}
        }
    }

    pub fn ready_current(&self) -> u32 {
        self.current.iter().filter(|i| i.is_ready()).count() as u32
    }

    /// Every wanted instance is there as wanted and ready: no old one is needed any more.
    pub fn is_complete(&self) -> bool {
        self.ready_current() >= self.wanted
    }

    /// Nothing of it is on any node.
    pub fn is_gone(&self) -> bool {
        self.current.is_empty() && self.old.is_empty() && self.lost.is_empty() && self.stopping.is_empty()
    }

    /// How many ready ones the old ones are kept for.
    fn kept_now(&self) -> u32 {
        if self.is_complete() { self.wanted } else { self.kept_for }
    }

    /// All that run, to stop at once.
    pub fn stop_all(&self, reason: &str) -> Vec<Stop<'a>> {
        let running = self.current.iter().copied();
        let old = self.old.iter().map(|(i, _)| *i);
        let lost = self.lost.iter().map(|(i, _)| *i);
        let mut all: Vec<&Instance> = running.chain(old).chain(lost).collect();
        all.sort_by_key(|i| i.id);
        all.into_iter().map(|i| Stop { instance: i, reason: reason.to_owned(), reads_node: false }).collect()
    }
}

/// What is left of a process once the step's stops are done, and what it still lacks.
pub(super) struct Step<'a> {
    pub stops: Vec<Stop<'a>>,
    pub spread: Spread<'a>,
    current: Vec<&'a Instance>,
    old: Vec<(&'a Instance, Why<'a>)>,
}

impl<'a> Step<'a> {
    /// Those that have to leave their node and are still there.
    pub fn leaving(&self) -> impl Iterator<Item = (&'a Instance, &'a Node)> {
        self.old.iter().filter_map(|(instance, why)| match why {
            Why::Leaving(node) => Some((*instance, *node)),
            _ => None,
        })
    }
}

/// Decides what to stop. `can_move` says whether an instance that has to leave its node
/// could go anywhere: asked only where stopping comes before starting.
pub(super) fn plan_stops<'a>(
    state: &'a ClusterState,
    process: &Process<'a>,
    can_move: impl FnOnce() -> bool,
) -> Step<'a> {
    let mut spread = Spread::default();
    let node_of = |instance: &Instance| state.nodes.get(&instance.node).map(|node| &**node);
    for instance in &process.current {
        node_of(instance).into_iter().for_each(|node| spread.add(node, true));
    }
    for (instance, why) in &process.old {
        if counts_as_spread(instance, why) {
            node_of(instance).into_iter().for_each(|node| spread.add(node, false));
        }
    }
    let mut stops = Vec::new();
    let mut stopped = BTreeSet::new();
    for candidate in surplus(state, process, &mut spread) {
        stopped.insert(candidate.instance.id);
        let double = candidate.tier == DOUBLE;
        let reason = match double {
            true => format!("there are two of {}", candidate.instance.name()),
            false => format!("scaled down to {}", process.most),
        };
        stops.push(Stop { instance: candidate.instance, reason, reads_node: false });
    }
    let kept_ready =
        process.current.iter().filter(|i| !stopped.contains(&i.id) && i.is_ready()).count() as u32;
    let old = if process.recreate {
        let may_move = process.old.iter().any(|(_, why)| matches!(why, Why::Leaving(_))) && can_move();
        let goes = |why: &Why<'_>| may_move || !matches!(why, Why::Leaving(_));
        process.old.iter().copied().filter(|(_, why)| goes(why)).collect()
    } else {
        replaced(state, process, kept_ready, &mut spread)
    };
    for (instance, why) in old {
        stopped.insert(instance.id);
        stops.push(stop_of_old(process, instance, why));
    }
    for (instance, node) in &process.lost {
        let taken = process.current.iter().any(|i| i.slot == instance.slot && i.is_ready());
        if taken || kept_ready >= process.wanted {
            let reason = format!("replaced, since {} is down", node.name);
            stops.push(Stop { instance, reason, reads_node: true });
        }
    }
    Step {
        stops,
        spread,
        current: process.current.iter().copied().filter(|i| !stopped.contains(&i.id)).collect(),
        old: process.old.iter().copied().filter(|(i, _)| !stopped.contains(&i.id)).collect(),
    }
}

fn stop_of_old<'a>(process: &Process<'a>, instance: &'a Instance, why: Why<'a>) -> Stop<'a> {
    let reason = match why {
        Why::Leaving(node) => format!("moves off {}, which is drained", node.name),
        Why::Restart => "restart".to_owned(),
        Why::Release => format!("v{} takes its place", process.release.unwrap_or_default()),
    };
    Stop { instance, reason, reads_node: matches!(why, Why::Leaving(_)) }
}

/// The tier of a second one of a slot.
const DOUBLE: u8 = 0;

/// Those of the current ones that are more than wanted: second ones of a slot first, then
/// those that are not ready, then from the fullest place the highest slot.
fn surplus<'a>(
    state: &'a ClusterState,
    process: &Process<'a>,
    spread: &mut Spread<'a>,
) -> Vec<Candidate<'a>> {
    let mut best: BTreeMap<u32, &Instance> = BTreeMap::new();
    for instance in &process.current {
        let better = |a: &Instance, b: &Instance| (!a.is_ready(), a.id) < (!b.is_ready(), b.id);
        best.entry(instance.slot)
            .and_modify(|kept| {
                if better(instance, kept) {
                    *kept = instance
                }
            })
            .or_insert(instance);
    }
    let doubles = process.current.len() - best.len();
    let more = best.len().saturating_sub(process.most as usize);
    if doubles + more == 0 {
        return Vec::new();
    }
    let candidates = process.current.iter().filter_map(|instance| {
        let node = state.nodes.get(&instance.node)?;
        let double = best.get(&instance.slot).is_some_and(|kept| kept.id != instance.id);
        let tier = if double { DOUBLE } else { 1 + u8::from(instance.is_ready()) };
        Some(Candidate { instance, node, tier, rank: instance.slot.into(), counted: true, current: true })
    });
    let mut removal = Removal::new(Among::Current, candidates, spread);
    (0..doubles + more).map_while(|_| removal.pop(spread)).collect()
}

/// The old ones that may be stopped now, since ready ones are there in their place.
fn replaced<'a>(
    state: &'a ClusterState,
    process: &Process<'a>,
    ready_current: u32,
    spread: &mut Spread<'a>,
) -> Vec<(&'a Instance, Why<'a>)> {
    let taken: BTreeSet<u32> = process.current.iter().filter(|i| i.is_ready()).map(|i| i.slot).collect();
    let whys: BTreeMap<_, _> = process.old.iter().map(|(i, why)| (i.id, *why)).collect();
    let mut removal =
        Removal::new(Among::Old, old_candidates(state, process.old.iter().copied(), &taken), spread);
    let kept = process.kept_now();
    let mut old = process.old.len() as u32;
    let mut old_ready = process.old.iter().filter(|(i, _)| i.is_ready()).count() as u32;
    let mut stops = Vec::new();
    while let Some(next) = removal.peek() {
        let why = whys[&next.instance.id];
        // A move never costs a ready instance, whatever a deployment may cost.
        let spare = if matches!(why, Why::Leaving(_)) { 0 } else { process.unavailable };
        let floor = kept.saturating_sub(spare);
        let ready = next.instance.is_ready();
        let enough = old + ready_current > floor && (!ready || old_ready + ready_current > floor);
        if !enough {
            removal.skip_tier();
            continue;
        }
        removal.pop(spread);
        old -= 1;
        old_ready -= u32::from(ready);
        stops.push((next.instance, why));
    }
    stops
}

/// An old one that goes first anyway holds no place: its successor may take it.
fn counts_as_spread(old: &Instance, why: &Why<'_>) -> bool {
    old.is_ready() && !matches!(why, Why::Leaving(_))
}

/// Old ones in the order in which to replace them: what does not serve first, then what has
/// to leave its node; among equals those whose slot has its new one.
fn old_candidates<'a>(
    state: &'a ClusterState,
    old: impl Iterator<Item = (&'a Instance, Why<'a>)>,
    taken: &BTreeSet<u32>,
) -> impl Iterator<Item = Candidate<'a>> {
    old.filter_map(|(instance, why)| {
        let node = state.nodes.get(&instance.node)?;
        let leaving = matches!(why, Why::Leaving(_));
        let tier = match (instance.is_ready(), leaving) {
            (false, true) => 0,
            (false, false) => 1,
            (true, true) => 2,
            (true, false) => 3,
        };
        // The lower slots first, as people count.
        let rank = u64::from(taken.contains(&instance.slot)) << 32 | u64::from(u32::MAX - instance.slot);
        let counted = counts_as_spread(instance, &why);
        Some(Candidate { instance, node, tier, rank, counted, current: false })
    })
}

/// A place to be filled.
pub(super) struct Opening {
    pub slot: u32,
    pub reason: String,
}

/// What is to be started: how many, and for each, once its node is known, which slot.
pub(super) struct Starts<'s, 'a> {
    process: &'s Process<'a>,
    pub count: u32,
    /// Slots that nothing has.
    free: BTreeSet<u32>,
    /// Slots that a current one has.
    taken: BTreeSet<u32>,
    unreplaced: Removal<'a>,
    whys: BTreeMap<InstanceId, Why<'a>>,
    /// As the spread will be when the openings given so far have replaced their old ones.
    after: Spread<'a>,
}

impl<'s, 'a> Starts<'s, 'a> {
    /// `blocked`: the strategy is to recreate, and something of the release before is still there.
    pub fn of(state: &'a ClusterState, process: &'s Process<'a>, step: &Step<'a>, blocked: bool) -> Self {
        let current = step.current.len() as u32;
        let old = step.old.len() as u32;
        // A move always starts first, whatever a deployment does.
        let surge = if step.leaving().next().is_some() { process.surge.max(1) } else { process.surge };
        let most = if process.recreate { process.wanted } else { process.kept_now().saturating_add(surge) };
        let lacking = process.wanted.saturating_sub(current);
        let count = if blocked { 0 } else { lacking.min(most.saturating_sub(current + old)) };
        let mut used: BTreeSet<u32> = step.current.iter().map(|i| i.slot).collect();
        used.extend(step.old.iter().map(|(i, _)| i.slot));
        if process.recreate {
            // Two of one slot never overlap, not even while one ends.
            used.extend(step.stops.iter().map(|stop| stop.instance.slot));
            used.extend(process.stopping.iter().map(|i| i.slot));
        }
        let free: BTreeSet<u32> = (1..=process.wanted).filter(|slot| !used.contains(slot)).collect();
        let count = if process.recreate { count.min(free.len() as u32) } else { count };
        let taken: BTreeSet<u32> = step.current.iter().map(|i| i.slot).collect();
        let unreplaced = step.old.iter().copied().filter(|(i, _)| !taken.contains(&i.slot));
        let unreplaced =
            Removal::new(Among::Old, old_candidates(state, unreplaced, &BTreeSet::new()), &step.spread);
        Self {
            process,
            count,
            free,
            taken,
            unreplaced,
            whys: step.old.iter().map(|(i, why)| (i.id, *why)).collect(),
            after: step.spread.clone(),
        }
    }

    /// The slot that an instance on `node` takes: a free one, or that of the old one whose
    /// end leaves the best spread.
    pub fn next(&mut self, node: Option<&'a Node>, goal: &Goal<'_>) -> Option<Opening> {
        if let Some(node) = node {
            self.unreplaced.add(node, &mut self.after);
        }
        if let Some(slot) = self.free.pop_first() {
            self.taken.insert(slot);
            return Some(Opening { slot, reason: self.why_free(slot, goal) });
        }
        let old = self.unreplaced.pop(&mut self.after)?.instance;
        // Its own, unless the count has become lower than that.
        let mut slots = std::iter::once(old.slot).chain(1..).filter(|slot| !self.taken.contains(slot));
        let slot = slots.find(|slot| *slot <= self.process.wanted)?;
        self.taken.insert(slot);
        let reason = match (self.whys.get(&old.id), goal.place) {
            (Some(Why::Leaving(node)), _) => format!("moves off {}, which is drained", node.name),
            (Some(Why::Restart), _) => "restart".to_owned(),
            (_, Some(release)) => format!("v{} takes the place of v{}", release.number, old.release),
            _ => String::new(),
        };
        Some(Opening { slot, reason })
    }

    fn why_free(&self, slot: u32, goal: &Goal<'_>) -> String {
        if let Some((_, node)) = self.process.lost.iter().find(|(i, _)| i.slot == slot) {
            debug_assert!(node.status == NodeStatus::Down);
            return format!("{} is down", node.name);
        }
        match (goal.deployment, goal.place) {
            (Some(_), Some(release)) => format!("v{} is deployed", release.number),
            _ => format!("{} wanted", self.process.wanted),
        }
    }
}
