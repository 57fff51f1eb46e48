//! The envelope around every record on disk: what it is, how long it is, and whether it is
//! still what was written.
//!
//! ```text
//! 0       4        6      8        12           28
//! | nctl  | format | kind | length | checksum   | payload (a prost message) …
//!           u16 LE   u16    u32 LE   16 bytes of BLAKE3 over the place, the 12 bytes, the payload
//! ```
//!
//! The place (a log index, a file's name) is part of the checksum and not of the record: a
//! sound record in the wrong place is damage too.

use bytes::Bytes;
use prost::Message;

const MAGIC: [u8; 4] = *b"nctl";
/// Raised when a record can no longer be read by what reads this one.
pub(super) const FORMAT: u16 = 1;
pub(super) const HEADER_BYTES: usize = 28;

/// What a record is. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    Entry = 1,
    Vote = 2,
    Committed = 3,
    Purged = 4,
    Identity = 5,
    SnapshotPointers = 6,
    Mark = 7,
    SnapshotHeader = 8,
    SnapshotRecord = 9,
    SnapshotEnd = 10,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Damaged(String),
    /// Sound, but of a format or kind that this version doesn't know.
    #[error("{0}")]
    Newer(String),
}

impl Fault {
    pub fn within(self, what: &str) -> Fault {
        match self {
            Fault::Damaged(why) => Fault::Damaged(format!("{what} {why}")),
            Fault::Newer(why) => Fault::Newer(format!("{what} {why}")),
        }
    }
}

impl From<Fault> for std::io::Error {
    fn from(fault: Fault) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, fault)
    }
}

/// The message in its envelope, for `place`.
pub(super) fn seal(kind: Kind, place: &[u8], message: &impl Message) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + message.encoded_len());
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&FORMAT.to_le_bytes());
    record.extend_from_slice(&(kind as u16).to_le_bytes());
    record.extend_from_slice(&[0; HEADER_BYTES - 8]);
    message.encode(&mut record).expect("a Vec grows");
    let length = u32::try_from(record.len() - HEADER_BYTES).expect("records are far below 4 GiB");
    record[8..12].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(place, &record[..12], &record[HEADER_BYTES..]);
    record[12..HEADER_BYTES].copy_from_slice(&sum);
    record
}

/// The payload's length, where a header says it; the record may still prove damaged.
pub(super) fn payload_length(header: &[u8]) -> Option<usize> {
    if header.len() < HEADER_BYTES || header[..4] != MAGIC {
        return None;
    }
    Some(u32::from_le_bytes(header[8..12].try_into().ok()?) as usize)
}

/// The message in `record`, which must be exactly one whole envelope.
pub(super) fn open<M: Message + Default>(kind: Kind, place: &[u8], record: &Bytes) -> Result<M, Fault> {
    let payload = open_bytes(kind, place, record)?;
    // The checksum holds, so these are the bytes that were written: what does not decode is
    // of a version that wrote something else there.
    M::decode(payload).map_err(|e| Fault::Newer(format!("has a layout that is not known here ({e})")))
}

fn open_bytes(kind: Kind, place: &[u8], record: &Bytes) -> Result<Bytes, Fault> {
    let damaged = |why: &str| Err(Fault::Damaged(why.to_owned()));
    if record.len() < HEADER_BYTES {
        return damaged("is cut short");
    }
    if record[..4] != MAGIC {
        return damaged("does not start as a record does");
    }
    let payload = record.slice(HEADER_BYTES..);
    let length = u32::from_le_bytes(record[8..12].try_into().expect("four bytes")) as usize;
    if length != payload.len() {
        return damaged("is not as long as it says");
    }
    if record[12..HEADER_BYTES] != checksum(place, &record[..12], &payload) {
        return damaged("does not match its checksum");
    }
    let format = u16::from_le_bytes(record[4..6].try_into().expect("two bytes"));
    if format != FORMAT {
        return Err(Fault::Newer(format!("is of format {format}, and only format {FORMAT} is known here")));
    }
    let found = u16::from_le_bytes(record[6..8].try_into().expect("two bytes"));
    if found != kind as u16 {
        return Err(Fault::Newer(format!("is of kind {found}, where kind {} was expected", kind as u16)));
    }
    Ok(payload)
}

fn checksum(place: &[u8], header: &[u8], payload: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    // The length keeps (place, payload) apart from any other pair with equal bytes.
    hasher.update(&(place.len() as u64).to_le_bytes());
    hasher.update(place);
    hasher.update(header);
    hasher.update(payload);
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    fn sample() -> v1::CommittedRecord {
        v1::CommittedRecord {
            log_id: Some(v1::LogId { leader: Some(v1::LeaderId { term: 3, raft_id: 1 }), index: 77 }),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let sound = seal(Kind::Committed, b"here", &sample());
        for bit in 0..sound.len() * 8 {
            let mut record = sound.clone();
            record[bit / 8] ^= 1 << (bit % 8);
            let opened = open::<v1::CommittedRecord>(Kind::Committed, b"here", &record.into());
            assert!(matches!(opened, Err(Fault::Damaged(_))), "bit {bit}: {opened:?}");
        }
    }

    #[test]
    fn a_sound_record_in_another_place_or_cut_short_is_damage() {
        let sound = Bytes::from(seal(Kind::Committed, b"here", &sample()));
        assert_eq!(open::<v1::CommittedRecord>(Kind::Committed, b"here", &sound), Ok(sample()));
        assert!(open::<v1::CommittedRecord>(Kind::Committed, b"there", &sound).is_err());
        for length in 0..sound.len() {
            let cut = sound.slice(..length);
            assert!(matches!(
                open::<v1::CommittedRecord>(Kind::Committed, b"here", &cut),
                Err(Fault::Damaged(_))
            ));
        }
    }

    #[test]
    fn a_newer_format_and_another_kind_are_told_apart_from_damage() {
        let record = Bytes::from(seal(Kind::Vote, b"", &sample()));
        assert!(matches!(open::<v1::CommittedRecord>(Kind::Committed, b"", &record), Err(Fault::Newer(_))));
        let mut newer = seal(Kind::Vote, b"", &sample());
        newer[4..6].copy_from_slice(&2u16.to_le_bytes());
        let sum = checksum(b"", &newer[..12], &newer[HEADER_BYTES..]);
        newer[12..HEADER_BYTES].copy_from_slice(&sum);
        let opened = open::<v1::CommittedRecord>(Kind::Vote, b"", &newer.into());
        assert!(matches!(opened, Err(Fault::Newer(why)) if why.contains("format 2")));
    }
}
