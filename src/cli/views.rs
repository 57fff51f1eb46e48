//! What `-o json` prints. These names are a promise: they are written by hand, apart from the
//! wire types, and `tests/cli` pins them. Times are RFC 3339 in UTC, sizes `_bytes`, durations
//! `_ms`; what is absent is null or an empty list, never left out.

use super::{when, words};
use crate::proto::v1;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub struct AppList {
    pub apps: Vec<App>,
}

#[derive(Serialize)]
pub struct Status {
    /// Log index that this is the state of.
    pub index: u64,
    pub apps: Vec<App>,
}

#[derive(Serialize)]
pub struct App {
    pub app: String,
    pub state: String,
    pub release: Option<u64>,
    pub serving: Option<u64>,
    pub target: Option<u64>,
    pub image: Option<String>,
    pub image_digest: Option<String>,
    pub stopped: bool,
    pub created_at: String,
    pub urls: Vec<String>,
    pub processes: Vec<Process>,
    pub deployment: Option<Deployment>,
    pub instances: Vec<Instance>,
    pub problems: Vec<String>,
}

#[derive(Serialize)]
pub struct Process {
    pub process: String,
    pub wanted: u32,
    pub ready: u32,
    pub count_from: String,
}

#[derive(Serialize)]
pub struct Deployment {
    pub id: u64,
    pub release: u64,
    pub previous: Option<u64>,
    pub status: &'static str,
    pub message: String,
    pub by: String,
    pub started_at: String,
    pub finished_at: Option<String>,
    pub deadline_at: String,
}

#[derive(Serialize)]
pub struct Instance {
    pub target: String,
    pub id: u64,
    pub process: String,
    pub slot: u32,
    pub release: u64,
    pub node: String,
    pub node_id: String,
    pub desired: &'static str,
    pub phase: &'static str,
    pub ready: bool,
    pub attempt: u32,
    pub failures: u32,
    pub address: Option<String>,
    pub message: String,
    pub reason: String,
    pub last_exit: Option<String>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub retry_at: Option<String>,
    pub log_tail: Vec<String>,
}

/// Node names by id, for instances.
pub type NodeNames = BTreeMap<String, String>;

pub fn node_names(nodes: &[v1::Node]) -> NodeNames {
    nodes.iter().map(|node| (node.id.clone(), node.name.clone())).collect()
}

impl App {
    pub fn new(status: &v1::AppStatus, nodes: &NodeNames) -> Self {
        let app = status.app.clone().unwrap_or_default();
        let release = status.release.as_ref();
        Self {
            app: words::app_name(app.key.as_ref()).to_owned(),
            state: words::app_state(status).0,
            release: release.map(|release| release.number),
            serving: app.serving,
            target: app.target,
            image: release.map(|release| release.image_name.clone()),
            image_digest: release.map(|release| release.image_digest.clone()),
            stopped: app.stopped,
            created_at: when::rfc3339(app.created_at_ms),
            urls: status.urls.clone(),
            processes: status.processes.iter().map(Process::new).collect(),
            deployment: status.deployment.as_ref().map(Deployment::new),
            instances: status.instances.iter().map(|instance| Instance::new(instance, nodes)).collect(),
            problems: status.problems.clone(),
        }
    }
}

impl Process {
    fn new(process: &v1::ProcessStatus) -> Self {
        Self {
            process: process.process.clone(),
            wanted: process.wanted,
            ready: process.ready,
            count_from: process.count_from.clone(),
        }
    }
}

impl Deployment {
    pub fn new(deployment: &v1::Deployment) -> Self {
        Self {
            id: deployment.id,
            release: deployment.release,
            previous: deployment.previous,
            status: words::deployment_status(deployment.status),
            message: deployment.message.clone(),
            by: deployment.by.clone(),
            started_at: when::rfc3339(deployment.started_at_ms),
            finished_at: deployment.finished_at_ms.map(when::rfc3339),
            deadline_at: when::rfc3339(deployment.deadline_at_ms),
        }
    }
}

impl Instance {
    pub fn new(instance: &v1::Instance, nodes: &NodeNames) -> Self {
        let observed = instance.observed.clone().unwrap_or_default();
        let exit = observed.last_exit.as_ref().and_then(|exit| exit.exit.as_ref());
        Self {
            target: words::instance_target(instance),
            id: instance.id,
            process: instance.process.clone(),
            slot: instance.slot,
            release: instance.release,
            node: nodes.get(&instance.node_id).cloned().unwrap_or_default(),
            node_id: instance.node_id.clone(),
            desired: words::desired(instance.desired),
            phase: words::phase(observed.phase),
            ready: observed.ready,
            attempt: observed.attempt,
            failures: observed.failures,
            message: observed.message.clone(),
            reason: instance.cause.as_ref().map(|cause| cause.reason.clone()).unwrap_or_default(),
            last_exit: exit.map(words::exit_text),
            created_at: when::rfc3339(instance.created_at_ms),
            started_at: observed.started_at_ms.map(when::rfc3339),
            retry_at: observed.retry_at_ms.map(when::rfc3339),
            log_tail: observed.log_tail,
            address: observed.address,
        }
    }
}

/// One line of `deploy -o json`: progress, then the result.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DeployLine {
    Started {
        app: String,
        release: u64,
        deployment: u64,
        reused: bool,
        notes: Vec<String>,
        urls: Vec<String>,
    },
    Progress {
        status: &'static str,
        waiting_for: String,
        instances: Vec<Instance>,
    },
    Result {
        app: String,
        release: u64,
        deployment: u64,
        status: &'static str,
        /// What serves now.
        serving: Option<u64>,
        message: String,
        duration_ms: Option<u64>,
        urls: Vec<String>,
        /// The last lines of an instance that failed.
        log_tail: Vec<String>,
    },
}

/// The answer to what changes one thing.
#[derive(Serialize)]
pub struct Change {
    pub target: String,
    /// False: it was so already.
    pub changed: bool,
    pub index: u64,
}

#[derive(Serialize)]
pub struct Scaled {
    pub app: String,
    pub counts: BTreeMap<String, u32>,
    pub changed: bool,
    pub index: u64,
}

#[derive(Serialize)]
pub struct LogLine {
    pub target: String,
    pub at: String,
    pub at_unix_nanos: u64,
    pub stream: &'static str,
    pub line: String,
    pub instance: u64,
    pub attempt: u32,
}

#[derive(Serialize)]
pub struct Event {
    pub index: u64,
    pub sub: u32,
    pub at: String,
    pub kind: String,
    pub app: Option<String>,
    pub target: String,
    pub instance: Option<u64>,
    pub node_id: Option<String>,
    pub message: String,
}

impl Event {
    pub fn new(event: &v1::Event) -> Self {
        Self {
            index: event.index,
            sub: event.sub,
            at: when::rfc3339(event.at_ms),
            kind: event.kind.clone(),
            app: event.app.as_ref().map(|key| key.app.clone()),
            target: event.target.clone(),
            instance: event.instance,
            node_id: event.node_id.clone(),
            message: event.message.clone(),
        }
    }
}

#[derive(Serialize)]
pub struct NodeList {
    pub nodes: Vec<Node>,
}

#[derive(Serialize)]
pub struct Node {
    pub name: String,
    pub id: String,
    pub zone: String,
    pub pool: String,
    pub labels: BTreeMap<String, String>,
    pub status: &'static str,
    pub cordoned: bool,
    pub draining: bool,
    pub platform: String,
    pub version: String,
    pub addresses: Vec<String>,
    pub capacity: Resources,
    pub used: Resources,
    pub instances: u32,
    pub joined_at: String,
}

#[derive(Serialize)]
pub struct Resources {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

impl Resources {
    fn new(resources: Option<&v1::Resources>) -> Self {
        let resources = resources.copied().unwrap_or_default();
        Self {
            cpu_milli: resources.cpu_milli,
            memory_bytes: resources.memory_bytes,
            disk_bytes: resources.disk_bytes,
        }
    }
}

impl Node {
    pub fn new(view: &v1::NodeView) -> Self {
        let node = view.node.clone().unwrap_or_default();
        Self {
            name: node.name,
            id: node.id,
            zone: node.zone,
            pool: node.pool,
            labels: node.labels,
            status: words::node_status(node.status),
            cordoned: node.cordoned,
            draining: node.draining,
            platform: node.platform,
            version: node.version,
            addresses: node.addresses,
            capacity: Resources::new(node.capacity.as_ref()),
            used: Resources::new(view.used.as_ref()),
            instances: view.instances,
            joined_at: when::rfc3339(node.joined_at_ms),
        }
    }
}

#[derive(Serialize)]
pub struct NodeMode {
    pub node: String,
    pub changed: bool,
}

#[derive(Serialize)]
pub struct Cluster {
    pub cluster_id: String,
    pub leader: Option<String>,
    pub term: u64,
    pub index: u64,
    pub version: String,
    pub apps: u32,
    pub instances: u32,
    pub instances_ready: u32,
    pub nodes: Vec<Node>,
}

#[derive(Serialize)]
pub struct LoadedImages {
    pub images: Vec<LoadedImage>,
}

#[derive(Serialize)]
pub struct LoadedImage {
    pub names: Vec<String>,
    pub digest: String,
    pub size_bytes: u64,
    pub platform: String,
}

impl LoadedImage {
    pub fn new(image: &v1::LoadedImage) -> Self {
        Self {
            names: image.names.clone(),
            digest: image.digest.clone(),
            size_bytes: image.size_bytes,
            platform: image.platform.clone(),
        }
    }
}

#[derive(Serialize)]
pub struct ImageList {
    pub images: Vec<Image>,
}

#[derive(Serialize)]
pub struct Image {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
    pub platform: String,
    pub loaded_at: String,
    pub used_by: Vec<String>,
}

impl Image {
    pub fn new(image: &v1::NamedImage) -> Self {
        let record = image.image.clone().unwrap_or_default();
        Self {
            name: image.name.clone(),
            digest: record.digest,
            size_bytes: record.size_bytes,
            platform: record.platform,
            loaded_at: when::rfc3339(record.loaded_at_ms),
            used_by: image.used_by.clone(),
        }
    }
}

#[derive(Serialize)]
pub struct ImageDetails {
    pub name: String,
    pub digest: String,
    pub size_bytes: u64,
    pub platform: String,
    pub loaded_at: String,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub env: Vec<String>,
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub layers: Vec<Layer>,
    /// The image's own configuration, as it is stored.
    pub config: serde_json::Value,
}

#[derive(Serialize)]
pub struct Layer {
    pub digest: String,
    pub diff_id: String,
    pub size_bytes: u64,
    pub media_type: String,
}

impl ImageDetails {
    pub fn new(reply: &v1::InspectReply) -> Self {
        let record = reply.image.clone().unwrap_or_default();
        let layer = |layer: &v1::LayerInfo| Layer {
            digest: layer.digest.clone(),
            diff_id: layer.diff_id.clone(),
            size_bytes: layer.size_bytes,
            media_type: layer.media_type.clone(),
        };
        Self {
            name: reply.name.clone(),
            digest: record.digest,
            size_bytes: record.size_bytes,
            platform: record.platform,
            loaded_at: when::rfc3339(record.loaded_at_ms),
            entrypoint: reply.entrypoint.clone(),
            command: reply.command.clone(),
            user: reply.user.clone(),
            working_dir: reply.working_dir.clone(),
            env: reply.env.clone(),
            exposed_ports: reply.exposed_ports.clone(),
            labels: reply.labels.clone(),
            layers: reply.layers.iter().map(layer).collect(),
            config: serde_json::from_slice(&reply.config_json).unwrap_or(serde_json::Value::Null),
        }
    }
}

#[derive(Serialize)]
pub struct ImageRemoved {
    pub image: String,
    pub removed: bool,
}

#[derive(Serialize)]
pub struct Freed {
    pub dry_run: bool,
    pub blobs: u64,
    pub layers: u64,
    pub freed_bytes: u64,
}

#[derive(Serialize)]
pub struct Why {
    pub target: String,
    pub lines: Vec<String>,
}

#[derive(Serialize)]
pub struct Unit {
    pub path: String,
    /// False: only shown, or it was so already.
    pub written: bool,
    pub unit: String,
}

#[derive(Serialize)]
pub struct Versions {
    pub client: String,
    /// Null: no node answers.
    pub node: Option<String>,
}
