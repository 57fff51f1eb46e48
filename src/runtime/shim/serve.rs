//! The shim's loop: one poll over signals, connections and the container's output.

use super::Home;
use super::create::Created;
use crate::runtime::exit::Exit;
use crate::runtime::launch::Order;
use crate::runtime::logs::format::Stream;
use crate::runtime::logs::writer::Writer;
use crate::runtime::protocol::{self, Answer, Done, Reply, Request, Snapshot, Verb};
use crate::runtime::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{WaitOptions, WaitStatus};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime};

/// A client that doesn't read its replies is dropped after this, not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

struct Connection {
    socket: UnixStream,
    buffer: Vec<u8>,
    gone: bool,
}

impl Connection {
    fn new(socket: UnixStream) -> Self {
        let _ = socket.set_nonblocking(false);
        let _ = socket.set_write_timeout(Some(PATIENCE));
        Self { socket, buffer: Vec::new(), gone: false }
    }

    fn tell(&mut self, id: u64, answer: Answer) {
        if protocol::send(&mut self.socket, &Reply { id, answer: Some(answer) }).is_err() {
            self.gone = true;
        }
    }
}

/// How far the container has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    /// Told to go on; not yet executed. The request to answer: (connection, id).
    Starting,
    Running,
}

pub(super) struct Shim {
    home: Home,
    order: Order,
    listener: UnixListener,
    signals: SignalFd,
    created: Created,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    logs: Writer,
    connections: Vec<Connection>,
    phase: Phase,
    /// (connection, request) that waits to hear that the app was executed.
    starter: Option<(usize, u64)>,
    executing: bool,
    start_error: String,
    start_time: u64,
    address: String,
    kill_at: Option<Instant>,
    /// We sent SIGKILL ourselves: it was not the kernel's want of memory.
    killed: bool,
    _log_dir: Option<OwnedFd>,
}

impl Shim {
    pub(super) fn new(
        home: Home,
        order: Order,
        listener: UnixListener,
        mut created: Created,
    ) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        listener.set_nonblocking(true)?;
        let (stdout, stderr) = (created.stdout.try_clone()?, created.stderr.try_clone()?);
        for pipe in [stdout.as_fd(), stderr.as_fd(), created.executed.as_fd()] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let key = format!("{}.{}", order.instance, order.attempt);
        let (log_path, log_dir) = match created.log_dir.take() {
            Some((path, dir)) => (path, Some(dir)),
            None => (order.log_dir.clone(), None),
        };
        let logs = Writer::new(log_path, &key, order.log_limits, SystemTime::now());
        let start_time = sys::start_time(created.pid).unwrap_or(0);
        Ok(Self {
            home,
            order,
            listener,
            signals,
            stdout: Some(stdout),
            stderr: Some(stderr),
            created,
            logs,
            connections: Vec::new(),
            phase: Phase::Created,
            starter: None,
            executing: true,
            start_error: String::new(),
            start_time,
            address: String::new(),
            kill_at: None,
            killed: false,
            _log_dir: log_dir,
        })
    }

    /// Tells the node that the container is created; it is the first connection.
    pub(super) fn announce(&mut self, node: UnixStream) {
        let mut connection = Connection::new(node);
        connection.tell(0, Answer::Snapshot(self.snapshot()));
        self.connections.push(connection);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: protocol::VERSION,
            pid: self.created.pid,
            start_time: self.start_time,
            started: self.phase == Phase::Running,
            address: self.address.clone(),
        }
    }

    /// Runs until the container has ended and everything of it is gone.
    pub(super) fn serve(mut self) -> io::Result<()> {
        let exit = loop {
            self.wait()?;
            self.read_output();
            self.read_executed();
            self.accept();
            self.read_requests();
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill();
            }
            if let Some(status) = self.reap() {
                break self.exit(status);
            }
            self.abandon_if_orphaned();
        };
        self.finish(&exit)
    }

    fn wait(&self) -> io::Result<()> {
        let timeout = match self.kill_at {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        let mut fds = vec![self.signals.as_fd(), self.listener.as_fd()];
        fds.extend(self.stdout.as_ref().map(AsFd::as_fd));
        fds.extend(self.stderr.as_ref().map(AsFd::as_fd));
        fds.extend(self.executing.then(|| self.created.executed.as_fd()));
        fds.extend(self.connections.iter().filter(|c| !c.gone).map(|c| c.socket.as_fd()));
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read_output(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pipe = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            // A bound for each turn, so that a chatty app can't keep us from our other work.
            let mut buffer = [0u8; 16 * 1024];
            for _ in 0..16 {
                let Some(fd) = pipe.as_ref() else { break };
                match rustix::io::read(fd, &mut buffer) {
                    Ok(0) => {
                        *pipe = None;
                        self.logs.finish(stream, SystemTime::now());
                    }
                    Ok(n) => self.logs.feed(stream, &buffer[..n], SystemTime::now()),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// The pipe that execve closes: then the app runs, or we know why not.
    fn read_executed(&mut self) {
        if !self.executing {
            return;
        }
        let mut buffer = [0u8; 1024];
        loop {
            match rustix::io::read(&self.created.executed, &mut buffer) {
                Ok(0) => break,
                Ok(n) => self.start_error.push_str(&String::from_utf8_lossy(&buffer[..n])),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
        self.executing = false;
        let ok = self.phase == Phase::Starting && self.start_error.is_empty();
        if ok {
            self.phase = Phase::Running;
        }
        if let Some((connection, id)) = self.starter.take() {
            let answer = match ok {
                true => Answer::Done(Done {}),
                false => Answer::Failed(self.why_not_started()),
            };
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.tell(id, answer);
            }
        }
    }

    fn why_not_started(&self) -> String {
        if self.start_error.is_empty() {
            "it was killed before it ran".to_owned()
        } else {
            self.start_error.clone()
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            self.connections.push(Connection::new(socket));
        }
    }

    fn read_requests(&mut self) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            if connection.gone {
                continue;
            }
            let mut chunk = [0u8; 4096];
            loop {
                use rustix::net::{RecvFlags, recv};
                match recv(&connection.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                    Ok((_, 0)) => {
                        connection.gone = true;
                        break;
                    }
                    Ok((_, n)) => connection.buffer.extend_from_slice(&chunk[..n]),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(_) => {
                        connection.gone = true;
                        break;
                    }
                }
            }
            loop {
                let connection = &mut self.connections[index];
                match protocol::take::<Request>(&mut connection.buffer) {
                    Ok(Some(request)) => self.handle_request(index, request),
                    Ok(None) => break,
                    Err(_) => {
                        connection.gone = true;
                        break;
                    }
                }
            }
        }
        // Slots stay in place while one is remembered as the starter.
        if self.starter.is_none() {
            self.connections.retain(|connection| !connection.gone);
        }
    }

    fn handle_request(&mut self, index: usize, request: Request) {
        let done = Answer::Done(Done {});
        let answer = match request.verb {
            Some(Verb::Hello(_)) => Answer::Snapshot(self.snapshot()),
            Some(Verb::Start(start)) => match self.start(&start) {
                Ok(()) => {
                    self.starter = Some((index, request.id));
                    return;
                }
                Err(why) => Answer::Failed(why),
            },
            Some(Verb::Signal(signal)) => match self.signal(signal.number, signal.all) {
                Ok(()) => done,
                Err(error) => Answer::Failed(error.to_string()),
            },
            Some(Verb::Stop(stop)) => {
                self.stop(stop.signal, Duration::from_millis(stop.grace_ms));
                done
            }
            Some(Verb::Kill(_)) => {
                self.kill();
                done
            }
            None => Answer::Failed("this container's shim is older and does not know that".to_owned()),
        };
        self.connections[index].tell(request.id, answer);
    }

    fn start(&mut self, start: &protocol::Start) -> Result<(), String> {
        if self.phase != Phase::Created {
            return Err("it was started before".to_owned());
        }
        std::io::Write::write_all(&mut self.created.hosts, start.hosts.as_bytes())
            .map_err(|e| format!("could not write /etc/hosts: {e}"))?;
        self.address.clone_from(&start.address);
        self.created.start()?;
        self.phase = Phase::Starting;
        Ok(())
    }

    fn signal(&self, number: i32, all: bool) -> io::Result<()> {
        let pids = if all { self.order.cgroup.pids() } else { vec![self.created.pid] };
        for pid in pids {
            // SAFETY: plain integers. The first process is not yet reaped (reaping ends the
            // loop), so its pid is still its; an unknown signal number is an error.
            if unsafe { libc::kill(pid, number) } < 0 && !all {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn stop(&mut self, signal: i32, grace: Duration) {
        if self.phase == Phase::Created {
            return self.kill();
        }
        let _ = self.signal(signal, false);
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn kill(&mut self) {
        self.killed = true;
        self.kill_at = None;
        // The end of a pid namespace's first process is the end of all in it; the group
        // has the same processes, and is what remains should there be no such namespace.
        let _ = self.signal(libc::SIGKILL, false);
        self.order.cgroup.kill();
    }

    /// Reaps whatever has ended; the status when it was the container.
    fn reap(&mut self) -> Option<WaitStatus> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stop(self.order.stop_signal, Duration::from_millis(self.order.stop_grace_ms));
            }
        }
        loop {
            // Also what was orphaned inside and came to us, the subreaper.
            let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok().flatten()?;
            if pid.as_raw_nonzero().get() == self.created.pid {
                return Some(status);
            }
        }
    }

    /// Created, never started, and nobody left who could: the node died in between.
    fn abandon_if_orphaned(&mut self) {
        if self.phase == Phase::Created && self.connections.is_empty() && !self.killed {
            self.kill();
        }
    }

    fn exit(&mut self, status: WaitStatus) -> Exit {
        self.read_executed();
        if self.phase != Phase::Running {
            return Exit::StartFailed(self.why_not_started());
        }
        let signal = status.terminating_signal().unwrap_or(0);
        match status.exit_status() {
            Some(code) => Exit::Code(code),
            None if signal == libc::SIGKILL && !self.killed && self.order.cgroup.oom_kills() > 0 => {
                Exit::OutOfMemory { limit_bytes: self.order.resources.memory_bytes.unwrap_or(0) }
            }
            None => Exit::Signal { number: signal },
        }
    }

    /// Everything in the pid namespace is dead by now: what is in the pipes is all there is.
    fn finish(mut self, exit: &Exit) -> io::Result<()> {
        // Bounded: an app could have passed the pipe's end to a process outside.
        for _ in 0..64 {
            self.read_output();
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.logs.finish(stream, SystemTime::now());
        }
        let recorded = self.home.record(exit);
        let ended = Answer::Ended(exit.into());
        for connection in &mut self.connections {
            connection.tell(0, ended.clone());
        }
        let removed = self.order.cgroup.destroy(Duration::from_secs(5));
        let _ = std::fs::remove_file(self.home.file(super::SOCKET));
        recorded.and(removed)
    }
}
