//! One connection from the node to its proxy: frames out, frames in, and the table that was
//! sent last, so that only differences travel.

use super::{ANSWER_TIMEOUT, convert, wire};
use crate::model::routes::RoutingTable;
use std::io;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// One connection to one proxy.
pub struct Link {
    writer: OwnedWriteHalf,
    pub frames: mpsc::Receiver<io::Result<Option<wire::Body>>>,
    reader: AbortHandle,
    /// What the proxy was sent last on this connection; deltas are made against it.
    sent: Option<Arc<RoutingTable>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Link {
    /// Takes over a copy of a connected socket; tasks run on the current runtime.
    ///
    /// # Errors
    /// The socket can't be copied or watched.
    pub fn open(stream: &std::os::unix::net::UnixStream) -> io::Result<Self> {
        let stream = stream.try_clone()?;
        stream.set_nonblocking(true)?;
        let (mut reader, writer) = UnixStream::from_std(stream)?.into_split();
        // The proxy may not run ahead of the node by more than this many events.
        let (send, frames) = mpsc::channel(64);
        let reader = tokio::spawn(async move { pump(&mut reader, send).await }).abort_handle();
        Ok(Link { writer, frames, reader, sent: None })
    }

    pub async fn send(&mut self, body: wire::Body) -> io::Result<()> {
        let bytes = wire::encode(body);
        match tokio::time::timeout(ANSWER_TIMEOUT, self.writer.write_all(&bytes)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The difference to what was sent before, or the whole table the first time.
    pub async fn send_table(&mut self, table: Option<Arc<RoutingTable>>) -> io::Result<()> {
        let Some(table) = table else { return Ok(()) };
        match &self.sent {
            Some(sent) if sent.version >= table.version => Ok(()),
            Some(sent) => {
                let delta = convert::delta_to_wire(&sent.difference(&table));
                self.sent = Some(table);
                self.send(wire::Body::Delta(delta)).await
            }
            None => self.send_table_whole(Some(table)).await,
        }
    }

    pub async fn send_table_whole(&mut self, table: Option<Arc<RoutingTable>>) -> io::Result<()> {
        let Some(table) = table else { return Ok(()) };
        let body = wire::Body::Table(convert::table_to_wire(&table));
        self.sent = Some(table);
        self.send(body).await
    }
}

async fn pump(reader: &mut OwnedReadHalf, frames: mpsc::Sender<io::Result<Option<wire::Body>>>) {
    loop {
        let frame = wire::read(reader).await;
        let last = frame.is_err();
        if frames.send(frame).await.is_err() || last {
            return;
        }
    }
}
