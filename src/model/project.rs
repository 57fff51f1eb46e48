//! Projections: what one consumer needs of the state, derived from a snapshot and nothing else.

use super::app::{AppSpec, ProcessSpec, Release};
use super::ids::{AppKey, NodeId, ProcessKey, ProcessName, ViewVersion};
use super::instance::{Desired, Instance, Phase};
use super::routes::{Backend, RoutingTable, Rule, Service};
use super::state::ClusterState;
use std::sync::Arc;

/// What a node is to run, with all that it needs to do so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignments {
    pub version: ViewVersion,
    /// In the order of their ids.
    pub instances: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub instance: Arc<Instance>,
    pub release: Arc<Release>,
}

impl Assignment {
    /// The process as the release describes it. A release is checked when it is made, so
    /// an instance's process is always in it.
    pub fn process(&self) -> Option<&ProcessSpec> {
        self.release.spec.processes.get(&self.instance.process)
    }
}

/// The version of the view that a state is.
pub fn view_version(state: &ClusterState) -> ViewVersion {
    ViewVersion { incarnation: state.incarnation, index: state.index }
}

/// State -> one node's assignments.
pub fn assignments(state: &ClusterState, node: NodeId) -> Assignments {
    let instances = state
        .instances_on(node)
        .filter_map(|instance| {
            let release = state.release(&instance.app, instance.release)?.clone();
            Some(Assignment { instance: instance.clone(), release })
        })
        .collect();
    Assignments { version: view_version(state), instances }
}

/// The process that an app's own host leads to: `web`, else the first that has a port.
pub fn main_process(spec: &AppSpec) -> Option<&ProcessName> {
    let serves = |(_, process): &(&ProcessName, &ProcessSpec)| process.port.is_some();
    let mut serving = spec.processes.iter().filter(serves);
    let first = serving.clone().next();
    serving.find(|(name, _)| name.as_str() == "web").or(first).map(|(name, _)| name)
}

/// State -> the table that every proxy serves.
pub fn routing_table(state: &ClusterState) -> RoutingTable {
    let mut table = RoutingTable { version: view_version(state), ..RoutingTable::default() };
    for (key, app) in &state.apps {
        // The rules of what serves; those of the target only while nothing has served yet.
        let Some(number) = app.serving.or(app.target) else { continue };
        let Some(release) = state.release(key, number) else { continue };
        if app.removing {
            continue;
        }
        add_rules(&mut table, key, &release.spec);
        for (name, _) in release.spec.processes.iter().filter(|(_, p)| p.port.is_some()) {
            let to = ProcessKey { app: key.clone(), process: name.clone() };
            let service = service(state, key, name);
            table.services.insert(to, service);
        }
    }
    // Exact hosts first, then longer paths: the most particular rule wins.
    table.rules.sort_by(|a, b| {
        (a.host.is_none(), &a.host, std::cmp::Reverse(a.path.len()), &a.path).cmp(&(
            b.host.is_none(),
            &b.host,
            std::cmp::Reverse(b.path.len()),
            &b.path,
        ))
    });
    table
}

fn add_rules(table: &mut RoutingTable, key: &AppKey, spec: &AppSpec) {
    for route in &spec.routes {
        let to = ProcessKey { app: key.clone(), process: route.process.clone() };
        table.rules.push(Rule { host: route.host.clone(), path: route.path.clone(), to });
    }
    let own = format!("{key}.localhost");
    let claimed = spec.routes.iter().any(|r| r.host.as_deref() == Some(&own) && r.path == "/");
    if let Some(process) = main_process(spec).filter(|_| !claimed) {
        let to = ProcessKey { app: key.clone(), process: process.clone() };
        table.rules.push(Rule { host: Some(own), path: "/".into(), to });
    }
}

fn service(state: &ClusterState, key: &AppKey, process: &ProcessName) -> Service {
    let mut service = Service::default();
    for instance in state.instances_of(key).filter(|i| i.process == *process) {
        match instance.observed.address {
            Some(address) if instance.is_ready() => service.backends.push(Backend {
                instance: instance.id,
                attempt: instance.observed.attempt,
                address,
                weight: 1,
            }),
            _ => {
                let coming =
                    matches!(instance.observed.phase, Phase::Pending | Phase::Preparing | Phase::Starting);
                service.expected |= instance.desired == Desired::Run && coming;
            }
        }
    }
    service
}
