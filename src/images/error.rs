//! What can go wrong with an image, in the words its owner reads. `Error` is the room's
//! face; `Fault` is what the readers deep inside say before anyone knows which file it is
//! about.

use super::platform::Platform;
use crate::model::ids::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on images failed. A variant exists because a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source is corrupt, hostile or not an image at all. Nothing of it was kept.
    #[error("{what} was refused: {reason}")]
    Refused { what: String, reason: String },
    /// A good image, for other machines.
    #[error("{what} has no image for this machine ({machine}); it has {}", list_platforms(available))]
    WrongPlatform { what: String, machine: Platform, available: Vec<Platform> },
    #[error("no image {0} on this machine; load it with `nodectl image load`")]
    NotFound(Digest),
    /// Bytes in the store are not the bytes that were put there.
    #[error(
        "the image store is damaged: {what}: {reason}; remove the image with `nodectl image rm` and load it again"
    )]
    Damaged { what: String, reason: String },
    #[error("no space left on the disk that holds {}; free some, or run `nodectl image gc`", path.display())]
    DiskFull { path: PathBuf },
    #[error("could not {action}: only root may keep the owners and devices of image layers")]
    NeedsRoot { action: String },
    #[error("the image store {} is in use by another nodectl process", root.display())]
    InUse { root: PathBuf },
    #[error("could not {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
}

fn list_platforms(platforms: &[Platform]) -> String {
    match platforms {
        [] => "none that it names".to_owned(),
        many => many.iter().map(Platform::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A failure before its subject is known.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The input is to blame.
    Refused(String),
    /// The machine is to blame.
    Io { action: String, source: io::Error },
}

/// Leaves the function with a refusal, worded like `format!`.
macro_rules! refuse {
    ($($text:tt)*) => { return Err($crate::images::error::Fault::Refused(format!($($text)*))) };
}
pub(crate) use refuse;

impl Fault {
    /// The refusal of `self`, if it is one, says where it happened.
    pub fn within(self, place: impl std::fmt::Display) -> Self {
        match self {
            Fault::Refused(reason) => Fault::Refused(format!("{place}: {reason}")),
            io @ Fault::Io { .. } => io,
        }
    }

    /// `what` is the source that the user named, `store` where we were writing.
    pub fn into_error(self, what: &str, store: &Path) -> Error {
        match self {
            Fault::Refused(reason) => Error::Refused { what: what.to_owned(), reason },
            Fault::Io { action, source } => Error::from_io(action, source, store),
        }
    }
}

impl Error {
    pub(crate) fn from_io(action: String, source: io::Error, store: &Path) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::DiskFull { path: store.to_owned() }
            }
            io::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
                Error::NeedsRoot { action }
            }
            _ => Error::Io { action, source },
        }
    }
}

/// Carries a refusal through code that only knows `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub String);

impl Refusal {
    pub fn io(text: impl Into<String>) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Refusal(text.into()))
    }
}

/// Adds what was being done to an `io::Error`; a [`Refusal`] inside becomes a refusal again.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| {
            let source: io::Error = error.into();
            match source.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()) {
                Some(Refusal(reason)) => Fault::Refused(reason.clone()),
                None => Fault::Io { action: action(), source },
            }
        })
    }
}

/// Text from an archive, fit to be shown: escaped, and never longer than a line.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let dots = if bytes.len() > LONGEST { "…" } else { "" };
    format!("\"{}{dots}\"", text.escape_debug())
}
