//! A node that plays a script: for each method the requests that came, and the replies to give.

use crate::golden::{Run, nodectl};
use nodectl::proto::v1::*;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Reply<T> = Result<Response<T>, Status>;
type Flow<T> = ReceiverStream<Result<T, Status>>;

/// One step of a reply.
#[derive(Clone)]
pub enum Step<T> {
    Send(T),
    Fail(Status),
    /// Keep the stream open.
    Hold,
}

/// Requests that came and replies to give, for one method.
pub struct Script<Q, A> {
    pub requests: Mutex<Vec<Q>>,
    replies: Mutex<VecDeque<Vec<Step<A>>>>,
}

impl<Q, A> Default for Script<Q, A> {
    fn default() -> Self {
        Self { requests: Mutex::default(), replies: Mutex::default() }
    }
}

impl<Q: Clone, A: Clone + Send + 'static> Script<Q, A> {
    /// The next reply; the last one is given again and again.
    pub fn reply(&self, steps: Vec<Step<A>>) {
        self.replies.lock().expect("no panic").push_back(steps);
    }

    pub fn answer(&self, message: A) {
        self.reply(vec![Step::Send(message)]);
    }

    pub fn fail(&self, status: Status) {
        self.reply(vec![Step::Fail(status)]);
    }

    pub fn requests(&self) -> Vec<Q> {
        self.requests.lock().expect("no panic").clone()
    }

    pub fn only_request(&self) -> Q {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "requests");
        requests[0].clone()
    }

    fn take(&self, request: Q) -> Vec<Step<A>> {
        self.requests.lock().expect("no panic").push(request);
        let mut replies = self.replies.lock().expect("no panic");
        match replies.len() {
            0 => vec![Step::Fail(Status::unimplemented("the script has no reply"))],
            1 => replies[0].clone(),
            _ => replies.pop_front().expect("not empty"),
        }
    }

    fn unary(&self, request: Q) -> Reply<A> {
        match self.take(request).into_iter().next() {
            Some(Step::Send(message)) => Ok(Response::new(message)),
            Some(Step::Fail(status)) => Err(status),
            Some(Step::Hold) | None => Err(Status::internal("a script for a stream")),
        }
    }

    fn stream(&self, request: Q) -> Reply<Flow<A>> {
        let steps = self.take(request);
        if let [Step::Fail(status)] = steps.as_slice() {
            return Err(status.clone());
        }
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            for step in steps {
                let sent = match step {
                    Step::Send(message) => sender.send(Ok(message)).await,
                    Step::Fail(status) => sender.send(Err(status)).await,
                    Step::Hold => return sender.closed().await,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// What an upload came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub name: String,
    pub data: Vec<u8>,
}

#[derive(Default)]
pub struct Scripts {
    pub deploy: Script<DeployRequest, DeployReply>,
    pub watch_deployment: Script<WatchDeploymentRequest, DeploymentProgress>,
    pub cancel: Script<AppRequest, ChangeReply>,
    pub apps: Script<ListAppsRequest, ListAppsReply>,
    pub status: Script<StatusRequest, StatusReply>,
    pub scale: Script<ScaleRequest, ChangeReply>,
    pub restart: Script<RestartRequest, ChangeReply>,
    pub stop: Script<AppRequest, ChangeReply>,
    pub start: Script<AppRequest, ChangeReply>,
    pub remove: Script<AppRequest, ChangeReply>,
    pub why: Script<WhyRequest, WhyReply>,
    pub logs: Script<LogsRequest, LogEntry>,
    /// What `exec` was asked for; what it plays is in [`crate::exec`].
    pub exec: Mutex<Vec<ExecStart>>,
    pub load: Script<Received, LoadProgress>,
    pub build: Script<Received, LoadProgress>,
    pub images: Script<ListImagesRequest, ListImagesReply>,
    pub inspect: Script<ImageRequest, InspectReply>,
    pub remove_image: Script<ImageRequest, RemoveImageReply>,
    pub gc: Script<GcRequest, GcReply>,
    pub nodes: Script<ListNodesRequest, ListNodesReply>,
    pub mode: Script<SetNodeModeRequest, SetNodeModeReply>,
    pub cluster: Script<ClusterStatusRequest, ClusterStatusReply>,
    pub events: Script<WatchEventsRequest, EventBatch>,
}

#[derive(Clone)]
struct Service(Arc<Scripts>);

#[tonic::async_trait]
impl apps_server::Apps for Service {
    type WatchDeploymentStream = Flow<DeploymentProgress>;
    type StatusStream = Flow<StatusReply>;

    async fn deploy(&self, request: Request<DeployRequest>) -> Reply<DeployReply> {
        self.0.deploy.unary(request.into_inner())
    }
    async fn watch_deployment(
        &self,
        request: Request<WatchDeploymentRequest>,
    ) -> Reply<Flow<DeploymentProgress>> {
        self.0.watch_deployment.stream(request.into_inner())
    }
    async fn cancel_deployment(&self, request: Request<AppRequest>) -> Reply<ChangeReply> {
        self.0.cancel.unary(request.into_inner())
    }
    async fn list(&self, request: Request<ListAppsRequest>) -> Reply<ListAppsReply> {
        self.0.apps.unary(request.into_inner())
    }
    async fn status(&self, request: Request<StatusRequest>) -> Reply<Flow<StatusReply>> {
        self.0.status.stream(request.into_inner())
    }
    async fn scale(&self, request: Request<ScaleRequest>) -> Reply<ChangeReply> {
        self.0.scale.unary(request.into_inner())
    }
    async fn restart(&self, request: Request<RestartRequest>) -> Reply<ChangeReply> {
        self.0.restart.unary(request.into_inner())
    }
    async fn stop(&self, request: Request<AppRequest>) -> Reply<ChangeReply> {
        self.0.stop.unary(request.into_inner())
    }
    async fn start(&self, request: Request<AppRequest>) -> Reply<ChangeReply> {
        self.0.start.unary(request.into_inner())
    }
    async fn remove(&self, request: Request<AppRequest>) -> Reply<ChangeReply> {
        self.0.remove.unary(request.into_inner())
    }
    async fn why(&self, request: Request<WhyRequest>) -> Reply<WhyReply> {
        self.0.why.unary(request.into_inner())
    }
}

#[tonic::async_trait]
impl instances_server::Instances for Service {
    type LogsStream = Flow<LogEntry>;
    type ExecStream = Flow<ExecOutput>;

    async fn logs(&self, request: Request<LogsRequest>) -> Reply<Flow<LogEntry>> {
        self.0.logs.stream(request.into_inner())
    }
    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Reply<Flow<ExecOutput>> {
        let mut input = request.into_inner();
        let Some(ExecInput { input: Some(exec_input::Input::Start(start)) }) = input.message().await? else {
            return Err(Status::invalid_argument("the first message must be the start"));
        };
        self.0.exec.lock().expect("no panic").push(start.clone());
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(crate::exec::play(start, input, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl images_server::Images for Service {
    type LoadStream = Flow<LoadProgress>;
    type BuildStaticStream = Flow<LoadProgress>;

    async fn load(&self, request: Request<Streaming<LoadChunk>>) -> Reply<Flow<LoadProgress>> {
        let mut chunks = request.into_inner();
        let mut received = Received { name: String::new(), data: Vec::new() };
        while let Some(chunk) = chunks.message().await? {
            received.name.push_str(&chunk.default_name);
            received.data.extend_from_slice(&chunk.data);
        }
        self.0.load.stream(received)
    }
    async fn build_static(&self, request: Request<Streaming<BuildChunk>>) -> Reply<Flow<LoadProgress>> {
        let mut chunks = request.into_inner();
        let mut received = Received { name: String::new(), data: Vec::new() };
        while let Some(chunk) = chunks.message().await? {
            received.name.push_str(&chunk.name);
            received.data.extend_from_slice(&chunk.data);
        }
        self.0.build.stream(received)
    }
    async fn list(&self, request: Request<ListImagesRequest>) -> Reply<ListImagesReply> {
        self.0.images.unary(request.into_inner())
    }
    async fn inspect(&self, request: Request<ImageRequest>) -> Reply<InspectReply> {
        self.0.inspect.unary(request.into_inner())
    }
    async fn remove(&self, request: Request<ImageRequest>) -> Reply<RemoveImageReply> {
        self.0.remove_image.unary(request.into_inner())
    }
    async fn gc(&self, request: Request<GcRequest>) -> Reply<GcReply> {
        self.0.gc.unary(request.into_inner())
    }
}

#[tonic::async_trait]
impl nodes_server::Nodes for Service {
    async fn list(&self, request: Request<ListNodesRequest>) -> Reply<ListNodesReply> {
        self.0.nodes.unary(request.into_inner())
    }
    async fn set_mode(&self, request: Request<SetNodeModeRequest>) -> Reply<SetNodeModeReply> {
        self.0.mode.unary(request.into_inner())
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Service {
    async fn status(&self, request: Request<ClusterStatusRequest>) -> Reply<ClusterStatusReply> {
        self.0.cluster.unary(request.into_inner())
    }
}

#[tonic::async_trait]
impl events_server::Events for Service {
    type WatchStream = Flow<EventBatch>;

    async fn watch(&self, request: Request<WatchEventsRequest>) -> Reply<Flow<EventBatch>> {
        self.0.events.stream(request.into_inner())
    }
}

/// A node on a socket in a folder of its own; the binary runs in that folder.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub scripts: Arc<Scripts>,
    socket: PathBuf,
    runtime: Option<Runtime>,
}

impl Node {
    pub fn start() -> Self {
        Self::start_at(Path::new("api.sock"))
    }

    /// `socket`: relative to the folder.
    pub fn start_at(socket: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join(socket);
        let mut node = Self { folder, scripts: Arc::default(), socket, runtime: None };
        node.serve();
        node
    }

    fn serve(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let service = Service(self.scripts.clone());
        let listener = runtime.block_on(async { listen(&self.socket) });
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(apps_server::AppsServer::new(service.clone()))
                .add_service(instances_server::InstancesServer::new(service.clone()))
                .add_service(images_server::ImagesServer::new(service.clone()))
                .add_service(nodes_server::NodesServer::new(service.clone()))
                .add_service(cluster_server::ClusterServer::new(service.clone()))
                .add_service(events_server::EventsServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        self.runtime = Some(runtime);
    }

    /// Goes away in mid-sentence, as after `kill -9`: every connection breaks.
    pub fn crash(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        std::fs::remove_file(&self.socket).expect("the socket was there");
    }

    pub fn restart(&mut self) {
        self.crash();
        self.serve();
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = nodectl(self.folder.path(), args);
        command.env("NODECTL_ADDR", self.address());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command(args))
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("written");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Binds also where the path is too long for a socket address.
fn listen(socket: &Path) -> tokio::net::UnixListener {
    use std::os::fd::AsRawFd;
    let parent = socket.parent().expect("a parent");
    std::fs::create_dir_all(parent).expect("a folder");
    let folder = std::fs::File::open(parent).expect("the folder opens");
    let short =
        format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), socket.file_name().expect("a name").display());
    tokio::net::UnixListener::bind(short).expect("the socket is free")
}

/// Waits until something is so, at most twenty seconds.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
