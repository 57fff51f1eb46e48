//! Control groups of containers, on v1, v2 and hybrid hosts: where they are, kill, count, remove.
//!
//! libcontainer makes them and writes the limits on v2, [`cgroup_v1`](crate::runtime) on v1;
//! here is what happens afterwards.
//! A container's group is `<parent>/nodectl-<tag>/<instance>.<attempt>`, the same in each
//! hierarchy; on v2 shims live beside them in `<parent>/nodectl-<tag>/shims`, outside every
//! container's limits.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const MOUNT: &str = "/sys/fs/cgroup";

/// How the host has its controllers. libcgroups looks at the same mount points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// One tree with all controllers.
    V2,
    /// A tree for each controller (also hybrid, where v2 has none).
    V1,
}

/// Reads the host's layout.
///
/// # Errors
/// No control groups are mounted where systemd and everything else mounts them.
pub fn layout() -> io::Result<Layout> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        return Ok(Layout::V2);
    }
    if Path::new(MOUNT).join("memory/memory.limit_in_bytes").exists() {
        return Ok(Layout::V1);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no control groups at /sys/fs/cgroup"))
}

/// A group by its name in every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub layout: Layout,
    /// Absolute within each hierarchy: `/nodectl-ab12/7.1`.
    pub path: String,
}

impl Place {
    /// The root of each hierarchy.
    pub fn root(layout: Layout) -> Place {
        Place { layout, path: "/".to_owned() }
    }

    /// The group of this name below this one.
    pub fn child(&self, name: &str) -> Place {
        Place { layout: self.layout, path: format!("{}/{name}", self.path.trim_end_matches('/')) }
    }

    pub fn parent(&self) -> Place {
        let path = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Place { layout: self.layout, path: path.to_owned() }
    }

    /// Its folder in each hierarchy where it exists.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let relative = self.path.trim_start_matches('/');
        match self.layout {
            Layout::V2 => vec![Path::new(MOUNT).join(relative)],
            Layout::V1 => {
                let hierarchies = fs::read_dir(MOUNT).into_iter().flatten().flatten();
                hierarchies.map(|hierarchy| hierarchy.path().join(relative)).collect()
            }
        }
        .into_iter()
        .filter(|dir| dir.is_dir())
        .collect()
    }

    /// A file of one controller.
    pub fn file(&self, controller: &str, file: &str) -> PathBuf {
        let relative = self.path.trim_start_matches('/');
        match self.layout {
            Layout::V2 => Path::new(MOUNT).join(relative).join(file),
            Layout::V1 => Path::new(MOUNT).join(controller).join(relative).join(file),
        }
    }

    /// Makes the group on a v2 host and moves this process into it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        fs::create_dir_all(self.file("", ""))?;
        self.join()
    }

    /// Moves this process, which has one thread, into the group, wherever it exists.
    ///
    /// # Errors
    /// It exists nowhere, or the kernel refuses.
    pub fn join(&self) -> io::Result<()> {
        let dirs = self.dirs();
        if dirs.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for dir in dirs {
            // v1's way for a thread that moves itself waits for nobody; v2 has only the other.
            let tasks = dir.join("tasks");
            let file = if tasks.exists() { tasks } else { dir.join("cgroup.procs") };
            fs::write(file, "0")?;
        }
        Ok(())
    }

    /// Every process in the group.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = Vec::new();
        for dir in self.dirs() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to all that is in the group now.
    pub fn kill(&self) {
        if self.layout == Layout::V2 && fs::write(self.file("", "cgroup.kill"), "1").is_ok() {
            return;
        }
        for pid in self.pids() {
            // SAFETY: plain integers; the pid was in our group a moment ago and is positive.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Kills what is in the group and removes it from every hierarchy; idempotent.
    ///
    /// # Errors
    /// Something in it does not die within `patience` (a process stuck in the kernel).
    pub fn destroy(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(200);
        loop {
            // The kernel refuses to remove a group with processes, and a group may outlast
            // its last process for a moment: so try first, kill where that fails.
            let refused: Vec<io::Error> =
                self.dirs().iter().filter_map(|dir| remove_tree(dir).err()).collect();
            let Some(error) = refused.into_iter().next() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(error);
            }
            self.kill();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Destroys the groups below this one, then this one.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    pub fn destroy_tree(&self, patience: Duration) -> io::Result<()> {
        let children =
            self.dirs().into_iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        let names: std::collections::BTreeSet<_> =
            children.filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect();
        for name in names {
            self.child(&name).destroy(patience)?;
        }
        self.destroy(patience)
    }

    /// Processes that the kernel killed in this group for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.layout {
            Layout::V2 => self.file("memory", "memory.events"),
            Layout::V1 => self.file("memory", "memory.oom_control"),
        };
        value_of(&fs::read_to_string(file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// Bytes in use, without page cache that could be dropped (as `docker stats` counts).
    pub fn memory_bytes(&self) -> Option<u64> {
        let (usage, inactive) = match self.layout {
            Layout::V2 => ("memory.current", "inactive_file"),
            Layout::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        };
        let used: u64 = fs::read_to_string(self.file("memory", usage)).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(self.file("memory", "memory.stat")).unwrap_or_default();
        Some(used.saturating_sub(value_of(&stat, inactive).unwrap_or(0)))
    }

    /// CPU time used, in microseconds.
    pub fn cpu_us(&self) -> Option<u64> {
        match self.layout {
            Layout::V2 => value_of(&fs::read_to_string(self.file("cpu", "cpu.stat")).ok()?, "usage_usec"),
            Layout::V1 => {
                let text = fs::read_to_string(self.file("cpuacct", "cpuacct.usage")).ok()?;
                Some(text.trim().parse::<u64>().ok()? / 1000)
            }
        }
    }

    /// Processes and threads in the group.
    pub fn pids_current(&self) -> Option<u64> {
        fs::read_to_string(self.file("pids", "pids.current")).ok()?.trim().parse().ok()
    }

    /// Whether limits may name swap: kernels can be built or booted without counting it.
    pub fn counts_swap(&self) -> bool {
        match self.layout {
            Layout::V2 => {
                // The root has no such file; any group below it has.
                self.parent().file("memory", "memory.swap.max").exists()
            }
            Layout::V1 => Path::new(MOUNT).join("memory/memory.memsw.limit_in_bytes").exists(),
        }
    }

    /// One out-of-memory kill ends the whole container rather than one process of it (v2).
    pub fn kill_as_one(&self) {
        if self.layout == Layout::V2 {
            let _ = fs::write(self.file("memory", "memory.oom.group"), "1");
        }
    }
}

/// Removes a group and those that a container made below it.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in fs::read_dir(dir)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&child.path())?;
    }
    fs::remove_dir(dir)
}

/// The number behind `key` in a file of `key value` lines.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_key() {
        let events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 7\n";
        assert_eq!(value_of(events, "oom_kill"), Some(1));
        assert_eq!(value_of(events, "oom"), Some(2));
        assert_eq!(value_of(events, "absent"), None);
    }

    #[test]
    fn a_child_lies_below_its_parent() {
        let place = Place { layout: Layout::V2, path: "/nodectl-x".into() };
        assert_eq!(place.child("7.1").path, "/nodectl-x/7.1");
        assert_eq!(place.child("7.1").parent(), place);
    }
}
