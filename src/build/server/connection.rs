//! One connection: HTTP/1.1 or, by prior knowledge, HTTP/2; closed when nothing happens on
//! it, and brought to an orderly end on shutdown.

use super::respond::respond;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::cell::Cell;
use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// Without any request, or without progress of an answer, this long: the client is gone.
const IDLE: Duration = Duration::from_secs(75);
/// From an answer (or the connection) to the end of the next header: hyper starts the clock
/// at once, so this also ends idle HTTP/1.1 connections. Longer than the minute for which a
/// proxy commonly keeps one: that the proxy closes first avoids a race.
const HEADER: Duration = Duration::from_secs(65);
/// A page has a few dozen files; each open one costs a descriptor.
const MAX_STREAMS: u32 = 64;
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// When something last happened on a connection: a request came, a piece of a file went.
pub(super) struct Activity(Cell<Instant>);

impl Activity {
    fn new() -> Rc<Self> {
        Rc::new(Activity(Cell::new(Instant::now())))
    }
    pub fn note(&self) {
        self.0.set(Instant::now());
    }
}

/// `hyper`'s tasks for HTTP/2 stay on this thread, like everything else.
#[derive(Clone, Copy)]
struct ThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for ThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// Serves until the client leaves, is idle, or `stopping` says so.
pub(super) async fn serve(stream: TcpStream, root: Rc<File>, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let for_requests = activity.clone();
    let service = service_fn(move |request| {
        for_requests.note();
        let response = respond(&root, &request, &for_requests);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = auto::Builder::new(ThisThread);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE / 3)
        .keep_alive_timeout(IDLE / 3)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(256)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        let idle_until = activity.0.get() + IDLE;
        tokio::select! {
            // An error here is the client's: it left, or spoke no HTTP.
            _ = connection.as_mut() => return,
            _ = stopping.wait_for(|stopping| *stopping) => break,
            () = tokio::time::sleep_until(idle_until) => {
                if activity.0.get() + IDLE <= Instant::now() {
                    return;
                }
            }
        }
    }
    // Requests in flight are answered; how long that may take is `run`'s to say.
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
