//! This binary as a sealed memfd, from which shims and exec helpers are executed, and the node
//! itself: its pages are in memory once.
//!
//! A container that gets hold of `/proc/PID/exe` of a process of ours (CVE-2019-5736) finds
//! an anonymous file that nobody can write to: neither the binary on disk nor the pages that
//! all shims share can be changed through it. One memfd for all, so those pages are shared.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// A sealed copy of an executable; cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedExe {
    memfd: Arc<OwnedFd>,
}

impl SealedExe {
    /// The running binary itself if it is a sealed copy, or else a copy of it.
    ///
    /// # Errors
    /// `/proc` is not mounted, or the kernel has no sealed memfds.
    pub fn of_self() -> std::io::Result<Self> {
        let mut running = File::open("/proc/self/exe")?;
        if is_sealed(&running) {
            return Ok(Self { memfd: Arc::new(keep_clear_of_stdio(running.into())?) });
        }
        Self::copy_of(&mut running)
    }

    /// A copy of any executable; tests use it to run the real binary.
    ///
    /// # Errors
    /// The file cannot be read, or the kernel has no sealed memfds.
    pub fn copy_of(binary: &mut File) -> std::io::Result<Self> {
        // MFD_EXEC (Linux 6.3) says that this one is meant to be executed, which hosts with
        // vm.memfd_noexec=1 need; older kernels know no such flag.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("nodectl", flags | MemfdFlags::EXEC)
            .or_else(|_| rustix::fs::memfd_create("nodectl", flags))?;
        let mut copy = File::from(memfd);
        std::io::copy(binary, &mut copy)?;
        rustix::fs::fcntl_add_seals(&copy, SEALS)?;
        Ok(Self { memfd: Arc::new(keep_clear_of_stdio(copy.into())?) })
    }

    /// What to execute. Valid in this process and in a child until it executes it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.memfd.as_raw_fd()).into()
    }
}

/// Starts this program anew from a sealed copy of itself, with the same arguments, in the same
/// process. Returns if it runs from one already, or if the host does not allow it: then the
/// program's file and the copy that containers are started from are in memory side by side.
pub fn run_from_sealed_copy() {
    if File::open("/proc/self/exe").is_ok_and(|running| is_sealed(&running)) {
        return;
    }
    let Ok(copy) = SealedExe::of_self() else { return };
    let mut args = std::env::args_os();
    let mut command = Command::new(copy.path());
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let error = command.args(args).exec();
    tracing::debug!(%error, "running from the file itself");
}

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn is_sealed(file: &File) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// The same file on a descriptor above 2: `Command` replaces 0 to 2 in the child before it
/// resolves the path.
fn keep_clear_of_stdio(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: F_DUPFD_CLOEXEC takes a valid descriptor and returns a new one that we own.
    let raw = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if raw < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `raw` was just returned to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_sealed_copy_cannot_be_written_through_any_path_to_it() {
        let sealed = SealedExe::of_self().expect("sealed");
        let path = sealed.path();
        let before = std::fs::metadata(&path).expect("metadata").len();
        // The kernel may let a sealed file be opened for writing; it never lets it change.
        if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(&path) {
            file.write_all(b"#!/bin/sh\n").expect_err("a sealed file was written to");
            file.set_len(0).expect_err("a sealed file was truncated");
        }
        assert!(std::fs::OpenOptions::new().write(true).truncate(true).open(&path).is_err());
        assert_eq!(std::fs::metadata(&path).expect("metadata").len(), before);
    }

    #[test]
    fn a_sealed_copy_can_be_executed() {
        let mut busy = File::open("/bin/true").expect("/bin/true");
        let sealed = SealedExe::copy_of(&mut busy).expect("sealed");
        assert!(std::process::Command::new(sealed.path()).status().expect("spawned").success());
    }
}
