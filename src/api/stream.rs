//! Streams to clients: boxed, ended when the server stops, and told apart from a clean end.

use super::{Api, Fault};
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use tonic::Status;

pub(super) type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    /// The stream, ended with a reason when the server stops: a watch would hold it up
    /// forever, and a client must not take the end for the end of what it watched.
    pub(super) fn until_stopped<T: Send + 'static>(
        &self,
        inner: impl Stream<Item = Result<T, Fault>> + Send + 'static,
    ) -> Reply<T> {
        let stopping = self.stopping.clone();
        Box::pin(stream::unfold(Some(Box::pin(inner)), move |inner| {
            let stopping = stopping.clone();
            async move {
                let mut inner = inner?;
                tokio::select! {
                    biased;
                    item = inner.next() => match item? {
                        Ok(item) => Some((Ok(item), Some(inner))),
                        Err(fault) => Some((Err(fault.into()), None)),
                    },
                    () = stopping.cancelled() => Some((Err(stopped().into()), None)),
                }
            }
        }))
    }
}

pub(super) fn stopped() -> Fault {
    Fault::Unavailable("the node is stopping: watch again when it is back".into())
}
