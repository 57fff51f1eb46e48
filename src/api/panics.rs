//! A handler that panics fails its own call: the caller is told, the node goes on.

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

#[derive(Clone, Copy, Debug)]
pub(super) struct CatchLayer;

impl<S> Layer<S> for CatchLayer {
    type Service = Catch<S>;
    fn layer(&self, inner: S) -> Catch<S> {
        Catch { inner }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Catch<S> {
    inner: S,
}

impl<S, R> Service<R> for Catch<S>
where
    S: Service<R, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // What a handler shares (the store, the host) is behind locks that poison or tasks of
        // their own: a call that broke off leaves them as a cancelled call does.
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            call.await.unwrap_or_else(|_| {
                tracing::error!("a call of the API panicked");
                let status =
                    Status::internal("a fault in nodectl itself: see the node's log, and please report it");
                Ok(status.into_http())
            })
        })
    }
}
