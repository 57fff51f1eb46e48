//! What the agent knows of one instance, and how each thing it sees changes that. Pure.

use crate::model::app::{Health, ProcessSpec};
use crate::model::ids::InstanceId;
use crate::model::instance::{Exit, Observed, Phase};
use crate::model::time::Timestamp;
use std::net::SocketAddr;
use std::time::Duration;

/// An attempt that was ready for this long makes earlier failures history: the time in
/// which a crash that repeats itself would have repeated itself.
const HEALTHY_WHILE: Duration = Duration::from_secs(30);
/// PRODUCT R3: 1 s, growing, to 5 min.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Liveness is laxer than readiness: an instance is taken out of routing after `unhealthy`
/// failures in a row, and killed after three times as many.
const LIVENESS_FACTOR: u32 = 3;

/// What cannot be asked is ready once it has run for this long: a program that lacks a file or
/// a setting says so, and ends, well within it.
const UNASKED_SETTLES: Duration = Duration::from_secs(1);

/// How far the current attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing runs; may be started from this moment on.
    Idle { not_before: Timestamp },
    /// Being made.
    Preparing,
    /// The container runs.
    Up,
    /// Told to stop.
    Stopping,
    /// Killed for its health; its exit is awaited.
    Killed,
    /// Stopped for good, nothing left.
    Gone,
}

/// Something that happened to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The container runs, and has this address.
    Started {
        address: Option<SocketAddr>,
    },
    StartFailed {
        why: String,
    },
    /// Its first process ended, and what was left of it was removed.
    Exited {
        exit: Exit,
        log_tail: Vec<String>,
    },
    Probed(Result<(), String>),
    /// A stop that we asked for is complete, and nothing is left.
    Stopped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub instance: InstanceId,
    pub attempt: u32,
    step: u32,
    pub state: State,
    pub ready: bool,
    address: Option<SocketAddr>,
    failures: u32,
    last_exit: Option<Exit>,
    message: String,
    started_at: Option<Timestamp>,
    ready_since: Option<Timestamp>,
    /// Whether a probe of this attempt has ever succeeded.
    proved: bool,
    probe_failures: u32,
    kill_reason: Option<String>,
    kill_sent: bool,
    log_tail: Vec<String>,
}

impl Track {
    /// An instance that this agent has not dealt with, and of which nothing runs here.
    /// `observed` is what the cluster last heard: numbering goes on from there.
    pub fn absent(instance: InstanceId, observed: &Observed, now: Timestamp) -> Self {
        let was_up = observed.attempt > 0 && observed.phase != Phase::Backoff;
        let not_before = observed.retry_at.filter(|_| observed.phase == Phase::Backoff).unwrap_or(now);
        Track {
            instance,
            attempt: observed.attempt,
            step: observed.step,
            state: State::Idle { not_before },
            ready: false,
            address: None,
            failures: observed.failures,
            last_exit: observed.last_exit.clone(),
            message: if was_up { "was not running when its node came up".into() } else { String::new() },
            started_at: None,
            ready_since: None,
            proved: false,
            probe_failures: 0,
            kill_reason: None,
            kill_sent: false,
            log_tail: observed.log_tail.clone(),
        }
    }

    /// A container that was found running. What was last reported of this very attempt
    /// stands, so an instance that was ready stays in routing without a gap.
    pub fn adopted(
        instance: InstanceId,
        attempt: u32,
        address: Option<SocketAddr>,
        observed: &Observed,
    ) -> Self {
        let known = observed.attempt == attempt;
        Track {
            attempt,
            step: if known { observed.step } else { 0 },
            state: State::Up,
            ready: known && observed.ready,
            address,
            started_at: observed.started_at.filter(|_| known),
            ready_since: observed.started_at.filter(|_| known && observed.ready),
            proved: known && observed.ready,
            message: String::new(),
            ..Track::absent(instance, observed, Timestamp::default())
        }
    }

    /// Nothing of it is here and it is not to be started again.
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Whether a container of it may exist.
    pub fn may_exist(&self) -> bool {
        !matches!(self.state, State::Idle { .. } | State::Gone)
    }

    pub fn begin_attempt(&mut self) {
        self.attempt += 1;
        self.step = 0;
        self.state = State::Preparing;
        self.ready = false;
        self.address = None;
        self.started_at = None;
        self.ready_since = None;
        self.proved = false;
        self.probe_failures = 0;
        self.kill_reason = None;
        self.kill_sent = false;
        self.message.clear();
        self.step += 1;
    }

    /// `true` once for an attempt that is to be killed.
    pub fn take_kill(&mut self) -> bool {
        self.state == State::Killed && !std::mem::replace(&mut self.kill_sent, true)
    }

    pub fn begin_stop(&mut self) {
        self.state = State::Stopping;
        self.ready = false;
        self.step += 1;
    }

    pub fn finish(&mut self) {
        self.state = State::Gone;
        self.ready = false;
        self.address = None;
        self.step += 1;
    }

    /// Takes in what was seen of the current attempt. `true` if a report is due. Sets the
    /// state `Killed` when liveness is spent; the caller then kills.
    pub fn see(&mut self, seen: Seen, process: Option<&ProcessSpec>, now: Timestamp) -> bool {
        let before = (self.state, self.ready, self.message.clone());
        match seen {
            Seen::Started { address } => {
                self.address = address;
                self.started_at = Some(now);
                if self.state == State::Preparing {
                    self.state = State::Up;
                }
            }
            Seen::StartFailed { why } => self.end(Exit::StartFailed(why), Vec::new(), now),
            Seen::Exited { exit, log_tail } => {
                let exit = match self.kill_reason.take() {
                    Some(why) => Exit::Unhealthy(why),
                    None => exit,
                };
                self.end(exit, log_tail, now);
            }
            Seen::Probed(result) => self.probed(result, process, now),
            Seen::Stopped => {
                self.finish();
                return true;
            }
        }
        let changed = before != (self.state, self.ready, self.message.clone());
        if changed {
            self.step += 1;
        }
        changed
    }

    /// For a process that has nothing to be asked by: ready when it has run for a moment. When
    /// to look again, or `None`. A caller that finds it ready then has to report it.
    pub fn settle(&mut self, process: Option<&ProcessSpec>, now: Timestamp) -> Option<Timestamp> {
        let is_asked = process.is_none_or(|p| p.port.is_some() || has_command_check(&p.health));
        if is_asked || self.ready || self.state != State::Up {
            return None;
        }
        // Adopted, and started by a node that did not say when: long enough ago.
        let at = self.started_at.map_or(now, |started| started.saturating_add(UNASKED_SETTLES));
        if at > now {
            return Some(at);
        }
        self.become_ready(now);
        self.step += 1;
        None
    }

    fn become_ready(&mut self, now: Timestamp) {
        self.proved = true;
        self.probe_failures = 0;
        self.message.clear();
        if !self.ready && self.state == State::Up {
            self.ready = true;
            self.ready_since.get_or_insert(now);
        }
    }

    fn probed(&mut self, result: Result<(), String>, process: Option<&ProcessSpec>, now: Timestamp) {
        if self.state != State::Up {
            return;
        }
        let Some(process) = process else { return };
        let why = match result {
            Ok(()) => return self.become_ready(now),
            Err(why) => why,
        };
        if !self.proved {
            let waited = self.started_at.map(|at| now.since(at)).unwrap_or_default();
            if waited >= process.health.grace {
                let why = format!("not healthy within {} s: {why}", process.health.grace.as_secs());
                self.kill(why);
            } else if self.message != why {
                self.message = why;
            }
            return;
        }
        self.probe_failures += 1;
        if self.probe_failures >= process.health.unhealthy {
            self.ready = false;
            self.ready_since = None;
            self.message = why.clone();
        }
        if self.probe_failures >= process.health.unhealthy.saturating_mul(LIVENESS_FACTOR) {
            self.kill(format!("not healthy: its check failed {} times in a row: {why}", self.probe_failures));
        }
    }

    fn kill(&mut self, why: String) {
        self.state = State::Killed;
        self.ready = false;
        self.message = why.clone();
        self.kill_reason = Some(why);
    }

    /// The attempt is over by itself.
    fn end(&mut self, exit: Exit, log_tail: Vec<String>, now: Timestamp) {
        if self.state == State::Stopping {
            // The stop's own end is still to come.
            self.last_exit = Some(exit);
            return;
        }
        let healthy = self.ready_since.is_some_and(|since| now.since(since) >= HEALTHY_WHILE);
        self.failures = if healthy { 1 } else { self.failures.saturating_add(1) };
        let delay = backoff(self.failures);
        self.state = State::Idle { not_before: now.saturating_add(delay) };
        self.ready = false;
        self.ready_since = None;
        self.address = None;
        self.started_at = None;
        self.message.clear();
        self.last_exit = Some(exit);
        self.log_tail = log_tail;
    }

    /// Takes in the last lines of a log of an attempt that is not ready: why it is not is
    /// often said there. `true` if a report is due.
    pub fn hear(&mut self, log_tail: Vec<String>) -> bool {
        let news = self.state == State::Up && !self.ready && self.log_tail != log_tail;
        if news {
            self.log_tail = log_tail;
            self.step += 1;
        }
        news
    }

    /// What the cluster is told.
    pub fn observed(&self) -> Observed {
        let phase = match self.state {
            State::Idle { .. } => Phase::Backoff,
            State::Preparing => Phase::Preparing,
            State::Up if self.proved => Phase::Running,
            State::Up => Phase::Starting,
            State::Stopping | State::Killed => Phase::Stopping,
            State::Gone => Phase::Stopped,
        };
        let retry_at = match self.state {
            State::Idle { not_before } => Some(not_before),
            _ => None,
        };
        Observed {
            attempt: self.attempt,
            step: self.step,
            phase,
            ready: self.ready,
            address: self.address,
            last_exit: self.last_exit.clone(),
            message: self.message.clone(),
            started_at: self.started_at,
            retry_at,
            failures: self.failures,
            log_tail: self.log_tail.clone(),
        }
    }

    /// Marks that the cluster must hear of this track even though nothing new was seen.
    pub fn report_anew(&mut self) {
        self.step += 1;
    }
}

fn has_command_check(health: &Health) -> bool {
    matches!(health.check, crate::model::app::Check::Command { .. })
}

/// How long to wait after the `failures`-th failure in a row.
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_DELAY * 2u32.pow(doublings)).min(LONGEST_DELAY)
}
