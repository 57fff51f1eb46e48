//! The one thread that writes to the disk. It takes everything that is waiting, writes it in
//! order, as one write, syncs once, sets the mark, and then tells all who waited: with many
//! writers the sync, which is the cost, is shared. What nobody waits for stays in memory until
//! there is something to write with it.

use super::disk::{Disk, Name, Op};
use super::mark::{Known, Mark};
use super::types::{LogId, TypeConfig, Vote};
use bytes::Bytes;
use openraft::storage::IOFlushed;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// One sync for at most about this much: more would make the first of them wait too long.
const GROUP_BYTES: usize = 8 << 20;
/// How long what nobody waits for may stay unwritten.
const LAZY: Duration = Duration::from_millis(500);

/// What a job does to what the log is known to hold.
pub(super) enum Moves {
    Nothing,
    Last(LogId),
    Vote(Vote),
    /// The log is about to be cut back to here: the mark has to go first.
    Back(Option<LogId>),
}

/// Who waits for a job.
pub(super) enum Done {
    /// Raft, for an append.
    Flushed(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
    /// Nobody: it is written and synced with what comes next, or half a second later.
    Lazy,
    /// The last job: the thread syncs everything, lets go of the disk and ends.
    Close(oneshot::Sender<io::Result<()>>),
}

pub(super) struct Job {
    pub ops: Vec<Op>,
    pub moves: Moves,
    pub done: Done,
}

/// Sends jobs to the thread. Unbounded: what waits is bounded by the number of callers, each
/// of which waits for its own.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: Sender<Job>,
    /// Entries before this index are on the disk, where readers find them.
    pub written: Arc<AtomicU64>,
    committed: Arc<Mutex<Option<Committed>>>,
}

/// Up to where the log is committed, and the record that says so.
struct Committed {
    index: u64,
    record: Bytes,
}

impl Queue {
    pub fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).map_err(|_| io::Error::other("the store is closed"))
    }

    /// The record of what is committed, to be written with the next group or, where a group was
    /// just written, within half a second. Wakes nobody: after each group there is a new one.
    pub fn committed(&self, index: u64, record: Bytes) {
        *self.committed.lock().expect("no panic while it is locked") = Some(Committed { index, record });
    }

    /// Everything sent so far is durable, and the disk is let go, when this returns.
    pub async fn close(&self) -> io::Result<()> {
        let (reply, done) = oneshot::channel();
        self.send(Job { ops: Vec::new(), moves: Moves::Nothing, done: Done::Close(reply) })?;
        done.await.unwrap_or_else(|_| Err(io::Error::other("the store is closed")))
    }

    /// Writes and waits until it is durable.
    pub async fn durable(&self, ops: Vec<Op>, moves: Moves) -> io::Result<()> {
        let (reply, done) = oneshot::channel();
        self.send(Job { ops, moves, done: Done::Reply(reply) })?;
        done.await.unwrap_or_else(|_| Err(io::Error::other("the store is closed")))
    }
}

/// Starts the thread. It ends when every [`Queue`] is gone, with all synced.
pub(super) fn spawn(disk: Arc<dyn Disk>, mark: Mark, written: u64) -> io::Result<(Queue, JoinHandle<()>)> {
    let (jobs, inbox) = channel();
    let written = Arc::new(AtomicU64::new(written));
    let committed = Arc::default();
    let queue = Queue { jobs, written: written.clone(), committed: Arc::clone(&committed) };
    let mut writer =
        Writer { disk, mark, written, committed, put_off: Vec::new(), failed: None, unsettled: false };
    let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(&inbox))?;
    Ok((queue, thread))
}

struct Writer {
    disk: Arc<dyn Disk>,
    mark: Mark,
    written: Arc<AtomicU64>,
    /// Newest wins; taken with the next write.
    committed: Arc<Mutex<Option<Committed>>>,
    /// What nobody waits for, in order, until something is written.
    put_off: Vec<Op>,
    /// After one failed write nothing is known of the disk's state: everything later fails too.
    failed: Option<String>,
    unsettled: bool,
}

impl Writer {
    fn run(&mut self, inbox: &Receiver<Job>) {
        let mut ahead = None;
        loop {
            let first = match ahead.take() {
                Some(job) => Ok(job),
                None if self.unsettled => inbox.recv_timeout(LAZY),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Ok(Job { done: Done::Close(reply), .. }) => {
                    self.settle();
                    let result = self.failed.clone().map_or(Ok(()), |why| Err(io::Error::other(why)));
                    return drop(reply.send(result));
                }
                Ok(job) => {
                    let (group, next) = gather(job, inbox);
                    ahead = next;
                    self.carry_out(group);
                }
                Err(RecvTimeoutError::Timeout) => self.settle(),
                Err(RecvTimeoutError::Disconnected) => return self.settle(),
            }
        }
    }

    /// Writes and syncs what nobody waited for, and syncs the mark.
    fn settle(&mut self) {
        self.unsettled = false;
        if self.failed.is_some() {
            return;
        }
        let mut ops = std::mem::take(&mut self.put_off);
        ops.extend(self.take_committed(self.mark.known.last));
        let written = if ops.is_empty() {
            // Each group was synced when it was written.
            Ok(())
        } else {
            self.disk.write(&ops).and_then(|()| self.disk.sync())
        };
        if let Err(e) = written.and_then(|()| self.mark.sync()) {
            tracing::error!(error = %e, "could not sync the store");
            self.failed = Some(e.to_string());
        }
    }

    /// A member among several may hear that an entry is committed before it has written it: a
    /// record that points past the end of what is on the disk would look like a lost end.
    fn take_committed(&self, last: Option<LogId>) -> Option<Op> {
        let mut slot = self.committed.lock().expect("no panic while it is locked");
        let Committed { record, .. } =
            slot.take_if(|committed| last.is_some_and(|last| committed.index <= last.index))?;
        Some(Op::Put { name: Name::Committed, record })
    }

    fn carry_out(&mut self, mut group: Vec<Job>) {
        self.unsettled = true;
        let result = match &self.failed {
            Some(why) => Err(why.clone()),
            None => self.write(&mut group).map_err(|e| e.to_string()),
        };
        if let (Err(why), None) = (&result, &self.failed) {
            tracing::error!(error = %why, "could not write to the store");
            self.failed = Some(why.clone());
        }
        for job in group {
            let result = result.clone().map_err(io::Error::other);
            match job.done {
                Done::Flushed(callback) => callback.io_completed(result),
                // Whoever asked may have gone.
                Done::Reply(reply) => drop(reply.send(result)),
                Done::Lazy | Done::Close(_) => {}
            }
        }
    }

    fn write(&mut self, group: &mut [Job]) -> io::Result<()> {
        let mut known = self.mark.known.clone();
        let mut awaited = false;
        for job in group {
            match &job.moves {
                Moves::Nothing => {}
                Moves::Last(id) => known.last = Some(*id),
                Moves::Vote(vote) => known.vote = Some(*vote),
                Moves::Back(to) => {
                    let last = known.last.filter(|last| to.is_some_and(|to| last.index <= to.index)).or(*to);
                    known.last = last;
                    self.mark.write(Known { last, ..self.mark.known.clone() })?;
                    self.mark.sync()?;
                }
            }
            self.put_off.append(&mut job.ops);
            awaited |= !matches!(job.done, Done::Lazy);
        }
        if !awaited {
            return Ok(());
        }
        let mut ops = std::mem::take(&mut self.put_off);
        ops.extend(self.take_committed(known.last));
        self.disk.write(&ops)?;
        self.disk.sync()?;
        if known != self.mark.known {
            self.mark.write(known.clone())?;
        }
        self.written.store(known.last.map_or(0, |last| last.index + 1), Ordering::Release);
        Ok(())
    }
}

/// `first` and what waits behind it. A job that cuts the log back, or is the last, stands
/// alone: met on the way, it is handed back for the next round.
fn gather(first: Job, inbox: &Receiver<Job>) -> (Vec<Job>, Option<Job>) {
    let alone = |job: &Job| matches!(job.moves, Moves::Back(_)) || matches!(job.done, Done::Close(_));
    let mut bytes = size_bytes(&first);
    if alone(&first) {
        return (vec![first], None);
    }
    let mut group = vec![first];
    while bytes < GROUP_BYTES {
        let Ok(job) = inbox.try_recv() else { break };
        if alone(&job) {
            return (group, Some(job));
        }
        bytes += size_bytes(&job);
        group.push(job);
    }
    (group, None)
}

fn size_bytes(job: &Job) -> usize {
    job.ops
        .iter()
        .map(|op| match op {
            Op::PutEntry { record, .. } | Op::Put { record, .. } => record.len(),
            Op::RemoveEntries(_) => 64,
        })
        .sum()
}
