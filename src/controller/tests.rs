//! The controller against a store in memory that applies at once, refuses or fails.

use super::step::{Controller, Next};
use super::{Applied, Closed, Leadership, ProposeError, Store, Wake, run};
use crate::model::ClusterState;
use crate::model::app::{AppSpec, DeploymentStatus, ProcessSpec};
use crate::model::command::{Action, Change, ChangeKind, Touched};
use crate::model::ids::{DeploymentId, ProcessName};
use crate::model::instance::Exit;
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use crate::scheduler::world::{World, key};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

fn world() -> World {
    let mut world = World::new();
    world.add_node("node-1", "a", Resources { cpu_milli: 8000, memory_bytes: 8_000_000_000, disk_bytes: 0 });
    world
}

fn deploy(world: &mut World, app: &str, count: u32) {
    let web = ProcessName::new("web").expect("a process's name");
    let process = ProcessSpec { count, ..ProcessSpec::default() };
    let processes = BTreeMap::from([(web, process)]);
    world.deploy(app, AppSpec { processes, ..AppSpec::default() }, false);
}

const LEADS: Leadership = Leadership { term: 3, is_leader: true };

fn places(next: &Next) -> usize {
    let Next::Propose { changes, .. } = next else { return 0 };
    changes.iter().filter(|change| matches!(change.kind, ChangeKind::Place { .. })).count()
}

#[test]
fn a_follower_plans_nothing() {
    let mut world = world();
    deploy(&mut world, "shop", 2);
    let next = Controller::default().step(&world.state, Leadership::default(), world.now);
    assert_eq!(next, Next::WaitUntil(None));
}

#[test]
fn a_new_leader_plans_everything_once() {
    let mut world = world();
    deploy(&mut world, "shop", 2);
    let mut controller = Controller::default();
    let next = controller.step(&world.state, LEADS, world.now);
    assert_eq!(places(&next), 2);
    let Next::Propose { term, changes } = next else { panic!("no proposal") };
    assert_eq!(term, 3);
    let touched = world.act(Action::Apply { term, changes }).touched;
    controller.applied(&Applied::default());
    controller.touch(&world.state, &touched);
    let deadline = world.now.saturating_add(Duration::from_secs(300));
    assert_eq!(controller.step(&world.state, LEADS, world.now), Next::WaitUntil(Some(deadline)));
}

#[test]
fn leadership_that_came_back_starts_with_everything_again() {
    let mut world = world();
    deploy(&mut world, "shop", 2);
    let mut controller = Controller::default();
    assert_eq!(places(&controller.step(&world.state, LEADS, world.now)), 2);
    controller.step(&world.state, Leadership { term: 4, is_leader: false }, world.now);
    let next = controller.step(&world.state, Leadership { term: 5, is_leader: true }, world.now);
    assert_eq!(places(&next), 2, "what the earlier term proposed may never have been applied");
}

#[test]
fn what_was_refused_or_failed_is_planned_again() {
    let mut world = world();
    deploy(&mut world, "shop", 2);
    let mut controller = Controller::default();
    assert_eq!(places(&controller.step(&world.state, LEADS, world.now)), 2);
    controller.applied(&Applied { refused: 2 });
    assert_eq!(controller.pause(), Some(Duration::ZERO));
    assert_eq!(places(&controller.step(&world.state, LEADS, world.now)), 2);
    controller.failed();
    let first = controller.pause().expect("a pause");
    assert_eq!(places(&controller.step(&world.state, LEADS, world.now)), 2);
    controller.failed();
    assert!(controller.pause().expect("a pause") > first, "a cluster without quorum is not hammered");
}

#[test]
fn a_deadline_wakes_without_any_change() {
    let mut world = world();
    deploy(&mut world, "shop", 9);
    let mut controller = Controller::default();
    let Next::Propose { term, changes } = controller.step(&world.state, LEADS, world.now) else {
        panic!("no proposal")
    };
    let touched = world.act(Action::Apply { term, changes }).touched;
    controller.applied(&Applied::default());
    controller.touch(&world.state, &touched);
    let Next::WaitUntil(Some(at)) = controller.step(&world.state, LEADS, world.now) else {
        panic!("nothing to wait for")
    };
    let Next::Propose { changes, .. } = controller.step(&world.state, LEADS, at) else {
        panic!("no end of the deployment")
    };
    assert!(matches!(changes[0].kind, ChangeKind::EndDeployment { status: DeploymentStatus::Failed, .. }));
}

#[test]
fn room_that_comes_free_is_given_to_an_app_that_waits() {
    let mut world = world();
    let mut controller = Controller::default();
    deploy(&mut world, "shop", 100);
    let Next::Propose { term, changes } = controller.step(&world.state, LEADS, world.now) else {
        panic!("no proposal")
    };
    assert_eq!(changes.len(), 31, "8 GB hold 31 of 256 MB");
    let touched = world.act(Action::Apply { term, changes }).touched;
    controller.applied(&Applied::default());
    controller.touch(&world.state, &touched);
    controller.step(&world.state, LEADS, world.now);
    world.touched = Touched::default();
    let capacity = Resources { cpu_milli: 8000, memory_bytes: 8_000_000_000, disk_bytes: 0 };
    world.add_node("node-2", "b", capacity);
    let touched = world.touched.clone();
    controller.touch(&world.state, &touched);
    assert_eq!(places(&controller.step(&world.state, LEADS, world.now)), 31);
}

/// A store that applies at once.
#[derive(Clone)]
struct MemoryStore {
    world: Arc<Mutex<World>>,
    touched: Arc<Mutex<Touched>>,
    news: Arc<Notify>,
    closed: CancellationToken,
    fails: Arc<Mutex<u32>>,
}

impl MemoryStore {
    fn new() -> Self {
        Self {
            world: Arc::new(Mutex::new(world())),
            touched: Arc::default(),
            news: Arc::default(),
            closed: CancellationToken::new(),
            fails: Arc::default(),
        }
    }

    /// Does something to the world, and tells of what it touched.
    fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().expect("no test panicked with it");
        let result = act(&mut world);
        let touched = std::mem::take(&mut world.touched);
        self.touched.lock().expect("no test panicked with it").merge(touched);
        self.news.notify_one();
        result
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&mut World) -> bool) {
        let checks = async {
            while !self.with(&mut holds) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), checks).await;
        assert!(waited.is_ok(), "in vain waited until {what}");
    }
}

impl Store for MemoryStore {
    fn state(&self) -> ClusterState {
        self.world.lock().expect("no test panicked with it").state.clone()
    }

    fn leadership(&self) -> Leadership {
        LEADS
    }

    fn now(&self) -> Timestamp {
        self.world.lock().expect("no test panicked with it").now
    }

    async fn changed(&mut self) -> Result<Wake, Closed> {
        loop {
            if self.closed.is_cancelled() {
                return Err(Closed);
            }
            let touched = std::mem::take(&mut *self.touched.lock().expect("no test panicked with it"));
            if !touched.is_empty() {
                return Ok(Wake::Changed(touched));
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = self.closed.cancelled() => return Err(Closed),
            }
        }
    }

    async fn apply(&self, term: u64, changes: Vec<Change>) -> Result<Applied, ProposeError> {
        {
            let mut fails = self.fails.lock().expect("no test panicked with it");
            if *fails > 0 {
                *fails -= 1;
                return Err(ProposeError("no quorum".into()));
            }
        }
        let outcome = self.with(|world| world.act(Action::Apply { term, changes }));
        Ok(Applied { refused: outcome.refused })
    }
}

fn status(world: &World, id: u64) -> Option<DeploymentStatus> {
    world.state.deployments.get(&(key("shop"), DeploymentId(id))).map(|d| d.status)
}

#[tokio::test]
async fn the_loop_carries_a_deploy_through_failures_to_its_end() {
    let store = MemoryStore::new();
    *store.fails.lock().expect("not poisoned") = 2;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(store.clone(), shutdown.clone()));
    store.with(|world| deploy(world, "shop", 3));
    store
        .until("the deployment is done", |world| {
            world.all_ready();
            status(world, 1) == Some(DeploymentStatus::Done)
        })
        .await;
    // The next one crashes, and the first goes on.
    store.with(|world| deploy(world, "shop", 4));
    store
        .until("the deployment went back", |world| {
            let new: Vec<_> = world.state.instances().filter(|i| i.release.0 == 2).map(|i| i.id).collect();
            new.iter().for_each(|id| world.crash(*id, Exit::Code(1), &["boom".into()]));
            status(world, 2) == Some(DeploymentStatus::Reverted)
        })
        .await;
    store
        .until("only the first release is there", |world| {
            world.all_gone();
            world.state.instances().all(|i| i.release.0 == 1 && i.is_ready())
                && world.state.instances().count() == 3
        })
        .await;
    store.with(|world| world.act(Action::RemoveApp { app: key("shop") }));
    store
        .until("the app is forgotten", |world| {
            world.all_gone();
            world.state.apps.is_empty()
        })
        .await;
    shutdown.cancel();
    running.await.expect("the loop ends");
}

#[tokio::test]
async fn the_loop_ends_when_the_store_closes() {
    let store = MemoryStore::new();
    let running = tokio::spawn(run(store.clone(), CancellationToken::new()));
    store.closed.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
    assert!(ended.is_ok_and(|ended| ended.is_ok()));
}
