//! Groups and limits on v1 and hybrid hosts, made by ourselves.
//!
//! libcontainer would look each of twelve controllers up in the mount table, and join each by
//! `cgroup.procs`, which waits for a grace period of all processors. We make the groups of the
//! controllers that limit or count something, and the process that makes the container joins
//! them by `tasks`, which for a thread that moves itself waits for nothing. libcontainer's
//! manager is shown a tree in which there is nothing left to do ([`hide_from_libcontainer`]).

use crate::runtime::cgroup::{Layout, Place};
use crate::runtime::launch::Resources;
use crate::runtime::stage::{self, Stage};
use crate::runtime::sys;
use std::fs;
use std::io;
use std::path::Path;

/// What limits (memory, pids, cpu) and what counts (cpuacct).
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// The kernel's own default: long enough to be cheap, short enough not to be felt.
pub(crate) const PERIOD_US: u64 = 100_000;

/// The shares of a core in thousandths: 1,024 are one core's worth; the kernel takes no fewer
/// than 2.
pub(crate) fn shares(milli: u32) -> u64 {
    (u64::from(milli) * 1024 / 1000).max(2)
}

/// The quota for each period; the kernel takes no less than one millisecond.
pub(crate) fn quota_us(milli: u32) -> u64 {
    (u64::from(milli) * PERIOD_US / 1000).max(1000)
}

/// Makes the group wherever its controllers are mounted.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn make(place: &Place) -> io::Result<()> {
    for controller in CONTROLLERS {
        if Place::root(place.layout).file(controller, "tasks").exists() {
            fs::create_dir_all(place.file(controller, ""))?;
        }
    }
    Ok(())
}

/// Moves this process, which has one thread, into the group.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn join(place: &Place) -> io::Result<()> {
    for controller in CONTROLLERS {
        match fs::write(place.file(controller, "tasks"), "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Moves this process out of where processes are counted, since its end may take longer than
/// the app's first fork. Best effort: it ends a moment later anyway.
pub(crate) fn leave(place: &Place) {
    let _ = fs::write(place.parent().file("pids", "tasks"), "0");
}

/// Sets the limits.
///
/// # Errors
/// The host has no such controller, or the kernel refuses: a memory limit below what is in
/// use already.
pub(crate) fn limit(place: &Place, limits: &Resources) -> io::Result<()> {
    for (controller, file, value) in settings(limits, place.counts_swap()) {
        fs::write(place.file(controller, file), value.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{file} to {value}: {error}")))?;
    }
    Ok(())
}

/// (controller, file, value), in the order in which the kernel takes them.
fn settings(limits: &Resources, counts_swap: bool) -> Vec<(&'static str, &'static str, u64)> {
    let mut settings = Vec::new();
    if let Some(milli) = limits.cpu_milli {
        settings.push(("cpu", "cpu.shares", shares(milli)));
    }
    if let Some(milli) = limits.cpu_max_milli {
        settings.push(("cpu", "cpu.cfs_period_us", PERIOD_US));
        settings.push(("cpu", "cpu.cfs_quota_us", quota_us(milli)));
    }
    if let Some(bytes) = limits.memory_bytes {
        settings.push(("memory", "memory.limit_in_bytes", bytes));
        if counts_swap {
            // Memory and swap together: none beyond memory.
            settings.push(("memory", "memory.memsw.limit_in_bytes", bytes));
        }
    }
    if let Some(max) = limits.pids_max {
        settings.push(("pids", "pids.max", u64::from(max)));
    }
    settings
}

/// Whether this is a hybrid host, where libcontainer can be shown something else.
pub(crate) fn has_v2_tree() -> bool {
    Place::root(Layout::V1).file("unified", "cgroup.controllers").exists()
}

/// Lays the node's own empty v2 group over /sys/fs/cgroup of this process's mount namespace,
/// with a plain file as its `cgroup.procs`: libcontainer takes it for a v2 host whose group is
/// there, and joins it by a write that moves nobody. The path that it is to be told; `None`
/// when this host has no v2 tree: then libcontainer goes its own way.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn hide_from_libcontainer(place: &Place, stage: &Stage) -> io::Result<Option<&'static str>> {
    let unified = Place { layout: Layout::V1, path: place.parent().path }.file("unified", "");
    if !has_v2_tree() {
        return Ok(None);
    }
    // Not the tree's root: should libcontainer fail, it kills what is in the group that it sees.
    fs::create_dir_all(&unified)?;
    let tree = sys::open_tree(&unified)?;
    stage.write("procs", "").map_err(io::Error::other)?;
    let plain = sys::open_tree(&stage.path("procs"))?;
    let mount = Path::new(crate::runtime::cgroup::MOUNT);
    sys::move_mount(&tree, mount)?;
    stage::mount_over(&plain, fs::File::open(mount.join("cgroup.procs"))?)?;
    Ok(Some("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_limited_after_memory_and_never_beyond_it() {
        let limits = Resources { memory_bytes: Some(64), ..Resources::default() };
        let files =
            |counts_swap| settings(&limits, counts_swap).into_iter().map(|(_, file, value)| (file, value));
        assert!(files(true).eq([("memory.limit_in_bytes", 64), ("memory.memsw.limit_in_bytes", 64)]));
        assert!(files(false).eq([("memory.limit_in_bytes", 64)]));
    }

    #[test]
    fn values_below_what_the_kernel_takes_are_raised_to_it() {
        assert_eq!((shares(1), shares(1000)), (2, 1024));
        assert_eq!((quota_us(1), quota_us(500)), (1000, 50_000));
    }
}
