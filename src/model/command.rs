//! Everything that may change the state. A command is a value: whoever makes it has read the
//! clock, checked the caller and resolved the names; `apply` only decides.

use super::app::{AppSpec, DeploymentStatus};
use super::ids::{
    AppKey, DeploymentId, Digest, InstanceId, NodeId, NodeName, ProcessName, RaftId, ReleaseNumber,
    TenantName, Zone,
};
use super::instance::Observed;
use super::node::NodeStatus;
use super::resources::Resources;
use super::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One log entry's worth of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Cluster time, stamped by the leader.
    pub at: Timestamp,
    /// Who asked, for events: `operator`, `node-1`, `controller`.
    pub by: String,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Once, by the first node.
    InitCluster {
        cluster_id: u128,
    },
    /// A node as it is now; makes it or refreshes what may change.
    RegisterNode(NodeFacts),
    SetNodeMode {
        node: NodeId,
        cordoned: Option<bool>,
        draining: Option<bool>,
    },
    SetNodeStatus {
        node: NodeId,
        status: NodeStatus,
    },
    LabelNode {
        node: NodeId,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
    },

    /// Makes a release (or finds the equal one) and starts its deployment.
    Deploy {
        app: AppKey,
        image: Digest,
        image_name: String,
        spec: Arc<AppSpec>,
        /// Content hash over image and spec; equal input reuses the release.
        hash: String,
        /// Supersede a running deployment.
        force: bool,
        /// Forget live `scale` overrides.
        reset_scale: bool,
    },
    Scale {
        app: AppKey,
        counts: BTreeMap<ProcessName, u32>,
    },
    /// All of the app, one process, or one slot.
    Restart {
        app: AppKey,
        process: Option<ProcessName>,
        slot: Option<u32>,
    },
    SetStopped {
        app: AppKey,
        stopped: bool,
    },
    RemoveApp {
        app: AppKey,
    },
    CancelDeployment {
        app: AppKey,
    },

    SetImage {
        tenant: TenantName,
        name: String,
        image: ImageRecord,
    },
    RemoveImage {
        tenant: TenantName,
        name: String,
    },

    /// What the leader's controller decided. Each change stands or falls alone.
    Apply {
        term: u64,
        changes: Vec<Change>,
    },
    /// What a node's agent saw.
    Observe {
        node: NodeId,
        reports: Vec<Report>,
    },
}

/// What a node says of itself when it comes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    pub id: NodeId,
    pub name: NodeName,
    pub zone: Zone,
    pub pool: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: Resources,
    pub platform: String,
    pub version: String,
    pub addresses: Vec<String>,
    pub raft_id: Option<RaftId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub instance: InstanceId,
    pub observed: Observed,
}

/// A name's meaning in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    pub digest: Digest,
    pub size_bytes: u64,
    pub platform: String,
    pub loaded_at: Timestamp,
}

/// A change that `plan` made from a snapshot. `expects` are the versions (log index of the
/// last change) of what it read; one that moved since refuses this change alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub expects: Vec<Expect>,
    pub kind: ChangeKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    App(AppKey, u64),
    Instance(InstanceId, u64),
    Node(NodeId, u64),
    Deployment(AppKey, DeploymentId, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Place {
        app: AppKey,
        process: ProcessName,
        slot: u32,
        release: ReleaseNumber,
        generation: u64,
        node: NodeId,
        reason: String,
    },
    Stop {
        instance: InstanceId,
        reason: String,
    },
    /// Forget an instance whose node is lost, or that is stopped and reported so.
    Forget {
        instance: InstanceId,
        reason: String,
    },
    EndDeployment {
        app: AppKey,
        deployment: DeploymentId,
        status: DeploymentStatus,
        message: String,
    },
    /// An app that is being removed and has no instance left.
    ForgetApp {
        app: AppKey,
    },
}

/// What became of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub result: Option<Rejection>,
    pub reply: Reply,
    pub touched: Touched,
    /// For `Apply`: how many of the changes were refused because what they read had moved.
    pub refused: u32,
}

impl Outcome {
    /// The reply, or why nothing was changed.
    ///
    /// # Errors
    /// The command's rejection.
    pub fn into_result(self) -> Result<Reply, Rejection> {
        match self.result {
            None => Ok(self.reply),
            Some(rejection) => Err(rejection),
        }
    }
}

/// What the caller wants to know of a change that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    #[default]
    Done,
    Deployed {
        release: ReleaseNumber,
        deployment: DeploymentId,
        reused: bool,
    },
    /// Nothing was different: no deployment was needed.
    Unchanged,
}

/// What a command touched: the scheduler plans these apps, projections redo these parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub apps: std::collections::BTreeSet<AppKey>,
    pub nodes: std::collections::BTreeSet<NodeId>,
    pub images: bool,
}

impl Touched {
    pub fn merge(&mut self, other: Touched) {
        self.apps.extend(other.apps);
        self.nodes.extend(other.nodes);
        self.images |= other.images;
    }
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.nodes.is_empty() && !self.images
    }
}

/// Why a command changed nothing. The text is for people; the variant is for status codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
}
