//! What of a folder belongs to its site. Reads names and kinds, no content.

use super::Error;
use crate::images::Limits;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One entry below the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Relative to the folder.
    pub path: PathBuf,
    pub kind: ItemKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ItemKind {
    Folder,
    File,
    Link(PathBuf),
}

/// The site's entries, parents before what is in them, in the order of their bytes.
pub(super) fn read(folder: &Path, limits: &Limits) -> Result<Vec<Item>, Error> {
    if !folder.is_dir() {
        return Err(Error::NotAFolder(folder.to_owned()));
    }
    if !folder.join("index.html").is_file() {
        return Err(Error::NoIndex(folder.to_owned()));
    }
    let root = File::open(folder).map_err(io("open", folder))?;
    let mut items = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(parent) = pending.pop() {
        let listed = folder.join(&parent);
        for entry in fs::read_dir(&listed).map_err(io("list", &listed))? {
            let entry = entry.map_err(io("list", &listed))?;
            if is_left_out(&entry.file_name()) {
                continue;
            }
            let path = parent.join(entry.file_name());
            let kind = kind(&root, folder, &path)?;
            if kind == ItemKind::Folder {
                pending.push(path.clone());
            }
            items.push(Item { path, kind });
            if items.len() as u64 * 2 > limits.max_layer_entries {
                let problem = format!("it has more than {} files", limits.max_layer_entries / 2);
                return Err(Error::NotForASite { path: folder.to_owned(), problem });
            }
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(items)
}

/// Names that start with a dot are tools' and secrets, but for the one that the web uses
/// (RFC 8615).
pub(super) fn is_left_out(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".") && name != ".well-known"
}

fn kind(root: &File, folder: &Path, path: &Path) -> Result<ItemKind, Error> {
    let full = folder.join(path);
    let not = |problem: &str| Error::NotForASite { path: full.clone(), problem: problem.to_owned() };
    let metadata = fs::symlink_metadata(&full).map_err(io("look at", &full))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        Ok(ItemKind::Folder)
    } else if kind.is_file() {
        Ok(ItemKind::File)
    } else if kind.is_symlink() {
        check_link(root, path).map_err(|errno| match errno {
            Errno::XDEV => not("it is a symbolic link out of the folder; copy what it leads to"),
            Errno::NOENT => not("it is a symbolic link that leads nowhere"),
            Errno::LOOP => not("it is a loop of symbolic links"),
            other => io("follow", &full)(other.into()),
        })?;
        Ok(ItemKind::Link(fs::read_link(&full).map_err(io("read", &full))?))
    } else {
        Err(not("it is neither a file, a folder nor a link"))
    }
}

/// Follows a link as the server will: never out of the folder.
fn check_link(root: &File, path: &Path) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), inside).map(drop)
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path: path.clone(), source }
}
