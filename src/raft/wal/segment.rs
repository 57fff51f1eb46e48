//! A segment: one file of the log, of a fixed length, that starts with a block of its own.
//!
//! ```text
//! 0       4         8        16         24          56       58        …          4080
//! | nwal  | format  | number | follows  | length    | key    | id size | identity | checksum
//!           u32 LE    u64 LE   u64 LE     u64 LE      32       u16 LE                16
//! ```
//!
//! `follows` is the sequence of the last group before this segment: the segment before it must
//! end there. A new segment is made beside its place (`.new`), synced, renamed, and its folder
//! synced, so a segment whose first block is not whole was damaged later. Its blocks are
//! reserved then: a full disk is met here, not in the middle of a write.

use super::group::Key;
use crate::clock;
use crate::raft::envelope::Fault;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Groups start here.
pub(super) const START: u64 = 4096;
const FORMAT: u32 = 1;
const SUM_AT: usize = START as usize - 16;
const IDENTITY_AT: usize = 66;
/// A segment that is no longer needed waits here to be written again: its blocks are there, so
/// the file system has less to note at each sync.
pub(super) const SPARE: &str = "spare";

#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub follows: u64,
    pub length: u64,
    pub key: Key,
    pub file: File,
}

impl Segment {
    /// Makes the groups in it survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        SYNCS.with(|syncs| syncs.set(syncs.get() + 1));
        self.file.sync_data()
    }
}

#[cfg(test)]
thread_local! {
    /// How many this thread has asked for.
    pub(super) static SYNCS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.wal"))
}

/// The numbers of the segments in `dir`, in order. What a crash left half-made is removed.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".new") {
            std::fs::remove_file(entry.path())?;
        } else if let Some(number) = name.strip_suffix(".wal").and_then(|number| number.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the segment `number`, out of the spare one if that is as long; durable when this returns.
/// Gives back up to where its blocks have been written before.
///
/// # Errors
/// The disk's; nothing is left behind then.
pub(super) fn create(
    dir: &Path,
    number: u64,
    follows: u64,
    length: u64,
    identity: &[u8],
) -> io::Result<(Segment, u64)> {
    let place = path(dir, number);
    let temporary = place.with_extension("new");
    let spare = dir.join(SPARE);
    let reused = std::fs::metadata(&spare).is_ok_and(|meta| meta.len() == length)
        && std::fs::rename(&spare, &temporary).is_ok();
    let made = fill(&temporary, reused, number, follows, length, identity).and_then(|segment| {
        std::fs::rename(&temporary, &place)?;
        File::open(dir)?.sync_all()?;
        Ok(segment)
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    Ok((made?, if reused { length } else { START }))
}

fn fill(
    path: &Path,
    reused: bool,
    number: u64,
    follows: u64,
    length: u64,
    identity: &[u8],
) -> io::Result<Segment> {
    let file = File::options().read(true).write(true).create(true).truncate(!reused).open(path)?;
    if !reused {
        let whole = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        nix::fcntl::posix_fallocate(file.as_fd(), 0, whole)?;
    }
    let mut key = Key::default();
    key[..16].copy_from_slice(&clock::random_u128().to_le_bytes());
    key[16..].copy_from_slice(&clock::random_u128().to_le_bytes());
    let mut block = vec![0; START as usize];
    block[..4].copy_from_slice(b"nwal");
    block[4..8].copy_from_slice(&FORMAT.to_le_bytes());
    block[8..16].copy_from_slice(&number.to_le_bytes());
    block[16..24].copy_from_slice(&follows.to_le_bytes());
    block[24..32].copy_from_slice(&length.to_le_bytes());
    block[32..64].copy_from_slice(&key);
    let size = u16::try_from(identity.len()).expect("an identity is short");
    block[64..IDENTITY_AT].copy_from_slice(&size.to_le_bytes());
    block[IDENTITY_AT..IDENTITY_AT + identity.len()].copy_from_slice(identity);
    let sum = checksum(&block);
    block[SUM_AT..].copy_from_slice(&sum);
    file.write_all_at(&block, 0)?;
    file.sync_all()?;
    Ok(Segment { number, follows, length, key, file })
}

/// The segment `number` and all its bytes, and the identity record that it carries.
pub(super) fn read(dir: &Path, number: u64) -> io::Result<(Segment, Vec<u8>, Bytes)> {
    let path = path(dir, number);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let damaged = |why: &str| io::Error::from(Fault::Damaged(format!("the log's file {name} {why}")));
    let file = File::options().read(true).write(true).open(&path)?;
    let size = file.metadata()?.len();
    if size < START {
        return Err(damaged("is cut short"));
    }
    // A file that somebody made huge is not read to find out that it is damaged.
    let mut block = vec![0; START as usize];
    file.read_exact_at(&mut block, 0)?;
    if block[..4] != *b"nwal" || block[SUM_AT..] != checksum(&block) {
        return Err(damaged("does not start as one"));
    }
    let format = u32::from_le_bytes(block[4..8].try_into().expect("four bytes"));
    if format != FORMAT {
        let what = format!("the log's file {name} is of format {format}, and only {FORMAT} is known here");
        return Err(Fault::Newer(what).into());
    }
    let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
    let (found, follows, length) = (u64_at(8), u64_at(16), u64_at(24));
    if found != number {
        return Err(damaged(&format!("is really the one numbered {found}")));
    }
    if size != length {
        return Err(damaged(&format!("has {size} bytes, and should have {length}")));
    }
    let key = block[32..64].try_into().expect("32 bytes");
    let id_size = usize::from(u16::from_le_bytes(block[64..66].try_into().expect("two bytes")));
    let identity = block.get(IDENTITY_AT..IDENTITY_AT + id_size).ok_or_else(|| damaged("has no identity"))?;
    let identity = Bytes::copy_from_slice(identity);
    let mut bytes = block;
    bytes.resize(usize::try_from(size).map_err(|_| damaged("is too large"))?, 0);
    file.read_exact_at(&mut bytes[START as usize..], START)?;
    Ok((Segment { number, follows, length, key, file }, bytes, identity))
}

fn checksum(block: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.copy_from_slice(&blake3::hash(&block[..SUM_AT]).as_bytes()[..16]);
    sum
}
