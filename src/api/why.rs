//! `why`: the scheduler's own explanation of an app, a process, an instance or a node.

use super::{Api, Fault, View, nodes, target};
use crate::clock;
use crate::model::ClusterState;
use crate::model::app::Deployment;
use crate::model::ids::{AppKey, ProcessKey, TenantName};
use crate::model::target::Target;
use crate::scheduler::explain::{Finding, Subject, why};

impl Api {
    pub(super) fn explain(&self, view: &View, tenant: &TenantName, text: &str) -> Result<Vec<String>, Fault> {
        let subject = subject(&view.state, tenant, text)?;
        let explanation = why(&view.state, &subject, clock::now().max(view.state.now));
        let lines = explanation.findings.iter().map(ToString::to_string).collect::<Vec<_>>();
        Ok(lines.iter().flat_map(|text| text.lines()).map(str::to_owned).collect())
    }
}

/// An app before a node, where both have the name: apps are asked about more.
fn subject(state: &ClusterState, tenant: &TenantName, text: &str) -> Result<Subject, Fault> {
    let node = || nodes::find(state, text).ok().map(|node| Subject::Node(node.name.clone()));
    let Target { app, process, slot } = match target::parse(text) {
        Ok(target) => target,
        Err(fault) => return node().ok_or(fault),
    };
    let key = AppKey { tenant: tenant.clone(), app };
    let Some(app) = state.app(&key) else {
        let node = if process.is_none() { node() } else { None };
        return node.ok_or_else(|| match target::no_app(state, tenant, &key.app) {
            // What was asked about could have been either.
            Fault::NotFound(text) if process.is_none() && text.ends_with("see `nodectl app ls`") => {
                let name = &key.app;
                Fault::NotFound(format!(
                    "there is no app and no node {name}: see `nodectl app ls` and `nodectl node ls`"
                ))
            }
            other => other,
        });
    };
    let Some(process) = process else { return Ok(Subject::App(key)) };
    target::process(state, app, &process)?;
    let process = ProcessKey { app: key, process };
    Ok(match slot {
        Some(slot) => Subject::Instance { process, slot },
        None => Subject::Process(process),
    })
}

/// What a running deployment waits for, in a sentence.
pub(super) fn waiting_for(state: &ClusterState, deployment: &Deployment) -> String {
    let explanation = why(state, &Subject::App(deployment.app.clone()), state.now);
    let waits = explanation.findings.into_iter().find_map(|finding| match finding {
        Finding::Deploying { release, waits_for, .. } if release == deployment.release => Some(waits_for),
        _ => None,
    });
    waits.unwrap_or_default()
}
