//! Opening what a former run left: everything is read and checked once, before anything is
//! trusted. What this can find:
//!
//! - a record that is not what was written (its checksum), or lies in another place;
//! - a hole in the log, a log that does not reach from the snapshot, ids out of order;
//! - a log whose end is gone, or a vote that went back: by the mark (`mark.rs`), which knows
//!   of every sync before the last crash except after a power cut, where it may be some
//!   seconds older, and by the committed record;
//! - a store that vanished while its mark stayed, or the other way round.
//!
//! What it can't find: an end that was lost together with what the mark said of it.

use super::disk::{Disk, Name};
use super::envelope::{Fault, Kind, open};
use super::log::Index;
use super::mark::Known;
use super::snapshot::{self, Applied, SnapshotFile};
use super::types::{LogId, SnapshotMeta, Vote, open_entry, optional_log_id, vote_from_wire};
use crate::proto::v1;
use openraft::EntryPayload;
use prost::Message;
use std::path::Path;

/// One read while the log is checked.
const SCAN_BYTES: usize = 4 << 20;

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub index: Index,
    /// The state at the newest sound snapshot.
    pub applied: Applied,
    /// Newest first.
    pub snapshots: Vec<(SnapshotMeta, SnapshotFile)>,
    /// Entries that a purge did not get round to delete.
    pub leftover: bool,
}

/// The named record; `None` if it was never written.
pub(super) fn named<M: Message + Default>(
    disk: &dyn Disk,
    name: Name,
    kind: Kind,
) -> Result<Option<M>, Fault> {
    let what = format!("the record `{}`", name.as_str());
    let record = disk.get(name).map_err(|e| Fault::Damaged(format!("{what} can't be read: {e}")))?;
    record
        .map(|record| open(kind, name.as_str().as_bytes(), &record))
        .transpose()
        .map_err(|f| f.within(&what))
}

/// Reads and checks everything.
pub(super) fn recover(disk: &dyn Disk, snapshots: &Path, known: &Known) -> Result<Recovered, Fault> {
    let vote: Option<v1::Vote> = named(disk, Name::Vote, Kind::Vote)?;
    let committed: Option<v1::CommittedRecord> = named(disk, Name::Committed, Kind::Committed)?;
    let purged: Option<v1::PurgedRecord> = named(disk, Name::Purged, Kind::Purged)?;
    let mut index = Index::default();
    index.vote = vote.map(vote_from_wire).transpose()?;
    index.committed = optional_log_id(committed.and_then(|record| record.log_id))?;
    index.purged = optional_log_id(purged.and_then(|record| record.log_id))?;
    let scan = scan(disk, index.purged, known.last)?;
    index.last = scan.last.or(index.purged);
    let (applied, kept) = newest_snapshot(disk, snapshots, index.purged)?;
    check_end(&index, known, applied.last, scan.matches_mark)?;
    Ok(Recovered { index, applied, snapshots: kept, leftover: scan.leftover })
}

struct Scan {
    last: Option<LogId>,
    leftover: bool,
    /// The entry that the mark names is the one that it names, or is purged.
    matches_mark: bool,
}

/// Every entry, in order, whole, and one that this version can apply.
fn scan(disk: &dyn Disk, purged: Option<LogId>, marked: Option<LogId>) -> Result<Scan, Fault> {
    let mut scan = Scan { last: None, leftover: false, matches_mark: marked.is_none() || marked <= purged };
    let mut previous = purged;
    let mut next = 0;
    loop {
        let records = disk
            .entries(next..u64::MAX, SCAN_BYTES)
            .map_err(|e| Fault::Damaged(format!("the log can't be read: {e}")))?;
        let Some((newest, _)) = records.last() else { return Ok(scan) };
        next = newest.saturating_add(1);
        for (index, record) in &records {
            if purged.is_some_and(|purged| *index <= purged.index) {
                scan.leftover = true;
                continue;
            }
            let entry = open_entry(*index, record)?;
            let expected = previous.map_or(0, |id| id.index + 1);
            if *index != expected {
                return Err(Fault::Damaged(format!("the log has a hole: entry {expected} is missing")));
            }
            if previous.is_some_and(|id| id.leader_id > entry.log_id.leader_id) {
                return Err(Fault::Damaged(format!(
                    "log entry {index} is of an earlier term than the one before it"
                )));
            }
            if let EntryPayload::Normal(command) = &entry.payload {
                command.decode().map_err(|fault| fault.within(&format!("log entry {index}")))?;
            }
            scan.matches_mark |= marked == Some(entry.log_id);
            previous = Some(entry.log_id);
            scan.last = previous;
        }
    }
}

/// Nothing that was acknowledged is missing at the end.
fn check_end(index: &Index, known: &Known, snapshot: Option<LogId>, matches_mark: bool) -> Result<(), Fault> {
    let reach = index.last.max(snapshot);
    let end = reach.map_or("is empty".to_owned(), |id| format!("ends at entry {}", id.index));
    if let Some(marked) = known.last {
        if reach.is_none_or(|reach| reach.index < marked.index) {
            return Err(Fault::Damaged(format!(
                "the log {end}, but entry {} had been written and acknowledged",
                marked.index
            )));
        }
        if !matches_mark && snapshot.is_none_or(|snapshot| snapshot.index < marked.index) {
            return Err(Fault::Damaged(format!(
                "log entry {} is not the one that was acknowledged",
                marked.index
            )));
        }
    }
    if let Some(committed) = index.committed
        && reach.is_none_or(|reach| reach.index < committed.index)
    {
        return Err(Fault::Damaged(format!("the log {end}, but entry {} was committed", committed.index)));
    }
    let newest_vote = known.vote.as_ref().map(rank);
    if newest_vote > index.vote.as_ref().map(rank) {
        return Err(Fault::Damaged("the vote is older than the one that was given".into()));
    }
    match (&index.vote, reach) {
        (None, Some(_)) => Err(Fault::Damaged("the vote is missing".into())),
        (Some(vote), Some(reach)) if vote.leader_id.term < reach.leader_id.term => {
            Err(Fault::Damaged("the vote is older than the log".into()))
        }
        _ => Ok(()),
    }
}

fn rank(vote: &Vote) -> (u64, u64, bool) {
    (vote.leader_id.term, vote.leader_id.node_id, vote.committed)
}

type Kept = Vec<(SnapshotMeta, SnapshotFile)>;

/// The state at the newest sound snapshot from which the log goes on.
fn newest_snapshot(disk: &dyn Disk, dir: &Path, purged: Option<LogId>) -> Result<(Applied, Kept), Fault> {
    let pointers: Option<v1::SnapshotPointers> = named(disk, Name::Snapshots, Kind::SnapshotPointers)?;
    let pointers = pointers.unwrap_or_default().snapshots;
    let mut damage = None;
    for (position, pointer) in pointers.iter().enumerate() {
        let file = SnapshotFile::from_pointer(dir, pointer)?;
        let applied = match snapshot::read(&file) {
            Ok(applied) => applied,
            Err(newer @ Fault::Newer(_)) => return Err(newer),
            Err(fault) => {
                damage.get_or_insert(fault);
                continue;
            }
        };
        if applied.last < purged {
            break;
        }
        if let Some(fault) = &damage {
            tracing::warn!(%fault, "the newest snapshot is damaged: starting from the one before it and the log");
        }
        let mut kept = vec![(applied.meta(), file)];
        for older in &pointers[position + 1..] {
            let file = SnapshotFile::from_pointer(dir, older)?;
            // Only its place in the list matters here; it is checked when it is needed.
            let meta = SnapshotMeta { last_log_id: optional_log_id(older.last)?, ..SnapshotMeta::default() };
            kept.push((meta, file));
        }
        return Ok((applied, kept));
    }
    match (damage, purged) {
        (Some(fault), _) => Err(fault),
        (None, Some(purged)) => Err(Fault::Damaged(format!(
            "the log starts after entry {}, and there is no snapshot that reaches it",
            purged.index
        ))),
        (None, None) => Ok(Default::default()),
    }
}
