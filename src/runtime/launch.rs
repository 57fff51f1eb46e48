//! What the agent asks for ([`Launch`]), and the order that a shim is given for it.
//!
//! An order is written to the container's run folder and read by a shim of this same
//! binary, and by nodes and exec helpers of any later version: JSON, fields are only ever
//! added, with a default.

use crate::model::ids::InstanceId;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// One container to run.
#[derive(Clone, Debug)]
pub struct Launch {
    pub instance: InstanceId,
    /// Counts restarts in place; (instance, attempt) names a container for ever.
    pub attempt: u32,
    /// `app/process.slot`, for people and for the log's place: `shop/web.1`.
    pub name: String,
    pub hostname: String,
    /// Unpacked layers, the top one first. Shared and never written to.
    pub layers: Vec<PathBuf>,
    /// The image's own defaults.
    pub image: oci_spec::image::Config,
    /// Replaces the image's CMD (after its ENTRYPOINT), as Docker does.
    pub command: Option<Vec<String>>,
    /// Wins over the image's.
    pub env: Vec<(String, String)>,
    pub resources: Resources,
    pub read_only_root: bool,
    pub user_namespace: UserNamespace,
    pub stop: Stop,
    /// Lines for /etc/hosts beside localhost and the container itself: (address, names).
    pub hosts: Vec<(std::net::IpAddr, String)>,
}

/// Limits; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// The share when the CPU is contended, in thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// The most that it ever gets, in thousandths of a core.
    pub cpu_max_milli: Option<u32>,
    /// Memory; it gets no swap beyond this.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
}

/// Whose user ids the container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// Its own range of 65,536 ids: its root is nobody on the host.
    #[default]
    Private,
    /// The host's: only for what names this on purpose.
    Host,
}

/// How to end it politely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// `None`: what the image says, else SIGTERM.
    pub signal: Option<i32>,
    /// From the signal to SIGKILL.
    pub grace: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: None, grace: Duration::from_secs(10) }
    }
}

/// How much log is kept for each instance slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    pub file_bytes: u64,
    pub files: u32,
}

impl Default for LogLimits {
    /// 4 × 8 MiB: some days of an ordinary app, and a bound that a disk never notices.
    fn default() -> Self {
        Self { file_bytes: 8 << 20, files: 4 }
    }
}

/// What a shim needs to know, complete: it asks nobody back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub format: u32,
    pub instance: u64,
    pub attempt: u32,
    pub name: String,
    pub hostname: String,
    pub layers: Vec<PathBuf>,
    /// Holds `upper` and `work`; on a disk, gone with the container.
    pub scratch: PathBuf,
    pub log_dir: PathBuf,
    pub log_limits: LogLimits,
    pub cgroup: crate::runtime::cgroup::Place,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// Folders to make where the image lacks them: its volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// As in an image: name or id, optionally with `:group`.
    pub user: String,
    pub resources: Resources,
    pub read_only_root: bool,
    /// The first host id of the container's range; `None` is the host's own user namespace.
    pub id_base: Option<u32>,
    pub stop_signal: i32,
    pub stop_grace_ms: u64,
    pub resolv_conf: String,
    pub hosts: Vec<(std::net::IpAddr, String)>,
    /// Compiled filters, installed in this order.
    pub seccomp: Vec<crate::runtime::seccomp::Program>,
}

/// The format of [`Order`] that this binary writes.
pub const ORDER_FORMAT: u32 = 1;

/// Why an image and a launch give no runnable process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    #[error("the image names no command and the manifest gives none: set `command`")]
    NoCommand,
    #[error("the working directory {0:?} is not an absolute path")]
    Cwd(String),
    #[error("the {0} contains a NUL byte")]
    Nul(&'static str),
}

/// ENTRYPOINT and CMD as Docker combines them: a command of the launch replaces CMD.
///
/// # Errors
/// Nothing is left to run.
pub fn args(
    image: &oci_spec::image::Config,
    command: Option<&[String]>,
) -> Result<Vec<String>, ProcessError> {
    let mut args = image.entrypoint().clone().unwrap_or_default();
    match command {
        Some(command) => args.extend_from_slice(command),
        None => args.extend(image.cmd().iter().flatten().cloned()),
    }
    if args.is_empty() || args[0].is_empty() {
        return Err(ProcessError::NoCommand);
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(ProcessError::Nul("command"));
    }
    Ok(args)
}

/// The image's environment, overlaid by the launch's; PATH has a default.
///
/// # Errors
/// A name or value that no process can be given.
pub fn env(
    image: &oci_spec::image::Config,
    launch: &[(String, String)],
) -> Result<Vec<(String, String)>, ProcessError> {
    let mut env: Vec<(String, String)> = Vec::new();
    let image = image.env().iter().flatten().map(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        (name.to_owned(), value.to_owned())
    });
    for (name, value) in image.chain(launch.iter().cloned()) {
        if name.contains('\0') || value.contains('\0') {
            return Err(ProcessError::Nul("environment"));
        }
        if name.is_empty() || name.contains('=') {
            continue; // no process could read it
        }
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    if !env.iter().any(|(name, _)| name == "PATH") {
        env.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    Ok(env)
}

/// Docker's, so that images made without ENV behave the same.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image's working directory; `/` without one.
///
/// # Errors
/// It is relative, or no path at all.
pub fn cwd(image: &oci_spec::image::Config) -> Result<String, ProcessError> {
    match image.working_dir().as_deref() {
        None | Some("") => Ok("/".into()),
        Some(dir) if dir.contains('\0') => Err(ProcessError::Nul("working directory")),
        Some(dir) if dir.starts_with('/') => Ok(dir.into()),
        Some(dir) => Err(ProcessError::Cwd(dir.into())),
    }
}

/// The image's VOLUMEs. Nothing is mounted there yet, but apps count on the folders, which
/// Docker makes where the image lacks them.
pub fn volumes(image: &oci_spec::image::Config) -> Vec<String> {
    let volumes = image.volumes().iter().flatten();
    volumes.filter(|path| path.starts_with('/') && !path.contains('\0')).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ConfigBuilder;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_command_replaces_cmd_and_keeps_entrypoint() {
        let image = ConfigBuilder::default()
            .entrypoint(strings(&["/entry"]))
            .cmd(strings(&["a", "b"]))
            .build()
            .expect("config");
        assert_eq!(args(&image, None), Ok(strings(&["/entry", "a", "b"])));
        assert_eq!(args(&image, Some(&strings(&["c"]))), Ok(strings(&["/entry", "c"])));
        let bare = oci_spec::image::Config::default();
        assert_eq!(args(&bare, None), Err(ProcessError::NoCommand));
        assert_eq!(args(&bare, Some(&strings(&["sh"]))), Ok(strings(&["sh"])));
    }

    #[test]
    fn the_launch_overrides_the_image_environment() {
        let image =
            ConfigBuilder::default().env(strings(&["A=1", "B=x=y", "NOVALUE"])).build().expect("config");
        let merged = env(&image, &[("A".into(), "2".into()), ("C".into(), "3".into())]).expect("env");
        let merged: Vec<String> = merged.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(merged, ["A=2", "B=x=y", "NOVALUE=", "C=3", &format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(env(&image, &[("A".into(), "\0".into())]), Err(ProcessError::Nul("environment")));
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let image = ConfigBuilder::default().working_dir("app").build().expect("config");
        assert_eq!(cwd(&image), Err(ProcessError::Cwd("app".into())));
        assert_eq!(cwd(&oci_spec::image::Config::default()), Ok("/".into()));
    }
}
