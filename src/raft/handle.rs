//! What the other rooms hold: propose, view, read, watch.

use super::disk::Disk;
use super::error::{ProposeError, ReadError};
use super::hub::{Hub, Subscription, View};
use super::machine::{Machine, Snapshots};
use super::types::{Encoded, Response, TypeConfig};
use super::writer::Queue;
use crate::clock;
use crate::model::command::{Action, Command, Outcome, Reply};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use std::fs::File;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// The longest command that is taken, encoded. A manifest with a megabyte of environment fits.
pub const COMMAND_BYTES_MAX: usize = 3 << 19;

/// Who leads, as this server knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// This server leads, and its view has everything that former leaders had acknowledged.
    pub is_leader: bool,
}

/// Figures for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub raft_id: u64,
    pub term: u64,
    pub is_leader: bool,
    pub leader: Option<u64>,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub snapshot_index: Option<u64>,
    pub purged_index: Option<u64>,
    pub voters: Vec<u64>,
    /// The log's file on disk.
    pub log_bytes: u64,
    /// Why this server has stopped taking part.
    pub failure: Option<String>,
}

type Engine = openraft::Raft<TypeConfig, Machine>;

/// The replicated store. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Engine,
    raft_id: u64,
    hub: Hub,
    leadership: watch::Receiver<Leadership>,
    disk: Weak<dyn Disk>,
    /// Taken by `shutdown`.
    open: Mutex<Option<Open>>,
}

struct Open {
    held: Held,
    caretaker: tokio::task::JoinHandle<()>,
}

/// What a running store holds of its folder, in the order in which it lets go.
pub(super) struct Held {
    pub queue: Queue,
    /// Resolves when the disk's files are closed.
    pub released: oneshot::Receiver<()>,
    pub _lock: File,
}

impl Drop for Open {
    fn drop(&mut self) {
        // It holds Raft, which would otherwise outlive the last handle.
        self.caretaker.abort();
    }
}

impl Handle {
    pub(super) fn start(
        raft: Engine,
        raft_id: u64,
        hub: Hub,
        snapshots: Arc<Snapshots>,
        too_much: Arc<Notify>,
        disk: Weak<dyn Disk>,
        held: Held,
    ) -> Handle {
        let (tell, leadership) = watch::channel(Leadership::default());
        let caretaker = tokio::spawn(take_care(raft.clone(), snapshots, too_much, tell));
        let open = Mutex::new(Some(Open { held, caretaker }));
        Handle { inner: Arc::new(Inner { raft, raft_id, hub, leadership, disk, open }) }
    }

    /// Waits until everything that was in the log is applied, if this server can know that by
    /// itself: a member among several must not wait for the others.
    pub(super) async fn caught_up(&self, timeout: Duration) -> Result<(), String> {
        let raft = &self.inner.raft;
        let raft_id = self.inner.raft_id;
        let only_voter = raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([raft_id]))
            .await
            .map_err(|e| e.to_string())?;
        if !only_voter {
            return Ok(());
        }
        let mut metrics = raft.metrics();
        if metrics.borrow_watched().state != ServerState::Leader {
            // Nobody else can win: no need to sit out the election timeout.
            let _ = raft.trigger().elect(false).await;
        }
        let arrived = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if let Err(e) = &now.running_state {
                        return Err(e.to_string());
                    }
                    if leadership(&now).is_leader && now.last_applied.map(|id| id.index) == now.last_log_index
                    {
                        return Ok(());
                    }
                }
                metrics.changed().await.map_err(|_| "it ended at once".to_owned())?;
            }
        };
        let settled = async {
            arrived.await?;
            let mut told = self.leadership();
            let led = told.wait_for(|now| now.is_leader).await.map(drop);
            led.map_err(|_| "it ended at once".to_owned())
        };
        tokio::time::timeout(timeout, settled)
            .await
            .unwrap_or_else(|_| Err(format!("the log was not applied within {} s", timeout.as_secs())))
    }

    /// Proposes a change and waits until it is durable, committed and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    ///
    /// # Cancel safety
    /// Dropped while it waits, the change may or may not be carried out.
    pub async fn propose(&self, by: &str, action: Action) -> Result<Reply, ProposeError> {
        Ok(self.propose_outcome(by, action).await?.into_result()?)
    }

    /// Like [`Handle::propose`], with all that became of it: a rejection is in the outcome.
    ///
    /// # Errors
    /// See [`ProposeError`]; never `Rejected`.
    pub async fn propose_outcome(&self, by: &str, action: Action) -> Result<Outcome, ProposeError> {
        let at = clock::now().max(self.inner.hub.now());
        let command = Encoded::new(&Command { at, by: by.to_owned(), action });
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                size_bytes: command.len() as u64,
                limit_bytes: COMMAND_BYTES_MAX as u64,
            });
        }
        let written = self.inner.raft.client_write(command).await.map_err(propose_error)?;
        let Response(outcome) = written.data;
        outcome.ok_or_else(|| ProposeError::Storage("a command was applied without an outcome".into()))
    }

    /// The newest state that was applied here. A follower's may be behind the leader's.
    pub fn view(&self) -> View {
        self.inner.hub.view()
    }

    /// A view that holds everything acknowledged anywhere before this call.
    ///
    /// # Errors
    /// This server does not lead, or a quorum does not confirm that it does.
    pub async fn read(&self) -> Result<View, ReadError> {
        self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await.map_err(read_error)?;
        Ok(self.view())
    }

    /// Follows the state; the first [`Subscription::changed`] returns at once.
    pub fn subscribe(&self) -> Subscription {
        self.inner.hub.subscribe()
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    pub fn metrics(&self) -> Metrics {
        let metrics = self.inner.raft.metrics();
        let now = metrics.borrow_watched();
        Metrics {
            raft_id: self.inner.raft_id,
            term: now.current_term,
            is_leader: leadership(&now).is_leader,
            leader: now.current_leader,
            last_log_index: now.last_log_index.unwrap_or(0),
            applied_index: now.last_applied.map_or(0, |id| id.index),
            snapshot_index: now.snapshot.map(|id| id.index),
            purged_index: now.purged.map(|id| id.index),
            voters: now.membership_config.voter_ids().collect(),
            log_bytes: self.inner.disk.upgrade().map_or(0, |disk| disk.size_bytes()),
            failure: match &now.running_state {
                Ok(()) | Err(Fatal::Stopped) => None,
                Err(e) => Some(e.to_string()),
            },
        }
    }

    /// Stops taking part. When this returns everything is on disk and the folder is free.
    /// Other clones of the handle get errors from then on.
    pub async fn shutdown(self) {
        let Some(mut open) = self.inner.open.lock().ok().and_then(|mut open| open.take()) else { return };
        open.caretaker.abort();
        // A task that panicked was reported when it did; there is nothing left to stop.
        let _ = self.inner.raft.shutdown().await;
        self.inner.hub.close();
        if let Err(e) = open.held.queue.close().await {
            tracing::error!(error = %e, "the store was not closed cleanly");
        }
        // Raft's tasks let go of the disk a moment after they end, and it has no way to wait
        // for the last of them.
        if tokio::time::timeout(Duration::from_secs(5), &mut open.held.released).await.is_err() {
            tracing::warn!("the store's files are still open");
        }
    }
}

fn leadership(metrics: &RaftMetrics<TypeConfig>) -> Leadership {
    let term = metrics.current_term;
    // A leader's first entry of its term, once applied, has everything older behind it.
    let settled = metrics.last_applied.is_some_and(|id| id.leader_id.term == term);
    Leadership { term, is_leader: metrics.state == ServerState::Leader && settled }
}

/// Tells of leadership, takes snapshots when the log has grown by much, and deletes what the
/// older of the two snapshots holds. Ends with Raft.
async fn take_care(
    raft: Engine,
    snapshots: Arc<Snapshots>,
    too_much: Arc<Notify>,
    tell: watch::Sender<Leadership>,
) {
    let tell = Teller(tell);
    let mut metrics = raft.metrics();
    let mut newest = None;
    loop {
        let (now, snapshot, purged) = {
            let metrics = metrics.borrow_watched();
            (leadership(&metrics), metrics.snapshot, metrics.purged)
        };
        tell.0.send_if_modified(|told| std::mem::replace(told, now) != now);
        if snapshot != newest {
            newest = snapshot;
            if let Some(upto) = snapshots.purge_up_to().filter(|upto| Some(*upto) > purged) {
                let _ = raft.trigger().purge_log(upto.index).await;
            }
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            () = too_much.notified() => drop(raft.trigger().snapshot().await),
        }
    }
}

/// Whoever has stopped does not lead, however it stopped.
struct Teller(watch::Sender<Leadership>);

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.send_modify(|told| told.is_leader = false);
    }
}

fn fatal(e: &Fatal<TypeConfig>) -> Option<String> {
    match e {
        Fatal::Stopped => None,
        other => Some(other.to_string()),
    }
}

fn propose_error(e: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match e {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            ProposeError::NoLeader { leader: to.leader_id }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
        RaftError::APIError(other) => ProposeError::Storage(other.to_string()),
        RaftError::Fatal(e) => fatal(&e).map_or(ProposeError::ShuttingDown, ProposeError::Storage),
    }
}

fn read_error(e: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match e {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            ReadError::NoLeader { leader: to.leader_id }
        }
        RaftError::APIError(_) => ReadError::NoQuorum,
        RaftError::Fatal(e) => fatal(&e).map_or(ReadError::ShuttingDown, ReadError::Storage),
    }
}
