//! One client's connection: HTTP/1.1, or HTTP/2 when it begins with its preface, on the same
//! port. (TLS will come between the socket and here.)

use super::forward::{self, Client};
use super::guard::{Guard, Watched};
use super::headers::Peer;
use super::worker::Place;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As nginx and Apache do or exceed; longer heads get 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// hyper's own bound of fields is 100.
const MAX_STREAMS: u32 = 128;

/// Serves one client until it ends, or `finish` asks it to end after what it is doing.
pub async fn serve(
    place: Place,
    mut stream: TcpStream,
    peer: SocketAddr,
    watched: Arc<Watched>,
    finish: Rc<Notify>,
) {
    let (prefix, is_http2) = tokio::select! {
        opening = opening(&mut stream) => match opening {
            Ok(opening) => opening,
            // It went before it said anything.
            Err(_) => return,
        },
        () = finish.notified() => return,
    };
    let worker = Rc::clone(&place.worker);
    let client = Rc::new(Client { peer: Peer::new(peer.ip()), watched: Arc::clone(&watched), _place: place });
    let io = TokioIo::new(Guard::new(stream, prefix, !is_http2, watched));
    let service = service_fn(move |request| forward::handle(Rc::clone(&worker), Rc::clone(&client), request));
    // How a connection ends is the client's business: its errors are not ours to log.
    if is_http2 {
        let connection = pin!(http2_builder().serve_connection(io, service));
        let _ = drive(connection, &finish, |connection| connection.graceful_shutdown()).await;
    } else {
        let connection = pin!(http1_builder().serve_connection(io, service).with_upgrades());
        let _ = drive(connection, &finish, |connection| connection.graceful_shutdown()).await;
    }
}

/// The first bytes, and whether they are HTTP/2's preface.
async fn opening(stream: &mut TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = bytes.len().min(PREFACE.len());
        if bytes[..length] != PREFACE[..length] {
            return Ok((bytes, false));
        }
        if length == PREFACE.len() {
            return Ok((bytes, true));
        }
    }
}

async fn drive<C: Future>(
    mut connection: Pin<&mut C>,
    finish: &Notify,
    end: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    tokio::select! {
        biased;
        output = &mut connection => return output,
        () = finish.notified() => {}
    }
    end(connection.as_mut());
    connection.await
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The worker's sweep watches the time (see `guard.rs`).
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .pipeline_flush(false);
    builder
}

/// Limits against the known ways to make HTTP/2 servers work for nothing: many streams,
/// streams reset at once (CVE-2023-44487), endless header lists, silent peers.
fn http2_builder() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Streams stay on their worker's thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
