//! The mark: a small file beside the log that says how far the log is known to reach.
//!
//! A log that lost its end looks like a shorter log, and sled cuts off an end that it can't
//! read without a word. So after each sync, and before anybody hears of it, the newest log id
//! and the vote are written here. A log that holds less than its mark has lost acknowledged
//! writes. The mark itself is not synced each time (that would double the cost of a write): a
//! power cut may leave an older one, which claims less and accuses nobody falsely.
//!
//! Two slots are written in turn, so that one is whole at any moment.

use super::envelope::{HEADER_BYTES, Kind, open, payload_length, seal};
use super::types::{LogId, Vote, log_id_to_wire, optional_log_id, vote_from_wire, vote_to_wire};
use crate::proto::v1;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Each slot in a block of its own.
const SLOT_BYTES: u64 = 4096;

/// What the log is known to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub last: Option<LogId>,
    pub vote: Option<Vote>,
}

pub(super) struct Mark {
    file: File,
    sequence: u64,
    store_id: String,
    pub known: Known,
}

impl Mark {
    /// A fresh mark, durable.
    pub fn create(path: &Path, store_id: &str) -> io::Result<Mark> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(2 * SLOT_BYTES)?;
        let mut mark = Mark { file, sequence: 0, store_id: store_id.to_owned(), known: Known::default() };
        mark.write(Known::default())?;
        mark.write(Known::default())?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// The newest sound slot.
    ///
    /// # Errors
    /// `InvalidData` if neither slot is sound, or the mark is another store's.
    pub fn open(path: &Path, store_id: &str) -> io::Result<Mark> {
        let file = File::options().read(true).write(true).open(path)?;
        let newest = [0, 1].into_iter().filter_map(|slot| read_slot(&file, slot)).max_by_key(|m| m.sequence);
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let found = newest.ok_or_else(|| invalid("the file `mark` holds nothing readable"))?;
        if found.store_id != store_id {
            return Err(invalid("the file `mark` belongs to another store"));
        }
        let known =
            Known { last: optional_log_id(found.last)?, vote: found.vote.map(vote_from_wire).transpose()? };
        Ok(Mark { file, sequence: found.sequence, store_id: found.store_id, known })
    }

    /// Not durable until [`Mark::sync`] or until the kernel gets round to it.
    pub fn write(&mut self, known: Known) -> io::Result<()> {
        self.sequence += 1;
        let message = v1::Mark {
            sequence: self.sequence,
            store_id: self.store_id.clone(),
            last: known.last.as_ref().map(log_id_to_wire),
            vote: known.vote.as_ref().map(vote_to_wire),
        };
        let slot = self.sequence % 2;
        self.file.write_all_at(&seal(Kind::Mark, &[slot as u8], &message), slot * SLOT_BYTES)?;
        self.known = known;
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read_slot(file: &File, slot: u64) -> Option<v1::Mark> {
    let mut block = vec![0; SLOT_BYTES as usize];
    file.read_exact_at(&mut block, slot * SLOT_BYTES).ok()?;
    let length = HEADER_BYTES + payload_length(&block)?;
    let record = Bytes::from(block);
    if length > record.len() {
        return None;
    }
    open(Kind::Mark, &[slot as u8], &record.slice(..length)).ok()
}
