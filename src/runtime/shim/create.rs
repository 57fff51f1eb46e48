//! Making the container, the shim's share: what it keeps, and the process that does the rest.
//!
//! ```text
//!  shim ── stage, pipes, control group ── fork ─▶ maker: mounts, spec, libcontainer
//!   │ limits                                        ├─ intermediate ─┐ (children of the
//!   ◀──────────── pid, or why not ──────────────────┘ and ends       └─ the container   shim)
//! ```

use super::maker;
use crate::runtime::cgroup::Layout;
use crate::runtime::launch::{Order, Resources};
use crate::runtime::logs;
use crate::runtime::stage::{ETC_FILES, Stage};
use crate::runtime::{cgroup_v1, rootdir, sys, users};
use libcontainer::error::LibcontainerError;
use libcontainer::notify_socket::NotifySocket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// libcontainer's folder in the stage.
pub(super) const STATE: &str = "state";

/// PIPE_BUF: what one write to a pipe carries undivided.
const MESSAGE_MAX: usize = 4096;

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Root(#[from] rootdir::Error),
    #[error(transparent)]
    User(#[from] users::Error),
    #[error("could not build the container's specification")]
    Spec(#[from] oci_spec::OciSpecError),
    #[error("could not create the container")]
    Libcontainer(#[from] LibcontainerError),
    #[error("could not {what}")]
    Io { what: &'static str, source: io::Error },
    /// What the maker said.
    #[error("{0}")]
    Maker(String),
}

pub(super) fn io_error<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Io { what, source: source.into() }
}

/// The container's ends of its pipes.
pub(super) struct Outputs {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Closed by a successful execve.
    pub executing: OwnedFd,
}

/// A created container that waits for its start.
pub(super) struct Created {
    pub pid: i32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Ends when the app is executed; before that, carries the reason why it can't be.
    pub executed: OwnedFd,
    pub log_dir: Option<(PathBuf, OwnedFd)>,
    /// Its /etc/hosts, still empty.
    pub hosts: File,
    stage: Stage,
}

impl Created {
    /// Lets it go on to its app.
    pub(super) fn start(&self) -> Result<(), String> {
        let socket = self.stage.path(STATE).join("app").join("notify.sock");
        NotifySocket::new(socket).notify_container_start().map_err(|error| super::chain(&error))
    }
}

pub(super) fn create(order: &Order) -> Result<Created, Error> {
    let stage = Stage::new(order.id_base.unwrap_or(0))?;
    let [hosts, _, _] = [
        (ETC_FILES[0], String::new()),
        (ETC_FILES[1], order.resolv_conf.clone()),
        (ETC_FILES[2], format!("{}\n", order.hostname)),
    ]
    .map(|(name, text)| stage.write(&format!("etc/{name}"), &text));
    let pipe = || sys::pipe().map_err(io_error("make a pipe"));
    let ((stdout, stdout_write), (stderr, stderr_write)) = (pipe()?, pipe()?);
    let ((executed, executing), (told, tell)) = (pipe()?, pipe()?);
    let own_pid = std::process::id() as i32;
    let shim = sys::pidfd_open(own_pid).map_err(io_error("open a descriptor of this process"))?;
    let makes_group = order.cgroup.layout == Layout::V1;
    if makes_group {
        cgroup_v1::make(&order.cgroup).map_err(io_error("make the container's control group"))?;
    }
    // SAFETY: this process has one thread, so the child may do all that this one could.
    let maker = unsafe { libc::fork() };
    if maker == 0 {
        drop(told);
        let outputs = Outputs { stdout: stdout_write, stderr: stderr_write, executing };
        let made = sys::die_with(&shim)
            .map_err(io_error("watch the supervising process"))
            .and_then(|()| maker::make(order, &stage, outputs, shim));
        let text = match made {
            Ok(pid) => pid.to_string(),
            Err(error) => format!("!{}", super::chain(&error)),
        };
        let _ = rustix::io::write(&tell, &text.as_bytes()[..text.len().min(MESSAGE_MAX)]);
        // SAFETY: nothing of the shim's is to be run or flushed here.
        unsafe { libc::_exit(0) };
    }
    if maker < 0 {
        return Err(io_error("fork")(io::Error::last_os_error()));
    }
    drop((tell, stdout_write, stderr_write, executing, shim));
    // A disk that takes no logs stops no app.
    let log_dir = logs::make_folder(&order.log_dir).and_then(|()| File::open(&order.log_dir)).ok();
    protect_from_oom();
    // The order holds the environment, which may hold secrets: no core file of it. The maker
    // and the container's process are made so by libcontainer.
    let _ = nix::sys::prctl::set_dumpable(false);
    // Meanwhile, but for the number of processes: an app may be one alone, its makers are three.
    let limit =
        |resources| cgroup_v1::limit(&order.cgroup, &resources).map_err(io_error("limit the container"));
    let limited = match makes_group {
        true => limit(Resources { pids_max: None, ..order.resources }),
        false => Ok(()),
    };
    let pid = hear(&told, maker);
    limited?;
    if pid.is_ok() {
        // Of the same name on v2.
        limit(Resources { pids_max: order.resources.pids_max, ..Resources::default() })?;
    }
    order.cgroup.kill_as_one();
    Ok(Created {
        pid: pid?,
        stdout,
        stderr,
        executed,
        log_dir: log_dir.map(|dir| (sys::fd_path(&dir), dir.into())),
        hosts: hosts?,
        stage,
    })
}

/// What the maker tells, in one write and at most a page of it; it has ended when that was
/// no success. Not until the pipe's end: the container's process has a copy of it.
fn hear(told: &OwnedFd, maker: i32) -> Result<i32, Error> {
    let mut page = [0; MESSAGE_MAX];
    let length = wait_to_hear(told, maker)
        .and_then(|()| Ok(rustix::io::ioctl_fionbio(told, true)?))
        .and_then(|()| Ok(rustix::io::read(told, &mut page)?))
        .unwrap_or(0);
    let text = String::from_utf8_lossy(&page[..length]);
    if let Some(pid) = text.parse::<i32>().ok().filter(|pid| *pid > 0) {
        return Ok(pid);
    }
    // SAFETY: our own child, not yet waited for; without an address nothing is written.
    unsafe { libc::waitpid(maker, std::ptr::null_mut(), 0) };
    Err(Error::Maker(match text.strip_prefix('!') {
        Some(why) => why.to_owned(),
        None => "the process that makes the container was killed: is its memory limit too low?".to_owned(),
    }))
}

/// Until there is something to read, or the maker is dead.
fn wait_to_hear(told: &OwnedFd, maker: i32) -> io::Result<()> {
    let maker = sys::pidfd_open(maker)?;
    let mut either = [told.as_fd(), maker.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut either, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

/// When the host runs out of memory the container goes before its shim, which would take the
/// container's exit status with it. Best effort: it needs CAP_SYS_RESOURCE.
fn protect_from_oom() {
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
}
