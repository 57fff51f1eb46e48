//! Hears that someone changed the host's firewall: Docker that starts after us and drops what
//! is forwarded, `iptables -F`, `nft flush ruleset` of a firewall service that reloads.
//!
//! What is then missing is found by looking, in `host`: a change that is noticed late, twice or
//! by the clock alone does no harm.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::netlink::frames;
use super::nft::changes_rules;

/// NFNLGRP_NFTABLES, the seventh group.
const GROUP_NFTABLES: u32 = 1 << 6;
/// A firewall writes rule after rule: look when it has paused.
const PAUSE: Duration = Duration::from_millis(100);
/// Legacy iptables tells nobody of its changes.
const LATEST: Duration = Duration::from_secs(30);
/// A firewall that never pauses is looked at all the same.
const BUSY_AT_MOST: Duration = Duration::from_secs(2);

/// Changes of nftables' tables, chains and rules in one network namespace.
#[derive(Debug)]
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
}

/// A socket that hears of changes in the calling thread's network namespace.
pub fn listen() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP_NFTABLES))?;
    Ok(fd)
}

impl Changes {
    /// Must be called within a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Changes> {
        // SAFETY: the descriptor is owned by what is registered, and stays open as long.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Changes { socket })
    }

    /// Returns when something changed and has settled, and at times though nothing did.
    pub async fn next(&self) -> io::Result<()> {
        let began = Instant::now();
        if self.before(began + LATEST).await? {
            let busy_until = Instant::now() + BUSY_AT_MOST;
            while self.before(busy_until.min(Instant::now() + PAUSE)).await? {}
        }
        Ok(())
    }

    /// Whether there was a change before `deadline`.
    async fn before(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let Ok(ready) = timeout_at(deadline, self.socket.readable()).await else { return Ok(false) };
            let read = ready?.try_io(|fd| read_all(fd.get_ref()));
            if matches!(read, Ok(Ok(true))) {
                return Ok(true);
            }
            if let Ok(Err(error)) = read {
                return Err(error);
            }
            // Else: set elements, which come and go with containers, or nothing at all.
        }
    }
}

/// Empties the socket: whether anything in it is a change of rules. `WouldBlock` when it was
/// empty already.
fn read_all(fd: &OwnedFd) -> io::Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    let mut any = false;
    let mut found = false;
    loop {
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                any = true;
                found |= frames(&buffer[..length]).any(|(kind, _, _)| changes_rules(kind));
            }
            // More than the socket holds: certainly a change.
            Err(nix::Error::ENOBUFS) => return Ok(true),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) if found => return Ok(true),
            Err(nix::Error::EAGAIN) if any => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
