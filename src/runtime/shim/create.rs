//! Making the container: its root, its spec, and libcontainer's part.
//!
//! libcontainer 0.7's habits that this file works around: it changes this process's
//! oom_score_adj, dumpable flag and working folder; it asks for systemd's cgroups when it
//! makes a user namespace itself (so we make it); it has no system call filter without
//! libseccomp; a failing execve after start is told to nobody.

use crate::runtime::launch::Order;
use crate::runtime::logs;
use crate::runtime::rootdir::{self, Root};
use crate::runtime::seccomp::{self, Program};
use crate::runtime::spec::{self, Scene};
use crate::runtime::{sys, users};
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

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
}

fn io_error<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Io { what, source: source.into() }
}

/// A created container that waits for its start.
pub(super) struct Created {
    pub container: Container,
    pub pid: i32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Ends when the app is executed; before that, carries the reason why it can't be.
    pub executed: OwnedFd,
    /// Open, since the stage may be out of sight.
    pub log_dir: Option<(PathBuf, OwnedFd)>,
    pub rootfs: PathBuf,
    pub hosts: PathBuf,
}

pub(super) fn create(order: &Order) -> Result<Created, Error> {
    let owner = order.id_base.unwrap_or(0);
    let userns = order.id_base.map(rootdir::user_namespace).transpose()?;
    let layers = rootdir::open_layers(&order.layers, userns.as_ref())?;
    let scratch = rootdir::open_scratch(&order.scratch, &layers, owner)?;
    // A disk that takes no logs stops no app.
    let log_dir = logs::make_folder(&order.log_dir).and_then(|()| File::open(&order.log_dir)).ok();
    let stage = rootdir::stage()?;
    let rootfs = rootdir::mount_overlay(&stage, layers, &scratch)?;
    drop(scratch);

    let root = Root::open(&rootfs, owner)?;
    root.guard()?;
    let identity = users::resolve(
        &order.user,
        &root.read("etc/passwd")?,
        &root.read("etc/group")?,
        order.id_base.is_some(),
    )?;
    for path in std::iter::once(&order.cwd).chain(&order.volumes) {
        root.make_folder(path)?;
    }
    let etc = stage.join("etc");
    let files = [
        ("hosts", String::new()),
        ("resolv.conf", order.resolv_conf.clone()),
        ("hostname", format!("{}\n", order.hostname)),
    ];
    for (name, text) in files {
        root.plant_etc(name)?;
        fs::write(etc.join(name), text).map_err(io_error("write the files for /etc"))?;
    }
    drop(root);

    let scene = Scene {
        rootfs: &rootfs,
        etc: &etc,
        identity: &identity,
        user_namespace: userns.as_ref().map(sys::fd_path),
        max_open_files: max_open_files(),
        oom_score_adj: oom_score_adj(),
        counts_swap: order.cgroup.counts_swap(),
    };
    let bundle = stage.join("bundle");
    write_spec(&bundle, &spec::build(order, &scene)?)?;

    let output = || -> Result<(OwnedFd, OwnedFd), Error> {
        let (read, write) = sys::pipe().map_err(io_error("make a pipe for the output"))?;
        // So that /dev/stdout can be opened again by the app's user, as web servers do.
        let (uid, gid) = (owner + identity.uid, owner + identity.gid);
        rustix::fs::fchown(
            &write,
            Some(rustix::process::Uid::from_raw(uid)),
            Some(rustix::process::Gid::from_raw(gid)),
        )
        .map_err(io_error("hand the output to the app's user"))?;
        Ok((read, write))
    };
    let (stdout, stdout_write) = output()?;
    let (stderr, stderr_write) = output()?;
    let null = File::open("/dev/null").map_err(io_error("open /dev/null"))?;
    let (executed, executing) = sys::pipe().map_err(io_error("make a pipe"))?;
    let shim =
        sys::pidfd_open(std::process::id() as i32).map_err(io_error("open a descriptor of this process"))?;
    let shim = Arc::new(shim);
    let state = stage.join("state");
    fs::create_dir(&state).map_err(io_error("lay out the bundle"))?;
    let container = ContainerBuilder::new("app".to_owned(), SyscallType::default())
        .with_root_path(&state)?
        .with_executor(Confined { programs: order.seccomp.clone().into(), errors: Arc::new(executing), shim })
        .with_stdin(null)
        .with_stdout(stdout_write)
        .with_stderr(stderr_write)
        .validate_id()?
        .as_init(&bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    protect_from_oom();
    order.cgroup.kill_as_one();
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    Ok(Created {
        container,
        pid,
        stdout,
        stderr,
        executed,
        log_dir: log_dir.map(|dir| (sys::fd_path(&dir), dir.into())),
        rootfs,
        hosts: etc.join("hosts"),
    })
}

fn write_spec(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    let text = serde_json::to_vec(spec)
        .map_err(|error| io_error("write the specification")(io::Error::from(error)))?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(bundle.join("config.json"))
        .and_then(|mut file| file.write_all(&text))
        .map_err(io_error("write the specification"))
}

/// This process's own limit, and no more than Docker gives.
fn max_open_files() -> u64 {
    const MOST: u64 = 1 << 20;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    own.maximum.unwrap_or(MOST).min(MOST)
}

fn oom_score_adj() -> i32 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// When the host runs out of memory the container goes before its shim, which would take the
/// container's exit status with it. Best effort: it needs CAP_SYS_RESOURCE.
fn protect_from_oom() {
    let _ = fs::write("/proc/self/oom_score_adj", "-900");
}

/// Executes the app under the system call filters.
#[derive(Clone)]
struct Confined {
    programs: Arc<[Program]>,
    /// Closed by a successful execve.
    errors: Arc<OwnedFd>,
    /// The shim, as a process descriptor.
    shim: Arc<OwnedFd>,
}

impl Confined {
    fn confine(&self) -> io::Result<()> {
        // What this process set for itself would survive execve.
        sys::reset_signals();
        sys::cloexec_from(3)?;
        seccomp::install(&self.programs).map_err(|error| io::Error::other(super::chain(&error)))
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let result = match self.confine() {
            Ok(()) => DefaultExecutor {}.exec(spec),
            Err(error) => Err(ExecutorError::Other(error.to_string())),
        };
        if let Err(error) = &result {
            let program = spec.process().as_ref().and_then(|p| p.args().as_ref()?.first().cloned());
            let why = io::Error::last_os_error();
            let text = match (error, program) {
                (ExecutorError::Execution(_), Some(program)) => format!("could not execute {program}: {why}"),
                _ => error.to_string(),
            };
            let _ = rustix::io::write(&*self.errors, text.as_bytes());
        }
        result
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The first of our steps in the container's process, which next tells the shim that it
        // is ready and then waits for the start: without this it would wait for a dead shim
        // for ever, and hold a copy of the node's socket, which would never see its end.
        sys::die_with(&self.shim).map_err(|e| ExecutorValidationError::ArgValidationError(e.to_string()))?;
        DefaultExecutor {}.validate(spec)
    }
}

/// `nodectl shim --probe LOWER`: whether this host can do what containers need, in its own
/// process so that a node with threads need not unshare anything. The answer is a word on
/// standard output: `ok`, `no-idmap: …`, `no-overlay: …`.
pub(super) fn probe(folder: &Path) -> ExitCode {
    let answer = match try_probe(folder) {
        Ok(()) => "ok".to_owned(),
        Err(text) => text,
    };
    println!("{answer}");
    ExitCode::SUCCESS
}

fn try_probe(folder: &Path) -> Result<(), String> {
    let text = |error: rootdir::Error| super::chain(&error);
    rootdir::leave_host_mounts().map_err(|e| format!("no-overlay: {}", text(e)))?;
    let lower = vec![folder.join("lower")];
    let scratch = folder.join("scratch");
    let overlay = |userns: Option<&OwnedFd>, kind: &str| {
        let layers = rootdir::open_layers(&lower, userns)?;
        let scratch = rootdir::open_scratch(&scratch.join(kind), &layers, 0)?;
        let stage = rootdir::stage()?;
        rootdir::mount_overlay(&stage, layers, &scratch)
    };
    overlay(None, "plain").map_err(|e| format!("no-overlay: {}", text(e)))?;
    let mapped = || {
        let userns = rootdir::user_namespace(crate::runtime::ids::DEFAULT_BASE)?;
        overlay(Some(&userns), "mapped").map(|_| userns.as_raw_fd())
    };
    mapped().map_err(|e| format!("no-idmap: {}", text(e)))?;
    Ok(())
}
