//! The agent's rules, told as stories: assignments and sights in, actions out.

use super::step::{Action, step};
use super::track::{Seen, State, Track, backoff};
use crate::model::app::{AppSpec, ProcessSpec, Release};
use crate::model::ids::*;
use crate::model::instance::*;
use crate::model::project::{Assignment, Assignments};
use crate::model::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ID: InstanceId = InstanceId(7);

struct Story {
    assigned: Assignments,
    tracks: BTreeMap<InstanceId, Track>,
    now: Timestamp,
    may_stop: bool,
}

fn address() -> Option<std::net::SocketAddr> {
    Some("10.209.0.5:8080".parse().unwrap())
}

impl Story {
    fn new(process: ProcessSpec) -> Self {
        let app = AppKey { tenant: TenantName::default_tenant(), app: AppName::new("shop").unwrap() };
        let web = ProcessName::new("web").unwrap();
        let spec = AppSpec { processes: [(web.clone(), process)].into(), ..AppSpec::default() };
        let digest = Digest::new(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let release = Release {
            app: app.clone(),
            number: ReleaseNumber(1),
            hash: String::new(),
            image: digest,
            image_name: "shop:1".into(),
            spec: Arc::new(spec),
            created_at: Timestamp::default(),
            created_by: "test".into(),
        };
        let instance = Instance {
            id: ID,
            app,
            process: web,
            slot: 1,
            release: ReleaseNumber(1),
            generation: 0,
            node: NodeId(1),
            desired: Desired::Run,
            created_at: Timestamp::default(),
            cause: Cause { index: 1, reason: "test".into() },
            superseded: false,
            observed: Observed::default(),
            modified: 1,
        };
        let assignment = Assignment { instance: Arc::new(instance), release: Arc::new(release) };
        Story {
            assigned: Assignments { version: ViewVersion::default(), instances: vec![assignment] },
            tracks: BTreeMap::new(),
            now: Timestamp::from_unix_ms(1_000_000),
            may_stop: true,
        }
    }

    fn serving() -> Self {
        Story::new(ProcessSpec { port: Some(8080), ..ProcessSpec::default() })
    }

    fn change(&mut self, change: impl FnOnce(&mut Instance)) {
        change(Arc::make_mut(&mut self.assigned.instances[0].instance));
    }

    /// The cluster heard the last report.
    fn hear(&mut self) {
        let observed = self.tracks[&ID].observed();
        self.change(|instance| instance.observed = observed);
    }

    fn step(&mut self) -> Vec<Action> {
        step(&self.assigned, &mut self.tracks, self.may_stop, self.now).actions
    }

    fn see(&mut self, seen: Seen) -> bool {
        let process = self.assigned.instances.first().and_then(|a| a.process().cloned());
        let now = self.now;
        self.tracks.get_mut(&ID).unwrap().see(seen, process.as_ref(), now)
    }

    fn later(&mut self, by: Duration) {
        self.now = self.now.saturating_add(by);
    }

    fn exit(&mut self, code: i32) {
        self.see(Seen::Exited { exit: Exit::Code(code), log_tail: vec!["last words".into()] });
    }

    fn observed(&self) -> Observed {
        self.tracks[&ID].observed()
    }

    /// To a ready instance of which the cluster has heard.
    fn bring_up(&mut self) {
        self.step();
        self.see(Seen::Started { address: address() });
        self.see(Seen::Probed(Ok(())));
        self.hear();
        assert_eq!(self.step(), []);
    }
}

#[test]
fn an_assignment_is_started_and_is_ready_at_its_first_good_probe() {
    let mut story = Story::serving();
    assert_eq!(story.step(), [Action::Start { instance: ID, attempt: 1 }, Action::Report { instance: ID }]);
    assert_eq!(story.observed().phase, Phase::Preparing);
    story.see(Seen::Started { address: address() });
    assert_eq!((story.observed().phase, story.observed().ready), (Phase::Starting, false));
    assert!(story.see(Seen::Probed(Err("connection refused".into()))));
    assert!(!story.see(Seen::Probed(Err("connection refused".into()))), "the same is not said twice");
    story.see(Seen::Probed(Ok(())));
    let observed = story.observed();
    assert_eq!((observed.phase, observed.ready, observed.address), (Phase::Running, true, address()));
    assert_eq!(observed.message, "");
}

#[test]
fn a_process_without_a_port_is_ready_when_it_has_run_for_a_moment() {
    let mut story = Story::new(ProcessSpec::default());
    story.step();
    story.see(Seen::Started { address: None });
    story.hear();
    assert_eq!(story.step(), []);
    assert!(!story.observed().ready);
    story.later(Duration::from_secs(1));
    assert_eq!(story.step(), [Action::Report { instance: ID }]);
    assert!(story.observed().ready);
}

#[test]
fn a_process_without_a_port_that_ends_at_once_was_never_ready() {
    let mut story = Story::new(ProcessSpec::default());
    for _ in 0..3 {
        story.step();
        story.see(Seen::Started { address: None });
        story.step();
        assert!(!story.observed().ready);
        story.later(Duration::from_millis(300));
        story.exit(3);
        assert!(!story.observed().ready);
        story.later(Duration::from_secs(60));
    }
    assert_eq!(story.observed().failures, 3);
}

#[test]
fn what_the_cluster_has_not_heard_is_said_again() {
    let mut story = Story::serving();
    story.step();
    assert_eq!(story.step(), [Action::Report { instance: ID }]);
    story.hear();
    assert_eq!(story.step(), []);
}

#[test]
fn an_exit_is_followed_by_a_growing_pause_and_a_new_attempt() {
    let mut story = Story::serving();
    story.bring_up();
    story.exit(1);
    let observed = story.observed();
    assert_eq!((observed.phase, observed.ready, observed.failures), (Phase::Backoff, false, 1));
    assert_eq!(observed.last_exit, Some(Exit::Code(1)));
    assert_eq!(observed.log_tail, ["last words"]);
    story.hear();
    assert_eq!(story.step(), []);
    story.later(Duration::from_secs(1));
    assert_eq!(story.step()[0], Action::Start { instance: ID, attempt: 2 });
    story.exit(1);
    story.hear();
    story.later(Duration::from_secs(1));
    assert_eq!(story.step(), [], "the second pause is longer");
    story.later(Duration::from_secs(1));
    assert_eq!(story.step()[0], Action::Start { instance: ID, attempt: 3 });
}

#[test]
fn the_pause_grows_to_five_minutes_and_no_further() {
    for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (4_000_000_000, 300)] {
        assert_eq!(backoff(failures), Duration::from_secs(seconds), "{failures}");
    }
}

#[test]
fn a_healthy_while_makes_earlier_failures_history() {
    let mut story = Story::serving();
    for _ in 0..4 {
        story.step();
        story.see(Seen::Started { address: address() });
        story.exit(1);
        story.later(Duration::from_secs(300));
    }
    assert_eq!(story.observed().failures, 4);
    story.bring_up();
    story.later(Duration::from_secs(31));
    story.exit(1);
    assert_eq!(story.observed().failures, 1);
}

#[test]
fn a_failed_start_is_tried_again_and_says_why() {
    let mut story = Story::serving();
    story.step();
    story.see(Seen::StartFailed { why: "no such file: /app/server".into() });
    assert_eq!(story.observed().last_exit, Some(Exit::StartFailed("no such file: /app/server".into())));
    story.later(Duration::from_secs(1));
    assert_eq!(story.step()[0], Action::Start { instance: ID, attempt: 2 });
}

#[test]
fn failing_probes_take_it_out_of_routing_first_and_kill_it_later() {
    let mut story = Story::serving();
    story.bring_up();
    for failure in 1..=9 {
        story.see(Seen::Probed(Err("refused".into())));
        assert_eq!(story.observed().ready, failure < 3, "after {failure}");
        let kill = story.step().contains(&Action::Kill { instance: ID, attempt: 1 });
        assert_eq!(kill, failure == 9, "after {failure}");
    }
    assert!(!story.step().contains(&Action::Kill { instance: ID, attempt: 1 }), "killed once");
    story.see(Seen::Exited { exit: Exit::Signal(9), log_tail: vec![] });
    let exit = story.observed().last_exit;
    assert_eq!(exit, Some(Exit::Unhealthy("not healthy: its check failed 9 times in a row: refused".into())));
}

#[test]
fn one_good_probe_brings_it_back() {
    let mut story = Story::serving();
    story.bring_up();
    for _ in 0..5 {
        story.see(Seen::Probed(Err("refused".into())));
    }
    assert!(!story.observed().ready);
    story.see(Seen::Probed(Ok(())));
    assert!(story.observed().ready);
}

#[test]
fn an_instance_that_never_answers_is_killed_after_its_grace() {
    let mut story = Story::serving();
    story.step();
    story.see(Seen::Started { address: address() });
    story.later(Duration::from_secs(29));
    story.see(Seen::Probed(Err("refused".into())));
    assert_eq!(story.tracks[&ID].state, State::Up);
    story.later(Duration::from_secs(1));
    story.see(Seen::Probed(Err("refused".into())));
    assert!(story.step().contains(&Action::Kill { instance: ID, attempt: 1 }));
}

#[test]
fn a_stop_is_done_once_reported_and_then_forgotten() {
    let mut story = Story::serving();
    story.bring_up();
    story.change(|instance| instance.desired = Desired::Stop);
    assert_eq!(story.step(), [Action::Stop { instance: ID, attempt: 1 }, Action::Report { instance: ID }]);
    story.hear();
    assert_eq!(story.step(), []);
    // Its exit comes before the stop is complete: no backoff, no restart.
    story.exit(0);
    assert_eq!(story.tracks[&ID].state, State::Stopping);
    assert!(story.see(Seen::Stopped));
    assert_eq!(story.observed().phase, Phase::Stopped);
    story.hear();
    story.assigned.instances.clear();
    assert_eq!(story.step(), [Action::Forget { instance: ID }]);
}

#[test]
fn a_stop_while_it_is_being_made_waits_for_it() {
    let mut story = Story::serving();
    story.step();
    story.hear();
    story.change(|instance| instance.desired = Desired::Stop);
    assert_eq!(story.step(), []);
    story.see(Seen::Started { address: address() });
    assert!(story.step().contains(&Action::Stop { instance: ID, attempt: 1 }));
}

#[test]
fn a_stop_in_backoff_has_nothing_to_stop() {
    let mut story = Story::serving();
    story.bring_up();
    story.exit(1);
    story.change(|instance| instance.desired = Desired::Stop);
    assert_eq!(story.step(), [Action::Report { instance: ID }]);
    assert_eq!(story.observed().phase, Phase::Stopped);
}

#[test]
fn an_old_view_stops_nothing() {
    let mut story = Story::serving();
    story.bring_up();
    story.may_stop = false;
    story.change(|instance| instance.desired = Desired::Stop);
    assert_eq!(story.step(), []);
    story.assigned.instances.clear();
    assert_eq!(story.step(), []);
    story.may_stop = true;
    assert_eq!(story.step(), [Action::Stop { instance: ID, attempt: 1 }]);
}

#[test]
fn an_adopted_instance_stays_ready_without_a_gap() {
    let mut story = Story::serving();
    story.bring_up();
    let heard = story.assigned.instances[0].instance.observed.clone();
    story.tracks.clear();
    story.tracks.insert(ID, Track::adopted(ID, 1, address(), &heard));
    assert_eq!(story.step(), []);
    assert!(story.observed().ready);
}

#[test]
fn an_instance_that_did_not_outlive_its_node_is_started_as_a_new_attempt() {
    let mut story = Story::serving();
    story.bring_up();
    story.tracks.clear();
    assert_eq!(story.step(), [Action::Start { instance: ID, attempt: 2 }, Action::Report { instance: ID }]);
    assert!(!story.observed().ready);
}

#[test]
fn a_backoff_goes_on_after_a_restart_of_the_node() {
    let mut story = Story::serving();
    story.bring_up();
    story.exit(1);
    story.hear();
    story.tracks.clear();
    assert_eq!(story.step(), []);
    assert_eq!(story.observed().failures, 1);
    story.later(Duration::from_secs(1));
    assert_eq!(story.step()[0], Action::Start { instance: ID, attempt: 2 });
}

#[test]
fn a_report_only_rises() {
    let mut story = Story::serving();
    let mut last = (0, 0);
    let mut check = |story: &Story| {
        let observed = story.observed();
        assert!((observed.attempt, observed.step) >= last);
        last = (observed.attempt, observed.step);
    };
    for round in 0..5 {
        story.step();
        check(&story);
        story.see(Seen::Started { address: address() });
        check(&story);
        story.see(Seen::Probed(if round % 2 == 0 { Ok(()) } else { Err("no".into()) }));
        check(&story);
        story.exit(round);
        check(&story);
        story.later(Duration::from_secs(300));
    }
}
