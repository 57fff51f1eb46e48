//! Commands: what the log holds.

use super::{
    Error, Within, counts_from_wire, counts_to_wire, digest, hex_u128, known, ms, name, node_id, required,
    timestamp,
};
use crate::model::command::{Action, Change, ChangeKind, Command, Expect, Report};
use crate::model::ids::{AppKey, DeploymentId, InstanceId, ProcessName, ReleaseNumber, TenantName};
use crate::proto::v1;
use std::sync::Arc;
use v1::command::Action as Wire;

impl From<&Command> for v1::Command {
    fn from(command: &Command) -> Self {
        v1::Command {
            at_ms: ms(command.at),
            by: command.by.clone(),
            action: Some(action_to_wire(&command.action)),
        }
    }
}

impl TryFrom<v1::Command> for Command {
    type Error = Error;
    fn try_from(command: v1::Command) -> Result<Self, Error> {
        let action =
            command.action.ok_or_else(|| Error::unknown("action", "is of no kind that is known here"))?;
        Ok(Command { at: timestamp(command.at_ms), by: command.by, action: action_from_wire(action)? })
    }
}

fn action_to_wire(action: &Action) -> Wire {
    match action {
        Action::InitCluster { cluster_id } => {
            Wire::InitCluster(v1::InitCluster { cluster_id: format!("{cluster_id:032x}") })
        }
        Action::RegisterNode(facts) => Wire::RegisterNode(facts.into()),
        Action::SetNodeMode { node, cordoned, draining } => Wire::SetNodeMode(v1::SetNodeMode {
            node_id: node.to_string(),
            cordoned: *cordoned,
            draining: *draining,
        }),
        Action::SetNodeStatus { node, status } => Wire::SetNodeStatus(v1::SetNodeStatus {
            node_id: node.to_string(),
            status: v1::NodeStatus::from(*status).into(),
        }),
        Action::LabelNode { node, set, remove } => Wire::LabelNode(v1::LabelNode {
            node_id: node.to_string(),
            set: set.clone(),
            remove: remove.clone(),
        }),
        Action::Deploy { app, image, image_name, spec, hash, force, reset_scale } => {
            Wire::Deploy(v1::Deploy {
                app: Some(app.into()),
                image_digest: image.to_string(),
                image_name: image_name.clone(),
                spec: Some((&**spec).into()),
                hash: hash.clone(),
                force: *force,
                reset_scale: *reset_scale,
            })
        }
        Action::Scale { app, counts } => {
            Wire::Scale(v1::Scale { app: Some(app.into()), counts: counts_to_wire(counts) })
        }
        Action::Restart { app, process, slot } => Wire::Restart(v1::Restart {
            app: Some(app.into()),
            process: process.as_ref().map(ToString::to_string),
            slot: *slot,
        }),
        Action::SetStopped { app, stopped } => {
            Wire::SetStopped(v1::SetStopped { app: Some(app.into()), stopped: *stopped })
        }
        Action::RemoveApp { app } => Wire::RemoveApp(v1::RemoveApp { app: Some(app.into()) }),
        Action::CancelDeployment { app } => {
            Wire::CancelDeployment(v1::CancelDeployment { app: Some(app.into()) })
        }
        Action::SetImage { tenant, name, image } => Wire::SetImage(v1::SetImage {
            tenant: tenant.to_string(),
            name: name.clone(),
            image: Some(image.into()),
        }),
        Action::RemoveImage { tenant, name } => {
            Wire::RemoveImage(v1::RemoveImage { tenant: tenant.to_string(), name: name.clone() })
        }
        Action::Apply { term, changes } => {
            Wire::Apply(v1::ApplyChanges { term: *term, changes: changes.iter().map(Into::into).collect() })
        }
        Action::Observe { node, reports } => Wire::Observe(v1::Observe {
            node_id: node.to_string(),
            reports: reports.iter().map(Into::into).collect(),
        }),
    }
}

fn action_from_wire(action: Wire) -> Result<Action, Error> {
    Ok(match action {
        Wire::InitCluster(a) => {
            Action::InitCluster { cluster_id: hex_u128(&a.cluster_id, "init_cluster.cluster_id")? }
        }
        Wire::RegisterNode(facts) => Action::RegisterNode(facts.try_into().within("register_node")?),
        Wire::SetNodeMode(a) => Action::SetNodeMode {
            node: node_id(&a.node_id, "set_node_mode.node_id")?,
            cordoned: a.cordoned,
            draining: a.draining,
        },
        Wire::SetNodeStatus(a) => Action::SetNodeStatus {
            node: node_id(&a.node_id, "set_node_status.node_id")?,
            status: known::<v1::NodeStatus>(a.status, "set_node_status.status")?.into(),
        },
        Wire::LabelNode(a) => Action::LabelNode {
            node: node_id(&a.node_id, "label_node.node_id")?,
            set: a.set,
            remove: a.remove,
        },
        Wire::Deploy(a) => deploy(a).within("deploy")?,
        Wire::Scale(a) => Action::Scale {
            app: required(a.app, "scale.app")?,
            counts: counts_from_wire(a.counts, "scale.counts")?,
        },
        Wire::Restart(a) => Action::Restart {
            app: required(a.app, "restart.app")?,
            process: a.process.map(|p| name(ProcessName::new(&p), "restart.process")).transpose()?,
            slot: a.slot,
        },
        Wire::SetStopped(a) => {
            Action::SetStopped { app: required(a.app, "set_stopped.app")?, stopped: a.stopped }
        }
        Wire::RemoveApp(a) => Action::RemoveApp { app: required(a.app, "remove_app.app")? },
        Wire::CancelDeployment(a) => {
            Action::CancelDeployment { app: required(a.app, "cancel_deployment.app")? }
        }
        Wire::SetImage(a) => Action::SetImage {
            tenant: name(TenantName::new(&a.tenant), "set_image.tenant")?,
            name: a.name,
            image: required(a.image, "set_image.image")?,
        },
        Wire::RemoveImage(a) => Action::RemoveImage {
            tenant: name(TenantName::new(&a.tenant), "remove_image.tenant")?,
            name: a.name,
        },
        Wire::Apply(a) => Action::Apply { term: a.term, changes: list(a.changes, "apply.changes")? },
        Wire::Observe(a) => Action::Observe {
            node: node_id(&a.node_id, "observe.node_id")?,
            reports: list(a.reports, "observe.reports")?,
        },
    })
}

fn list<W, M: TryFrom<W, Error = Error>>(items: Vec<W>, field: &str) -> Result<Vec<M>, Error> {
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| M::try_from(item).within(&format!("{field}[{i}]")))
        .collect()
}

fn deploy(a: v1::Deploy) -> Result<Action, Error> {
    Ok(Action::Deploy {
        app: required(a.app, "app")?,
        image: digest(&a.image_digest, "image_digest")?,
        image_name: a.image_name,
        spec: Arc::new(required(a.spec, "spec")?),
        hash: a.hash,
        force: a.force,
        reset_scale: a.reset_scale,
    })
}

impl From<&Report> for v1::Report {
    fn from(report: &Report) -> Self {
        v1::Report { instance: report.instance.0, observed: Some((&report.observed).into()) }
    }
}

impl TryFrom<v1::Report> for Report {
    type Error = Error;
    fn try_from(report: v1::Report) -> Result<Self, Error> {
        Ok(Report { instance: InstanceId(report.instance), observed: required(report.observed, "observed")? })
    }
}

impl From<&Change> for v1::Change {
    fn from(change: &Change) -> Self {
        v1::Change {
            expects: change.expects.iter().map(Into::into).collect(),
            kind: Some(change_kind_to_wire(&change.kind)),
        }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = Error;
    fn try_from(change: v1::Change) -> Result<Self, Error> {
        let kind = change.kind.ok_or_else(|| Error::unknown("kind", "is of no kind that is known here"))?;
        Ok(Change { expects: list(change.expects, "expects")?, kind: change_kind_from_wire(kind)? })
    }
}

fn change_kind_to_wire(kind: &ChangeKind) -> v1::change::Kind {
    use v1::change::Kind;
    match kind {
        ChangeKind::Place { app, process, slot, release, generation, node, reason } => {
            Kind::Place(v1::Place {
                app: Some(app.into()),
                process: process.to_string(),
                slot: *slot,
                release: release.0,
                generation: *generation,
                node_id: node.to_string(),
                reason: reason.clone(),
            })
        }
        ChangeKind::Stop { instance, reason } => {
            Kind::Stop(v1::StopInstance { instance: instance.0, reason: reason.clone() })
        }
        ChangeKind::Forget { instance, reason } => {
            Kind::Forget(v1::ForgetInstance { instance: instance.0, reason: reason.clone() })
        }
        ChangeKind::EndDeployment { app, deployment, status, message } => {
            Kind::EndDeployment(v1::EndDeployment {
                app: Some(app.into()),
                deployment: deployment.0,
                status: v1::DeploymentStatus::from(*status).into(),
                message: message.clone(),
            })
        }
        ChangeKind::ForgetApp { app } => Kind::ForgetApp(v1::ForgetApp { app: Some(app.into()) }),
    }
}

fn change_kind_from_wire(kind: v1::change::Kind) -> Result<ChangeKind, Error> {
    use v1::change::Kind;
    Ok(match kind {
        Kind::Place(p) => ChangeKind::Place {
            app: required(p.app, "place.app")?,
            process: name(ProcessName::new(&p.process), "place.process")?,
            slot: p.slot,
            release: ReleaseNumber(p.release),
            generation: p.generation,
            node: node_id(&p.node_id, "place.node_id")?,
            reason: p.reason,
        },
        Kind::Stop(s) => ChangeKind::Stop { instance: InstanceId(s.instance), reason: s.reason },
        Kind::Forget(f) => ChangeKind::Forget { instance: InstanceId(f.instance), reason: f.reason },
        Kind::EndDeployment(e) => ChangeKind::EndDeployment {
            app: required(e.app, "end_deployment.app")?,
            deployment: DeploymentId(e.deployment),
            status: known::<v1::DeploymentStatus>(e.status, "end_deployment.status")?.into(),
            message: e.message,
        },
        Kind::ForgetApp(f) => ChangeKind::ForgetApp { app: required(f.app, "forget_app.app")? },
    })
}

impl From<&Expect> for v1::Expect {
    fn from(expect: &Expect) -> Self {
        use v1::expect::Object;
        let (object, version) = match expect {
            Expect::App(key, version) => (Object::App(key.into()), version),
            Expect::Instance(id, version) => (Object::Instance(id.0), version),
            Expect::Node(id, version) => (Object::NodeId(id.to_string()), version),
            Expect::Deployment(key, id, version) => {
                (Object::Deployment(v1::DeploymentKey { app: Some(key.into()), id: id.0 }), version)
            }
        };
        v1::Expect { version: *version, object: Some(object) }
    }
}

impl TryFrom<v1::Expect> for Expect {
    type Error = Error;
    fn try_from(expect: v1::Expect) -> Result<Self, Error> {
        use v1::expect::Object;
        let version = expect.version;
        Ok(
            match expect.object.ok_or_else(|| Error::unknown("object", "is of no kind that is known here"))? {
                Object::App(key) => Expect::App(AppKey::try_from(key).within("app")?, version),
                Object::Instance(id) => Expect::Instance(InstanceId(id), version),
                Object::NodeId(id) => Expect::Node(node_id(&id, "node_id")?, version),
                Object::Deployment(d) => {
                    Expect::Deployment(required(d.app, "deployment.app")?, DeploymentId(d.id), version)
                }
            },
        )
    }
}
