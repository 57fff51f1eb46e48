//! Streams that outlive the connection: when to try again, and what is worth trying again.

use super::failure::{self, Failure};
use super::output::{Tone, say};
use std::time::Duration;
use tonic::Status;

pub const LOST: &str = "lost the node; waiting for it to come back";

const FIRST: Duration = Duration::from_millis(100);
/// A node restarts within two seconds; the user should not wait much longer than it does.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits between attempts, and tells the user once each time the connection is lost.
#[derive(Default)]
pub struct Backoff {
    delay: Option<Duration>,
    /// Something came at least once: the request as such was good.
    has_worked: bool,
    is_lost: bool,
    /// Somebody else draws on the terminal, and tells.
    is_quiet: bool,
}

impl Backoff {
    /// One that says nothing by itself.
    pub fn quiet() -> Self {
        Self { is_quiet: true, ..Self::default() }
    }

    /// Something came.
    pub fn succeeded(&mut self) {
        self.delay = None;
        self.has_worked = true;
        if std::mem::take(&mut self.is_lost) && !self.is_quiet {
            say(Tone::Dim, "the node is back");
        }
    }

    /// Waits before the next attempt; `error` ended the last one.
    ///
    /// # Errors
    /// It never worked, or the error is of a kind that stays: trying again is no use.
    pub async fn wait(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if !self.has_worked || !may_pass(&error) {
            return Err(in_words(error));
        }
        let delay = self.delay.map_or(FIRST, |delay| (delay * 2).min(LONGEST));
        // The first quick retry is not worth a word.
        if self.delay.is_some() && !std::mem::replace(&mut self.is_lost, true) && !self.is_quiet {
            say(Tone::Dim, &format!("{LOST} (Ctrl-C to stop)"));
        }
        self.delay = Some(delay);
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Whether an error says that the node could not be reached, now or in mid-stream.
fn may_pass(error: &anyhow::Error) -> bool {
    if let Some(status) = error.downcast_ref::<Status>() {
        return failure::may_pass(status);
    }
    // From `Client`, when it connects: usage errors have been ruled out by the first success.
    error.is::<Failure>()
}

/// An error of a call, as a person reads it.
pub fn in_words(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Status>() {
        Ok(status) => failure::from_status(status),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_connection_that_once_worked_is_tried_again() {
        let mut backoff = Backoff::default();
        let unavailable = || anyhow::Error::new(Status::unavailable("gone"));
        assert!(backoff.wait(unavailable()).await.is_err(), "it never worked");
        backoff.succeeded();
        assert!(backoff.wait(unavailable()).await.is_ok());
        assert!(backoff.wait(Status::not_found("no app").into()).await.is_err());
    }
}
