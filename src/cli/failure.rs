//! How things go wrong: one kind of failure with its exit status, and tonic's statuses in plain
//! words. What reaches a person says what to try next.

use super::output::{fold, stderr_width};
use crate::proto::EXIT_STATUS_KEY;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use tonic::{Code, Status};

/// A failure that is fit to show: what happened, what to try, and the exit status.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// What was asked could not be done: exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None }
    }

    /// What was asked makes no sense: exit status 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), hint: None }
    }

    /// Adds what to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Tells the user on standard error and returns the exit status.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // `nodectl logs | head`: the reader has what it wanted.
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let (code, hint) = match error.downcast_ref::<Failure>() {
        Some(failure) => (failure.code, failure.hint.as_deref()),
        None => (1, None),
    };
    let mut stderr = io::stderr().lock();
    // Several faults of one manifest come as lines: each begins where the first does.
    let text = format!("error: {}", format!("{error:#}").replace('\n', "\n       "));
    _ = writeln!(stderr, "{}", fold(&text, stderr_width(), 2));
    if let Some(hint) = hint {
        for line in hint.lines() {
            _ = writeln!(stderr, "  {line}");
        }
    }
    ExitCode::from(code)
}

/// Whether the reader of what was written has gone away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A refusal or fault that the node answered with. The server's messages are written for people
/// and are shown as they are where the code says that they are about the request.
pub fn from_status(status: Status) -> anyhow::Error {
    if has_transport_source(&status) || (status.code() == Code::Unavailable && status.message().is_empty()) {
        return Failure::new("the connection to the node was lost")
            .hint("is it still running? `nodectl status` tells; what was asked may or may not have happened")
            .into();
    }
    let message = status.message().trim_end().to_owned();
    let failure = match status.code() {
        Code::DeadlineExceeded | Code::Cancelled if message.is_empty() || message == "Timeout expired" => {
            Failure::new("the node did not answer in time")
                .hint("try again; `nodectl cluster status` says whether there is a leader")
        }
        Code::Unimplemented => Failure::new("the node does not know this request")
            .hint("it may be of an older version: compare with `nodectl version`"),
        Code::Internal | Code::Unknown | Code::DataLoss => {
            Failure::new(format!("the node failed: {message}")).hint("its own log says more")
        }
        code if message.is_empty() => Failure::new(format!("the node refused: {}", code.description())),
        _ => Failure::new(message),
    };
    // A command that is not there ends as in a shell.
    let exit_status = status.metadata().get(EXIT_STATUS_KEY).and_then(|value| value.to_str().ok());
    let code = exit_status.and_then(|text| text.parse().ok()).unwrap_or(failure.code);
    Failure { code, ..failure }.into()
}

/// Whether a stream may be taken up again: the transport broke, or the node says that it stops
/// or has no leader just now.
pub fn may_pass(status: &Status) -> bool {
    status.code() == Code::Unavailable || has_transport_source(status)
}

/// A connection that breaks in mid-flight arrives under several codes, but with the transport's
/// error as its source; what a server says in words has none.
fn has_transport_source(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<io::Error>() || error.is::<hyper::Error>() || error.is::<tonic::transport::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_about_the_request_is_shown_as_it_is() {
        let error = from_status(Status::not_found("there is no app \"shop\""));
        assert_eq!(error.to_string(), "there is no app \"shop\"");
    }

    #[test]
    fn a_server_that_stops_comes_back_and_a_refusal_stays() {
        assert!(may_pass(&Status::unavailable("stopping")));
        assert!(!may_pass(&Status::internal("a bug")));
        assert!(!may_pass(&Status::failed_precondition("no")));
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(is_broken_pipe(&error));
    }
}
