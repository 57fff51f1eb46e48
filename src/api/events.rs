//! The event watch: resumes after any event, in order, each once.

use super::stream::{Reply, stopped};
use super::{Api, Fault, View, Watch, target, tenant};
use crate::model::event::{Event, EventRing};
use crate::model::ids::TenantName;
use crate::model::target::Target;
use crate::proto::v1;
use prost::Message;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// One message: enough that a long catch-up is quick, far below the limit of a message.
const BATCH_EVENTS_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

#[tonic::async_trait]
impl v1::events_server::Events for Api {
    type WatchStream = Reply<v1::EventBatch>;

    async fn watch(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let tenant = tenant(&request.tenant)?;
        let only = match request.target.as_str() {
            "" => None,
            text => Some(target::parse(text)?),
        };
        let place = Place { index: request.after_index, sub: request.after_sub };
        let mut reader = Reader { tenant, only, place, is_first: true };
        if !request.follow {
            let view = self.view(false).await?;
            let batches = std::iter::from_fn(move || reader.next(&view, true)).map(Ok);
            return Ok(Response::new(self.until_stopped(futures_util::stream::iter(batches))));
        }
        let watch = self.store.watch();
        Ok(Response::new(self.until_stopped(follow(reader, watch))))
    }
}

/// Batches as they come. A view is read only when the last batch of the one before is taken:
/// a slow client costs one view, and is told with `gap` what the ring forgot meanwhile.
fn follow(
    reader: Reader,
    watch: Box<dyn Watch>,
) -> impl futures_util::Stream<Item = Result<v1::EventBatch, Fault>> + Send {
    futures_util::stream::unfold(Some((reader, watch, None::<View>)), |following| async move {
        let (mut reader, mut watch, mut view) = following?;
        loop {
            if let Some(batch) = view.as_ref().and_then(|view| reader.next(view, false)) {
                return Some((Ok(batch), Some((reader, watch, view))));
            }
            // Let go of the old view before waiting: a quiet watch must not hold the past in memory.
            drop(view.take());
            view = watch.changed().await;
            if view.is_none() {
                return Some((Err(stopped()), None));
            }
        }
    })
}

/// A place in the sequence of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    index: u64,
    sub: u32,
}

impl Place {
    fn of(event: &Event) -> Self {
        Place { index: event.index, sub: event.sub }
    }
}

/// What one client has seen, and what it wants to see.
struct Reader {
    tenant: TenantName,
    only: Option<Target>,
    place: Place,
    is_first: bool,
}

impl Reader {
    /// The next batch of a view; `None` when there is nothing (more) in it. With `always`,
    /// the first is given even if empty, since it carries the place to resume from.
    fn next(&mut self, view: &View, always: bool) -> Option<v1::EventBatch> {
        let gap = has_gap(&view.events, self.place);
        let mut batch = v1::EventBatch { gap, ..v1::EventBatch::default() };
        let mut bytes = 0;
        let mut is_full = false;
        for event in view.events.after(self.place.index, self.place.sub) {
            is_full = batch.events.len() >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX;
            if is_full {
                break;
            }
            self.place = Place::of(event);
            if self.wants(event) {
                let message = v1::Event::from(&**event);
                bytes += message.encoded_len();
                batch.events.push(message);
            }
        }
        // Everything up to the view's index has been seen, also when it was no event.
        if !is_full && self.place.index < view.state.index {
            self.place = Place { index: view.state.index, sub: u32::MAX };
        }
        (batch.index, batch.sub) = (self.place.index, self.place.sub);
        let first = std::mem::take(&mut self.is_first);
        (!batch.events.is_empty() || batch.gap || (always && first)).then_some(batch)
    }

    fn wants(&self, event: &Arc<Event>) -> bool {
        if event.app.as_ref().is_some_and(|app| app.tenant != self.tenant) {
            return false;
        }
        let Some(only) = &self.only else { return true };
        let Some(app) = &event.app else { return false };
        if app.app != only.app {
            return false;
        }
        // An app's own events name the app; an instance's name the instance.
        match Target::parse(&event.target) {
            Ok(of) => {
                only.process.as_ref().is_none_or(|process| of.process.as_ref() == Some(process))
                    && only.slot.is_none_or(|slot| of.slot == Some(slot))
            }
            Err(_) => only.process.is_none(),
        }
    }
}

/// Whether the ring has forgotten events after `place`. From the beginning (index 0) means
/// "all that is kept", which is never a gap.
fn has_gap(events: &EventRing, place: Place) -> bool {
    place.index > 0 && events.forgot_after(place.index, place.sub)
}
