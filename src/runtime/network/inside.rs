//! The container's side: what is done within its network namespace, by a thread that enters it
//! and then ends, because `setns` changes a thread for good and tokio would reuse it.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::links;
use super::netlink::Socket;
use super::subnet::mac_of;

/// What one container's network needs to know.
pub struct Plan {
    pub veth: String,
    pub bridge: u32,
    pub bridge_name: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
}

/// The network namespace of a process, held open.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    pub fn of_process(pid: i32) -> io::Result<Namespace> {
        Ok(Namespace(File::open(format!("/proc/{pid}/ns/net"))?))
    }

    pub fn of_descriptor(descriptor: std::os::fd::OwnedFd) -> Namespace {
        Namespace(descriptor.into())
    }

    /// Whether it is the one that the calling thread is in.
    pub fn is_our_own(&self) -> io::Result<bool> {
        let own = fs::metadata("/proc/thread-self/ns/net")?;
        let other = self.0.metadata()?;
        Ok((own.st_dev(), own.st_ino()) == (other.st_dev(), other.st_ino()))
    }
}

/// The first two are Docker's: no one needs a capability to ping, or to listen on port 80.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ping_group_range", "0 2147483647"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    // No container has an IPv6 address from us; it shall not make up its own. `lo` keeps ::1.
    ("ipv6/conf/eth0/disable_ipv6", "1"),
    ("ipv6/conf/eth0/accept_ra", "0"),
    ("ipv6/conf/eth0/autoconf", "0"),
];

/// Makes the veth pair, its port of the bridge and everything in the namespace; `host` is a
/// socket of the host's. Both ends are up at the end. On an error the caller deletes the veth.
pub fn connect(host: &mut Socket, namespace: &Namespace, plan: &Plan) -> io::Result<()> {
    let mac = mac_of(plan.address);
    links::create_veth(host, &plan.veth, plan.bridge, namespace.0.as_raw_fd(), mac)?;
    configure_port(host, plan)?;
    thread::scope(|scope| {
        let inside = scope.spawn(|| configure_inside(namespace, plan));
        inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })?;
    links::wait_until(host, &plan.veth, |link| link.is_forwarding)?;
    // The bridge too: it has no carrier while it has no port that has one.
    links::wait_until(host, &plan.bridge_name, |link| link.is_operational)?;
    // The link watcher may still be at work; it holds the lock that this has to take.
    links::set_up(host, plan.bridge)
}

fn configure_port(host: &mut Socket, plan: &Plan) -> io::Result<()> {
    let mac = mac_of(plan.address);
    let port =
        links::index_of(host, &plan.veth)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    write_setting(&format!("ipv6/conf/{}/disable_ipv6", plan.veth), "1")?;
    links::restrict_port(host, port)?;
    links::pin_mac(host, port, mac)?;
    links::pin_neighbour(host, plan.bridge, plan.address, mac)?;
    links::set_up(host, port)
}

fn configure_inside(namespace: &Namespace, plan: &Plan) -> io::Result<()> {
    setns(&namespace.0, CloneFlags::CLONE_NEWNET)?;
    for (setting, value) in SETTINGS {
        write_setting(setting, value)?;
    }
    let mut socket = Socket::route()?;
    let index = |socket: &mut Socket, name: &str| -> io::Result<u32> {
        links::index_of(socket, name)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    };
    let loopback = index(&mut socket, "lo")?;
    links::set_up(&mut socket, loopback)?;
    let eth0 = index(&mut socket, "eth0")?;
    links::add_address(&mut socket, eth0, plan.address, plan.prefix_len)?;
    links::set_up(&mut socket, eth0)?;
    links::add_default_route(&mut socket, eth0, plan.gateway)?;
    links::wait_until(&mut socket, "eth0", |link| link.is_operational)
}

/// Writes /proc/sys/net/`setting` of the calling thread's namespace. A setting that this kernel
/// does not have (IPv6 turned off at boot) needs no writing.
pub fn write_setting(setting: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{setting}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
