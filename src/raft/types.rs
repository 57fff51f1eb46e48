//! openraft's types as this cluster uses them, and their mapping to the store's messages.
//! openraft's own types are never serialised: their layout may change with its versions.

use super::envelope::{Fault, Kind, open, seal};
use crate::model::command::{Command, Outcome};
use crate::proto::convert;
use crate::proto::v1;
use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::vote::{RaftLeaderId, RaftVote};
use openraft::{EntryPayload, alias};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

openraft::declare_raft_types!(
    /// Ids are RaftIds: one incarnation of a server's store, never used again.
    pub TypeConfig:
        D = Encoded,
        R = Response,
        NodeId = u64,
        Node = Member,
);

pub(super) type LogId = alias::LogIdOf<TypeConfig>;
pub(super) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(super) type Vote = alias::VoteOf<TypeConfig>;
pub(super) type Entry = alias::EntryOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<u64, Member>;
pub(super) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// A command as the log holds it: an encoded `nodectl.v1.Command`. It is encoded once, when it
/// is proposed, and every server applies what it decodes from these bytes: what is applied
/// before a restart and after it can't differ.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded(pub(super) Bytes);

impl Encoded {
    pub(super) fn new(command: &Command) -> Self {
        Self(v1::Command::from(command).encode_to_vec().into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// # Errors
    /// Bytes that are no command, or a command of a newer version.
    pub(super) fn decode(&self) -> Result<Command, Fault> {
        let wire = v1::Command::decode(self.0.clone())
            .map_err(|e| Fault::Newer(format!("holds a command of an unknown layout ({e})")))?;
        Command::try_from(wire).map_err(|e: convert::Error| {
            if e.newer {
                Fault::Newer(format!("holds a command that is not known here: {e}"))
            } else {
                Fault::Damaged(format!("holds a command that makes no sense: {e}"))
            }
        })
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What became of an entry; `None` for entries that are Raft's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response(pub(super) Option<Outcome>);

/// What the membership says of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where its peers reach it; empty while it is alone.
    pub address: String,
    /// The machine's id, 32 hex digits; empty when not known yet.
    pub node_id: String,
}

pub(super) fn log_id_to_wire(id: &LogId) -> v1::LogId {
    let leader = v1::LeaderId { term: id.leader_id.term, raft_id: id.leader_id.node_id };
    v1::LogId { leader: Some(leader), index: id.index }
}

pub(super) fn log_id_from_wire(id: v1::LogId) -> Result<LogId, Fault> {
    let leader = id.leader.ok_or_else(|| Fault::Damaged("has a log id without a leader".into()))?;
    Ok(LogId::new(LeaderId::new(leader.term, leader.raft_id), id.index))
}

pub(super) fn optional_log_id(id: Option<v1::LogId>) -> Result<Option<LogId>, Fault> {
    id.map(log_id_from_wire).transpose()
}

pub(super) fn vote_to_wire(vote: &Vote) -> v1::Vote {
    let leader = vote.leader_id();
    v1::Vote {
        leader: Some(v1::LeaderId { term: leader.term, raft_id: leader.node_id }),
        committed: vote.is_committed(),
    }
}

pub(super) fn vote_from_wire(vote: v1::Vote) -> Result<Vote, Fault> {
    let leader = vote.leader.ok_or_else(|| Fault::Damaged("has a vote for nobody".into()))?;
    Ok(Vote::from_leader_id(LeaderId::new(leader.term, leader.raft_id), vote.committed))
}

pub(super) fn membership_to_wire(membership: &Membership) -> v1::Membership {
    v1::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| v1::VoterSet { raft_ids: voters.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| v1::Member {
                raft_id: *id,
                address: member.address.clone(),
                node_id: member.node_id.clone(),
            })
            .collect(),
    }
}

pub(super) fn membership_from_wire(membership: v1::Membership) -> Result<Membership, Fault> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|set| set.raft_ids.into_iter().collect()).collect();
    if configs.is_empty() {
        return Ok(Membership::default());
    }
    let members: BTreeMap<u64, Member> = membership
        .members
        .into_iter()
        .map(|m| (m.raft_id, Member { address: m.address, node_id: m.node_id }))
        .collect();
    Membership::new(configs, members)
        .map_err(|e| Fault::Damaged(format!("has a membership that makes no sense: {e}")))
}

pub(super) fn stored_membership_to_wire(stored: &StoredMembership) -> v1::StoredMembership {
    v1::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(super) fn stored_membership_from_wire(stored: v1::StoredMembership) -> Result<StoredMembership, Fault> {
    let membership = membership_from_wire(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(optional_log_id(stored.log_id)?, membership))
}

/// The entry as a record for its place in the log.
pub(super) fn seal_entry(entry: &Entry) -> Vec<u8> {
    use v1::raft_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(v1::Blank {}),
        EntryPayload::Normal(command) => Payload::Command(command.0.clone()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_wire(membership)),
    };
    let message = v1::RaftEntry { id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) };
    seal(Kind::Entry, &entry.log_id.index.to_be_bytes(), &message)
}

/// The entry that the record at `index` holds.
pub(super) fn open_entry(index: u64, record: &Bytes) -> Result<Entry, Fault> {
    use v1::raft_entry::Payload;
    let read = || -> Result<Entry, Fault> {
        let message: v1::RaftEntry = open(Kind::Entry, &index.to_be_bytes(), record)?;
        let id = message.id.ok_or_else(|| Fault::Damaged("has no log id".into()))?;
        if id.index != index {
            return Err(Fault::Damaged(format!("says that it is entry {}", id.index)));
        }
        let payload = match message.payload {
            Some(Payload::Blank(_)) => EntryPayload::Blank,
            Some(Payload::Command(bytes)) => EntryPayload::Normal(Encoded(bytes)),
            Some(Payload::Membership(m)) => EntryPayload::Membership(membership_from_wire(m)?),
            None => return Err(Fault::Newer("is of a kind of entry that is not known here".into())),
        };
        Ok(Entry::new(log_id_from_wire(id)?, payload))
    };
    read().map_err(|fault| fault.within(&format!("log entry {index}")))
}
