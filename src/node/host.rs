//! The machine behind the API: its images and its instances.

use crate::agent::containers;
use crate::api::{
    ExecInput, ExecOutput, ExecRequest, ExecSession, Freed, Host, HostError, Image, Layer, Loaded, LogItem,
    LogLine, LogQuery, LogSource, LogStream, Progress,
};
use crate::images::{self, Limits};
use crate::model::ClusterState;
use crate::model::ids::{AppName, Digest, InstanceId, ProcessName};
use crate::runtime::{self, ExecSpec, logs};
use crate::{build, raft};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Pieces of a session's output on their way: a terminal's screen is one or two of them.
const PIECE: usize = 16 * 1024;
/// Between looks at a log that is followed: what a person does not notice.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub struct ThisHost {
    pub containers: containers::Host,
    pub images: images::Store,
    pub raft: raft::Handle,
    /// Images that were loaded a moment ago: kept until their names are surely recorded.
    pub fresh: Fresh,
    pub data_dir: PathBuf,
    pub http_port: u16,
    /// nodectl itself: what serves static sites.
    pub program: PathBuf,
}

/// How long the caller of a load may take to record its names.
const RECORDED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone, Default)]
pub struct Fresh(Arc<Mutex<Vec<(Instant, images::Pin)>>>);

impl Fresh {
    fn keep(&self, pin: Option<images::Pin>) {
        let mut pins = self.0.lock().expect("no panic while it is held");
        pins.retain(|(since, _)| since.elapsed() < RECORDED_WITHIN);
        pins.extend(pin.map(|pin| (Instant::now(), pin)));
    }
}

/// Every image that a name, a release or an instance needs, as the state is at this moment.
fn needed(state: &ClusterState) -> BTreeSet<Digest> {
    let named = state.images.values().map(|image| image.digest.clone());
    named.chain(state.releases.values().map(|release| release.image.clone())).collect()
}

fn image_error(error: images::Error) -> HostError {
    use images::Error;
    let text = super::wiring::chain(error_ref(&error));
    match error {
        Error::Refused { .. } | Error::WrongPlatform { .. } => HostError::Invalid(text),
        Error::NotFound(_) => HostError::NotFound(text),
        Error::DiskFull { .. } => HostError::Exhausted(text),
        Error::NeedsRoot { .. } | Error::InUse { .. } => HostError::Unable(text),
        _ => HostError::Failed(text),
    }
}

/// The upload's own path says nothing to the one who sent it.
fn of_the_upload(mut error: images::Error) -> images::Error {
    use images::Error::{Refused, WrongPlatform};
    if let Refused { what, .. } | WrongPlatform { what, .. } = &mut error {
        *what = "the archive".to_owned();
    }
    error
}

/// The chain's text without giving the error away.
fn error_ref(error: &images::Error) -> std::io::Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    std::io::Error::other(text)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, images::Error> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(image_error),
        Err(error) => Err(HostError::Failed(format!("the image store failed: {error}"))),
    }
}

fn loaded(imported: images::Imported, fresh: &Fresh) -> Loaded {
    fresh.keep(Some(imported.pin));
    Loaded {
        names: imported.names,
        digest: imported.manifest,
        size_bytes: imported.size_bytes,
        platform: imported.platform.to_string(),
    }
}

#[tonic::async_trait]
impl Host for ThisHost {
    fn image_name(&self, written: &str) -> Result<String, String> {
        images::name::normalise(written).map_err(|error| error.to_string())
    }

    fn http_port(&self) -> Option<u16> {
        Some(self.http_port)
    }

    async fn image(&self, digest: &Digest) -> Result<Image, HostError> {
        let (images, digest) = (self.images.clone(), digest.clone());
        blocking(move || images.image(&digest)).await.map(shown)
    }

    async fn load_image(&self, archive: PathBuf, progress: Progress) -> Result<Vec<Loaded>, HostError> {
        let images = self.images.clone();
        let imported = blocking(move || {
            let mut tell = |step: images::Progress| progress.set("unpacking", step.bytes_done);
            images.import(&archive, &Limits::default(), &mut tell).map_err(of_the_upload)
        });
        Ok(imported.await?.into_iter().map(|image| loaded(image, &self.fresh)).collect())
    }

    async fn build_static(&self, archive: PathBuf, progress: Progress) -> Result<Loaded, HostError> {
        let (images, program) = (self.images.clone(), self.program.clone());
        progress.set("building", 0);
        let build = move || build::static_site_archive(&images, &archive, &program, &Limits::default());
        match tokio::task::spawn_blocking(build).await {
            Ok(Ok(image)) => Ok(loaded(image, &self.fresh)),
            Ok(Err(build::Error::Images(error))) => Err(image_error(error)),
            Ok(Err(error)) => Err(HostError::Invalid(super::wiring::chain(error))),
            Err(error) => Err(HostError::Failed(format!("the build failed: {error}"))),
        }
    }

    async fn collect_garbage(&self, keep: BTreeSet<Digest>, dry_run: bool) -> Result<Freed, HostError> {
        let (images, raft) = (self.images.clone(), self.raft.clone());
        self.fresh.keep(None);
        // Read when nothing can be published any more: a name that was recorded since the
        // caller looked counts too.
        let roots = move || &keep | &needed(&raft.view().state);
        let report = blocking(move || if dry_run { images.gc_plan(roots) } else { images.gc(roots) }).await?;
        Ok(Freed {
            blobs: report.blobs_removed as u64,
            layers: report.layers_removed as u64,
            bytes: report.bytes_freed,
        })
    }

    async fn kept_logs(&self, app: &AppName) -> Result<Vec<LogSource>, HostError> {
        let found = logs::sources(&self.data_dir, app.as_str());
        let source = |source: logs::Source| {
            Some(LogSource {
                instance: InstanceId(source.instance),
                process: ProcessName::new(&source.process).ok()?,
                slot: source.slot,
            })
        };
        Ok(found.into_iter().filter_map(source).collect())
    }

    async fn log(&self, instance: InstanceId, query: LogQuery) -> Result<LogStream, HostError> {
        let data_dir = self.data_dir.clone();
        let raft = self.raft.clone();
        // Some lines ahead of a slow reader, not a log.
        let (tell, told) = mpsc::channel(256);
        tokio::spawn(async move {
            let is_gone = || raft.view().state.instance(instance).is_none();
            send_log(&data_dir, instance, &query, &tell, is_gone).await;
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(told)))
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession, HostError> {
        let Some(container) = self.containers.running(request.instance) else {
            return Err(HostError::Unable("the instance does not run now: see `nodectl status`".into()));
        };
        let size = request.size.map_or((24, 80), |size| (size.rows, size.columns));
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let spec = ExecSpec {
            command: request.command,
            env: request.env.into_iter().collect(),
            user: some(request.user),
            cwd: some(request.working_dir),
            terminal: request.terminal.then_some(size),
        };
        let session = container.exec(spec).await.map_err(|error| match error {
            runtime::Error::Command { exit_status, .. } => {
                HostError::Command { text: error.to_string(), exit_status }
            }
            other => HostError::Invalid(super::wiring::chain(other)),
        })?;
        Ok(converse(session))
    }
}

fn shown(image: images::Image) -> Image {
    let config = image.config.config().clone().unwrap_or_default();
    let layers = image.layers.iter().map(|layer| Layer {
        digest: layer.blob.clone(),
        diff_id: layer.diff_id.to_string(),
        size_bytes: layer.blob_bytes,
        media_type: layer.media_type().to_owned(),
    });
    Image {
        platform: image.platform.to_string(),
        layers: layers.collect(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        command: config.cmd().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        exposed_ports: config.exposed_ports().clone().unwrap_or_default(),
        labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        config_json: serde_json::to_vec(&image.config).unwrap_or_default(),
    }
}

/// Sends what the query asks for, then what comes, until the instance or the reader is gone.
async fn send_log(
    data_dir: &std::path::Path,
    instance: InstanceId,
    query: &LogQuery,
    tell: &mpsc::Sender<Result<LogItem, HostError>>,
    is_gone: impl Fn() -> bool,
) {
    let mut reader = logs::reader::Reader::of_instance(data_dir, instance.0, query.earlier_attempts);
    let wanted = logs::reader::Query {
        tail: query.tail.and_then(|tail| usize::try_from(tail).ok()),
        since: query.since_unix_nanos.map(|nanos| UNIX_EPOCH + Duration::from_nanos(nanos)),
    };
    let mut entries = reader.begin(wanted);
    let mut caught_up = false;
    loop {
        let quiet = entries.is_empty();
        for entry in entries {
            if tell.send(Ok(LogItem::Line(line(entry)))).await.is_err() {
                return;
            }
        }
        if !query.follow {
            return;
        }
        if !caught_up {
            caught_up = true;
            if tell.send(Ok(LogItem::CaughtUp)).await.is_err() {
                return;
            }
        }
        if quiet && is_gone() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = tell.closed() => return,
        }
        entries = reader.read_on();
    }
}

fn line(entry: logs::format::Entry) -> LogLine {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    LogLine {
        at_unix_nanos: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        stream: match entry.stream {
            logs::format::Stream::Stdout => 1,
            logs::format::Stream::Stderr => 2,
        },
        line: Bytes::from(entry.text),
        is_partial: entry.partial,
        attempt: entry.attempt,
    }
}

/// A task that carries both ways between the API's channels and the process.
fn converse(mut session: runtime::ExecSession) -> ExecSession {
    // Bounded so that a fast writer waits for a slow reader, both ways.
    let (input, mut asked) = mpsc::channel::<ExecInput>(16);
    let (tell, output) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut stdin = session.take_stdin();
        let out = session.take_stdout().map(|stream| carry(stream, tell.clone(), ExecOutput::Stdout));
        let err = session.take_stderr().map(|stream| carry(stream, tell.clone(), ExecOutput::Stderr));
        let status = loop {
            tokio::select! {
                status = session.wait() => break status,
                said = asked.recv() => match said {
                    // The caller is gone: dropping the session ends the command.
                    None => return,
                    Some(ExecInput::Eof) => stdin = None,
                    Some(ExecInput::Resize(size)) => { let _ = session.resize(size.rows, size.columns); }
                    Some(ExecInput::Signal(number)) => { let _ = session.signal(number).await; }
                    Some(ExecInput::Stdin(bytes)) => {
                        let Some(pipe) = stdin.as_mut() else { continue };
                        tokio::select! {
                            written = pipe.write_all(&bytes) => if written.is_err() { stdin = None },
                            status = session.wait() => break status,
                        }
                    }
                },
            }
        };
        // What it said last is still in the pipes; a child of it may hold them open for ever.
        for stream in [out, err].into_iter().flatten() {
            let _ = tokio::time::timeout(Duration::from_millis(500), stream).await;
        }
        let _ = tell.send(ExecOutput::Exit(status)).await;
    });
    ExecSession { input, output }
}

fn carry(
    mut stream: runtime::exec::client::Output,
    tell: mpsc::Sender<ExecOutput>,
    as_output: fn(Bytes) -> ExecOutput,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if tell.send(as_output(Bytes::copy_from_slice(&buffer[..read]))).await.is_err() {
                return;
            }
        }
    })
}
