//! What a proxy needs to know, and nothing else: rules in order, and the ready backends
//! behind each. The proxy room sees these values, never the cluster state.

use super::ids::{InstanceId, ProcessKey, ViewVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The whole table of one view. A proxy swaps it in as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    pub version: ViewVersion,
    /// In order; the first rule that matches wins. The projection sorts exact hosts before
    /// any-host rules and longer paths before shorter.
    pub rules: Vec<Rule>,
    pub services: BTreeMap<ProcessKey, Service>,
}

/// `host` and `path` to a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Lower case, without port and trailing dot; `None` matches every host.
    pub host: Option<String>,
    /// Matches whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. `/` matches all.
    pub path: String,
    pub to: ProcessKey,
}

/// What stands behind a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub backends: Vec<Backend>,
    /// An instance is being started: a request may be worth parking.
    pub expected: bool,
}

/// The address of a ready instance. (instance, attempt) names it; an address alone never
/// does, since addresses are used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub instance: InstanceId,
    pub attempt: u32,
    pub address: SocketAddr,
    /// Of the smooth weighted share between versions; 1 when nothing is weighted.
    pub weight: u32,
}
