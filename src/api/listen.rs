//! Connections of a Unix socket, one after another, whatever happens to one of them.

use std::io;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;

/// Long enough not to spin while descriptors are short, short enough not to be noticed.
const RETRY: Duration = Duration::from_millis(50);

/// Never ends and never fails: an accept that fails (no descriptors left, a caller who went
/// away) is tried again, since tonic would stop serving at the first error.
pub(super) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection to the API; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    })
}
