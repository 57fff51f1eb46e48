//! The model's values as `nodectl.v1` messages and back: `From<&model::X> for v1::X` never
//! fails, `TryFrom<v1::X> for model::X` says which field is wrong. Both ways keep everything:
//! the store is written with these, so a value that comes back differently would make a
//! restarted server disagree with its past. Times and durations are whole milliseconds.
//!
//! This checks shape (names, digests, ids, known enum values), not sense: whether a route's
//! path starts with a slash is the manifest's to say. One file for each file of the model:
//! start with `app.rs`.

mod app;
mod command;
mod event;
mod instance;
mod node;
#[cfg(test)]
mod tests;

use crate::model::ids::{AppKey, Digest, NameError, NodeId, ProcessName};
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use crate::proto::v1;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which field of a message this version can't take, and why: `deploy.spec.processes[web].port: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Error {
    /// Field names as in the .proto files, from the message's top.
    pub field: String,
    pub problem: String,
    /// The value is one that this version doesn't know: a newer one wrote it.
    pub newer: bool,
}

impl Error {
    pub(crate) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: problem.into(), newer: false }
    }

    fn missing(field: &str) -> Self {
        Self::new(field, "is missing")
    }

    /// A value that only a newer version can have written.
    pub(crate) fn unknown(field: &str, what: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: what.into(), newer: true }
    }

    /// The same error, seen from the message that contains `parent`.
    fn within(mut self, parent: &str) -> Self {
        self.field = if self.field.starts_with('[') {
            format!("{parent}{}", self.field)
        } else {
            format!("{parent}.{}", self.field)
        };
        self
    }
}

/// Says in which field a nested conversion failed.
trait Within<T> {
    fn within(self, parent: &str) -> Result<T, Error>;
}

impl<T> Within<T> for Result<T, Error> {
    fn within(self, parent: &str) -> Result<T, Error> {
        self.map_err(|e| e.within(parent))
    }
}

/// A message field that must be there, converted.
fn required<W, M>(value: Option<W>, field: &str) -> Result<M, Error>
where
    M: TryFrom<W, Error = Error>,
{
    M::try_from(value.ok_or_else(|| Error::missing(field))?).within(field)
}

/// Names and digests: checked where they enter.
fn name<T>(made: Result<T, NameError>, field: &str) -> Result<T, Error> {
    made.map_err(|e| Error::new(field, e.to_string()))
}

/// A protobuf enum's number as the generated enum.
fn known<E: TryFrom<i32>>(value: i32, field: &str) -> Result<E, Error> {
    E::try_from(value).map_err(|_| Error::unknown(field, format!("has the unknown value {value}")))
}

fn narrow<T: TryFrom<u32>>(value: u32, field: &str) -> Result<T, Error> {
    T::try_from(value).map_err(|_| Error::new(field, format!("{value} is out of range")))
}

/// Whole milliseconds: what is finer is cut off (no manifest can say it).
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Exactly the 32 lower-case hex digits that `Display` writes.
pub(crate) fn hex_u128(text: &str, field: &str) -> Result<u128, Error> {
    let bad = || Error::new(field, format!("{text:?} is not an id of 32 hex digits"));
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(bad());
    }
    u128::from_str_radix(text, 16).map_err(|_| bad())
}

fn node_id(text: &str, field: &str) -> Result<NodeId, Error> {
    hex_u128(text, field).map(NodeId)
}

fn digest(text: &str, field: &str) -> Result<Digest, Error> {
    name(Digest::new(text), field)
}

fn ms(at: Timestamp) -> u64 {
    at.unix_ms
}

fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms)
}

fn counts_to_wire(counts: &BTreeMap<ProcessName, u32>) -> BTreeMap<String, u32> {
    counts.iter().map(|(process, count)| (process.to_string(), *count)).collect()
}

fn counts_from_wire(counts: BTreeMap<String, u32>, field: &str) -> Result<BTreeMap<ProcessName, u32>, Error> {
    counts.into_iter().map(|(process, count)| Ok((name(ProcessName::new(&process), field)?, count))).collect()
}

impl From<&AppKey> for v1::AppKey {
    fn from(key: &AppKey) -> Self {
        v1::AppKey { tenant: key.tenant.to_string(), app: key.app.to_string() }
    }
}

impl TryFrom<v1::AppKey> for AppKey {
    type Error = Error;
    fn try_from(wire: v1::AppKey) -> Result<Self, Error> {
        Ok(AppKey {
            tenant: name(crate::model::ids::TenantName::new(&wire.tenant), "tenant")?,
            app: name(crate::model::ids::AppName::new(&wire.app), "app")?,
        })
    }
}

impl From<Resources> for v1::Resources {
    fn from(r: Resources) -> Self {
        v1::Resources { cpu_milli: r.cpu_milli, memory_bytes: r.memory_bytes, disk_bytes: r.disk_bytes }
    }
}

impl TryFrom<v1::Resources> for Resources {
    type Error = Error;
    fn try_from(r: v1::Resources) -> Result<Self, Error> {
        Ok(Resources { cpu_milli: r.cpu_milli, memory_bytes: r.memory_bytes, disk_bytes: r.disk_bytes })
    }
}
