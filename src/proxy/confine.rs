//! Gives up every privilege before the first byte from the network is read.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::io;

/// What could not be given up; the proxy does not serve then.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}: {source}")]
pub struct Error {
    doing: &'static str,
    source: io::Error,
}

fn step<E: Into<io::Error>>(doing: &'static str, result: Result<(), E>) -> Result<(), Error> {
    result.map_err(|e| Error { doing, source: e.into() })
}

/// Closes everything but the standard streams, so that nothing of the node's is inherited.
/// Only before anything was opened.
pub fn close_strays() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> =
        open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The folder's own descriptor is among them and closed already.
        let _ = nix::unistd::close(number);
    }
}

/// As many open files as the kernel allows this process; gives the number.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it the limit stays as it was.
    let _ = setrlimit(Resource::Nofile, wanted);
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Becomes `uid` if root, and in any case a process that can gain nothing and that nobody of
/// its own user can look into. Call it while there is one thread.
///
/// # Errors
/// A step failed; the process must end.
pub fn confine(uid: u32) -> Result<(), Error> {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    if nix::unistd::geteuid().is_root() {
        if uid == 0 {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "user 0 is no unprivileged user");
            return Err(Error { doing: "become another user", source });
        }
        step("drop the bounding set", clear_bounding_set())?;
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        step("leave all groups", setgroups(&[]))?;
        step("become another group", setresgid(group, group, group))?;
        step("become another user", setresuid(user, user, user))?;
    }
    for set in
        [caps::CapSet::Ambient, caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable]
    {
        step("drop capabilities", caps::clear(None, set).map_err(|e| io::Error::other(e.to_string())))?;
    }
    step("set no_new_privs", nix::sys::prctl::set_no_new_privs())?;
    step("become undumpable", nix::sys::prctl::set_dumpable(false))?;
    step("filter system calls", filter_system_calls())
}

fn clear_bounding_set() -> io::Result<()> {
    caps::clear(None, caps::CapSet::Bounding).map_err(|e| io::Error::other(e.to_string()))
}

/// Nothing that runs another program, looks into another process or changes the system's
/// shape is ever needed again. A list of what is forbidden, not of what is allowed: it must
/// not break with the next libc, and the user has no rights to begin with.
fn filter_system_calls() -> io::Result<()> {
    let forbidden = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_open_by_handle_at,
    ];
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        forbidden.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
