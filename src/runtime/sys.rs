//! The few system calls that no crate of ours wraps, and process identity from /proc.
//!
//! Everything here is a thin, checked call; what to do with it is decided elsewhere.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path holds a NUL byte"))
}

/// The path of an open descriptor, for calls that only take paths.
pub(crate) fn fd_path(fd: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) {
    // SAFETY: callers run this at a process's start or right before execve, when no value
    // of this program owns a descriptor from `first` on.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

/// Marks every descriptor from `first` on as closed by execve.
pub(crate) fn cloexec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: changes flags only; no memory is passed.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// A pipe that execve closes: (read, write).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// A detached copy of the mount at `path`.
pub(crate) fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::OPEN_TREE_CLOEXEC | libc::OPEN_TREE_CLONE;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// struct mount_attr of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of a detached mount, and maps its ids through a user namespace.
pub(crate) fn mount_setattr(tree: &OwnedFd, attr_set: u64, userns: Option<&OwnedFd>) -> io::Result<()> {
    let idmap = if userns.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 };
    let attr = MountAttr {
        attr_set: attr_set | idmap,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..MountAttr::default()
    };
    // SAFETY: `attr` is a whole struct mount_attr and its true size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Attaches a detached mount at `path`.
pub(crate) fn move_mount(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    /// MOVE_MOUNT_F_EMPTY_PATH of linux/mount.h: the source is the descriptor itself.
    const FROM_EMPTY_PATH: libc::c_uint = 4;
    let path = c_path(path)?;
    // SAFETY: both strings are NUL-terminated and live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            FROM_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// A folder in an open one, through no link.
pub(crate) fn open_folder(parent: &OwnedFd, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// A descriptor for the process itself, which its pid is not.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// When a process started, in clock ticks after boot; `None` when there is no such process.
/// With the pid it names a process for one boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses: count from the last one.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// How many threads this process has.
pub(crate) fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Every signal back to its default, none blocked: what execve keeps must not be ours.
pub(crate) fn reset_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL is valid for every signal; where it may not be set, the call fails.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: sigemptyset fills the set before it is read.
    unsafe {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Makes this process die with its parent, whose descriptor the parent opened beforehand:
/// the parent's pid says nothing from within another pid namespace.
///
/// # Errors
/// The parent is dead already.
pub(crate) fn die_with(parent: &OwnedFd) -> io::Result<()> {
    die_with_parent()?;
    // Only now: what dies after this is told by the signal, what died before by the descriptor.
    let mut ended = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ended, PollTimeout::ZERO)? {
        0 => Ok(()),
        _ => Err(io::Error::other("the supervising process is gone")),
    }
}

/// SIGKILL for this process when its parent ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: plain integers.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_pid_and_start_time() {
        let me = std::process::id() as i32;
        assert!(start_time(me).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(me), start_time(me));
        assert_eq!(start_time(0), None);
    }
}
