//! The proxy process, from its first instruction to its last: take over what the node hands
//! in, give up every privilege, start a thread for each worker, then keep the control socket
//! (`control.rs`) until asked to end.

use super::control::{self, Control};
use super::{Limits, confine, convert, descriptors, wire, worker};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc;

/// Open files that are neither clients nor backends: listeners, control, epoll, log.
const OTHER_FILES: u64 = 200;

/// Why a proxy did not come up.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "`nodectl proxy` is started by the node process, which hands it its sockets: run `nodectl node` or `nodectl dev`"
    )]
    NotFromNode(#[source] io::Error),
    #[error("the node speaks protocol {0}, this program {ours}", ours = wire::PROTOCOL)]
    Protocol(u32),
    #[error(transparent)]
    Confine(#[from] confine::Error),
    #[error(transparent)]
    Table(#[from] convert::Malformed),
    #[error("could not {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// The hidden verb `proxy`.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log is all there is; without it there is nobody to tell.
            let _ = writeln!(io::stderr(), "nodectl proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    // Standard error is the log in the run folder; only what an operator should see goes there.
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
    confine::close_strays();
    // So that no Ctrl-C meant for the node, and no terminal that closes, reaches the proxy.
    // It fails if this is a session's leader already, which is as good.
    let _ = rustix::process::setsid();
    let node_uid = nix::unistd::geteuid().as_raw();
    let (node, boot, mut passed) = receive_boot()?;
    if boot.protocol != wire::PROTOCOL {
        return Err(Error::Protocol(boot.protocol));
    }
    let files = confine::raise_open_files();
    confine::confine(boot.uid)?;
    let table = boot.table.map(convert::table_from_wire).transpose()?;
    let mut limits = convert::limits_from_wire(&boot.limits);
    let workers = (boot.workers as usize).max(1);
    if limits.max_connections == 0 {
        // Each client may need one backend connection.
        limits.max_connections = (files.saturating_sub(OTHER_FILES) / 2).max(16) as usize;
    }
    let http: Vec<TcpListener> = passed.split_off(1).into_iter().map(TcpListener::from).collect();
    let Some(control) = passed.pop().map(UnixListener::from) else {
        return Err(Error::NotFromNode(io::ErrorKind::InvalidData.into()));
    };
    // Again, in this process: the kernel then names it, not the node, to who connects.
    rustix::net::listen(&control, 16).map_err(|e| Error::Io("listen on the control socket", e.into()))?;

    let (trouble, troubles) = tokio::sync::mpsc::channel(256);
    let handles = start_workers(&http, workers, &limits, &trouble)?;
    let state = Control { http, listener: control, workers: handles, table: None, node_uid, limits };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Io("start the runtime", e))?;
    runtime
        .block_on(control::run(state, table, boot.closed_gates, troubles, move || {
            // The node waits for this; if it is gone it no longer does.
            let _ = descriptors::send_frame(&node, wire::Body::Pong(wire::Number { value: 0 }), &[]);
            drop(node);
        }))
        .map_err(|e| Error::Io("keep the control socket", e))
}

/// What to become, from standard input, which is /dev/null from then on.
fn receive_boot() -> Result<(UnixStream, wire::Boot, Vec<OwnedFd>), Error> {
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(Error::NotFromNode)?;
    let node = UnixStream::from(input);
    let (body, passed) = descriptors::receive_frame(&node).map_err(Error::NotFromNode)?;
    let Some(wire::Body::Boot(boot)) = body else {
        return Err(Error::NotFromNode(io::ErrorKind::InvalidData.into()));
    };
    if passed.len() != boot.listeners.len() + 1 {
        return Err(Error::NotFromNode(io::ErrorKind::InvalidData.into()));
    }
    let null = std::fs::File::open("/dev/null").map_err(|e| Error::Io("open /dev/null", e))?;
    nix::unistd::dup2_stdin(&null).map_err(|e| Error::Io("close standard input", e.into()))?;
    Ok((node, boot, passed))
}

/// A thread for each worker, with its socket of each address; they listen when this returns.
fn start_workers(
    http: &[TcpListener],
    workers: usize,
    limits: &Limits,
    trouble: &tokio::sync::mpsc::Sender<wire::Trouble>,
) -> Result<Vec<worker::Handle>, Error> {
    let mut handles = Vec::with_capacity(workers);
    for number in 0..workers {
        // The sockets come address by address, one for each worker.
        let own = http.iter().skip(number).step_by(workers).map(TcpListener::try_clone);
        let own = own.collect::<io::Result<Vec<_>>>().map_err(|e| Error::Io("share a listener", e))?;
        let mut limits = limits.clone();
        limits.max_connections = (limits.max_connections / workers).max(1);
        let (handle, asks) = worker::handle();
        let trouble = trouble.clone();
        let (up, is_up) = mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || worker::main(own, limits, trouble, asks, move |result| drop(up.send(result))))
            .map_err(|e| Error::Io("start a worker", e))?;
        match is_up.recv() {
            Ok(Ok(())) => handles.push(handle),
            Ok(Err(e)) => return Err(Error::Io("start a worker", e)),
            Err(_) => return Err(Error::Io("start a worker", io::ErrorKind::BrokenPipe.into())),
        }
    }
    Ok(handles)
}
