//! What a target means in the cluster as it is: the app, its process, its instances. Says
//! what may have been meant where there is no such thing.

use super::Fault;
use crate::model::ClusterState;
use crate::model::app::{App, Release};
use crate::model::ids::{AppKey, AppName, ProcessName, TenantName};
use crate::model::instance::Instance;
use crate::model::near::nearest;
use crate::model::target::Target;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) fn parse(text: &str) -> Result<Target, Fault> {
    Target::parse(text).map_err(|error| Fault::Invalid(error.to_string()))
}

pub(super) fn app_name(text: &str) -> Result<AppName, Fault> {
    AppName::new(text).map_err(|error| Fault::Invalid(error.to_string()))
}

pub(super) fn process_name(text: &str) -> Result<ProcessName, Fault> {
    ProcessName::new(text).map_err(|error| Fault::Invalid(error.to_string()))
}

/// The app of that name.
pub(super) fn app<'a>(
    state: &'a ClusterState,
    tenant: &TenantName,
    name: &AppName,
) -> Result<&'a Arc<App>, Fault> {
    let key = AppKey { tenant: tenant.clone(), app: name.clone() };
    state.app(&key).ok_or_else(|| no_app(state, tenant, name))
}

pub(super) fn no_app(state: &ClusterState, tenant: &TenantName, name: &AppName) -> Fault {
    let names = state.apps.keys().filter(|key| key.tenant == *tenant).map(|key| key.app.as_str());
    let hint = match nearest(name.as_str(), names) {
        Some(near) => format!("did you mean {near}?"),
        None if state.apps.is_empty() => "there are none yet; `nodectl deploy` makes one".into(),
        None => "see `nodectl app ls`".into(),
    };
    Fault::NotFound(format!("there is no app {name}: {hint}"))
}

/// The release that the app works towards, else the one that serves.
pub(super) fn release_of<'a>(state: &'a ClusterState, app: &App) -> Option<&'a Arc<Release>> {
    app.target.or(app.serving).and_then(|number| state.release(&app.key, number))
}

/// Checks that the app has the process: in a release that it runs, or among its instances.
pub(super) fn process(state: &ClusterState, app: &App, process: &ProcessName) -> Result<(), Fault> {
    let releases = [app.target, app.serving].into_iter().flatten().filter_map(|n| state.release(&app.key, n));
    let mut names: Vec<&str> = releases.flat_map(|r| r.spec.processes.keys()).map(|p| p.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.contains(&process.as_str()) || state.instances_of(&app.key).any(|i| i.process == *process) {
        return Ok(());
    }
    let app = &app.key;
    Err(Fault::NotFound(match nearest(process.as_str(), names.iter().copied()) {
        Some(near) => format!("app {app} has no process {process}: did you mean {near}?"),
        None if names.is_empty() => format!("app {app} has no process {process}: it has no release yet"),
        None => format!("app {app} has no process {process}: it has {}", names.join(", ")),
    }))
}

/// The instances that the target names, one for each slot: the newest. In the order of
/// process and slot.
pub(super) fn instances(
    state: &ClusterState,
    tenant: &TenantName,
    target: &Target,
) -> Result<Vec<Arc<Instance>>, Fault> {
    let app = app(state, tenant, &target.app)?;
    if let Some(name) = &target.process {
        process(state, app, name)?;
    }
    let mut newest: BTreeMap<(ProcessName, u32), Arc<Instance>> = BTreeMap::new();
    // In the order of their ids, so a later one of the slot replaces an earlier.
    for instance in state.instances_of(&app.key).filter(|instance| matches(target, instance)) {
        newest.insert((instance.process.clone(), instance.slot), instance.clone());
    }
    if newest.is_empty() && target.slot.is_some() {
        // A slot may have two for a while: one that leaves and one that comes.
        let slots: BTreeSet<u32> = state
            .instances_of(&app.key)
            .filter(|i| target.process.as_ref() == Some(&i.process))
            .map(|i| i.slot)
            .collect();
        let slots: Vec<String> = slots.iter().map(u32::to_string).collect();
        let has =
            if slots.is_empty() { "none runs".into() } else { format!("there is {}", slots.join(", ")) };
        return Err(Fault::NotFound(format!(
            "there is no instance {target}: {has}; see `nodectl status {}`",
            target.app
        )));
    }
    Ok(newest.into_values().collect())
}

/// Whether the instance is one of those that the target names (its app is not compared).
pub(super) fn matches(target: &Target, instance: &Instance) -> bool {
    target.process.as_ref().is_none_or(|process| *process == instance.process)
        && target.slot.is_none_or(|slot| slot == instance.slot)
}
