//! The write-ahead log: entries, the vote, and the log's own notes, in segments that are
//! written once from front to end.
//!
//! What is written at once is a group (`group.rs`), synced before the next one is written. So
//! of what a crash leaves, at most the last group is not whole; a group that can't be read with
//! a sound one after it, in its segment or in the next, was damaged later. A segment
//! (`segment.rs`) begins with all named records as they stand, so that older segments can go as
//! soon as no entry in them is needed.
//!
//! ```text
//! log/  0000000000000007.wal   0000000000000008.wal   spare
//!       block | group group …  block | names+group …  an old one, to be written again
//! ```
//!
//! Why not sled: it did not open again after a full disk, and each of its writes cost four of
//! these (docs/design/0001). Not here: what the records say, and whether they fit together
//! (`recover.rs`).

mod group;
mod replay;
mod segment;
#[cfg(test)]
mod tests;

use super::disk::{Name, Op};
use bytes::Bytes;
use group::HEADER_BYTES;
use segment::{START, Segment};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Blocks are first written with zeros, this much at a time, well before a group needs them: a
/// sync after that has only data to write and nothing about the file.
const AHEAD_BYTES: u64 = 512 << 10;
/// A group's buffer is kept for the next one up to this size.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Wal {
    dir: PathBuf,
    segment_bytes: u64,
    /// The sealed record that each segment carries.
    identity: Bytes,
    /// The one writer's.
    tail: Mutex<Tail>,
    /// What readers look at.
    held: Mutex<Held>,
}

/// Where the next group goes.
struct Tail {
    segment: Arc<Segment>,
    offset: u64,
    /// Up to where the segment's blocks have been written.
    written: u64,
    /// Of the last group.
    sequence: u64,
    unsynced: bool,
    /// Behind the end may lie a part of a group that was never whole.
    is_torn: bool,
    buffer: Vec<u8>,
    spare: Option<Arc<Segment>>,
}

/// What the log holds, and where.
#[derive(Debug, Default)]
struct Held {
    segments: BTreeMap<u64, Arc<Segment>>,
    entries: Entries,
    names: BTreeMap<Name, Bytes>,
}

/// Where each entry lies: without a gap.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entries {
    first: u64,
    places: VecDeque<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u32,
    length: u32,
}

impl Entries {
    fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Puts the entry at the end; `false` if it does not fit there.
    #[must_use]
    fn push(&mut self, index: u64, place: Place) -> bool {
        if self.places.is_empty() {
            self.first = index;
        }
        let fits = index == self.end();
        if fits {
            self.places.push_back(place);
        }
        fits
    }

    /// Takes entries off the front or off the end; `false` if that would leave a gap.
    #[must_use]
    fn remove(&mut self, range: &Range<u64>) -> bool {
        let (first, end) = (self.first, self.end());
        if range.start >= range.end || range.end <= first || range.start >= end {
            return true;
        }
        if range.start <= first {
            self.places.drain(..(range.end.min(end) - first) as usize);
            self.first = range.end.min(end);
            return true;
        }
        if range.end < end {
            return false;
        }
        self.places.truncate((range.start - first) as usize);
        true
    }

    fn get(&self, index: u64) -> Option<Place> {
        self.places.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }
}

impl Wal {
    /// Makes an empty log in `dir`, each of whose files will carry `identity`.
    pub fn create(dir: &Path, segment_bytes: u64, identity: Bytes) -> io::Result<Wal> {
        std::fs::create_dir_all(dir)?;
        let (segment, written) = segment::create(dir, 1, 0, segment_bytes, &identity)?;
        let segment = Arc::new(segment);
        let held = Held { segments: BTreeMap::from([(1, segment.clone())]), ..Held::default() };
        let tail = Tail::new(segment, START, written, 0);
        Ok(Wal::new(dir, segment_bytes, identity, tail, held))
    }

    fn new(dir: &Path, segment_bytes: u64, identity: Bytes, tail: Tail, held: Held) -> Wal {
        let (tail, held) = (Mutex::new(tail), Mutex::new(held));
        Wal { dir: dir.to_owned(), segment_bytes, identity, tail, held }
    }

    /// Whether there is a log in `dir`, whatever its condition.
    ///
    /// # Errors
    /// The disk's: a folder that can't be read is not an empty one.
    pub fn exists(dir: &Path) -> io::Result<bool> {
        match segment::list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            numbers => Ok(!numbers?.is_empty()),
        }
    }

    /// The sealed record of whose log this is.
    pub fn identity(&self) -> &Bytes {
        &self.identity
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no panic while it is locked")
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no panic while it is locked")
    }

    /// See [`super::disk::Disk::write`].
    pub fn write(&self, ops: &[Op]) -> io::Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let mut tail = self.tail();
        if tail.unsynced {
            tail.sync()?;
        }
        let mut buffer = std::mem::take(&mut tail.buffer);
        self.encode(&mut buffer, ops, tail.offset == START);
        if tail.offset + buffer.len() as u64 > tail.segment.length {
            self.encode(&mut buffer, ops, true);
            self.next_segment(&mut tail, START + buffer.len() as u64)?;
        }
        tail.forget_torn()?;
        let (segment, offset) = (tail.segment.clone(), tail.offset);
        group::seal(&mut buffer, &segment.key, offset, tail.sequence + 1);
        tail.write_ahead(buffer.len() as u64)?;
        tail.unsynced = true;
        segment.file.write_all_at(&buffer, offset)?;
        let base = u32::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.held().take(segment.number, &buffer, 0, base)?;
        tail.sequence += 1;
        tail.offset += buffer.len() as u64;
        if buffer.capacity() <= BUFFER_BYTES {
            tail.buffer = buffer;
        }
        Ok(())
    }

    /// The first group of a segment has all named records before its own operations.
    fn encode(&self, buffer: &mut Vec<u8>, ops: &[Op], is_first: bool) {
        let names: Vec<Op> = if is_first {
            let put = |(name, record): (&Name, &Bytes)| Op::Put { name: *name, record: record.clone() };
            self.held().names.iter().map(put).collect()
        } else {
            Vec::new()
        };
        buffer.clear();
        group::encode(buffer, names.iter().chain(ops));
    }

    fn next_segment(&self, tail: &mut Tail, least_bytes: u64) -> io::Result<()> {
        // Somebody may still be reading what the spare once was.
        if tail.spare.take().is_some_and(|spare| Arc::try_unwrap(spare).is_err()) {
            std::fs::remove_file(self.dir.join(segment::SPARE))?;
        }
        let number = tail.segment.number + 1;
        let length = self.segment_bytes.max(least_bytes);
        let (segment, written) = segment::create(&self.dir, number, tail.sequence, length, &self.identity)?;
        tail.segment = Arc::new(segment);
        (tail.offset, tail.written) = (START, written);
        tail.is_torn = false;
        self.held().segments.insert(number, tail.segment.clone());
        Ok(())
    }

    /// See [`super::disk::Disk::sync`].
    pub fn sync(&self) -> io::Result<()> {
        let mut tail = self.tail();
        tail.sync()?;
        self.reclaim(&mut tail)
    }

    /// Lets go of the oldest segments, as far as no entry in them is needed. Whatever else they
    /// held stands again at the start of a later one.
    fn reclaim(&self, tail: &mut Tail) -> io::Result<()> {
        // As long as the newest has no group, the names are in the one before it.
        if tail.offset == START {
            return Ok(());
        }
        loop {
            let oldest = {
                let mut held = self.held();
                let needed = held.entries.places.front().map_or(tail.segment.number, |place| place.segment);
                match held.segments.first_key_value() {
                    Some((number, _)) if *number < needed => held.segments.pop_first(),
                    _ => return Ok(()),
                }
            };
            let Some((number, segment)) = oldest else { return Ok(()) };
            let path = segment::path(&self.dir, number);
            if tail.spare.is_none() && segment.length == self.segment_bytes {
                std::fs::rename(path, self.dir.join(segment::SPARE))?;
                tail.spare = Some(segment);
            } else {
                std::fs::remove_file(path)?;
            }
            // In order, also for a file system that is not: a gap would be taken for damage.
            std::fs::File::open(&self.dir)?.sync_all()?;
        }
    }

    /// See [`super::disk::Disk::get`].
    pub fn get(&self, name: Name) -> Option<Bytes> {
        self.held().names.get(&name).cloned()
    }

    /// See [`super::disk::Disk::entries`].
    pub fn entries(&self, range: Range<u64>, limit_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut found = Vec::new();
        let mut taken = 0;
        let mut next = range.start;
        while next < range.end && (taken < limit_bytes || found.is_empty()) {
            let Some((start, segment, places)) = self.run(next, range.end, limit_bytes - taken) else {
                break;
            };
            if start != next && !found.is_empty() {
                break;
            }
            next = start;
            let (Some(front), Some(back)) = (places.first(), places.last()) else { break };
            let from = front.offset;
            let mut bytes = vec![0; (back.offset + back.length - from) as usize];
            segment.file.read_exact_at(&mut bytes, u64::from(from))?;
            let bytes = Bytes::from(bytes);
            for place in &places {
                let start = (place.offset - from) as usize;
                found.push((next, bytes.slice(start..start + place.length as usize)));
                taken += place.length as usize;
                next += 1;
            }
        }
        Ok(found)
    }

    /// The first entry from `start` on that is there, and those that lie behind it in its segment:
    /// as many as fit into `limit_bytes`, at least one. Under one lock: the first may go meanwhile.
    fn run(&self, start: u64, end: u64, limit_bytes: usize) -> Option<(u64, Arc<Segment>, Vec<Place>)> {
        let held = self.held();
        let start = start.max(held.entries.first);
        let first = held.entries.get(start)?;
        let run: Vec<Place> = (start..end)
            .map_while(|index| held.entries.get(index))
            .take_while(|place| {
                *place == first
                    || place.segment == first.segment
                        && place.offset > first.offset
                        && (place.offset + place.length - first.offset) as usize <= limit_bytes
            })
            .collect();
        Some((start, held.segments.get(&first.segment)?.clone(), run))
    }

    pub fn size_bytes(&self) -> u64 {
        self.held().segments.values().map(|segment| segment.length).sum()
    }
}

impl Tail {
    fn new(segment: Arc<Segment>, offset: u64, written: u64, sequence: u64) -> Tail {
        Tail {
            segment,
            offset,
            written,
            sequence,
            unsynced: false,
            is_torn: false,
            buffer: Vec::new(),
            spare: None,
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced) {
            self.segment.sync()?;
        }
        Ok(())
    }

    /// Takes the head off a group that a crash left in part: the sectors that are missing of it
    /// could otherwise come with the next group in its place, where both have the same bytes. Not
    /// at the opening: a start that is refused changes nothing.
    fn forget_torn(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_torn) && self.offset + HEADER_BYTES as u64 <= self.segment.length {
            self.segment.file.write_all_at(&[0; HEADER_BYTES], self.offset)?;
            self.segment.sync()?;
        }
        Ok(())
    }

    /// Writes zeros to the blocks behind a group of `length` bytes, if it reaches new ones.
    fn write_ahead(&mut self, length: u64) -> io::Result<()> {
        let end = self.offset + length;
        if end > self.written {
            let upto = (end + AHEAD_BYTES).min(self.segment.length);
            self.segment.file.write_all_at(&vec![0; (upto - end) as usize], end)?;
            self.written = upto;
        }
        Ok(())
    }
}

impl Held {
    /// Takes over what the group at `bytes[start..]`, which lies at `offset` of `segment`, says.
    fn take(&mut self, segment: u64, group: &[u8], start: usize, offset: u32) -> io::Result<()> {
        let bytes = &group[start..];
        let record = |at: u32, length: u32| {
            let from = (at - offset) as usize;
            Bytes::copy_from_slice(&bytes[from..from + length as usize])
        };
        for piece in group::pieces(bytes, offset)? {
            let fits = match piece {
                group::Piece::Entry { index, offset, length } => {
                    self.entries.push(index, Place { segment, offset, length })
                }
                group::Piece::Gone(range) => self.entries.remove(&range),
                group::Piece::Named { name, offset, length } => {
                    self.names.insert(name, record(offset, length));
                    true
                }
            };
            if !fits {
                let what = format!("the log has a hole before or after entry {}", self.entries.end());
                return Err(super::envelope::Fault::Damaged(what).into());
            }
        }
        Ok(())
    }
}

const _: () = assert!(START as usize > HEADER_BYTES);
