//! Nodes, what they say of themselves, and the names of images.

use super::{Error, digest, known, ms, name, node_id, required, timestamp};
use crate::model::command::{ImageRecord, NodeFacts};
use crate::model::ids::{NodeName, RaftId, Zone};
use crate::model::node::{Node, NodeStatus};
use crate::proto::v1;

impl From<&Node> for v1::Node {
    fn from(node: &Node) -> Self {
        v1::Node {
            id: node.id.to_string(),
            name: node.name.to_string(),
            zone: node.zone.to_string(),
            pool: node.pool.clone(),
            labels: node.labels.clone(),
            capacity: Some(node.capacity.into()),
            platform: node.platform.clone(),
            version: node.version.clone(),
            addresses: node.addresses.clone(),
            raft_id: node.raft_id.map(|id| id.0),
            cordoned: node.cordoned,
            draining: node.draining,
            status: v1::NodeStatus::from(node.status).into(),
            joined_at_ms: ms(node.joined_at),
            modified: node.modified,
        }
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = Error;
    fn try_from(node: v1::Node) -> Result<Self, Error> {
        Ok(Node {
            id: node_id(&node.id, "id")?,
            name: name(NodeName::new(&node.name), "name")?,
            zone: name(Zone::new(&node.zone), "zone")?,
            pool: node.pool,
            labels: node.labels,
            capacity: required(node.capacity, "capacity")?,
            platform: node.platform,
            version: node.version,
            addresses: node.addresses,
            raft_id: node.raft_id.map(RaftId),
            cordoned: node.cordoned,
            draining: node.draining,
            status: known::<v1::NodeStatus>(node.status, "status")?.into(),
            joined_at: timestamp(node.joined_at_ms),
            modified: node.modified,
        })
    }
}

impl From<NodeStatus> for v1::NodeStatus {
    fn from(value: NodeStatus) -> Self {
        match value {
            NodeStatus::Up => v1::NodeStatus::Up,
            NodeStatus::Down => v1::NodeStatus::Down,
        }
    }
}

impl From<v1::NodeStatus> for NodeStatus {
    fn from(value: v1::NodeStatus) -> Self {
        match value {
            v1::NodeStatus::Up => NodeStatus::Up,
            v1::NodeStatus::Down => NodeStatus::Down,
        }
    }
}

impl From<&NodeFacts> for v1::NodeFacts {
    fn from(facts: &NodeFacts) -> Self {
        v1::NodeFacts {
            id: facts.id.to_string(),
            name: facts.name.to_string(),
            zone: facts.zone.to_string(),
            pool: facts.pool.clone(),
            labels: facts.labels.clone(),
            capacity: Some(facts.capacity.into()),
            platform: facts.platform.clone(),
            version: facts.version.clone(),
            addresses: facts.addresses.clone(),
            raft_id: facts.raft_id.map(|id| id.0),
        }
    }
}

impl TryFrom<v1::NodeFacts> for NodeFacts {
    type Error = Error;
    fn try_from(facts: v1::NodeFacts) -> Result<Self, Error> {
        Ok(NodeFacts {
            id: node_id(&facts.id, "id")?,
            name: name(NodeName::new(&facts.name), "name")?,
            zone: name(Zone::new(&facts.zone), "zone")?,
            pool: facts.pool,
            labels: facts.labels,
            capacity: required(facts.capacity, "capacity")?,
            platform: facts.platform,
            version: facts.version,
            addresses: facts.addresses,
            raft_id: facts.raft_id.map(RaftId),
        })
    }
}

impl From<&ImageRecord> for v1::ImageRecord {
    fn from(image: &ImageRecord) -> Self {
        v1::ImageRecord {
            digest: image.digest.to_string(),
            size_bytes: image.size_bytes,
            platform: image.platform.clone(),
            loaded_at_ms: ms(image.loaded_at),
        }
    }
}

impl TryFrom<v1::ImageRecord> for ImageRecord {
    type Error = Error;
    fn try_from(image: v1::ImageRecord) -> Result<Self, Error> {
        Ok(ImageRecord {
            digest: digest(&image.digest, "digest")?,
            size_bytes: image.size_bytes,
            platform: image.platform,
            loaded_at: timestamp(image.loaded_at_ms),
        })
    }
}
