//! An order as an OCI runtime spec: pure. What Docker's defaults give, and no more.
//!
//! Left out on purpose: `linux.seccomp` (our executor installs compiled filters),
//! CAP_MKNOD (device rules need an eBPF program on cgroup v2; without the capability, and
//! with `nodev` on the root, there is nothing for them to stop).

use crate::runtime::cgroup_v1;
use crate::runtime::launch::{Order, Resources};
use crate::runtime::users::Identity;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources,
    LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the order can't say, since only the maker sees it.
pub struct Scene<'a> {
    pub rootfs: &'a Path,
    pub identity: &'a Identity,
    /// Path of a namespace to join; `None` is the host's.
    pub user_namespace: Option<PathBuf>,
    /// The most open files that this process may pass on.
    pub max_open_files: u64,
    /// This process's own, which must not go below.
    pub oom_score_adj: i32,
    pub groups: Groups<'a>,
}

/// Who makes the control group, and what the container sees of it.
pub enum Groups<'a> {
    /// libcontainer makes it, in the one tree that there is.
    Libcontainer { counts_swap: bool },
    /// It is made, and this process in it. `path` is for libcontainer to look at, `view` is
    /// what the container sees as /sys/fs/cgroup.
    Made { path: &'a str, view: PathBuf },
}

/// Docker's default capabilities without CAP_MKNOD.
pub const CAPABILITIES: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The same by their numbers in linux/capability.h, for the filter and for exec.
pub const CAPABILITY_NUMBERS: [u8; 13] = [29, 0, 1, 3, 4, 5, 10, 13, 31, 6, 8, 7, 18];

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Builds the spec.
///
/// # Errors
/// A builder refuses a value: a fault of this module.
pub fn build(order: &Order, scene: &Scene<'_>) -> Result<Spec, OciSpecError> {
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(scene.rootfs).readonly(order.read_only_root).build()?)
        .hostname(order.hostname.clone())
        .process(process(order, scene)?)
        .mounts(mounts(&scene.groups)?)
        .linux(linux(order, scene)?)
        .build()
}

fn process(order: &Order, scene: &Scene<'_>) -> Result<Process, OciSpecError> {
    let held: Capabilities = CAPABILITIES.into_iter().collect();
    // A user other than root holds none unless it gains them by a set-uid file, which
    // no_new_privs rules out: the same as Docker gives it.
    let effective = if scene.identity.uid == 0 { held.clone() } else { Capabilities::new() };
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(held)
        .effective(effective.clone())
        .permitted(effective)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?;
    let user = UserBuilder::default()
        .uid(scene.identity.uid)
        .gid(scene.identity.gid)
        .additional_gids(scene.identity.groups.clone())
        .build()?;
    let open_files = rlimit(PosixRlimitType::RlimitNofile, scene.max_open_files)?;
    let core = rlimit(PosixRlimitType::RlimitCore, 0)?;
    ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(order.args.clone())
        .env(environment(&order.env, scene.identity, &order.hostname))
        .cwd(&order.cwd)
        .capabilities(capabilities)
        .rlimits(vec![open_files, core])
        .no_new_privileges(true)
        .oom_score_adj(scene.oom_score_adj.max(0))
        .build()
}

fn rlimit(typ: PosixRlimitType, value: u64) -> Result<oci_spec::runtime::PosixRlimit, OciSpecError> {
    PosixRlimitBuilder::default().typ(typ).soft(value).hard(value).build()
}

/// `NAME=value` for each, with HOME from the image's passwd and HOSTNAME where unset.
///
/// An empty HOME is none: libcontainer would ask libc for another, in the container and before
/// the filters, and libc would load what the image's nsswitch.conf names.
pub fn environment(env: &[(String, String)], identity: &Identity, hostname: &str) -> Vec<String> {
    let env: Vec<_> = env.iter().filter(|(name, value)| name != "HOME" || !value.is_empty()).collect();
    let mut all: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let missing = |name: &str| !env.iter().any(|(known, _)| known == name);
    if missing("HOME") {
        all.push(format!("HOME={}", identity.home.as_deref().unwrap_or("/")));
    }
    if missing("HOSTNAME") {
        all.push(format!("HOSTNAME={hostname}"));
    }
    all
}

/// What needs the container's own namespaces; the rest is there by now (`inner_mounts`).
fn mounts(groups: &Groups<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    Ok(vec![
        mount("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?,
        mount("/dev/pts", "devpts", Path::new("devpts"), &devpts)?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", "ro"])?,
        match groups {
            Groups::Libcontainer { .. } => {
                let options = ["nosuid", "noexec", "nodev", "ro"];
                mount("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &options)?
            }
            Groups::Made { view, .. } => {
                mount("/sys/fs/cgroup", "bind", view, &["rbind", "ro", "nosuid", "noexec", "nodev"])?
            }
        },
    ])
}

fn mount(destination: &str, typ: &str, source: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
}

fn linux(order: &Order, scene: &Scene<'_>) -> Result<Linux, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, User, Uts};
    let namespace = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let mut namespaces: Vec<LinuxNamespace> =
        [Pid, Mount, Ipc, Uts, Network, Cgroup].into_iter().map(namespace).collect::<Result<_, _>>()?;
    if let Some(path) = &scene.user_namespace {
        // Made beforehand, since the layers are mapped through it: libcontainer joins it.
        namespaces.push(LinuxNamespaceBuilder::default().typ(User).path(path).build()?);
    }
    // As Docker sets them: any user may listen on port 80 and send pings, in its own network.
    let last_group = if scene.user_namespace.is_some() { "65535" } else { "2147483647" };
    let sysctl = HashMap::from([
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
        ("net.ipv4.ping_group_range".to_owned(), format!("0 {last_group}")),
    ]);
    let linux = match &scene.groups {
        Groups::Libcontainer { counts_swap } => LinuxBuilder::default()
            .cgroups_path(&order.cgroup.path)
            .resources(resources(&order.resources, *counts_swap)?),
        Groups::Made { path, .. } => LinuxBuilder::default().cgroups_path(*path),
    };
    linux
        .namespaces(namespaces)
        .sysctl(sysctl)
        .masked_paths(MASKED.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec())
        .build()
}

/// All but the number of processes, which the shim limits when those that make it are gone.
fn resources(limits: &Resources, counts_swap: bool) -> Result<LinuxResources, OciSpecError> {
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(milli) = limits.cpu_milli {
        cpu = cpu.shares(cgroup_v1::shares(milli));
    }
    if let Some(milli) = limits.cpu_max_milli {
        let quota = i64::try_from(cgroup_v1::quota_us(milli)).unwrap_or(i64::MAX);
        cpu = cpu.quota(quota).period(cgroup_v1::PERIOD_US);
    }
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu.build()?);
    if let Some(bytes) = limits.memory_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemoryBuilder::default().limit(bytes);
        if counts_swap {
            memory = memory.swap(bytes); // memory and swap together: none beyond memory
        }
        resources = resources.memory(memory.build()?);
    }
    resources.build()
}
