//! The sync half of the controller: what to do next, given the state, who leads and the time.

use super::{Applied, Leadership};
use crate::model::ClusterState;
use crate::model::command::{Change, ChangeKind, Touched};
use crate::model::ids::AppKey;
use crate::model::time::Timestamp;
use crate::scheduler::{Agenda, plan};
use std::collections::BTreeSet;
use std::time::Duration;

/// What the loop does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Propose {
        term: u64,
        changes: Vec<Change>,
    },
    /// Nothing to do before that time, or before something changes.
    WaitUntil(Option<Timestamp>),
}

/// Doubled with each failed proposal, up to the last: an election takes about a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Controller {
    /// Of the term in which this node leads; `None` while it does not.
    led: Option<(u64, Agenda)>,
    /// The apps of the last proposal.
    proposed: BTreeSet<AppKey>,
    failures: u32,
    /// When to go on after a proposal.
    pause: Option<Duration>,
}

impl Controller {
    /// Takes up what commands touched.
    pub fn touch(&mut self, state: &ClusterState, touched: &Touched) {
        if let Some((_, agenda)) = &mut self.led {
            agenda.touch(state, touched);
        }
    }

    /// Plans what is on the agenda. A new term starts with everything on it.
    pub fn step(&mut self, state: &ClusterState, leadership: Leadership, now: Timestamp) -> Next {
        if !leadership.is_leader {
            self.led = None;
            return Next::WaitUntil(None);
        }
        let term = leadership.term;
        if self.led.as_ref().is_none_or(|(led, _)| *led != term) {
            self.led = Some((term, Agenda::full()));
            self.failures = 0;
        }
        let Some((_, agenda)) = &mut self.led else { return Next::WaitUntil(None) };
        // Cluster time never goes back, whatever this node's clock says.
        let now = now.max(state.now);
        agenda.wake(now);
        if agenda.is_empty() {
            return Next::WaitUntil(agenda.wake_at());
        }
        let planned = plan(state, agenda.dirty(), now);
        agenda.planned(state, &planned);
        if planned.changes.is_empty() {
            return Next::WaitUntil(agenda.wake_at());
        }
        self.proposed = planned.changes.iter().filter_map(|change| app_of(state, change)).collect();
        Next::Propose { term, changes: planned.changes }
    }

    /// The proposal was applied. What was refused is planned again.
    pub fn applied(&mut self, applied: &Applied) {
        self.failures = 0;
        self.again(applied.refused > 0);
        self.pause = Some(Duration::ZERO);
    }

    /// The proposal may or may not have been applied: it is planned again from what stands
    /// then, and a change that was made after all is refused.
    pub fn failed(&mut self) {
        self.again(true);
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10));
        self.failures += 1;
        self.pause = Some(doubled.min(LONGEST_PAUSE));
    }

    /// How long to wait before the next step, unless something changes.
    pub fn pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    fn again(&mut self, again: bool) {
        let apps = std::mem::take(&mut self.proposed);
        if let Some((_, agenda)) = self.led.as_mut().filter(|_| again) {
            agenda.again(apps);
        }
    }
}

fn app_of(state: &ClusterState, change: &Change) -> Option<AppKey> {
    match &change.kind {
        ChangeKind::Place { app, .. }
        | ChangeKind::EndDeployment { app, .. }
        | ChangeKind::ForgetApp { app } => Some(app.clone()),
        ChangeKind::Stop { instance, .. } | ChangeKind::Forget { instance, .. } => {
            state.instance(*instance).map(|i| i.app.clone())
        }
    }
}
