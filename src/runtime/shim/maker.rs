//! The process that makes a container and ends: its root, its spec, and libcontainer's part.
//!
//! A process of its own, since making changes the one that makes: its mounts, its control
//! groups, and by libcontainer 0.7 also its oom_score_adj, dumpable flag and working folder.
//! The container's first process is a child of the shim all the same (`as_sibling`).
//!
//! Other habits of libcontainer that this file works around: it asks for systemd's cgroups when
//! it makes a user namespace itself (so we make it); it has no system call filter without
//! libseccomp; a failing execve after start is told to nobody.

use super::create::{Error, Outputs, io_error};
use crate::runtime::cgroup::Layout;
use crate::runtime::launch::Order;
use crate::runtime::rootdir::{self, Root};
use crate::runtime::seccomp::{self, Program};
use crate::runtime::spec::{self, Groups, Scene};
use crate::runtime::stage::Stage;
use crate::runtime::{cgroup_v1, inner_mounts, sys, users};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Makes the container; the pid of its first process, which waits for the start.
pub(super) fn make(order: &Order, stage: &Stage, outputs: Outputs, shim: OwnedFd) -> Result<i32, Error> {
    let Outputs { stdout, stderr, executing } = outputs;
    let owner = order.id_base.unwrap_or(0);
    rootdir::leave_host_mounts()?;
    let userns = order.id_base.map(rootdir::user_namespace).transpose()?;
    let layers = rootdir::open_layers(&order.layers, userns.as_ref())?;
    let scratch = rootdir::open_scratch(&order.scratch, &layers, owner)?;
    let place = stage.attach()?;
    let rootfs = rootdir::mount_overlay(&place, &layers, &scratch)?;
    drop((layers, scratch));

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
    inner_mounts::make(&root, stage, owner)?;
    drop(root);

    for output in [&stdout, &stderr] {
        // So that /dev/stdout can be opened again by the app's user, as web servers do.
        let (uid, gid) = (owner + identity.uid, owner + identity.gid);
        rustix::fs::fchown(
            output,
            Some(rustix::process::Uid::from_raw(uid)),
            Some(rustix::process::Gid::from_raw(gid)),
        )
        .map_err(io_error("hand the output to the app's user"))?;
    }
    let scene = Scene {
        rootfs: &rootfs,
        identity: &identity,
        user_namespace: userns.as_ref().map(sys::fd_path),
        max_open_files: max_open_files(),
        oom_score_adj: oom_score_adj(),
        groups: groups(order, stage, &place)?,
    };
    let bundle = place.join("bundle");
    write_spec(&bundle, &spec::build(order, &scene)?)?;
    let null = File::open("/dev/null").map_err(io_error("open /dev/null"))?;
    let container = ContainerBuilder::new("app".to_owned(), SyscallType::default())
        .with_root_path(place.join(super::create::STATE))?
        .with_executor(Confined {
            programs: order.seccomp.clone().into(),
            errors: Arc::new(executing),
            shim: Arc::new(shim),
        })
        .with_stdin(null)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .validate_id()?
        .as_init(&bundle)
        .as_sibling(true)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    if order.cgroup.layout == Layout::V1 {
        cgroup_v1::leave(&order.cgroup);
    }
    Ok(container.pid().map_or(0, |pid| pid.as_raw()))
}

/// On a hybrid host: joins the container's group, so that all that comes of this process is in it.
fn groups<'a>(order: &'a Order, stage: &Stage, place: &Path) -> Result<Groups<'a>, Error> {
    let group = &order.cgroup;
    if group.layout == Layout::V2 {
        return Ok(Groups::Libcontainer { counts_swap: group.counts_swap() });
    }
    // Without a v2 tree libcontainer moves what it makes into the group itself, and kills all
    // that is in it when it fails: this process has to stay out to tell why.
    if cgroup_v1::has_v2_tree() {
        cgroup_v1::join(group).map_err(io_error("enter the container's control group"))?;
    }
    let wrap = || io_error::<io::Error>("show the container its control group");
    // libcontainer would show every hierarchy, writable. What language runtimes read their
    // limits from is enough.
    let view = place.join("cgroup");
    for controller in ["cpu", "memory"] {
        let source = group.file(controller, "");
        if source.is_dir() {
            fs::create_dir(view.join(controller)).map_err(wrap())?;
            let tree = sys::open_tree(&source).map_err(wrap())?;
            sys::mount_setattr(&tree, inner_mounts::READ_ONLY, None).map_err(wrap())?;
            sys::move_mount(&tree, &view.join(controller)).map_err(wrap())?;
        }
    }
    let decoy = cgroup_v1::hide_from_libcontainer(group, stage).map_err(wrap())?;
    Ok(Groups::Made { path: decoy.unwrap_or(&group.path), view })
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
