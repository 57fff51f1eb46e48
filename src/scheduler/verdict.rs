//! Whether a deployment is over: done, or failed and why, told so that a person knows what
//! to do. A deployment always ends: it has a deadline.

use super::filter::{Ask, Refusal};
use super::goal::Goal;
use super::pool::Pool;
use super::rollout::Process;
use crate::model::ClusterState;
use crate::model::app::{Check, Deployment, DeploymentStatus};
use crate::model::instance::{Desired, Exit, Instance, Phase};
use crate::model::node::NodeStatus;
use crate::model::time::Timestamp;

/// Attempts in a row that ended by themselves until a deployment is given up: the first may have
/// been bad luck, the second the same, a third is the app. The agent's backoff lies between them.
/// One that had its whole grace and was not healthy in it needs no second: the wait was the proof.
pub(super) const CRASHES_TO_FAIL: u32 = 3;

/// Lines of an instance's log in a message, and characters of each: a message is kept in the
/// state and in the log, for people; the whole log is with `nodectl logs`.
const LINES_TOLD: usize = 10;
const LINE_CHARACTERS: usize = 200;

pub(super) struct End {
    pub status: DeploymentStatus,
    pub message: String,
}

/// `pool` is made only to say what had no place.
pub(super) fn verdict<'a>(
    state: &'a ClusterState,
    goal: &Goal<'_>,
    deployment: &Deployment,
    processes: &[Process<'_>],
    pool: &mut Option<Pool<'a>>,
    now: Timestamp,
) -> Option<End> {
    if is_done(state, goal, deployment, processes) {
        let ready = processes.iter().filter(|p| p.spec.is_some());
        let counts: Vec<String> = ready.map(|p| format!("{} {}/{}", p.name, p.wanted, p.wanted)).collect();
        return Some(End {
            status: DeploymentStatus::Done,
            message: format!("ready: {}", counts.join(", ")),
        });
    }
    let message = match failing(state, goal, deployment) {
        Some(message) => message,
        None if now >= deployment.deadline_at => {
            let pool = pool.get_or_insert_with(|| Pool::of(state));
            overdue(state, goal, deployment, processes, pool)
        }

        None => return None,
    };
    let reverts = goal.place.is_some_and(|release| release.spec.deploy.auto_revert)
        && goal.previous.is_some_and(|previous| previous.number != deployment.release);
    let status = if reverts { DeploymentStatus::Reverted } else { DeploymentStatus::Failed };
    Some(End { status, message })
}

/// New: of the deployment's release, and not to be replaced by a restart.
fn is_new(goal: &Goal<'_>, deployment: &Deployment, instance: &Instance) -> bool {
    instance.desired == Desired::Run
        && instance.observed.phase != Phase::Stopped
        && instance.release == deployment.release
        && instance.generation >= goal.app.generation
        && !instance.superseded
}

/// Where it runs does not matter here: one on a node that is being drained has earned its
/// place, and moves later.
fn is_done(
    state: &ClusterState,
    goal: &Goal<'_>,
    deployment: &Deployment,
    processes: &[Process<'_>],
) -> bool {
    let of_app = || state.instances_of(&goal.app.key);
    let full = processes.iter().filter(|p| p.spec.is_some()).all(|process| {
        let ready = of_app().filter(|i| {
            i.process == *process.name && is_new(goal, deployment, i) && i.is_ready() && is_up(state, i)
        });
        ready.count() as u32 >= process.wanted
    });
    // Those on a node that is down can't be seen to stop.
    let old = |i: &Instance| {
        i.desired == Desired::Run
            && i.observed.phase != Phase::Stopped
            && i.release != deployment.release
            && is_up(state, i)
    };
    full && !of_app().any(|i| old(i))
}

/// A new instance that ended three times in a row, or was killed since it did not become healthy.
fn failing(state: &ClusterState, goal: &Goal<'_>, deployment: &Deployment) -> Option<String> {
    let failing = state.instances_of(&goal.app.key).find(|instance| {
        let seen = &instance.observed;
        is_new(goal, deployment, instance)
            && !seen.ready
            && (seen.failures >= CRASHES_TO_FAIL || matches!(seen.last_exit, Some(Exit::Unhealthy(_))))
            // One from before may have failed for long: this deployment has not made it.
            && instance.created_at >= deployment.started_at
    })?;
    Some(tell_crashes(state, failing))
}

/// `web.1 on node-1 exited with status 1 three times; its last lines: …`
pub(super) fn tell_crashes(state: &ClusterState, instance: &Instance) -> String {
    let place = on_node(state, instance);
    let told = match &instance.observed.last_exit {
        Some(Exit::Unhealthy(why)) => format!("{place} was {why}{}", to_check(state, instance)),
        // Nothing of it ran: it has no lines.
        Some(Exit::StartFailed(why)) => {
            return format!("{place} could not start, {}: {why}", times(instance.observed.failures));
        }
        Some(exit) => format!("{place} {exit} {}", times(instance.observed.failures)),
        None => format!("{place} ended {}", times(instance.observed.failures)),
    };
    format!("{told}{}", last_lines(instance))
}

/// What its health check asks, as a question to whoever wrote the app.
fn to_check(state: &ClusterState, instance: &Instance) -> String {
    let release = state.release(&instance.app, instance.release);
    let Some(process) = release.and_then(|release| release.spec.processes.get(&instance.process)) else {
        return String::new();
    };
    match (&process.health.check, process.port) {
        (Check::Tcp, Some(port)) => {
            format!(" (does the app listen on 0.0.0.0, port {port} ($PORT), and not only on 127.0.0.1?)")
        }
        (Check::Http { path }, Some(port)) => format!(
            " (does the app listen on 0.0.0.0, port {port} ($PORT), and answer GET {path} with 200 to 399?)"
        ),
        _ => String::new(),
    }
}

/// `web.1 on node-1`.
pub(super) fn on_node(state: &ClusterState, instance: &Instance) -> String {
    let node =
        state.nodes.get(&instance.node).map_or_else(|| instance.node.to_string(), |n| n.name.to_string());
    format!("{}.{} on {node}", instance.process, instance.slot)
}

fn times(count: u32) -> String {
    match count {
        1 => "once".into(),
        2 => "twice".into(),
        3 => "three times".into(),
        4 => "four times".into(),
        5 => "five times".into(),
        more => format!("{more} times"),
    }
}

fn last_lines(instance: &Instance) -> String {
    let tail = &instance.observed.log_tail;
    if tail.is_empty() {
        let ended = instance.observed.phase == Phase::Backoff;
        return if ended { "; it wrote nothing to its log".into() } else { String::new() };
    }
    let lines = &tail[tail.len().saturating_sub(LINES_TOLD)..];
    let cut: Vec<String> = lines.iter().map(|line| line.chars().take(LINE_CHARACTERS).collect()).collect();
    format!("; its last lines:\n{}", cut.join("\n"))
}

/// What a deployment was still waiting for when its time was up.
fn overdue(
    state: &ClusterState,
    goal: &Goal<'_>,
    deployment: &Deployment,
    processes: &[Process<'_>],
    pool: &Pool<'_>,
) -> String {
    let allowed = deployment.deadline_at.since(deployment.started_at).as_secs();
    let (what, refusal) = waits_for(state, goal, deployment, processes, pool, true);
    let why = refusal.map(|refusal| format!(": {refusal}")).unwrap_or_default();
    format!("not ready within {allowed} s: {what}{why}")
}

/// The first thing that a deployment waits for; with the refusal where that is a place. Once it
/// is over, also with what to check.
pub(super) fn waits_for(
    state: &ClusterState,
    goal: &Goal<'_>,
    deployment: &Deployment,
    processes: &[Process<'_>],
    pool: &Pool<'_>,
    is_over: bool,
) -> (String, Option<Refusal>) {
    let new: Vec<_> = state.instances_of(&goal.app.key).filter(|i| is_new(goal, deployment, i)).collect();
    if let Some(instance) = new.iter().find(|i| !i.observed.ready || !is_up(state, i)) {
        return (tell_unready(state, instance, is_over), None);
    }
    for process in processes {
        let Some(spec) = process.spec else { continue };
        let there = new.iter().filter(|i| i.process == *process.name).count() as u32;
        if there < process.wanted {
            let ask = Ask { need: spec.need() };
            let lacking = format!("{} of {} {}", process.wanted - there, process.wanted, process.name);
            return if pool.fits(&ask) {
                (format!("{lacking} not yet placed"), None)
            } else {
                (format!("{lacking} can't be placed"), Some(pool.refusal(&ask)))
            };
        }
    }
    let old = state.instances_of(&goal.app.key).find(|i| i.release != deployment.release);
    let text = old.map_or_else(
        || "the last reports of its nodes".to_owned(),
        |old| format!("{} still runs v{}", on_node(state, old), old.release),
    );
    (text, None)
}

fn is_up(state: &ClusterState, instance: &Instance) -> bool {
    state.nodes.get(&instance.node).is_some_and(|node| node.status == NodeStatus::Up)
}

fn tell_unready(state: &ClusterState, instance: &Instance, is_over: bool) -> String {
    let seen = &instance.observed;
    let place = on_node(state, instance);
    let why = |default: &str| if seen.message.is_empty() { default.to_owned() } else { seen.message.clone() };
    if !is_up(state, instance) {
        return format!("{place}, which is down");
    }
    match seen.phase {
        Phase::Pending => format!("{place} was not yet taken up by its node"),
        Phase::Preparing => format!("{place} is being prepared: {}", why("its image is fetched")),
        Phase::Starting | Phase::Running => {
            format!(
                "{place} runs and is not ready: {}{}{}",
                why("its health check has not succeeded"),
                if is_over { to_check(state, instance) } else { String::new() },
                last_lines(instance)
            )
        }
        Phase::Backoff => tell_crashes(state, instance),
        Phase::Stopping | Phase::Stopped => format!("{place} is stopping"),
    }
}
