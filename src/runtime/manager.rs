//! The node's side of containers: start them through shims, find them again, clean up.
//!
//! Everything on disk is named by (instance, attempt). A run folder (on a tmpfs) exists from
//! before a container's first resource to after its last, so a sweep that goes by run folders
//! misses nothing. What belongs to another node on this host has another tag, and is not touched.

use crate::runtime::cgroup::{self, Place};
use crate::runtime::container::{Container, Link, exit_record};
use crate::runtime::exe::SealedExe;
use crate::runtime::exit;
use crate::runtime::ids::{self, Pool};
use crate::runtime::launch::{self, Launch, LogLimits, ORDER_FORMAT, Order, ProcessError, UserNamespace};
use crate::runtime::logs;
use crate::runtime::nameservers;
use crate::runtime::protocol::{self, Snapshot, Verb};
use crate::runtime::reclaim::Remains;
use crate::runtime::seccomp::{self, Program};
use crate::runtime::wiring::{Attachment, Wiring};
use crate::runtime::{shim, spawn, spec};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Where containers live on this host.
#[derive(Clone)]
pub struct Config {
    /// On a tmpfs: run folders with orders (which hold the environment), sockets, exit records.
    pub run_dir: PathBuf,
    /// On a disk: writable layers and logs.
    pub data_dir: PathBuf,
    /// Short and unique for each data folder; names control groups and who owns an id range.
    pub tag: String,
    pub log_limits: LogLimits,
    /// Shared by all nodes of the host, on a tmpfs: see [`ids`].
    pub id_pool_dir: PathBuf,
    pub id_base: u32,
    /// The group below which ours are made: `""`, or what systemd delegated to us.
    pub cgroup_parent: String,
    /// What shims execute; `None` is a copy of this process's own binary.
    pub exe: Option<SealedExe>,
    pub wiring: Arc<dyn Wiring>,
}

impl Config {
    /// The usual places for a data folder; `tag` tells nodes of one host apart.
    pub fn new(data_dir: PathBuf, tag: &str, wiring: Arc<dyn Wiring>) -> Self {
        Self {
            run_dir: Path::new("/run/nodectl").join(tag),
            data_dir,
            tag: tag.to_owned(),
            log_limits: LogLimits::default(),
            id_pool_dir: "/run/nodectl/ids".into(),
            id_base: ids::DEFAULT_BASE,
            cgroup_parent: String::new(),
            exe: None,
            wiring,
        }
    }
}

/// Why containers can't be run here, or one couldn't.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("containers need root: run this as root, or with sudo")]
    NotRoot,
    #[error(
        "this host has no control groups at /sys/fs/cgroup: mount them (systemd does), or boot with cgroups enabled"
    )]
    NoControlGroups(#[source] io::Error),
    #[error(
        "this host cannot mount overlayfs ({0}): load the kernel module with `modprobe overlay`, or put the data folder on ext4 or xfs"
    )]
    NoOverlay(String),
    #[error(
        "{name} needs a user namespace of its own, which this host cannot give it ({why}): use Linux 5.19 or later and put the data folder on ext4, xfs or btrfs, or set user-namespace = \"host\" for this process"
    )]
    NoIdMap { name: String, why: String },
    #[error("could not {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("could not start the helper process")]
    Spawn(#[source] io::Error),
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    #[error("{name} cannot run")]
    Process { name: String, source: ProcessError },
    #[error("{name:?} is not of the form app/process.slot")]
    Name { name: String },
    #[error("instance {key} exists already")]
    Exists { key: String },
    /// A command that a container does not have, or can't execute.
    #[error("{name} {why}")]
    Command { name: String, why: String, exit_status: u8 },
    #[error("could not {action} {name}: {why}")]
    Container { action: &'static str, name: String, why: String },
}

pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// Containers on this host. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: Config,
    pub(crate) exe: SealedExe,
    pub(crate) wiring: Arc<dyn Wiring>,
    ids: Pool,
    base: Place,
    seccomp: Vec<Program>,
    /// Why private user namespaces can't be had; `None` when they can.
    no_idmap: Option<String>,
}

/// A shim makes a container in milliseconds; a host that needs this long is not well.
const CREATE_DEADLINE: Duration = Duration::from_secs(60);

impl Runtime {
    /// Checks the host and lays out the folders. Starts and stops nothing: see [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// What the host lacks, and what to do about it.
    pub async fn open(config: Config) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let layout = cgroup::layout().map_err(Error::NoControlGroups)?;
        for dir in [&config.run_dir, &config.data_dir.join("scratch")] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(io_error("make the folder", dir))?;
        }
        let exe = match config.exe.clone() {
            Some(exe) => exe,
            None => SealedExe::of_self().map_err(Error::Spawn)?,
        };
        let no_idmap = spawn::probe(&exe, &config.data_dir).await?;
        let ids = Pool::open(config.id_pool_dir.clone(), config.id_base, &config.tag)
            .map_err(io_error("make the folder", &config.id_pool_dir))?;
        let base = Place { layout, path: format!("{}/nodectl-{}", config.cgroup_parent, config.tag) };
        let seccomp = seccomp::default_programs(&spec::CAPABILITY_NUMBERS)?;
        let wiring = config.wiring.clone();
        Ok(Self { inner: Arc::new(Inner { config, exe, wiring, ids, base, seccomp, no_idmap }) })
    }

    /// Why private user namespaces can't be had on this host; `None` when they can.
    pub fn why_no_user_namespaces(&self) -> Option<&str> {
        self.inner.no_idmap.as_deref()
    }

    /// Where the logs of `app/process.slot` are.
    pub fn log_dir(&self, name: &str) -> Option<PathBuf> {
        logs::dir(&self.inner.config.data_dir, name)
    }

    /// Creates, connects and starts a container. On any failure nothing is left of it.
    ///
    /// # Errors
    /// The launch makes no sense, or the host refuses: the text is for people.
    ///
    /// # Cancel safety
    /// When dropped, what was begun is finished and then removed.
    pub async fn start(&self, launch: Launch) -> Result<Container, Error> {
        let (tell, told) = oneshot::channel();
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let started = inner.start(launch).await;
            if let Err(Ok(unwanted)) = tell.send(started) {
                let _ = unwanted.remove().await;
            }
        });
        told.await.unwrap_or_else(|_| Err(Error::Spawn(io::Error::other("the node is shutting down"))))
    }

    /// Finds the containers of an earlier life of this node: running ones are watched again,
    /// ended ones tell how, half-made and orphaned ones are removed. Call once, before any start.
    pub async fn adopt(&self) -> Vec<Container> {
        let mut containers = Vec::new();
        let entries = fs::read_dir(&self.inner.config.run_dir).into_iter().flatten().flatten();
        let keys: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for key in keys {
            match self.inner.adopt(&key).await {
                Some(container) => containers.push(container),
                None => {
                    let remains = self.inner.remains(&key, None);
                    let _ = self.inner.wiring.detach(&key).await;
                    let _ = tokio::task::spawn_blocking(move || remains.reclaim()).await;
                }
            }
        }
        let keep: BTreeSet<String> = containers.iter().map(|c| c.key().to_owned()).collect();
        let inner = self.inner.clone();
        let _ = tokio::task::spawn_blocking(move || inner.sweep(&keep)).await;
        containers
    }

    /// Removes the groups and the folder that hold containers' ones, when none is left;
    /// otherwise leaves all as it is, for the next node to adopt.
    pub async fn close(self) {
        // The shim of a removed container, or the maker of one whose shim was killed, may be in
        // its last moments, and hold its group: ten seconds, for a slow machine's many mounts.
        for _ in 0..2000 {
            if self.inner.remove_empty_groups() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = fs::remove_dir(&self.inner.config.run_dir);
    }
}

impl Inner {
    async fn start(self: Arc<Self>, launch: Launch) -> Result<Container, Error> {
        let key = format!("{}.{}", launch.instance, launch.attempt);
        let mut order = self.order(&launch, &key)?;
        let folder = self.folder(&key);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists { key }),
            made => made.map_err(io_error("make the folder", &folder))?,
        }
        let mut remains = self.remains(&key, None);
        let mut shim_ended = None;
        let started = self.clone().run(&mut order, &mut remains, &launch, &mut shim_ended).await;
        if started.is_err() {
            let _ = self.wiring.detach(&key).await;
            let cgroup = remains.cgroup.clone();
            let _ = tokio::task::spawn_blocking(move || cgroup.destroy(Duration::from_secs(10))).await;
            // Without its container a shim ends, and its mounts with it.
            if let Some(ended) = shim_ended {
                let _ = tokio::time::timeout(Duration::from_secs(10), ended).await;
            }
            let _ = tokio::task::spawn_blocking(move || remains.reclaim()).await;
        }
        started
    }

    async fn run(
        self: Arc<Self>,
        order: &mut Order,
        remains: &mut Remains,
        launch: &Launch,
        shim_ended: &mut Option<JoinHandle<()>>,
    ) -> Result<Container, Error> {
        let failed = |why: String| Error::Container { action: "start", name: launch.name.clone(), why };
        if launch.user_namespace == UserNamespace::Private {
            if let Some(why) = &self.no_idmap {
                return Err(Error::NoIdMap { name: launch.name.clone(), why: why.clone() });
            }
            let range = self.ids.take(&remains.key).map_err(|error| failed(error.to_string()))?;
            (order.id_base, remains.id_base) = (Some(range.base), Some(range.base));
        }
        let file = remains.folder.join(shim::ORDER);
        let bytes = serde_json::to_vec(order).map_err(|error| failed(error.to_string()))?;
        fs::write(&file, bytes).map_err(io_error("write", &file))?;

        let (mut socket, ended) = spawn::shim(&self.exe, &remains.folder).map_err(Error::Spawn)?;
        *shim_ended = Some(ended);
        let mut buffer = Vec::new();
        let snapshot = tokio::time::timeout(CREATE_DEADLINE, Link::hear(&mut socket, &mut buffer))
            .await
            .unwrap_or_else(|_| Err("the host took too long".to_owned()))
            .map_err(&failed)?;
        let attachment = self.plug(&remains.key, snapshot.pid).await.map_err(&failed)?;
        let address = attachment.map(|a| a.address);
        let start = protocol::Start {
            hosts: hosts(&launch.hostname, address, &launch.hosts),
            address: address.map(|a| a.to_string()).unwrap_or_default(),
        };
        let link = Link::open(socket, buffer, true, remains.clone());
        link.ask(Verb::Start(start)).await.map_err(&failed)?;
        Ok(Container::new(self.clone(), order.clone(), remains.clone(), &snapshot, address, link))
    }

    async fn plug(&self, key: &str, pid: i32) -> Result<Option<Attachment>, String> {
        let netns =
            File::open(format!("/proc/{pid}/ns/net")).map_err(|e| format!("its network is gone: {e}"))?;
        self.wiring
            .attach(key, netns.into())
            .await
            .map_err(|why| format!("could not connect its network: {why}"))
    }

    fn order(&self, launch: &Launch, key: &str) -> Result<Order, Error> {
        let cannot = |source| Error::Process { name: launch.name.clone(), source };
        let image_signal = launch.image.stop_signal().as_deref().and_then(exit::parse_signal);
        let log_dir = logs::dir(&self.config.data_dir, &launch.name);
        Ok(Order {
            format: ORDER_FORMAT,
            instance: launch.instance.0,
            attempt: launch.attempt,
            name: launch.name.clone(),
            hostname: launch.hostname.clone(),
            layers: launch.layers.clone(),
            scratch: self.scratch(key),
            log_dir: log_dir.ok_or_else(|| Error::Name { name: launch.name.clone() })?,
            log_limits: self.config.log_limits,
            cgroup: self.base.child(key),
            args: launch::args(&launch.image, launch.command.as_deref()).map_err(cannot)?,
            env: launch::env(&launch.image, &launch.env).map_err(cannot)?,
            cwd: launch::cwd(&launch.image).map_err(cannot)?,
            volumes: launch::volumes(&launch.image),
            user: launch.image.user().clone().unwrap_or_default(),
            resources: launch.resources,
            read_only_root: launch.read_only_root,
            id_base: None,
            stop_signal: launch.stop.signal.or(image_signal).unwrap_or(libc::SIGTERM),
            stop_grace_ms: u64::try_from(launch.stop.grace.as_millis()).unwrap_or(u64::MAX),
            resolv_conf: nameservers::resolv_conf(self.wiring.gateway(), &nameservers::of_host()),
            hosts: launch.hosts.clone(),
            seccomp: self.seccomp.clone(),
        })
    }

    /// A container by what its run folder holds; `None` when only remains are left of it.
    async fn adopt(self: &Arc<Self>, key: &str) -> Option<Container> {
        let folder = self.folder(key);
        let order: Order = serde_json::from_slice(&fs::read(folder.join(shim::ORDER)).ok()?).ok()?;
        let remains = self.remains(key, order.id_base);
        let link = match spawn::connect(&folder).await {
            Some((socket, buffer, snapshot)) => {
                if !snapshot.started {
                    // Half made when its node died: no network, perhaps, and nobody waits for it.
                    Link::open(socket, buffer, false, remains).abandon().await;
                    return None;
                }
                let address = snapshot.address.parse().ok();
                let link = Link::open(socket, buffer, snapshot.started, remains.clone());
                return Some(Container::new(self.clone(), order, remains, &snapshot, address, link));
            }
            None => Link::ended(exit_record(&folder)?),
        };
        Some(Container::new(self.clone(), order, remains, &Snapshot::default(), None, link))
    }

    /// False while only shims that are about to end keep a group. Never kills.
    fn remove_empty_groups(&self) -> bool {
        let shims = self.base.child("shims");
        for dir in shims.dirs().into_iter().chain(self.base.dirs()) {
            let _ = fs::remove_dir(dir);
        }
        let has_containers = fs::read_dir(&self.config.run_dir).is_ok_and(|mut left| left.next().is_some());
        has_containers || self.base.dirs().is_empty()
    }

    fn sweep(&self, keep: &BTreeSet<String>) {
        self.ids.sweep(|key| keep.contains(key));
        for entry in fs::read_dir(self.config.data_dir.join("scratch")).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|key| !keep.contains(key)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let groups: BTreeSet<String> = (self.base.dirs().iter())
            .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name != "shims" && !keep.contains(name))
            .collect();
        for name in groups {
            let _ = self.base.child(&name).destroy(Duration::from_secs(10));
        }
    }

    fn folder(&self, key: &str) -> PathBuf {
        self.config.run_dir.join(key)
    }

    fn scratch(&self, key: &str) -> PathBuf {
        self.config.data_dir.join("scratch").join(key)
    }

    fn remains(&self, key: &str, id_base: Option<u32>) -> Remains {
        Remains {
            key: key.to_owned(),
            cgroup: self.base.child(key),
            folder: self.folder(key),
            scratch: self.scratch(key),
            id_base,
            ids: self.ids.clone(),
        }
    }
}

/// The text of /etc/hosts.
fn hosts(hostname: &str, address: Option<IpAddr>, extra: &[(IpAddr, String)]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let own = address.map(|address| (address, hostname.to_owned()));
    for (address, names) in own.iter().chain(extra) {
        text.push_str(&format!("{address}\t{names}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_the_container_itself() {
        let extra = [("10.0.0.9".parse().expect("ip"), "db db.internal".to_owned())];
        let text = hosts("web-1", Some("10.0.0.2".parse().expect("ip")), &extra);
        assert!(text.contains("10.0.0.2\tweb-1\n") && text.contains("10.0.0.9\tdb db.internal\n"));
        assert!(!hosts("web-1", None, &[]).contains("web-1"));
    }
}
