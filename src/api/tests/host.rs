//! A machine of the tests: images and logs in memory, an exec that echoes.
//!
//! An "archive" is a text: each line names an image (`-` is one without a name); `refuse`
//! makes the import fail, `hang` makes it wait forever.

use crate::api::*;
use crate::model::ids::{AppName, Digest, InstanceId};
use bytes::Bytes;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::sync::{mpsc, watch};

#[derive(Default)]
pub struct TestHost {
    images: Mutex<BTreeMap<Digest, Image>>,
    /// Written by the tests; a follower wakes at each line.
    logs: Mutex<BTreeMap<InstanceId, watch::Sender<Vec<LogLine>>>>,
    pub kept: Mutex<Vec<LogSource>>,
    pub collected: Mutex<Option<(BTreeSet<Digest>, bool)>>,
    /// How many imports have reached the machine, and hang there.
    pub hanging: watch::Sender<u32>,
    /// How each exec ended that was not ended by its command.
    pub hung_up: watch::Sender<u32>,
    pub exec: Mutex<Option<ExecRequest>>,
}

impl TestHost {
    pub fn add_image(&self, platform: &str, ports: &[&str], entrypoint: &[&str]) -> Digest {
        let strings = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let image = Image {
            platform: platform.into(),
            exposed_ports: strings(ports),
            entrypoint: strings(entrypoint),
            ..Image::default()
        };
        let digest = digest_of(format!("{image:?}").as_bytes());
        self.images.lock().expect("no panic").insert(digest.clone(), image);
        digest
    }

    pub fn platform(&self, digest: &Digest) -> String {
        self.images.lock().expect("no panic")[digest].platform.clone()
    }

    pub fn write_log(&self, instance: u64, at: u64, text: &str) {
        let line = LogLine {
            at_unix_nanos: at,
            stream: 1,
            line: Bytes::copy_from_slice(text.as_bytes()),
            is_partial: false,
            attempt: 1,
        };
        let mut logs = self.logs.lock().expect("no panic");
        logs.entry(InstanceId(instance)).or_default().send_modify(|lines| lines.push(line));
    }

    /// The instance is gone: who follows its log comes to its end.
    pub fn end_log(&self, instance: u64) {
        self.logs.lock().expect("no panic").remove(&InstanceId(instance));
    }
}

pub fn digest_of(content: &[u8]) -> Digest {
    Digest::new(&format!("sha256:{}", hex::encode(Sha256::digest(content)))).expect("a digest")
}

#[tonic::async_trait]
impl Host for TestHost {
    fn image_name(&self, written: &str) -> Result<String, String> {
        if written.contains(' ') {
            return Err(format!("{written:?} is no image name"));
        }
        Ok(if written.contains(':') { written.to_owned() } else { format!("{written}:latest") })
    }

    fn http_port(&self) -> Option<u16> {
        Some(8080)
    }

    async fn image(&self, digest: &Digest) -> Result<Image, HostError> {
        let image = self.images.lock().expect("no panic").get(digest).cloned();
        let image = image.ok_or_else(|| HostError::NotFound(format!("{digest} is not here")))?;
        assert_ne!(image.platform, "panic", "a fault that the test wants");
        Ok(image)
    }

    async fn load_image(&self, archive: PathBuf, progress: Progress) -> Result<Vec<Loaded>, HostError> {
        let text = std::fs::read_to_string(archive).expect("the upload is there");
        match text.as_str() {
            "refuse" => return Err(HostError::Invalid("layer 1 has a path with ..".into())),
            "hang" => {
                self.hanging.send_modify(|n| *n += 1);
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        progress.set("unpacking", text.len() as u64);
        let image = |(at, name): (usize, &str)| Loaded {
            names: if name == "-" { Vec::new() } else { vec![name.to_owned()] },
            digest: digest_of(format!("{at}{text}").as_bytes()),
            size_bytes: text.len() as u64,
            platform: "linux/amd64".into(),
        };
        Ok(text.lines().enumerate().map(image).collect())
    }

    async fn build_static(&self, archive: PathBuf, _: Progress) -> Result<Loaded, HostError> {
        let content = std::fs::read(archive).expect("the upload is there");
        Ok(Loaded {
            names: Vec::new(),
            digest: digest_of(&content),
            size_bytes: 1,
            platform: "linux/amd64".into(),
        })
    }

    async fn collect_garbage(&self, keep: BTreeSet<Digest>, dry_run: bool) -> Result<Freed, HostError> {
        *self.collected.lock().expect("no panic") = Some((keep, dry_run));
        Ok(Freed { blobs: 1, layers: 2, bytes: 3 })
    }

    async fn kept_logs(&self, _: &AppName) -> Result<Vec<LogSource>, HostError> {
        Ok(self.kept.lock().expect("no panic").clone())
    }

    async fn log(&self, instance: InstanceId, query: LogQuery) -> Result<LogStream, HostError> {
        let lines = self.logs.lock().expect("no panic").entry(instance).or_default().subscribe();
        let kept = lines.borrow().clone();
        let skip = query.tail.map_or(0, |tail| kept.len().saturating_sub(tail as usize));
        let since = query.since_unix_nanos.unwrap_or(0);
        let next = kept.len();
        let kept = kept.into_iter().skip(skip).filter(move |line| line.at_unix_nanos >= since);
        let kept = futures_util::stream::iter(kept.map(LogItem::Line).map(Ok).collect::<Vec<_>>());
        if !query.follow {
            return Ok(Box::pin(kept));
        }
        let caught_up = futures_util::stream::iter([Ok(LogItem::CaughtUp)]);
        let live = futures_util::stream::unfold((lines, next), |(mut lines, next)| async move {
            let line = lines.wait_for(|lines| lines.len() > next).await.ok()?[next].clone();
            Some((Ok(LogItem::Line(line)), (lines, next + 1)))
        });
        Ok(Box::pin(kept.chain(caught_up).chain(live)))
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecSession, HostError> {
        if request.command[0] == "absent" {
            let text = "shop/web.1 has no command `absent`".into();
            return Err(HostError::Command { text, exit_status: 127 });
        }
        *self.exec.lock().expect("no panic") = Some(request);
        let (input, mut inputs) = mpsc::channel(4);
        let (outputs, output) = mpsc::channel(4);
        let hung_up = self.hung_up.clone();
        tokio::spawn(async move {
            while let Some(input) = inputs.recv().await {
                let said = match input {
                    ExecInput::Stdin(data) => ExecOutput::Stdout(data),
                    ExecInput::Resize(size) => {
                        ExecOutput::Stderr(format!("{}x{}", size.rows, size.columns).into())
                    }
                    ExecInput::Signal(number) => ExecOutput::Exit(128 + number),
                    ExecInput::Eof => ExecOutput::Exit(0),
                };
                let is_over = matches!(said, ExecOutput::Exit(_));
                if outputs.send(said).await.is_err() || is_over {
                    return;
                }
            }
            hung_up.send_modify(|n| *n += 1);
        });
        Ok(ExecSession { input, output })
    }
}
