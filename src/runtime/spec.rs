//! An order as an OCI runtime spec: pure. What Docker's defaults give, and no more.
//!
//! Left out on purpose: `linux.seccomp` (our executor installs compiled filters),
//! CAP_MKNOD (device rules need an eBPF program on cgroup v2; without the capability, and
//! with `nodev` on the root, there is nothing for them to stop).

use crate::runtime::cgroup::{Layout, Place};
use crate::runtime::launch::{Order, Resources};
use crate::runtime::users::Identity;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder,
    LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the order can't say, since only the shim sees it.
pub struct Scene<'a> {
    pub rootfs: &'a Path,
    /// Holds hosts, resolv.conf and hostname.
    pub etc: &'a Path,
    pub identity: &'a Identity,
    /// Path of a namespace to join; `None` is the host's.
    pub user_namespace: Option<PathBuf>,
    /// The most open files that this process may pass on.
    pub max_open_files: u64,
    /// This process's own, which must not go below.
    pub oom_score_adj: i32,
    pub counts_swap: bool,
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
        .mounts(mounts(&order.cgroup, scene.etc)?)
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
pub fn environment(env: &[(String, String)], identity: &Identity, hostname: &str) -> Vec<String> {
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

fn mounts(cgroup: &Place, etc: &Path) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    match cgroup.layout {
        Layout::V2 => {
            mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"])?);
        }
        // libcontainer would mount every hierarchy writable. What language runtimes read
        // their limits from is enough, and each mount costs time.
        Layout::V1 => {
            let tmpfs = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
            mounts.push(mount("/sys/fs/cgroup", "tmpfs", "cgroup", &tmpfs)?);
            for controller in ["cpu", "memory"] {
                let source = cgroup.file(controller, "");
                mounts.push(bind(&format!("/sys/fs/cgroup/{controller}"), &source)?);
            }
        }
    }
    for name in ["hosts", "resolv.conf", "hostname"] {
        mounts.push(bind(&format!("/etc/{name}"), &etc.join(name))?);
    }
    Ok(mounts)
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
}

fn bind(destination: &str, source: &Path) -> Result<Mount, OciSpecError> {
    let options = ["bind", "ro", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    MountBuilder::default().destination(destination).typ("bind").source(source).options(options).build()
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
    LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(&order.cgroup.path)
        .resources(resources(&order.resources, scene.counts_swap)?)
        .sysctl(sysctl)
        .masked_paths(MASKED.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec())
        .build()
}

fn resources(limits: &Resources, counts_swap: bool) -> Result<LinuxResources, OciSpecError> {
    /// The kernel's own default: long enough to be cheap, short enough not to be felt.
    const PERIOD_US: u64 = 100_000;
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(milli) = limits.cpu_milli {
        // 1,024 shares are one core's worth; the kernel takes no fewer than 2.
        cpu = cpu.shares((u64::from(milli) * 1024 / 1000).max(2));
    }
    if let Some(milli) = limits.cpu_max_milli {
        // The kernel takes no less than one millisecond.
        let quota = (u64::from(milli) * PERIOD_US / 1000).max(1000);
        cpu = cpu.quota(i64::try_from(quota).unwrap_or(i64::MAX)).period(PERIOD_US);
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
    if let Some(max) = limits.pids_max {
        resources = resources.pids(LinuxPidsBuilder::default().limit(i64::from(max)).build()?);
    }
    resources.build()
}
