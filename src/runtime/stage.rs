//! A container's private tmpfs: its bundle, libcontainer's state, the files for its /etc, and
//! a bottom layer that every root has.
//!
//! It begins as a mount that is attached nowhere, so that the shim can fill it and keep it
//! open without mounts of its own; the process that makes the container lays it over a folder
//! of the host in its own mount namespace. Nobody else ever sees it, and it is gone with the
//! last process that has it open.

use crate::runtime::rootdir::{Error, io_error};
use crate::runtime::sys;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use rustix::process::{Gid, Uid};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where it may lie: folders that every host has, and that neither we nor libcontainer open
/// by path from then on.
const PLACES: [&str; 3] = ["/run", "/mnt", "/tmp"];

/// The bottom layer: mount points, so that no image needs them, and no disk is written to
/// make them.
pub(crate) const BASE_LAYER: &str = "layers/base";

/// A tmpfs with `rootfs`, `etc`, `layers`, `bundle`, `state` and `cgroup`.
pub(crate) struct Stage {
    mount: OwnedFd,
}

impl Stage {
    /// `owner` is the host id of the container's root.
    pub(crate) fn new(owner: u32) -> Result<Self, Error> {
        let wrap = || io_error::<rustix::io::Errno>("make a tmpfs for the bundle");
        let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let stage = Self { mount: tmpfs(&[("mode", "0755")], attributes).map_err(wrap())? };
        stage.lay_out(owner).map_err(io_error("lay out the bundle"))?;
        Ok(stage)
    }

    fn lay_out(&self, owner: u32) -> Result<(), rustix::io::Errno> {
        for (name, mode) in [
            ("rootfs", 0o755),
            ("etc", 0o755),
            ("layers", 0o700),
            ("bundle", 0o700),
            ("state", 0o700),
            ("cgroup", 0o755),
        ] {
            rustix::fs::mkdirat(&self.mount, name, Mode::from_raw_mode(mode))?;
        }
        let give = |name: &str| {
            let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
            rustix::fs::chownat(&self.mount, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        };
        for name in ["", "/proc", "/sys", "/dev", "/etc"] {
            let name = format!("{BASE_LAYER}{name}");
            rustix::fs::mkdirat(&self.mount, &name, Mode::from_raw_mode(0o755))?;
            give(&name)?;
        }
        for name in ETC_FILES {
            let name = format!("{BASE_LAYER}/etc/{name}");
            self.create(&name)?;
            give(&name)?;
        }
        Ok(())
    }

    fn create(&self, name: &str) -> Result<OwnedFd, rustix::io::Errno> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.mount, name, flags, Mode::from_raw_mode(0o644))
    }

    /// A new file, still open.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<File, Error> {
        let wrap = || io_error::<io::Error>("write the files for /etc");
        let mut file = File::from(self.create(name).map_err(|errno| wrap()(errno.into()))?);
        file.write_all(text.as_bytes()).map_err(wrap())?;
        Ok(file)
    }

    /// A path to something in it, for this process and its children, attached or not.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        sys::fd_path(&self.mount).join(name)
    }

    /// Lays it over a folder of this process's mount namespace; that folder's path. Whatever
    /// is needed from below must be open.
    pub(crate) fn attach(&self) -> Result<PathBuf, Error> {
        let place = PLACES.iter().map(Path::new).find(|path| path.is_dir()).ok_or_else(|| {
            io_error::<io::Error>("find a folder for the bundle (/run, /mnt and /tmp are missing)")(
                io::ErrorKind::NotFound.into(),
            )
        })?;
        let place = fs::canonicalize(place).map_err(io_error("resolve the bundle's folder"))?;
        sys::move_mount(&self.mount, &place).map_err(io_error("mount the bundle's tmpfs"))?;
        Ok(place)
    }
}

/// The files of a container's /etc that are ours: bind mounts over what the image has there.
pub(crate) const ETC_FILES: [&str; 3] = ["hosts", "resolv.conf", "hostname"];

/// A tmpfs that is attached nowhere yet.
pub(crate) fn tmpfs(
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", "nodectl")?;
    for (name, value) in options {
        rustix::mount::fsconfig_set_string(&context, *name, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Attaches a detached mount over an open folder or file, whatever its path leads to.
pub(crate) fn mount_over(tree: &OwnedFd, target: impl AsFd) -> Result<(), rustix::io::Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags)
}
