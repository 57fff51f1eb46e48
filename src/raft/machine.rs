//! openraft's state machine: applies committed entries to the `ClusterState`, and takes and
//! installs snapshots. It lives in memory; a restart reads the last snapshot and the log.

use super::disk::{Name, Op};
use super::envelope::{Fault, Kind, seal};
use super::hub::{Hub, View};
use super::snapshot::{self, Applied, SnapshotFile};
use super::types::{Encoded, Entry, LogId, Response, SnapshotMeta, StoredMembership, TypeConfig};
use super::writer::{Moves, Queue};
use crate::model::command::{Outcome, Touched};
use crate::proto::v1;
use futures_util::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// The newest, and the one before it: should the newest prove damaged, the log still reaches
/// back to the other.
const SNAPSHOTS_KEPT: usize = 2;

/// The snapshots on this server's disk.
pub(super) struct Snapshots {
    dir: PathBuf,
    queue: Queue,
    kept: Mutex<Vec<(SnapshotMeta, SnapshotFile)>>,
}

impl Snapshots {
    /// `kept`: newest first.
    pub fn new(dir: PathBuf, queue: Queue, kept: Vec<(SnapshotMeta, SnapshotFile)>) -> Self {
        Self { dir, queue, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(SnapshotMeta, SnapshotFile)>> {
        self.kept.lock().expect("no panic while the list is locked")
    }

    pub fn newest(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.kept().first().cloned()
    }

    /// What the log must still reach back to: the oldest snapshot that is kept.
    pub fn purge_up_to(&self) -> Option<LogId> {
        let kept = self.kept();
        if kept.len() < SNAPSHOTS_KEPT { None } else { kept.last().and_then(|(meta, _)| meta.last_log_id) }
    }

    /// Makes `file` the newest: durable when this returns. Older ones are deleted.
    async fn adopt(&self, meta: SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let pointers = {
            let mut kept = self.kept();
            kept.retain(|(_, old)| old.path != file.path);
            kept.insert(0, (meta, file));
            kept.truncate(SNAPSHOTS_KEPT);
            kept.iter().map(|(meta, file)| file.to_pointer(meta.last_log_id)).collect::<Vec<_>>()
        };
        let names: Vec<String> = pointers.iter().map(|pointer| pointer.file.clone()).collect();
        let message = v1::SnapshotPointers { snapshots: pointers };
        let record = seal(Kind::SnapshotPointers, Name::Snapshots.as_str().as_bytes(), &message).into();
        self.queue.durable(vec![Op::Put { name: Name::Snapshots, record }], Moves::Nothing).await?;
        let dir = self.dir.clone();
        on_a_thread(move || snapshot::delete_others(&dir, &names)).await
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Bytes of commands since the last snapshot; asks for one when they are many.
pub(super) struct Growth {
    bytes: u64,
    limit_bytes: u64,
    pub too_much: Arc<Notify>,
}

impl Growth {
    pub fn new(limit_bytes: u64) -> Self {
        Self { bytes: 0, limit_bytes, too_much: Arc::default() }
    }

    fn add(&mut self, command: &Encoded) {
        self.bytes += command.len() as u64;
        if self.bytes >= self.limit_bytes {
            self.bytes = 0;
            self.too_much.notify_one();
        }
    }
}

pub(super) struct Machine {
    applied: Applied,
    hub: Hub,
    snapshots: Arc<Snapshots>,
    growth: Growth,
}

impl Machine {
    pub fn new(applied: Applied, hub: Hub, snapshots: Arc<Snapshots>, growth: Growth) -> Self {
        Self { applied, hub, snapshots, growth }
    }

    fn apply_entry(&mut self, entry: &Entry, touched: &mut Touched) -> io::Result<Response> {
        let response = match &entry.payload {
            EntryPayload::Blank => Response(None),
            EntryPayload::Membership(membership) => {
                self.applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Response(None)
            }
            EntryPayload::Normal(command) => {
                let outcome = self.apply_command(entry.log_id.index, command)?;
                self.growth.add(command);
                touched.merge(outcome.touched.clone());
                Response(Some(outcome))
            }
        };
        self.applied.last = Some(entry.log_id);
        Ok(response)
    }

    fn apply_command(&mut self, index: u64, encoded: &Encoded) -> io::Result<Outcome> {
        let command = encoded.decode().map_err(|fault| halt(index, fault))?;
        let View { state, events } = &mut self.applied.view;
        // A panic here would strike every server at the same entry. Raft must hear of it, not
        // hang on it.
        let (outcome, news) =
            catch_unwind(AssertUnwindSafe(|| state.apply(index, &command))).map_err(|_| {
                io::Error::other(format!(
                    "log entry {index} could not be applied: this is a fault of nodectl"
                ))
            })?;
        for event in news {
            events.push(event);
        }
        Ok(outcome)
    }
}

fn halt(index: u64, fault: Fault) -> io::Error {
    let advice = match fault {
        Fault::Damaged(_) => "",
        Fault::Newer(_) => concat!(
            ": this server runs nodectl ",
            env!("CARGO_PKG_VERSION"),
            ", a newer version wrote this; install that version here and start again"
        ),
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} {fault}{advice}"))
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    /// One view for the whole batch, and only then the replies: who proposed a change finds it
    /// in the view.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut touched = Touched::default();
        let mut replies = Vec::new();
        let mut changed = false;
        let mut failed = Ok(());
        while let Some(item) = entries.next().await {
            let (entry, responder) = match item {
                Ok(item) => item,
                Err(e) => {
                    failed = Err(e);
                    break;
                }
            };
            match self.apply_entry(&entry, &mut touched) {
                Ok(response) => {
                    changed |= response.0.is_some();
                    replies.extend(responder.map(|responder| (responder, response)));
                }
                Err(e) => {
                    tracing::error!(error = %e, "this server can't go on");
                    failed = Err(e);
                    break;
                }
            }
        }
        if changed {
            self.hub.publish(self.applied.view.clone(), &touched);
        }
        for (responder, response) in replies {
            responder.send(response);
        }
        failed
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.growth.bytes = 0;
        Builder { applied: self.applied.clone(), snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let source = file.clone();
        let applied = on_a_thread(move || Ok(snapshot::read(&source)?)).await?;
        if applied.meta() != *meta {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot is not the one that was announced",
            ));
        }
        self.snapshots.adopt(meta.clone(), file).await?;
        self.applied = applied;
        self.growth.bytes = 0;
        self.hub.replace(self.applied.view.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        Ok(self.snapshots.newest().map(|(meta, snapshot)| openraft::Snapshot { meta, snapshot }))
    }
}

impl Drop for Machine {
    /// Raft has ended, by shutdown or by failure: nobody should wait for a newer view.
    fn drop(&mut self) {
        self.hub.close();
    }
}

/// One point in time of the state, to be written while the state goes on.
pub(super) struct Builder {
    applied: Applied,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let (dir, applied) = (self.snapshots.dir.clone(), std::mem::take(&mut self.applied));
        let meta = applied.meta();
        let snapshot = on_a_thread(move || snapshot::write(&dir, &applied)).await?;
        self.snapshots.adopt(meta.clone(), snapshot.clone()).await?;
        Ok(openraft::Snapshot { meta, snapshot })
    }
}
