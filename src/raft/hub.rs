//! Hands each applied batch to whoever watches: the newest view, and for each watcher what was
//! touched since it last looked. A watcher that sleeps costs a set of keys, never a queue.

use crate::model::ClusterState;
use crate::model::command::Touched;
use crate::model::event::EventRing;
use crate::model::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

/// The state at one log index, and the newest events. Cheap to clone; it never changes.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub state: ClusterState,
    pub events: EventRing,
}

/// The store has been shut down, or has failed: there will be no newer view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

#[derive(Clone)]
pub(super) struct Hub {
    inner: Arc<Mutex<Inner>>,
    /// Raised with each batch; wakes the watchers.
    wake: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    view: View,
    closed: bool,
    next_watcher: u64,
    /// `None`: has seen everything.
    watchers: BTreeMap<u64, Option<Touched>>,
}

impl Hub {
    pub fn new(view: View) -> Self {
        let inner = Inner { view, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), wake: watch::Sender::new(0) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while the hub is locked")
    }

    pub fn view(&self) -> View {
        self.inner().view.clone()
    }

    /// Cluster time, as far as it was applied.
    pub fn now(&self) -> Timestamp {
        self.inner().view.state.now
    }

    /// One batch was applied.
    pub fn publish(&self, view: View, touched: &Touched) {
        let mut inner = self.inner();
        for slot in inner.watchers.values_mut() {
            merge(slot.get_or_insert_default(), touched);
        }
        inner.view = view;
        drop(inner);
        self.wake.send_modify(|n| *n += 1);
    }

    /// Another state took the place of this one: everything of both is touched.
    pub fn replace(&self, view: View) {
        let mut touched = everything(&view.state);
        touched.merge(everything(&self.inner().view.state));
        self.publish(view, &touched);
    }

    pub fn close(&self) {
        self.inner().closed = true;
        self.wake.send_modify(|n| *n += 1);
    }

    pub fn subscribe(&self) -> Subscription {
        let mut inner = self.inner();
        let id = inner.next_watcher;
        inner.next_watcher += 1;
        let all = everything(&inner.view.state);
        inner.watchers.insert(id, Some(all));
        Subscription { id, hub: self.clone(), wake: self.wake.subscribe() }
    }
}

fn merge(into: &mut Touched, more: &Touched) {
    into.apps.extend(more.apps.iter().cloned());
    into.nodes.extend(more.nodes.iter().copied());
    into.images |= more.images;
}

fn everything(state: &ClusterState) -> Touched {
    Touched {
        apps: state.apps.keys().cloned().collect(),
        nodes: state.nodes.keys().copied().collect(),
        images: true,
    }
}

/// A watcher's place. Its first [`Subscription::changed`] returns at once, with everything.
pub struct Subscription {
    id: u64,
    hub: Hub,
    wake: watch::Receiver<u64>,
}

impl Subscription {
    /// The newest view, once it is newer than what was last returned here, and what was touched
    /// in between.
    ///
    /// # Errors
    /// [`Closed`] once the store is shut down and the last view was returned.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it has taken nothing.
    pub async fn changed(&mut self) -> Result<(View, Touched), Closed> {
        loop {
            self.wake.mark_unchanged();
            {
                let mut inner = self.hub.inner();
                let pending = inner.watchers.get_mut(&self.id).and_then(Option::take);
                if let Some(touched) = pending {
                    return Ok((inner.view.clone(), touched));
                }
                if inner.closed {
                    return Err(Closed);
                }
            }
            self.wake.changed().await.map_err(|_| Closed)?;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.inner().watchers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::NodeId;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn touched(node: u128) -> Touched {
        Touched { nodes: [NodeId(node)].into(), ..Touched::default() }
    }

    fn at(index: u64) -> View {
        let mut view = View::default();
        view.state.index = index;
        view
    }

    fn poll(subscription: &mut Subscription) -> Poll<Result<(u64, Touched), Closed>> {
        let future = pin!(subscription.changed());
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .map(|result| result.map(|(view, touched)| (view.state.index, touched)))
    }

    #[test]
    fn a_watcher_gets_everything_first_then_what_was_touched_since_it_looked() {
        let hub = Hub::new(at(3));
        let mut subscription = hub.subscribe();
        let all = Touched { images: true, ..Touched::default() };
        assert_eq!(poll(&mut subscription), Poll::Ready(Ok((3, all))));
        assert_eq!(poll(&mut subscription), Poll::Pending);
        hub.publish(at(4), &touched(1));
        hub.publish(at(5), &touched(2));
        let both = Touched { nodes: [NodeId(1), NodeId(2)].into(), ..Touched::default() };
        assert_eq!(poll(&mut subscription), Poll::Ready(Ok((5, both))));
        assert_eq!(poll(&mut subscription), Poll::Pending);
    }

    #[test]
    fn a_dropped_wait_loses_nothing_and_closing_comes_last() {
        let hub = Hub::new(at(0));
        let mut subscription = hub.subscribe();
        let _ = poll(&mut subscription);
        assert_eq!(poll(&mut subscription), Poll::Pending);
        hub.publish(at(1), &touched(7));
        drop(subscription.changed());
        hub.close();
        assert_eq!(poll(&mut subscription), Poll::Ready(Ok((1, touched(7)))));
        assert_eq!(poll(&mut subscription), Poll::Ready(Err(Closed)));
        drop(subscription);
        assert!(hub.inner().watchers.is_empty());
    }
}
