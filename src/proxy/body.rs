//! The bodies that pass through, as concrete types: what goes to a backend, what goes to a
//! client. Frames are handed on one at a time, so that each side's flow control reaches the
//! other, and nothing is kept.

use super::backend::{Lease, Sender};
use super::guard::Watched;
use super::stats::{ServiceCounters, count};
use super::tick;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A client's body on its way to a backend. Shared with the request's own task, which takes
/// it back when an attempt ended before a byte of it was taken.
#[derive(Debug)]
pub struct Upload {
    body: RefCell<Incoming>,
    touched: Cell<bool>,
    broken: Cell<bool>,
    progress_ms: Cell<u64>,
    counters: Rc<ServiceCounters>,
}

impl Upload {
    pub fn new(body: Incoming, counters: Rc<ServiceCounters>) -> Self {
        let (touched, progress_ms) = (Cell::new(false), Cell::new(tick::now_ms()));
        Self { body: RefCell::new(body), touched, broken: Cell::new(false), progress_ms, counters }
    }

    /// The client broke it off, or framed it wrongly: no backend is to blame for what follows.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Some of it is gone: it can't be sent again.
    pub fn is_touched(&self) -> bool {
        self.touched.get()
    }

    /// Since bytes were last taken.
    pub fn quiet_ms(&self) -> u64 {
        tick::now_ms().saturating_sub(self.progress_ms.get())
    }
}

/// What a backend is sent.
#[derive(Debug)]
pub enum Outgoing {
    Empty,
    Upload(Rc<Upload>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Outgoing::Upload(upload) = self.get_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *upload.body.borrow_mut()).poll_frame(cx));
        upload.touched.set(true);
        upload.progress_ms.set(tick::now_ms());
        upload.broken.set(matches!(frame, Some(Err(_))) || upload.is_broken());
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            count(&upload.counters.bytes_in, data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Empty => true,
            Outgoing::Upload(upload) => upload.body.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Empty => SizeHint::with_exact(0),
            Outgoing::Upload(upload) => upload.body.borrow().size_hint(),
        }
    }
}

/// A request being answered: counted until the last byte of its answer has been handed on.
#[derive(Debug)]
pub struct Active {
    watched: Arc<Watched>,
    counters: Option<Rc<ServiceCounters>>,
}

impl Active {
    pub fn new(watched: Arc<Watched>) -> Self {
        Self { watched, counters: None }
    }

    /// It is this service's.
    pub fn belongs_to(&mut self, counters: &Rc<ServiceCounters>) {
        count(&counters.in_flight, 1);
        self.counters = Some(Rc::clone(counters));
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.watched.request_ends();
        if let Some(counters) = &self.counters {
            counters.in_flight.set(counters.in_flight.get().saturating_sub(1));
        }
    }
}

/// A backend's body on its way to the client. Holds the connection that it comes from, and
/// gives it back when the body has ended well.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    source: Option<(Sender, Lease)>,
    counters: Rc<ServiceCounters>,
    _active: Active,
}

impl Download {
    pub fn new(
        body: Incoming,
        sender: Sender,
        lease: Lease,
        counters: Rc<ServiceCounters>,
        active: Active,
    ) -> Self {
        Self { body, source: Some((sender, lease)), counters, _active: active }
    }

    fn finish(&mut self) {
        let Some((mut sender, lease)) = self.source.take() else { return };
        if sender.is_ready() {
            lease.backend().give_back(sender);
        } else if !sender.is_closed() {
            // Its task has not come round yet, or still writes the request: see it through,
            // uncounted, for a moment.
            let backend = Rc::clone(lease.backend());
            tokio::task::spawn_local(async move {
                if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), sender.ready()).await {
                    backend.give_back(sender);
                }
            });
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
        // Else the connection has more to say that nobody wants: it closes with its sender.
    }
}

/// What a client is sent.
#[derive(Debug)]
pub enum Reply {
    Empty {
        _active: Active,
    },
    /// Written by the proxy itself.
    Page {
        page: Option<Bytes>,
        _active: Active,
    },
    Download(Download),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Reply::Empty { .. } => Poll::Ready(None),
            Reply::Page { page, .. } => Poll::Ready(page.take().map(|page| Ok(Frame::data(page)))),
            Reply::Download(download) => {
                let frame = ready!(Pin::new(&mut download.body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            count(&download.counters.bytes_out, data.len() as u64);
                        }
                    }
                    None => download.finish(),
                    // The connection is broken: it goes with its sender.
                    Some(Err(_)) => drop(download.source.take()),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Empty { .. } => true,
            Reply::Page { page, .. } => page.is_none(),
            Reply::Download(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Empty { .. } => SizeHint::with_exact(0),
            Reply::Page { page, .. } => {
                SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64))
            }
            Reply::Download(download) => download.body.size_hint(),
        }
    }
}
