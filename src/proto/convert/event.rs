//! Events.

use super::{Error, Within, ms, node_id, timestamp};
use crate::model::event::{Event, EventKind};
use crate::model::ids::{AppKey, InstanceId};
use crate::proto::v1;

impl From<&Event> for v1::Event {
    fn from(event: &Event) -> Self {
        v1::Event {
            index: event.index,
            sub: event.sub,
            at_ms: ms(event.at),
            kind: event.kind.as_str().to_owned(),
            app: event.app.as_ref().map(Into::into),
            instance: event.instance.map(|id| id.0),
            target: event.target.clone(),
            node_id: event.node.map(|id| id.to_string()),
            message: event.message.clone(),
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = Error;
    fn try_from(event: v1::Event) -> Result<Self, Error> {
        Ok(Event {
            index: event.index,
            sub: event.sub,
            at: timestamp(event.at_ms),
            kind: EventKind::from_name(&event.kind)
                .ok_or_else(|| Error::unknown("kind", format!("has the unknown value {:?}", event.kind)))?,
            app: event.app.map(AppKey::try_from).transpose().within("app")?,
            instance: event.instance.map(InstanceId),
            target: event.target,
            node: event.node_id.map(|id| node_id(&id, "node_id")).transpose()?,
            message: event.message,
        })
    }
}
