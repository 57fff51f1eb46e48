//! openraft's log storage: an index and the newest entries in memory, everything else on the
//! disk. Writes go to the writer thread; the entries of an append are readable at once, since
//! they stay in memory until the disk has them.

use super::disk::{Disk, Name, Op};
use super::envelope::{Kind, seal};
use super::types::{Entry, LogId, TypeConfig, Vote, log_id_to_wire, open_entry, seal_entry, vote_to_wire};
use super::writer::{Done, Job, Moves, Queue};
use crate::proto::v1;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

/// The newest entries that stay in memory, for applying and for followers that keep up.
const RECENT_BYTES: usize = 4 << 20;
/// One read of a follower that lags: a few of the largest entries, thousands of usual ones.
const READ_BYTES: usize = 4 << 20;

/// What memory knows of the log. All of it can be made again from the disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    /// The last entry that was deleted because a snapshot holds it.
    pub purged: Option<LogId>,
    /// The first index, of a log that started empty in this run.
    first: Option<u64>,
    /// The last entry; the purged one if there is none after it.
    pub last: Option<LogId>,
    /// The newest entries, without a gap, up to `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
}

impl Index {
    fn push(&mut self, entry: Entry) {
        if self.last.is_none() {
            self.first = Some(entry.log_id.index);
        }
        self.last = Some(entry.log_id);
        self.recent_bytes += weight(&entry);
        self.recent.push_back(entry);
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= weight(&entry);
        }
    }

    /// Forgets the oldest, as far as the disk has them: all before `written`.
    fn shrink(&mut self, written: u64) {
        while self.recent_bytes > RECENT_BYTES
            && self.recent.front().is_some_and(|entry| entry.log_id.index < written)
        {
            self.pop_oldest();
        }
    }
}

fn weight(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(command) => command.len(),
        _ => 64,
    };
    payload + size_of::<Entry>()
}

/// The log, as openraft drives it and as its readers see it: both are this one type.
#[derive(Clone)]
pub(super) struct LogStore {
    index: Arc<Mutex<Index>>,
    disk: Arc<dyn Disk>,
    queue: Queue,
}

impl LogStore {
    pub fn new(index: Index, disk: Arc<dyn Disk>, queue: Queue) -> Self {
        Self { index: Arc::new(Mutex::new(index)), disk, queue }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().expect("no panic while the index is locked")
    }

    fn put(name: Name, kind: Kind, message: &impl prost::Message) -> Op {
        Op::Put { name, record: seal(kind, name.as_str().as_bytes(), message).into() }
    }

    /// What the log has of `start..end`: the older part from the disk, the newer from memory.
    fn read(&self, start: u64, end: u64, limit_bytes: usize) -> io::Result<Vec<Entry>> {
        let (start, disk_end, newer) = {
            let index = self.index();
            let past = index.last.map_or(0, |id| id.index + 1);
            let (start, end) = (start.max(first_kept(&index)), end.min(past));
            if start >= end {
                return Ok(Vec::new());
            }
            let held = index.recent.front().map_or(past, |entry| entry.log_id.index);
            let from = start.max(held).min(end);
            let newer: Vec<Entry> = if from < end {
                index.recent.range((from - held) as usize..(end - held) as usize).cloned().collect()
            } else {
                Vec::new()
            };
            (start, from, newer)
        };
        let mut entries = Vec::new();
        let mut next = start;
        let mut taken = 0;
        while next < disk_end && taken < limit_bytes {
            let records = self.disk.entries(next..disk_end, READ_BYTES)?;
            let Some((last, _)) = records.last() else { break };
            next = last + 1;
            for (index, record) in &records {
                taken += record.len();
                entries.push(open_entry(*index, record)?);
            }
        }
        if next >= disk_end {
            entries.extend(newer);
        }
        // A purge may have overtaken us, from below; nothing else takes entries away.
        let first = start.max(first_kept(&self.index()));
        entries.retain(|entry| entry.log_id.index >= first);
        if first < disk_end || first < next {
            no_holes(first, &entries)?;
        }
        Ok(entries)
    }
}

/// Where the log starts: after what was purged, or where the first entry was put.
fn first_kept(index: &Index) -> u64 {
    index.purged.map(|id| id.index + 1).max(index.first).unwrap_or(0)
}

/// Entries from `first` on, each after the one before it, at least one.
fn no_holes(first: u64, entries: &[Entry]) -> io::Result<()> {
    let found = entries.iter().map(|entry| entry.log_id.index);
    let missing =
        (first..).zip(found.map(Some).chain([None])).find(|(expected, found)| *found != Some(*expected));
    match missing {
        Some((expected, None)) if expected > first => Ok(()),
        Some((expected, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("log entry {expected} is missing: the store is damaged"),
        )),
        None => Ok(()),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.index().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let index = self.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let op = Self::put(Name::Vote, Kind::Vote, &vote_to_wire(vote));
        self.queue.durable(vec![op], Moves::Vote(*vote)).await?;
        self.index().vote = Some(*vote);
        Ok(())
    }

    /// Not awaited: it is written with the next append, or half a second after the last one. A
    /// leader finds out again what is committed; a follower starts a little further back.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let message = v1::CommittedRecord { log_id: committed.as_ref().map(log_id_to_wire) };
        self.index().committed = committed;
        let index = committed.map_or(0, |id| id.index);
        self.queue
            .committed(index, seal(Kind::Committed, Name::Committed.as_str().as_bytes(), &message).into());
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.index().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut ops = Vec::new();
        let mut last = None;
        {
            let mut index = self.index();
            for entry in entries {
                last = Some(entry.log_id);
                ops.push(Op::PutEntry { index: entry.log_id.index, record: seal_entry(&entry).into() });
                index.push(entry);
            }
            index.shrink(self.queue.written.load(Ordering::Acquire));
        }
        let moves = last.map_or(Moves::Nothing, Moves::Last);
        self.queue.send(Job { ops, moves, done: Done::Flushed(callback) })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let first_removed = last_log_id.map_or(0, |id| id.index + 1);
        let past = self.index().last.map_or(0, |id| id.index + 1);
        if first_removed >= past {
            return Ok(());
        }
        self.queue.durable(vec![Op::RemoveEntries(first_removed..past)], Moves::Back(last_log_id)).await?;
        let mut index = self.index();
        index.last = last_log_id.max(index.purged);
        while index.recent.back().is_some_and(|entry| entry.log_id.index >= first_removed) {
            if let Some(entry) = index.recent.pop_back() {
                index.recent_bytes -= weight(&entry);
            }
        }
        Ok(())
    }

    /// The record of what is gone is written before anything goes.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let first = {
            let mut index = self.index();
            if index.purged >= Some(log_id) {
                return Ok(());
            }
            let first = index.purged.map_or(0, |id| id.index + 1);
            index.purged = Some(log_id);
            index.last = index.last.max(Some(log_id));
            while index.recent.front().is_some_and(|entry| entry.log_id.index <= log_id.index) {
                index.pop_oldest();
            }
            first
        };
        let message = v1::PurgedRecord { log_id: Some(log_id_to_wire(&log_id)) };
        let ops =
            vec![Self::put(Name::Purged, Kind::Purged, &message), Op::RemoveEntries(first..log_id.index + 1)];
        self.queue.send(Job { ops, moves: Moves::Nothing, done: Done::Lazy })
    }
}
