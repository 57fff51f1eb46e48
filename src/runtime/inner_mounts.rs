//! The mounts of a container that need none of its namespaces: /dev, /dev/shm and our files
//! of /etc. Made on its root before libcontainer sees it.
//!
//! libcontainer could make them from the spec, and did: its walk to each mount point, guarded
//! against a root that changes meanwhile, costs some 90 system calls. Nothing runs in this
//! root yet, and each mount point is opened without following anything. What needs the pid,
//! network or ipc namespace (/proc, /sys, /dev/mqueue, /dev/pts) is in the spec.

use crate::runtime::rootdir::{Error, Root, io_error};
use crate::runtime::stage::{self, ETC_FILES, Stage};
use crate::runtime::sys;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{Gid, Uid};

/// What bind mounts from the host get: nothing but reading.
pub(crate) const READ_ONLY: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Lays /dev, /dev/shm and the files of /etc over an image's.
pub(crate) fn make(root: &Root, stage: &Stage, owner: u32) -> Result<(), Error> {
    for name in ETC_FILES {
        let target = root.plant_etc(name)?;
        let wrap = || format!("mount /etc/{name}");
        let tree = sys::open_tree(&stage.path(&format!("etc/{name}"))).map_err(io_error(wrap()))?;
        sys::mount_setattr(&tree, READ_ONLY, None).map_err(io_error(wrap()))?;
        stage::mount_over(&tree, target).map_err(io_error(wrap()))?;
    }
    let dev = root.existing_folder("dev")?;
    make_dev(&dev, owner).map_err(io_error("mount /dev"))
}

fn make_dev(target: &impl std::os::fd::AsFd, owner: u32) -> Result<(), Errno> {
    let id = owner.to_string();
    let mount = |mode: &str, attributes| {
        let options = [("mode", mode), ("size", "65536k"), ("uid", &id), ("gid", &id)];
        stage::tmpfs(&options, attributes)
    };
    let common = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mut dev = common | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    if owner == 0 {
        // In the host's user namespace libcontainer makes device nodes in it; otherwise it
        // mounts the host's over files, which nodev does not concern.
        dev.remove(MountAttrFlags::MOUNT_ATTR_NODEV);
    }
    let dev = mount("755", dev)?;
    for name in ["shm", "pts", "mqueue"] {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
        let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
        rustix::fs::chownat(&dev, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    // The outer one first: kernels before 6.15 mount nothing on what is attached nowhere.
    stage::mount_over(&dev, target)?;
    let shm = sys::open_folder(&dev, "shm")?;
    stage::mount_over(&mount("1777", common)?, shm)
}
