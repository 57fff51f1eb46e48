//! The container network of one node: a bridge, a veth pair for each instance, and the rules
//! that say who may talk to whom. Egress is by NAT; the way in is the node's proxy alone.
//!
//! What lives here is [`Network`], which remembers who is attached and orders the steps. Start
//! reading there. The rest, in the order in which a packet would need it:
//!
//! ```text
//!  subnet   which addresses (pure)          inside   the container's end, in its namespace
//!  host     one node's bridge and tables    foreign  beside Docker's and the host's firewalls
//!  links    rtnetlink: bridge, veth, …      rules    the firewall as a value (pure)
//!  netlink  framing, for links and nft      rule     one rule's matches and verdict
//!  records  what survives kill -9           nft      tables of rules, as the kernel wants them
//!                                           watch    hears of changes to the host's firewall
//! ```
//!
//! Everything here belongs to the network namespace that [`Network::open`] was called in. All
//! work is done on short-lived plain threads: netlink answers at once, but takes the kernel's
//! networking lock, which a removal elsewhere may hold for a while.

mod foreign;
mod host;
mod inside;
mod links;
mod netlink;
mod nft;
mod records;
mod rule;
mod rules;
mod subnet;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use foreign::Warning;
use host::Host;
use inside::Namespace;
use records::{Records, is_key};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("network tag {tag:?} must be one to six lower-case letters or digits")]
    BadTag { tag: String },
    #[error("network key {key:?} must be letters, digits, '.', '-' or '_'")]
    BadKey { key: String },
    #[error("the network of {key} is being attached or detached already")]
    Busy { key: String },
    #[error("process {pid} is in the host's own network namespace; it needs no attachment")]
    HostNamespace { pid: i32 },
    #[error("could not open the network namespace of process {pid}; is it still running?")]
    Namespace { pid: i32, source: io::Error },
    #[error("no free private subnet: all of 10.209.0.0/16, 172.29.0.0/16 and 192.168.208.0/20 are in use")]
    NoFreeSubnet,
    #[error("all addresses of {subnet} are taken")]
    NoFreeAddress { subnet: String },
    #[error("could not {what}{}", hint(.source))]
    Kernel { what: String, source: io::Error },
    #[error("could not keep the network record {}", .path.display())]
    Record { path: PathBuf, source: io::Error },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (container networks need root)",
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ENOENT) => {
            " (does the kernel have its modules for bridge, veth and nf_tables?)"
        }
        _ => "",
    }
}

/// Says what was being done when the kernel refused.
fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Kernel { what, source }
}

/// A transport protocol of which the gateway offers a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    /// The protocol's number in an IP header.
    fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// One to six lower-case letters or digits, different for each data folder of a host: the
    /// bridge is `ndctl-TAG`, the tables `nodectl-TAG`.
    pub tag: String,
    /// On tmpfs. Attachments are recorded here.
    pub run_dir: PathBuf,
    /// On disk. The chosen subnet is remembered here.
    pub state_dir: PathBuf,
    /// What containers may reach on the gateway's address: DNS, the proxy.
    pub allowed_gateway_ports: Vec<(Proto, u16)>,
}

/// What one container got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    pub address: IpAddr,
    pub prefix_len: u8,
    pub gateway: IpAddr,
}

/// The open network of a node. Dropping it leaves everything in place, for containers outlive
/// the node process; [`Network::close`] takes it away.
///
/// # Cancel safety
/// Every method runs to its end even if its future is dropped; the result is then lost, and the
/// next call for the same key finds what it left (or [`Error::Busy`] while it still runs).
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    records: Records,
    state: Mutex<State>,
    /// Held while the kernel's table is brought in line with `state`, so that a replacement
    /// made from an older look at it does not undo an addition.
    firewall: Mutex<Firewall>,
}

/// Whether there are rules of ours to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Standing,
    /// By [`Network::close`]: nothing may be put back.
    TakenAway,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    next_slot: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A call is working on it; its slot is taken.
    Busy,
    Attached,
    /// Something of it is left that could not be taken away; the next detach or sweep tries again.
    Failed,
}

impl Network {
    /// The node's network, made or found again. Found again, nothing that lives in it loses a
    /// packet: links are left alone and the tables are rewritten in one transaction.
    ///
    /// # Errors
    /// When it is refused by the kernel, or no subnet is free; nothing is left half-made.
    pub async fn open(config: Config) -> Result<Network, Error> {
        let shared = blocking(move || Shared::open(&config)).await?;
        Ok(Network { shared: Arc::new(shared) })
    }

    /// Gives the network namespace of process `pid` an `eth0` with the next free address. A key
    /// that is attached already is detached first, for its old namespace is not known to be this.
    ///
    /// # Errors
    /// After an error, nothing of this attachment is left.
    pub async fn attach(&self, key: &str, pid: i32) -> Result<Attachment, Error> {
        let key = key.to_owned();
        self.with(move |shared| shared.attach(&key, pid)).await
    }

    /// As [`Network::attach`], for a namespace that is held open: whatever becomes of the
    /// process that it was made for, this one is meant.
    ///
    /// # Errors
    /// After an error, nothing of this attachment is left.
    pub async fn attach_namespace(&self, key: &str, namespace: OwnedFd) -> Result<Attachment, Error> {
        let key = key.to_owned();
        self.with(move |shared| shared.attach_namespace(&key, Namespace::of_descriptor(namespace))).await
    }

    /// Takes the attachment away; it is no error if there is none, or if the veth is gone with
    /// its namespace.
    pub async fn detach(&self, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.with(move |shared| shared.detach(&key)).await
    }

    /// Detaches all but `keep`, veths of ours that no record knows among them, and puts back what
    /// others have taken from our tables and inserted rules.
    pub async fn sweep(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        let keep = keep.clone();
        self.with(move |shared| shared.sweep(&keep)).await
    }

    /// What will keep containers from the network although our own side is right, with what to do
    /// about it. Not an error: a node without egress can still serve. Worth a look after `open`.
    pub async fn diagnose(&self) -> Result<Vec<Warning>, Error> {
        self.with(move |shared| shared.host.diagnose()).await
    }

    /// Puts back, as long as it is polled, what others take from our rules: Docker may start after
    /// us, a firewall may reload or be flushed. What cannot be put right and is not among `told` is
    /// told, once each.
    ///
    /// # Errors
    /// The kernel tells nothing of changes to its rules.
    pub async fn keep(&self, mut told: BTreeSet<String>, mut tell: impl FnMut(String)) -> Result<(), Error> {
        const LISTEN: &str = "listen for changes of the host's firewall";
        let socket = self.with(|_| watch::listen().map_err(kernel(LISTEN))).await?;
        let changes = watch::Changes::new(socket).map_err(kernel(LISTEN))?;
        loop {
            let found = match self.with(Shared::repair).await {
                Ok(warnings) => warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>(),
                Err(error) => vec![chain(&error)],
            };
            // What has gone may come again, and is then told again.
            told.retain(|message| found.contains(message));
            for message in found {
                if told.insert(message.clone()) {
                    tell(message);
                }
            }
            changes.next().await.map_err(kernel(LISTEN))?;
        }
    }

    /// `None` while the key is not, or not wholly, attached.
    pub fn attachment(&self, key: &str) -> Option<Attachment> {
        let entry = *self.shared.state().entries.get(key)?;
        (entry.phase == Phase::Attached).then(|| self.shared.host.attachment(entry.slot))
    }

    /// All keys that are attached.
    pub fn keys(&self) -> BTreeSet<String> {
        self.shared.state().entries.keys().filter(|key| is_key(key)).cloned().collect()
    }

    pub fn gateway(&self) -> IpAddr {
        self.shared.host.subnet.gateway().into()
    }

    pub fn subnet(&self) -> (IpAddr, u8) {
        (self.shared.host.subnet.base().into(), self.shared.host.subnet.prefix_len())
    }

    /// Removes the bridge, veths, tables, what we inserted in others' chains and the records.
    pub async fn close(&self) -> Result<(), Error> {
        self.with(move |shared| shared.close()).await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await
    }
}

/// Runs `work` on a thread of its own. Not tokio's blocking pool: its threads are shared, and
/// `work` reads /proc/thread-self and starts programs, which must see the caller's namespace.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("network".into())
        .spawn(move || sender.send(work()).ok())
        .map_err(kernel("start a thread for the network"))?;
    let lost = |_| io::Error::other("the thread that worked on it panicked");
    receiver.await.map_err(lost).map_err(kernel("work on the network"))?
}

fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Shared {
    fn open(config: &Config) -> Result<Shared, Error> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=6).contains(&config.tag.len()) || !config.tag.bytes().all(is_plain) {
            return Err(Error::BadTag { tag: config.tag.clone() });
        }
        let records = Records::open(&config.run_dir, &config.state_dir)?;
        let entries: BTreeMap<_, _> = records
            .attachments()?
            .into_iter()
            .map(|(key, slot)| (key, Entry { slot, phase: Phase::Attached }))
            .collect();
        let recorded = entries.values().map(|entry| entry.slot).collect();
        let host = Host::open(config, &records, recorded)?;
        let state = State { entries, next_slot: records.next_slot() };
        let shared =
            Shared { host, records, state: Mutex::new(state), firewall: Mutex::new(Firewall::Standing) };
        shared.adopt_strangers()?;
        Ok(shared)
    }

    /// Veths of ours that no record knows (someone emptied `run_dir`) may be those of the living:
    /// they keep their slots, under keys that no caller can have, until a sweep says otherwise.
    fn adopt_strangers(&self) -> Result<(), Error> {
        let known = self.slots();
        let strangers = self.host.connected_slots()?.into_iter().filter(|slot| !known.contains(slot));
        let entries = strangers.map(|slot| (format!("?{slot}"), Entry { slot, phase: Phase::Attached }));
        self.state().entries.extend(entries.collect::<Vec<_>>());
        Ok(())
    }

    fn attach(&self, key: &str, pid: i32) -> Result<Attachment, Error> {
        if !is_key(key) {
            return Err(Error::BadKey { key: key.to_owned() });
        }
        let namespace = Namespace::of_process(pid).map_err(|source| Error::Namespace { pid, source })?;
        if namespace.is_our_own().map_err(|source| Error::Namespace { pid, source })? {
            return Err(Error::HostNamespace { pid });
        }
        self.attach_namespace(key, namespace)
    }

    fn attach_namespace(&self, key: &str, namespace: Namespace) -> Result<Attachment, Error> {
        if !is_key(key) {
            return Err(Error::BadKey { key: key.to_owned() });
        }
        self.detach(key)?;
        let slot = self.reserve(key)?;
        let result = self.connect(slot, &namespace);
        match &result {
            Ok(_) => self.mark(key, Phase::Attached),
            // The first error is the one to tell.
            Err(_) => _ = self.release(key, slot),
        }
        result
    }

    /// Takes a slot and writes it down, before the kernel has anything of it.
    fn reserve(&self, key: &str) -> Result<u32, Error> {
        let mut state = self.state();
        if state.entries.contains_key(key) {
            return Err(Error::Busy { key: key.to_owned() });
        }
        let taken: BTreeSet<u32> = state.entries.values().map(|entry| entry.slot).collect();
        let slot = subnet::next_free(self.host.subnet, state.next_slot, |slot| taken.contains(&slot))
            .ok_or_else(|| Error::NoFreeAddress { subnet: self.host.subnet.to_string() })?;
        self.records.put_attachment(key, slot, slot + 1)?;
        state.next_slot = slot + 1;
        state.entries.insert(key.to_owned(), Entry { slot, phase: Phase::Busy });
        Ok(slot)
    }

    fn connect(&self, slot: u32, namespace: &Namespace) -> Result<Attachment, Error> {
        {
            let _firewall = self.firewall();
            if self.host.admit(slot).is_err() {
                // Someone flushed our table (`nft flush ruleset`): put it back as a whole.
                self.host.put_tables(self.slots())?;
            }
        }
        self.host.connect(slot, namespace)?;
        Ok(self.host.attachment(slot))
    }

    fn mark(&self, key: &str, phase: Phase) {
        if let Some(entry) = self.state().entries.get_mut(key) {
            entry.phase = phase;
        }
    }

    fn detach(&self, key: &str) -> Result<(), Error> {
        let slot = {
            let mut state = self.state();
            match state.entries.get_mut(key) {
                None => return Ok(()),
                Some(entry) if entry.phase == Phase::Busy => return Err(Error::Busy { key: key.to_owned() }),
                Some(entry) => {
                    entry.phase = Phase::Busy;
                    entry.slot
                }
            }
        };
        self.release(key, slot)
    }

    fn release(&self, key: &str, slot: u32) -> Result<(), Error> {
        self.take_away(key, slot).inspect_err(|_| self.mark(key, Phase::Failed))
    }

    /// Undoes `connect` and `reserve`, in the opposite order.
    fn take_away(&self, key: &str, slot: u32) -> Result<(), Error> {
        self.host.disconnect(slot)?;
        {
            let _firewall = self.firewall();
            self.host.dismiss(slot)?;
        }
        self.records.remove_attachment(key)?;
        self.state().entries.remove(key);
        Ok(())
    }

    fn sweep(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        let attached: Vec<String> = self.state().entries.keys().cloned().collect();
        for key in attached.iter().filter(|key| !keep.contains(*key)) {
            match self.detach(key) {
                // Someone is working on it at this moment: it is no leftover.
                Err(Error::Busy { .. }) => {}
                other => other?,
            }
        }
        self.host.repair_surroundings();
        let _firewall = self.firewall();
        self.host.put_tables(self.slots())
    }

    fn repair(&self) -> Result<Vec<Warning>, Error> {
        let firewall = self.firewall();
        if *firewall == Firewall::TakenAway {
            return Ok(Vec::new());
        }
        self.host.repair_tables(self.slots())?;
        // Puts our rules into others' chains, too.
        self.host.diagnose()
    }

    fn close(&self) -> Result<(), Error> {
        *self.firewall() = Firewall::TakenAway;
        self.host.close(&self.records)?;
        self.state().entries.clear();
        self.records.clear()
    }

    fn slots(&self) -> Vec<u32> {
        self.state().entries.values().map(|entry| entry.slot).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn firewall(&self) -> MutexGuard<'_, Firewall> {
        self.firewall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
