//! The node's side: keeps one proxy process alive and up to date. A handle for the rest of
//! the node, and one task behind it that starts or adopts the process (`spawn.rs`), talks to
//! it, and starts it again when it ends, on the same sockets and with the same table.
//!
//! Dropping the handle leaves the proxy running: that is what a node's end means. Only
//! `shutdown` ends it.

use super::link::Link;
use super::spawn::{self, Living, Sockets};
use super::stats::Stats;
use super::{ANSWER_TIMEOUT, Config, Error, convert, wire};
use crate::model::ids::{InstanceId, ViewVersion};
use crate::model::routes::RoutingTable;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Questions that wait for the proxy; more than a node's instances stop at once.
const ASKS: usize = 1024;
/// Gates that a fresh proxy is told again; what is older has long left every table.
const REMEMBERED_GATES: usize = 1024;
/// Gentle, because it only finds a proxy that lives but does not answer.
const PING_EVERY: Duration = Duration::from_secs(2);

/// A node knows its first table within some milliseconds of its start; one that does not is in
/// trouble, and its clients should hear an answer.
const TABLE_WITHIN: Duration = Duration::from_secs(10);

/// What the supervisor tells whoever listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A backend refused a connection or broke it: a hint for a probe, not a verdict.
    BackendTrouble { instance: InstanceId, attempt: u32, reason: String },
    /// The proxy process ended without being asked to; it is being started again.
    Died { pid: u32 },
    /// A new proxy process serves.
    Started { pid: u32 },
    /// It could not be started; the next try follows after `retry_in`.
    StartFailed { error: String, retry_in: Duration },
}

/// The answer to a closed gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateClosed {
    /// Requests that were still running when the time ran out; 0 when all ended.
    pub in_flight: u64,
}

enum Ask {
    Gate { instance: InstanceId, attempt: u32, drain: Duration, reply: oneshot::Sender<GateClosed> },
    Stats { reply: oneshot::Sender<Stats> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// The node's handle on its proxy.
#[derive(Debug)]
pub struct Supervisor {
    asks: mpsc::Sender<Ask>,
    table: watch::Sender<Option<Arc<RoutingTable>>>,
    pid: watch::Receiver<Option<u32>>,
    served: watch::Receiver<Option<ViewVersion>>,
    events: broadcast::Sender<Event>,
    addresses: Vec<SocketAddr>,
}

impl Supervisor {
    /// Adopts the proxy that a former node process left, or binds the sockets and starts one.
    /// Call it inside a tokio runtime; the supervising task is spawned there.
    ///
    /// # Errors
    /// The port is taken, the folder can't be used, or the process would not start.
    pub async fn start_or_adopt(config: Config) -> Result<Supervisor, Error> {
        let (config, living, sockets) =
            blocking(move || start_or_adopt(&config).map(|(l, s)| (config, l, s))).await?;
        let (asks, asked) = mpsc::channel(ASKS);
        let table = watch::Sender::new(None);
        let events = broadcast::Sender::new(1024);
        let (pid_set, pid) = watch::channel(Some(living.pid));
        let served_now = living.hello.table.as_ref().map(convert::version_from_wire);
        let (served_set, served) = watch::channel(served_now);
        let addresses = sockets.addresses();
        let task = Task {
            config: Arc::new(config),
            sockets: Some(Arc::new(sockets)),
            asked,
            table: table.subscribe(),
            pid: pid_set,
            served: served_set,
            events: events.clone(),
            gates: VecDeque::new(),
            waiting_gates: BTreeMap::new(),
            waiting_stats: BTreeMap::new(),
            next_request: 1,
        };
        tokio::spawn(task.run(living));
        Ok(Supervisor { asks, table, pid, served, events, addresses })
    }

    /// Makes the proxy serve `table`; returns at once. Versions must rise: one that is not
    /// newer than what the proxy serves is ignored by it.
    pub fn publish(&self, table: RoutingTable) {
        self.table.send_replace(Some(Arc::new(table)));
    }

    /// Stops new requests to an instance, and ends when those in flight have, or after
    /// `drain`. The request is on its way once the future is polled.
    pub fn close_gate(
        &self,
        instance: InstanceId,
        attempt: u32,
        drain: Duration,
    ) -> impl Future<Output = Result<GateClosed, Error>> + Send + 'static + use<> {
        let asks = self.asks.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            let ask = Ask::Gate { instance, attempt, drain, reply };
            question(&asks, ask, answer, drain + ANSWER_TIMEOUT).await
        }
    }

    /// Counts since each proxy process started: they begin again at 0 when it is replaced.
    ///
    /// # Errors
    /// There is no proxy that answers.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let (reply, answer) = oneshot::channel();
        question(&self.asks, Ask::Stats { reply }, answer, ANSWER_TIMEOUT).await
    }

    /// Of the proxy process; `None` while there is none.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// The version that every worker of the proxy serves; `None` before the first.
    pub fn served(&self) -> watch::Receiver<Option<ViewVersion>> {
        self.served.clone()
    }

    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Where it listens, with the ports that were picked for 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Lets the proxy finish what it has (bounded by `Limits::shutdown_drain`) and end, and
    /// closes its sockets.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        if self.asks.send(Ask::Shutdown { reply }).await.is_ok() {
            // An error means that the task is gone, and with it what should be shut down.
            let _ = answer.await;
        }
    }
}

async fn question<T>(
    asks: &mpsc::Sender<Ask>,
    ask: Ask,
    answer: oneshot::Receiver<T>,
    patience: Duration,
) -> Result<T, Error> {
    asks.send(ask).await.map_err(|_| Error::Ended)?;
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        // The proxy ended before it answered, or is too slow.
        Ok(Err(_)) | Err(_) => Err(Error::NoAnswer),
    }
}

fn start_or_adopt(config: &Config) -> Result<(Living, Sockets), Error> {
    spawn::prepare_folder(&config.run_dir)?;
    if let Some(adopted) = spawn::adopt(config)? {
        return Ok(adopted);
    }
    let sockets = spawn::bind(config)?;
    let living = spawn::spawn(config, &sockets, None, Vec::new())?;
    Ok((living, sockets))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Ended))
}

struct Task {
    config: Arc<Config>,
    /// `None` once they were closed to end.
    sockets: Option<Arc<Sockets>>,
    asked: mpsc::Receiver<Ask>,
    table: watch::Receiver<Option<Arc<RoutingTable>>>,
    pid: watch::Sender<Option<u32>>,
    served: watch::Sender<Option<ViewVersion>>,
    events: broadcast::Sender<Event>,
    /// Closed gates, oldest first.
    gates: VecDeque<wire::CloseGate>,
    waiting_gates: BTreeMap<u64, (wire::CloseGate, oneshot::Sender<GateClosed>)>,
    waiting_stats: BTreeMap<u64, oneshot::Sender<Stats>>,
    next_request: u64,
}

/// Why talking to a proxy came to its end.
enum End {
    /// The process is gone.
    Exited,
    /// It lives, but the connection broke.
    LinkLost(io::Error),
    /// The handle was dropped: leave the proxy running.
    HandleGone,
    Shutdown(oneshot::Sender<()>),
}

impl Task {
    async fn run(mut self, mut living: Living) {
        loop {
            let born = Instant::now();
            match self.keep(&mut living).await {
                End::HandleGone => return,
                End::Shutdown(reply) => {
                    self.shut_down(living).await;
                    // The asker may have gone; the proxy has, either way.
                    let _ = reply.send(());
                    return;
                }
                End::LinkLost(_) | End::Exited => {}
            }
            living = match self.replace(living, born.elapsed()).await {
                Some(living) => living,
                None => return,
            };
        }
    }

    /// Talks to one process until it ends, over as many connections as that takes.
    async fn keep(&mut self, living: &mut Living) -> End {
        let Ok(mut exited) = spawn::watch_end(&living.pidfd) else { return End::Exited };
        loop {
            let end = match self.open_link(living).await {
                Ok(link) => self.talk(link, &mut exited).await,
                Err(e) => End::LinkLost(e),
            };
            let End::LinkLost(error) = end else { return end };
            tracing::debug!(pid = living.pid, %error, "lost the connection to the proxy");
            tokio::select! {
                _ = &mut exited => return End::Exited,
                // A proxy that lives accepts at once; this bounds the rate if it does not.
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            let (config, pid) = (Arc::clone(&self.config), living.pid);
            match blocking(move || spawn::reconnect(&config, pid)).await {
                Ok((link, hello)) => (living.link, living.hello) = (link, hello),
                Err(error) => tracing::debug!(pid, %error, "could not connect to the proxy"),
            }
            if self.asked.is_closed() {
                return End::HandleGone;
            }
        }
    }

    async fn open_link(&mut self, living: &Living) -> io::Result<Link> {
        let mut link = Link::open(&living.link)?;
        let serves = living.hello.table.as_ref().map(convert::version_from_wire);
        self.served.send_replace(serves);
        // Gates first: a table may still list an instance whose gate is closed.
        let remembered = self.gates.iter().cloned();
        let waiting = self.waiting_gates.values().map(|(gate, _)| gate.clone());
        for gate in remembered.chain(waiting).collect::<Vec<_>>() {
            link.send(wire::Body::CloseGate(gate)).await?;
        }
        self.table.mark_changed();
        Ok(link)
    }

    async fn talk(&mut self, mut link: Link, exited: &mut oneshot::Receiver<()>) -> End {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            let sent = tokio::select! {
                _ = &mut *exited => return End::Exited,
                frame = link.frames.recv() => match frame {
                    Some(Ok(body)) => {
                        unanswered = 0;
                        match self.handle(body) {
                            Some(answer) => link.send_table_whole(answer).await,
                            None => Ok(()),
                        }
                    }
                    Some(Err(e)) => Err(e),
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                },
                ask = self.asked.recv() => match ask {
                    None => return End::HandleGone,
                    Some(Ask::Shutdown { reply }) => return End::Shutdown(reply),
                    Some(ask) => link.send(self.frame_for(ask)).await,
                },
                changed = self.table.changed() => {
                    if changed.is_err() {
                        return End::HandleGone;
                    }
                    let table = self.table.borrow_and_update().clone();
                    link.send_table(table).await
                }
                _ = ping.tick() => {
                    unanswered += 1;
                    if unanswered > 5 {
                        return End::LinkLost(io::ErrorKind::TimedOut.into());
                    }
                    link.send(wire::Body::Ping(wire::Number { value: 0 })).await
                }
            };
            if let Err(e) = sent {
                return End::LinkLost(e);
            }
        }
    }

    fn frame_for(&mut self, ask: Ask) -> wire::Body {
        let request = self.next_request;
        self.next_request += 1;
        match ask {
            Ask::Gate { instance, attempt, drain, reply } => {
                let drain_ms = drain.as_millis() as u64;
                let gate = wire::CloseGate { instance: instance.0, attempt, drain_ms, request };
                self.waiting_gates.insert(request, (gate.clone(), reply));
                if self.gates.len() == REMEMBERED_GATES {
                    self.gates.pop_front();
                }
                self.gates.push_back(wire::CloseGate { drain_ms: 0, request: 0, ..gate.clone() });
                wire::Body::CloseGate(gate)
            }
            Ask::Stats { reply } => {
                // Forget those who no longer wait.
                self.waiting_stats.retain(|_, reply| !reply.is_closed());
                self.waiting_stats.insert(request, reply);
                wire::Body::AskStats(wire::Number { value: request })
            }
            Ask::Shutdown { .. } => unreachable!("the caller ends on it"),
        }
    }

    /// Takes in what the proxy said; gives the table if it asked for the whole of it.
    fn handle(&mut self, body: Option<wire::Body>) -> Option<Option<Arc<RoutingTable>>> {
        match body {
            Some(wire::Body::GateClosed(closed)) => {
                if let Some((_, reply)) = self.waiting_gates.remove(&closed.request) {
                    // Who asked may have given up.
                    let _ = reply.send(GateClosed { in_flight: closed.in_flight });
                }
            }
            Some(wire::Body::Stats(stats)) => {
                if let Some(reply) = self.waiting_stats.remove(&stats.request) {
                    let _ = reply.send(Stats::from_wire(stats));
                }
            }
            Some(wire::Body::Trouble(trouble)) => self.tell(Event::BackendTrouble {
                instance: InstanceId(trouble.instance),
                attempt: trouble.attempt,
                reason: trouble.reason,
            }),
            Some(wire::Body::TableServed(version)) => {
                self.served.send_replace(Some(convert::version_from_wire(&version)));
            }
            Some(wire::Body::NeedTable(_)) => return Some(self.table.borrow().clone()),
            _ => {}
        }
        None
    }

    /// An event without listeners is no error.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// A new process in the place of one that ended; `None` when the node no longer wants one.
    async fn replace(&mut self, dead: Living, lived: Duration) -> Option<Living> {
        self.pid.send_replace(None);
        let served = self.served.send_replace(None).is_some();
        self.tell(Event::Died { pid: dead.pid });
        tracing::warn!(pid = dead.pid, "the proxy ended; starting it again");
        if let Some(mut child) = dead.child {
            // Reaps; the pidfd said that it ended.
            let _ = child.wait();
        }
        // What was in flight ended with the process.
        for (_, (_, reply)) in std::mem::take(&mut self.waiting_gates) {
            let _ = reply.send(GateClosed { in_flight: 0 });
        }
        self.waiting_stats.clear();
        if served && self.table.borrow().is_none() && !self.wait_for_a_table().await {
            return None;
        }
        // At once after a good life; slower and slower when it crashes as it starts.
        let mut delay =
            if lived > Duration::from_secs(5) { Duration::ZERO } else { Duration::from_millis(20) };
        loop {
            tokio::time::sleep(delay).await;
            if self.asked.is_closed() {
                return None;
            }
            let (config, sockets) = (Arc::clone(&self.config), self.sockets.clone()?);
            let table = self.table.borrow().clone();
            let gates: Vec<_> = self.gates.iter().cloned().collect();
            let started = blocking(move || spawn::spawn(&config, &sockets, table.as_deref(), gates)).await;
            match started {
                Ok(living) => {
                    self.pid.send_replace(Some(living.pid));
                    self.tell(Event::Started { pid: living.pid });
                    return Some(living);
                }
                Err(error) => {
                    delay = (delay * 2).clamp(Duration::from_millis(50), Duration::from_secs(5));
                    tracing::error!(%error, ?delay, "could not start the proxy");
                    self.tell(Event::StartFailed { error: error.to_string(), retry_in: delay });
                }
            }
        }
    }

    /// What an adopted proxy led to died with it, and this node does not know it yet. Until it
    /// does, clients wait in the listening sockets: a proxy without a table would send them
    /// away. `false`: no proxy is wanted any more.
    async fn wait_for_a_table(&mut self) -> bool {
        let patience = tokio::time::sleep(TABLE_WITHIN);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                changed = self.table.changed() => match changed {
                    Err(_) => return false,
                    Ok(()) if self.table.borrow_and_update().is_some() => return true,
                    Ok(()) => {}
                },
                ask = self.asked.recv() => match ask {
                    None => return false,
                    Some(Ask::Shutdown { reply }) => {
                        self.sockets = None;
                        let config = Arc::clone(&self.config);
                        let _ = blocking(move || {
                            spawn::forget(&config.run_dir);
                            Ok(())
                        })
                        .await;
                        let _ = reply.send(());
                        return false;
                    }
                    // Remembered for the next proxy; in this one nothing is in flight.
                    Some(ask) => {
                        self.frame_for(ask);
                        for (_, (_, reply)) in std::mem::take(&mut self.waiting_gates) {
                            let _ = reply.send(GateClosed { in_flight: 0 });
                        }
                        self.waiting_stats.clear();
                    }
                },
                () = &mut patience => return true,
            }
        }
    }

    async fn shut_down(&mut self, mut living: Living) {
        let (config, sockets) = (Arc::clone(&self.config), self.sockets.take());
        let ended = blocking(move || {
            // Ours first: new clients are refused at once when the proxy closes its copies.
            drop(sockets);
            // The last link was closed by its end; without a new one the proxy is ended at once.
            if let Ok((link, _)) = spawn::reconnect(&config, living.pid) {
                living.link = link;
            }
            spawn::end(living, config.limits.shutdown_drain);
            spawn::forget(&config.run_dir);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "could not end the proxy in good order");
        }
        self.pid.send_replace(None);
    }
}
