//! A strict, streaming reader of tar archives: ustar, GNU (long names, old sparse files)
//! and PAX. Headers are laid out by the `tar` crate's types; the walk is ours, because the
//! crate's own iterator reads extension headers of any size into memory, takes a PAX size
//! over a header's without a word, knows no PAX sparse files and skips what follows the
//! end of the archive. Where two honest readers could see different things in the same
//! bytes, this one refuses.
//!
//! ```text
//! next() ─► header blocks ─► (long names, PAX) ─► Entry      read() ─► its payload
//!                              pax.rs              sparse.rs: where the payload goes
//! ```

mod number;
mod pax;
mod sparse;

pub(crate) use sparse::Sparse;

use super::error::{Doing, Fault, Refusal, refuse, shown};
use super::limits::Limits;
use ::tar::{EntryType, Header};
use pax::Pax;
use std::io::{self, Read};

const BLOCK: usize = 512;
/// What writers that cannot say a large size in octal leave there beside a PAX size.
const SATURATED: u64 = 0o77_777_777_777;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Folder,
    Fifo,
    Device,
}

impl Kind {
    /// For messages: "a file".
    pub fn named(self) -> &'static str {
        match self {
            Kind::File => "a file",
            Kind::HardLink => "a hard link",
            Kind::Symlink => "a symbolic link",
            Kind::Folder => "a folder",
            Kind::Fifo => "a fifo",
            Kind::Device => "a device",
        }
    }
}

/// One member, its extension headers applied.
#[derive(Debug)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970; negative before.
    pub mtime: (i64, u32),
    /// Bytes of payload that follow.
    pub size: u64,
    /// Offset of the payload in the archive.
    pub offset: u64,
    /// Set when the payload is the data between the holes of a larger file.
    pub sparse: Option<Sparse>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The file's size once unpacked.
    pub fn real_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |sparse| sparse.real_size)
    }
}

/// The extension headers that describe the next member.
#[derive(Default)]
struct Extensions {
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.long_path.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}

pub(crate) struct Reader<'a, R> {
    inner: R,
    limits: &'a Limits,
    position: u64,
    /// Of the current member: payload not read yet, then bytes up to the next block.
    payload_left: u64,
    padding: u64,
    headers: u64,
    max_headers: u64,
}

impl<'a, R: Read> Reader<'a, R> {
    pub fn new(inner: R, limits: &'a Limits, max_headers: u64) -> Self {
        Reader { inner, limits, position: 0, payload_left: 0, padding: 0, headers: 0, max_headers }
    }

    /// The next member, or `None` at the end of the archive, where everything up to the
    /// end of the stream has been read and found to be zeros.
    pub fn next(&mut self) -> Result<Option<Entry>, Fault> {
        self.skip_payload()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.next_header()? else {
                if !extensions.is_empty() {
                    refuse!("the archive ends after an extension header, before the entry it describes");
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.long_name(&header)?;
                    set_once(&mut extensions.long_path, name, "two long names")?;
                }
                EntryType::GNULongLink => {
                    let name = self.long_name(&header)?;
                    set_once(&mut extensions.long_link, name, "two long link names")?;
                }
                EntryType::XHeader => {
                    let pax = Pax::parse(&self.extension(&header)?)?;
                    set_once(&mut extensions.pax, pax, "two PAX headers")?;
                }
                EntryType::XGlobalHeader => {
                    let pax = Pax::parse(&self.extension(&header)?)?;
                    if !pax.is_commentary() {
                        refuse!("a global PAX header changes later entries, which is not supported");
                    }
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Reads some of the current member's payload; 0 at its end.
    pub fn read_payload(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let most = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.read_some(&mut buffer[..most])?;
        if read == 0 {
            refuse!("the archive is truncated: it ends inside an entry's data");
        }
        self.payload_left -= read as u64;
        Ok(read)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Fault> {
        let Extensions { long_path, long_link, pax } = extensions;
        let mut pax = pax.unwrap_or_default();
        let old = header.as_old();
        let mut size = number::size(&old.size, "size")?;
        if let Some(said) = pax.size {
            if size != said && size != 0 && size != SATURATED {
                refuse!("conflicting sizes: the header says {size}, its PAX header {said}");
            }
            size = said;
        }
        let raw_path = header.path_bytes().into_owned();
        let path = agree(pax.path.take(), long_path, "names")?.unwrap_or(raw_path);
        let raw_link = header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let link = agree(pax.link.take(), long_link, "link names")?.unwrap_or(raw_link);
        let kind = kind_of(header.entry_type(), &path)?;
        if kind != Kind::File && size != 0 {
            refuse!("{} is {} and yet has {size} bytes of data", shown(&path), kind.named());
        }
        let id = |said: Option<u32>, field: &[u8], name| match said {
            Some(id) => Ok(id),
            None => number::id(field, name),
        };
        let mut entry = Entry {
            kind,
            mode: number::mode(&old.mode)?,
            uid: id(pax.uid, &old.uid, "uid")?,
            gid: id(pax.gid, &old.gid, "gid")?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (number::time(&old.mtime)?, 0),
            },
            size,
            offset: 0,
            sparse: None,
            xattrs: std::mem::take(&mut pax.xattrs),
            path,
            link,
        };
        self.start_payload(entry.size)?;
        self.make_sparse(header, pax, &mut entry)?;
        entry.offset = self.position; // after the map of a sparse file
        Ok(entry)
    }

    /// The next header block, its checksum verified. `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Header>, Fault> {
        let mut header = Header::new_old();
        if !self.read_block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if is_zeros(header.as_bytes()) {
            self.expect_zeros_to_the_end()?;
            return Ok(None);
        }
        self.headers += 1;
        if self.headers > self.max_headers {
            refuse!("the archive has more than {} entries", self.max_headers);
        }
        let promised = number::size(&header.as_old().cksum, "checksum").ok();
        if promised != Some(number::checksum(header.as_bytes())) {
            refuse!("a header's checksum is wrong: the archive is damaged or not a tar archive");
        }
        Ok(Some(header))
    }

    /// One zero block should be followed by a second; many writers end without it.
    fn expect_zeros_to_the_end(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.read_some(&mut buffer)? {
                0 => return Ok(()),
                read if is_zeros(&buffer[..read]) => {}
                _ => refuse!("there are bytes after the end of the archive"),
            }
        }
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let size = number::size(&header.as_old().size, "size")?;
        if size > self.limits.max_header_bytes {
            refuse!(
                "an extension header has {size} bytes, and {} are the limit",
                self.limits.max_header_bytes
            );
        }
        self.start_payload(size)?;
        let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
        let mut filled = 0;
        while filled < content.len() {
            filled += self.read_payload(&mut content[filled..])?;
        }
        self.skip_payload()?;
        Ok(content)
    }

    /// GNU long names end in a NUL; older writers pad with several.
    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let mut name = self.extension(header)?;
        let end = name.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        name.truncate(end);
        Ok(name)
    }

    fn start_payload(&mut self, size: u64) -> Result<(), Fault> {
        self.payload_left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        if self.position.checked_add(size).is_none_or(|end| end > i64::MAX as u64) {
            refuse!("an entry's size of {size} bytes is impossible");
        }
        Ok(())
    }

    fn skip_payload(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 16 * 1024];
        while self.read_payload(&mut buffer)? > 0 {}
        let mut padding = std::mem::take(&mut self.padding) as usize;
        while padding > 0 {
            match self.read_some(&mut buffer[..padding])? {
                0 => refuse!("the archive is truncated: it ends inside an entry's padding"),
                read => padding -= read,
            }
        }
        Ok(())
    }

    /// Fills one block; `false` if the stream ended just before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => refuse!("the archive is truncated: it ends inside a header"),
                read => filled += read,
            }
        }
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Refusal::io("the data is truncated")).doing(String::new);
                }
                result => {
                    let read = result.doing(|| "read the archive".to_owned())?;
                    self.position += read as u64;
                    return Ok(read);
                }
            }
        }
    }
}

fn kind_of(entry_type: EntryType, path: &[u8]) -> Result<Kind, Fault> {
    let is_folder_name = path.ends_with(b"/");
    Ok(match entry_type {
        // Before ustar a folder was a file whose name ends in a slash.
        EntryType::Regular if is_folder_name => Kind::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if !is_folder_name => Kind::File,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Directory => Kind::Folder,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        odd => refuse!("{} is of a kind that no layer has ({:?})", shown(path), odd.as_byte() as char),
    })
}

fn set_once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Fault> {
    if slot.replace(value).is_some() {
        refuse!("{what} describe the same entry");
    }
    Ok(())
}

/// A PAX and a GNU header that name the same entry must agree: readers differ in which wins.
fn agree(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, what: &str) -> Result<Option<Vec<u8>>, Fault> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => {
            refuse!("conflicting {what}: PAX says {}, GNU {}", shown(&pax), shown(&gnu))
        }
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}
