//! What the API asks of the machine that it runs on: its images and its instances. The node
//! room answers over `images` and `runtime`, which this room does not know.
//!
//! Every text in a [`HostError`] is read by a person.

use crate::model::ids::{AppName, Digest, InstanceId, ProcessName};
use crate::model::manifest::ImageFacts;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio_stream::Stream;

pub type LogStream = std::pin::Pin<Box<dyn Stream<Item = Result<LogItem, HostError>> + Send>>;

#[tonic::async_trait]
pub trait Host: Send + Sync + 'static {
    /// The normal form of an image's name: `shop` is `shop:latest`. Pure.
    ///
    /// # Errors
    /// What is wrong with the name.
    fn image_name(&self, written: &str) -> Result<String, String>;

    /// The port on which this node's proxy answers HTTP; `None` while it does not.
    fn http_port(&self) -> Option<u16>;

    /// Reads a stored image.
    async fn image(&self, digest: &Digest) -> Result<Image, HostError>;

    /// Verifies, stores and unpacks an archive. The file stays the caller's. Dropping the
    /// future may leave content for [`Host::collect_garbage`], never a half image.
    async fn load_image(&self, archive: PathBuf, progress: Progress) -> Result<Vec<Loaded>, HostError>;

    /// Makes an image that serves the folder whose tar this is.
    async fn build_static(&self, archive: PathBuf, progress: Progress) -> Result<Loaded, HostError>;

    /// Frees what no image of `keep` needs and no import is making; with `dry_run` only counts it.
    async fn collect_garbage(&self, keep: BTreeSet<Digest>, dry_run: bool) -> Result<Freed, HostError>;

    /// Instances of the app whose logs are kept here, those that are gone too, oldest first.
    async fn kept_logs(&self, app: &AppName) -> Result<Vec<LogSource>, HostError>;

    /// One instance's log, oldest first. Ends at what is written, or with `follow` when the
    /// instance is gone. An instance that has not written yet has an empty log.
    async fn log(&self, instance: InstanceId, query: LogQuery) -> Result<LogStream, HostError>;

    /// Starts a command in a running instance, confined as the instance is.
    async fn exec(&self, request: ExecRequest) -> Result<ExecSession, HostError>;
}

/// An image as it is stored here.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub platform: String,
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub env: Vec<String>,
    /// As the image says them: `8080/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub config_json: Vec<u8>,
}

impl Image {
    pub fn facts(&self) -> ImageFacts {
        let tcp = |text: &String| match text.split_once('/') {
            Some((port, "tcp")) => port.parse().ok(),
            None => text.parse().ok(),
            Some(_) => None,
        };
        let ports: BTreeSet<u16> =
            self.exposed_ports.iter().filter_map(tcp).filter(|port| *port != 0).collect();
        ImageFacts {
            tcp_ports: ports.into_iter().collect(),
            has_command: !self.entrypoint.is_empty() || !self.command.is_empty(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub digest: Digest,
    pub diff_id: String,
    pub size_bytes: u64,
    pub media_type: String,
}

/// What an archive held.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// In normal form; none when the archive names none.
    pub names: Vec<String>,
    pub digest: Digest,
    pub size_bytes: u64,
    pub platform: String,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Freed {
    pub blobs: u64,
    pub layers: u64,
    pub bytes: u64,
}

/// Where an import says how far it is. Latest wins: an import never waits for its watcher.
#[derive(Clone, Debug)]
pub struct Progress(tokio::sync::watch::Sender<Step>);

/// A stage of an import, for people: `verifying`, `unpacking`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub stage: &'static str,
    pub bytes: u64,
}

impl Progress {
    pub fn new() -> (Self, tokio::sync::watch::Receiver<Step>) {
        let (sender, receiver) = tokio::sync::watch::channel(Step::default());
        (Self(sender), receiver)
    }

    pub fn set(&self, stage: &'static str, bytes: u64) {
        self.0.send_replace(Step { stage, bytes });
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    pub instance: InstanceId,
    pub process: ProcessName,
    pub slot: u32,
}

#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Lines from the end; `None`: all that is kept.
    pub tail: Option<u64>,
    /// Only lines at or after.
    pub since_unix_nanos: Option<u64>,
    pub follow: bool,
    /// What earlier attempts of the instance wrote, too; else the last attempt alone.
    pub earlier_attempts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    Line(LogLine),
    /// With `follow`, once: what was kept has been sent, what comes is new.
    CaughtUp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub at_unix_nanos: u64,
    /// 1 stdout, 2 stderr.
    pub stream: u32,
    /// Without the line's end; not always UTF-8.
    pub line: Bytes,
    /// The line goes on in the next entry of this stream.
    pub is_partial: bool,
    pub attempt: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    pub instance: InstanceId,
    pub command: Vec<String>,
    pub terminal: bool,
    /// Rows and columns, with a terminal.
    pub size: Option<TerminalSize>,
    pub env: BTreeMap<String, String>,
    /// Empty: the image's.
    pub user: String,
    /// Empty: the image's.
    pub working_dir: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// A command that runs. Dropping `input` without `Eof` means that the caller is gone: the
/// host hangs the command up.
#[derive(Debug)]
pub struct ExecSession {
    pub input: mpsc::Sender<ExecInput>,
    /// Ends after `Exit`.
    pub output: mpsc::Receiver<ExecOutput>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    Stdin(Bytes),
    Eof,
    Resize(TerminalSize),
    Signal(i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Exit status, 128 + n after signal n.
    Exit(i32),
    /// The session broke: the text says how.
    Failed(String),
}

/// Why the machine could not; each text is a sentence that says what to try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("{0}")]
    NotFound(String),
    /// The caller's input: a hostile archive, a bad command.
    #[error("{0}")]
    Invalid(String),
    /// Not now or not here: the instance does not run, the kernel lacks something.
    #[error("{0}")]
    Unable(String),
    /// Disk full, a limit reached.
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    Failed(String),
    /// A command that the instance does not have (127) or can't execute (126).
    #[error("{text}")]
    Command { text: String, exit_status: u8 },
}
