//! What always holds, whatever people ask for and whatever fails: random histories of a small
//! cluster, with the real `apply` and `plan` and agents that report at random.

use super::plan::{Plan, plan};
use super::world::{World, key};
use crate::model::app::{AppSpec, DeployPolicy, ProcessSpec, Share, Strategy as Rollout};
use crate::model::command::{Action, Change, ChangeKind};
use crate::model::ids::{AppKey, NodeId, ProcessName, Zone};
use crate::model::instance::{Desired, Exit, Instance, Phase};
use crate::model::node::NodeStatus;
use crate::model::resources::Resources;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const APPS: [&str; 2] = ["blog", "shop"];
const NODES: usize = 6;

#[derive(Clone, Debug)]
enum Op {
    Deploy { app: usize, spec: Spec, force: bool },
    Scale { app: usize, count: u32 },
    Restart { app: usize, slot: Option<u32> },
    Stop { app: usize, stopped: bool },
    Cancel { app: usize },
    Remove { app: usize },
    Node { node: usize, mode: Mode },
    Ready { pick: usize },
    Unready { pick: usize },
    Crash { pick: usize },
    Gone { pick: usize },
    Vanish { pick: usize },
    Late { pick: usize },
    AllReady,
    AllGone,
    Advance { seconds: u64 },
    Step,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Cordon(bool),
    Drain(bool),
    Down(bool),
}

#[derive(Clone, Debug)]
struct Spec {
    web: u32,
    worker: Option<u32>,
    memory: u64,
    surge: Share,
    unavailable: Share,
    recreate: bool,
    auto_revert: bool,
    version: u32,
}

impl Spec {
    fn app_spec(&self) -> AppSpec {
        let process = |count| ProcessSpec { count, memory_bytes: self.memory, ..ProcessSpec::default() };
        let mut processes = BTreeMap::from([(name("web"), process(self.web))]);
        processes.extend(self.worker.map(|count| (name("worker"), process(count))));
        let deploy = DeployPolicy {
            strategy: if self.recreate { Rollout::Recreate } else { Rollout::Rolling },
            max_surge: self.surge,
            max_unavailable: self.unavailable,
            deadline: Duration::from_secs(100),
            auto_revert: self.auto_revert,
        };
        let env = BTreeMap::from([("VERSION".to_owned(), self.version.to_string())]);
        AppSpec { processes, routes: vec![], env, deploy }
    }
}

fn name(process: &str) -> ProcessName {
    ProcessName::new(process).expect("a process's name")
}

fn shares() -> impl Strategy<Value = Share> {
    prop_oneof![(0..3u32).prop_map(Share::Count), (0..=100u32).prop_map(Share::Percent)]
}

fn specs(recreate: bool) -> impl Strategy<Value = Spec> {
    let memory = prop_oneof![3 => Just(100_000_000u64), 1 => Just(700_000_000), 1 => Just(3_000_000_000)];
    let worker = prop::option::of(0..3u32);
    (0..7u32, worker, memory, shares(), shares(), any::<bool>(), any::<bool>(), 0..4u32).prop_map(
        move |(web, worker, memory, surge, unavailable, again, auto_revert, version)| Spec {
            web,
            worker,
            memory,
            surge,
            unavailable,
            recreate: recreate && again,
            auto_revert,
            version,
        },
    )
}

fn quiet_ops() -> impl Strategy<Value = Op> {
    let app = 0..APPS.len();
    prop_oneof![
        2 => (app.clone(), specs(false), any::<bool>())
            .prop_map(|(app, spec, force)| {
                Op::Deploy { app, spec: Spec { memory: 10_000_000, worker: None, ..spec }, force }
            }),
        2 => (app.clone(), 0..9u32).prop_map(|(app, count)| Op::Scale { app, count }),
        1 => app.prop_map(|app| Op::Restart { app, slot: None }),
        6 => any::<usize>().prop_map(|pick| Op::Ready { pick }),
        3 => any::<usize>().prop_map(|pick| Op::Gone { pick }),
        1 => Just(Op::AllGone),
        8 => Just(Op::Step),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let app = 0..APPS.len();
    let modes = prop_oneof![
        any::<bool>().prop_map(Mode::Cordon),
        any::<bool>().prop_map(Mode::Drain),
        any::<bool>().prop_map(Mode::Down)
    ];
    prop_oneof![
        3 => (app.clone(), specs(true), any::<bool>())
            .prop_map(|(app, spec, force)| Op::Deploy { app, spec, force }),
        2 => (app.clone(), 0..8u32).prop_map(|(app, count)| Op::Scale { app, count }),
        2 => (app.clone(), prop::option::of(1..5u32)).prop_map(|(app, slot)| Op::Restart { app, slot }),
        1 => (app.clone(), any::<bool>()).prop_map(|(app, stopped)| Op::Stop { app, stopped }),
        1 => app.clone().prop_map(|app| Op::Cancel { app }),
        1 => app.prop_map(|app| Op::Remove { app }),
        3 => (0..NODES, modes).prop_map(|(node, mode)| Op::Node { node, mode }),
        6 => any::<usize>().prop_map(|pick| Op::Ready { pick }),
        2 => any::<usize>().prop_map(|pick| Op::Unready { pick }),
        4 => any::<usize>().prop_map(|pick| Op::Crash { pick }),
        3 => any::<usize>().prop_map(|pick| Op::Gone { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Vanish { pick }),
        2 => any::<usize>().prop_map(|pick| Op::Late { pick }),
        1 => Just(Op::AllReady),
        2 => Just(Op::AllGone),
        1 => (1..60u64).prop_map(|seconds| Op::Advance { seconds }),
        10 => Just(Op::Step),
    ]
}

/// Six nodes in three zones.
fn world(memory_bytes: u64) -> World {
    let mut world = World::new();
    for at in 0..NODES {
        let zone = ["a", "b", "c"][at % 3];
        let capacity = Resources { cpu_milli: 100_000, memory_bytes, disk_bytes: 0 };
        world.add_node(&format!("node-{at}"), zone, capacity);
    }
    world
}

fn pick(
    world: &World,
    pick: usize,
    wanted: impl Fn(&Instance) -> bool,
) -> Option<crate::model::ids::InstanceId> {
    let chosen: Vec<_> = world.state.instances().filter(|i| wanted(i)).map(|i| i.id).collect();
    (!chosen.is_empty()).then(|| chosen[pick % chosen.len()])
}

fn act(world: &mut World, op: &Op) {
    let runs = |i: &Instance| i.desired == Desired::Run && i.observed.phase != Phase::Stopped;
    match op {
        Op::Deploy { app, spec, force } => {
            world.deploy(APPS[*app], spec.app_spec(), *force);
        }
        Op::Scale { app, count } => {
            let counts = BTreeMap::from([(name("web"), *count)]);
            world.act(Action::Scale { app: key(APPS[*app]), counts });
        }
        Op::Restart { app, slot } => {
            let process = slot.map(|_| name("web"));
            world.act(Action::Restart { app: key(APPS[*app]), process, slot: *slot });
        }
        Op::Stop { app, stopped } => {
            world.act(Action::SetStopped { app: key(APPS[*app]), stopped: *stopped });
        }
        Op::Cancel { app } => {
            world.act(Action::CancelDeployment { app: key(APPS[*app]) });
        }
        Op::Remove { app } => {
            world.act(Action::RemoveApp { app: key(APPS[*app]) });
        }
        Op::Node { node, mode } => {
            let node = NodeId(*node as u128 + 1);
            let (cordoned, draining) = match mode {
                Mode::Cordon(on) => (Some(*on), None),
                Mode::Drain(on) => (None, Some(*on)),
                Mode::Down(down) => {
                    let status = if *down { NodeStatus::Down } else { NodeStatus::Up };
                    world.act(Action::SetNodeStatus { node, status });
                    return;
                }
            };
            world.act(Action::SetNodeMode { node, cordoned, draining });
        }
        Op::Ready { pick: at } => {
            let chosen = pick(world, *at, |i| runs(i) && !i.observed.ready);
            chosen.into_iter().for_each(|id| world.make_ready(id));
        }
        Op::Unready { pick: at } => {
            let chosen = pick(world, *at, |i| runs(i) && i.observed.ready);
            chosen.into_iter().for_each(|id| world.make_unready(id, "slow"));
        }
        Op::Crash { pick: at } => {
            let chosen = pick(world, *at, runs);
            chosen.into_iter().for_each(|id| world.crash(id, Exit::Code(1), &[]));
        }
        Op::Gone { pick: at } => {
            let chosen = pick(world, *at, |i| i.desired == Desired::Stop);
            chosen.into_iter().for_each(|id| world.make_gone(id));
        }
        Op::Vanish { pick: at } => {
            let chosen = pick(world, *at, runs);
            chosen.into_iter().for_each(|id| world.make_gone(id));
        }
        Op::Late { pick } => {
            if world.reports.is_empty() {
                return;
            }
            let (node, report) = world.reports[pick % world.reports.len()].clone();
            let before: Vec<_> = world.state.instances().cloned().collect();
            world.act(Action::Observe { node, reports: vec![report] });
            let after: Vec<_> = world.state.instances().cloned().collect();
            assert_eq!(before, after, "a late report changes nothing");
        }
        Op::AllReady => {
            world.all_ready();
        }
        Op::AllGone => {
            world.all_gone();
        }
        Op::Advance { seconds } => world.advance(Duration::from_secs(*seconds)),
        Op::Step => {}
    }
}

/// Plans by the agenda, compares with the plan of everything, applies, and applies again.
fn step(world: &mut World) -> Plan {
    world.agenda.wake(world.now);
    let planned = plan(&world.state, world.agenda.dirty(), world.now);
    let full = plan(&world.state, None, world.now);
    assert_eq!(planned.changes, full.changes, "what is on the agenda is all that there is to do");
    assert_eq!(full, plan(&world.state.clone(), None, world.now), "equal input, equal output");
    world.agenda.planned(&world.state, &planned);
    let outcome = world.apply(&planned);
    assert_eq!(outcome.refused, 0, "nothing moved meanwhile: {planned:#?}");
    let again = world.apply(&planned);
    assert_eq!(again.refused as usize, planned.changes.len(), "a second time nothing holds: {planned:#?}");
    planned
}

fn ready_and_up(world: &World, app: &AppKey, process: &ProcessName) -> u32 {
    let up = |i: &Instance| world.state.nodes.get(&i.node).is_some_and(|n| n.status == NodeStatus::Up);
    world.state.instances_of(app).filter(|i| i.process == *process && i.is_ready() && up(i)).count() as u32
}

/// Per rolling process of a running app: how many ready ones our own stops must leave.
fn floors(world: &World) -> Vec<(AppKey, ProcessName, u32, u32)> {
    let mut floors = Vec::new();
    for app in world.state.apps.values().filter(|app| !app.stopped && !app.removing) {
        let Some(release) = app.target.and_then(|n| world.state.release(&app.key, n)) else { continue };
        // While a failed release is held, the one that serves says how instances are replaced.
        let serving = app.serving.and_then(|n| world.state.release(&app.key, n));
        if [Some(release), serving].into_iter().flatten().any(|r| r.spec.deploy.strategy == Rollout::Recreate)
        {
            continue;
        }
        for (process, spec) in &release.spec.processes {
            let mut wanted = app.count(process, spec);
            if app.deployment.is_none() && app.serving != app.target {
                let held =
                    serving.map_or(0, |r| r.spec.processes.get(process).map_or(0, |s| app.count(process, s)));
                wanted = wanted.min(held);
            }
            let spare = [Some(release), serving].into_iter().flatten();
            let spare =
                spare.map(|r| r.spec.deploy.max_unavailable.of_rounded_down(wanted)).max().unwrap_or(0);
            let ready = ready_and_up(world, &app.key, process);
            floors.push((app.key.clone(), process.clone(), ready, ready.min(wanted.saturating_sub(spare))));
        }
    }
    floors
}

fn check_capacity(world: &World) {
    for node in world.state.nodes.values() {
        let used = world.state.used_on(node.id);
        assert!(node.capacity.covers(used), "{} holds {used:?} of {:?}", node.name, node.capacity);
    }
}

fn check_step(world: &mut World) {
    let before = floors(world);
    let planned = step(world);
    check_capacity(world);
    for (app, process, ready, floor) in before {
        let left = ready_and_up(world, &app, &process);
        assert!(left >= floor, "{app}/{process} had {ready} ready, has {left}, needs {floor}: {planned:#?}");
    }
    // Only the end of a deployment, alone, may be left for the next plan, or come of it.
    let is_end = |change: &Change| matches!(change.kind, ChangeKind::EndDeployment { .. });
    if !planned.changes.iter().any(is_end) {
        let next = world.plan();
        assert!(next.changes.iter().all(is_end), "{planned:#?}\nwas not all: {next:#?}");
    }
}

/// Whether what the operation makes old or surplus all serves: what does not serve goes
/// first, before balance.
fn keeps_choice(world: &World, op: &Op) -> bool {
    let all_ready = |app: usize| {
        world.state.instances_of(&key(APPS[app])).all(|i| i.desired == Desired::Stop || i.is_ready())
    };
    match op {
        Op::Deploy { app, .. } | Op::Restart { app, .. } => all_ready(*app),
        Op::Scale { app, count } => {
            let scaled = world.state.app(&key(APPS[*app])).and_then(|a| a.scale.get(&name("web")).copied());
            all_ready(*app) || scaled.is_some_and(|now| *count >= now)
        }
        _ => true,
    }
}

fn check_skew(world: &World) {
    for app in APPS {
        let mut zones: BTreeMap<&Zone, u32> = world.state.nodes.values().map(|n| (&n.zone, 0)).collect();
        let mut nodes: BTreeMap<NodeId, u32> = world.state.nodes.keys().map(|id| (*id, 0)).collect();
        let Some(record) = world.state.app(&key(app)) else { continue };
        // An old one that does not serve goes first anyway: its successor takes its place.
        let counts = |i: &Instance| {
            i.is_ready()
                || i.desired == Desired::Run
                    && Some(i.release) == record.target
                    && i.generation >= record.generation
        };
        for instance in world.state.instances_of(&key(app)).filter(|i| counts(i)) {
            *zones.entry(&world.state.nodes[&instance.node].zone).or_default() += 1;
            *nodes.entry(instance.node).or_default() += 1;
        }
        let skew = zones.values().max().unwrap_or(&0) - zones.values().min().unwrap_or(&0);
        assert!(skew <= 1, "{app} is spread {zones:?}");
        for zone in zones.keys() {
            let of_zone = world.state.nodes.values().filter(|n| n.zone == **zone);
            let counts: Vec<u32> = of_zone.map(|n| nodes[&n.id]).collect();
            let (most, fewest) = (counts.iter().max().unwrap_or(&0), counts.iter().min().unwrap_or(&0));
            assert!(most - fewest <= 1, "{app} is spread {nodes:?} in zone {zone}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_rule_is_broken(history in prop::collection::vec(ops(), 1..80)) {
        let mut world = world(2_000_000_000);
        for op in &history {
            act(&mut world, op);
            check_capacity(&world);
            if matches!(op, Op::Step) {
                check_step(&mut world);
            }
        }
        // Every deployment ends, whatever its instances do.
        world.advance(Duration::from_secs(1000));
        for _ in 0..3 {
            check_step(&mut world);
        }
        for app in world.state.apps.values() {
            prop_assert_eq!(app.deployment, None);
        }
    }

    #[test]
    fn with_room_everywhere_zones_stay_even_at_every_step(history in prop::collection::vec(quiet_ops(), 1..80)) {
        let mut world = world(1_000_000_000_000);
        for op in &history {
            if !keeps_choice(&world, op) {
                continue;
            }
            act(&mut world, op);
            if matches!(op, Op::Step) {
                check_step(&mut world);
                check_skew(&world);
            }
        }
    }

    #[test]
    fn what_is_asked_for_is_there_once_agents_obey(history in prop::collection::vec(ops(), 1..60)) {
        let mut world = world(100_000_000_000);
        for op in &history {
            act(&mut world, op);
            if matches!(op, Op::Step) {
                step(&mut world);
            }
        }
        for node in 1..=NODES as u128 {
            let node = NodeId(node);
            world.act(Action::SetNodeStatus { node, status: NodeStatus::Up });
            world.act(Action::SetNodeMode { node, cordoned: Some(false), draining: Some(false) });
        }
        for _ in 0..60 {
            let runs: Vec<_> = world.state.instances().filter(|i| i.desired == Desired::Run).cloned().collect();
            runs.iter().filter(|i| !i.observed.ready && i.observed.phase != Phase::Stopped)
                .for_each(|i| world.make_ready(i.id));
            world.all_gone();
            step(&mut world);
        }
        for app in world.state.apps.values() {
            prop_assert!(app.deployment.is_none() && !app.removing);
            let wanted: BTreeMap<ProcessName, u32> = match app.target.filter(|_| !app.stopped) {
                Some(target) if app.serving == Some(target) => {
                    let spec = &world.state.release(&app.key, target).expect("kept").spec;
                    spec.processes.iter().map(|(p, s)| (p.clone(), app.count(p, s))).collect()
                }
                // A failed release that is held: both may stand.
                Some(_) => continue,
                None => BTreeMap::new(),
            };
            let mut there: BTreeMap<ProcessName, u32> = wanted.keys().map(|p| (p.clone(), 0)).collect();
            for instance in world.state.instances_of(&app.key) {
                prop_assert!(instance.is_ready());
                prop_assert_eq!(Some(instance.release), app.target);
                *there.entry(instance.process.clone()).or_default() += 1;
            }
            prop_assert_eq!(wanted, there);
        }
    }
}
