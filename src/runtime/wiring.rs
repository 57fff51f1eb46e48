//! What the runtime needs from a network, as one small trait: plug a namespace in, out.
//!
//! The node's bridge implements it; tests, and hosts that want no network, use [`Unplugged`].

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;

/// Where a container can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub address: IpAddr,
    pub gateway: IpAddr,
}

pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// Connects network namespaces. `key` is `instance.attempt`.
pub trait Wiring: Send + Sync {
    /// Called between create and start: the namespace exists and nothing runs in it.
    fn attach(&self, key: &str, netns: OwnedFd) -> Reply<'_, Option<Attachment>>;
    /// Idempotent; also called for what was never attached.
    fn detach(&self, key: &str) -> Reply<'_, ()>;
    /// The name server that containers are given.
    fn gateway(&self) -> Option<IpAddr>;
}

/// No network but loopback.
pub struct Unplugged;

impl Wiring for Unplugged {
    fn attach(&self, _key: &str, _netns: OwnedFd) -> Reply<'_, Option<Attachment>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn detach(&self, _key: &str) -> Reply<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn gateway(&self) -> Option<IpAddr> {
        None
    }
}
