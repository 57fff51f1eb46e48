//! One worker: a thread with its own runtime, listeners, connections, table and pools. It
//! shares nothing with the others; the control thread tells it what changes.

use super::backend::{Backend, Key};
use super::guard::{Phase, Watched};
use super::stats::{InstanceStats, ServiceCounters, Stats};
use super::table::Table;
use super::{Limits, connection, tick, wire};
use crate::model::ids::{InstanceId, ProcessKey};
use crate::model::routes::RoutingTable;
use http::HeaderValue;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

/// Gates that stay closed although a late table lists the instance; ids are never used again
/// within an incarnation, so what is older than this has left every table.
const REMEMBERED_GATES: usize = 4096;
/// With all places taken, clients that are idle, or say what they want byte by byte, have this
/// long, so that they can't keep others out.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(2);

/// What the control thread asks.
pub enum ToWorker {
    Table {
        table: Arc<RoutingTable>,
        done: oneshot::Sender<()>,
    },
    /// `closed` is told when nothing is in flight.
    CloseGate {
        instance: InstanceId,
        attempt: u32,
        closed: oneshot::Sender<()>,
    },
    InFlight {
        instance: InstanceId,
        attempt: u32,
        reply: oneshot::Sender<u64>,
    },
    Stats {
        reply: oneshot::Sender<Stats>,
    },
    /// From now on clients are served; before, they wait in the listeners' queues.
    Accept,
    Drain {
        drained: oneshot::Sender<()>,
    },
}

/// How the control thread reaches a worker. Unbounded: the node's own link is the bound.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::UnboundedSender<ToWorker>);

impl Handle {
    pub fn tell(&self, message: ToWorker) {
        // A worker ends only with the process.
        let _ = self.0.send(message);
    }
}

pub fn handle() -> (Handle, mpsc::UnboundedReceiver<ToWorker>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Handle(sender), receiver)
}

#[derive(Debug)]
pub struct Worker {
    limits: Limits,
    table: RefCell<Option<Rc<Table>>>,
    /// Of the table.
    backends: RefCell<HashMap<Key, Rc<Backend>>>,
    /// Left the table with requests in flight.
    leaving: RefCell<Vec<Weak<Backend>>>,
    closed: RefCell<VecDeque<Key>>,
    counters: RefCell<HashMap<ProcessKey, Rc<ServiceCounters>>>,
    connections: RefCell<HashMap<u64, Connection>>,
    next_connection: Cell<u64>,
    /// A connection ended: there is a place, or the drain goes on.
    ended: Notify,
    draining: Cell<bool>,
    drain_begins: Notify,
    trouble: mpsc::Sender<wire::Trouble>,
    random: Cell<u64>,
    budget: Cell<u32>,
    pub unrouted: Cell<u64>,
}

#[derive(Debug)]
struct Connection {
    watched: Arc<Watched>,
    /// Asks it to end after what it is doing.
    finish: Rc<Notify>,
    task: AbortHandle,
}

/// A worker's thread. `up` hears whether it listens.
pub fn main(
    listeners: Vec<TcpListener>,
    limits: Limits,
    trouble: mpsc::Sender<wire::Trouble>,
    asks: mpsc::UnboundedReceiver<ToWorker>,
    up: impl FnOnce(io::Result<()>),
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return up(Err(e)),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let worker = Rc::new(Worker::new(limits, trouble));
        tick::advance();
        let listen = |listener: TcpListener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        let listeners = match listeners.into_iter().map(listen).collect::<io::Result<Vec<_>>>() {
            Ok(listeners) => listeners,
            Err(e) => return up(Err(e)),
        };
        tokio::task::spawn_local(sweep(Rc::clone(&worker)));
        up(Ok(()));
        obey(worker, listeners, asks).await;
    });
}

/// Does what the control thread says, until it is gone.
async fn obey(
    worker: Rc<Worker>,
    mut listeners: Vec<tokio::net::TcpListener>,
    mut asks: mpsc::UnboundedReceiver<ToWorker>,
) {
    while let Some(ask) = asks.recv().await {
        // Whoever asked may have gone: all replies are let go.
        match ask {
            ToWorker::Table { table, done } => {
                worker.take_table(&table);
                let _ = done.send(());
            }
            ToWorker::CloseGate { instance, attempt, closed } => {
                worker.close_gate((instance, attempt), closed);
            }
            ToWorker::InFlight { instance, attempt, reply } => {
                let in_flight = worker.all_of((instance, attempt)).iter().map(|b| b.in_flight()).sum();
                let _ = reply.send(in_flight);
            }
            ToWorker::Stats { reply } => drop(reply.send(worker.stats())),
            ToWorker::Accept => {
                for listener in std::mem::take(&mut listeners) {
                    tokio::task::spawn_local(accept(Rc::clone(&worker), listener));
                }
            }
            ToWorker::Drain { drained } => {
                let worker = Rc::clone(&worker);
                tokio::task::spawn_local(async move {
                    worker.drain().await;
                    let _ = drained.send(());
                });
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: tokio::net::TcpListener) {
    loop {
        while worker.is_full() {
            tokio::select! {
                () = worker.ended.notified() => {}
                () = worker.drain_begins() => return,
            }
        }
        let accepted = tokio::select! {
            biased;
            () = worker.drain_begins() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => worker.spawn_connection(stream, peer),
            // The client had gone before it was its turn.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            // No descriptors or no memory: it stays in the queue; trying at once would spin.
            Err(e) => {
                tracing::warn!(error = %e, "could not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(tick::EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        tick::advance();
        worker.sweep();
    }
}

impl Worker {
    fn new(limits: Limits, trouble: mpsc::Sender<wire::Trouble>) -> Self {
        Self {
            limits,
            table: RefCell::default(),
            backends: RefCell::default(),
            leaving: RefCell::default(),
            closed: RefCell::default(),
            counters: RefCell::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            ended: Notify::new(),
            draining: Cell::new(false),
            drain_begins: Notify::new(),
            trouble,
            random: Cell::new(rand::random::<u64>() | 1),
            budget: Cell::new(BUDGET_MAX),
            unrouted: Cell::new(0),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn table(&self) -> Option<Rc<Table>> {
        self.table.borrow().clone()
    }

    /// xorshift64*: for picking backends and naming requests, neither of which is a secret.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 32 hex digits.
    pub fn fresh_request_id(&self) -> HeaderValue {
        let number = (u128::from(self.random()) << 64 | u128::from(self.random())).to_be_bytes();
        let mut text = [0; 32];
        hex::encode_to_slice(number, &mut text).expect("16 bytes are 32 digits");
        HeaderValue::from_bytes(&text).expect("digits are visible ASCII")
    }

    /// A backend refused or broke a new connection: others are preferred for a while, and the
    /// node hears.
    pub fn refused(&self, backend: &Backend, reason: impl FnOnce() -> String) {
        if backend.refused() {
            let reason = reason();
            let trouble = wire::Trouble { instance: backend.key.0.0, attempt: backend.key.1, reason };
            // A hint: lost when the node does not keep up.
            let _ = self.trouble.try_send(trouble);
        }
    }

    fn take_table(&self, table: &RoutingTable) {
        let held = self.table.borrow().as_ref().map(|table| table.version.incarnation);
        if held.is_some_and(|held| held < table.version.incarnation) {
            // A restored cluster counts its instances from an earlier number on.
            self.closed.borrow_mut().clear();
        }
        let closed = self.closed.borrow();
        let mut before = self.backends.take();
        let mut now = HashMap::new();
        let mut counted = HashMap::new();
        let fresh = Table::build(
            table,
            |listed| {
                let key = (listed.instance, listed.attempt);
                let same = |b: &Rc<Backend>| b.address == listed.address && b.weight == listed.weight;
                let backend = match before.get(&key).filter(|b| same(b)) {
                    Some(_) => before.remove(&key).expect("it was just found"),
                    None => match now.get(&key) {
                        Some(backend) => Rc::clone(backend),
                        None => Rc::new(Backend::new(listed, closed.contains(&key))),
                    },
                };
                now.insert(key, Rc::clone(&backend));
                backend
            },
            |key| {
                let counters = self.counters.borrow().get(key).cloned().unwrap_or_default();
                counted.insert(key.clone(), Rc::clone(&counters));
                counters
            },
        );
        let mut leaving = self.leaving.borrow_mut();
        leaving.retain(|backend| backend.strong_count() > 0);
        for backend in before.into_values() {
            backend.leave();
            leaving.push(Rc::downgrade(&backend));
        }
        self.backends.replace(now);
        self.counters.replace(counted);
        self.table.replace(Some(Rc::new(fresh)));
    }

    /// A backend, also if it has left the table.
    fn all_of(&self, key: Key) -> Vec<Rc<Backend>> {
        let leaving = self.leaving.borrow();
        let left = leaving.iter().filter_map(Weak::upgrade).filter(|backend| backend.key == key);
        self.backends.borrow().get(&key).cloned().into_iter().chain(left).collect()
    }

    fn close_gate(&self, key: Key, closed: oneshot::Sender<()>) {
        let mut remembered = self.closed.borrow_mut();
        if !remembered.contains(&key) {
            if remembered.len() == REMEMBERED_GATES {
                remembered.pop_front();
            }
            remembered.push_back(key);
        }
        let backends = self.all_of(key);
        backends.iter().for_each(|backend| backend.close());
        tokio::task::spawn_local(async move {
            for backend in backends {
                backend.idle().await;
            }
            let _ = closed.send(());
        });
    }

    fn stats(&self) -> Stats {
        let services = self.counters.borrow();
        let backends = self.backends.borrow();
        Stats {
            services: services.iter().map(|(key, counters)| (key.clone(), counters.snapshot())).collect(),
            instances: backends
                .iter()
                .map(|(key, backend)| {
                    (*key, InstanceStats { requests: backend.requests.get(), in_flight: backend.in_flight() })
                })
                .collect(),
            connections: self.connections.borrow().len() as u64,
            unrouted: self.unrouted.get(),
        }
    }

    fn is_full(&self) -> bool {
        self.connections.borrow().len() >= self.limits.max_connections
    }

    fn spawn_connection(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        let (watched, finish) = (Watched::new(), Rc::new(Notify::new()));
        let place = Place { worker: Rc::clone(self), number };
        let serving = connection::serve(place, stream, peer, Arc::clone(&watched), Rc::clone(&finish));
        let task = tokio::task::spawn_local(serving).abort_handle();
        self.connections.borrow_mut().insert(number, Connection { watched, finish, task });
    }

    /// Closes who is too slow, and what is idle for too long.
    fn sweep(&self) {
        let over = |ms: u64, limit: Duration| u128::from(ms) > limit.as_millis();
        let most = if self.is_full() { IDLE_WHEN_FULL } else { Duration::MAX };
        let idle_timeout = self.limits.idle_timeout.min(most);
        let head_timeout = self.limits.head_timeout.min(most);
        for connection in self.connections.borrow().values() {
            let watched = &connection.watched;
            let in_phase = watched.in_phase_ms();
            let stalled = over(watched.write_waits_ms(), self.limits.stall_timeout)
                || match watched.phase() {
                    // Part of a next request, while this one is answered, has time.
                    Phase::Head => !watched.is_active() && over(in_phase, head_timeout),
                    Phase::Body => over(in_phase, self.limits.stall_timeout),
                    Phase::Between | Phase::Raw => false,
                };
            if stalled {
                connection.task.abort();
            } else if watched.phase() == Phase::Between
                && !watched.is_active()
                && over(in_phase, idle_timeout)
            {
                connection.finish.notify_one();
            }
        }
        self.backends.borrow().values().for_each(|backend| backend.sweep());
    }

    async fn drain_begins(&self) {
        let begins = self.drain_begins.notified();
        if !self.draining.get() {
            begins.await;
        }
    }

    /// Ends when every connection has.
    async fn drain(&self) {
        self.draining.set(true);
        self.drain_begins.notify_waiters();
        loop {
            let ended = self.ended.notified();
            self.connections.borrow().values().for_each(|connection| connection.finish.notify_one());
            if self.connections.borrow().is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// A connection's entry in its worker, taken out when the connection, or the tunnel that it
/// became, has ended in whatever way.
#[derive(Debug)]
pub struct Place {
    pub worker: Rc<Worker>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.number);
        self.worker.ended.notify_waiters();
    }
}

/// Retries that a broken backend may cost: one for ten answers, and a hundred to begin with,
/// so that a service that is down is not sent twice the load. Refused connections are free, and so
/// are kept ones that died.
const BUDGET_MAX: u32 = 1000;
const BUDGET_RETRY: u32 = 10;

impl Worker {
    pub fn budget_earned(&self) {
        self.budget.set((self.budget.get() + 1).min(BUDGET_MAX));
    }

    /// Whether there is enough for one more retry; takes it.
    pub fn budget_spent(&self) -> bool {
        match self.budget.get().checked_sub(BUDGET_RETRY) {
            Some(left) => {
                self.budget.set(left);
                true
            }
            None => false,
        }
    }
}
