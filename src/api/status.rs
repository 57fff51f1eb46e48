//! Errors → `tonic::Status`, in one place. The code is for programs, the message is what a
//! person reads.

use super::host::HostError;
use super::store::StoreError;
use crate::model::command::Rejection;
use crate::model::manifest::ManifestError;
use crate::proto::EXIT_STATUS_KEY;
use tonic::{Code, Status};

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    /// The manifest's faults, one a line.
    #[error("{}", lines(.0))]
    Manifest(Vec<ManifestError>),
    /// The cluster is in a state that forbids it.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Internal(String),
    /// A command that is not there or can't be executed; what `exec` ends with then.
    #[error("{text}")]
    Command { text: String, exit_status: u8 },
}

fn lines(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NotFound(text) => Fault::NotFound(text),
            Rejection::Invalid(text) => Fault::Invalid(text),
            Rejection::Conflict(text) => Fault::Conflict(text),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Rejected(rejection) => rejection.into(),
            StoreError::NoLeader(_) | StoreError::ShuttingDown => Fault::Unavailable(text),
            StoreError::TooLarge(_) => Fault::TooLarge(text),
            StoreError::Failed(_) => Fault::Internal(text),
        }
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Self {
        let text = error.to_string();
        match error {
            HostError::NotFound(_) => Fault::NotFound(text),
            HostError::Invalid(_) => Fault::Invalid(text),
            HostError::Unable(_) => Fault::Conflict(text),
            HostError::Exhausted(_) => Fault::TooLarge(text),
            HostError::Failed(_) => Fault::Internal(text),
            HostError::Command { exit_status, .. } => Fault::Command { text, exit_status },
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = match &fault {
            Fault::NotFound(_) => Code::NotFound,
            Fault::Invalid(_) | Fault::Manifest(_) => Code::InvalidArgument,
            Fault::Conflict(_) | Fault::Command { .. } => Code::FailedPrecondition,
            Fault::TooLarge(_) => Code::ResourceExhausted,
            Fault::Unavailable(_) => Code::Unavailable,
            Fault::Internal(_) => Code::Internal,
        };
        let mut status = Status::new(code, fit(&fault.to_string()));
        if let Fault::Command { exit_status, .. } = fault {
            status.metadata_mut().insert(EXIT_STATUS_KEY, u32::from(exit_status).into());
        }
        status
    }
}

/// The message travels percent-encoded in a header, and clients take 16 KiB of headers
/// (hyper's default): a longer one would reach them as a broken connection.
const MESSAGE_BYTES_MAX: usize = 12 * 1024;

/// The message, cut after the last line that fits, with a count of what is left out.
fn fit(message: &str) -> String {
    if encoded_len(message) <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let lines: Vec<&str> = message.lines().collect();
    let mut kept = String::new();
    for (at, line) in lines.iter().enumerate() {
        if encoded_len(&kept) + encoded_len(line) > MESSAGE_BYTES_MAX - 100 {
            if kept.is_empty() {
                return line.chars().take(MESSAGE_BYTES_MAX / 12).collect::<String>() + " …";
            }
            return format!("{kept}… and {} more", lines.len() - at);
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// As gRPC's percent-encoding makes it, at most: three bytes for each that is no plain letter.
fn encoded_len(text: &str) -> usize {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { 1 } else { 3 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_too_long_for_a_header_is_cut_at_a_line() {
        let errors = (1..=500).map(|line| ManifestError {
            file: "nodectl.toml".into(),
            line,
            key: String::new(),
            message: "unknown key \"cout\" in [process.web]: did you mean \"count\"?".into(),
        });
        let status = Status::from(Fault::Manifest(errors.collect()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(encoded_len(status.message()) <= MESSAGE_BYTES_MAX);
        let lines: Vec<&str> = status.message().lines().collect();
        let (last, told) = lines.split_last().expect("lines");
        assert_eq!(*last, format!("… and {} more", 500 - told.len()));
        assert!(told[told.len() - 1].ends_with("did you mean \"count\"?"), "{told:?}");
    }

    #[test]
    fn one_long_line_is_cut_too() {
        let status = Status::from(Fault::Internal("é".repeat(100_000)));
        assert!(encoded_len(status.message()) <= MESSAGE_BYTES_MAX);
        assert!(status.message().ends_with("é …"));
    }
}
