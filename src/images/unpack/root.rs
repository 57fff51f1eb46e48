//! The layer's folder as descriptors. Every path is resolved by the kernel below the
//! root's descriptor (openat2: RESOLVE_BENEATH, no magic links, no other mounts), and every
//! name is then used relative to its parent's descriptor without following links: there is
//! no moment at which the archive's content decides where we write.

use super::super::error::{Doing, Fault, refuse, shown};
use super::attributes;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// An implied parent's mode.
const FOLDER_MODE: u32 = 0o755;

/// What stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Some(FileType),
    /// A whiteout that this layer's archive asked for.
    Whiteout,
}

pub(super) struct Root {
    root: Rc<OwnedFd>,
    /// Archives list a folder's content together: remember the last parent. Forgotten when
    /// anything is removed, since that may be a link on its path.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

impl Root {
    pub fn new(folder: BorrowedFd<'_>) -> Result<Self, Fault> {
        let root = folder.try_clone_to_owned().doing(|| "hold the layer's folder".to_owned())?;
        fs::fchmod(&root, Mode::from_raw_mode(FOLDER_MODE)).doing(|| "set the layer's mode".to_owned())?;
        Ok(Root { root: Rc::new(root), last: None })
    }

    /// The folder at `path`, making what is missing; `made` hears of each new one.
    pub fn folder(&mut self, path: &[u8], mut made: impl FnMut(&[u8])) -> Result<Rc<OwnedFd>, Fault> {
        if let Some(folder) = self.existing_folder(path)? {
            return Ok(folder);
        }
        let mut above = self.root.clone();
        for end in component_ends(path) {
            let prefix = &path[..end];
            above = match self.resolve(prefix)? {
                Resolved::Folder(folder) => Rc::new(folder),
                Resolved::Nothing | Resolved::NoFolder => {
                    let name = prefix.rsplit(|b| *b == b'/').next().unwrap_or(prefix);
                    let folder = self.make_parent(above.as_fd(), name, prefix)?;
                    made(prefix);
                    Rc::new(folder)
                }
            };
        }
        self.last = Some((path.to_vec(), above.clone()));
        Ok(above)
    }

    /// The folder at `path` if there is one.
    pub fn existing_folder(&mut self, path: &[u8]) -> Result<Option<Rc<OwnedFd>>, Fault> {
        if path.is_empty() {
            return Ok(Some(self.root.clone()));
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Some(folder.clone()));
        }
        Ok(match self.resolve(path)? {
            Resolved::Folder(folder) => {
                let folder = Rc::new(folder);
                self.last = Some((path.to_vec(), folder.clone()));
                Some(folder)
            }
            Resolved::Nothing | Resolved::NoFolder => None,
        })
    }

    fn resolve(&self, path: &[u8]) -> Result<Resolved, Fault> {
        match rustix::io::retry_on_intr(|| openat2_again(&self.root, path)) {
            Ok(folder) => Ok(Resolved::Folder(folder)),
            Err(Errno::NOENT) => Ok(Resolved::Nothing),
            Err(Errno::NOTDIR) => Ok(Resolved::NoFolder),
            Err(Errno::XDEV) => {
                refuse!(
                    "its parent {} is a symbolic link that is absolute or leads out of the root",
                    shown(path)
                )
            }
            Err(Errno::LOOP) => refuse!("its parent {} is a loop of symbolic links", shown(path)),
            Err(error) => Err(error).doing(|| format!("open folder {}", shown(path))),
        }
    }

    /// A parent that no entry has made yet.
    fn make_parent(&mut self, above: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<OwnedFd, Fault> {
        match look(above, name)? {
            Found::Nothing => make_folder(above, name),
            Found::Whiteout => self.replace_whiteout(above, name),
            Found::Some(FileType::Symlink) => {
                refuse!("its parent {} is a symbolic link to no folder of this layer", shown(path))
            }
            Found::Some(other) => refuse!("its parent {} is {}", shown(path), named(other)),
        }
    }

    /// The layer hides a name and then has a folder there: nothing below shines through.
    pub fn replace_whiteout(&mut self, above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
        self.unlink(above, name)?;
        let folder = make_folder(above, name)?;
        attributes::set_opaque(folder.as_fd())?;
        Ok(folder)
    }

    pub fn unlink(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
        self.last = None;
        fs::unlinkat(folder, name, AtFlags::empty()).doing(|| format!("replace {}", shown(name)))
    }
}

/// EAGAIN: something else on the machine was renamed while `..` was resolved, so the kernel
/// could not vouch for the answer (openat2(2)). Rare, and over at once.
fn openat2_again(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    for _ in 0..1000 {
        match fs::openat2(root, path, FOLDER, Mode::empty(), BENEATH) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

enum Resolved {
    Folder(OwnedFd),
    Nothing,
    NoFolder,
}

/// Where each component of `path` ends: 1, 3, 5 for `a/b/c`.
fn component_ends(path: &[u8]) -> impl Iterator<Item = usize> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    slashes.chain(std::iter::once(path.len())).collect::<Vec<_>>().into_iter()
}

pub(super) fn look(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Found, Fault> {
    match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            // The only devices in a layer's folder are the whiteouts that we make.
            FileType::CharacterDevice => Found::Whiteout,
            kind => Found::Some(kind),
        }),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(error) => Err(error).doing(|| format!("look at {}", shown(name))),
    }
}

pub(super) fn same_file(
    a: BorrowedFd<'_>,
    a_name: &[u8],
    b: BorrowedFd<'_>,
    b_name: &[u8],
) -> Result<bool, Fault> {
    let id = |folder, name: &[u8]| match fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).doing(|| format!("look at {}", shown(name))),
    };
    let first = id(a, a_name)?;
    Ok(first.is_some() && first == id(b, b_name)?)
}

pub(super) fn open_folder(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    let flags = FOLDER | OFlags::NOFOLLOW;
    fs::openat(above, name, flags, Mode::empty()).doing(|| format!("open folder {}", shown(name)))
}

pub(super) fn make_folder(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    let mode = Mode::from_raw_mode(FOLDER_MODE);
    let making = || format!("make folder {}", shown(name));
    fs::mkdirat(above, name, mode).doing(making)?;
    let folder = open_folder(above, name)?;
    fs::fchmod(&folder, mode).doing(making)?; // whatever the umask
    Ok(folder)
}

pub(super) fn make_whiteout(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
    let making = || format!("make the whiteout of {}", shown(name));
    fs::mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0)).doing(making)?;
    attributes::set_time_by_name(folder, name, (0, 0))
}

pub(super) fn read_link(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Fault> {
    let text = fs::readlinkat(folder, name, Vec::new()).doing(|| format!("read link {}", shown(name)))?;
    Ok(text.into_bytes())
}

/// For messages: "a folder".
pub(super) fn named(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        _ => "a device or socket",
    }
}
