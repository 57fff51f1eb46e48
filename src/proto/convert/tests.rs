//! Every value of the model survives the way over the wire; wrong messages are refused with
//! the field's name.

use super::*;
use crate::model::app::{
    App, AppSpec, Check, DeployPolicy, Deployment, DeploymentStatus, Health, ProcessSpec, Release, RouteSpec,
    Share, StopPolicy, Strategy as Rollout, UserNamespace,
};
use crate::model::command::{Action, Change, ChangeKind, Command, Expect, ImageRecord, NodeFacts, Report};
use crate::model::event::{Event, EventKind};
use crate::model::ids::{
    AppName, DeploymentId, InstanceId, NodeName, RaftId, ReleaseNumber, TenantName, Zone,
};
use crate::model::instance::{Cause, Desired, Exit, Instance, Observed, Phase};
use crate::model::node::{Node, NodeStatus};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use prost::Message;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const LABEL: &str = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?";

fn label<T: std::fmt::Debug>(make: fn(&str) -> Result<T, NameError>) -> impl Strategy<Value = T> {
    LABEL.prop_map(move |text| make(&text).expect("the pattern of a label"))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,12}", "\\PC{0,6}"]
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..3)
}

fn app_key() -> impl Strategy<Value = AppKey> {
    (label(TenantName::new), label(AppName::new)).prop_map(|(tenant, app)| AppKey { tenant, app })
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u64; 4]>().prop_map(|[a, b, c, d]| {
        Digest::new(&format!("sha256:{a:016x}{b:016x}{c:016x}{d:016x}")).expect("64 digits")
    })
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_unix_ms)
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}

fn resources() -> impl Strategy<Value = Resources> {
    any::<(u64, u64, u64)>().prop_map(|(cpu_milli, memory_bytes, disk_bytes)| Resources {
        cpu_milli,
        memory_bytes,
        disk_bytes,
    })
}

fn node_ids() -> impl Strategy<Value = NodeId> {
    any::<u128>().prop_map(NodeId)
}

fn counts() -> impl Strategy<Value = BTreeMap<ProcessName, u32>> {
    btree_map(label(ProcessName::new), any::<u32>(), 0..3)
}

fn health() -> impl Strategy<Value = Health> {
    let check = prop_oneof![
        Just(Check::Tcp),
        text().prop_map(|path| Check::Http { path }),
        vec(text(), 0..3).prop_map(|command| Check::Command { command }),
    ];
    (check, duration(), duration(), any::<u32>(), duration()).prop_map(
        |(check, interval, timeout, unhealthy, grace)| Health { check, interval, timeout, unhealthy, grace },
    )
}

fn process() -> impl Strategy<Value = ProcessSpec> {
    (
        (of(vec(text(), 0..3)), any::<u32>(), any::<u64>(), of(any::<u64>()), any::<u64>(), any::<u64>()),
        (of(any::<u16>()), health(), of(any::<i32>()), duration(), texts(), any::<bool>(), any::<bool>()),
    )
        .prop_map(|((command, count, cpu_milli, cpu_max_milli, memory_bytes, pids_max), rest)| {
            let (port, health, signal, grace, env, host, read_only_root) = rest;
            ProcessSpec {
                command,
                count,
                cpu_milli,
                cpu_max_milli,
                memory_bytes,
                pids_max,
                port,
                health,
                stop: StopPolicy { signal, grace },
                env,
                user_namespace: if host { UserNamespace::Host } else { UserNamespace::Private },
                read_only_root,
            }
        })
}

fn share() -> impl Strategy<Value = Share> {
    prop_oneof![any::<u32>().prop_map(Share::Count), any::<u32>().prop_map(Share::Percent)]
}

fn spec() -> impl Strategy<Value = AppSpec> {
    let route = (of(text()), text(), label(ProcessName::new)).prop_map(|(host, path, process)| RouteSpec {
        host,
        path,
        process,
    });
    let deploy = (any::<bool>(), share(), share(), duration(), any::<bool>()).prop_map(
        |(recreate, max_surge, max_unavailable, deadline, auto_revert)| DeployPolicy {
            strategy: if recreate { Rollout::Recreate } else { Rollout::Rolling },
            max_surge,
            max_unavailable,
            deadline,
            auto_revert,
        },
    );
    (btree_map(label(ProcessName::new), process(), 0..3), vec(route, 0..3), texts(), deploy)
        .prop_map(|(processes, routes, env, deploy)| AppSpec { processes, routes, env, deploy })
}

fn app() -> impl Strategy<Value = App> {
    (
        (app_key(), at(), any::<u64>(), of(any::<u64>()), of(any::<u64>()), any::<u64>()),
        (of(any::<u64>()), any::<bool>(), any::<bool>(), counts(), any::<u64>()),
    )
        .prop_map(|((key, created_at, modified, target, serving, next_release), rest)| {
            let (deployment, stopped, removing, scale, generation) = rest;
            App {
                key,
                created_at,
                modified,
                target: target.map(ReleaseNumber),
                serving: serving.map(ReleaseNumber),
                next_release,
                deployment: deployment.map(DeploymentId),
                stopped,
                removing,
                scale,
                generation,
            }
        })
}

fn release() -> impl Strategy<Value = Release> {
    (app_key(), any::<u64>(), text(), digests(), text(), spec(), at(), text()).prop_map(
        |(app, number, hash, image, image_name, spec, created_at, created_by)| Release {
            app,
            number: ReleaseNumber(number),
            hash,
            image,
            image_name,
            spec: Arc::new(spec),
            created_at,
            created_by,
        },
    )
}

fn deployment_status() -> impl Strategy<Value = DeploymentStatus> {
    prop_oneof![
        Just(DeploymentStatus::Running),
        Just(DeploymentStatus::Done),
        Just(DeploymentStatus::Failed),
        Just(DeploymentStatus::Reverted),
        Just(DeploymentStatus::Cancelled),
    ]
}

fn deployment() -> impl Strategy<Value = Deployment> {
    (
        (any::<u64>(), app_key(), any::<u64>(), of(any::<u64>()), deployment_status()),
        (at(), at(), of(at()), text(), text(), any::<u64>()),
    )
        .prop_map(|((id, app, release, previous, status), rest)| {
            let (started_at, deadline_at, finished_at, message, by, modified) = rest;
            Deployment {
                id: DeploymentId(id),
                app,
                release: ReleaseNumber(release),
                previous: previous.map(ReleaseNumber),
                status,
                started_at,
                deadline_at,
                finished_at,
                message,
                by,
                modified,
            }
        })
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![
        any::<i32>().prop_map(Exit::Code),
        any::<i32>().prop_map(Exit::Signal),
        any::<u64>().prop_map(|limit_bytes| Exit::OutOfMemory { limit_bytes }),
        text().prop_map(Exit::StartFailed),
        Just(Exit::ShimLost),
        text().prop_map(Exit::Unhealthy),
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Pending),
        Just(Phase::Preparing),
        Just(Phase::Starting),
        Just(Phase::Running),
        Just(Phase::Backoff),
        Just(Phase::Stopping),
        Just(Phase::Stopped),
    ]
}

fn observed() -> impl Strategy<Value = Observed> {
    let address = any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (
        (any::<u32>(), any::<u32>(), phase(), any::<bool>(), of(address), of(exit())),
        (text(), of(at()), of(at()), any::<u32>(), vec(text(), 0..3)),
    )
        .prop_map(|((attempt, step, phase, ready, address, last_exit), rest)| {
            let (message, started_at, retry_at, failures, log_tail) = rest;
            Observed {
                attempt,
                step,
                phase,
                ready,
                address,
                last_exit,
                message,
                started_at,
                retry_at,
                failures,
                log_tail,
            }
        })
}

fn desired() -> impl Strategy<Value = Desired> {
    prop_oneof![Just(Desired::Run), Just(Desired::Stop)]
}

fn instance() -> impl Strategy<Value = Instance> {
    (
        (
            any::<u64>(),
            app_key(),
            label(ProcessName::new),
            any::<u32>(),
            any::<u64>(),
            any::<u64>(),
            node_ids(),
        ),
        (desired(), at(), any::<u64>(), text(), any::<bool>(), observed(), any::<u64>()),
    )
        .prop_map(|((id, app, process, slot, release, generation, node), rest)| {
            let (desired, created_at, index, reason, superseded, observed, modified) = rest;
            Instance {
                id: InstanceId(id),
                app,
                process,
                slot,
                release: ReleaseNumber(release),
                generation,
                node,
                desired,
                created_at,
                cause: Cause { index, reason },
                superseded,
                observed,
                modified,
            }
        })
}

fn facts() -> impl Strategy<Value = NodeFacts> {
    (
        (node_ids(), label(NodeName::new), label(Zone::new), text(), texts()),
        (resources(), text(), text(), vec(text(), 0..3), of(any::<u64>())),
    )
        .prop_map(
            |((id, name, zone, pool, labels), (capacity, platform, version, addresses, raft_id))| NodeFacts {
                id,
                name,
                zone,
                pool,
                labels,
                capacity,
                platform,
                version,
                addresses,
                raft_id: raft_id.map(RaftId),
            },
        )
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    prop_oneof![Just(NodeStatus::Up), Just(NodeStatus::Down)]
}

fn node() -> impl Strategy<Value = Node> {
    (facts(), any::<bool>(), any::<bool>(), node_status(), at(), any::<u64>()).prop_map(
        |(facts, cordoned, draining, status, joined_at, modified)| Node {
            id: facts.id,
            name: facts.name,
            zone: facts.zone,
            pool: facts.pool,
            labels: facts.labels,
            capacity: facts.capacity,
            platform: facts.platform,
            version: facts.version,
            addresses: facts.addresses,
            raft_id: facts.raft_id,
            cordoned,
            draining,
            status,
            joined_at,
            modified,
        },
    )
}

fn image() -> impl Strategy<Value = ImageRecord> {
    (digests(), any::<u64>(), text(), at()).prop_map(|(digest, size_bytes, platform, loaded_at)| {
        ImageRecord { digest, size_bytes, platform, loaded_at }
    })
}

fn event() -> impl Strategy<Value = Event> {
    (
        (any::<u64>(), any::<u32>(), at(), 0..EventKind::ALL.len()),
        (of(app_key()), of(any::<u64>()), text(), of(node_ids()), text()),
    )
        .prop_map(|((index, sub, at, kind), (app, instance, target, node, message))| Event {
            index,
            sub,
            at,
            kind: EventKind::ALL[kind],
            app,
            instance: instance.map(InstanceId),
            target,
            node,
            message,
        })
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        (app_key(), any::<u64>()).prop_map(|(key, version)| Expect::App(key, version)),
        any::<(u64, u64)>().prop_map(|(id, version)| Expect::Instance(InstanceId(id), version)),
        (node_ids(), any::<u64>()).prop_map(|(id, version)| Expect::Node(id, version)),
        (app_key(), any::<u64>(), any::<u64>()).prop_map(|(key, id, version)| Expect::Deployment(
            key,
            DeploymentId(id),
            version
        )),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let place =
        (app_key(), label(ProcessName::new), any::<u32>(), any::<u64>(), any::<u64>(), node_ids(), text())
            .prop_map(|(app, process, slot, release, generation, node, reason)| ChangeKind::Place {
                app,
                process,
                slot,
                release: ReleaseNumber(release),
                generation,
                node,
                reason,
            });
    let kind = prop_oneof![
        place,
        (any::<u64>(), text()).prop_map(|(id, reason)| ChangeKind::Stop { instance: InstanceId(id), reason }),
        (any::<u64>(), text())
            .prop_map(|(id, reason)| ChangeKind::Forget { instance: InstanceId(id), reason }),
        (app_key(), any::<u64>(), deployment_status(), text()).prop_map(|(app, id, status, message)| {
            ChangeKind::EndDeployment { app, deployment: DeploymentId(id), status, message }
        }),
        app_key().prop_map(|app| ChangeKind::ForgetApp { app }),
    ];
    (vec(expect(), 0..3), kind).prop_map(|(expects, kind)| Change { expects, kind })
}

fn action() -> impl Strategy<Value = Action> {
    let report =
        (any::<u64>(), observed()).prop_map(|(id, observed)| Report { instance: InstanceId(id), observed });
    let deploy = (app_key(), digests(), text(), spec(), text(), any::<bool>(), any::<bool>()).prop_map(
        |(app, image, image_name, spec, hash, force, reset_scale)| Action::Deploy {
            app,
            image,
            image_name,
            spec: Arc::new(spec),
            hash,
            force,
            reset_scale,
        },
    );
    prop_oneof![
        any::<u128>().prop_map(|cluster_id| Action::InitCluster { cluster_id }),
        facts().prop_map(Action::RegisterNode),
        (node_ids(), of(any::<bool>()), of(any::<bool>()))
            .prop_map(|(node, cordoned, draining)| Action::SetNodeMode { node, cordoned, draining }),
        (node_ids(), node_status()).prop_map(|(node, status)| Action::SetNodeStatus { node, status }),
        (node_ids(), texts(), vec(text(), 0..3)).prop_map(|(node, set, remove)| Action::LabelNode {
            node,
            set,
            remove
        }),
        deploy,
        (app_key(), counts()).prop_map(|(app, counts)| Action::Scale { app, counts }),
        (app_key(), of(label(ProcessName::new)), of(any::<u32>()))
            .prop_map(|(app, process, slot)| Action::Restart { app, process, slot }),
        (app_key(), any::<bool>()).prop_map(|(app, stopped)| Action::SetStopped { app, stopped }),
        app_key().prop_map(|app| Action::RemoveApp { app }),
        app_key().prop_map(|app| Action::CancelDeployment { app }),
        (label(TenantName::new), text(), image()).prop_map(|(tenant, name, image)| Action::SetImage {
            tenant,
            name,
            image
        }),
        (label(TenantName::new), text()).prop_map(|(tenant, name)| Action::RemoveImage { tenant, name }),
        (any::<u64>(), vec(change(), 0..4)).prop_map(|(term, changes)| Action::Apply { term, changes }),
        (node_ids(), vec(report, 0..3)).prop_map(|(node, reports)| Action::Observe { node, reports }),
    ]
}

/// Over the wire as bytes, and back.
fn there_and_back<M, W>(value: &M) -> Result<M, Error>
where
    W: Message + Default + for<'a> From<&'a M>,
    M: TryFrom<W, Error = Error>,
{
    let bytes = W::from(value).encode_to_vec();
    M::try_from(W::decode(&bytes[..]).expect("what was encoded decodes"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_survive_the_wire(at in at(), by in text(), action in action()) {
        let command = Command { at, by, action };
        prop_assert_eq!(there_and_back::<_, v1::Command>(&command), Ok(command));
    }

    #[test]
    fn records_survive_the_wire(
        app in app(), release in release(), deployment in deployment(), instance in instance(),
        node in node(), image in image(), event in event(),
    ) {
        prop_assert_eq!(there_and_back::<_, v1::App>(&app), Ok(app));
        prop_assert_eq!(there_and_back::<_, v1::Release>(&release), Ok(release));
        prop_assert_eq!(there_and_back::<_, v1::Deployment>(&deployment), Ok(deployment));
        prop_assert_eq!(there_and_back::<_, v1::Instance>(&instance), Ok(instance));
        prop_assert_eq!(there_and_back::<_, v1::Node>(&node), Ok(node));
        prop_assert_eq!(there_and_back::<_, v1::ImageRecord>(&image), Ok(image));
        prop_assert_eq!(there_and_back::<_, v1::Event>(&event), Ok(event));
    }

    #[test]
    fn no_bytes_make_the_conversion_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = v1::Command::decode(&bytes[..]) {
            let _ = Command::try_from(wire);
        }
        if let Ok(wire) = v1::Instance::decode(&bytes[..]) {
            let _ = Instance::try_from(wire);
        }
    }
}

#[test]
fn errors_name_the_field_from_the_top() {
    let process = v1::ProcessSpec {
        port: Some(70_000),
        health: Some((&Health::default()).into()),
        stop: Some((&StopPolicy::default()).into()),
        ..v1::ProcessSpec::default()
    };
    let spec = v1::AppSpec {
        processes: [("web".to_owned(), process)].into(),
        deploy: Some((&DeployPolicy::default()).into()),
        ..v1::AppSpec::default()
    };
    let deploy = v1::Deploy {
        app: Some(v1::AppKey { tenant: "default".into(), app: "shop".into() }),
        image_digest: format!("sha256:{:064x}", 1),
        spec: Some(spec),
        ..v1::Deploy::default()
    };
    let command = v1::Command { action: Some(v1::command::Action::Deploy(deploy)), ..v1::Command::default() };
    let error = Command::try_from(command).expect_err("no such port");
    assert_eq!(error.to_string(), "deploy.spec.processes[web].port: 70000 is out of range");
    assert!(!error.newer);
}

#[test]
fn what_a_newer_version_may_have_written_is_told_apart() {
    let nothing = Command::try_from(v1::Command::default()).expect_err("no action");
    assert!(nothing.newer, "{nothing}");
    let status = Deployment::try_from(v1::Deployment {
        app: Some(v1::AppKey { tenant: "default".into(), app: "shop".into() }),
        status: 99,
        ..v1::Deployment::default()
    });
    let error = status.expect_err("no such status");
    assert_eq!((error.to_string().as_str(), error.newer), ("status: has the unknown value 99", true));
    let name = AppKey::try_from(v1::AppKey { tenant: "default".into(), app: "Shop".into() });
    assert!(!name.expect_err("upper case").newer);
}
