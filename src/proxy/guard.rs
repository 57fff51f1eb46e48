//! A client's socket as hyper sees it: HTTP/1 bytes pass the scanner of `framing.rs` first,
//! and a record of how the client behaves is kept for the worker's sweep, which closes who
//! is too slow. Why here and not by hyper's timers: one look at all connections ten times a
//! second costs less than arming a timer for each request, and it sees stalled writes too.
//!
//! A violation never reaches hyper. The byte at which it was found is replaced by NUL, which
//! hyper refuses wherever a head or a chunk size is read, with 400 and a close; after it comes
//! the end of a head, without which hyper would not look at a head that came in parts, and
//! nothing more is read. Then, as whenever a connection ends amid a request, the socket is
//! drained for a moment before it is closed, since closing with unread bytes would reset the
//! connection and might take the answer with it.

use super::framing::{Position, Scanner};
use super::tick;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const LINGER: Duration = Duration::from_secs(1);

/// How a client behaves. Atomics only because hyper wants `Send` of what can be upgraded;
/// one thread uses them.
#[derive(Debug, Default)]
pub struct Watched {
    phase: AtomicU8,
    /// When the phase began, or the wait in it (see `tick.rs`).
    since_ms: AtomicU64,
    /// When a write began to wait for the client; 0 while none does.
    write_waits_since_ms: AtomicU64,
    /// Requests being answered.
    active: AtomicU64,
    /// Requests that hyper has handed over.
    requests: AtomicU64,
    /// The number of the request whose body broke the framing; 0 = none.
    broken_body: AtomicU64,
    /// Bytes are no longer HTTP/1: after an upgrade.
    raw: AtomicBool,
}

/// What a connection is up to, for the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Between,
    Head,
    /// Waits for bytes of a body that the client owes.
    Body,
    Raw,
}

impl Watched {
    /// A client that has just connected.
    pub fn new() -> Arc<Self> {
        let watched = Self::default();
        watched.since_ms.store(tick::now_ms(), Relaxed);
        Arc::new(watched)
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Between,
            1 => Phase::Head,
            2 => Phase::Body,
            _ => Phase::Raw,
        }
    }

    pub fn in_phase_ms(&self) -> u64 {
        tick::now_ms().saturating_sub(self.since_ms.load(Relaxed))
    }

    pub fn write_waits_ms(&self) -> u64 {
        match self.write_waits_since_ms.load(Relaxed) {
            0 => 0,
            since => tick::now_ms().saturating_sub(since),
        }
    }

    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// A request begins; gives its number, from 1.
    pub fn request_begins(&self) -> u64 {
        self.active.store(self.active.load(Relaxed) + 1, Relaxed);
        let number = self.requests.load(Relaxed) + 1;
        self.requests.store(number, Relaxed);
        number
    }

    pub fn request_ends(&self) {
        self.active.store(self.active.load(Relaxed).saturating_sub(1), Relaxed);
        if self.phase() == Phase::Between {
            self.since_ms.store(tick::now_ms(), Relaxed);
        }
    }

    pub fn broke_body_of(&self, request: u64) -> bool {
        self.broken_body.load(Relaxed) == request
    }

    /// From now on the bytes are the upgraded protocol's.
    pub fn becomes_raw(&self) {
        self.raw.store(true, Relaxed);
        self.phase.store(3, Relaxed);
    }

    fn enter(&self, phase: u8) {
        if self.phase.swap(phase, Relaxed) != phase {
            self.since_ms.store(tick::now_ms(), Relaxed);
        }
    }

    fn read_something(&self, position: Position) {
        match position {
            Position::Between => self.enter(0),
            // The whole head has one deadline: a byte now and then does not move it.
            Position::Head => self.enter(1),
            Position::Body => {
                self.phase.store(2, Relaxed);
                self.since_ms.store(tick::now_ms(), Relaxed);
            }
        }
    }
}

/// The socket of a client.
#[derive(Debug)]
pub struct Guard {
    /// Taken only by `drop`.
    stream: Option<TcpStream>,
    /// Read before the protocol was known.
    prefix: Vec<u8>,
    /// `None` for HTTP/2, which has its own framing.
    scanner: Option<Scanner>,
    refused: bool,
    /// What hyper still gets after a violation.
    farewell: &'static [u8],
    watched: Arc<Watched>,
}

impl Guard {
    pub fn new(stream: TcpStream, prefix: Vec<u8>, http1: bool, watched: Arc<Watched>) -> Self {
        let scanner = http1.then(Scanner::default);
        if !http1 {
            watched.phase.store(0, Relaxed);
        }
        Self { stream: Some(stream), prefix, scanner, refused: false, farewell: b"\r\n\r\n", watched }
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("only drop takes the stream"))
    }

    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(scanner) = &mut self.scanner else { return };
        if self.watched.raw.load(Relaxed) {
            return;
        }
        let fresh = &mut buf.filled_mut()[before..];
        match scanner.scan(fresh) {
            Ok(()) => self.watched.read_something(scanner.position()),
            Err(violation) => {
                fresh[violation.at] = 0;
                if violation.in_body {
                    self.watched.broken_body.store(scanner.heads(), Relaxed);
                }
                tracing::debug!(why = violation.why, "refused a request");
                self.refused = true;
                buf.set_filled(before + violation.at + 1);
            }
        }
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused {
            let (now, later) = this.farewell.split_at(this.farewell.len().min(buf.remaining()));
            buf.put_slice(now);
            this.farewell = later;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            ready!(this.stream().poll_read(cx, buf))?;
        } else {
            let taken = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..taken]);
            this.prefix.drain(..taken);
        }
        this.check(buf, before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.stream().poll_write(cx, bytes);
        this.note_write(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.stream().poll_write_vectored(cx, slices);
        this.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream().poll_shutdown(cx)
    }
}

impl Guard {
    fn note_write(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let waits = &self.watched.write_waits_since_ms;
        match &polled {
            Poll::Pending if waits.load(Relaxed) == 0 => waits.store(tick::now_ms(), Relaxed),
            Poll::Pending => {}
            Poll::Ready(_) => waits.store(0, Relaxed),
        }
        polled
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Also after 431, or an answer that came before the whole body.
        let amid = self.scanner.as_ref().is_some_and(|scanner| scanner.position() != Position::Between);
        let unread = self.refused || (amid && self.watched.phase() != Phase::Raw);
        let (true, Some(stream)) = (unread, self.stream.take()) else { return };
        // Outside a runtime the process is ending anyway.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, drain(stream)));
        }
    }
}

/// Reads what the client still sends, until it has seen the end of the answer.
async fn drain(mut stream: TcpStream) {
    let mut sink = [0; 4096];
    // An error ends it as well as the end of the stream: nothing is owed any more.
    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
}
