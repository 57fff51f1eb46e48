//! Helper processes of this binary, and the way back to one that lives: spawn a shim, find
//! a shim by its run folder, ask a helper what the host can do.

use crate::runtime::container::Link;
use crate::runtime::exe::SealedExe;
use crate::runtime::manager::{Error, io_error};
use crate::runtime::protocol::{self, Snapshot, Verb};
use crate::runtime::{shim, sys};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Executes a shim for a run folder; the connection to it, and what waits for its end.
pub(super) fn shim(exe: &SealedExe, folder: &Path) -> io::Result<(UnixStream, JoinHandle<()>)> {
    let (ours, its) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let log = File::create(folder.join(shim::SHIM_LOG))?;
    let mut child = tokio::process::Command::new(exe.path())
        .arg0("nodectl")
        .arg("shim")
        .arg(folder)
        // Nothing of ours: libcontainer would read LISTEN_FDS, and secrets don't belong there.
        .env_clear()
        // No current_dir: with one a static binary is not spawned by vfork but forked, and to
        // copy a node's page tables takes milliseconds. The shim leaves the folder itself.
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(its)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .kill_on_drop(false)
        .spawn()?;
    // Reaps it, if it ends before we do.
    let ended = tokio::spawn(async move {
        let _ = child.wait().await;
    });
    Ok((UnixStream::from_std(ours)?, ended))
}

/// A shim that answers for this run folder.
pub(super) async fn connect(folder: &Path) -> Option<(UnixStream, Vec<u8>, Snapshot)> {
    // Through a descriptor: a socket's path may have 107 bytes, a data folder's more.
    let dir = File::open(folder).ok()?;
    let path = sys::fd_path(&dir).join(shim::SOCKET);
    let mut socket = UnixStream::connect(path).await.ok()?;
    let hello = protocol::Request { id: 1, verb: Some(Verb::Hello(protocol::Hello {})) };
    let talk = async {
        tokio::io::AsyncWriteExt::write_all(&mut socket, &protocol::frame(&hello)).await.ok()?;
        let mut buffer = Vec::new();
        let snapshot = Link::hear(&mut socket, &mut buffer).await.ok()?;
        Some((buffer, snapshot))
    };
    let (buffer, snapshot) = tokio::time::timeout(Duration::from_secs(10), talk).await.ok()??;
    Some((socket, buffer, snapshot))
}

/// Asks a helper process what this host can do; `Some` says why it can't map ids.
pub(super) async fn probe(exe: &SealedExe, data_dir: &Path) -> Result<Option<String>, Error> {
    let folder = data_dir.join(format!("probe-{}", std::process::id()));
    let lower = folder.join("lower");
    fs::create_dir_all(&lower).map_err(io_error("make the folder", &lower))?;
    let output = tokio::process::Command::new(exe.path())
        .arg0("nodectl")
        .args(["shim".as_ref(), "--probe".as_ref(), folder.as_os_str()])
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(Error::Spawn);
    let _ = fs::remove_dir_all(&folder);
    let answer = String::from_utf8_lossy(&output?.stdout).trim().to_owned();
    match answer.split_once(": ") {
        None if answer == "ok" => Ok(None),
        Some(("no-idmap", why)) => Ok(Some(why.to_owned())),
        Some((_, why)) => Err(Error::NoOverlay(why.to_owned())),
        None => Err(Error::NoOverlay("the helper process gave no answer".to_owned())),
    }
}
