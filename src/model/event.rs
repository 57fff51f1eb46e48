//! What happened, for people and for watchers that resume: a bounded ring beside the state.

use super::ids::{AppKey, InstanceId, NodeId};
use super::time::Timestamp;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the command, and the place among that command's events: what resumes name.
    pub index: u64,
    pub sub: u32,
    pub at: Timestamp,
    pub kind: EventKind,
    pub app: Option<AppKey>,
    pub instance: Option<InstanceId>,
    /// `shop/web.3`, kept since the instance may be gone when the event is read.
    pub target: String,
    pub node: Option<NodeId>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Deployed,
    DeploymentEnded,
    Scaled,
    Restarted,
    Stopped,
    Started,
    Removed,
    InstancePlaced,
    InstanceStopping,
    InstancePhase,
    InstanceGone,
    NodeChanged,
    ImageChanged,
}

impl EventKind {
    pub const ALL: [EventKind; 13] = [
        EventKind::Deployed,
        EventKind::DeploymentEnded,
        EventKind::Scaled,
        EventKind::Restarted,
        EventKind::Stopped,
        EventKind::Started,
        EventKind::Removed,
        EventKind::InstancePlaced,
        EventKind::InstanceStopping,
        EventKind::InstancePhase,
        EventKind::InstanceGone,
        EventKind::NodeChanged,
        EventKind::ImageChanged,
    ];

    /// The kind that `as_str` names so; `None` for a name that this version doesn't know.
    pub fn from_name(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Deployed => "deployed",
            EventKind::DeploymentEnded => "deployment-ended",
            EventKind::Scaled => "scaled",
            EventKind::Restarted => "restarted",
            EventKind::Stopped => "stopped",
            EventKind::Started => "started",
            EventKind::Removed => "removed",
            EventKind::InstancePlaced => "instance-placed",
            EventKind::InstanceStopping => "instance-stopping",
            EventKind::InstancePhase => "instance-phase",
            EventKind::InstanceGone => "instance-gone",
            EventKind::NodeChanged => "node-changed",
            EventKind::ImageChanged => "image-changed",
        }
    }
}

/// The last events, oldest first.
#[derive(Clone, Debug, Default)]
pub struct EventRing {
    events: imbl::Vector<Arc<Event>>,
}

/// Some hours of a busy cluster, at about 300 bytes each about a megabyte.
const KEPT: usize = 4096;

impl EventRing {
    pub fn push(&mut self, event: Event) {
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Arc::new(event));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter()
    }

    /// Events after (index, sub), oldest first.
    pub fn after(&self, index: u64, sub: u32) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.iter().rposition(|e| (e.index, e.sub) <= (index, sub)).map_or(0, |p| p + 1);
        self.events.iter().skip(start)
    }

    /// Whether events after (index, sub) may have been forgotten: a resume from there has a gap.
    /// A ring that is not full never forgot any. Asked of the last one that was forgotten, it
    /// says yes though nothing is missing; it cannot tell.
    pub fn forgot_after(&self, index: u64, sub: u32) -> bool {
        self.events.len() >= KEPT && self.events.front().is_some_and(|e| (index, sub) < (e.index, e.sub))
    }

    /// The oldest index that is still kept: a resume from before it has a gap.
    pub fn oldest_index(&self) -> Option<u64> {
        self.events.front().map(|e| e.index)
    }
}
