//! The API's states in words: one word for programs (JSON), and one for people with its colour.

use super::output::Tone;
use super::when;
use crate::proto::v1;
use crate::proto::v1::exit::Exit;

pub fn phase(phase: i32) -> &'static str {
    match v1::Phase::try_from(phase) {
        Ok(v1::Phase::Pending) => "pending",
        Ok(v1::Phase::Preparing) => "preparing",
        Ok(v1::Phase::Starting) => "starting",
        Ok(v1::Phase::Running) => "running",
        Ok(v1::Phase::Backoff) => "backoff",
        Ok(v1::Phase::Stopping) => "stopping",
        Ok(v1::Phase::Stopped) => "stopped",
        Err(_) => "unknown",
    }
}

pub fn desired(desired: i32) -> &'static str {
    match v1::Desired::try_from(desired) {
        Ok(v1::Desired::Run) => "run",
        Ok(v1::Desired::Stop) => "stop",
        Err(_) => "unknown",
    }
}

pub fn deployment_status(status: i32) -> &'static str {
    match v1::DeploymentStatus::try_from(status) {
        Ok(v1::DeploymentStatus::Running) => "running",
        Ok(v1::DeploymentStatus::Done) => "done",
        Ok(v1::DeploymentStatus::Failed) => "failed",
        Ok(v1::DeploymentStatus::Reverted) => "reverted",
        Ok(v1::DeploymentStatus::Cancelled) => "cancelled",
        Err(_) => "unknown",
    }
}

pub fn node_status(status: i32) -> &'static str {
    match v1::NodeStatus::try_from(status) {
        Ok(v1::NodeStatus::Up) => "up",
        Ok(v1::NodeStatus::Down) => "down",
        Err(_) => "unknown",
    }
}

/// `shop/web.3`.
pub fn instance_target(instance: &v1::Instance) -> String {
    format!("{}/{}", app_name(instance.app.as_ref()), instance_label(instance))
}

/// `web.3`, where the app is clear.
pub fn instance_label(instance: &v1::Instance) -> String {
    format!("{}.{}", instance.process, instance.slot)
}

pub fn app_name(key: Option<&v1::AppKey>) -> &str {
    key.map_or("", |key| key.app.as_str())
}

/// What an instance is doing, for people.
pub fn instance_state(instance: &v1::Instance) -> (&'static str, Tone) {
    let Some(observed) = &instance.observed else { return ("pending", Tone::Warn) };
    let leaving = instance.desired == v1::Desired::Stop as i32;
    match v1::Phase::try_from(observed.phase) {
        Ok(v1::Phase::Stopped) => ("stopped", Tone::Dim),
        Ok(v1::Phase::Stopping) => ("stopping", Tone::Dim),
        _ if leaving => ("stopping", Tone::Dim),
        Ok(v1::Phase::Running) if observed.ready => ("ready", Tone::Good),
        Ok(v1::Phase::Running) => ("not ready", Tone::Warn),
        Ok(v1::Phase::Backoff) => ("backoff", Tone::Bad),
        _ => (phase(observed.phase), Tone::Warn),
    }
}

/// What there is to say about an instance beyond its state.
pub fn instance_note(instance: &v1::Instance) -> String {
    let Some(observed) = &instance.observed else { return String::new() };
    let mut parts = Vec::new();
    if !observed.message.is_empty() {
        parts.push(observed.message.clone());
    }
    let backs_off = observed.phase == v1::Phase::Backoff as i32;
    let is_well = observed.ready && observed.phase == v1::Phase::Running as i32;
    if let Some(exit) = observed.last_exit.as_ref().and_then(|exit| exit.exit.as_ref())
        && !is_well
    {
        let text = exit_text(exit);
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    if let (true, Some(retry)) = (backs_off, observed.retry_at_ms) {
        parts.push(format!("tries again in {} s", retry.saturating_sub(when::now_ms()).div_ceil(1000)));
    }
    parts.join("; ")
}

/// How a process ended, plainly.
pub fn exit_text(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        Exit::OutOfMemoryLimitBytes(limit) => format!("out of memory (its limit is {})", when::bytes(*limit)),
        Exit::StartFailed(why) => format!("could not start: {why}"),
        Exit::ShimLost(_) => "lost, since its supervisor was killed".to_owned(),
        Exit::Unhealthy(why) => format!("unhealthy: {why}"),
    }
}

/// What an app is doing, for people.
pub fn app_state(status: &v1::AppStatus) -> (String, Tone) {
    let Some(app) = &status.app else { return ("unknown".to_owned(), Tone::Warn) };
    let wanted: u32 = status.processes.iter().map(|process| process.wanted).sum();
    let ready: u32 = status.processes.iter().map(|process| process.ready).sum();
    let deployment = status.deployment.as_ref();
    let deploys = deployment.filter(|deployment| deployment.status == v1::DeploymentStatus::Running as i32);
    if app.removing {
        ("removing".to_owned(), Tone::Dim)
    } else if app.stopped {
        ("stopped".to_owned(), Tone::Dim)
    } else if let Some(deployment) = deploys {
        (format!("deploying v{}", deployment.release), Tone::Warn)
    } else if status.release.is_none() {
        // Its first release has not come up: there is none to run.
        let failed = deployment.is_some_and(|d| d.status == v1::DeploymentStatus::Failed as i32);
        let (text, tone) = if failed { ("failed", Tone::Bad) } else { ("no release", Tone::Dim) };
        (text.to_owned(), tone)
    } else if wanted == 0 {
        ("scaled to 0".to_owned(), Tone::Dim)
    } else if ready == 0 {
        ("down".to_owned(), Tone::Bad)
    } else if ready < wanted {
        ("degraded".to_owned(), Tone::Warn)
    } else {
        ("running".to_owned(), Tone::Good)
    }
}

/// What may be placed on a node, for people.
pub fn node_state(node: &v1::Node) -> (String, Tone) {
    let down = node.status == v1::NodeStatus::Down as i32;
    let mut text = node_status(node.status).to_owned();
    if node.draining {
        text.push_str(", draining");
    } else if node.cordoned {
        text.push_str(", cordoned");
    }
    let tone = match (down, node.draining || node.cordoned) {
        (true, _) => Tone::Bad,
        (false, true) => Tone::Warn,
        (false, false) => Tone::Good,
    };
    (text, tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_whose_first_release_failed_is_failed_and_not_scaled_to_0() {
        let mut status = v1::AppStatus { app: Some(v1::App::default()), ..Default::default() };
        assert_eq!(app_state(&status).0, "no release");
        let failed = v1::DeploymentStatus::Failed as i32;
        status.deployment = Some(v1::Deployment { status: failed, ..Default::default() });
        assert_eq!(app_state(&status).0, "failed");
        status.release = Some(v1::Release::default());
        assert_eq!(app_state(&status).0, "scaled to 0");
    }
}
