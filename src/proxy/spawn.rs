//! Starts the proxy process, or adopts the one that a former node process left running.
//! Blocking: run it where blocking is allowed. Keeping it alive is `supervisor.rs`.
//!
//! Everything that a new proxy gets travels over its standard input: one frame with what to
//! become, and the sockets beside it. Nothing is inherited by accident, and the pid file is
//! written before that frame is sent, so no proxy serves that the file does not name.

use super::{ANSWER_TIMEOUT, Config, Error, convert, descriptors, listen, wire};
use crate::model::routes::RoutingTable;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

const SOCKET: &str = "proxy.sock";
const PID_FILE: &str = "proxy.pid";
const LOG: &str = "proxy.log";

/// What outlives any one proxy process: the node keeps these, so connections that wait in
/// them are served by the next one.
pub struct Sockets {
    pub control: UnixListener,
    pub http: Vec<TcpListener>,
}

/// A proxy process that has answered.
pub struct Living {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub link: UnixStream,
    pub hello: wire::Hello,
    /// To be reaped; an adopted proxy is not ours to reap.
    pub child: Option<Child>,
}

impl Sockets {
    /// The addresses that are served, each once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.http.iter().filter_map(|l| l.local_addr().ok()).collect();
        addresses.dedup();
        addresses
    }
}

/// Makes `run_dir` if need be, for this user alone.
pub fn prepare_folder(run_dir: &Path) -> Result<(), Error> {
    let failed = |doing| move |source| Error::Folder { doing, path: run_dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(failed("make the folder"))?;
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o700)).map_err(failed("close the folder"))
}

/// Binds what a first proxy needs.
pub fn bind(config: &Config) -> Result<Sockets, Error> {
    let http = listen::bind_all(&config.http, worker_count(config))?;
    let folder = open_folder(&config.run_dir)?;
    let path = short_path(&folder, SOCKET);
    let failed =
        |source| Error::Folder { doing: "make the control socket in", path: config.run_dir.clone(), source };
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let control = UnixListener::bind(&path).map_err(failed)?;
    Ok(Sockets { control, http })
}

fn worker_count(config: &Config) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// The proxy that is already there, if it is ours and serves what `config` asks for; one that
/// listens elsewhere is asked to end.
pub fn adopt(config: &Config) -> Result<Option<(Living, Sockets)>, Error> {
    let Some((link, pid)) = connect(&config.run_dir)? else { return Ok(None) };
    let pidfd = open_process(pid)?;
    let stranger = |why: &str| Error::Stranger { pid, run_dir: config.run_dir.clone(), why: why.to_owned() };
    let recorded = fs::read_to_string(config.run_dir.join(PID_FILE)).unwrap_or_default();
    if recorded.trim() != identity(pid) {
        return Err(stranger("it is not the one that the pid file names"));
    }
    let (hello, mut passed) = receive_hello(&link)?;
    if hello.protocol != wire::PROTOCOL {
        return Err(stranger(&format!("it speaks protocol {}, not {}", hello.protocol, wire::PROTOCOL)));
    }
    if passed.len() != hello.listeners.len() + 1 {
        return Err(stranger("it did not hand over its sockets"));
    }
    let http: Vec<TcpListener> = passed.split_off(1).into_iter().map(TcpListener::from).collect();
    let Some(control) = passed.pop() else { return Ok(None) };
    let sockets = Sockets { control: UnixListener::from(control), http };
    let living = Living { pid, pidfd, link, hello, child: None };
    if serves(&sockets.addresses(), &config.http) {
        return Ok(Some((living, sockets)));
    }
    tracing::info!(pid, "the proxy that runs listens elsewhere: it is replaced");
    drop(sockets);
    end(living, config.limits.shutdown_drain);
    Ok(None)
}

/// Port 0 is served by any port on that address.
fn serves(have: &[SocketAddr], want: &[SocketAddr]) -> bool {
    let fits = |(have, want): (&SocketAddr, &SocketAddr)| {
        have == want || (want.port() == 0 && have.ip() == want.ip())
    };
    have.len() == want.len() && have.iter().zip(want).all(fits)
}

/// A new connection to the proxy `pid`, whose link was lost.
pub fn reconnect(config: &Config, pid: u32) -> Result<(UnixStream, wire::Hello), Error> {
    let Some((link, answering)) = connect(&config.run_dir)? else { return Err(Error::NoAnswer) };
    if answering != pid {
        let why = format!("process {pid} was expected");
        return Err(Error::Stranger { pid: answering, run_dir: config.run_dir.clone(), why });
    }
    let (hello, _) = receive_hello(&link)?;
    Ok((link, hello))
}

/// Starts a proxy on `sockets` with what it must know from its first request on.
pub fn spawn(
    config: &Config,
    sockets: &Sockets,
    table: Option<&RoutingTable>,
    closed_gates: Vec<wire::CloseGate>,
) -> Result<Living, Error> {
    let start = |source| Error::Start { program: config.program.clone(), source };
    let (ours, theirs) = UnixStream::pair().map_err(start)?;
    ours.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(start)?;
    ours.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(start)?;
    let log = open_log(&config.run_dir)?;
    let mut child = Command::new(&config.program)
        .arg0("nodectl")
        .arg("proxy")
        // For people who read `ps`; the proxy is told everything else by its socket.
        .arg(&config.run_dir)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(start)?;
    match boot(config, sockets, table, closed_gates, &ours, child.id()) {
        Ok((pidfd, link, hello)) => Ok(Living { pid: child.id(), pidfd, link, hello, child: Some(child) }),
        Err(error) => {
            let ended_by_itself = ends_by_itself(&mut child);
            // Both fail only when there is nothing left to end or to reap.
            let _ = child.kill();
            let status = child.wait();
            match (ended_by_itself, status) {
                (true, Ok(status)) => {
                    Err(Error::EndedAtStart(format!("{status}: {}", log_tail(&config.run_dir))))
                }
                _ => Err(error),
            }
        }
    }
}

/// Whether a program that broke its link off ends now: its end of the link closes a moment
/// before it does. Half a second is many times that moment, and short for who waits.
fn ends_by_itself(child: &mut Child) -> bool {
    for _ in 0..50 {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Ok(Some(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

fn boot(
    config: &Config,
    sockets: &Sockets,
    table: Option<&RoutingTable>,
    closed_gates: Vec<wire::CloseGate>,
    ours: &UnixStream,
    pid: u32,
) -> Result<(OwnedFd, UnixStream, wire::Hello), Error> {
    let pidfd = open_process(pid)?;
    write_pid_file(&config.run_dir, pid)?;
    let listeners = sockets.http.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string()).collect();
    let boot = wire::Boot {
        protocol: wire::PROTOCOL,
        uid: config.uid,
        workers: (sockets.http.len() / config.http.len().max(1)) as u32,
        listeners,
        table: table.map(convert::table_to_wire),
        closed_gates,
        limits: convert::limits_to_wire(&config.limits),
    };
    let mut passed = vec![sockets.control.as_fd()];
    passed.extend(sockets.http.iter().map(AsFd::as_fd));
    descriptors::send_frame(ours, wire::Body::Boot(boot), &passed).map_err(Error::Link)?;
    // It answers once it has dropped its privileges and every worker listens.
    match descriptors::receive_frame(ours).map_err(Error::Link)? {
        (Some(wire::Body::Pong(_)), _) => {}
        _ => return Err(Error::EndedAtStart("it answered something else than that it is ready".into())),
    }
    let (link, hello) = reconnect(config, pid)?;
    Ok((pidfd, link, hello))
}

/// Asks a proxy to end, waits for as long as it may drain, then ends it.
pub fn end(living: Living, drain: Duration) {
    let shutdown = wire::Body::Shutdown(wire::Number { value: drain.as_millis() as u64 });
    let asked = descriptors::send_frame(&living.link, shutdown, &[]).is_ok();
    let patience = if asked { drain + Duration::from_secs(2) } else { Duration::ZERO };
    if !wait_for_end(&living.pidfd, patience) {
        // Fails only if it ended at this moment.
        let _ = rustix::process::pidfd_send_signal(&living.pidfd, rustix::process::Signal::KILL);
        wait_for_end(&living.pidfd, ANSWER_TIMEOUT);
    }
    if let Some(mut child) = living.child {
        let _ = child.wait();
    }
}

/// Whether the process ended in time: a pidfd becomes readable then.
fn wait_for_end(pidfd: &OwnedFd, patience: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut fds, timeout), Ok(1..))
}

/// Tells when the process has ended. By a thread of its own: a proxy that was adopted is no
/// child to be waited for, and the thread must not hold up the end of a runtime.
///
/// # Errors
/// There are no descriptors or threads left.
pub fn watch_end(pidfd: &OwnedFd) -> io::Result<oneshot::Receiver<()>> {
    let pidfd = pidfd.try_clone()?;
    let (ended, wait) = oneshot::channel();
    std::thread::Builder::new().name("proxy-watch".into()).spawn(move || {
        // Looks up now and then whether anybody still wants to know.
        while !ended.is_closed() && !wait_for_end(&pidfd, Duration::from_secs(1)) {}
        let _ = ended.send(());
    })?;
    Ok(wait)
}

/// Removes what a proxy that has ended leaves in the folder.
pub fn forget(run_dir: &Path) {
    for name in [SOCKET, PID_FILE] {
        // Leftovers are harmless: the next start replaces them.
        let _ = fs::remove_file(run_dir.join(name));
    }
}

/// A connection to the control socket and who answers there; `None` if nobody does.
fn connect(run_dir: &Path) -> Result<Option<(UnixStream, u32)>, Error> {
    let folder = open_folder(run_dir)?;
    let link = match UnixStream::connect(short_path(&folder, SOCKET)) {
        Ok(link) => link,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::Link(e)),
    };
    link.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(Error::Link)?;
    link.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(Error::Link)?;
    // The proxy calls listen(2) again on the socket that the node made, so that the kernel
    // records the proxy, not the node, as the one who answers.
    let peer = rustix::net::sockopt::socket_peercred(&link).map_err(|e| Error::Link(e.into()))?;
    Ok(Some((link, peer.pid.as_raw_nonzero().get().unsigned_abs())))
}

fn receive_hello(link: &UnixStream) -> Result<(wire::Hello, Vec<OwnedFd>), Error> {
    match descriptors::receive_frame(link).map_err(Error::Link)? {
        (Some(wire::Body::Hello(hello)), passed) => Ok((hello, passed)),
        _ => Err(Error::Link(io::Error::new(io::ErrorKind::InvalidData, "no greeting from the proxy"))),
    }
}

fn open_process(pid: u32) -> Result<OwnedFd, Error> {
    let id = rustix::process::Pid::from_raw(pid as i32).ok_or(Error::NoAnswer)?;
    rustix::process::pidfd_open(id, rustix::process::PidfdFlags::NONBLOCK).map_err(|e| Error::Link(e.into()))
}

/// `PID START`, which no other process of this boot has: ids are used again, with another
/// start time (field 22 of proc_pid_stat(5), in ticks since boot).
fn identity(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    format!("{pid} {}", start.unwrap_or("?"))
}

fn write_pid_file(run_dir: &Path, pid: u32) -> Result<(), Error> {
    let path = run_dir.join(PID_FILE);
    let fresh = run_dir.join("proxy.pid.new");
    fs::write(&fresh, identity(pid) + "\n")
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|source| Error::Folder { doing: "write", path, source })
}

fn open_folder(run_dir: &Path) -> Result<fs::File, Error> {
    fs::File::open(run_dir).map_err(|source| Error::Folder {
        doing: "open the folder",
        path: run_dir.to_owned(),
        source,
    })
}

/// A way to `name` in `folder` that fits into the 108 bytes of a socket's address, however
/// long the folder's own path is.
fn short_path(folder: &fs::File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// A fresh proxy continues the log of the last one, unless that grew beyond a megabyte.
fn open_log(run_dir: &Path) -> Result<fs::File, Error> {
    let path = run_dir.join(LOG);
    let large = fs::metadata(&path).is_ok_and(|m| m.len() > 1 << 20);
    let opened = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).and_then(|file| {
        if large {
            file.set_len(0)?;
        }
        Ok(file)
    });
    opened.map_err(|source| Error::Folder { doing: "open", path, source })
}

fn log_tail(run_dir: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(run_dir.join(LOG))?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(500)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).lines().last().unwrap_or_default().to_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_tells_process_and_start() {
        let mine = identity(std::process::id());
        let (pid, start) = mine.split_once(' ').unwrap();
        assert_eq!(pid, std::process::id().to_string());
        assert!(start.parse::<u64>().unwrap() > 0);
        assert!(identity(u32::MAX).ends_with('?'));
    }

    #[test]
    fn free_port_is_served_by_any_port_of_its_address() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(serves(&[at("127.0.0.1:4000")], &[at("127.0.0.1:0")]));
        assert!(!serves(&[at("127.0.0.1:4000")], &[at("127.0.0.1:4001")]));
        assert!(!serves(&[at("127.0.0.1:4000")], &[at("127.0.0.2:0")]));
        assert!(!serves(&[at("127.0.0.1:4000")], &[]));
    }
}
