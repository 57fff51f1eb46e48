//! The agent's loop: wait for something to happen, take a step, perform what it says. Every
//! action runs in a task of its own and comes back as a [`Seen`].

use super::probe::{self, Probe};
use super::reporter::Reporter;
use super::step::{Action, step};
use super::track::{Seen, State, Track};
use super::{Containers, Ended, Gate, StatusSink};
use crate::clock;
use crate::model::ids::{InstanceId, ViewVersion};
use crate::model::project::{Assignment, Assignments};
use crate::model::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A container that was found running when the agent came up.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub instance: InstanceId,
    pub attempt: u32,
    pub ip: Option<IpAddr>,
}

pub struct Config {
    /// Remembers the view that was last acted on.
    pub acted_file: PathBuf,
    /// How long requests inside may take when an instance stops.
    pub drain: Duration,
}

/// What others may know of the running agent.
#[derive(Clone)]
pub struct Agent {
    reporter: Reporter,
    settled: watch::Receiver<bool>,
}

impl Agent {
    /// Returns when the agent has taken its first step and the cluster has heard of it: from
    /// then on, what the state says of this node is true.
    pub async fn settled(&mut self) {
        // A closed channel means that the agent is gone; so is the wait's reason.
        let _ = self.settled.wait_for(|settled| *settled).await;
        while !self.reporter.is_idle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Loop<C, G> {
    containers: Arc<C>,
    gate: Arc<G>,
    config: Config,
    tracks: BTreeMap<InstanceId, Track>,
    assigned: Assignments,
    acted: ViewVersion,
    /// The last write of it failed: said once, not with every change on a full disk.
    is_forgetful: bool,
    reporter: Reporter,
    probes: HashMap<InstanceId, AbortOnDropHandle<()>>,
    /// When the log of an instance that is not ready was last looked at.
    listened: HashMap<InstanceId, Timestamp>,
    seen: mpsc::UnboundedSender<(InstanceId, u32, Seen)>,
}

/// How often the log of an instance that is not ready is looked at for its reason.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

/// Starts the agent. It runs until `shutdown`, then leaves everything as it is: what becomes
/// of the containers then is the node's decision.
pub fn spawn<C: Containers, G: Gate>(
    config: Config,
    containers: Arc<C>,
    gate: Arc<G>,
    sink: impl StatusSink,
    adopted: Vec<Adopted>,
    assignments: watch::Receiver<Assignments>,
    ended: mpsc::UnboundedReceiver<Ended>,
    shutdown: CancellationToken,
) -> (Agent, impl Future<Output = ()> + Send) {
    let reporter = Reporter::default();
    let (settled_tx, settled) = watch::channel(false);
    let agent = Agent { reporter: reporter.clone(), settled };
    // Unbounded: each running attempt has at most a handful of things to say, and a full
    // channel would have to drop an exit.
    let (seen_tx, seen_rx) = mpsc::unbounded_channel();
    let acted = read_acted(&config.acted_file);
    let looped = Loop {
        containers,
        gate,
        config,
        tracks: BTreeMap::new(),
        assigned: Assignments::default(),
        acted,
        is_forgetful: false,
        reporter: reporter.clone(),
        probes: HashMap::new(),
        listened: HashMap::new(),
        seen: seen_tx,
    };
    let run = async move {
        let carry = AbortOnDropHandle::new(tokio::spawn(reporter.run(sink)));
        let work = looped.run(adopted, assignments, ended, seen_rx, settled_tx);
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        drop(carry);
    };
    (agent, run)
}

impl<C: Containers, G: Gate> Loop<C, G> {
    async fn run(
        mut self,
        adopted: Vec<Adopted>,
        mut assignments: watch::Receiver<Assignments>,
        mut ended: mpsc::UnboundedReceiver<Ended>,
        mut seen: mpsc::UnboundedReceiver<(InstanceId, u32, Seen)>,
        settled: watch::Sender<bool>,
    ) {
        self.assigned = assignments.borrow_and_update().clone();
        self.adopt(adopted);
        loop {
            let wake_at = self.take_step();
            settled.send_replace(true);
            let pause = wake_at.map(|at| at.since(clock::now())).unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                changed = assignments.changed() => {
                    if changed.is_err() { return }
                    self.assigned = assignments.borrow_and_update().clone();
                }
                Some(end) = ended.recv() => {
                    self.see(end.instance, end.attempt, Seen::Exited { exit: end.exit, log_tail: end.log_tail });
                }
                Some((instance, attempt, what)) = seen.recv() => self.see(instance, attempt, what),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn adopt(&mut self, adopted: Vec<Adopted>) {
        for found in adopted {
            let assignment = self.assigned.instances.iter().find(|a| a.instance.id == found.instance);
            let observed = assignment.map(|a| a.instance.observed.clone()).unwrap_or_default();
            let port = assignment.and_then(|a| a.process()).and_then(|process| process.port);
            let address = found.ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port));
            let track = Track::adopted(found.instance, found.attempt, address, &observed);
            let proved = track.ready;
            self.tracks.insert(found.instance, track);
            self.start_probe(found.instance, found.attempt, address, proved);
        }
    }

    /// Returns when to wake if nothing happens.
    fn take_step(&mut self) -> Option<Timestamp> {
        let now = clock::now();
        let may_stop = self.assigned.version >= self.acted;
        let step = step(&self.assigned, &mut self.tracks, may_stop, now);
        if !step.actions.is_empty() && self.assigned.version > self.acted {
            self.acted = self.assigned.version;
            let written = write_acted(&self.config.acted_file, self.acted);
            if let Some(word) = transition(&mut self.is_forgetful, written.is_err()) {
                let error = written.err().map(|error| error.to_string());
                tracing::warn!(error, file = %self.config.acted_file.display(), "{word}");
            }
        }
        for action in step.actions {
            self.perform(action);
        }
        step.wake_at
    }

    fn assignment(&self, instance: InstanceId) -> Option<&Assignment> {
        self.assigned.instances.iter().find(|a| a.instance.id == instance)
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Start { instance, attempt } => {
                let Some(assignment) = self.assignment(instance).cloned() else { return };
                let (containers, seen) = (self.containers.clone(), self.seen.clone());
                tokio::spawn(async move {
                    let what = match containers.start(&assignment, attempt).await {
                        Ok(address) => Seen::Started { address },
                        Err(why) => Seen::StartFailed { why },
                    };
                    let _ = seen.send((instance, attempt, what));
                });
            }
            Action::Stop { instance, attempt } => {
                self.probes.remove(&instance);
                let policy = self
                    .assignment(instance)
                    .and_then(|a| a.process())
                    .map(|process| process.stop.clone())
                    .unwrap_or_default();
                let (containers, gate, seen) =
                    (self.containers.clone(), self.gate.clone(), self.seen.clone());
                let drain = self.config.drain.max(policy.grace);
                tokio::spawn(async move {
                    gate.close(instance, attempt, drain).await;
                    containers.stop(instance, attempt, &policy).await;
                    let _ = seen.send((instance, attempt, Seen::Stopped));
                });
            }
            Action::Kill { instance, attempt } => {
                let (containers, gate) = (self.containers.clone(), self.gate.clone());
                tokio::spawn(async move {
                    gate.close(instance, attempt, Duration::ZERO).await;
                    containers.kill(instance, attempt).await;
                });
            }
            Action::Report { instance } => {
                if let Some(track) = self.tracks.get(&instance) {
                    self.reporter.put(instance, track.observed());
                }
            }
            Action::Forget { instance } => {
                self.tracks.remove(&instance);
                self.listened.remove(&instance);
                self.probes.remove(&instance);
                self.reporter.forget(instance);
            }
        }
    }

    fn see(&mut self, instance: InstanceId, attempt: u32, what: Seen) {
        let now = clock::now();
        let process = self.assignment(instance).and_then(|a| a.process()).cloned();
        let Some(track) = self.tracks.get_mut(&instance).filter(|t| t.attempt == attempt) else { return };
        let started = match &what {
            Seen::Started { address } => Some(*address),
            _ => None,
        };
        let exited = matches!(what, Seen::Exited { .. });
        let failed = matches!(what, Seen::Probed(Err(_)));
        let mut due = track.see(what, process.as_ref(), now);
        if failed
            && !track.ready
            && self.listened.get(&instance).is_none_or(|at| now.since(*at) >= LISTEN_EVERY)
        {
            self.listened.insert(instance, now);
            due |= track.hear(self.containers.last_words(instance, attempt));
        }
        if due {
            self.reporter.put(instance, track.observed());
        }
        let up = track.state == State::Up;
        if exited {
            self.probes.remove(&instance);
            // The cluster hears of it in a moment; this node's proxy should not have to wait.
            let gate = self.gate.clone();
            tokio::spawn(async move { gate.close(instance, attempt, Duration::ZERO).await });
        }
        if let Some(address) = started.filter(|_| up) {
            self.start_probe(instance, attempt, address, false);
        }
    }

    fn start_probe(&mut self, instance: InstanceId, attempt: u32, address: Option<SocketAddr>, proved: bool) {
        let Some(process) = self.assignment(instance).and_then(|a| a.process()) else { return };
        let commands = matches!(process.health.check, crate::model::app::Check::Command { .. });
        if process.port.is_none() && !commands {
            return;
        }
        let probe = Probe { instance, attempt, address, health: process.health.clone(), proved };
        let seen = self.seen.clone();
        let answer = move |result| seen.send((instance, attempt, Seen::Probed(result))).is_ok();
        let task = tokio::spawn(probe::run(self.containers.clone(), probe, answer));
        self.probes.insert(instance, AbortOnDropHandle::new(task));
    }
}

/// The view last acted on; the first one when the file is not there or not ours: then
/// nothing was acted on that could be undone.
fn read_acted(file: &std::path::Path) -> ViewVersion {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut parts = text.split_whitespace().map(|part| part.parse::<u64>());
    match (parts.next(), parts.next()) {
        (Some(Ok(incarnation)), Some(Ok(index))) => ViewVersion { incarnation, index },
        _ => ViewVersion::default(),
    }
}

/// Not synced on purpose: it guards living containers against an older view after a restart
/// of this process, and a power cut leaves no containers to guard.
fn write_acted(file: &std::path::Path, acted: ViewVersion) -> std::io::Result<()> {
    let temporary = file.with_extension("tmp");
    let text = format!("{} {}\n", acted.incarnation, acted.index);
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, file))
}

/// What to say of the file now, if that is not what was said last.
fn transition(was_failing: &mut bool, fails: bool) -> Option<&'static str> {
    let before = std::mem::replace(was_failing, fails);
    match (before, fails) {
        (false, true) => Some("could not remember the view that was acted on; tried again with each change"),
        (true, false) => Some("the view that was acted on is remembered again"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::transition;

    #[test]
    fn a_disk_that_stays_full_is_told_once_and_so_is_its_end() {
        let mut failing = false;
        let said: Vec<bool> = [false, true, true, true, false, false, true]
            .map(|fails| transition(&mut failing, fails).is_some())
            .into();
        assert_eq!(said, [false, true, false, false, true, false, true]);
    }
}
