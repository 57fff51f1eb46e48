//! The node's end of an exec: streams, resize, signals, the exit status.

use super::pty::Master;
use super::{Order, Refused, Say, Word};
use crate::runtime::exe::SealedExe;
use crate::runtime::{protocol, sys};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// What to run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    pub command: Vec<String>,
    /// Over the container's own environment.
    pub env: Vec<(String, String)>,
    /// `None`: the image's user.
    pub user: Option<String>,
    /// `None`: the image's working directory.
    pub cwd: Option<String>,
    /// (rows, columns); `None` is three pipes and no terminal.
    pub terminal: Option<(u16, u16)>,
}

/// Why a command does not run.
#[derive(Debug)]
pub enum OpenError {
    /// There is none of that name, or it can't be executed: as a shell would say it, with its status.
    Refused {
        status: i32,
        why: String,
    },
    Failed(String),
}

impl From<String> for OpenError {
    fn from(why: String) -> Self {
        OpenError::Failed(why)
    }
}

pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A process in a container. Dropping it kills the process.
pub struct ExecSession {
    socket: UnixStream,
    buffer: Vec<u8>,
    master: Option<Master>,
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    status: Option<i32>,
}

impl ExecSession {
    /// Executes the command; returns when it runs, or with the reason why it doesn't.
    pub(crate) async fn open(
        exe: &SealedExe,
        folder: &Path,
        pid: i32,
        start_time: u64,
        spec: ExecSpec,
    ) -> Result<Self, OpenError> {
        if spec.command.is_empty() {
            return Err("no command was given".to_owned().into());
        }
        let text = |error: io::Error| error.to_string();
        let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(text)?;
        let mut child = tokio::process::Command::new(exe.path())
            .arg0("nodectl")
            .arg("exec-helper")
            .arg(folder)
            .args([pid.to_string(), start_time.to_string()])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("could not start the helper process: {error}"))?;
        tokio::spawn(async move { child.wait().await });

        let (streams, remote) = match spec.terminal {
            Some(_) => (Streams::default(), Vec::new()),
            None => Streams::pipes().map_err(text)?,
        };
        send_order(&ours, &order(&spec), &remote).map_err(text)?;
        drop(remote);
        ours.set_nonblocking(true).map_err(text)?;
        let socket = UnixStream::from_std(ours).map_err(text)?;
        let Streams { stdin, stdout, stderr } = streams;
        let mut session =
            Self { socket, buffer: Vec::new(), master: None, stdin, stdout, stderr, status: None };
        let mut descriptors = Vec::new();
        match session.hear(&mut descriptors).await.map_err(text)? {
            Say::Started(_) => {}
            Say::Failed(why) => return Err(why.into()),
            Say::Refused(Refused { status, why }) => return Err(OpenError::Refused { status, why }),
            _ => return Err("the helper process said something else".to_owned().into()),
        }
        if spec.terminal.is_some() {
            let master = descriptors.pop().ok_or_else(|| "the helper process sent no terminal".to_owned())?;
            let master = Master::new(master).map_err(text)?;
            session.stdin = Some(Box::new(master.clone()));
            session.stdout = Some(Box::new(master.clone()));
            session.master = Some(master);
        }
        Ok(session)
    }

    /// Its standard input, once; dropping it is the end of file (not on a terminal).
    pub fn take_stdin(&mut self) -> Option<Input> {
        self.stdin.take()
    }

    /// Its standard output, or all of a terminal's; once.
    pub fn take_stdout(&mut self) -> Option<Output> {
        self.stdout.take()
    }

    /// Its standard error; a terminal has none of its own.
    pub fn take_stderr(&mut self) -> Option<Output> {
        self.stderr.take()
    }

    /// The window changed; nothing without a terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.master.as_ref().map_or(Ok(()), |master| master.resize(rows, columns))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub async fn signal(&mut self, number: i32) -> io::Result<()> {
        let word = Word { say: Some(Say::Signal(number)) };
        tokio::io::AsyncWriteExt::write_all(&mut self.socket, &protocol::frame(&word)).await
    }

    /// Its exit status: 128 + n when a signal ended it, 137 when its container ended.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait(&mut self) -> i32 {
        while self.status.is_none() {
            match self.hear(&mut Vec::new()).await {
                Ok(Say::Exited(code)) => self.status = Some(code),
                Ok(_) => {}
                Err(_) => self.status = Some(128 + libc::SIGKILL),
            }
        }
        self.status.unwrap_or_default()
    }

    async fn hear(&mut self, descriptors: &mut Vec<OwnedFd>) -> io::Result<Say> {
        loop {
            if let Some(say) = protocol::take::<Word>(&mut self.buffer)?.and_then(|word| word.say) {
                return Ok(say);
            }
            self.socket.readable().await?;
            let received = self.socket.try_io(Interest::READABLE, || receive(&self.socket, descriptors));
            match received {
                Ok(bytes) if bytes.is_empty() => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the helper process ended"));
                }
                Ok(bytes) => self.buffer.extend_from_slice(&bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Default)]
struct Streams {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Streams {
    /// Our ends, and those of the process: standard input, output, error.
    fn pipes() -> io::Result<(Self, Vec<OwnedFd>)> {
        let make = sys::pipe;
        let nonblocking = |fd: OwnedFd| rustix::io::ioctl_fionbio(&fd, true).map(|()| fd);
        let ((stdin, in_write), (out_read, stdout), (err_read, stderr)) = (make()?, make()?, make()?);
        let streams = Self {
            stdin: Some(Box::new(pipe::Sender::from_owned_fd(nonblocking(in_write)?)?)),
            stdout: Some(Box::new(pipe::Receiver::from_owned_fd(nonblocking(out_read)?)?)),
            stderr: Some(Box::new(pipe::Receiver::from_owned_fd(nonblocking(err_read)?)?)),
        };
        Ok((streams, vec![stdin, stdout, stderr]))
    }
}

fn order(spec: &ExecSpec) -> Order {
    let (rows, columns) = spec.terminal.unwrap_or_default();
    Order {
        args: spec.command.clone(),
        env: spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        user: spec.user.clone().unwrap_or_default(),
        cwd: spec.cwd.clone().unwrap_or_default(),
        terminal: spec.terminal.is_some(),
        rows: rows.into(),
        columns: columns.into(),
    }
}

/// Sends the order, with descriptors, in one message; a fresh socket's buffer takes it whole.
pub(super) fn send_order(
    socket: &impl AsFd,
    order: &impl prost::Message,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    let frame = protocol::frame(order);
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&frame)], &mut control, SendFlags::NOSIGNAL)?;
    if sent < frame.len() {
        return Err(io::Error::other("the command and its environment are too long"));
    }
    Ok(())
}

/// Receives bytes, and descriptors where some come along; no bytes is the end.
pub(super) fn receive(socket: &impl AsFd, descriptors: &mut Vec<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.truncate(received.bytes);
    Ok(bytes)
}
