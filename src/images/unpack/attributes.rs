//! Owner, mode, times and extended attributes of what was unpacked. The order matters: a
//! change of owner clears setuid bits and capabilities.

use super::super::error::{Doing, Fault, refuse, shown};
use super::super::tar::{Entry, Kind};
use super::timespec;
use rustix::fs::{self, AtFlags, Gid, Mode, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    fn ids(&self) -> (Option<Uid>, Option<Gid>) {
        // The tar reader has refused u32::MAX, the one value that is no id.
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

/// Everything but times, on a file or a folder.
pub(super) fn set_on_descriptor(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = Owner::of(entry).ids();
    fs::fchown(fd, uid, gid).doing(|| format!("give {} to its owner", shown(&entry.path)))?;
    fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .doing(|| format!("set the mode of {}", shown(&entry.path)))?;
    for (name, value) in &entry.xattrs {
        set_xattr(fd, entry, name, value)?;
    }
    Ok(())
}

/// Everything, on what cannot be opened: links and fifos. A link has no mode.
pub(super) fn set_by_name(
    folder: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
    mode: Option<Mode>,
) -> Result<(), Fault> {
    if let Some((xattr, _)) = entry.xattrs.iter().find(|(xattr, _)| policy(xattr) != Policy::Drop) {
        refuse!("it is {} with the attribute {}", entry.kind.named(), shown(xattr));
    }
    let (uid, gid) = Owner::of(entry).ids();
    fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| format!("give {} to its owner", shown(&entry.path)))?;
    if let Some(mode) = mode {
        debug_assert_eq!(entry.kind, Kind::Fifo);
        // Nothing can replace the fifo between its making and this: the folder is ours.
        fs::chmodat(folder, name, mode, AtFlags::empty())
            .doing(|| format!("set the mode of {}", shown(&entry.path)))?;
    }
    set_time_by_name(folder, name, entry.mtime)
}

pub(super) fn set_time_on_descriptor(fd: BorrowedFd<'_>, time: (i64, u32)) -> Result<(), Fault> {
    fs::futimens(fd, &both(time)).doing(|| "set a file's time".to_owned())
}

pub(super) fn set_time_by_name(folder: BorrowedFd<'_>, name: &[u8], time: (i64, u32)) -> Result<(), Fault> {
    fs::utimensat(folder, name, &both(time), AtFlags::SYMLINK_NOFOLLOW)
        .doing(|| format!("set the time of {}", shown(name)))
}

fn both(time: (i64, u32)) -> Timestamps {
    Timestamps { last_access: timespec(time), last_modification: timespec(time) }
}

/// Overlayfs then shows nothing of this folder's content in lower layers.
pub(super) fn set_opaque(folder: BorrowedFd<'_>) -> Result<(), Fault> {
    fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty()).doing(|| "mark a folder as opaque".to_owned())
}

/// What overlayfs reads (kernel documentation, overlayfs.rst, "whiteouts and opaque
/// directories").
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

#[derive(Debug, PartialEq, Eq)]
enum Policy {
    Set,
    /// Says something about the machine it comes from, nothing about the file.
    Drop,
    /// Would steer overlayfs, or something else that only the host may say.
    Refuse,
}

fn policy(name: &[u8]) -> Policy {
    let starts = |prefix: &str| name.starts_with(prefix.as_bytes());
    match name {
        _ if name.contains(&0) || name.is_empty() => Policy::Refuse,
        _ if starts("trusted.overlay.") || starts("user.overlay.") => Policy::Refuse,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => Policy::Set,
        _ if starts("user.") => Policy::Set,
        _ => Policy::Drop, // security.selinux, security.ima, trusted.*, system.nfs4_acl, com.apple.*
    }
}

fn set_xattr(fd: BorrowedFd<'_>, entry: &Entry, name: &[u8], value: &[u8]) -> Result<(), Fault> {
    match policy(name) {
        Policy::Drop => return Ok(()),
        Policy::Refuse => refuse!("the attribute {} is the host's to set", shown(name)),
        Policy::Set => {}
    }
    match fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        // File systems without user attributes (older tmpfs) still run every program.
        Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => Ok(()),
        Err(Errno::INVAL | Errno::RANGE | Errno::TOOBIG) => {
            refuse!("the attribute {} has a value that the kernel does not take", shown(name))
        }
        result => result.doing(|| format!("set attribute {} of {}", shown(name), shown(&entry.path))),
    }
}
