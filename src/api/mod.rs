//! The gRPC server: messages to the model and back, and nothing of its own to decide.
//!
//! ```text
//!   CLI ──unix socket──▶ serve_unix ─▶ Apps Instances Images Nodes Cluster Events
//!                                        │            │  (reflection, health)
//!                            Store ◀─────┴─────▶ Host
//!                     (raft::Handle)      (the node room: images, runtime)
//! ```
//!
//! A change is parsed and resolved here, then proposed; what may be changed is for
//! `ClusterState::apply` to say. Watches read views of the state as their clients take them:
//! a slow client skips views, it never queues them. Start with `apps.rs`.

mod apps;
mod deploy;
mod events;
mod host;
mod images;
mod instances;
mod listen;
mod logs;
mod nodes;
mod panics;
mod raft_store;
mod show;
mod status;
mod store;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod upload;
mod why;

pub use deploy::content_hash;
pub use host::{
    ExecInput, ExecOutput, ExecRequest, ExecSession, Freed, Host, HostError, Image, Layer, Loaded, LogItem,
    LogLine, LogQuery, LogSource, LogStream, Progress, Step, TerminalSize,
};
pub use status::Fault;
pub use store::{Leader, Store, StoreError, Watch};

use crate::model::ids::TenantName;
use crate::proto::{DESCRIPTORS, v1};
use crate::raft::View;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

/// What the server stands on.
#[derive(Clone)]
pub struct Deps {
    pub store: Arc<dyn Store>,
    pub host: Arc<dyn Host>,
    /// Where uploads wait until they are imported; the server makes it, and empties it at start.
    pub upload_dir: PathBuf,
}

/// What the Unix socket's caller is called in events: only the operator can open it (0600).
const OPERATOR: &str = "operator";

/// A message in either direction. Status of thousands of instances fits; nothing else comes near.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One client's calls at a time, on one connection: a person with many terminals, not a flood.
const STREAMS_MAX: u32 = 256;
/// From the wish to stop until connections that still talk are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// The services, each a clone of this.
#[derive(Clone)]
struct Api {
    store: Arc<dyn Store>,
    host: Arc<dyn Host>,
    uploads: Arc<upload::Uploads>,
    /// Read while an image is on its way to a name or a release, written by the collection of
    /// what has neither: what is about to be used is not freed.
    naming: Arc<RwLock<()>>,
    /// Cancelled when the server stops: watches end then, so that they don't hold it up.
    stopping: CancellationToken,
}

impl Api {
    /// The state as asked for: of this node, or linearizable.
    async fn view(&self, stale: bool) -> Result<View, Fault> {
        if stale { Ok(self.store.view()) } else { Ok(self.store.read().await?) }
    }
}

/// Every service, with reflection and health, for whatever transport. Calls that watch end
/// when `stopping` is cancelled.
///
/// # Errors
/// The upload folder cannot be made or emptied.
pub fn routes(deps: Deps, stopping: CancellationToken) -> Result<Routes, ServeError> {
    let uploads = upload::Uploads::open(deps.upload_dir.clone())
        .map_err(|source| ServeError::UploadDir { path: deps.upload_dir, source })?;
    let api = Api {
        store: deps.store,
        host: deps.host,
        uploads: Arc::new(uploads),
        naming: Arc::default(),
        stopping,
    };
    macro_rules! bounded {
        ($server:ty) => {
            <$server>::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let (_, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::builder();
    routes
        .add_service(bounded!(v1::apps_server::AppsServer<Api>))
        .add_service(bounded!(v1::instances_server::InstancesServer<Api>))
        .add_service(bounded!(v1::images_server::ImagesServer<Api>))
        .add_service(bounded!(v1::nodes_server::NodesServer<Api>))
        .add_service(bounded!(v1::cluster_server::ClusterServer<Api>))
        .add_service(bounded!(v1::events_server::EventsServer<Api>))
        .add_service(health)
        .add_service(reflection().build_v1().expect("the descriptors are our own, checked by the build"))
        .add_service(
            reflection().build_v1alpha().expect("the descriptors are our own, checked by the build"),
        );
    Ok(routes.routes())
}

/// What reflection tells: the public services, not those that nodes speak among themselves.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    for service in PUBLIC_SERVICES {
        builder = builder.with_service_name(*service);
    }
    builder
}

const PUBLIC_SERVICES: &[&str] = &[
    "nodectl.v1.Apps",
    "nodectl.v1.Instances",
    "nodectl.v1.Images",
    "nodectl.v1.Nodes",
    "nodectl.v1.Cluster",
    "nodectl.v1.Events",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
];

/// Serves the API on a Unix socket until `shutdown` completes; then watches end, other calls
/// have a few seconds, and connections that are left are cut.
///
/// # Errors
/// The upload folder cannot be used; the socket itself failing is retried, not returned.
pub async fn serve_unix(
    deps: Deps,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let stopping = CancellationToken::new();
    let routes = routes(deps, stopping.clone())?;
    let serving = Server::builder()
        .layer(panics::CatchLayer)
        .max_concurrent_streams(STREAMS_MAX)
        // No keepalive: the kernel tells at once when a Unix socket's other end is gone, and
        // pings would cut `logs -f | less` off while its reader pauses.
        .http2_max_pending_accept_reset_streams(Some(64))
        .add_routes(routes)
        .serve_with_incoming_shutdown(listen::connections(listener), stopping.clone().cancelled_owned());
    let stop = async {
        shutdown.await;
        stopping.cancel();
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        result = serving => result.map_err(ServeError::Transport),
        () = stop => Ok(()),
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("could not make the folder for uploads, {path}")]
    UploadDir { path: PathBuf, source: std::io::Error },
    #[error("the API's server failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Empty is the caller's own tenant.
fn tenant(name: &str) -> Result<TenantName, Fault> {
    let default = TenantName::default_tenant();
    if name.is_empty() || name == default.as_str() {
        return Ok(default);
    }
    Err(Fault::Invalid(format!("tenants are not supported yet: leave the tenant {name:?} out")))
}
