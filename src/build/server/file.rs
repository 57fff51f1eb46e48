//! Opening files below the root, and their content as a response body.

use super::super::ETAG_ATTRIBUTE;
use super::conditional::{Validators, modified};
use super::connection::Activity;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Few system calls for large files, little memory for many readers.
const CHUNK_BYTES: u64 = 64 * 1024;

/// What a name below the root is.
pub(super) enum Opened {
    File(File, Validators),
    Folder,
    Nothing,
}

/// Opens below `root`; links are followed only as long as they stay there.
pub(super) fn open(root: &File, path: &Path) -> io::Result<Opened> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // Should a fifo be there, the open must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut result = rustix::fs::openat2(root, path, flags, Mode::empty(), inside);
    // The kernel could not vouch for a `..` because of a rename elsewhere (openat2(2)).
    for _ in 0..100 {
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
        result = rustix::fs::openat2(root, path, flags, Mode::empty(), inside);
    }
    let file = match result {
        Ok(file) => File::from(file),
        Err(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::XDEV
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::ACCESS
            | Errno::NXIO,
        ) => return Ok(Opened::Nothing),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let validators = validators(&file, &stat);
            Opened::File(file, validators)
        }
        FileType::Directory => Opened::Folder,
        _ => Opened::Nothing,
    })
}

fn validators(file: &File, stat: &Stat) -> Validators {
    let etag = match content_hash(file) {
        Some(hash) => format!("\"{hash}\""),
        // A folder served as it is: what the file system knows about the file. Any change
        // of content changes the last of these.
        None => format!(
            "\"{:x}-{:x}-{:x}.{:x}-{:x}.{:x}\"",
            stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
        ),
    };
    Validators { etag, modified: modified(stat.st_mtime), length: u64::try_from(stat.st_size).unwrap_or(0) }
}

/// The hash that the build left with the file. The file may have been made by anyone, so
/// only what looks like one is passed on.
fn content_hash(file: &File) -> Option<String> {
    let mut value = [0; 64];
    let length = rustix::fs::fgetxattr(file.as_fd(), ETAG_ATTRIBUTE, &mut value[..]).ok()?;
    let hash = std::str::from_utf8(value.get(..length)?).ok()?;
    let is_hash = hash.len() >= 16 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| hash.to_owned())
}

/// Nothing, a text, or a part of a file, read as it is sent. Reads block this thread: they
/// are of files in the page cache or on local disks, and a pool of threads costs more.
pub(super) enum Content {
    Text(Option<Bytes>),
    File { file: File, offset: u64, left: u64, activity: Rc<Activity> },
}

impl Content {
    pub fn empty() -> Self {
        Content::Text(None)
    }
    pub fn text(text: &'static str) -> Self {
        Content::Text(Some(Bytes::from_static(text.as_bytes())))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match self.get_mut() {
            Content::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Content::File { left: 0, .. } => None,
            Content::File { file, offset, left, activity } => {
                activity.note();
                Some(read_chunk(file, offset, left).map(Frame::data))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Content::Text(text) => text.as_ref().map_or(0, |text| text.len() as u64),
            Content::File { left, .. } => *left,
        })
    }
}

fn read_chunk(file: &File, offset: &mut u64, left: &mut u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; (*left).min(CHUNK_BYTES) as usize];
    let read = loop {
        match file.read_at(&mut chunk, *offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    if read == 0 {
        // The length was promised already: the connection has to end.
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while it was sent",
        ));
    }
    chunk.truncate(read);
    *offset += read as u64;
    *left -= read as u64;
    Ok(chunk.into())
}
