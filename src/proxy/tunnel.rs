//! After 101: bytes both ways until both sides have ended, whatever they mean. The end of
//! one direction is passed on while the other goes on (half-close).

use super::backend::Lease;
use super::body::Active;
use super::forward::Client;
use super::stats::{ServiceCounters, count};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;

/// Large enough for a stream of frames, small enough for thousands of quiet sockets.
const BUFFER_BYTES: usize = 16 * 1024;

/// Joins the two sides once both have changed over. The request stays in flight until then.
pub fn spawn(
    client: OnUpgrade,
    backend: OnUpgrade,
    counters: Rc<ServiceCounters>,
    held: (Rc<Client>, Lease, Active),
) {
    tokio::task::spawn_local(async move {
        let _held = held;
        let Ok((client, backend)) = futures_util::try_join!(client, backend) else { return };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        let copied =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER_BYTES, BUFFER_BYTES)
                .await;
        if let Ok((up, down)) = copied {
            count(&counters.bytes_in, up);
            count(&counters.bytes_out, down);
        }
    });
}
