//! One backend as one worker knows it: its load, its open connections, its gate, and whether
//! it refused lately. Nothing here is shared between threads.

use super::body::Outgoing;
use super::tick;
use crate::model::ids::InstanceId;
use crate::model::routes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// (instance, attempt): what names a backend. An address alone never does.
pub type Key = (InstanceId, u32);
pub type Sender = SendRequest<Outgoing>;

/// Node.js closes an idle connection after five seconds, earlier than any other common
/// server; closing first avoids the race in which a request meets the close.
const IDLE_MS: u64 = 4_000;
/// Beyond this many idle connections to one backend a worker keeps no more.
const MAX_IDLE: usize = 256;
/// A refusal sets a backend aside for this long, doubled with each that follows at once.
const SET_ASIDE_MS: u64 = 200;
const SET_ASIDE_MAX_MS: u64 = 10_000;

#[derive(Debug)]
pub struct Backend {
    pub key: Key,
    pub address: SocketAddr,
    pub weight: u32,
    pub requests: Cell<u64>,
    in_flight: Cell<u64>,
    idle: RefCell<Vec<(Sender, u64)>>,
    /// The owner's gate: no request may be sent any more.
    closed: Cell<bool>,
    /// No longer in the table: connections are not kept.
    gone: Cell<bool>,
    refusals: Cell<u32>,
    set_aside_until_ms: Cell<u64>,
    idles: Notify,
}

impl Backend {
    pub fn new(backend: &routes::Backend, closed: bool) -> Self {
        Self {
            key: (backend.instance, backend.attempt),
            address: backend.address,
            weight: backend.weight,
            requests: Cell::new(0),
            in_flight: Cell::new(0),
            idle: RefCell::new(Vec::new()),
            closed: Cell::new(closed),
            gone: Cell::new(false),
            refusals: Cell::new(0),
            set_aside_until_ms: Cell::new(0),
            idles: Notify::new(),
        }
    }

    pub fn is_open(&self) -> bool {
        !self.closed.get()
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.get()
    }

    /// For comparing backends of different weight.
    pub fn load(&self) -> u64 {
        self.in_flight.get() * 1024 / u64::from(self.weight.max(1))
    }

    /// Counts a request until the lease is dropped.
    pub fn lease(self: &Rc<Self>) -> Lease {
        self.in_flight.set(self.in_flight.get() + 1);
        Lease(Rc::clone(self))
    }

    pub fn close(&self) {
        self.closed.set(true);
        self.idle.borrow_mut().clear();
    }

    /// It left the table.
    pub fn leave(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
    }

    /// Ends when no request is in flight.
    pub async fn idle(&self) {
        while self.in_flight.get() > 0 {
            self.idles.notified().await;
        }
    }

    /// A connection that is open and free; the one used last, so that others may age.
    pub fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let (sender, since) = idle.pop()?;
            if !sender.is_closed() && sender.is_ready() && tick::now_ms().saturating_sub(since) < IDLE_MS {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection whose exchange has ended.
    pub fn give_back(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if !self.gone.get() && !self.closed.get() && idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push((sender, tick::now_ms()));
        }
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let now = tick::now_ms();
        self.idle.borrow_mut().retain(|(sender, since)| !sender.is_closed() && now - since < IDLE_MS);
    }

    pub fn is_set_aside(&self) -> bool {
        self.set_aside_until_ms.get() > tick::now_ms()
    }

    /// It refused or broke a connection; gives whether that is news.
    pub fn refused(&self) -> bool {
        let news = !self.is_set_aside();
        if news {
            let refusals = self.refusals.get();
            self.refusals.set(refusals.saturating_add(1));
            let pause = (SET_ASIDE_MS << refusals.min(10)).min(SET_ASIDE_MAX_MS);
            self.set_aside_until_ms.set(tick::now_ms() + pause);
            self.idle.borrow_mut().clear();
        }
        news
    }

    /// It answered.
    pub fn answered(&self) {
        if self.refusals.get() > 0 {
            self.refusals.set(0);
            self.set_aside_until_ms.set(0);
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// Refused, reset, or not there within `timeout`.
    pub async fn connect(&self, timeout: Duration) -> io::Result<Sender> {
        let stream = self.connect_stream(timeout).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            // What went wrong is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// A new connection for one request that may leave HTTP.
    ///
    /// # Errors
    /// As [`Backend::connect`].
    pub async fn connect_for_upgrade(&self, timeout: Duration) -> io::Result<Sender> {
        let stream = self.connect_stream(timeout).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn connect_stream(&self, timeout: Duration) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(self.address);
        let stream =
            tokio::time::timeout(timeout, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One request in flight to a backend.
#[derive(Debug)]
pub struct Lease(Rc<Backend>);

impl Lease {
    pub fn backend(&self) -> &Rc<Backend> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.0.in_flight.get() - 1;
        self.0.in_flight.set(left);
        if left == 0 {
            self.0.idles.notify_waiters();
        }
    }
}
