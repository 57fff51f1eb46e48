//! Where an image is loaded from: a folder, or a tar archive whose members are read in
//! place. Members are found by exact name, never by walking links of the file system.

use super::error::{Doing, Fault, refuse, shown};
use super::limits::Limits;
use super::paths;
use super::streams::{Compression, decompress_archive};
use super::tar::{Kind, Reader};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Members are called `blobs/sha256/HEX` or `HEX/layer.tar`, and all are remembered.
const MAX_MEMBER_NAME_BYTES: usize = 1024;

pub(crate) enum Source {
    Folder(File),
    Archive { file: Arc<File>, members: BTreeMap<Vec<u8>, Listed> },
}

/// A member's bytes, to be read from the start; clones start there again.
#[derive(Clone)]
pub(crate) struct Member {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

pub(crate) enum Listed {
    File {
        offset: u64,
        size: u64,
    },
    /// Another member: Docker lists a layer that occurs twice as a link.
    Link(Vec<u8>),
}

impl Source {
    /// `scratch` makes a file without a name for the inner archive of a compressed one.
    pub fn open(
        path: &Path,
        limits: &Limits,
        scratch: impl FnOnce() -> Result<File, Fault>,
    ) -> Result<Self, Fault> {
        // A fifo would block the open, a device could do worse.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => refuse!("there is no such file or folder"),
            Err(error) => return Err(error).doing(|| format!("open {}", path.display())),
        };
        let metadata = file.metadata().doing(|| format!("look at {}", path.display()))?;
        if metadata.is_dir() {
            return Ok(Source::Folder(file));
        }
        if !metadata.is_file() {
            refuse!("it is neither a file nor a folder");
        }
        if metadata.len() == 0 {
            refuse!("the file is empty");
        }
        let mut start = [0; 8];
        let read = file.read_at(&mut start, 0).doing(|| format!("read {}", path.display()))?;
        let file = match Compression::of(&start[..read])? {
            Compression::None => file,
            compression => {
                let mut inner = scratch()?;
                decompress_archive(file, &mut inner, compression, limits)?;
                inner
            }
        };
        Self::archive(file, limits)
    }

    fn archive(mut file: File, limits: &Limits) -> Result<Self, Fault> {
        file.seek(SeekFrom::Start(0)).doing(|| "rewind the archive".to_owned())?;
        let file = Arc::new(file);
        let members = list(&file, limits)?;
        if members.is_empty() {
            refuse!("the archive is empty");
        }
        Ok(Source::Archive { file, members })
    }

    /// The member called `name`, or `None`.
    pub fn open_member(&self, name: &str, limits: &Limits) -> Result<Option<Member>, Fault> {
        let components = paths::components(name.as_bytes(), limits)?;
        let name = components.join(&b'/');
        if name.is_empty() {
            refuse!("the archive's own folder is named where a file should be");
        }
        match self {
            Source::Folder(folder) => open_in_folder(folder, &name),
            Source::Archive { file, members } => find(file, members, name, limits),
        }
    }

    /// The whole of a small member.
    pub fn read_document(&self, name: &str, limits: &Limits) -> Result<Option<Vec<u8>>, Fault> {
        let Some(member) = self.open_member(name, limits)? else { return Ok(None) };
        if member.size() > limits.max_document_bytes {
            refuse!("{name} has {} bytes, and {} are the limit", member.size(), limits.max_document_bytes);
        }
        let mut bytes = Vec::new();
        let most = limits.max_document_bytes + 1; // a file in a folder may grow meanwhile
        member.take(most).read_to_end(&mut bytes).doing(|| format!("read {name}"))?;
        if bytes.len() as u64 == most {
            refuse!("{name} grew while it was read");
        }
        Ok(Some(bytes))
    }
}

impl Member {
    pub fn size(&self) -> u64 {
        self.left
    }

    /// The first bytes, without moving on.
    pub fn start(&self) -> Result<Vec<u8>, Fault> {
        let mut start = Vec::new();
        self.clone().take(8).read_to_end(&mut start).doing(|| "read the archive".to_owned())?;
        Ok(start)
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn open_in_folder(folder: &File, name: &[u8]) -> Result<Option<Member>, Fault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(folder, name, flags, Mode::empty(), inside) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => refuse!("{} is, or lies below, a symbolic link", shown(name)),
        Err(error) => return Err(error).doing(|| format!("open {}", shown(name))),
    };
    let metadata = file.metadata().doing(|| format!("look at {}", shown(name)))?;
    if !metadata.is_file() {
        refuse!("{} is no regular file", shown(name));
    }
    Ok(Some(Member { file: Arc::new(file), offset: 0, left: metadata.len() }))
}

fn find(
    file: &Arc<File>,
    members: &BTreeMap<Vec<u8>, Listed>,
    mut name: Vec<u8>,
    limits: &Limits,
) -> Result<Option<Member>, Fault> {
    // Docker's links lead to a file at once; more than a few steps are a loop.
    for _ in 0..8 {
        match members.get(&name) {
            None => return Ok(None),
            Some(Listed::File { offset, size }) => {
                return Ok(Some(Member { file: file.clone(), offset: *offset, left: *size }));
            }
            Some(Listed::Link(target)) => name = follow(&name, target, limits)?,
        }
    }
    refuse!("{} is a loop of links", shown(&name))
}

/// A relative link's target, worked out by its text alone.
fn follow(link: &[u8], target: &[u8], limits: &Limits) -> Result<Vec<u8>, Fault> {
    let parent = &link[..link.iter().rposition(|b| *b == b'/').unwrap_or(0)];
    if target.starts_with(b"/") {
        refuse!("{} is a link out of the archive, to {}", shown(link), shown(target));
    }
    paths::symlink_target(parent, target, limits)?;
    let mut path: Vec<&[u8]> = parent.split(|b| *b == b'/').filter(|c| !c.is_empty()).collect();
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            plain => path.push(plain),
        }
    }
    Ok(path.join(&b'/'))
}

/// Where each member lies. Reads headers only.
fn list(file: &Arc<File>, limits: &Limits) -> Result<BTreeMap<Vec<u8>, Listed>, Fault> {
    let length = file.metadata().doing(|| "look at the archive".to_owned())?.len();
    let all = Member { file: file.clone(), offset: 0, left: length };
    let mut reader = Reader::new(BufReader::new(all), limits, limits.max_members as u64);
    let mut members = BTreeMap::new();
    while let Some(entry) = reader.next()? {
        if entry.path.len() + entry.link.len() > MAX_MEMBER_NAME_BYTES {
            refuse!("the archive's {} has a very long name", shown(&entry.path));
        }
        let path = paths::components(&entry.path, limits)?.join(&b'/');
        let listed = match entry.kind {
            Kind::Folder => continue,
            Kind::File if entry.sparse.is_some() => refuse!("the archive's {} is sparse", shown(&path)),
            Kind::File => Listed::File { offset: entry.offset, size: entry.size },
            Kind::Symlink => Listed::Link(entry.link),
            Kind::HardLink => Listed::Link(from_root(&path, &entry.link)),
            Kind::Fifo | Kind::Device => {
                refuse!(
                    "the archive's {} is {}, which only a file system has: {NO_IMAGE}",
                    shown(&path),
                    entry.kind.named()
                )
            }
        };
        if members.insert(path.clone(), listed).is_some() {
            refuse!("the archive has {} twice", shown(&path));
        }
    }
    Ok(members)
}

/// What `docker export` writes is often taken for an image.
pub(super) const NO_IMAGE: &str =
    "if it is from `docker export`, it is a container's file system and no image: use `docker save`";

/// A hard link counts from the archive's root; put it as a link from where it stands.
fn from_root(path: &[u8], target: &[u8]) -> Vec<u8> {
    let ups = path.iter().filter(|b| **b == b'/').count();
    [b"../".repeat(ups), target.to_vec()].concat()
}
