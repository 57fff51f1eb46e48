//! The agent's decision: what is assigned, what is known of each instance, and the time in;
//! what to do out. Pure; `run.rs` performs it.

use super::track::{State, Track};
use crate::model::ids::InstanceId;
use crate::model::instance::Desired;
use crate::model::project::{Assignment, Assignments};
use crate::model::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch, unpack, create, start.
    Start { instance: InstanceId, attempt: u32 },
    /// Leave routing, wait for what is in flight, signal, wait, kill, remove.
    Stop { instance: InstanceId, attempt: u32 },
    /// It failed its health checks for too long: end it now, its restart follows.
    Kill { instance: InstanceId, attempt: u32 },
    /// Tell the cluster what is known of it.
    Report { instance: InstanceId },
    /// The cluster has forgotten it, and nothing of it is left.
    Forget { instance: InstanceId },
}

/// What to do now, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

/// Makes the tracks' next moves. `may_stop` is false until the view has reached the index
/// that this node last acted on: an old view stops nothing (HOUSE idea 5).
pub fn step(
    assigned: &Assignments,
    tracks: &mut BTreeMap<InstanceId, Track>,
    may_stop: bool,
    now: Timestamp,
) -> Step {
    let mut step = Step::default();
    let mut known = BTreeSet::new();
    for assignment in &assigned.instances {
        let id = assignment.instance.id;
        known.insert(id);
        let track = tracks.entry(id).or_insert_with(|| Track::absent(id, &assignment.instance.observed, now));
        match assignment.instance.desired {
            Desired::Run => run(assignment, track, now, &mut step),
            Desired::Stop if may_stop => stop(track, &mut step),
            Desired::Stop => {}
        }
        // A report that was lost on its way (a leader that died) is said again.
        let heard = &assignment.instance.observed;
        let said = track.observed();
        if (heard.attempt, heard.step) < (said.attempt, said.step) {
            step.report(id);
        }
    }
    let unknown: Vec<InstanceId> = tracks.keys().copied().filter(|id| !known.contains(id)).collect();
    for id in unknown {
        let track = tracks.get_mut(&id).expect("its key was just read");
        if !track.may_exist() {
            step.actions.push(Action::Forget { instance: id });
        } else if may_stop && matches!(track.state, State::Up) {
            track.begin_stop();
            step.actions.push(Action::Stop { instance: id, attempt: track.attempt });
        }
    }
    step
}

impl Step {
    fn report(&mut self, instance: InstanceId) {
        let report = Action::Report { instance };
        if !self.actions.contains(&report) {
            self.actions.push(report);
        }
    }
    fn wake_by(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }
}

fn run(assignment: &Assignment, track: &mut Track, now: Timestamp, step: &mut Step) {
    let id = assignment.instance.id;
    match track.state {
        State::Idle { not_before } if not_before <= now => {
            track.begin_attempt();
            step.actions.push(Action::Start { instance: id, attempt: track.attempt });
            step.report(id);
        }
        State::Idle { not_before } => {
            // It is not running: were it still thought ready, requests would be sent to it.
            let heard = &assignment.instance.observed;
            if heard.ready && track.attempt == heard.attempt && !track.ready {
                let said = track.observed();
                if (said.attempt, said.step) <= (heard.attempt, heard.step) {
                    track.report_anew();
                }
            }
            step.wake_by(not_before);
        }
        State::Killed => {
            if track.take_kill() {
                step.actions.push(Action::Kill { instance: id, attempt: track.attempt });
            }
        }
        State::Up => {
            let was_ready = track.ready;
            if let Some(at) = track.settle(assignment.process(), now) {
                step.wake_by(at);
            }
            if track.ready && !was_ready {
                step.report(id);
            }
        }
        State::Preparing | State::Stopping | State::Gone => {}
    }
}

fn stop(track: &mut Track, step: &mut Step) {
    let id = track.instance;
    match track.state {
        State::Idle { .. } => {
            track.finish();
            step.report(id);
        }
        State::Up | State::Killed => {
            track.begin_stop();
            step.actions.push(Action::Stop { instance: id, attempt: track.attempt });
            step.report(id);
        }
        // Once it is up or has failed, it is stopped.
        State::Preparing | State::Stopping | State::Gone => {}
    }
}
