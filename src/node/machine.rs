//! What this machine is: the facts that a node registers with.

use crate::model::resources::Resources;
use std::path::Path;

/// Kept back from instances: the node, its proxy and the system live on it. An eighth of the
/// memory, at most 1 GB.
fn reserved_memory(total_bytes: u64) -> u64 {
    (total_bytes / 8).min(1_000_000_000)
}

/// What instances may take of this machine; disk as free on the file system of `data`.
pub fn capacity(data: &Path) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let memory = memory_total_bytes().unwrap_or(0);
    let disk = nix::sys::statvfs::statvfs(data)
        .map(|stat| stat.blocks_available().saturating_mul(stat.fragment_size()))
        .unwrap_or(0);
    Resources {
        cpu_milli: cores * 1000,
        memory_bytes: memory.saturating_sub(reserved_memory(memory)),
        disk_bytes: disk,
    }
}

/// The machine's memory, or this process's cgroup limit where that is lower.
fn memory_total_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// `linux/amd64`: the OCI names of this program's target.
pub fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}

/// The host's name made a label, else `node-1`.
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let first = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let label: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let label = label.trim_matches('-');
    if label.is_empty() || label == "localhost" { "node-1".into() } else { label.to_owned() }
}
