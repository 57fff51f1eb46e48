//! State → what a person sees of an app: numbers, URLs, and what is wrong in sentences with
//! what to try. Pure.

use super::{Fault, target};
use crate::model::ClusterState;
use crate::model::app::{App, AppSpec, Deployment, DeploymentStatus, Release};
use crate::model::instance::{Desired, Instance, Phase};
use crate::model::project::main_process;
use crate::proto::v1;
use std::sync::Arc;

/// An app as `status` and `app ls` show it. `wanted` chooses among its instances.
pub(super) fn app_status(
    state: &ClusterState,
    app: &App,
    http_port: Option<u16>,
    wanted: impl Fn(&Instance) -> bool,
) -> v1::AppStatus {
    let release = target::release_of(state, app);
    let deployment = deployment_of(state, app);
    let instances: Vec<&Arc<Instance>> = state.instances_of(&app.key).filter(|i| wanted(i)).collect();
    v1::AppStatus {
        app: Some(v1::App::from(app)),
        release: release.map(|release| v1::Release::from(&**release)),
        deployment: deployment.map(|deployment| v1::Deployment::from(&**deployment)),
        urls: release.map(|release| urls(app.key.app.as_str(), &release.spec, http_port)).unwrap_or_default(),
        processes: release.map(|release| processes(state, app, release)).unwrap_or_default(),
        problems: problems(state, app, release, deployment, &instances),
        instances: instances.into_iter().map(|instance| v1::Instance::from(&**instance)).collect(),
    }
}

/// Makes a reply fit a message: the logs' last lines go first, which `logs` has too.
///
/// # Errors
/// Without them it is too large as well.
pub(super) fn fit<M: prost::Message>(
    mut reply: M,
    instances: impl FnOnce(&mut M) -> Vec<&mut v1::Instance>,
) -> Result<M, Fault> {
    // A little is left for what is around the message.
    let limit = super::MESSAGE_BYTES_MAX - 64 * 1024;
    if reply.encoded_len() <= limit {
        return Ok(reply);
    }
    for observed in instances(&mut reply).into_iter().filter_map(|instance| instance.observed.as_mut()) {
        observed.log_tail.clear();
    }
    if reply.encoded_len() <= limit {
        return Ok(reply);
    }
    Err(Fault::TooLarge(
        "this is more than one answer can hold: ask for one app, or one process, at a time".into(),
    ))
}

/// The running deployment, else the last that ended.
fn deployment_of<'a>(state: &'a ClusterState, app: &'a App) -> Option<&'a Arc<Deployment>> {
    let running = app.deployment.and_then(|id| state.deployments.get(&(app.key.clone(), id)));
    running.or_else(|| state.deployments_of(&app.key).last())
}

/// Where the app answers: its own host first, then its routes. Empty without a process that serves.
pub(super) fn urls(app: &str, spec: &AppSpec, http_port: Option<u16>) -> Vec<String> {
    let Some(port) = http_port else { return Vec::new() };
    let port = if port == 80 { String::new() } else { format!(":{port}") };
    let own = format!("{app}.localhost");
    let mut urls = Vec::new();
    if main_process(spec).is_some() {
        urls.push(format!("http://{own}{port}/"));
    }
    for route in &spec.routes {
        let host = route.host.as_deref().unwrap_or(&own);
        let url = format!("http://{host}{port}{}", route.path);
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

fn processes(state: &ClusterState, app: &App, release: &Release) -> Vec<v1::ProcessStatus> {
    let status = |(name, spec): (&_, &_)| {
        let ready = state.instances_of(&app.key).filter(|i| i.process == *name && i.is_ready()).count();
        v1::ProcessStatus {
            process: name.to_string(),
            wanted: if app.stopped { 0 } else { app.count(name, spec) },
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            count_from: if app.scale.contains_key(name) { "scale" } else { "manifest" }.into(),
        }
    };
    release.spec.processes.iter().map(status).collect()
}

fn problems(
    state: &ClusterState,
    app: &App,
    release: Option<&Arc<Release>>,
    deployment: Option<&Arc<Deployment>>,
    instances: &[&Arc<Instance>],
) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(failed) =
        deployment.filter(|d| matches!(d.status, DeploymentStatus::Failed | DeploymentStatus::Reverted))
    {
        let end = if failed.status == DeploymentStatus::Reverted { "was reverted" } else { "failed" };
        problems.push(format!("the deployment of v{} {end}: {}", failed.release, failed.message));
    }
    problems.extend(instances.iter().filter_map(|instance| instance_problem(state, instance)));
    if let Some(release) = release.filter(|_| !app.stopped && !app.removing && app.deployment.is_none()) {
        for (name, spec) in &release.spec.processes {
            let wanted = app.count(name, spec);
            let placed = state
                .instances_of(&app.key)
                .filter(|i| i.process == *name && i.desired == Desired::Run)
                .count();
            let missing = (wanted as usize).saturating_sub(placed);
            if missing > 0 {
                let key = &app.key;
                problems.push(format!(
                    "{missing} of {wanted} {key}/{name} have no place yet: see `nodectl why {key}/{name}`"
                ));
            }
        }
    }
    problems
}

/// What is wrong with one instance, if anything is.
fn instance_problem(state: &ClusterState, instance: &Instance) -> Option<String> {
    let seen = &instance.observed;
    let name = instance.name();
    if let Some(node) =
        state.nodes.get(&instance.node).filter(|n| n.status == crate::model::node::NodeStatus::Down)
    {
        return Some(format!("{name} is on node {}, which is down", node.name));
    }
    if instance.desired == Desired::Stop {
        return None;
    }
    let reason = match (&seen.last_exit, seen.message.as_str()) {
        (Some(exit), "") => exit.to_string(),
        (Some(exit), message) if seen.phase == Phase::Backoff => format!("{exit} ({message})"),
        (_, message) => message.to_owned(),
    };
    match seen.phase {
        Phase::Backoff | Phase::Stopped => {
            let times =
                if seen.failures > 1 { format!(", {} times in a row", seen.failures) } else { String::new() };
            Some(format!("{name} {reason}{times}: see `nodectl logs {name}`"))
        }
        Phase::Running if !seen.ready && !seen.message.is_empty() => {
            Some(format!("{name} runs but is not ready: {}", seen.message))
        }
        _ => None,
    }
}
