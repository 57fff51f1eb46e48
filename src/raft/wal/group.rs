//! What lies in a segment: groups, one after another. A group is what was written at once; it
//! counts whole or not at all.
//!
//! ```text
//! 0       4         8           16           32
//! | ngrp  | length  | sequence  | checksum   | operations …
//!           u32 LE    u64 LE      16 bytes of BLAKE3, keyed with the segment's key, over the
//!                                 offset in the segment, the first 16 bytes, the operations
//!
//! operation:  1 | index u64 | length u32 | record        an entry
//!             2 | start u64 | end u64                    entries that are gone
//!             3 | name u8   | length u32 | record        a named record
//! ```
//!
//! The key is the segment's own and random: bytes of an earlier life of the file, or of a record
//! that looks like a group, never pass for one.

use crate::raft::disk::{Name, Op};
use crate::raft::envelope::Fault;
use std::ops::Range;

pub(super) const MAGIC: [u8; 4] = *b"ngrp";
pub(super) const HEADER_BYTES: usize = 32;
/// Of an entry, before its record.
const ENTRY_BYTES: usize = 13;
/// Of a named record, before it.
const NAMED_BYTES: usize = 6;

pub(super) type Key = [u8; 32];

/// One operation of a group that was read; records are named by where they lie in the segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Entry { index: u64, offset: u32, length: u32 },
    Gone(Range<u64>),
    Named { name: Name, offset: u32, length: u32 },
}

/// Appends a group of `ops` to `buffer`, unsealed.
pub(super) fn encode<'a>(buffer: &mut Vec<u8>, ops: impl IntoIterator<Item = &'a Op>) {
    let start = buffer.len();
    buffer.resize(start + HEADER_BYTES, 0);
    for op in ops {
        match op {
            Op::PutEntry { index, record } => {
                buffer.push(1);
                buffer.extend_from_slice(&index.to_le_bytes());
                buffer.extend_from_slice(&length_of(record).to_le_bytes());
                buffer.extend_from_slice(record);
            }
            Op::RemoveEntries(range) => {
                buffer.push(2);
                buffer.extend_from_slice(&range.start.to_le_bytes());
                buffer.extend_from_slice(&range.end.to_le_bytes());
            }
            Op::Put { name, record } => {
                buffer.push(3);
                buffer.push(code(*name));
                buffer.extend_from_slice(&length_of(record).to_le_bytes());
                buffer.extend_from_slice(record);
            }
        }
    }
}

/// Makes the encoded `group` the one numbered `sequence` at `offset`.
pub(super) fn seal(group: &mut [u8], key: &Key, offset: u64, sequence: u64) {
    let length = length_of(&group[HEADER_BYTES..]);
    group[..4].copy_from_slice(&MAGIC);
    group[4..8].copy_from_slice(&length.to_le_bytes());
    group[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = checksum(key, offset, group);
    group[16..HEADER_BYTES].copy_from_slice(&sum);
}

/// The sequence and the length, header included, of the sound group that starts `bytes`.
pub(super) fn sound(bytes: &[u8], key: &Key, offset: u64) -> Option<(u64, usize)> {
    let (sequence, length) = claimed(bytes)?;
    let group = bytes.get(..length)?;
    (group[16..HEADER_BYTES] == checksum(key, offset, group)).then_some((sequence, length))
}

/// What a header says of itself.
pub(super) fn claimed(bytes: &[u8]) -> Option<(u64, usize)> {
    let header = bytes.get(..HEADER_BYTES)?;
    if header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    let sequence = u64::from_le_bytes(header[8..16].try_into().ok()?);
    Some((sequence, HEADER_BYTES.checked_add(length)?))
}

/// The operations of a sound group that starts at `offset` of its segment.
///
/// # Errors
/// An operation of a later version. The checksum held: nothing else is possible.
pub(super) fn pieces(group: &[u8], offset: u32) -> Result<Vec<Piece>, Fault> {
    let mut found = Vec::new();
    let mut at = HEADER_BYTES;
    let newer = || Fault::Newer("the log has an operation that is not known here".into());
    while at < group.len() {
        let u64_at = |from: usize| {
            let bytes = group.get(from..from + 8).ok_or_else(newer)?;
            Ok::<u64, Fault>(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        };
        let u32_at = |from: usize| {
            let bytes = group.get(from..from + 4).ok_or_else(newer)?;
            Ok::<u32, Fault>(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
        };
        let (piece, length) = match group[at] {
            1 => {
                let length = u32_at(at + 9)?;
                let offset = offset + (at + ENTRY_BYTES) as u32;
                (Piece::Entry { index: u64_at(at + 1)?, offset, length }, ENTRY_BYTES + length as usize)
            }
            2 => (Piece::Gone(u64_at(at + 1)?..u64_at(at + 9)?), 17),
            3 => {
                let name = group.get(at + 1).copied().and_then(name).ok_or_else(newer)?;
                let length = u32_at(at + 2)?;
                let offset = offset + (at + NAMED_BYTES) as u32;
                (Piece::Named { name, offset, length }, NAMED_BYTES + length as usize)
            }
            _ => return Err(newer()),
        };
        at += length;
        if at > group.len() {
            return Err(newer());
        }
        found.push(piece);
    }
    Ok(found)
}

fn checksum(key: &Key, offset: u64, group: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&offset.to_le_bytes());
    hasher.update(&group[..16]);
    hasher.update(&group[HEADER_BYTES..]);
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

fn length_of(record: &[u8]) -> u32 {
    u32::try_from(record.len()).expect("records and groups are far below 4 GiB")
}

/// Never used again for another name.
fn code(name: Name) -> u8 {
    match name {
        Name::Identity => 1,
        Name::Vote => 2,
        Name::Committed => 3,
        Name::Purged => 4,
        Name::Snapshots => 5,
    }
}

fn name(code: u8) -> Option<Name> {
    [Name::Identity, Name::Vote, Name::Committed, Name::Purged, Name::Snapshots]
        .into_iter()
        .find(|name| self::code(*name) == code)
}
