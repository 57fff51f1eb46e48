//! Apps, releases, what they say of their processes, and deployments.

use super::{
    Error, Within, counts_from_wire, counts_to_wire, digest, known, millis, ms, name, narrow, required,
    timestamp,
};
use crate::model::app::{
    App, AppSpec, Check, DeployPolicy, Deployment, DeploymentStatus, Health, ProcessSpec, Release, RouteSpec,
    Share, StopPolicy, Strategy, UserNamespace,
};
use crate::model::ids::{DeploymentId, ProcessName, ReleaseNumber};
use crate::proto::v1;
use std::sync::Arc;
use std::time::Duration;

impl From<&App> for v1::App {
    fn from(app: &App) -> Self {
        v1::App {
            key: Some((&app.key).into()),
            created_at_ms: ms(app.created_at),
            modified: app.modified,
            target: app.target.map(|n| n.0),
            serving: app.serving.map(|n| n.0),
            next_release: app.next_release,
            deployment: app.deployment.map(|d| d.0),
            stopped: app.stopped,
            removing: app.removing,
            scale: counts_to_wire(&app.scale),
            generation: app.generation,
        }
    }
}

impl TryFrom<v1::App> for App {
    type Error = Error;
    fn try_from(app: v1::App) -> Result<Self, Error> {
        Ok(App {
            key: required(app.key, "key")?,
            created_at: timestamp(app.created_at_ms),
            modified: app.modified,
            target: app.target.map(ReleaseNumber),
            serving: app.serving.map(ReleaseNumber),
            next_release: app.next_release,
            deployment: app.deployment.map(DeploymentId),
            stopped: app.stopped,
            removing: app.removing,
            scale: counts_from_wire(app.scale, "scale")?,
            generation: app.generation,
        })
    }
}

impl From<&Release> for v1::Release {
    fn from(release: &Release) -> Self {
        v1::Release {
            app: Some((&release.app).into()),
            number: release.number.0,
            hash: release.hash.clone(),
            image_digest: release.image.to_string(),
            image_name: release.image_name.clone(),
            spec: Some((&*release.spec).into()),
            created_at_ms: ms(release.created_at),
            created_by: release.created_by.clone(),
        }
    }
}

impl TryFrom<v1::Release> for Release {
    type Error = Error;
    fn try_from(release: v1::Release) -> Result<Self, Error> {
        Ok(Release {
            app: required(release.app, "app")?,
            number: ReleaseNumber(release.number),
            hash: release.hash,
            image: digest(&release.image_digest, "image_digest")?,
            image_name: release.image_name,
            spec: Arc::new(required(release.spec, "spec")?),
            created_at: timestamp(release.created_at_ms),
            created_by: release.created_by,
        })
    }
}

impl From<&AppSpec> for v1::AppSpec {
    fn from(spec: &AppSpec) -> Self {
        v1::AppSpec {
            processes: spec
                .processes
                .iter()
                .map(|(name, process)| (name.to_string(), process.into()))
                .collect(),
            routes: spec.routes.iter().map(Into::into).collect(),
            env: spec.env.clone(),
            deploy: Some((&spec.deploy).into()),
        }
    }
}

impl TryFrom<v1::AppSpec> for AppSpec {
    type Error = Error;
    fn try_from(spec: v1::AppSpec) -> Result<Self, Error> {
        let mut processes = std::collections::BTreeMap::new();
        for (key, process) in spec.processes {
            let process = ProcessSpec::try_from(process).within(&format!("processes[{key}]"))?;
            processes.insert(name(ProcessName::new(&key), "processes")?, process);
        }
        let mut routes = Vec::with_capacity(spec.routes.len());
        for (i, route) in spec.routes.into_iter().enumerate() {
            routes.push(RouteSpec::try_from(route).within(&format!("routes[{i}]"))?);
        }
        Ok(AppSpec { processes, routes, env: spec.env, deploy: required(spec.deploy, "deploy")? })
    }
}

impl From<&ProcessSpec> for v1::ProcessSpec {
    fn from(process: &ProcessSpec) -> Self {
        v1::ProcessSpec {
            command: process.command.clone().map(|items| v1::StringList { items }),
            count: process.count,
            cpu_milli: process.cpu_milli,
            cpu_max_milli: process.cpu_max_milli,
            memory_bytes: process.memory_bytes,
            pids_max: process.pids_max,
            port: process.port.map(u32::from),
            health: Some((&process.health).into()),
            stop: Some((&process.stop).into()),
            env: process.env.clone(),
            user_namespace: v1::UserNamespace::from(process.user_namespace).into(),
            read_only_root: process.read_only_root,
        }
    }
}

impl TryFrom<v1::ProcessSpec> for ProcessSpec {
    type Error = Error;
    fn try_from(process: v1::ProcessSpec) -> Result<Self, Error> {
        Ok(ProcessSpec {
            command: process.command.map(|list| list.items),
            count: process.count,
            cpu_milli: process.cpu_milli,
            cpu_max_milli: process.cpu_max_milli,
            memory_bytes: process.memory_bytes,
            pids_max: process.pids_max,
            port: process.port.map(|port| narrow(port, "port")).transpose()?,
            health: required(process.health, "health")?,
            stop: required(process.stop, "stop")?,
            env: process.env,
            user_namespace: known::<v1::UserNamespace>(process.user_namespace, "user_namespace")?.into(),
            read_only_root: process.read_only_root,
        })
    }
}

impl From<UserNamespace> for v1::UserNamespace {
    fn from(value: UserNamespace) -> Self {
        match value {
            UserNamespace::Private => v1::UserNamespace::Private,
            UserNamespace::Host => v1::UserNamespace::Host,
        }
    }
}

impl From<v1::UserNamespace> for UserNamespace {
    fn from(value: v1::UserNamespace) -> Self {
        match value {
            v1::UserNamespace::Private => UserNamespace::Private,
            v1::UserNamespace::Host => UserNamespace::Host,
        }
    }
}

impl From<&Health> for v1::Health {
    fn from(health: &Health) -> Self {
        let check = match &health.check {
            Check::Tcp => v1::health::Check::Tcp(v1::TcpCheck {}),
            Check::Http { path } => v1::health::Check::Http(v1::HttpCheck { path: path.clone() }),
            Check::Command { command } => {
                v1::health::Check::Command(v1::StringList { items: command.clone() })
            }
        };
        v1::Health {
            check: Some(check),
            interval_ms: millis(health.interval),
            timeout_ms: millis(health.timeout),
            unhealthy: health.unhealthy,
            grace_ms: millis(health.grace),
        }
    }
}

impl TryFrom<v1::Health> for Health {
    type Error = Error;
    fn try_from(health: v1::Health) -> Result<Self, Error> {
        let check =
            match health.check.ok_or_else(|| Error::unknown("check", "is of no kind that is known here"))? {
                v1::health::Check::Tcp(_) => Check::Tcp,
                v1::health::Check::Http(http) => Check::Http { path: http.path },
                v1::health::Check::Command(list) => Check::Command { command: list.items },
            };
        Ok(Health {
            check,
            interval: Duration::from_millis(health.interval_ms),
            timeout: Duration::from_millis(health.timeout_ms),
            unhealthy: health.unhealthy,
            grace: Duration::from_millis(health.grace_ms),
        })
    }
}

impl From<&StopPolicy> for v1::StopPolicy {
    fn from(stop: &StopPolicy) -> Self {
        v1::StopPolicy { signal: stop.signal, grace_ms: millis(stop.grace) }
    }
}

impl TryFrom<v1::StopPolicy> for StopPolicy {
    type Error = Error;
    fn try_from(stop: v1::StopPolicy) -> Result<Self, Error> {
        Ok(StopPolicy { signal: stop.signal, grace: Duration::from_millis(stop.grace_ms) })
    }
}

impl From<&RouteSpec> for v1::RouteSpec {
    fn from(route: &RouteSpec) -> Self {
        v1::RouteSpec {
            host: route.host.clone(),
            path: route.path.clone(),
            process: route.process.to_string(),
        }
    }
}

impl TryFrom<v1::RouteSpec> for RouteSpec {
    type Error = Error;
    fn try_from(route: v1::RouteSpec) -> Result<Self, Error> {
        let process = name(ProcessName::new(&route.process), "process")?;
        Ok(RouteSpec { host: route.host, path: route.path, process })
    }
}

impl From<&DeployPolicy> for v1::DeployPolicy {
    fn from(policy: &DeployPolicy) -> Self {
        v1::DeployPolicy {
            strategy: v1::Strategy::from(policy.strategy).into(),
            max_surge: Some(policy.max_surge.into()),
            max_unavailable: Some(policy.max_unavailable.into()),
            deadline_ms: millis(policy.deadline),
            auto_revert: policy.auto_revert,
        }
    }
}

impl TryFrom<v1::DeployPolicy> for DeployPolicy {
    type Error = Error;
    fn try_from(policy: v1::DeployPolicy) -> Result<Self, Error> {
        Ok(DeployPolicy {
            strategy: known::<v1::Strategy>(policy.strategy, "strategy")?.into(),
            max_surge: required(policy.max_surge, "max_surge")?,
            max_unavailable: required(policy.max_unavailable, "max_unavailable")?,
            deadline: Duration::from_millis(policy.deadline_ms),
            auto_revert: policy.auto_revert,
        })
    }
}

impl From<Strategy> for v1::Strategy {
    fn from(value: Strategy) -> Self {
        match value {
            Strategy::Rolling => v1::Strategy::Rolling,
            Strategy::Recreate => v1::Strategy::Recreate,
        }
    }
}

impl From<v1::Strategy> for Strategy {
    fn from(value: v1::Strategy) -> Self {
        match value {
            v1::Strategy::Rolling => Strategy::Rolling,
            v1::Strategy::Recreate => Strategy::Recreate,
        }
    }
}

impl From<Share> for v1::Share {
    fn from(share: Share) -> Self {
        let share = match share {
            Share::Count(n) => v1::share::Share::Count(n),
            Share::Percent(p) => v1::share::Share::Percent(p),
        };
        v1::Share { share: Some(share) }
    }
}

impl TryFrom<v1::Share> for Share {
    type Error = Error;
    fn try_from(wire: v1::Share) -> Result<Self, Error> {
        match wire.share {
            Some(v1::share::Share::Count(n)) => Ok(Share::Count(n)),
            Some(v1::share::Share::Percent(p)) => Ok(Share::Percent(p)),
            None => Err(Error::unknown("share", "is neither a count nor a percentage")),
        }
    }
}

impl From<&Deployment> for v1::Deployment {
    fn from(deployment: &Deployment) -> Self {
        v1::Deployment {
            id: deployment.id.0,
            app: Some((&deployment.app).into()),
            release: deployment.release.0,
            previous: deployment.previous.map(|n| n.0),
            status: v1::DeploymentStatus::from(deployment.status).into(),
            started_at_ms: ms(deployment.started_at),
            deadline_at_ms: ms(deployment.deadline_at),
            finished_at_ms: deployment.finished_at.map(ms),
            message: deployment.message.clone(),
            by: deployment.by.clone(),
            modified: deployment.modified,
        }
    }
}

impl TryFrom<v1::Deployment> for Deployment {
    type Error = Error;
    fn try_from(deployment: v1::Deployment) -> Result<Self, Error> {
        Ok(Deployment {
            id: DeploymentId(deployment.id),
            app: required(deployment.app, "app")?,
            release: ReleaseNumber(deployment.release),
            previous: deployment.previous.map(ReleaseNumber),
            status: known::<v1::DeploymentStatus>(deployment.status, "status")?.into(),
            started_at: timestamp(deployment.started_at_ms),
            deadline_at: timestamp(deployment.deadline_at_ms),
            finished_at: deployment.finished_at_ms.map(timestamp),
            message: deployment.message,
            by: deployment.by,
            modified: deployment.modified,
        })
    }
}

impl From<DeploymentStatus> for v1::DeploymentStatus {
    fn from(value: DeploymentStatus) -> Self {
        match value {
            DeploymentStatus::Running => v1::DeploymentStatus::Running,
            DeploymentStatus::Done => v1::DeploymentStatus::Done,
            DeploymentStatus::Failed => v1::DeploymentStatus::Failed,
            DeploymentStatus::Reverted => v1::DeploymentStatus::Reverted,
            DeploymentStatus::Cancelled => v1::DeploymentStatus::Cancelled,
        }
    }
}

impl From<v1::DeploymentStatus> for DeploymentStatus {
    fn from(value: v1::DeploymentStatus) -> Self {
        match value {
            v1::DeploymentStatus::Running => DeploymentStatus::Running,
            v1::DeploymentStatus::Done => DeploymentStatus::Done,
            v1::DeploymentStatus::Failed => DeploymentStatus::Failed,
            v1::DeploymentStatus::Reverted => DeploymentStatus::Reverted,
            v1::DeploymentStatus::Cancelled => DeploymentStatus::Cancelled,
        }
    }
}
