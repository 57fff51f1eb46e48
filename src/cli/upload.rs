//! Streams that are sent: a thread reads and packs, the call takes chunks from it as fast as the
//! node does. What fails while reading cancels the call: an archive is never cut short silently.

use super::output::{Out, shows_progress};
use bytes::{Bytes, BytesMut};
use indicatif::{ProgressBar, ProgressStyle};
use std::future::Future;
use std::io::{self, Write};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Large enough that framing costs nothing, far below gRPC's limit of 4 MiB for a message.
const CHUNK: usize = 256 * 1024;

/// Two chunks ahead of the network keep the disk busy; more would only be memory.
const AHEAD: usize = 2;

pub struct Upload {
    pub chunks: ReceiverStream<Bytes>,
    failed: oneshot::Receiver<Failed>,
}

/// The error, and the open end of the channel: while it lives, the node does not see an end.
struct Failed(anyhow::Error, #[allow(dead_code, reason = "held, not read")] mpsc::Sender<Bytes>);

/// Starts a thread that writes what is to be sent.
pub fn spawn_upload(produce: impl FnOnce(&mut dyn Write) -> anyhow::Result<()> + Send + 'static) -> Upload {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (fail, failed) = oneshot::channel();
    std::thread::spawn(move || {
        let mut writer = ChunkWriter { buffer: BytesMut::with_capacity(CHUNK), sender };
        let result = produce(&mut writer).and_then(|()| Ok(writer.flush()?));
        // The receiver is gone: the call has ended, and its own answer says why.
        if let Err(error) = result
            && !writer.sender.is_closed()
        {
            _ = fail.send(Failed(error, writer.sender));
        }
    });
    Upload { chunks: ReceiverStream::new(receiver), failed }
}

impl Upload {
    /// Splits off the chunks, for the request; [`Sending::drive`] then runs the call.
    pub fn split(self) -> (ReceiverStream<Bytes>, Sending) {
        (self.chunks, Sending { failed: self.failed })
    }
}

pub struct Sending {
    failed: oneshot::Receiver<Failed>,
}

impl Sending {
    /// Runs the call that consumes the chunks.
    ///
    /// # Errors
    /// The call's own, or what failed while reading; then the call is dropped, which cancels it.
    pub async fn drive<T>(self, call: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            result = call => result,
            Ok(Failed(error, _open)) = self.failed => Err(error),
        }
    }
}

struct ChunkWriter {
    buffer: BytesMut,
    sender: mpsc::Sender<Bytes>,
}

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK);
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }
}

/// Bytes sent and what the node does with them, drawn for a person on standard error.
#[derive(Clone)]
pub struct TransferBar(ProgressBar);

impl TransferBar {
    /// `total_bytes`: none if it is not known, as for standard input.
    pub fn new(out: &Out, total_bytes: Option<u64>) -> Self {
        if !shows_progress(out) {
            return Self(ProgressBar::hidden());
        }
        let template = match total_bytes {
            Some(_) => "{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
            None => "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
        };
        let bar = total_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(ProgressStyle::with_template(template).expect("the template is constant and good"));
        bar.set_message("sending");
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self(bar)
    }

    pub fn sent(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    /// What the node does now: `receiving`, `verifying`, `unpacking`.
    pub fn stage(&self, stage: &str) {
        let message = if stage == "receiving" { "sending" } else { stage };
        self.0.set_message(message.to_owned());
    }

    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn what_is_written_arrives_whole_and_then_ends() {
        let data: Vec<u8> = (0..CHUNK * 2 + 5).map(|n| n as u8).collect();
        let expected = data.clone();
        let (chunks, sending) = spawn_upload(move |writer| Ok(writer.write_all(&data)?)).split();
        let got = sending.drive(async { Ok(chunks.collect::<Vec<_>>().await) }).await.expect("no error");
        assert_eq!(got.concat(), expected);
    }

    #[tokio::test]
    async fn a_read_that_fails_cancels_the_call_before_it_sees_an_end() {
        let produce = |writer: &mut dyn Write| {
            writer.write_all(b"half")?;
            anyhow::bail!("the disk is gone")
        };
        let (mut chunks, sending) = spawn_upload(produce).split();
        let call = async {
            while chunks.next().await.is_some() {}
            Ok("the call saw an end")
        };
        assert_eq!(sending.drive(call).await.expect_err("an error").to_string(), "the disk is gone");
    }
}
