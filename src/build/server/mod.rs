//! The file server that runs inside the image of a static site: `nodectl static-server
//! --root DIR`, listening on 0.0.0.0:$PORT (8080). One thread, no state, nothing but the
//! files below the root.
//!
//! ```text
//! connection.rs ─► respond.rs ─► path.rs ─► file.rs ─► conditional.rs ─► file.rs (body)
//! ```

mod conditional;
mod connection;
mod file;
mod path;
mod respond;
mod types;

use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};

const DEFAULT_PORT: u16 = 8080;
/// Shorter than the ten seconds that are usual between SIGTERM and SIGKILL.
const DRAIN: Duration = Duration::from_secs(8);
/// More than this waits in the kernel's queue. Each may have a file open as well.
const MAX_CONNECTIONS: u64 = 4096;

/// The hidden verb `static-server`; `args` are those after it.
pub fn static_server_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("static-server: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    let root = root_argument(args)?;
    let port = port(std::env::var_os("PORT"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("could not start: {error}"))?;
    LocalSet::new().block_on(&runtime, async {
        // Handlers first: as a container's first process we would not even hear of a
        // signal without one.
        let stop = stop_signal().map_err(|error| format!("could not listen for signals: {error}"))?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("could not listen on {address}: {error}"))?;
        let folder =
            open_root(&root).map_err(|error| format!("could not open {}: {error}", root.display()))?;
        println!("serving {} on {address}", root.display());
        run(listener, folder, stop).await;
        Ok(())
    })
}

fn root_argument(args: impl IntoIterator<Item = OsString>) -> Result<PathBuf, String> {
    let mut args = args.into_iter();
    match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(root), None) if flag == "--root" => Ok(root.into()),
        _ => Err("usage: nodectl static-server --root DIR".to_owned()),
    }
}

fn port(value: Option<OsString>) -> Result<u16, String> {
    match value {
        None => Ok(DEFAULT_PORT),
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("PORT is {text:?}; give a number from 1 to 65535")),
    }
}

fn open_root(root: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::empty())?.into())
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Serves until `stop`, then answers what is in flight. Must run in a `LocalSet`.
async fn run(listener: TcpListener, root: File, stop: impl Future<Output = ()>) {
    let root = Rc::new(root);
    let (stopping, is_stopping) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(max_connections()));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        tokio::select! {
            () = &mut stop => break,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = accepted => match accepted {
                Ok((stream, slot)) => {
                    let (root, is_stopping) = (root.clone(), is_stopping.clone());
                    connections.spawn_local(async move {
                        connection::serve(stream, root, is_stopping).await;
                        drop(slot);
                    });
                }
                // Out of descriptors, most likely: let some connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// Half of the descriptors for connections, half for files, some for ourselves.
fn max_connections() -> usize {
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(MAX_CONNECTIONS * 2);
    let most = limit.saturating_sub(32) / 2;
    usize::try_from(most.clamp(8, MAX_CONNECTIONS)).unwrap_or(8)
}

#[cfg(test)]
mod tests;
