//! What an app wants now, and how each of its instances stands to that. Everything is read
//! from the state: no rollout is remembered anywhere else.

use crate::model::ClusterState;
use crate::model::app::{App, Deployment, DeploymentStatus, Release};
use crate::model::ids::ReleaseNumber;
use crate::model::instance::{Desired, Instance, Phase};
use crate::model::node::{Node, NodeStatus};

/// What one app wants.
pub(super) struct Goal<'a> {
    pub app: &'a App,
    /// What new instances are made of. `None`: nothing is to run.
    pub place: Option<&'a Release>,
    /// A deployment failed that was not to revert: its release is neither rolled out further
    /// nor taken back. What is ready of it counts, what is not is left for people to look at.
    pub held: Option<&'a Release>,
    /// The deployment that runs.
    pub deployment: Option<&'a Deployment>,
    /// What the running deployment would go back to.
    pub previous: Option<&'a Release>,
}

impl<'a> Goal<'a> {
    pub fn of(state: &'a ClusterState, app: &'a App) -> Goal<'a> {
        let release = |number: ReleaseNumber| state.release(&app.key, number).map(|r| &**r);
        let deployment = app
            .deployment
            .and_then(|id| state.deployments.get(&(app.key.clone(), id)))
            .map(|d| &**d)
            .filter(|d| d.status == DeploymentStatus::Running);
        let runs = !app.stopped && !app.removing;
        let target = app.target.filter(|_| runs);
        let held = target.filter(|_| deployment.is_none() && app.serving.is_some() && app.serving != target);
        let place = if held.is_some() { app.serving } else { target };
        Goal {
            app,
            place: place.and_then(release),
            held: held.and_then(release),
            deployment,
            previous: deployment.and_then(|d| d.previous).and_then(release),
        }
    }

    /// Why everything of the app stops, when nothing is to run.
    pub fn why_nothing(&self) -> &'static str {
        if self.app.removing {
            "the app is being removed"
        } else if self.app.stopped {
            "the app is stopped"
        } else {
            "the app has no release to run"
        }
    }
}

/// How an instance stands to its app's goal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing<'a> {
    /// As wanted, where it may stay.
    Current,
    /// Runs, and is to be replaced.
    Old(Why<'a>),
    /// Of a failed release that is held: left as it is.
    Held,
    /// Its node is down: nothing is known of it. It is replaced elsewhere and kept until the
    /// replacement is ready, so that a node that comes back soon finds it still wanted.
    /// Liveness (who says that a node is down, and when it is lost for good) decides before
    /// this: here a node is down when the state says so.
    Lost(&'a Node),
    /// Told to stop, not yet gone.
    Stopping,
    /// Nothing of it is left on its node, or its node is no longer there.
    Gone,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Why<'a> {
    Release,
    Restart,
    Leaving(&'a Node),
}

pub(super) fn standing<'a>(state: &'a ClusterState, goal: &Goal<'_>, instance: &Instance) -> Standing<'a> {
    let is_of = |release: Option<&Release>| release.is_some_and(|r| r.number == instance.release);
    let Some(node) = state.nodes.get(&instance.node).map(|node| &**node) else { return Standing::Gone };
    if instance.observed.phase == Phase::Stopped {
        Standing::Gone
    } else if instance.desired == Desired::Stop {
        Standing::Stopping
    } else if node.status == NodeStatus::Down {
        Standing::Lost(node)
    } else if is_of(goal.held) && !instance.observed.ready && !node.draining {
        Standing::Held
    } else if !is_of(goal.held) && !is_of(goal.place) {
        Standing::Old(Why::Release)
    } else if instance.generation < goal.app.generation || instance.superseded {
        Standing::Old(Why::Restart)
    } else if node.draining {
        Standing::Old(Why::Leaving(node))
    } else {
        Standing::Current
    }
}
