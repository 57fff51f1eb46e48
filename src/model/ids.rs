//! Names and ids as types. Names are checked once, where they enter; inside they are facts.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a name was refused; the text is fit to show to its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name {name:?} {problem}")]
pub struct NameError {
    pub kind: &'static str,
    pub name: String,
    pub problem: &'static str,
}

/// A DNS label (RFC 1123) of at most 40 bytes: names become host names and cgroup names.
fn check_label(kind: &'static str, name: &str) -> Result<(), NameError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > 40 {
        "is longer than 40 characters"
    } else if name.starts_with('-') || name.ends_with('-') {
        "starts or ends with a hyphen"
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "has characters other than a-z, 0-9 and hyphen"
    } else {
        return Ok(());
    };
    Err(NameError { kind, name: name.to_owned(), problem })
}

macro_rules! label {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// # Errors
            /// The name is not a DNS label of at most 40 bytes.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_label($kind, name)?;
                Ok(Self(name.into()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

label!(
    /// Who owns apps; `default` until tenants exist.
    TenantName, "tenant");
label!(
    /// What the user names.
    AppName, "app");
label!(
    /// One kind of program of an app: `web`, `worker`.
    ProcessName, "process");
label!(
    /// A node's name for people; its identity is the [`NodeId`].
    NodeName, "node");
label!(
    /// A failure domain.
    Zone, "zone");

impl TenantName {
    /// The tenant of everything until tenants are a feature.
    pub fn default_tenant() -> Self {
        Self("default".into())
    }
}

/// The key of an app: tenant is part of every key from the start.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AppKey {
    pub tenant: TenantName,
    pub app: AppName,
}

impl fmt::Display for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.app)
    }
}

/// A process of an app: what a route leads to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ProcessKey {
    pub app: AppKey,
    pub process: ProcessName,
}

impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.process)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        pub struct $type(pub $inner);
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One copy of a process bound to a node; from a counter in the state, never reused.
    InstanceId(u64));
number!(
    /// A release of an app: 1, 2, 3 …; shown as `v3`.
    ReleaseNumber(u64));
number!(
    /// A rollout; from a counter in the state.
    DeploymentId(u64));
number!(
    /// One incarnation of a server's store, from a counter in the state.
    RaftId(u64));

/// A node's identity: random, issued once, independent of its addresses and its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl std::str::FromStr for NodeId {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(s, 16).map(NodeId)
    }
}

/// Orders views of the state: a restored cluster is a new incarnation, so its lower
/// indexes are not taken for the past (HOUSE idea 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ViewVersion {
    pub incarnation: u64,
    pub index: u64,
}

/// `sha256:` and 64 lower-case hex digits (OCI image-spec, descriptor.md#digests).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(std::sync::Arc<str>);

impl Digest {
    /// # Errors
    /// Anything but `sha256:` and 64 lower-case hex digits.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let ok = text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(NameError {
                kind: "digest",
                name: text.to_owned(),
                problem: "is not sha256: and 64 lower-case hex digits",
            })
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
