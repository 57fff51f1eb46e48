//! A container's root directory, as its maker makes it in its own mount namespace.
//!
//! Two ideas. **Nothing leaks**: the maker unshares its mount namespace and lays a tmpfs over
//! a folder of the host that it needs no more ([`Stage`](crate::runtime::stage::Stage)); the
//! overlay is mounted there, visible to nobody else and gone with the last process.
//! **The image is hostile**: everything in it is opened with openat2 relative to its root,
//! and a root whose mount points are not plain folders is refused before libcontainer, which
//! would follow them, sees it (the class of CVE-2026-41579).

use crate::runtime::stage::BASE_LAYER;
use crate::runtime::sys;
use crate::runtime::users::RANGE;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Gid, Uid};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a root directory could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not {what}")]
    Io { what: String, source: io::Error },
    #[error(
        "the image is refused: its {0} is not a plain folder (a symbolic link there would reach the host)"
    )]
    Hostile(String),
    #[error("the image is refused: its {0} is not a plain file")]
    NotAFile(String),
}

pub(crate) fn io_error<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source: source.into() }
}

/// Makes this process's mounts its own: what it mounts, the host never sees; what the host
/// unmounts, it lets go of.
pub(crate) fn leave_host_mounts() -> Result<(), Error> {
    // SAFETY: the shim has one thread, so no other thread's view of the file system changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(io_error("make a mount namespace"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(io_error("detach from the host's mounts"))
}

/// A user namespace that maps ids 0 to 65,535 to the host's from `base` on.
pub(crate) fn user_namespace(base: u32) -> Result<OwnedFd, Error> {
    let wrap = || io_error::<io::Error>("make a user namespace");
    let parent = std::process::id() as i32;
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: like fork: no stack and no shared memory; the child only makes system calls.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        // Nothing but being there: the parent ends it, or takes it along when it dies.
        // SAFETY: plain integers; nothing here touches memory.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            while libc::getppid() == parent {
                libc::pause();
            }
            libc::_exit(0);
        }
    }
    if pid < 0 {
        return Err(wrap()(io::Error::last_os_error()));
    }
    let map = format!("0 {base} {RANGE}\n");
    let namespace = fs::write(format!("/proc/{pid}/uid_map"), &map)
        .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), &map))
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    // SAFETY: the child made above, not yet waited for, so the pid is still its.
    unsafe {
        libc::kill(pid as i32, libc::SIGKILL);
        libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
    }
    Ok(namespace.map_err(wrap())?.into())
}

/// The layers of an image as detached mounts, ids mapped, not yet visible anywhere.
pub(crate) struct Layers {
    trees: Vec<OwnedFd>,
    root_mode: u32,
}

/// Opens layers, the top one first.
pub(crate) fn open_layers(paths: &[PathBuf], userns: Option<&OwnedFd>) -> Result<Layers, Error> {
    let mut trees = Vec::with_capacity(paths.len());
    for path in paths {
        let tree =
            sys::open_tree(path).map_err(io_error(format!("open the image layer {}", path.display())))?;
        sys::mount_setattr(&tree, libc::MOUNT_ATTR_NODEV, userns)
            .map_err(io_error(format!("map user ids on the file system of {}", path.display())))?;
        trees.push(tree);
    }
    let top = paths.first().and_then(|top| fs::metadata(top).ok());
    Ok(Layers { trees, root_mode: top.map_or(0o755, |meta| meta.mode() & 0o7777) })
}

/// The writable part of a container's root: opened before [`stage`] hides paths.
pub(crate) struct Scratch {
    upper: OwnedFd,
    work: OwnedFd,
}

/// Makes the folders of the writable layer.
pub(crate) fn open_scratch(dir: &Path, layers: &Layers, owner: u32) -> Result<Scratch, Error> {
    let make = |name: &str| {
        let path = dir.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(layers.root_mode))?;
        std::os::unix::fs::chown(&path, Some(owner), Some(owner))?;
        File::open(path).map(OwnedFd::from)
    };
    let what = || format!("make the writable layer in {}", dir.display());
    Ok(Scratch {
        upper: make("upper").map_err(io_error(what()))?,
        work: make("work").map_err(io_error(what()))?,
    })
}

/// Mounts the overlay in the attached stage; its path.
pub(crate) fn mount_overlay(stage: &Path, layers: &Layers, scratch: &Scratch) -> Result<PathBuf, Error> {
    let below = stage.join("layers");
    std::env::set_current_dir(&below).map_err(io_error("enter the bundle"))?;
    // Short relative names: mount(2) takes one page of options, which 127 absolute paths
    // would not fit.
    let mut names = Vec::with_capacity(layers.trees.len() + 1);
    for (index, tree) in layers.trees.iter().enumerate() {
        let name = index.to_string();
        fs::create_dir(&name).map_err(io_error("lay out the layers"))?;
        sys::move_mount(tree, Path::new(&name)).map_err(io_error("mount an image layer"))?;
        names.push(name);
    }
    names.push(BASE_LAYER.trim_start_matches("layers/").to_owned());
    let rootfs = stage.join("rootfs");
    // volatile: the layer dies with the container, so no sync of it is worth waiting for.
    let (upper, work) = (scratch.upper.as_raw_fd(), scratch.work.as_raw_fd());
    let options = |volatile: &str| {
        let lower = names.join(":");
        format!("lowerdir={lower},upperdir=/proc/self/fd/{upper},workdir=/proc/self/fd/{work}{volatile}")
    };
    // nodev: /dev is a tmpfs with bind mounts; a device node of an image is only ever an attack.
    let mount = |options: String| {
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", &rootfs, "overlay", MountFlags::NODEV, Some(options.as_c_str()))
    };
    mount(options(",volatile"))
        .or_else(|_| mount(options("")))
        .map_err(io_error("mount the image's layers as an overlay"))?;
    // The layers stay mounted beside it, out of the container's sight, until this mount
    // namespace ends: each unmount of its own would cost a wait for all processors.
    std::env::set_current_dir("/").map_err(io_error("leave the bundle"))?;
    Ok(rootfs)
}

/// An open root directory of a container that nothing runs in yet.
pub(crate) struct Root {
    dir: OwnedFd,
    /// The host id of the container's root.
    owner: u32,
}

impl Root {
    pub(crate) fn open(path: &Path, owner: u32) -> Result<Self, Error> {
        let dir = File::open(path).map_err(io_error("open the container's root"))?;
        Ok(Self { dir: dir.into(), owner })
    }

    /// Refuses a root where a file system or device would be mounted through a symbolic
    /// link; makes the folders that an image leaves out.
    pub(crate) fn guard(&self) -> Result<(), Error> {
        for path in ["proc", "sys", "dev"] {
            self.plain_folder(path, true)?;
        }
        // Laid over by the tmpfs on /dev, and still: an image that has these is not honest.
        for path in ["dev/pts", "dev/shm", "dev/mqueue", "sys/fs", "sys/fs/cgroup"] {
            self.plain_folder(path, false)?;
        }
        Ok(())
    }

    /// A folder that is there and no link.
    pub(crate) fn existing_folder(&self, path: &str) -> Result<OwnedFd, Error> {
        self.plain_folder(path, false)?.ok_or_else(|| Error::Hostile(format!("/{path}")))
    }

    fn plain_folder(&self, path: &str, make: bool) -> Result<Option<OwnedFd>, Error> {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
            rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve)
        };
        match open() {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) if make => {
                self.make_dir(self.dir.as_fd(), path)
                    .map_err(io_error(format!("make /{path} in the image")))?;
                open().map(Some).map_err(|_| Error::Hostile(format!("/{path}")))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(_) => Err(Error::Hostile(format!("/{path}"))),
        }
    }

    fn make_dir(&self, parent: impl AsFd, name: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        self.give(parent, name)
    }

    fn give(&self, parent: impl AsFd, name: &str) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The plain file at `/etc/NAME`, onto which a bind mount can go without following
    /// anything; made where there is none: many images have a symbolic link there, some to
    /// outside.
    pub(crate) fn plant_etc(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = format!("/etc/{name}");
        let Some(etc) = self.plain_folder("etc", true)? else {
            return Err(Error::Hostile("/etc".into()));
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&etc, name, flags, Mode::empty());
        match open() {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file);
                let stat = stat.map_err(io_error(format!("look at {path} in the image")))?;
                if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
                    return Ok(file);
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(io_error(format!("look at {path} in the image"))(error)),
        }
        match rustix::fs::unlinkat(&etc, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(_) => return Err(Error::NotAFile(path)),
        }
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&etc, name, create, Mode::from_raw_mode(0o644))
            .and_then(|_| self.give(&etc, name))
            .and_then(|()| open())
            .map_err(io_error(format!("make {path} in the image")))
    }

    /// Makes the working directory and its parents; links are followed inside the root only.
    pub(crate) fn make_folder(&self, path: &str) -> Result<(), Error> {
        let what = || format!("make the folder {path} in the image");
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &str| rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve);
        let mut walked = String::from("/");
        let mut here = open(&walked).map_err(io_error(what()))?;
        for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
            walked.push_str(part);
            here = match open(&walked) {
                Err(Errno::NOENT) => {
                    self.make_dir(&here, part).map_err(io_error(what()))?;
                    open(&walked).map_err(io_error(what()))?
                }
                other => other.map_err(io_error(what()))?,
            };
            walked.push('/');
        }
        Ok(())
    }

    /// A text file of the image, following links inside its root only; empty when missing.
    pub(crate) fn read(&self, path: &str) -> Result<String, Error> {
        let what = || format!("read {path} in the image");
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
            Err(error) => return Err(io_error(what())(error)),
        };
        if !file.metadata().map_err(io_error(what()))?.is_file() {
            return Err(Error::NotAFile(path.to_owned()));
        }
        // 4 MiB: beyond any real passwd file, and all that a hostile one can cost.
        let mut bytes = Vec::new();
        file.take(4 << 20).read_to_end(&mut bytes).map_err(io_error(what()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A root made of plain folders on the host's own file system.
    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("tempdir");
        let owner = rustix::process::getuid().as_raw();
        let root = Root::open(dir.path(), owner).expect("open");
        (dir, root)
    }

    #[test]
    fn mount_points_that_are_links_or_files_are_refused() {
        for path in ["proc", "sys", "dev", "dev/shm", "dev/pts", "dev/mqueue", "sys/fs/cgroup"] {
            let outside = tempfile::tempdir().expect("tempdir");
            let (dir, root) = root();
            let link = dir.path().join(path);
            fs::create_dir_all(link.parent().expect("parent")).expect("parents");
            symlink(outside.path(), &link).expect("link");
            assert!(matches!(root.guard(), Err(Error::Hostile(_))), "/{path} as a link was accepted");
            fs::remove_file(&link).expect("unlink");
            fs::write(&link, "").expect("file");
            assert!(matches!(root.guard(), Err(Error::Hostile(_))), "/{path} as a file was accepted");
            assert_eq!(fs::read_dir(outside.path()).expect("outside").count(), 0);
        }
    }

    #[test]
    fn a_root_without_mount_points_is_given_them() {
        let (dir, root) = root();
        root.guard().expect("an empty root is fine");
        for path in ["proc", "sys", "dev"] {
            assert!(dir.path().join(path).is_dir(), "{path}");
        }
    }

    #[test]
    fn planting_a_file_replaces_a_link_and_leaves_its_target_alone() {
        let outside = tempfile::tempdir().expect("tempdir");
        let target = outside.path().join("hosts");
        fs::write(&target, "mine").expect("write");
        let (dir, root) = root();
        fs::create_dir(dir.path().join("etc")).expect("etc");
        symlink(&target, dir.path().join("etc/hosts")).expect("link");
        root.plant_etc("hosts").expect("planted");
        assert!(fs::symlink_metadata(dir.path().join("etc/hosts")).expect("stat").is_file());
        assert_eq!(fs::read_to_string(target).expect("read"), "mine");
    }

    #[test]
    fn an_etc_that_is_a_link_is_refused() {
        let outside = tempfile::tempdir().expect("tempdir");
        let (dir, root) = root();
        symlink(outside.path(), dir.path().join("etc")).expect("link");
        assert!(matches!(root.plant_etc("hosts"), Err(Error::Hostile(_))));
        assert_eq!(fs::read_dir(outside.path()).expect("outside").count(), 0);
    }

    #[test]
    fn working_directories_are_made_inside_the_root_only() {
        let outside = tempfile::tempdir().expect("tempdir");
        let (dir, root) = root();
        symlink(outside.path(), dir.path().join("out")).expect("link");
        symlink("/", dir.path().join("here")).expect("link");
        root.make_folder("/srv/app/../app/x").expect("made");
        assert!(dir.path().join("srv/app/x").is_dir());
        root.make_folder("/here/inside").expect("an absolute link is the image's own root");
        assert!(dir.path().join("inside").is_dir());
        // The link's target does not exist inside the root, so it dangles there.
        assert!(root.make_folder("/out/escaped").is_err());
        assert_eq!(fs::read_dir(outside.path()).expect("outside").count(), 0);
    }

    #[test]
    fn files_are_read_inside_the_root_only() {
        let outside = tempfile::tempdir().expect("tempdir");
        fs::write(outside.path().join("passwd"), "secret").expect("write");
        let (dir, root) = root();
        fs::create_dir(dir.path().join("etc")).expect("etc");
        symlink(outside.path().join("passwd"), dir.path().join("etc/passwd")).expect("link");
        assert_eq!(root.read("etc/passwd").expect("read"), "");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("etc/group"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        )
        .expect("fifo");
        assert!(matches!(root.read("etc/group"), Err(Error::NotAFile(_))), "a pipe would block for ever");
    }
}
