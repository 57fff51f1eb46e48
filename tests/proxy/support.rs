//! Backends, a raw client, and a proxy that is ended with its test.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use nodectl::model::ids::{AppKey, AppName, InstanceId, ProcessKey, ProcessName, TenantName, ViewVersion};
use nodectl::model::routes::{Backend, RoutingTable, Rule, Service};
use nodectl::proxy::{Config, Limits, Supervisor};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// For conditions that come in milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub fn key(app: &str) -> ProcessKey {
    ProcessKey {
        app: AppKey { tenant: TenantName::default_tenant(), app: AppName::new(app).unwrap() },
        process: ProcessName::new("web").unwrap(),
    }
}

/// `APP.localhost` for each app, with its backends: (instance, address).
pub fn table(index: u64, apps: &[(&str, &[(u64, SocketAddr)])]) -> RoutingTable {
    RoutingTable {
        version: ViewVersion { incarnation: 1, index },
        rules: apps
            .iter()
            .map(|(app, _)| Rule { host: Some(format!("{app}.localhost")), path: "/".into(), to: key(app) })
            .collect(),
        services: apps
            .iter()
            .map(|(app, backends)| {
                let backends = backends.iter().map(|(id, address)| Backend {
                    instance: InstanceId(*id),
                    attempt: 0,
                    address: *address,
                    weight: 1,
                });
                (key(app), Service { backends: backends.collect(), expected: false })
            })
            .collect(),
    }
}

pub struct Proxy {
    pub supervisor: Option<Supervisor>,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
    pub config: Config,
}

impl Proxy {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("proxy");
        let config = config(&run_dir, limits);
        let supervisor = Supervisor::start_or_adopt(config.clone()).await.unwrap();
        let address = supervisor.addresses()[0];
        Self { supervisor: Some(supervisor), address, _folder: folder, config }
    }

    pub fn supervisor(&self) -> &Supervisor {
        self.supervisor.as_ref().unwrap()
    }

    /// Publishes and waits until every worker serves it.
    pub async fn serve(&self, table: RoutingTable) {
        let mut served = self.supervisor().served();
        let version = table.version;
        self.supervisor().publish(table);
        tokio::time::timeout(DEADLINE, served.wait_for(|v| *v >= Some(version))).await.unwrap().unwrap();
    }

    /// Ends it and sees that nothing is left.
    pub async fn end(mut self) {
        let pid = self.supervisor().pid();
        self.supervisor.take().unwrap().shutdown().await;
        if let Some(pid) = pid {
            assert!(!is_alive(pid), "the proxy still runs");
        }
        assert!(TcpStream::connect(self.address).await.is_err(), "somebody still listens");
    }
}

impl Drop for Proxy {
    /// For a test that failed: by the id in its own folder's pid file.
    fn drop(&mut self) {
        if let Ok(text) = std::fs::read_to_string(self.config.run_dir.join("proxy.pid"))
            && let Some(pid) = text.split_whitespace().next().and_then(|pid| pid.parse().ok())
            && is_alive(pid)
        {
            kill(pid);
        }
    }
}

pub fn config(run_dir: &Path, limits: Limits) -> Config {
    Config {
        run_dir: run_dir.to_owned(),
        program: env!("CARGO_BIN_EXE_nodectl").into(),
        http: vec!["127.0.0.1:0".parse().unwrap()],
        uid: nodectl::proxy::DEFAULT_UID,
        workers: 2,
        limits,
    }
}

pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

pub fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Waits for a condition.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub type Body = BoxBody<Bytes, hyper::Error>;

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A backend that serves what the tests ask for, by path.
pub struct App {
    pub address: SocketAddr,
    /// Requests whose head arrived.
    pub seen: Arc<AtomicU64>,
    /// Requests for `/hidden`.
    pub hidden: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl App {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let hidden = Arc::new(AtomicU64::new(0));
        let (counter, hidden_counter) = (Arc::clone(&seen), Arc::clone(&hidden));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).unwrap();
                let (counter, hidden_counter) = (Arc::clone(&counter), Arc::clone(&hidden_counter));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    if request.uri().path() == "/hidden" {
                        hidden_counter.fetch_add(1, Ordering::SeqCst);
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    answer(name, request)
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.with_upgrades().await) });
            }
        });
        Self { address, seen, hidden, task }
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// As a process that is killed: every connection breaks, the port refuses.
    pub fn die(&self) {
        self.task.abort();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(name: &'static str, mut request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let response = match request.uri().path() {
        "/headers" => {
            let mut text = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            Response::new(full(text))
        }
        "/echo" => Response::new(request.into_body().boxed()),
        "/count" => {
            let mut body = request.into_body();
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame?.data_ref().map_or(0, Bytes::len);
            }
            Response::new(full(bytes.to_string()))
        }
        "/slow" => std::future::pending().await,
        "/pause" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Response::new(full(name))
        }
        "/trailers" => {
            let asked = request.headers().get("te").is_some();
            let (send, receive) = tokio::sync::mpsc::channel(2);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(if asked { "0" } else { "1" }));
            send.send(Ok(Frame::data(Bytes::from_static(b"body")))).await.unwrap();
            send.send(Ok(Frame::trailers(trailers))).await.unwrap();
            let stream = tokio_stream::wrappers::ReceiverStream::new(receive);
            let mut response = Response::new(StreamBody::new(stream).boxed());
            response.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
            response
        }
        "/upgrade" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                write.write_all(b"hello from the backend\n").await.unwrap();
                // Echoes, says goodbye after the client has ended its side.
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = read.read(&mut buffer).await {
                    write.write_all(&buffer[..length]).await.unwrap();
                }
                write.write_all(b"goodbye\n").await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            let protocol = request.headers().get("upgrade").unwrap().clone();
            response.headers_mut().insert("upgrade", protocol);
            response
        }
        _ => Response::new(full(name)),
    };
    Ok(response)
}

/// Sends bytes as they are and gives back all until the other side closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The answer may come, and the connection close, before everything was sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    match tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => panic!("broken after {:?}: {e}", String::from_utf8_lossy(&answer)),
        Err(_) => panic!("still open after {:?}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// One request on its own connection: status line and all that follows.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> String {
    raw(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes()).await
}

/// Reads until the text ends so.
pub async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(DEADLINE, stream.read_u8()).await;
        match read {
            Ok(Ok(byte)) => text.push(byte),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

pub type Sender = hyper::client::conn::http1::SendRequest<Body>;

/// A keep-alive client.
pub async fn client(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Status and body.
pub async fn ask(client: &mut Sender, request: Request<Body>) -> hyper::Result<(StatusCode, String)> {
    client.ready().await?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

pub fn request(method: &str, host: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", host).body(body).unwrap()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}
