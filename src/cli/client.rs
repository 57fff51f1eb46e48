//! The connection to a node: opened when a verb first needs it, over a Unix socket, and why it
//! could not be.

use super::address::{self, Address};
use super::failure::Failure;
use crate::proto::v1::apps_client::AppsClient;
use crate::proto::v1::cluster_client::ClusterClient;
use crate::proto::v1::events_client::EventsClient;
use crate::proto::v1::images_client::ImagesClient;
use crate::proto::v1::instances_client::InstancesClient;
use crate::proto::v1::nodes_client::NodesClient;
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A request that only reads or changes the state. Long enough for an election in between.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where to connect; cheap, connects when asked to.
pub struct Client {
    given: Option<String>,
}

impl Client {
    pub fn new(given: Option<String>) -> Self {
        Self { given }
    }

    pub async fn apps(&self) -> anyhow::Result<AppsClient<Channel>> {
        Ok(AppsClient::new(self.channel().await?))
    }
    pub async fn instances(&self) -> anyhow::Result<InstancesClient<Channel>> {
        Ok(InstancesClient::new(self.channel().await?))
    }
    pub async fn images(&self) -> anyhow::Result<ImagesClient<Channel>> {
        Ok(ImagesClient::new(self.channel().await?))
    }
    pub async fn nodes(&self) -> anyhow::Result<NodesClient<Channel>> {
        Ok(NodesClient::new(self.channel().await?))
    }
    pub async fn cluster(&self) -> anyhow::Result<ClusterClient<Channel>> {
        Ok(ClusterClient::new(self.channel().await?))
    }
    pub async fn events(&self) -> anyhow::Result<EventsClient<Channel>> {
        Ok(EventsClient::new(self.channel().await?))
    }

    /// The address in words, for messages.
    pub fn address(&self) -> anyhow::Result<Address> {
        address::resolve(self.given.as_deref())
    }

    async fn channel(&self) -> anyhow::Result<Channel> {
        let address = self.address()?;
        // Connect once by hand: its error is exact, tonic's is "transport error".
        let first = connect(&address.socket).await.map_err(|error| unreachable(&address, &error))?;
        let mut first = Some(first);
        let connector = tower::service_fn(move |_| {
            let first = first.take();
            let socket = address.socket.clone();
            async move {
                let stream = match first {
                    Some(stream) => stream,
                    None => connect(&socket).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // The name is never looked up; HTTP/2 wants one.
        let endpoint = Endpoint::from_static("http://nodectl.internal")
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        endpoint.connect_with_connector(connector).await.map_err(|error| {
            Failure::new(format!("could not speak with the node: {}", root_cause(&error))).into()
        })
    }
}

/// A request with the deadline of everything that is answered at once.
pub fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_WITHIN);
    request
}

/// Connects to a socket, also where its path is longer than the 108 bytes of a socket address:
/// then by way of its folder, opened, and the short path that the kernel gives every open file.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    const LONGEST: usize = 107;
    if socket.as_os_str().len() <= LONGEST {
        return UnixStream::connect(socket).await;
    }
    connect_far(socket).await
}

#[cfg(target_os = "linux")]
async fn connect_far(socket: &Path) -> io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).await
}

#[cfg(not(target_os = "linux"))]
async fn connect_far(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket).await
}

fn unreachable(address: &Address, error: &io::Error) -> anyhow::Error {
    let at = address.socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let failure = Failure::new(format!("no node answers at unix://{at}"));
            if address.named {
                failure.hint("is it running with that data folder? start one: `nodectl dev --data-dir DIR` in another terminal")
            } else {
                let mut hint = "start one in another terminal: `nodectl dev`\n\
                                or, if it runs with another data folder: NODECTL_ADDR=unix://DIR/api.sock"
                    .to_owned();
                if !rustix::process::geteuid().is_root() {
                    hint.push_str("\nor, if root started it: run this with sudo");
                }
                failure.hint(hint)
            }
        }
        io::ErrorKind::PermissionDenied => {
            Failure::new(format!("the node's socket unix://{at} is not open to this user"))
                .hint("run as the user that started the node (with sudo, if that was root)")
        }
        _ => Failure::new(format!("could not connect to unix://{at}: {error}"))
            .hint("is that the socket of a node? it is called api.sock, in the node's data folder"),
    }
    .into()
}

fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
