//! Containers on this host: what one is made of, its shim process, logs and exec.
//!
//! Here: everything between "run this" and a process in its namespaces. Not here: which
//! containers should run (`agent`), where layers come from (`images`).
//!
//! ```text
//!  node process (tokio)                     shim (one for each container, one thread)
//!  manager::Runtime ── spawn ────────────▶ shim::main: overlay, guards, spec, libcontainer
//!  container::Container ◀─ protocol, Unix socket ─▶ shim::serve: poll loop, logs, reaping
//!  exec::Session ── spawn ───────────────▶ exec::helper: joins the namespaces, confined alike
//! ```
//!
//! Both helpers are this same binary, executed from one sealed memfd ([`exe::SealedExe`]).
//! Start reading at [`manager`] (the node's side), then [`shim`] (the container's side).
//! [`spec`], [`users`], [`seccomp`] and [`ids`] are pure.
#![allow(unsafe_code)]

pub mod cgroup;
mod cgroup_v1;
pub mod container;
pub mod exe;
pub mod exec;
pub mod exit;
pub mod ids;
mod inner_mounts;
pub mod launch;
pub mod logs;
pub mod manager;
mod nameservers;
pub mod network;
pub mod protocol;
mod reclaim;
mod rootdir;
pub mod seccomp;
mod seccomp_table;
pub mod shim;
mod spawn;
pub mod spec;
mod stage;
mod sys;
pub mod users;
pub mod wiring;

pub use container::{Container, State, Stats};
pub use exe::{SealedExe, run_from_sealed_copy};
pub use exec::{ExecSession, ExecSpec};
pub use exit::Exit;
pub use launch::{Launch, LogLimits, Resources, Stop, UserNamespace};
pub use manager::{Config, Error, Runtime};
