//! `ClusterState::apply`: the one place where the state changes. Deterministic: it reads the
//! state and the command, nothing else. It refuses, it never fails.
//!
//! People's commands are here; the controller's changes are in `changes.rs`, the agents'
//! reports in `observe.rs`.

use super::app::{App, Deployment, DeploymentStatus, Release};
use super::changes::FilledSlots;
use super::command::{Action, Command, NodeFacts, Outcome, Rejection, Reply, Touched};
use super::event::{Event, EventKind};
use super::ids::{AppKey, DeploymentId, NodeId, ProcessName, ReleaseNumber};
use super::node::{Node, NodeStatus};
use super::state::ClusterState;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The last releases of an app that are kept (PRODUCT D1).
const RELEASES_KEPT: usize = 50;
/// Finished deployments of an app that are kept: they explain the releases.
const DEPLOYMENTS_KEPT: usize = 50;

/// What one command has done so far.
pub(super) struct Effects<'a> {
    pub index: u64,
    pub command: &'a Command,
    pub touched: Touched,
    pub refused: u32,
    pub events: Vec<Event>,
    /// What `Place` finds taken; read when a command first places something of an app.
    pub filled: BTreeMap<AppKey, FilledSlots>,
}

impl Effects<'_> {
    pub fn event(
        &mut self,
        kind: EventKind,
        app: Option<&AppKey>,
        target: String,
        message: String,
    ) -> &mut Event {
        let sub = self.events.len() as u32;
        self.events.push(Event {
            index: self.index,
            sub,
            at: self.command.at,
            kind,
            app: app.cloned(),
            instance: None,
            target,
            node: None,
            message,
        });
        self.events.last_mut().expect("just pushed")
    }
    pub fn touch(&mut self, app: &AppKey) {
        self.touched.apps.insert(app.clone());
    }
}

impl ClusterState {
    /// Applies the command at log `index`. Equal state and command give equal results on
    /// every server. Events are what watchers will see; a rejected command has none.
    pub fn apply(&mut self, index: u64, command: &Command) -> (Outcome, Vec<Event>) {
        self.index = index;
        self.now = self.now.max(command.at);
        let mut effects = Effects {
            index,
            command,
            touched: Touched::default(),
            refused: 0,
            events: Vec::new(),
            filled: BTreeMap::new(),
        };
        let result = self.act(&mut effects);
        let mut outcome =
            Outcome { touched: effects.touched, refused: effects.refused, ..Outcome::default() };
        match result {
            Ok(reply) => outcome.reply = reply,
            Err(rejection) => {
                debug_assert!(outcome.touched.is_empty(), "a refused command changes nothing");
                outcome.result = Some(rejection);
                return (outcome, Vec::new());
            }
        }
        (outcome, effects.events)
    }

    fn act(&mut self, fx: &mut Effects<'_>) -> Result<Reply, Rejection> {
        let command = fx.command;
        match &command.action {
            Action::InitCluster { cluster_id } => self.init_cluster(*cluster_id),
            Action::RegisterNode(facts) => self.register_node(fx, facts),
            Action::SetNodeMode { node, cordoned, draining } => self.change_node(fx, *node, |node| {
                node.cordoned = cordoned.unwrap_or(node.cordoned);
                node.draining = draining.unwrap_or(node.draining);
            }),
            Action::SetNodeStatus { node, status } => {
                self.change_node(fx, *node, |node| node.status = *status)
            }
            Action::LabelNode { node, set, remove } => self.change_node(fx, *node, |node| {
                node.labels.retain(|key, _| !remove.contains(key));
                node.labels.extend(set.clone());
            }),
            Action::Deploy { .. } => self.deploy(fx),
            Action::Scale { app, counts } => self.scale(fx, app, counts),
            Action::Restart { app, process, slot } => self.restart(fx, app, process.as_ref(), *slot),
            Action::SetStopped { app, stopped } => self.set_stopped(fx, app, *stopped),
            Action::RemoveApp { app } => self.remove_app(fx, app),
            Action::CancelDeployment { app } => self.cancel_deployment(fx, app),
            Action::SetImage { tenant, name, image } => {
                fx.event(
                    EventKind::ImageChanged,
                    None,
                    name.clone(),
                    format!("image {name} is {}", image.digest),
                );
                self.images.insert((tenant.clone(), name.clone()), Arc::new(image.clone()));
                fx.touched.images = true;
                Ok(Reply::Done)
            }
            Action::RemoveImage { tenant, name } => {
                if self.images.remove(&(tenant.clone(), name.clone())).is_none() {
                    return Err(Rejection::NotFound(format!(
                        "there is no image {name}: see `nodectl image ls`"
                    )));
                }
                fx.event(EventKind::ImageChanged, None, name.clone(), format!("image name {name} removed"));
                fx.touched.images = true;
                Ok(Reply::Done)
            }
            Action::Apply { changes, .. } => {
                for change in changes {
                    self.apply_change(fx, change);
                }
                Ok(Reply::Done)
            }
            Action::Observe { node, reports } => {
                for report in reports {
                    self.observe(fx, *node, report);
                }
                Ok(Reply::Done)
            }
        }
    }

    fn init_cluster(&mut self, cluster_id: u128) -> Result<Reply, Rejection> {
        if self.cluster_id != 0 {
            return Err(Rejection::Conflict("the cluster exists already".into()));
        }
        self.cluster_id = cluster_id;
        self.incarnation = 1;
        self.feature_level = 1;
        Ok(Reply::Done)
    }

    fn register_node(&mut self, fx: &mut Effects<'_>, facts: &NodeFacts) -> Result<Reply, Rejection> {
        if let Some(other) = self.nodes.values().find(|n| n.name == facts.name && n.id != facts.id) {
            return Err(Rejection::Conflict(format!(
                "another node is named {}: choose another name",
                other.name
            )));
        }
        let old = self.nodes.get(&facts.id);
        let node = Node {
            id: facts.id,
            name: facts.name.clone(),
            zone: facts.zone.clone(),
            pool: facts.pool.clone(),
            labels: old.map_or_else(|| facts.labels.clone(), |old| old.labels.clone()),
            capacity: facts.capacity,
            platform: facts.platform.clone(),
            version: facts.version.clone(),
            addresses: facts.addresses.clone(),
            raft_id: facts.raft_id,
            cordoned: old.is_some_and(|old| old.cordoned),
            draining: old.is_some_and(|old| old.draining),
            status: NodeStatus::Up,
            joined_at: old.map_or(fx.command.at, |old| old.joined_at),
            modified: fx.index,
        };
        let message = if old.is_some() { "is up again" } else { "joined" };
        fx.event(
            EventKind::NodeChanged,
            None,
            node.name.to_string(),
            format!("node {} {message}", node.name),
        )
        .node = Some(node.id);
        fx.touched.nodes.insert(node.id);
        self.nodes.insert(node.id, Arc::new(node));
        Ok(Reply::Done)
    }

    fn change_node(
        &mut self,
        fx: &mut Effects<'_>,
        id: NodeId,
        change: impl FnOnce(&mut Node),
    ) -> Result<Reply, Rejection> {
        let old = self.nodes.get(&id).ok_or_else(|| Rejection::NotFound(format!("there is no node {id}")))?;
        let mut node = Node::clone(old);
        change(&mut node);
        if node == **old {
            return Ok(Reply::Unchanged);
        }
        node.modified = fx.index;
        let message = format!(
            "node {} is {}{}{}",
            node.name,
            if node.status == NodeStatus::Up { "up" } else { "down" },
            if node.cordoned { ", cordoned" } else { "" },
            if node.draining { ", draining" } else { "" },
        );
        fx.event(EventKind::NodeChanged, None, node.name.to_string(), message).node = Some(id);
        fx.touched.nodes.insert(id);
        self.nodes.insert(id, Arc::new(node));
        Ok(Reply::Done)
    }

    fn deploy(&mut self, fx: &mut Effects<'_>) -> Result<Reply, Rejection> {
        let Action::Deploy { app: key, image, image_name, spec, hash, force, reset_scale } =
            &fx.command.action
        else {
            unreachable!("called for Deploy only")
        };
        self.check_routes(key, spec)?;
        let at = fx.command.at;
        let mut app = match self.apps.get(key) {
            Some(app) if app.removing => {
                return Err(Rejection::Conflict(format!(
                    "app {key} is being removed: try again in a moment"
                )));
            }
            Some(app) => App::clone(app),
            None => App {
                key: key.clone(),
                created_at: at,
                modified: fx.index,
                target: None,
                serving: None,
                next_release: 1,
                deployment: None,
                stopped: false,
                removing: false,
                scale: Default::default(),
                generation: 0,
            },
        };
        let same = self.releases_of(key).find(|r| r.hash == *hash).map(|r| r.number);
        let (number, reused) = match same {
            Some(number) => (number, true),
            None => (ReleaseNumber(app.next_release), false),
        };
        if let Some(running) = app.deployment {
            if !force {
                return Err(Rejection::Conflict(format!(
                    "app {key} is being deployed already (v{}): wait for it (`nodectl status {key} --watch`), or \
                     take over with --force",
                    app.target.unwrap_or_default()
                )));
            }
            self.end_deployment(
                fx,
                key,
                running,
                DeploymentStatus::Cancelled,
                if app.target == Some(number) {
                    format!("superseded by another deploy of v{number}")
                } else {
                    format!("superseded by v{number}")
                },
            );
        }
        if !reused {
            app.next_release += 1;
            let release = Release {
                app: key.clone(),
                number,
                hash: hash.clone(),
                image: image.clone(),
                image_name: image_name.clone(),
                spec: spec.clone(),
                created_at: at,
                created_by: fx.command.by.clone(),
            };
            self.releases.insert((key.clone(), number), Arc::new(release));
        }
        if *reset_scale {
            app.scale.clear();
        }
        self.next_deployment += 1;
        let id = DeploymentId(self.next_deployment);
        let deployment = Deployment {
            id,
            app: key.clone(),
            release: number,
            previous: app.serving,
            status: DeploymentStatus::Running,
            started_at: at,
            deadline_at: at.saturating_add(spec.deploy.deadline),
            finished_at: None,
            message: String::new(),
            by: fx.command.by.clone(),
            modified: fx.index,
        };
        self.deployments.insert((key.clone(), id), Arc::new(deployment));
        app.deployment = Some(id);
        app.target = Some(number);
        app.stopped = false;
        app.modified = fx.index;
        self.apps.insert(key.clone(), Arc::new(app));
        self.forget_old(key);
        fx.touch(key);
        let message = format!("v{number} ({image_name}) is being deployed");
        fx.event(EventKind::Deployed, Some(key), key.to_string(), message);
        Ok(Reply::Deployed { release: number, deployment: id, reused })
    }

    /// A host and path belong to one app.
    fn check_routes(&self, key: &AppKey, spec: &super::app::AppSpec) -> Result<(), Rejection> {
        let own = format!("{key}.localhost");
        for route in &spec.routes {
            if !spec.processes.contains_key(&route.process) {
                return Err(Rejection::Invalid(format!(
                    "the route {}{} leads to process {:?}, which the app does not have",
                    route.host.as_deref().unwrap_or("*"),
                    route.path,
                    route.process.as_str()
                )));
            }
            if let Some(host) = &route.host
                && let Some(owner) = host.strip_suffix(".localhost")
                && *host != own
                && self.apps.keys().any(|other| other.app.as_str() == owner)
            {
                return Err(Rejection::Conflict(format!("the host {host} belongs to app {owner}")));
            }
            for (other, app) in &self.apps {
                if other == key {
                    continue;
                }
                let numbers = [app.target, app.serving];
                for release in numbers.into_iter().flatten().filter_map(|n| self.release(other, n)) {
                    if release.spec.routes.iter().any(|r| r.host == route.host && r.path == route.path) {
                        return Err(Rejection::Conflict(format!(
                            "the route {}{} belongs to app {other}: choose another host or path, or remove it there",
                            route.host.as_deref().unwrap_or("*"),
                            route.path
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends a deployment, and frees the app's lock. A failed one that may revert sets the
    /// target back to what served.
    pub(super) fn end_deployment(
        &mut self,
        fx: &mut Effects<'_>,
        key: &AppKey,
        id: DeploymentId,
        status: DeploymentStatus,
        message: String,
    ) {
        let Some(old) = self.deployments.get(&(key.clone(), id)).filter(|d| !d.status.is_over()) else {
            return;
        };
        let mut deployment = Deployment::clone(old);
        deployment.status = status;
        deployment.finished_at = Some(fx.command.at);
        deployment.message = message.clone();
        deployment.modified = fx.index;
        if let Some(app) = self.apps.get(key) {
            let mut app = App::clone(app);
            app.deployment = None;
            match status {
                DeploymentStatus::Done => app.serving = Some(deployment.release),
                DeploymentStatus::Reverted => app.target = deployment.previous,
                DeploymentStatus::Failed if deployment.previous.is_none() => app.target = None,
                DeploymentStatus::Cancelled => app.target = deployment.previous,
                DeploymentStatus::Failed | DeploymentStatus::Running => {}
            }
            app.modified = fx.index;
            self.apps.insert(key.clone(), Arc::new(app));
        }
        let verdict = match status {
            DeploymentStatus::Done => "done",
            DeploymentStatus::Failed => "failed",
            DeploymentStatus::Reverted => "reverted",
            DeploymentStatus::Cancelled => "cancelled",
            DeploymentStatus::Running => "running",
        };
        let text = format!("deployment of v{} {verdict}: {message}", deployment.release);
        self.deployments.insert((key.clone(), id), Arc::new(deployment));
        fx.touch(key);
        fx.event(EventKind::DeploymentEnded, Some(key), key.to_string(), text);
    }

    /// Keeps the newest releases and deployments, and every release that is in use.
    fn forget_old(&mut self, key: &AppKey) {
        let Some(app) = self.apps.get(key).cloned() else { return };
        let in_use: Vec<ReleaseNumber> = self.instances_of(key).map(|i| i.release).collect();
        let numbers: Vec<ReleaseNumber> = self.releases_of(key).map(|r| r.number).collect();
        let surplus = numbers.len().saturating_sub(RELEASES_KEPT);
        for number in numbers.into_iter().take(surplus) {
            if app.target != Some(number) && app.serving != Some(number) && !in_use.contains(&number) {
                self.releases.remove(&(key.clone(), number));
            }
        }
        let over: Vec<DeploymentId> =
            self.deployments_of(key).filter(|d| d.status.is_over()).map(|d| d.id).collect();
        let surplus = over.len().saturating_sub(DEPLOYMENTS_KEPT);
        for id in over.into_iter().take(surplus) {
            self.deployments.remove(&(key.clone(), id));
        }
    }

    /// The app, unless it is not there or on its way out.
    fn living_app(&self, key: &AppKey) -> Result<App, Rejection> {
        match self.apps.get(key) {
            Some(app) if app.removing => Err(Rejection::Conflict(format!("app {key} is being removed"))),
            Some(app) => Ok(App::clone(app)),
            None => Err(Rejection::NotFound(format!("there is no app {key}: see `nodectl app ls`"))),
        }
    }

    fn put_app(&mut self, fx: &mut Effects<'_>, mut app: App) {
        app.modified = fx.index;
        fx.touch(&app.key);
        self.apps.insert(app.key.clone(), Arc::new(app));
    }

    fn check_process(&self, app: &App, process: &ProcessName) -> Result<(), Rejection> {
        let known = app.target.and_then(|n| self.release(&app.key, n));
        match known {
            Some(release) if release.spec.processes.contains_key(process) => Ok(()),
            Some(release) => {
                let names: Vec<&str> = release.spec.processes.keys().map(|p| p.as_str()).collect();
                Err(Rejection::NotFound(format!(
                    "app {} has no process {process}: it has {}",
                    app.key,
                    names.join(", ")
                )))
            }
            None => Err(Rejection::Conflict(format!("app {} has no release yet: deploy one first", app.key))),
        }
    }

    fn scale(
        &mut self,
        fx: &mut Effects<'_>,
        key: &AppKey,
        counts: &std::collections::BTreeMap<ProcessName, u32>,
    ) -> Result<Reply, Rejection> {
        let mut app = self.living_app(key)?;
        for process in counts.keys() {
            self.check_process(&app, process)?;
        }
        app.scale.extend(counts.iter().map(|(p, n)| (p.clone(), *n)));
        let text: Vec<String> = counts.iter().map(|(p, n)| format!("{p}={n}")).collect();
        fx.event(EventKind::Scaled, Some(key), key.to_string(), format!("scaled to {}", text.join(" ")));
        self.put_app(fx, app);
        Ok(Reply::Done)
    }

    fn restart(
        &mut self,
        fx: &mut Effects<'_>,
        key: &AppKey,
        process: Option<&ProcessName>,
        slot: Option<u32>,
    ) -> Result<Reply, Rejection> {
        let mut app = self.living_app(key)?;
        let Some(process) = process else {
            app.generation += 1;
            fx.event(EventKind::Restarted, Some(key), key.to_string(), "restart of every instance".into());
            self.put_app(fx, app);
            return Ok(Reply::Done);
        };
        self.check_process(&app, process)?;
        let named: Vec<_> = self
            .instances_of(key)
            .filter(|i| i.process == *process && slot.is_none_or(|s| s == i.slot))
            .cloned()
            .collect();
        let chosen: Vec<_> = named.iter().filter(|i| !i.superseded).cloned().collect();
        if chosen.is_empty() && !named.is_empty() {
            return Ok(Reply::Unchanged);
        }
        if chosen.is_empty() {
            let name = slot.map_or(process.to_string(), |slot| format!("{process}.{slot}"));
            return Err(Rejection::NotFound(format!(
                "app {key} has no instance {name}: see `nodectl status {key}`"
            )));
        }
        for old in chosen {
            let mut instance = super::instance::Instance::clone(&old);
            instance.superseded = true;
            instance.modified = fx.index;
            fx.event(EventKind::Restarted, Some(key), instance.name(), "restart".into()).instance =
                Some(instance.id);
            self.put_instance(instance);
        }
        fx.touch(key);
        Ok(Reply::Done)
    }

    fn set_stopped(&mut self, fx: &mut Effects<'_>, key: &AppKey, stopped: bool) -> Result<Reply, Rejection> {
        let mut app = self.living_app(key)?;
        if app.stopped == stopped {
            return Ok(Reply::Unchanged);
        }
        if !stopped && app.target.is_none() {
            return Err(Rejection::Conflict(format!("app {key} has no release to start: deploy one first")));
        }
        if stopped && let Some(running) = app.deployment {
            self.end_deployment(fx, key, running, DeploymentStatus::Cancelled, "the app was stopped".into());
            app = self.living_app(key)?;
        }
        app.stopped = stopped;
        let (kind, text) =
            if stopped { (EventKind::Stopped, "app stopped") } else { (EventKind::Started, "app started") };
        fx.event(kind, Some(key), key.to_string(), text.into());
        self.put_app(fx, app);
        Ok(Reply::Done)
    }

    fn remove_app(&mut self, fx: &mut Effects<'_>, key: &AppKey) -> Result<Reply, Rejection> {
        let mut app = self.living_app(key)?;
        if let Some(running) = app.deployment {
            self.end_deployment(fx, key, running, DeploymentStatus::Cancelled, "the app was removed".into());
            app = self.living_app(key)?;
        }
        app.removing = true;
        app.stopped = true;
        fx.event(EventKind::Removed, Some(key), key.to_string(), "app is being removed".into());
        self.put_app(fx, app);
        Ok(Reply::Done)
    }

    fn cancel_deployment(&mut self, fx: &mut Effects<'_>, key: &AppKey) -> Result<Reply, Rejection> {
        let app = self.living_app(key)?;
        let Some(running) = app.deployment else {
            return Err(Rejection::Conflict(format!("app {key} is not being deployed")));
        };
        let message = format!("cancelled by {}", fx.command.by);
        self.end_deployment(fx, key, running, DeploymentStatus::Cancelled, message);
        Ok(Reply::Done)
    }
}
