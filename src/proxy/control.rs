//! The proxy's end of the control socket. It holds the routing table as the node last sent
//! it, and passes tables, gates and questions on to the workers. The newest connection is
//! the node; an older one is closed. Without any, everything goes on as it is.

use super::stats::Stats;
use super::worker::{self, ToWorker};
use super::{Limits, convert, descriptors, wire};
use crate::model::ids::InstanceId;
use crate::model::routes::{DeltaRefused, RoutingTable};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

/// A node knows its first table within some milliseconds of its start; one that does not is in
/// trouble, and its clients should hear an answer.
const TABLE_WITHIN: Duration = Duration::from_secs(10);

/// What the process has when it comes up.
pub struct Control {
    pub http: Vec<TcpListener>,
    pub listener: UnixListener,
    pub workers: Vec<worker::Handle>,
    pub table: Option<Arc<RoutingTable>>,
    pub node_uid: u32,
    pub limits: Limits,
}

/// The connection to the node.
struct Link {
    number: u64,
    /// Answers on their way; bounded, since a node that does not read gets no more.
    out: mpsc::Sender<wire::Body>,
    tasks: [AbortHandle; 2],
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Runs until asked to end; calls `ready` once it can be told of tables. Clients wait in the
/// listeners' queues until there is one, [`TABLE_WITHIN`] at most.
///
/// # Errors
/// The control socket or the signals can't be had.
pub async fn run(
    mut control: Control,
    table: Option<RoutingTable>,
    closed_gates: Vec<wire::CloseGate>,
    mut troubles: mpsc::Receiver<wire::Trouble>,
    ready: impl FnOnce(),
) -> io::Result<()> {
    control.listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(control.listener.try_clone()?)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Caught and let go: a closed terminal is no reason to end. (SIGPIPE is ignored by std.)
    let mut hangup = signal(SignalKind::hangup())?;
    for gate in &closed_gates {
        control.tell_all(|| ToWorker::CloseGate {
            instance: InstanceId(gate.instance),
            attempt: gate.attempt,
            closed: oneshot::channel().0,
        });
    }
    if let Some(table) = table {
        control.serve(table).await;
    }
    // Not before there is a table: who waited while there was no proxy must find it.
    let mut is_open = control.table.is_some();
    if is_open {
        control.tell_all(|| ToWorker::Accept);
    }
    let patience = tokio::time::sleep(TABLE_WITHIN);
    tokio::pin!(patience);
    ready();

    let (frames, mut incoming) = mpsc::channel(64);
    let mut link: Option<Link> = None;
    let mut links = 0;
    let drain = loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if !control.is_node(&stream) {
                    continue;
                }
                links += 1;
                match control.greet(stream, links, frames.clone()).await {
                    Ok(fresh) => link = Some(fresh),
                    Err(error) => tracing::debug!(%error, "could not greet the node"),
                }
            }
            Some((number, frame)) = incoming.recv() => {
                let Some(current) = link.as_ref().filter(|link| link.number == number) else { continue };
                match frame {
                    Some(wire::Body::Shutdown(drain)) => break Duration::from_millis(drain.value),
                    Some(body) => control.handle(body, &current.out).await,
                    None => link = None,
                }
                if !is_open && control.table.is_some() {
                    is_open = true;
                    control.tell_all(|| ToWorker::Accept);
                }
            }
            () = &mut patience, if !is_open => {
                is_open = true;
                control.tell_all(|| ToWorker::Accept);
            }
            Some(trouble) = troubles.recv() => {
                if let Some(link) = &link {
                    // A hint: the node loses nothing when it does not keep up.
                    let _ = link.out.try_send(wire::Body::Trouble(trouble));
                }
            }
            _ = hangup.recv() => {}
            _ = terminate.recv() => break control.limits.shutdown_drain,
            _ = interrupt.recv() => break control.limits.shutdown_drain,
        }
    };
    control.drain(drain).await;
    Ok(())
}

impl Control {
    /// Whether the process at the other end runs as the node did that started this proxy.
    fn is_node(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.node_uid || peer.uid() == 0)
    }

    /// Says hello, with a copy of every listener.
    async fn greet(
        &self,
        stream: UnixStream,
        number: u64,
        frames: mpsc::Sender<(u64, Option<wire::Body>)>,
    ) -> io::Result<Link> {
        let listeners = self.http.iter().map(|l| l.local_addr().map(|a| a.to_string()));
        let hello = wire::Hello {
            protocol: wire::PROTOCOL,
            pid: std::process::id(),
            table: self.table.as_ref().map(|table| convert::version_to_wire(table.version)),
            listeners: listeners.collect::<io::Result<_>>()?,
            release: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut passed = vec![self.listener.as_fd()];
        passed.extend(self.http.iter().map(AsFd::as_fd));
        let bytes = wire::encode(wire::Body::Hello(hello));
        let sent =
            stream.async_io(Interest::WRITABLE, || descriptors::send_first(&stream, &bytes, &passed)).await?;
        let (mut reader, mut writer) = stream.into_split();
        writer.write_all(&bytes[sent..]).await?;
        let (out, mut outgoing) = mpsc::channel::<wire::Body>(1024);
        let writes = tokio::spawn(async move {
            while let Some(body) = outgoing.recv().await {
                if writer.write_all(&wire::encode(body)).await.is_err() {
                    return;
                }
            }
        });
        let reads = tokio::spawn(async move {
            loop {
                let body = match wire::read(&mut reader).await {
                    Ok(None) => continue,
                    Ok(Some(body)) => Some(body),
                    Err(_) => None,
                };
                let ended = body.is_none();
                if frames.send((number, body)).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Link { number, out, tasks: [writes.abort_handle(), reads.abort_handle()] })
    }

    async fn handle(&mut self, body: wire::Body, out: &mpsc::Sender<wire::Body>) {
        let answer = match body {
            wire::Body::Ping(number) => Some(wire::Body::Pong(number)),
            wire::Body::Table(table) => match convert::table_from_wire(table) {
                Ok(table) => self.take_table(table).await,
                Err(error) => {
                    tracing::error!(%error, "refused a table");
                    None
                }
            },
            wire::Body::Delta(delta) => self.take_delta(delta).await,
            wire::Body::CloseGate(gate) => {
                self.close_gate(gate, out.clone());
                None
            }
            wire::Body::AskStats(number) => Some(wire::Body::Stats(self.stats().await.to_wire(number.value))),
            // What only a proxy says, or a later version.
            _ => None,
        };
        if let Some(answer) = answer {
            // The writer is gone only when the link is.
            let _ = out.send(answer).await;
        }
    }

    async fn take_table(&mut self, table: RoutingTable) -> Option<wire::Body> {
        let held = self.table.as_ref().map(|table| table.version);
        match held {
            Some(held) if held >= table.version => Some(held),
            _ => Some(self.serve(table).await),
        }
        .map(|version| wire::Body::TableServed(convert::version_to_wire(version)))
    }

    async fn take_delta(&mut self, delta: wire::Delta) -> Option<wire::Body> {
        let Ok(delta) = convert::delta_from_wire(delta) else {
            tracing::error!("refused a table's difference");
            return None;
        };
        let mut table = self.table.as_deref().cloned().unwrap_or_default();
        let version = match table.apply(delta) {
            Ok(()) => self.serve(table).await,
            Err(DeltaRefused::Stale { held, .. }) => held,
            Err(DeltaRefused::OtherBase { held, .. }) => {
                return Some(wire::Body::NeedTable(convert::version_to_wire(held)));
            }
        };
        Some(wire::Body::TableServed(convert::version_to_wire(version)))
    }

    /// Hands the table to every worker and waits until each serves it.
    async fn serve(&mut self, table: RoutingTable) -> crate::model::ids::ViewVersion {
        let version = table.version;
        let table = Arc::new(table);
        self.table = Some(Arc::clone(&table));
        let mut served = Vec::new();
        self.tell_all(|| {
            let (done, wait) = oneshot::channel();
            served.push(wait);
            ToWorker::Table { table: Arc::clone(&table), done }
        });
        for worker in served {
            // Lost only with the worker.
            let _ = worker.await;
        }
        version
    }

    /// Closes the gate on every worker; the answer follows when nothing is in flight.
    fn close_gate(&self, gate: wire::CloseGate, out: mpsc::Sender<wire::Body>) {
        let (instance, attempt) = (InstanceId(gate.instance), gate.attempt);
        let mut waits = Vec::new();
        self.tell_all(|| {
            let (closed, wait) = oneshot::channel();
            waits.push(wait);
            ToWorker::CloseGate { instance, attempt, closed }
        });
        let workers = self.workers.clone();
        tokio::spawn(async move {
            let all = async {
                for wait in waits {
                    let _ = wait.await;
                }
            };
            let mut in_flight = 0;
            if tokio::time::timeout(Duration::from_millis(gate.drain_ms), all).await.is_err() {
                for worker in &workers {
                    let (reply, count) = oneshot::channel();
                    worker.tell(ToWorker::InFlight { instance, attempt, reply });
                    in_flight += count.await.unwrap_or(0);
                }
            }
            let answer = wire::GateClosed { request: gate.request, in_flight };
            // The node asks again on its next connection.
            let _ = out.send(wire::Body::GateClosed(answer)).await;
        });
    }

    async fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for worker in &self.workers {
            let (reply, stats) = oneshot::channel();
            worker.tell(ToWorker::Stats { reply });
            if let Ok(stats) = stats.await {
                sum.add(stats);
            }
        }
        sum
    }

    fn tell_all(&self, mut message: impl FnMut() -> ToWorker) {
        for worker in &self.workers {
            worker.tell(message());
        }
    }

    /// No new connections; what is there ends, or is ended after `patience`.
    async fn drain(&mut self, patience: Duration) {
        self.http.clear();
        let mut ends = Vec::new();
        self.tell_all(|| {
            let (drained, wait) = oneshot::channel();
            ends.push(wait);
            ToWorker::Drain { drained }
        });
        let all = async {
            for end in ends {
                let _ = end.await;
            }
        };
        // Either way the process ends now.
        let _ = tokio::time::timeout(patience, all).await;
    }
}
