//! Opening a log that is there: each segment read once, each group checked, and told apart what
//! a crash may leave (an end that is not whole) from what it can't.

use super::segment::{self, START, Segment};
use super::{Held, Tail, Wal, group};
use crate::raft::envelope::Fault;
use bytes::Bytes;
use memchr::memmem;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

impl Wal {
    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// `InvalidData` with a [`Fault`] for a log that a crash alone does not explain.
    pub fn open(dir: &Path, segment_bytes: u64) -> io::Result<Wal> {
        let mut held = Held::default();
        let mut identity: Option<Bytes> = None;
        let mut last: Option<(Arc<Segment>, u64)> = None;
        let mut newest = (0, Vec::new());
        let mut sequence = 0;
        let numbers = segment::list(dir)?;
        for (position, number) in numbers.iter().enumerate() {
            let expected = numbers[0] + position as u64;
            if *number != expected {
                return Err(damaged(format!("the log's file {expected:016}.wal is missing")));
            }
            let (segment, bytes, whose) = segment::read(dir, *number)?;
            if *identity.get_or_insert(whose.clone()) != whose {
                return Err(damaged(format!("the log's file {number:016}.wal belongs to another store")));
            }
            if position > 0 && segment.follows != sequence {
                // Written only after everything in the one before it was durable.
                return Err(damaged(format!(
                    "the log's file {:016}.wal can't be read past its group {sequence}, and {} were written",
                    number - 1,
                    segment.follows
                )));
            }
            sequence = segment.follows;
            let (start, end) = replay(&mut held, &segment, &bytes, &mut sequence)?;
            newest = (start as u64, bytes[start..end].to_vec());
            let segment = Arc::new(segment);
            held.segments.insert(*number, segment.clone());
            last = Some((segment, end as u64));
        }
        let (Some((segment, end)), Some(identity)) = (last, identity) else {
            return Err(damaged("the log is missing".into()));
        };
        // A process that was killed may have left its last group, or a file's name, in the kernel's
        // memory alone; and after a sync that failed, the kernel takes that group for written.
        segment.file.write_all_at(&newest.1, newest.0)?;
        segment.sync()?;
        File::open(dir)?.sync_all()?;
        // What is behind the end may be anything: none of it counts as written.
        let tail = Tail { is_torn: true, ..Tail::new(segment, end, end, sequence) };
        Ok(Wal::new(dir, segment_bytes, identity, tail, held))
    }
}

/// Takes over the groups of one segment; says where the last one starts and ends.
fn replay(
    held: &mut Held,
    segment: &Segment,
    bytes: &[u8],
    sequence: &mut u64,
) -> io::Result<(usize, usize)> {
    let mut at = START as usize;
    let mut newest = at;
    while let Some((found, length)) = group::sound(&bytes[at..], &segment.key, at as u64) {
        if found != *sequence + 1 {
            return Err(damaged(format!("the log's group {} is missing", *sequence + 1)));
        }
        let offset = u32::try_from(at).map_err(|_| damaged("the log's file is too long".into()))?;
        held.take(segment.number, &bytes[..at + length], at, offset)?;
        *sequence = found;
        newest = at;
        at += length;
    }
    if let Some(later) = later_group(&bytes[at..], segment, at, *sequence) {
        return Err(damaged(format!(
            "the log's group {} can't be read, and group {later} after it can",
            *sequence + 1
        )));
    }
    Ok((newest, at))
}

/// A sound group behind the one that is not. A group is written when the one before it is
/// synced, so no crash leaves this.
fn later_group(bytes: &[u8], segment: &Segment, start: usize, sequence: u64) -> Option<u64> {
    memmem::find_iter(bytes, &group::MAGIC).find_map(|at| {
        let (claimed, _) = group::claimed(&bytes[at..])?;
        // Of an earlier life of the file, or made to look like a group by whoever chose a record's
        // bytes: not worth its checksum, or a megabyte of these would keep a start busy for hours.
        let most_between = (at / group::HEADER_BYTES) as u64;
        if claimed.checked_sub(sequence + 1).is_none_or(|between| between > most_between) {
            return None;
        }
        group::sound(&bytes[at..], &segment.key, (start + at) as u64).map(|(found, _)| found)
    })
}

fn damaged(what: String) -> io::Error {
    Fault::Damaged(what).into()
}
