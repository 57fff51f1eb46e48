//! A layer's archive becomes a folder that overlayfs can use as a lower layer.
//!
//! Owners, modes, times and attributes are the archive's, unshifted; whiteouts become what
//! overlayfs reads (a character device 0:0; `trusted.overlay.opaque`). Nothing is reached
//! by a path that the archive could have bent: `root.rs` holds the folder descriptors.
//!
//! Decided here, where readers of tar archives differ:
//! * An entry below a symbolic link of the same layer (`lib -> usr/lib`, then `lib/x`)
//!   follows the link if it is relative and leads to a folder in this layer. Absolute links
//!   and links to nowhere are refused as parents: what is meant lies in another layer or
//!   nowhere.
//! * A second entry of the same name and kind replaces the first, as `tar -x` does; one of
//!   another kind is refused.
//! * A whiteout hides what lower layers have and never what its own layer has (OCI): beside
//!   a folder of the same name it makes that folder opaque, beside a file it is void.
//! * Missing parents are made as root's, mode 0755, time 0.

mod attributes;
mod root;

use super::error::{Doing, Fault, refuse, shown};
use super::limits::Limits;
use super::paths::{self, Place};
use super::tar::{Entry, Kind, Reader};
use attributes::Owner;
use root::{Found, Root};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// What came of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of all files, holes counted.
    pub bytes: u64,
    pub entries: u64,
}

/// Unpacks the archive that `source` yields into the empty folder `into`, reading to the
/// end. On an error `into` holds part of a layer and is the caller's to remove.
pub(crate) fn unpack(
    source: &mut dyn Read,
    into: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Unpacked, Fault> {
    let mut reader = Reader::new(source, limits, limits.max_layer_entries);
    let mut unpacker = Unpacker::new(into, limits)?;
    while let Some(entry) = reader.next()? {
        unpacker.add(&entry, &mut reader)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: Root,
    limits: &'a Limits,
    /// Times of folders, set when nothing is added to them any more.
    folder_times: BTreeMap<Vec<u8>, (i64, u32)>,
    folder_path_bytes: u64,
    so_far: Unpacked,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    fn new(into: BorrowedFd<'_>, limits: &'a Limits) -> Result<Self, Fault> {
        let root = Root::new(into)?;
        let mut folder_times = BTreeMap::new();
        folder_times.insert(Vec::new(), (0, 0));
        let buffer = vec![0; super::streams::BUFFER_BYTES];
        let so_far = Unpacked::default();
        Ok(Unpacker { root, limits, folder_times, folder_path_bytes: 0, so_far, buffer })
    }

    fn add(&mut self, entry: &Entry, reader: &mut Reader<'_, impl Read>) -> Result<(), Fault> {
        self.so_far.entries += 1;
        match paths::place(&entry.path, self.limits)? {
            Place::Root => self.set_root(entry),
            Place::At { parent, name } => {
                self.make(entry, &parent, &name, reader).map_err(|fault| fault.within(shown(&entry.path)))
            }
            Place::Whiteout { parent, name } => {
                check_whiteout(entry)?;
                self.whiteout(&parent, &name)
            }
            Place::Opaque { folder } => {
                check_whiteout(entry)?;
                let folder = self.folder(&folder)?;
                attributes::set_opaque(folder.as_fd())
            }
        }
    }

    /// The archive's `./`: the root folder's own owner, mode and time.
    fn set_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Folder {
            refuse!("the root of the layer is {} instead of a folder", entry.kind.named());
        }
        self.folder_times.insert(Vec::new(), entry.mtime);
        let root = self.folder(b"")?;
        attributes::set_on_descriptor(root.as_fd(), entry)
    }

    fn make(
        &mut self,
        entry: &Entry,
        parent: &[u8],
        name: &[u8],
        reader: &mut Reader<'_, impl Read>,
    ) -> Result<(), Fault> {
        let folder = self.folder(parent)?;
        let folder = folder.as_fd();
        match entry.kind {
            Kind::Device => refuse!("it is a device node, and images may not have any"),
            Kind::Folder => self.make_folder(entry, folder, parent, name),
            Kind::File => {
                self.clear(folder, name, FileType::RegularFile)?;
                self.make_file(entry, folder, name, reader)
            }
            Kind::Symlink => {
                paths::symlink_target(parent, &entry.link, self.limits)?;
                self.clear(folder, name, FileType::Symlink)?;
                fs::symlinkat(&*entry.link, folder, name).doing(|| format!("make link {}", shown(name)))?;
                attributes::set_by_name(folder, name, entry, None)
            }
            Kind::Fifo => {
                self.clear(folder, name, FileType::Fifo)?;
                let mode = Mode::from_raw_mode(entry.mode);
                fs::mknodat(folder, name, FileType::Fifo, mode, 0)
                    .doing(|| format!("make fifo {}", shown(name)))?;
                attributes::set_by_name(folder, name, entry, Some(mode))
            }
            Kind::HardLink => self.make_hard_link(entry, folder, parent, name),
        }
    }

    fn make_folder(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        parent_path: &[u8],
        name: &[u8],
    ) -> Result<(), Fault> {
        let made = match root::look(parent, name)? {
            Found::Some(FileType::Directory) => root::open_folder(parent, name)?,
            Found::Some(other) => refuse!("it appears twice, as {} and as a folder", root::named(other)),
            Found::Nothing => root::make_folder(parent, name)?,
            Found::Whiteout => self.root.replace_whiteout(parent, name)?,
        };
        let path = join(parent_path, name);
        self.folder_path_bytes += path.len() as u64;
        self.folder_times.insert(path, entry.mtime);
        self.check_folder_paths()?;
        attributes::set_on_descriptor(made.as_fd(), entry)
    }

    fn make_file(
        &mut self,
        entry: &Entry,
        folder: BorrowedFd<'_>,
        name: &[u8],
        reader: &mut Reader<'_, impl Read>,
    ) -> Result<(), Fault> {
        self.count_bytes(entry.real_size())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))
            .doing(|| format!("make file {}", shown(name)))?;
        let mut file = File::from(file);
        self.write_payload(entry, &mut file, reader)?;
        attributes::set_on_descriptor(file.as_fd(), entry)?;
        attributes::set_time_on_descriptor(file.as_fd(), entry.mtime)
    }

    fn count_bytes(&mut self, size: u64) -> Result<(), Fault> {
        if size > self.limits.max_file_bytes {
            refuse!("the file has {size} bytes, and {} are the limit", self.limits.max_file_bytes);
        }
        self.so_far.bytes = self.so_far.bytes.saturating_add(size);
        if self.so_far.bytes > self.limits.max_layer_unpacked_bytes {
            refuse!("the layer unpacks to more than {} bytes", self.limits.max_layer_unpacked_bytes);
        }
        Ok(())
    }

    fn write_payload(
        &mut self,
        entry: &Entry,
        file: &mut File,
        reader: &mut Reader<'_, impl Read>,
    ) -> Result<(), Fault> {
        let writing = || format!("write {}", shown(&entry.path));
        match &entry.sparse {
            None => self.copy(file, entry.size, reader).doing_with(writing),
            Some(sparse) => {
                file.set_len(sparse.real_size).doing(writing)?;
                for (offset, length) in &sparse.pieces {
                    file.seek(SeekFrom::Start(*offset)).doing(writing)?;
                    self.copy(file, *length, reader).doing_with(writing)?;
                }
                Ok(())
            }
        }
    }

    fn copy(&mut self, file: &mut File, mut length: u64, reader: &mut Reader<'_, impl Read>) -> CopyResult {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = reader.read_payload(&mut self.buffer[..most])?;
            if read == 0 {
                refuse!("its data is shorter than its size");
            }
            file.write_all(&self.buffer[..read]).doing(|| String::from("write a file of the layer"))?;
            length -= read as u64;
        }
        Ok(())
    }

    fn make_hard_link(
        &mut self,
        entry: &Entry,
        folder: BorrowedFd<'_>,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Fault> {
        let (target_parent, target_name) = paths::hard_link_target(&entry.link, self.limits)?;
        let Some(target_folder) = self.root.existing_folder(&target_parent)? else {
            refuse!("it is a hard link to {}, which the layer does not have", shown(&entry.link));
        };
        let target_folder = target_folder.as_fd();
        let kind = match root::look(target_folder, &target_name)? {
            Found::Some(kind @ (FileType::RegularFile | FileType::Fifo)) => kind,
            // The link's text counts from where it stands: check it again for here.
            Found::Some(FileType::Symlink) => {
                let text = root::read_link(target_folder, &target_name)?;
                if text.starts_with(b"/") {
                    refuse!("it is a hard link to {}, a symbolic link that points out", shown(&entry.link));
                }
                paths::symlink_target(parent, &text, self.limits)?;
                FileType::Symlink
            }
            Found::Some(other) => refuse!("it is a hard link to {}", root::named(other)),
            Found::Whiteout => refuse!("it is a hard link to {}, a whiteout", shown(&entry.link)),
            Found::Nothing => {
                refuse!("it is a hard link to {}, which the layer does not have", shown(&entry.link))
            }
        };
        if root::same_file(folder, name, target_folder, &target_name)? {
            return Ok(());
        }
        self.clear(folder, name, kind)?;
        fs::linkat(target_folder, &*target_name, folder, name, AtFlags::empty())
            .doing(|| format!("link {} to {}", shown(&entry.path), shown(&entry.link)))
    }

    /// Makes room for an entry of the given kind.
    fn clear(&mut self, folder: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<(), Fault> {
        match root::look(folder, name)? {
            Found::Nothing => Ok(()),
            Found::Some(found) if found != kind => {
                refuse!("it appears twice, as {} and as {}", root::named(found), root::named(kind))
            }
            Found::Some(_) | Found::Whiteout => self.root.unlink(folder, name),
        }
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Fault> {
        let folder = self.folder(parent)?;
        let folder = folder.as_fd();
        match root::look(folder, name)? {
            Found::Nothing => root::make_whiteout(folder, name),
            Found::Some(FileType::Directory) => {
                attributes::set_opaque(root::open_folder(folder, name)?.as_fd())
            }
            Found::Some(_) | Found::Whiteout => Ok(()),
        }
    }

    /// The folder at `path`, with its missing parents made.
    fn folder(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Fault> {
        let (folder_times, folder_path_bytes) = (&mut self.folder_times, &mut self.folder_path_bytes);
        let folder = self.root.folder(path, |made| {
            *folder_path_bytes += made.len() as u64;
            folder_times.entry(made.to_vec()).or_insert((0, 0));
        })?;
        self.check_folder_paths()?;
        Ok(folder)
    }

    fn check_folder_paths(&self) -> Result<(), Fault> {
        if self.folder_path_bytes > self.limits.max_folder_path_bytes {
            refuse!("the paths of its folders have more than {} bytes", self.limits.max_folder_path_bytes);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, Fault> {
        for (path, time) in std::mem::take(&mut self.folder_times) {
            // A folder listed below a link that was replaced since may be gone.
            if let Some(folder) = self.root.existing_folder(&path)? {
                attributes::set_time_on_descriptor(folder.as_fd(), time)?;
            }
        }
        Ok(self.so_far)
    }
}

type CopyResult = Result<(), Fault>;

/// Gives a copy's failure the name of the file.
trait DoingWith {
    fn doing_with(self, action: impl FnOnce() -> String) -> CopyResult;
}
impl DoingWith for CopyResult {
    fn doing_with(self, action: impl FnOnce() -> String) -> CopyResult {
        self.map_err(|fault| match fault {
            Fault::Io { source, .. } => Fault::Io { action: action(), source },
            refused @ Fault::Refused(_) => refused,
        })
    }
}

fn check_whiteout(entry: &Entry) -> Result<(), Fault> {
    if entry.kind != Kind::File || entry.real_size() != 0 {
        refuse!("the whiteout {} is {} instead of an empty file", shown(&entry.path), entry.kind.named());
    }
    Ok(())
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        parent => [parent, b"/", name].concat(),
    }
}

fn timespec((seconds, nanos): (i64, u32)) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanos.into() }
}

impl Owner {
    fn of(entry: &Entry) -> Self {
        Owner { uid: entry.uid, gid: entry.gid }
    }
}

/// Whether a layer hides everything below it.
pub(crate) fn is_opaque(layer: &Path) -> Result<bool, Fault> {
    match fs::lgetxattr(layer, attributes::OPAQUE, &mut [0u8; 1][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error).doing(|| format!("look at {}", layer.display())),
    }
}
