//! The runtime and the images behind the agent's verbs.

use super::{Adopted, Containers, Ended};
use crate::images;
use crate::model::app::{Check, ProcessSpec, StopPolicy, UserNamespace};
use crate::model::ids::InstanceId;
use crate::model::instance::Exit;
use crate::model::project::Assignment;
use crate::runtime::{self, Container, ExecSpec, Launch, Runtime, State};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Lines of a log that a failed attempt leaves in its report.
const LAST_WORDS: usize = 10;

/// The containers of this host that run or are about to.
#[derive(Clone)]
pub struct Host {
    runtime: Runtime,
    images: images::Store,
    running: Arc<Mutex<BTreeMap<(InstanceId, u32), Watched>>>,
    ended: mpsc::UnboundedSender<Ended>,
    /// Held by each start while it goes on; `true` once nothing more is to start.
    is_closed: Arc<tokio::sync::RwLock<bool>>,
}

/// A container, and whether its watcher has removed all that was left of it.
#[derive(Clone)]
struct Watched {
    container: Container,
    removed: watch::Receiver<bool>,
}

impl Watched {
    async fn stop(&self, signal: Option<i32>, grace: Option<Duration>) {
        self.container.stop(signal, grace).await;
        // A watcher that is gone without a word ended with the node.
        let _ = self.removed.clone().wait_for(|removed| *removed).await;
    }
}

impl Host {
    /// The containers over `runtime`, and where their ends are told.
    pub fn new(runtime: Runtime, images: images::Store) -> (Host, mpsc::UnboundedReceiver<Ended>) {
        // Unbounded: one message for each container that ends.
        let (ended, ends) = mpsc::unbounded_channel();
        (Host { runtime, images, running: Arc::default(), ended, is_closed: Arc::default() }, ends)
    }

    /// Finds what outlived an earlier life of this node. What has ended meanwhile is told
    /// like any other end.
    pub async fn adopt(&self) -> Vec<Adopted> {
        let mut newest: BTreeMap<InstanceId, Container> = BTreeMap::new();
        for container in self.runtime.adopt().await {
            let older = match newest.get(&container.instance()) {
                Some(known) if known.attempt() >= container.attempt() => Some(container),
                _ => newest.insert(container.instance(), container),
            };
            if let Some(older) = older {
                remove(&older).await;
            }
        }
        let mut adopted = Vec::new();
        for container in newest.into_values() {
            adopted.push(Adopted {
                instance: container.instance(),
                attempt: container.attempt(),
                ip: container.address(),
            });
            self.watch(container);
        }
        adopted
    }

    /// A running container of the instance, if there is one.
    pub fn running(&self, instance: InstanceId) -> Option<Container> {
        let running = self.running.lock().expect("no panic while it is held");
        let newest = running.range((instance, 0)..=(instance, u32::MAX)).next_back();
        newest.map(|(_, watched)| watched.container.clone())
    }

    /// Stops every container, each by its own policy, also one that is just being started, and
    /// starts no other: the end of a `dev` node.
    pub async fn stop_all(&self) {
        *self.is_closed.write().await = true;
        let all: Vec<Watched> =
            self.running.lock().expect("no panic while it is held").values().cloned().collect();
        let mut stops = tokio::task::JoinSet::new();
        for watched in all {
            stops.spawn(async move { watched.stop(None, None).await });
        }
        while stops.join_next().await.is_some() {}
    }

    fn get(&self, instance: InstanceId, attempt: u32) -> Option<Watched> {
        self.running.lock().expect("no panic while it is held").get(&(instance, attempt)).cloned()
    }

    /// Waits for its end in a task of its own, removes what is left, and tells.
    fn watch(&self, container: Container) {
        let key = (container.instance(), container.attempt());
        let (tell_removed, removed) = watch::channel(false);
        let watched = Watched { container: container.clone(), removed };
        self.running.lock().expect("no panic while it is held").insert(key, watched);
        let host = self.clone();
        tokio::spawn(async move {
            let exit = container.wait().await;
            let log_tail = host.last_words_of(&container);
            remove(&container).await;
            host.running.lock().expect("no panic while it is held").remove(&key);
            tell_removed.send_replace(true);
            let _ = host.ended.send(Ended { instance: key.0, attempt: key.1, exit: exit_of(exit), log_tail });
        });
    }

    fn last_words_of(&self, container: &Container) -> Vec<String> {
        let Some(dir) = self.runtime.log_dir(container.name()) else { return Vec::new() };
        runtime::logs::reader::last_words(&dir, container.key(), LAST_WORDS)
    }

    async fn launch(&self, assignment: &Assignment, attempt: u32) -> Result<Launch, String> {
        let process = assignment.process().ok_or("its release does not know its process")?.clone();
        let (images, digest) = (self.images.clone(), assignment.release.image.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let image = images.image(&digest)?;
            let layers = images.unpack(&digest)?;
            Ok::<_, images::Error>((image, layers))
        });
        let (image, layers) =
            unpacked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let instance = &assignment.instance;
        Ok(Launch {
            instance: instance.id,
            attempt,
            name: instance.name(),
            hostname: format!("{}-{}-{}", instance.app, instance.process, instance.slot),
            layers,
            image: image.config.config().clone().unwrap_or_default(),
            command: process.command.clone(),
            env: environment(assignment, &process),
            resources: runtime::Resources {
                cpu_milli: u32::try_from(process.cpu_milli).ok(),
                cpu_max_milli: process.cpu_max_milli.and_then(|milli| u32::try_from(milli).ok()),
                memory_bytes: Some(process.memory_bytes),
                pids_max: u32::try_from(process.pids_max).ok(),
            },
            read_only_root: process.read_only_root,
            user_namespace: match process.user_namespace {
                UserNamespace::Private => runtime::UserNamespace::Private,
                UserNamespace::Host => runtime::UserNamespace::Host,
            },
            stop: runtime::Stop { signal: process.stop.signal, grace: process.stop.grace },
            hosts: Vec::new(),
        })
    }
}

/// The app's, overlaid by the process's; then what the platform says, which neither may change.
fn environment(assignment: &Assignment, process: &ProcessSpec) -> Vec<(String, String)> {
    let instance = &assignment.instance;
    let mut env = assignment.release.spec.env.clone();
    env.extend(process.env.clone());
    if let Some(port) = process.port {
        env.insert("PORT".into(), port.to_string());
    }
    env.insert("NODECTL_APP".into(), instance.app.to_string());
    env.insert("NODECTL_PROCESS".into(), instance.process.to_string());
    env.insert("NODECTL_INSTANCE".into(), instance.name());
    env.insert("NODECTL_RELEASE".into(), format!("v{}", instance.release));
    env.into_iter().collect()
}

async fn remove(container: &Container) {
    if let Err(error) = container.remove().await {
        tracing::warn!(%error, container = container.key(), "something of a container is left");
    }
}

fn exit_of(exit: runtime::Exit) -> Exit {
    match exit {
        runtime::Exit::Code(code) => Exit::Code(code),
        runtime::Exit::Signal { number } => Exit::Signal(number),
        runtime::Exit::OutOfMemory { limit_bytes } => Exit::OutOfMemory { limit_bytes },
        runtime::Exit::ShimLost => Exit::ShimLost,
        runtime::Exit::StartFailed(why) => Exit::StartFailed(why),
    }
}

/// Why a container did not start, to follow `could not start: `.
fn start_failure(error: runtime::Error) -> String {
    match error {
        runtime::Error::Container { why, .. } => plain_cause(&why),
        other => format!("{:#}", anyhow::Error::new(other)),
    }
}

/// What libcontainer says of a program that it can't execute, in words for whoever wrote the
/// app; it has no types for it. Other causes stay as they are.
fn plain_cause(why: &str) -> String {
    let program = |before: &str| {
        let (_, rest) = why.split_once(before)?;
        rest.split_once('\'').map(|(program, after)| (program.to_owned(), after))
    };
    match program("executable '") {
        Some((name, after)) if after.starts_with(" not found") => {
            format!("its image has no program `{name}`; {TO_CHECK}")
        }
        Some((name, _)) => format!("`{name}` in its image is not executable; {TO_CHECK}"),
        None => why.to_owned(),
    }
}

const TO_CHECK: &str =
    "check the image's entrypoint and command (`nodectl image inspect`), and `command` in the manifest";

impl Containers for Host {
    async fn start(&self, assignment: &Assignment, attempt: u32) -> Result<Option<SocketAddr>, String> {
        let is_closed = self.is_closed.read().await;
        if *is_closed {
            return Err("its node is stopping".into());
        }
        let launch = self.launch(assignment, attempt).await?;
        let container = self.runtime.start(launch).await.map_err(start_failure)?;
        let port = assignment.process().and_then(|process| process.port);
        let address = container.address().zip(port).map(|(ip, port)| SocketAddr::new(ip, port));
        self.watch(container);
        Ok(address)
    }

    async fn stop(&self, instance: InstanceId, attempt: u32, policy: &StopPolicy) {
        let Some(watched) = self.get(instance, attempt) else { return };
        watched.stop(policy.signal, Some(policy.grace)).await;
    }

    async fn kill(&self, instance: InstanceId, attempt: u32) {
        if let Some(watched) = self.get(instance, attempt) {
            watched.container.kill().await;
        }
    }

    fn last_words(&self, instance: InstanceId, attempt: u32) -> Vec<String> {
        self.get(instance, attempt).map(|watched| self.last_words_of(&watched.container)).unwrap_or_default()
    }

    async fn probe(
        &self,
        instance: InstanceId,
        attempt: u32,
        address: Option<SocketAddr>,
        check: &Check,
        timeout: Duration,
    ) -> Result<(), String> {
        match check {
            Check::Command { command } => {
                let container = self.get(instance, attempt).ok_or("it does not run")?.container;
                if container.state() != State::Running {
                    return Err("it does not run".into());
                }
                let command = command.clone();
                super::ask::command(&container, ExecSpec { command, ..ExecSpec::default() }, timeout).await
            }
            Check::Tcp => super::ask::tcp(address.ok_or("it has no address")?, timeout).await,
            Check::Http { path } => {
                super::ask::http(address.ok_or("it has no address")?, path, timeout).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plain_cause;

    #[test]
    fn a_program_that_is_missing_is_told_plainly() {
        let long = "could not create the container: failed to create container: exec process failed with \
                    error error in executing process : executable ";
        for (why, told) in [
            (
                format!("{long}'/app/server' not found in $PATH"),
                "its image has no program `/app/server`; check",
            ),
            (
                format!("{long}'x' at path '\"/bin/x\"' does not have correct permissions"),
                "`x` in its image is not executable; check",
            ),
            ("could not mount".into(), "could not mount"),
        ] {
            assert!(plain_cause(&why).starts_with(told), "{}", plain_cause(&why));
        }
    }
}
