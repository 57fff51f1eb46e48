//! A machine of the cluster, as the scheduler sees it.

use super::ids::{NodeId, NodeName, RaftId, Zone};
use super::resources::Resources;
use super::time::Timestamp;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub name: NodeName,
    pub zone: Zone,
    /// A named set of nodes; empty is the default pool.
    pub pool: String,
    pub labels: BTreeMap<String, String>,
    /// What instances may take: the machine's, less what is kept for the node itself.
    pub capacity: Resources,
    /// `linux/amd64`.
    pub platform: String,
    /// Of the nodectl that runs there.
    pub version: String,
    /// Hints, never identity.
    pub addresses: Vec<String>,
    /// Present on servers.
    pub raft_id: Option<RaftId>,
    pub cordoned: bool,
    pub draining: bool,
    pub status: NodeStatus,
    pub joined_at: Timestamp,
    pub modified: u64,
}

impl Node {
    pub fn accepts_instances(&self) -> bool {
        self.status == NodeStatus::Up && !self.cordoned && !self.draining
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeStatus {
    Up,
    Down,
}
