//! The whole server over a Unix socket, asked by the generated client. The state is kept in
//! memory and changed by the same `ClusterState::apply` as in a node; the machine is `host.rs`.

mod apps;
mod events;
mod host;
mod images;
mod instances;
mod memory;
mod server;

use super::{Deps, serve_unix};
use crate::model::command::{Action, ImageRecord, NodeFacts, Report};
use crate::model::ids::*;
use crate::model::instance::{Instance, Observed, Phase};
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use crate::proto::v1;
use host::TestHost;
use memory::Memory;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Far beyond what any of this takes: a test that waits so long is stuck.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub(super) struct World {
    pub store: Arc<Memory>,
    pub host: Arc<TestHost>,
    pub channel: Channel,
    pub stop: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
    pub dir: tempfile::TempDir,
}

impl World {
    /// One node, `node-1`, and the image `shop:latest`, which exposes port 80.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        let store = Arc::new(Memory::default());
        let host = Arc::new(TestHost::default());
        let deps = Deps { store: store.clone(), host: host.clone(), upload_dir: dir.path().join("uploads") };
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let served = tokio::spawn(async move {
            serve_unix(deps, listener, stopped).await.expect("serves until it is stopped")
        });
        let (channel, _) = connect(&socket).await;
        let world = Self { store, host, channel, stop, served, dir };
        world.propose(Action::InitCluster { cluster_id: 7 });
        world.propose(Action::RegisterNode(node_facts()));
        let digest = world.host.add_image("linux/amd64", &["80/tcp"], &["/server"]);
        world.name_image("shop:latest", &digest);
        world
    }

    pub fn propose(&self, action: Action) {
        self.store.apply("test", action).expect("accepted");
    }

    pub fn name_image(&self, name: &str, digest: &Digest) {
        let platform = self.host.platform(digest);
        let image = ImageRecord {
            digest: digest.clone(),
            size_bytes: 1,
            platform,
            loaded_at: Timestamp::from_unix_ms(1),
        };
        let tenant = TenantName::default_tenant();
        self.propose(Action::SetImage { tenant, name: name.into(), image });
    }

    pub fn apps(&self) -> v1::apps_client::AppsClient<Channel> {
        v1::apps_client::AppsClient::new(self.channel.clone())
    }
    pub fn images(&self) -> v1::images_client::ImagesClient<Channel> {
        v1::images_client::ImagesClient::new(self.channel.clone())
    }
    pub fn instances(&self) -> v1::instances_client::InstancesClient<Channel> {
        v1::instances_client::InstancesClient::new(self.channel.clone())
    }
    pub fn events(&self) -> v1::events_client::EventsClient<Channel> {
        v1::events_client::EventsClient::new(self.channel.clone())
    }

    /// A connection of its own, and what kills it as the death of its client would.
    pub async fn mortal_client(&self) -> (Channel, impl FnOnce() + use<>) {
        let (channel, socket) = connect(&self.dir.path().join("api.sock")).await;
        (channel, move || socket.shutdown(std::net::Shutdown::Both).expect("shuts down"))
    }

    /// Deploys a manifest without an image of its own, from `shop:latest`.
    pub async fn deploy(&self, text: &str) -> Result<v1::DeployReply, tonic::Status> {
        let source = v1::ManifestSource { file_name: "nodectl.toml".into(), text: text.into() };
        let request = v1::DeployRequest {
            source: Some(v1::deploy_request::Source::Manifest(source)),
            image_override: Some("shop".into()),
            ..v1::DeployRequest::default()
        };
        self.apps().deploy(request).await.map(|reply| reply.into_inner())
    }

    /// What the leader's controller does next.
    pub fn plan(&self) {
        let state = self.store.state();
        let plan = crate::scheduler::plan(&state, None, state.now);
        if !plan.changes.is_empty() {
            self.propose(Action::Apply { term: 1, changes: plan.changes });
        }
    }

    /// The node's agent reports each instance that is to run as ready.
    pub fn all_ready(&self) {
        let state = self.store.state();
        for instance in state.instances().filter(|i| !i.is_ready()) {
            self.report(instance, Phase::Running, true, "");
        }
    }

    pub fn report(&self, instance: &Instance, phase: Phase, ready: bool, message: &str) {
        let observed = Observed {
            attempt: 1,
            step: instance.observed.step + 1,
            phase,
            ready,
            message: message.into(),
            address: Some(([10, 0, 0, 1], 80).into()),
            ..Observed::default()
        };
        let reports = vec![Report { instance: instance.id, observed }];
        self.propose(Action::Observe { node: instance.node, reports });
    }

    /// Deployed, placed, ready, done.
    pub async fn deployed(&self, text: &str) {
        self.deploy(text).await.expect("deploys");
        self.settle();
    }

    pub fn settle(&self) {
        for _ in 0..20 {
            self.plan();
            self.all_ready();
        }
        let state = self.store.state();
        assert!(
            state.apps.values().all(|app| app.deployment.is_none()),
            "every deployment is over: {state:?}"
        );
    }
}

async fn connect(path: &std::path::Path) -> (Channel, std::os::unix::net::UnixStream) {
    let stream = std::os::unix::net::UnixStream::connect(path).expect("connects");
    stream.set_nonblocking(true).expect("a socket");
    let copy = stream.try_clone().expect("a descriptor");
    let mut once = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("it connects once"));
        async move { tokio::net::UnixStream::from_std(stream?).map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://nodectl.invalid");
    (endpoint.connect_with_connector(connector).await.expect("connects"), copy)
}

fn node_facts() -> NodeFacts {
    NodeFacts {
        id: NodeId(1),
        name: NodeName::new("node-1").expect("a name"),
        zone: Zone::new("a").expect("a name"),
        pool: String::new(),
        labels: Default::default(),
        capacity: Resources { cpu_milli: 64_000, memory_bytes: 64_000_000_000, disk_bytes: 0 },
        platform: "linux/amd64".into(),
        version: "0".into(),
        addresses: Vec::new(),
        raft_id: Some(RaftId(1)),
    }
}
