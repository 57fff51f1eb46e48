//! The way to the other servers. A cluster of one has none, so every peer is unreachable; the
//! network over tonic takes the place of `Alone` and nothing else changes. It must override
//! `stream_append` (the default waits for each reply), `pre_vote` (the default grants!) and
//! `transfer_leader`.

use super::snapshot::SnapshotFile;
use super::types::{Member, TypeConfig, Vote};
use openraft::alias::SnapshotOf;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkV2};
use std::future::Future;

/// The network of a cluster of one.
#[derive(Clone, Copy, Default)]
pub(super) struct Alone;

/// A peer that can't be reached.
pub(super) struct NoPeer {
    raft_id: u64,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::new(&AnyError::error(format!("server {} can't be reached: no peers yet", self.raft_id)))
    }
}

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, _member: &Member) -> NoPeer {
        NoPeer { raft_id: target }
    }
}

impl RaftNetworkV2<TypeConfig> for NoPeer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
