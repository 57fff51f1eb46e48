//! `nodectl dev`: one node in the foreground. It reads as the story of a start and a stop.

use super::folder::Folder;
use super::gate::ProxyGate;
use super::host::ThisHost;
use super::store::{Controlled, Reports};
use super::tasks::{Policy, Tasks};
use super::wiring::Bridge;
use super::{machine, publish};
use crate::agent::{self, containers};
use crate::model::command::{Action, NodeFacts};
use crate::model::ids::{NodeName, RaftId, Zone};
use crate::model::instance::{Desired, Phase};
use crate::model::project;
use crate::proxy::Supervisor;
use crate::runtime::network::{self, Network, Proto};
use crate::runtime::{self, Runtime, SealedExe};
use crate::{api, clock, controller, images, proxy, raft};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    /// Where the proxy listens.
    pub http: SocketAddr,
    /// SIGTERM ends the node alone; what it runs goes on, and the next start takes it back. For
    /// a service, whose manager ends it so to restart or to upgrade it.
    pub leave_running: bool,
}

/// A node that serves, as the one who started it sees it.
#[derive(Clone, Debug)]
pub struct Up {
    pub socket: PathBuf,
    pub http: SocketAddr,
    /// What the operator should know, in sentences.
    pub warnings: Vec<String>,
}

/// How long requests inside may take when an instance stops, unless its own grace is longer.
const DRAIN: Duration = Duration::from_secs(10);
/// How long `ready` waits for apps that ran before to serve again.
const SETTLE: Duration = Duration::from_secs(10);
const STOP_TASKS: Duration = Duration::from_secs(5);

/// Runs a node until Ctrl-C or SIGTERM, then stops its containers and leaves nothing behind
/// but its data folder (but see [`Options::leave_running`]). `on_up` is called once, when everything
/// that ran before runs again.
///
/// # Errors
/// What keeps the node from starting, or the essential part of it that failed.
pub async fn run<F>(options: Options, on_up: impl FnOnce(Up) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut stop = StopSignal::listen()?;
    // Not broken off by a first Ctrl-C: what it had half made would be left.
    let node = Node::start(&options).await?;
    let up = Up { socket: node.socket.clone(), http: node.http, warnings: node.warnings.clone() };
    let Node { parts, mut tasks, mut failures, .. } = node;
    let mut ended = Ok(());
    let mut failed = None;
    tokio::select! {
        biased;
        () = stop.wait() => {}
        failure = failures.recv() => failed = Some(failure.unwrap_or_default()),
        said = async { parts.settled().await; on_up(up).await } => if let Err(error) = said { ended = Err(error) },
    }
    if ended.is_ok() && failed.is_none() && stop.came().is_none() {
        tokio::select! {
            () = stop.wait() => {}
            failure = failures.recv() => failed = Some(failure.unwrap_or_default()),
        }
    }
    if let Some(failure) = failed {
        let why = parts.abandon(&failure).await;
        tasks.finish(STOP_TASKS).await;
        anyhow::bail!(why);
    }
    if options.leave_running && stop.came() == Some(Stop::Terminate) {
        parts.leave().await;
        tasks.finish(STOP_TASKS).await;
        return ended;
    }
    parts.stop(&mut tasks).await;
    tasks.finish(STOP_TASKS).await;
    ended
}

/// SIGINT and SIGTERM: the first is waited for, the second ends the process wherever it is.
struct StopSignal(watch::Receiver<Option<Stop>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupt,
    Terminate,
}

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
/// A stop that takes longer is worth a word.
const QUIET: Duration = Duration::from_secs(1);

impl StopSignal {
    fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (came, first) = watch::channel(None);
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => Stop::Interrupt,
                    _ = terminate.recv() => Stop::Terminate,
                }
            };
            came.send_replace(Some(next().await));
            if tokio::time::timeout(QUIET, next()).await.is_err() {
                eprintln!("stopping; Ctrl-C again ends this at once");
                next().await;
            }
            eprintln!("ended at once: what still runs goes on; the next start finds it");
            // As if it were killed, which it survives at any moment: containers and the proxy have
            // processes of their own, and the store is synced.
            std::process::exit(INTERRUPTED);
        });
        Ok(Self(first))
    }

    async fn wait(&mut self) {
        // The task ends with the process only.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// The first that came.
    fn came(&self) -> Option<Stop> {
        *self.0.borrow()
    }
}

struct Node {
    parts: Parts,
    tasks: Tasks,
    failures: tokio::sync::mpsc::Receiver<String>,
    socket: PathBuf,
    http: SocketAddr,
    warnings: Vec<String>,
}

/// What has an order in which it ends.
struct Parts {
    raft: raft::Handle,
    agent: agent::Agent,
    containers: containers::Host,
    runtime: Runtime,
    network: Arc<Network>,
    supervisor: Arc<Supervisor>,
    socket: PathBuf,
    run_dir: PathBuf,
    node: crate::model::ids::NodeId,
    _folder: Folder,
}

impl Node {
    async fn start(options: &Options) -> anyhow::Result<Node> {
        if !nix::unistd::geteuid().is_root() {
            anyhow::bail!(
                "a node needs root for its containers (namespaces, mounts, control groups): try again with sudo"
            );
        }
        let folder = Folder::open(&options.data_dir)?;
        let (data, tag) = (folder.path.clone(), folder.tag());
        let run_dir = Path::new("/run/nodectl").join(&tag);
        let program = SealedExe::of_self().context("could not make a sealed copy of this program")?;

        // The proxy first: a port in use is the commonest fault, and nothing is made yet.
        let supervisor = match start_proxy(options, &run_dir, &program).await {
            Ok(supervisor) => Arc::new(supervisor),
            Err(error) => {
                for made in [run_dir.join("proxy"), run_dir] {
                    let _ = std::fs::remove_dir(made);
                }
                folder.withdraw();
                return Err(error);
            }
        };
        let http = supervisor.addresses().first().copied().unwrap_or(options.http);
        let started =
            Node::start_behind(options, folder, data, &tag, &run_dir, program, supervisor.clone(), http)
                .await;
        // One that serves was adopted: what it leads to runs on, whatever keeps us from starting.
        let serves = supervisor.served().borrow().is_some();
        if started.is_err() && !serves {
            supervisor.shutdown().await;
        }
        started
    }

    #[allow(clippy::too_many_arguments)]
    async fn start_behind(
        _options: &Options,
        folder: Folder,
        data: PathBuf,
        tag: &str,
        run_dir: &Path,
        program: SealedExe,
        supervisor: Arc<Supervisor>,
        http: SocketAddr,
    ) -> anyhow::Result<Node> {
        let node = folder.node;
        let raft = raft::open(raft::Config::new(data.join("raft"))).await?;
        let name = register(&raft, node, &data).await?;
        let images = {
            let root = data.join("images");
            tokio::task::spawn_blocking(move || images::Store::open(&root)).await??
        };
        let network = Arc::new(
            Network::open(network::Config {
                tag: tag.to_owned(),
                run_dir: run_dir.join("network"),
                state_dir: data.clone(),
                allowed_gateway_ports: vec![(Proto::Udp, 53), (Proto::Tcp, 53)],
            })
            .await?,
        );
        let warnings: Vec<String> =
            network.diagnose().await.unwrap_or_default().into_iter().map(|w| w.message).collect();
        let mut config = runtime::Config::new(data.clone(), tag, Arc::new(Bridge(network.clone())));
        config.run_dir = run_dir.join("containers");
        config.exe = Some(program.clone());
        let runtime = Runtime::open(config).await?;
        let (containers, ends) = containers::Host::new(runtime.clone(), images.clone());
        let adopted = containers.adopt().await;
        network
            .sweep(&adopted.iter().map(|found| format!("{}.{}", found.instance, found.attempt)).collect())
            .await?;

        let (mut tasks, failures) = Tasks::new();
        let (assign, assignments) = watch::channel(project::assignments(&raft.view().state, node));
        let sink = Reports { raft: raft.clone(), node, name: name.clone() };
        let (agent, work) = agent::spawn(
            agent::Config { acted_file: data.join("acted"), drain: DRAIN },
            Arc::new(containers.clone()),
            Arc::new(ProxyGate(supervisor.clone())),
            sink,
            adopted,
            assignments,
            ends,
            tasks.shutdown.clone(),
        );
        tasks.spawn("agent", Policy::Essential, async move {
            work.await;
            Ok(())
        });
        tasks.spawn("assignments", Policy::Essential, publish::assignments(raft.subscribe(), node, assign));
        spawn_firewall(&mut tasks, network.clone(), &warnings);
        spawn_controller(&mut tasks, &raft);
        spawn_routes(&mut tasks, &raft, agent.clone(), supervisor.clone());
        let socket = data.join("api.sock");
        let host = ThisHost {
            containers: containers.clone(),
            images,
            raft: raft.clone(),
            fresh: Default::default(),
            data_dir: data.clone(),
            http_port: http.port(),
            program: program.path().to_path_buf(),
        };
        spawn_api(&mut tasks, &raft, host, &data, &socket)?;
        let parts = Parts {
            raft,
            agent,
            containers,
            runtime,
            network,
            supervisor,
            socket: socket.clone(),
            run_dir: run_dir.to_owned(),
            node,
            _folder: folder,
        };
        Ok(Node { parts, tasks, failures, socket, http, warnings })
    }
}

async fn start_proxy(options: &Options, run_dir: &Path, program: &SealedExe) -> anyhow::Result<Supervisor> {
    let config = proxy::Config {
        run_dir: run_dir.join("proxy"),
        program: program.path().to_path_buf(),
        http: vec![options.http],
        uid: proxy::DEFAULT_UID,
        workers: 0,
        limits: proxy::Limits::default(),
    };
    Ok(Supervisor::start_or_adopt(config).await?)
}

/// Makes the cluster on the first start, and says who this node is on every one.
async fn register(
    raft: &raft::Handle,
    node: crate::model::ids::NodeId,
    data: &Path,
) -> anyhow::Result<String> {
    let state = raft.view().state;
    if state.cluster_id == 0 {
        raft.propose("node", Action::InitCluster { cluster_id: clock::random_u128() }).await?;
    }
    let name = match state.nodes.get(&node) {
        Some(known) => known.name.clone(),
        None => NodeName::new(&machine::host_name())?,
    };
    let facts = NodeFacts {
        id: node,
        name: name.clone(),
        zone: Zone::new("local")?,
        pool: String::new(),
        labels: Default::default(),
        capacity: machine::capacity(data),
        platform: machine::platform(),
        version: env!("CARGO_PKG_VERSION").into(),
        addresses: Vec::new(),
        raft_id: Some(RaftId(raft.metrics().raft_id)),
    };
    raft.propose("node", Action::RegisterNode(facts)).await?;
    Ok(name.to_string())
}

/// Without it a node serves on, but what changes the host's firewall may cut its containers off.
fn spawn_firewall(tasks: &mut Tasks, network: Arc<Network>, told: &[String]) {
    let (shutdown, told) = (tasks.shutdown.clone(), told.iter().cloned().collect());
    tasks.spawn("firewall", Policy::Finite, async move {
        let keep = network.keep(told, |message| tracing::warn!("{message}"));
        tokio::select! {
            kept = keep => Ok(kept?),
            () = shutdown.cancelled() => Ok(()),
        }
    });
}

fn spawn_controller(tasks: &mut Tasks, raft: &raft::Handle) {
    let (store, shutdown) = (Controlled::new(raft.clone()), tasks.shutdown.clone());
    tasks.spawn("controller", Policy::Essential, async move {
        controller::run(store, shutdown).await;
        Ok(())
    });
}

/// The table is published only when the agent has said what became of the instances of the
/// state: until then, an adopted proxy's own table is the truer one.
fn spawn_routes(
    tasks: &mut Tasks,
    raft: &raft::Handle,
    mut agent: agent::Agent,
    supervisor: Arc<Supervisor>,
) {
    let views = raft.subscribe();
    tasks.spawn("routes", Policy::Essential, async move {
        agent.settled().await;
        publish::routes(views, |table| supervisor.publish(table)).await
    });
}

fn spawn_api(
    tasks: &mut Tasks,
    raft: &raft::Handle,
    host: ThisHost,
    data: &Path,
    socket: &Path,
) -> anyhow::Result<()> {
    let listener =
        bind_socket(data, "api.sock").with_context(|| format!("could not listen on {}", socket.display()))?;
    let deps =
        api::Deps { store: Arc::new(raft.clone()), host: Arc::new(host), upload_dir: data.join("uploads") };
    let shutdown = tasks.shutdown.clone();
    tasks.spawn("api", Policy::Essential, async move {
        api::serve_unix(deps, listener, shutdown.cancelled_owned()).await?;
        Ok(())
    });
    Ok(())
}

/// Binds a socket that only its owner may open. It goes through a descriptor of its folder,
/// since the path of a socket may have 107 bytes and a data folder's more.
fn bind_socket(folder: &Path, name: &str) -> std::io::Result<tokio::net::UnixListener> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;
    let dir = std::fs::File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    // The folder is 0700, so nobody came in between.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

impl Parts {
    /// Returns when what ran before runs again, or does not after all.
    async fn settled(&self) {
        self.agent.clone().settled().await;
        let mut views = self.raft.subscribe();
        let serves = async {
            while let Ok((view, _)) = views.changed().await {
                let waiting = view.state.instances_on(self.node).any(|instance| {
                    instance.desired == Desired::Run
                        && !instance.observed.ready
                        && matches!(
                            instance.observed.phase,
                            Phase::Pending | Phase::Preparing | Phase::Starting
                        )
                });
                if !waiting {
                    let version = project::view_version(&view.state);
                    let mut served = self.supervisor.served();
                    let _ = served
                        .wait_for(|at| at.is_some_and(|at| at.incarnation == version.incarnation))
                        .await;
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE, serves).await;
    }

    /// The node has failed; what it runs has not. As if it were killed, its containers and its
    /// proxy go on serving, and the next start adopts them. Says why, and what to do.
    async fn abandon(self, failure: &str) -> String {
        let _ = std::fs::remove_file(&self.socket);
        let cause = self.raft.metrics().failure;
        // Its own error is the cause that is told here.
        self.raft.shutdown().await;
        let what = match cause {
            Some(cause) if raft::is_full(&cause) => "its disk is full: free some space".to_owned(),
            Some(cause) => format!("its store cannot be written ({cause}): look after its disk"),
            None => failure.to_owned(),
        };
        format!(
            "the node cannot go on, {what}\n  what it runs goes on serving; start the node again to take it back"
        )
    }

    /// Ends the node alone. What it runs goes on as after `kill -9`, but nothing is half done.
    async fn leave(self) {
        let _ = std::fs::remove_file(&self.socket);
        self.raft.shutdown().await;
    }

    /// Ends everything in its order: no new work, no new requests, no containers, no network.
    async fn stop(self, tasks: &mut Tasks) {
        tasks.shutdown.cancel();
        let Parts { raft, agent: _, containers, runtime, network, supervisor, socket, run_dir, .. } = self;
        let _ = std::fs::remove_file(&socket);
        supervisor.shutdown().await;
        containers.stop_all().await;
        runtime.close().await;
        if let Err(error) = network.close().await {
            tracing::warn!(%error, "something of the network is left");
        }
        raft.shutdown().await;
        // Records of what is no more. A container that would not go has kept its own folder.
        for room in ["network", "proxy"] {
            let _ = std::fs::remove_dir_all(run_dir.join(room));
        }
        let _ = std::fs::remove_dir(&run_dir);
    }
}
