//! The node's handle of one container: its state as it changes, and what can be asked of it.

use crate::model::ids::InstanceId;
use crate::runtime::exec::{ExecSession, ExecSpec, OpenError};
use crate::runtime::exit::Exit;
use crate::runtime::launch::Order;
use crate::runtime::manager::{Error, Inner};
use crate::runtime::protocol::{self, Answer, Reply, Request, Snapshot, Verb};
use crate::runtime::reclaim::Remains;
use crate::runtime::shim;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited(Exit),
}

/// What a container uses at the moment; zero where the host doesn't count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub memory_bytes: u64,
    pub cpu_us: u64,
    pub pids: u64,
    pub oom_kills: u64,
}

/// A container, running or ended. Cheap to clone; dropping it changes nothing.
#[derive(Clone)]
pub struct Container {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<Inner>,
    order: Order,
    remains: Remains,
    pid: i32,
    start_time: u64,
    address: Option<IpAddr>,
    state: watch::Receiver<State>,
    /// True once the shim has ended too.
    gone: watch::Receiver<bool>,
    requests: mpsc::Sender<Ask>,
}

struct Ask {
    verb: Verb,
    answer: oneshot::Sender<Answer>,
}

/// The connection to a shim, before there is a [`Container`].
pub(crate) struct Link {
    state: watch::Receiver<State>,
    gone: watch::Receiver<bool>,
    requests: mpsc::Sender<Ask>,
}

impl Link {
    /// Reads the first word of a shim: how its container is, or why there is none.
    pub(crate) async fn hear(socket: &mut UnixStream, buffer: &mut Vec<u8>) -> Result<Snapshot, String> {
        loop {
            match protocol::take::<Reply>(buffer).map_err(|e| e.to_string())?.and_then(|reply| reply.answer) {
                Some(Answer::Snapshot(snapshot)) => return Ok(snapshot),
                Some(Answer::Failed(why)) => return Err(why),
                Some(_) => continue,
                None => {}
            }
            match socket.read_buf(buffer).await {
                Ok(0) => return Err("its shim ended without a word".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("its shim does not answer: {error}")),
            }
        }
    }

    /// Watches from now on; runs until the shim ends.
    ///
    /// The end of the connection is the end of the shim and of all that it forked and that
    /// did not yet execute the app: each has a copy of the socket, and dies with the shim.
    pub(crate) fn open(socket: UnixStream, buffer: Vec<u8>, started: bool, remains: Remains) -> Self {
        let (state, state_rx) = watch::channel(if started { State::Running } else { State::Created });
        let (gone, gone_rx) = watch::channel(false);
        // A caller waits for its answer, so a few are all there ever are.
        let (requests, requests_rx) = mpsc::channel(8);
        tokio::spawn(async move {
            let exit = converse(socket, buffer, requests_rx, &state).await;
            let exit = match exit.or_else(|| exit_record(&remains.folder)) {
                Some(exit) => exit,
                None => {
                    // It died with its container alive, or half dead: end that first.
                    let cgroup = remains.cgroup.clone();
                    let _ =
                        tokio::task::spawn_blocking(move || cgroup.destroy(Duration::from_secs(10))).await;
                    Exit::ShimLost
                }
            };
            state.send_replace(State::Exited(exit));
            gone.send_replace(true);
        });
        Self { state: state_rx, gone: gone_rx, requests }
    }

    /// The link of a container whose shim is gone, with the record that it left.
    pub(crate) fn ended(exit: Exit) -> Self {
        let (_, state) = watch::channel(State::Exited(exit));
        let (_, gone) = watch::channel(true);
        let (requests, _) = mpsc::channel(1);
        Self { state, gone, requests }
    }

    /// Kills the container and waits for the end of its shim.
    pub(crate) async fn abandon(mut self) {
        let _ = self.ask(Verb::Kill(protocol::Kill {})).await;
        let _ = self.gone.wait_for(|gone| *gone).await;
    }

    pub(crate) async fn ask(&self, verb: Verb) -> Result<(), String> {
        ask(&self.requests, verb).await
    }
}

async fn ask(requests: &mpsc::Sender<Ask>, verb: Verb) -> Result<(), String> {
    let (answer, reply) = oneshot::channel();
    let ended = || "it has ended".to_owned();
    requests.send(Ask { verb, answer }).await.map_err(|_| ended())?;
    match reply.await.map_err(|_| ended())? {
        Answer::Failed(why) => Err(why),
        _ => Ok(()),
    }
}

/// Passes requests and answers until the shim closes; how the container ended, if it said so.
async fn converse(
    mut socket: UnixStream,
    mut buffer: Vec<u8>,
    mut requests: mpsc::Receiver<Ask>,
    state: &watch::Sender<State>,
) -> Option<Exit> {
    let mut waiting: std::collections::BTreeMap<u64, oneshot::Sender<Answer>> = Default::default();
    let mut next_id = 1u64;
    let mut exit = None;
    let mut open = true;
    loop {
        while let Ok(Some(reply)) = protocol::take::<Reply>(&mut buffer) {
            match reply.answer {
                Some(Answer::Ended(ended)) => {
                    let ended = Exit::from(ended);
                    state.send_replace(State::Exited(ended.clone()));
                    exit = Some(ended);
                }
                Some(answer) => {
                    if let Some(to) = waiting.remove(&reply.id) {
                        let _ = to.send(answer);
                    }
                }
                None => drop(waiting.remove(&reply.id)),
            }
        }
        tokio::select! {
            read = socket.read_buf(&mut buffer) => match read {
                Ok(n) if n > 0 => {}
                _ => return exit,
            },
            asked = requests.recv(), if open => match asked {
                Some(Ask { verb, answer }) => {
                    let id = next_id;
                    next_id += 1;
                    let request = Request { id, verb: Some(verb) };
                    if socket.write_all(&protocol::frame(&request)).await.is_err() {
                        return exit;
                    }
                    waiting.insert(id, answer);
                }
                // All handles are dropped: the container goes on, and so does the watch.
                None => open = false,
            },
        }
    }
}

/// The record that a shim left in a run folder.
pub(crate) fn exit_record(folder: &Path) -> Option<Exit> {
    let mut bytes = std::fs::read(folder.join(shim::EXIT_RECORD)).ok()?;
    protocol::take::<protocol::Ended>(&mut bytes).ok()?.map(Exit::from)
}

impl Container {
    pub(crate) fn new(
        runtime: Arc<Inner>,
        order: Order,
        remains: Remains,
        snapshot: &Snapshot,
        address: Option<IpAddr>,
        link: Link,
    ) -> Self {
        let Link { state, gone, requests } = link;
        let (pid, start_time) = (snapshot.pid, snapshot.start_time);
        let shared = Shared { runtime, order, remains, pid, start_time, address, state, gone, requests };
        Self { shared: Arc::new(shared) }
    }

    pub fn instance(&self) -> InstanceId {
        InstanceId(self.shared.order.instance)
    }

    pub fn attempt(&self) -> u32 {
        self.shared.order.attempt
    }

    /// `instance.attempt`: its name in networks, folders and control groups.
    pub fn key(&self) -> &str {
        &self.shared.remains.key
    }

    /// `app/process.slot`.
    pub fn name(&self) -> &str {
        &self.shared.order.name
    }

    /// Its first process, as the host counts.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// With the pid names that process for one boot.
    pub fn start_time(&self) -> u64 {
        self.shared.start_time
    }

    pub fn address(&self) -> Option<IpAddr> {
        self.shared.address
    }

    /// The first host id of its user namespace; `None` when it has the host's.
    pub fn id_base(&self) -> Option<u32> {
        self.shared.order.id_base
    }

    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Its state now and whenever it changes. Exited is the last.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait(&self) -> Exit {
        let mut state = self.watch();
        loop {
            if let State::Exited(exit) = &*state.borrow_and_update() {
                return exit.clone();
            }
            if state.changed().await.is_err() {
                return match self.state() {
                    State::Exited(exit) => exit,
                    _ => Exit::ShimLost,
                };
            }
        }
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// It has ended, or there is no such signal.
    pub async fn signal(&self, number: i32) -> Result<(), Error> {
        let signal = protocol::Signal { number, all: false };
        ask(&self.shared.requests, Verb::Signal(signal)).await.map_err(|why| self.error("signal", why))
    }

    /// Signal, grace, SIGKILL to all of it; returns how it ended. `None`: as its launch says.
    ///
    /// A container's first process ignores signals that it has no handler for; the grace
    /// bounds that.
    ///
    /// # Cancel safety
    /// Once begun, the shim carries it through.
    pub async fn stop(&self, signal: Option<i32>, grace: Option<Duration>) -> Exit {
        let order = &self.shared.order;
        let grace_ms =
            grace.map_or(order.stop_grace_ms, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let stop = protocol::Stop { signal: signal.unwrap_or(order.stop_signal), grace_ms };
        let _ = ask(&self.shared.requests, Verb::Stop(stop)).await; // ended already: all the better
        self.wait().await
    }

    /// Kills all of it at once.
    pub async fn kill(&self) -> Exit {
        let _ = ask(&self.shared.requests, Verb::Kill(protocol::Kill {})).await;
        self.wait().await
    }

    /// Removes everything that it had on this host but its logs; kills it first if need be.
    ///
    /// # Errors
    /// The kernel or the disk keeps something; try again.
    ///
    /// # Cancel safety
    /// Can be called again until it succeeds.
    pub async fn remove(&self) -> Result<(), Error> {
        self.kill().await;
        let mut gone = self.shared.gone.clone();
        let _ = gone.wait_for(|gone| *gone).await;
        let detached = self.shared.runtime.wiring.detach(self.key()).await;
        let remains = self.shared.remains.clone();
        let reclaimed = tokio::task::spawn_blocking(move || remains.reclaim()).await;
        match reclaimed {
            Ok(Ok(())) => detached.map_err(|why| self.error("detach", why)),
            Ok(Err(error)) => Err(self.error("remove", error.to_string())),
            Err(_) => Err(self.error("remove", "the node is shutting down".to_owned())),
        }
    }

    /// What it uses now; zeros once it has ended.
    pub fn stats(&self) -> Stats {
        let cgroup = &self.shared.order.cgroup;
        Stats {
            memory_bytes: cgroup.memory_bytes().unwrap_or(0),
            cpu_us: cgroup.cpu_us().unwrap_or(0),
            pids: cgroup.pids_current().unwrap_or(0),
            oom_kills: cgroup.oom_kills(),
        }
    }

    /// Runs another process in it, confined as its own are.
    ///
    /// # Errors
    /// It doesn't run, or the command can't be executed in it.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, Error> {
        if self.state() != State::Running {
            return Err(self.error("exec in", "it is not running".to_owned()));
        }
        let folder = &self.shared.remains.folder;
        ExecSession::open(&self.shared.runtime.exe, folder, self.shared.pid, self.shared.start_time, spec)
            .await
            .map_err(|error| match error {
                OpenError::Refused { status, why } => {
                    let exit_status = u8::try_from(status).unwrap_or(126);
                    Error::Command { name: self.name().to_owned(), why, exit_status }
                }
                OpenError::Failed(why) => self.error("exec in", why),
            })
    }

    fn error(&self, action: &'static str, why: String) -> Error {
        Error::Container { action, name: self.name().to_owned(), why }
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Container({} {} {:?})", self.key(), self.name(), self.state())
    }
}
