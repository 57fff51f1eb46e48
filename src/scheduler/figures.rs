//! Figures, printed and not judged: `cargo test --release --lib scheduler::figures -- --ignored
//! --nocapture`. CPU time of this thread, since other programs share the machine.

use super::plan::plan;
use super::world::{World, key};
use crate::model::app::{AppSpec, ProcessSpec};
use crate::model::command::Action;
use crate::model::ids::ProcessName;
use crate::model::resources::Resources;
use nix::time::{ClockId, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NODES: usize = 5000;

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it").into()
}

fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = cpu_time();
    let result = work();
    *spent += cpu_time().saturating_sub(start);
    result
}

fn spec(count: u32, version: u32) -> AppSpec {
    let web = ProcessName::new("web").expect("a process's name");
    let processes = BTreeMap::from([(web, ProcessSpec { count, ..ProcessSpec::default() })]);
    let env = BTreeMap::from([("VERSION".to_owned(), version.to_string())]);
    AppSpec { processes, env, ..AppSpec::default() }
}

fn world() -> World {
    let mut world = World::unchecked();
    for node in 0..NODES {
        let zone = ["a", "b", "c", "d", "e"][node % 5];
        let capacity = Resources { cpu_milli: 16_000, memory_bytes: 64_000_000_000, disk_bytes: 0 };
        world.add_node(&format!("node-{node}"), zone, capacity);
    }
    world
}

fn place_all(world: &mut World, what: &str) {
    let (mut planning, mut applying, mut placed) = (Duration::ZERO, Duration::ZERO, 0);
    loop {
        let planned = timed(&mut planning, || plan(&world.state, world.agenda.dirty(), world.now));
        world.agenda.planned(&world.state, &planned);
        if planned.changes.is_empty() {
            break;
        }
        placed += planned.changes.len();
        let outcome = timed(&mut applying, || world.apply(&planned));
        assert_eq!(outcome.refused, 0);
    }
    let rate = |spent: Duration| placed as f64 / spent.as_secs_f64();
    println!(
        "{what}: {placed} placements on {NODES} nodes, planned {:.0}/s, applied {:.0}/s (CPU seconds)",
        rate(planning),
        rate(applying)
    );
}

fn replan(world: &mut World, what: &str, act: impl FnOnce(&mut World)) {
    act(world);
    let dirty = BTreeSet::from([key("app-500")]);
    let mut spent = Duration::ZERO;
    let planned = timed(&mut spent, || plan(&world.state, Some(&dirty), world.now));
    println!(
        "{what}: {} changes planned in {:.2} ms of CPU",
        planned.changes.len(),
        spent.as_secs_f64() * 1e3
    );
}

#[test]
#[ignore = "by hand: prints figures"]
fn figures() {
    let mut small = world();
    for app in 0..20_000 {
        small.deploy(&format!("app-{app}"), spec(5, 0), false);
    }
    place_all(&mut small, "20,000 apps of 5");

    let mut large = world();
    for app in 0..1000 {
        large.deploy(&format!("app-{app}"), spec(100, 0), false);
    }
    place_all(&mut large, "1,000 apps of 100");
    large.all_ready();
    let ends = plan(&large.state, None, large.now);
    large.apply(&ends);
    let mut spent = Duration::ZERO;
    let full = timed(&mut spent, || plan(&large.state, None, large.now));
    println!(
        "everything stands: {} changes, planned in {:.1} ms of CPU",
        full.changes.len(),
        spent.as_secs_f64() * 1e3
    );
    replan(&mut large, "one app scaled from 100 to 150", |world| {
        let web = ProcessName::new("web").expect("a process's name");
        world.act(Action::Scale { app: key("app-500"), counts: BTreeMap::from([(web, 150)]) });
    });
    replan(&mut large, "the same app deployed anew", |world| {
        world.deploy("app-500", spec(150, 1), false);
    });
}
