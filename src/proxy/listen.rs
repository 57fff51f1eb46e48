//! Makes the listening sockets, one for each worker on each address, and says who is in the
//! way when it can't. The node makes and keeps them; the proxy is handed copies.

use super::Error;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As many as the kernel allows by default (net.core.somaxconn): what waits while a proxy is
/// being started again must fit.
const BACKLOG: i32 = 4096;

/// `workers` sockets for each address, in order of addresses.
///
/// # Errors
/// The port is taken (by whom, where /proc tells) or the address is not ours.
pub fn bind_all(addresses: &[SocketAddr], workers: usize) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::with_capacity(addresses.len() * workers);
    for &wanted in addresses {
        // SO_REUSEPORT would let two nodes of one user share a port and each get half of the
        // requests; a first socket without it finds out.
        if wanted.port() != 0 {
            drop(bind(wanted, false).map_err(|e| explain(wanted, e))?);
        }
        let first = bind(wanted, true).map_err(|e| explain(wanted, e))?;
        let address = first.local_addr().map_err(|e| explain(wanted, e))?;
        listeners.push(first);
        for _ in 1..workers {
            listeners.push(bind(address, true).map_err(|e| explain(address, e))?);
        }
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // Another listener may want the IPv4 side of the wildcard for itself.
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit these on Linux, which spares a system call for each.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(6);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explain(address: SocketAddr, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::AddrInUse {
        let by = holder(address.port()).map(|who| format!(" (by {who})")).unwrap_or_default();
        Error::PortInUse { address, by }
    } else {
        Error::Listen { address, source }
    }
}

/// `nginx, process 812`, as far as this user may look.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let descriptors = std::fs::read_dir(process.path().join("fd")).ok()?;
        let holds = |fd: PathBuf| {
            std::fs::read_link(fd).is_ok_and(|to| inodes.iter().any(|inode| to == Path::new(inode)))
        };
        descriptors.flatten().any(|fd| holds(fd.path())).then(|| {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{}, process {pid}", name.trim())
        })
    })
}

/// Inodes of listening sockets on `port` in the text of /proc/net/tcp (proc_pid_net(5)).
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let listens = state == "0A";
        let here = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()? == port;
        (listens && here).then_some(inode)
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_in_use_names_who_holds_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let error = bind_all(&[address], 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("port {} is in use (by ", address.port())), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("--http"), "{error}");
    }

    #[test]
    fn another_shared_listener_is_in_the_way_too() {
        let held = bind("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert!(bind_all(&[held.local_addr().unwrap()], 2).is_err());
    }

    #[test]
    fn each_worker_has_a_socket_on_the_same_port() {
        let listeners = bind_all(&["127.0.0.1:0".parse().unwrap()], 3).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|p| *p == ports[0] && *p != 0), "{ports:?}");
    }
}
