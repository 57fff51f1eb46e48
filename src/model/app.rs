//! What a user asks for: an app, the immutable releases of it, and what a release says of
//! its processes. Made by `manifest.rs` and by `--image`; placed by the scheduler.

use super::ids::{AppKey, DeploymentId, Digest, ProcessName, ReleaseNumber};
use super::resources::Resources;
use super::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The changing part of an app; everything that is fixed is in its [`Release`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub key: AppKey,
    pub created_at: Timestamp,
    /// Log index of the last change: what preconditions compare.
    pub modified: u64,
    /// What the scheduler works towards; `None` after a first deployment failed.
    pub target: Option<ReleaseNumber>,
    /// The last release whose deployment was done: what a failed deployment goes back to.
    pub serving: Option<ReleaseNumber>,
    /// The number that the next new release gets.
    pub next_release: u64,
    /// The deployment that holds the app's lock.
    pub deployment: Option<DeploymentId>,
    pub stopped: bool,
    /// `app rm` was said: instances are stopped, then the app is forgotten.
    pub removing: bool,
    /// A live `scale` wins over the manifest's count.
    pub scale: BTreeMap<ProcessName, u32>,
    /// Raised by `restart`: instances of a lower generation are replaced, one by one.
    pub generation: u64,
}

impl App {
    /// How many instances of `process` are wanted at `release`, were the app running.
    pub fn count(&self, process: &ProcessName, spec: &ProcessSpec) -> u32 {
        self.scale.get(process).copied().unwrap_or(spec.count)
    }
}

/// Immutable and numbered: image, config and manifest, with a content hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub app: AppKey,
    pub number: ReleaseNumber,
    /// BLAKE3 over the image digest and the spec's canonical encoding, hex. Equal input, equal hash.
    pub hash: String,
    /// The image's manifest, as this cluster stores it.
    pub image: Digest,
    /// The name that was asked for: what people read.
    pub image_name: String,
    pub spec: Arc<AppSpec>,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// What a release runs. Complete: every default has been filled in when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppSpec {
    pub processes: BTreeMap<ProcessName, ProcessSpec>,
    /// In the order of the manifest; `APP.localhost` is not among them, the projection adds it.
    pub routes: Vec<RouteSpec>,
    /// For every process; a process's own `env` wins.
    pub env: BTreeMap<String, String>,
    pub deploy: DeployPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// `None`: the image's entrypoint and command.
    pub command: Option<Vec<String>>,
    pub count: u32,
    /// Reserved, in thousandths of a core.
    pub cpu_milli: u64,
    /// Hard limit; `None` is uncapped.
    pub cpu_max_milli: Option<u64>,
    /// Reserved and limit.
    pub memory_bytes: u64,
    pub pids_max: u64,
    /// What the process listens on, given to it as `$PORT`; `None`: it serves nothing.
    pub port: Option<u16>,
    pub health: Health,
    pub stop: StopPolicy,
    pub env: BTreeMap<String, String>,
    pub user_namespace: UserNamespace,
    pub read_only_root: bool,
}

impl Default for ProcessSpec {
    fn default() -> Self {
        Self {
            command: None,
            count: 1,
            cpu_milli: 100,
            cpu_max_milli: None,
            memory_bytes: 256_000_000,
            // Docker sets none; a fork bomb should meet one. Systemd's default for a service is of this order.
            pids_max: 4096,
            port: None,
            health: Health::default(),
            stop: StopPolicy::default(),
            env: BTreeMap::new(),
            user_namespace: UserNamespace::Private,
            read_only_root: false,
        }
    }
}

impl ProcessSpec {
    /// What one instance takes of its node.
    pub fn need(&self) -> Resources {
        Resources { cpu_milli: self.cpu_milli, memory_bytes: self.memory_bytes, disk_bytes: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserNamespace {
    /// Ids of its own on the host: root inside is nobody outside.
    Private,
    /// The process opted out, by name, in its manifest.
    Host,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row until a ready instance is not ready.
    pub unhealthy: u32,
    /// How long a started instance may take until its first success.
    pub grace: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy: 3,
            grace: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The port accepts a connection. A process without a port is ready when it runs.
    Tcp,
    /// GET of this path answers 200–399.
    Http { path: String },
    /// Run in the container, exits 0.
    Command { command: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopPolicy {
    /// Number; `None` is the image's stop signal, else SIGTERM.
    pub signal: Option<i32>,
    /// From the signal to SIGKILL.
    pub grace: Duration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: None, grace: Duration::from_secs(10) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteSpec {
    /// Lower case; `None` is any host.
    pub host: Option<String>,
    /// Starts with `/`.
    pub path: String,
    pub process: ProcessName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployPolicy {
    pub strategy: Strategy,
    pub max_surge: Share,
    pub max_unavailable: Share,
    pub deadline: Duration,
    pub auto_revert: bool,
}

impl Default for DeployPolicy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            max_surge: Share::Percent(25),
            max_unavailable: Share::Count(0),
            deadline: Duration::from_secs(300),
            auto_revert: true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Start some, stop some, until all are new.
    Rolling,
    /// Stop all, then start all.
    Recreate,
}

/// A number of instances, or a part of the wanted count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Count(u32),
    Percent(u32),
}

impl Share {
    /// Instances of `count`, a percentage rounded up (surge).
    pub fn of_rounded_up(self, count: u32) -> u32 {
        match self {
            Share::Count(n) => n,
            Share::Percent(p) => (u64::from(count) * u64::from(p)).div_ceil(100) as u32,
        }
    }
    /// Instances of `count`, a percentage rounded down (unavailable).
    pub fn of_rounded_down(self, count: u32) -> u32 {
        match self {
            Share::Count(n) => n,
            Share::Percent(p) => (u64::from(count) * u64::from(p) / 100) as u32,
        }
    }
}

/// The rollout of one release. It always ends, and says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    pub id: DeploymentId,
    pub app: AppKey,
    pub release: ReleaseNumber,
    /// What served before, and is gone back to.
    pub previous: Option<ReleaseNumber>,
    pub status: DeploymentStatus,
    pub started_at: Timestamp,
    pub deadline_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// Why it ended, for people; empty while it runs.
    pub message: String,
    pub by: String,
    pub modified: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeploymentStatus {
    Running,
    Done,
    /// Failed with nothing to go back to, or auto_revert off.
    Failed,
    /// Failed, and the app's target is the previous release again.
    Reverted,
    Cancelled,
}

impl DeploymentStatus {
    pub fn is_over(self) -> bool {
        self != DeploymentStatus::Running
    }
}
