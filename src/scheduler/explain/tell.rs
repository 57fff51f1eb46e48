//! The sentences of `why`. No decision is made here.

use super::{Explanation, Finding, NodeStanding, Standing};
use crate::model::app::DeploymentStatus;
use crate::model::instance::{Desired, Phase};
use crate::model::node::NodeStatus;
use crate::model::resources::{Bytes, Cpu};
use std::fmt;
use std::time::Duration;

/// A duration in its largest unit: `12 s`, `3 min`, `5 h`, `2 d`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} d", seconds / 86_400),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, finding) in self.findings.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Unknown(text) => f.write_str(text),
            Finding::NothingWanted { app, why } => write!(f, "{app}: nothing is to run, since {why}"),
            Finding::Deploying { release, waits_for, gives_up_in } => write!(
                f,
                "v{release} is being deployed and waits: {waits_for} (it is given up in {})",
                Span(*gives_up_in)
            ),
            Finding::LastDeployment { release, status, message, ago, .. } => {
                let verdict = match status {
                    DeploymentStatus::Done => "done",
                    DeploymentStatus::Failed => "failed",
                    DeploymentStatus::Reverted => "reverted",
                    DeploymentStatus::Cancelled => "cancelled",
                    DeploymentStatus::Running => "running",
                };
                write!(f, "the last deployment, of v{release}, {verdict} {} ago: {message}", Span(*ago))
            }
            Finding::Held { failed, serving } => write!(
                f,
                "v{failed} failed and is not taken back, since auto_revert is off: v{serving} goes on serving; \
                 deploy again or roll back"
            ),
            Finding::Counts { process, ready, wanted } => {
                write!(f, "{process}: {ready} of {wanted} ready")
            }
            Finding::Unplaced(unplaced) => unplaced.fmt(f),
            Finding::Instance(standing) => standing.fmt(f),
            Finding::Node(node) => node.fmt(f),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (#{}, v{}) on {} ", self.name, self.id, self.release, self.node)?;
        let since = Span(self.since);
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        if self.node_is_down {
            write!(f, "was last seen {:?}, and its node is down", self.phase)?;
        } else if self.desired == Desired::Stop {
            f.write_str("is stopping")?;
        } else {
            match self.phase {
                Phase::Pending => write!(f, "was placed {since} ago and not yet taken up by its node")?,
                Phase::Preparing => write!(f, "is being prepared since {since}{message}")?,
                Phase::Starting => write!(f, "starts since {since} and is not ready yet{message}")?,
                Phase::Running if self.ready => write!(f, "runs since {since}")?,
                Phase::Running => write!(f, "runs since {since} and is not ready{message}")?,
                Phase::Backoff => self.backoff(f)?,
                Phase::Stopping => f.write_str("is stopping")?,
                Phase::Stopped => f.write_str("is gone")?,
            }
        }
        write!(f, "; cause: {} (log index {})", self.cause, self.cause_index)?;
        if self.failures > 0 && !self.log_tail.is_empty() {
            write!(f, "; its last lines:\n{}", self.log_tail.join("\n"))?;
        }
        Ok(())
    }
}

impl Standing {
    fn backoff(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exit = self.last_exit.as_ref().map_or_else(|| "ended".to_owned(), ToString::to_string);
        write!(f, "{exit} ({} failed in a row)", self.failures)?;
        match self.retry_in {
            Some(wait) if wait > Duration::ZERO => write!(f, " and is started again in {}", Span(wait)),
            _ => f.write_str(" and is started again now"),
        }
    }
}

impl fmt::Display for NodeStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = if self.status == NodeStatus::Up { "up" } else { "down" };
        write!(f, "{} is {status}", self.name)?;
        if self.draining {
            f.write_str(", being drained")?;
        } else if self.cordoned {
            f.write_str(", cordoned: it takes no new instances")?;
        }
        write!(
            f,
            "; free: {} of {} CPU, {} of {} memory; instances: {}",
            Cpu(self.free.cpu_milli),
            Cpu(self.capacity.cpu_milli),
            Bytes(self.free.memory_bytes),
            Bytes(self.capacity.memory_bytes),
            self.instances
        )
    }
}
