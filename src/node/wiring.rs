//! The runtime's containers on the node's network.

use crate::runtime::network::Network;
use crate::runtime::wiring::{Attachment, Reply, Wiring};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub struct Bridge(pub Arc<Network>);

impl Wiring for Bridge {
    fn attach(&self, key: &str, netns: OwnedFd) -> Reply<'_, Option<Attachment>> {
        let key = key.to_owned();
        Box::pin(async move {
            let attached = self.0.attach_namespace(&key, netns).await.map_err(chain)?;
            Ok(Some(Attachment { address: attached.address, gateway: attached.gateway }))
        })
    }

    fn detach(&self, key: &str) -> Reply<'_, ()> {
        let key = key.to_owned();
        Box::pin(async move { self.0.detach(&key).await.map_err(chain) })
    }

    fn gateway(&self) -> Option<IpAddr> {
        Some(self.0.gateway())
    }
}

/// An error with its causes, in one line.
pub fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
