//! The site's layers as tar archives that depend on names and content alone: no times, no
//! owners, modes of our choosing.

use super::site::{Item, ItemKind};
use super::{ETAG_ATTRIBUTE, SITE};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header, HeaderMode};

/// Enough of a hash that two contents never share an ETag by chance.
const ETAG_BYTES: usize = 16;

/// `/nodectl`, executable.
pub(super) fn write_server(to: &mut dyn Write, server: &Path) -> io::Result<()> {
    let mut archive = builder(to);
    let file = File::open(server)?;
    let mut header = header(EntryType::Regular, 0o755, file.metadata()?.len());
    archive.append_data(&mut header, "nodectl", file)?;
    archive.finish()
}

/// `/site/…`, each file with the hash of its content.
pub(super) fn write_site(to: &mut dyn Write, folder: &Path, items: &[Item]) -> io::Result<()> {
    let mut archive = builder(to);
    let mut top = header(EntryType::Directory, 0o755, 0);
    archive.append_data(&mut top, SITE, io::empty())?;
    for item in items {
        let name = Path::new(SITE).join(&item.path);
        let path = folder.join(&item.path);
        add(&mut archive, &name, &path, &item.kind)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    }
    archive.finish()
}

fn add(
    archive: &mut Builder<&mut dyn Write>,
    name: &PathBuf,
    path: &Path,
    kind: &ItemKind,
) -> io::Result<()> {
    match kind {
        ItemKind::Folder => {
            let mut header = header(EntryType::Directory, 0o755, 0);
            archive.append_data(&mut header, name, io::empty())
        }
        ItemKind::Link(target) => {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            archive.append_link(&mut header, name, target)
        }
        ItemKind::File => add_file(archive, name, path),
    }
}

fn add_file(archive: &mut Builder<&mut dyn Write>, name: &PathBuf, path: &Path) -> io::Result<()> {
    // It was a file when the folder was read; should it be a link or a fifo by now, no.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = File::options().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(changed());
    }
    let size = metadata.len();
    let etag = hash(&mut (&file).take(size))?;
    file.rewind()?;
    let key = format!("SCHILY.xattr.{ETAG_ATTRIBUTE}");
    archive.append_pax_extensions([(key.as_str(), etag.as_bytes())])?;
    let mut header = header(EntryType::Regular, 0o644, size);
    let mut content = Checked { inner: file.take(size), left: size, hash: blake3::Hasher::new() };
    archive.append_data(&mut header, name, &mut content)?;
    if content.left > 0 || shortened(&content.hash) != etag {
        return Err(changed());
    }
    Ok(())
}

/// What is copied, hashed again: an ETag of other content would be served for ever.
struct Checked<R> {
    inner: R,
    left: u64,
    hash: blake3::Hasher,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && self.left > 0 {
            return Err(changed());
        }
        self.left -= read as u64;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn hash(file: &mut impl Read) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    io::copy(file, &mut hash)?;
    Ok(shortened(&hash))
}

fn shortened(hash: &blake3::Hasher) -> String {
    hex::encode(&hash.finalize().as_bytes()[..ETAG_BYTES])
}

fn changed() -> io::Error {
    io::Error::other("the file changed while it was read; try again")
}

fn builder(to: &mut dyn Write) -> Builder<&mut dyn Write> {
    let mut archive = Builder::new(to);
    archive.mode(HeaderMode::Deterministic);
    archive
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
