//! Instances: what is wanted of them and what was seen.

use super::{Error, Within, known, ms, name, node_id, required, timestamp};
use crate::model::ids::{InstanceId, ProcessName, ReleaseNumber};
use crate::model::instance::{Cause, Desired, Exit, Instance, Observed, Phase};
use crate::proto::v1;

impl From<&Instance> for v1::Instance {
    fn from(instance: &Instance) -> Self {
        v1::Instance {
            id: instance.id.0,
            app: Some((&instance.app).into()),
            process: instance.process.to_string(),
            slot: instance.slot,
            release: instance.release.0,
            generation: instance.generation,
            node_id: instance.node.to_string(),
            desired: v1::Desired::from(instance.desired).into(),
            created_at_ms: ms(instance.created_at),
            cause: Some(v1::Cause { index: instance.cause.index, reason: instance.cause.reason.clone() }),
            superseded: instance.superseded,
            observed: Some((&instance.observed).into()),
            modified: instance.modified,
        }
    }
}

impl TryFrom<v1::Instance> for Instance {
    type Error = Error;
    fn try_from(instance: v1::Instance) -> Result<Self, Error> {
        let cause = instance.cause.ok_or_else(|| Error::missing("cause"))?;
        Ok(Instance {
            id: InstanceId(instance.id),
            app: required(instance.app, "app")?,
            process: name(ProcessName::new(&instance.process), "process")?,
            slot: instance.slot,
            release: ReleaseNumber(instance.release),
            generation: instance.generation,
            node: node_id(&instance.node_id, "node_id")?,
            desired: known::<v1::Desired>(instance.desired, "desired")?.into(),
            created_at: timestamp(instance.created_at_ms),
            cause: Cause { index: cause.index, reason: cause.reason },
            superseded: instance.superseded,
            observed: required(instance.observed, "observed")?,
            modified: instance.modified,
        })
    }
}

impl From<Desired> for v1::Desired {
    fn from(value: Desired) -> Self {
        match value {
            Desired::Run => v1::Desired::Run,
            Desired::Stop => v1::Desired::Stop,
        }
    }
}

impl From<v1::Desired> for Desired {
    fn from(value: v1::Desired) -> Self {
        match value {
            v1::Desired::Run => Desired::Run,
            v1::Desired::Stop => Desired::Stop,
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(value: Phase) -> Self {
        match value {
            Phase::Pending => v1::Phase::Pending,
            Phase::Preparing => v1::Phase::Preparing,
            Phase::Starting => v1::Phase::Starting,
            Phase::Running => v1::Phase::Running,
            Phase::Backoff => v1::Phase::Backoff,
            Phase::Stopping => v1::Phase::Stopping,
            Phase::Stopped => v1::Phase::Stopped,
        }
    }
}

impl From<v1::Phase> for Phase {
    fn from(value: v1::Phase) -> Self {
        match value {
            v1::Phase::Pending => Phase::Pending,
            v1::Phase::Preparing => Phase::Preparing,
            v1::Phase::Starting => Phase::Starting,
            v1::Phase::Running => Phase::Running,
            v1::Phase::Backoff => Phase::Backoff,
            v1::Phase::Stopping => Phase::Stopping,
            v1::Phase::Stopped => Phase::Stopped,
        }
    }
}

impl From<&Observed> for v1::Observed {
    fn from(seen: &Observed) -> Self {
        v1::Observed {
            attempt: seen.attempt,
            step: seen.step,
            phase: v1::Phase::from(seen.phase).into(),
            ready: seen.ready,
            address: seen.address.map(|address| address.to_string()),
            last_exit: seen.last_exit.as_ref().map(Into::into),
            message: seen.message.clone(),
            started_at_ms: seen.started_at.map(ms),
            retry_at_ms: seen.retry_at.map(ms),
            failures: seen.failures,
            log_tail: seen.log_tail.clone(),
        }
    }
}

impl TryFrom<v1::Observed> for Observed {
    type Error = Error;
    fn try_from(seen: v1::Observed) -> Result<Self, Error> {
        let address = match seen.address {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Error::new("address", format!("{text:?} is not an address with a port")))?,
            ),
        };
        Ok(Observed {
            attempt: seen.attempt,
            step: seen.step,
            phase: known::<v1::Phase>(seen.phase, "phase")?.into(),
            ready: seen.ready,
            address,
            last_exit: seen.last_exit.map(Exit::try_from).transpose().within("last_exit")?,
            message: seen.message,
            started_at: seen.started_at_ms.map(timestamp),
            retry_at: seen.retry_at_ms.map(timestamp),
            failures: seen.failures,
            log_tail: seen.log_tail,
        })
    }
}

impl From<&Exit> for v1::Exit {
    fn from(exit: &Exit) -> Self {
        use v1::exit::Exit as Wire;
        let exit = match exit {
            Exit::Code(code) => Wire::Code(*code),
            Exit::Signal(number) => Wire::Signal(*number),
            Exit::OutOfMemory { limit_bytes } => Wire::OutOfMemoryLimitBytes(*limit_bytes),
            Exit::StartFailed(why) => Wire::StartFailed(why.clone()),
            Exit::ShimLost => Wire::ShimLost(v1::ShimLost {}),
            Exit::Unhealthy(why) => Wire::Unhealthy(why.clone()),
        };
        v1::Exit { exit: Some(exit) }
    }
}

impl TryFrom<v1::Exit> for Exit {
    type Error = Error;
    fn try_from(wire: v1::Exit) -> Result<Self, Error> {
        use v1::exit::Exit as Wire;
        Ok(match wire.exit.ok_or_else(|| Error::unknown("exit", "is of no kind that is known here"))? {
            Wire::Code(code) => Exit::Code(code),
            Wire::Signal(number) => Exit::Signal(number),
            Wire::OutOfMemoryLimitBytes(limit_bytes) => Exit::OutOfMemory { limit_bytes },
            Wire::StartFailed(why) => Exit::StartFailed(why),
            Wire::ShimLost(_) => Exit::ShimLost,
            Wire::Unhealthy(why) => Exit::Unhealthy(why),
        })
    }
}
