//! Apps: deploy, scale, restart, stop, start, remove, and the watches of what comes of it.

use super::stream::{Reply, stopped};
use super::{Api, Fault, OPERATOR, View, Watch, show, target, tenant, why};
use crate::model::ClusterState;
use crate::model::command::{self, Action};
use crate::model::ids::{AppKey, DeploymentId};
use crate::model::manifest::COUNT_MAX;
use crate::model::target::Target;
use crate::proto::v1;
use std::collections::BTreeSet;
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl v1::apps_server::Apps for Api {
    type WatchDeploymentStream = Reply<v1::DeploymentProgress>;
    type StatusStream = Reply<v1::StatusReply>;

    async fn deploy(&self, request: Request<v1::DeployRequest>) -> Result<Response<v1::DeployReply>, Status> {
        Ok(Response::new(self.deploy_app(request.into_inner()).await?))
    }

    async fn watch_deployment(
        &self,
        request: Request<v1::WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let request = request.into_inner();
        let key = AppKey { tenant: tenant(&request.tenant)?, app: target::app_name(&request.app)? };
        let id = DeploymentId(request.deployment);
        // Linearizable: the deployment was made a moment ago, perhaps through another node.
        let view = self.view(false).await?;
        target::app(&view.state, &key.tenant, &key.app)?;
        if !view.state.deployments.contains_key(&(key.clone(), id)) {
            return Err(Fault::NotFound(format!(
                "app {key} has no deployment {id}: see `nodectl status {key}`"
            ))
            .into());
        }
        let watch = Progress { key, id, watch: self.store.watch(), last: None };
        Ok(Response::new(self.until_stopped(futures_util::stream::unfold(Some(watch), Progress::step))))
    }

    async fn cancel_deployment(
        &self,
        request: Request<v1::AppRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        self.change_app(request, |app| Action::CancelDeployment { app }).await
    }

    async fn list(
        &self,
        request: Request<v1::ListAppsRequest>,
    ) -> Result<Response<v1::ListAppsReply>, Status> {
        let request = request.into_inner();
        let query = Query { tenant: tenant(&request.tenant)?, only: None, http_port: self.host.http_port() };
        let view = self.view(request.stale).await?;
        let reply = query.answer(&view)?;
        Ok(Response::new(v1::ListAppsReply { apps: reply.apps, index: reply.index, nodes: reply.nodes }))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let request = request.into_inner();
        let only = match request.target.as_str() {
            "" => None,
            text => Some(target::parse(text)?),
        };
        let query = Query { tenant: tenant(&request.tenant)?, only, http_port: self.host.http_port() };
        let view = self.view(request.stale).await?;
        let first = query.answer(&view)?;
        if !request.follow {
            return Ok(Response::new(self.until_stopped(futures_util::stream::iter([Ok(first)]))));
        }
        let watch = StatusWatch { query, watch: self.store.watch(), last: None };
        Ok(Response::new(self.until_stopped(futures_util::stream::unfold(Some(watch), StatusWatch::step))))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        if request.counts.is_empty() {
            return Err(Fault::Invalid("say how many of which process, such as web=3".into()).into());
        }
        let view = self.view(false).await?;
        let app = target::app(&view.state, &tenant, &target::app_name(&request.app)?)?;
        let mut counts = std::collections::BTreeMap::new();
        for (process, count) in request.counts {
            let process = target::process_name(&process)?;
            target::process(&view.state, app, &process)?;
            if count > COUNT_MAX {
                let text =
                    format!("{process}={count} is too many: a process has at most {COUNT_MAX} instances");
                return Err(Fault::Invalid(text).into());
            }
            counts.insert(process, count);
        }
        self.change(Action::Scale { app: app.key.clone(), counts }).await
    }

    async fn restart(
        &self,
        request: Request<v1::RestartRequest>,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let target = target::parse(&request.target)?;
        let view = self.view(false).await?;
        let app = target::app(&view.state, &tenant, &target.app)?.key.clone();
        if target.process.is_some() {
            target::instances(&view.state, &tenant, &target)?;
        }
        self.change(Action::Restart { app, process: target.process, slot: target.slot }).await
    }

    async fn stop(&self, request: Request<v1::AppRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        self.change_app(request, |app| Action::SetStopped { app, stopped: true }).await
    }

    async fn start(&self, request: Request<v1::AppRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        self.change_app(request, |app| Action::SetStopped { app, stopped: false }).await
    }

    async fn remove(&self, request: Request<v1::AppRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let (tenant, app) = (tenant(&request.get_ref().tenant)?, target::app_name(&request.get_ref().app)?);
        let view = self.view(false).await?;
        // Said twice is no fault: whoever says it again waits for the same end.
        if target::app(&view.state, &tenant, &app)?.removing {
            return Ok(Response::new(v1::ChangeReply { changed: false, index: view.state.index }));
        }
        self.change_app(request, |app| Action::RemoveApp { app }).await
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let view = self.view(false).await?;
        let lines = self.explain(&view, &tenant, &request.target)?;
        Ok(Response::new(v1::WhyReply { lines }))
    }
}

impl Api {
    /// A change of a whole app, that must be there.
    async fn change_app(
        &self,
        request: Request<v1::AppRequest>,
        action: impl FnOnce(AppKey) -> Action,
    ) -> Result<Response<v1::ChangeReply>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let view = self.view(false).await?;
        let app = target::app(&view.state, &tenant, &target::app_name(&request.app)?)?.key.clone();
        self.change(action(app)).await
    }

    pub(super) async fn change(&self, action: Action) -> Result<Response<v1::ChangeReply>, Status> {
        let reply = self.store.propose(OPERATOR, action).await.map_err(Fault::from)?;
        let index = self.store.view().state.index;
        Ok(Response::new(v1::ChangeReply { changed: reply != command::Reply::Unchanged, index }))
    }
}

/// The nodes that the instances are on.
fn nodes_of(state: &ClusterState, instances: &[v1::Instance]) -> Vec<v1::Node> {
    let on: BTreeSet<&str> = instances.iter().map(|instance| instance.node_id.as_str()).collect();
    let nodes = state.nodes.values().map(|node| v1::Node::from(&**node));
    nodes.filter(|node| on.contains(node.id.as_str())).collect()
}

/// What a status call asks.
struct Query {
    tenant: crate::model::ids::TenantName,
    only: Option<Target>,
    http_port: Option<u16>,
}

impl Query {
    fn answer(&self, view: &View) -> Result<v1::StatusReply, Fault> {
        let state = &view.state;
        let mut reply = v1::StatusReply { index: state.index, ..v1::StatusReply::default() };
        match &self.only {
            None => {
                let own = state.apps.values().filter(|app| app.key.tenant == self.tenant);
                reply.apps = own.map(|app| show::app_status(state, app, self.http_port, |_| true)).collect();
                reply.nodes = state.nodes.values().map(|node| v1::Node::from(&**node)).collect();
            }
            Some(only) => {
                let app = target::app(state, &self.tenant, &only.app)?;
                // An error for a process or a slot that is not there.
                target::instances(state, &self.tenant, only)?;
                let wanted = |instance: &crate::model::instance::Instance| target::matches(only, instance);
                let mut status = show::app_status(state, app, self.http_port, wanted);
                if let Some(process) = &only.process {
                    status.processes.retain(|p| p.process == process.as_str());
                }
                reply.nodes = nodes_of(state, &status.instances);
                reply.apps.push(status);
            }
        }
        show::fit(reply, |reply| reply.apps.iter_mut().flat_map(|app| &mut app.instances).collect())
    }
}

/// `status --follow`: a message for each view that shows something else.
struct StatusWatch {
    query: Query,
    watch: Box<dyn Watch>,
    last: Option<v1::StatusReply>,
}

impl StatusWatch {
    async fn step(this: Option<Self>) -> Option<(Result<v1::StatusReply, Fault>, Option<Self>)> {
        let mut this = this?;
        loop {
            let Some(view) = this.watch.changed().await else { return Some((Err(stopped()), None)) };
            let reply = match this.query.answer(&view) {
                Ok(reply) => reply,
                // What was watched is gone (or its process, or its slot): the watch says so and ends.
                Err(fault) => return Some((Err(fault), None)),
            };
            let same = |last: &v1::StatusReply| last.apps == reply.apps && last.nodes == reply.nodes;
            if !this.last.as_ref().is_some_and(same) {
                this.last = Some(reply.clone());
                return Some((Ok(reply), Some(this)));
            }
        }
    }
}

/// One deployment, until it is over.
struct Progress {
    key: AppKey,
    id: DeploymentId,
    watch: Box<dyn Watch>,
    last: Option<v1::DeploymentProgress>,
}

impl Progress {
    async fn step(this: Option<Self>) -> Option<(Result<v1::DeploymentProgress, Fault>, Option<Self>)> {
        let mut this = this?;
        loop {
            let Some(view) = this.watch.changed().await else { return Some((Err(stopped()), None)) };
            let progress = this
                .read(&view)
                .map(|progress| show::fit(progress, |progress| progress.instances.iter_mut().collect()));
            let progress = match progress.transpose() {
                Ok(progress) => progress,
                Err(fault) => return Some((Err(fault), None)),
            };
            let Some(progress) = progress else {
                // A view of this node can be older than the one that showed the deployment.
                if this.last.is_none() && view.state.app(&this.key).is_none_or(|app| !app.removing) {
                    continue;
                }
                let gone = format!("app {} was removed while it was being deployed", this.key);
                return Some((Err(Fault::NotFound(gone)), None));
            };
            let is_same = this.last.as_ref().is_some_and(|last| {
                (&last.deployment, &last.instances, &last.waiting_for)
                    == (&progress.deployment, &progress.instances, &progress.waiting_for)
            });
            if is_same {
                continue;
            }
            this.last = Some(progress.clone());
            let next = (!progress.over).then_some(this);
            return Some((Ok(progress), next));
        }
    }

    fn read(&self, view: &View) -> Option<v1::DeploymentProgress> {
        let state = &view.state;
        let deployment = state.deployments.get(&(self.key.clone(), self.id))?;
        let over = deployment.status.is_over();
        let instances: Vec<_> = state.instances_of(&self.key).map(|i| v1::Instance::from(&**i)).collect();
        Some(v1::DeploymentProgress {
            deployment: Some(v1::Deployment::from(&**deployment)),
            nodes: nodes_of(state, &instances),
            instances,
            waiting_for: if over { String::new() } else { why::waiting_for(state, deployment) },
            over,
            index: state.index,
        })
    }
}
