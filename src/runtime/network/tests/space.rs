//! Test hosts: network namespaces, each with a thread inside that runs what it is given. They
//! vanish with their thread, and nothing of the machine's own network is touched.

use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

use crate::runtime::network::links;
use crate::runtime::network::netlink::Socket;
use crate::runtime::network::{Config, Network, Proto};

type Job = Box<dyn FnOnce() + Send>;

pub struct Space {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// A thread's id serves as a pid here: /proc/TID/ns/net is the thread's namespace.
    pub pid: i32,
}

impl Space {
    pub fn new() -> Space {
        let (jobs, queue) = channel::<Job>();
        let (ready, started) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root can make a network namespace");
            ready.send(nix::unistd::gettid().as_raw()).expect("the maker waits");
            queue.into_iter().for_each(|job| job());
        });
        let pid = started.recv().expect("the namespace's thread starts");
        Space { jobs: Some(jobs), thread: Some(thread), pid }
    }

    /// Starts `work` on the thread inside; the returned function waits for its result.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        let (sender, receiver) = channel();
        let job = move || sender.send(catch_unwind(AssertUnwindSafe(work))).unwrap_or_default();
        self.jobs.as_ref().expect("not dropped").send(Box::new(job)).expect("the thread lives");
        Box::new(move || {
            receiver.recv().expect("the thread lives").unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(work)()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.jobs.take();
        _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Runs a future on the calling thread, as the node's runtime would on its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// What the host's end of the wire to the world is called, and the addresses on it.
pub const HOST_ADDRESS: &str = "203.0.113.1";
pub const WORLD_ADDRESS: &str = "203.0.113.2";
pub const METADATA_ADDRESS: &str = "169.254.169.254";
pub const GATEWAY_TCP: u16 = 5353;
pub const GATEWAY_UDP: u16 = 5354;

/// A host with one way out: to a namespace that plays the internet. It has the same route back
/// to the containers' subnet as the internet has: none.
pub struct Host {
    pub space: Space,
    pub world: Space,
    pub dir: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Host {
        let host =
            Host { space: Space::new(), world: Space::new(), dir: tempfile::tempdir().expect("a folder") };
        let world = host.world.pid;
        host.space.run(move || {
            let mut socket = Socket::route().expect("a socket");
            let namespace = std::fs::File::open(format!("/proc/{world}/ns/net")).expect("the namespace");
            links::create_veth(&mut socket, "up0", 0, namespace.as_raw_fd(), [2, 0, 0, 0, 0, 2])
                .expect("veth");
            configure(&mut socket, "up0", &[(HOST_ADDRESS, 24)]);
            configure(&mut socket, "lo", &[]);
            let up = links::index_of(&mut socket, "up0").expect("list").expect("up0");
            let gateway = WORLD_ADDRESS.parse().expect("an address");
            links::add_default_route(&mut socket, up, gateway).expect("route");
        });
        host.world.run(|| {
            let mut socket = Socket::route().expect("a socket");
            configure(&mut socket, "eth0", &[(WORLD_ADDRESS, 24), (METADATA_ADDRESS, 32)]);
            configure(&mut socket, "lo", &[]);
        });
        host
    }

    pub fn config(&self, tag: &str) -> Config {
        Config {
            tag: tag.into(),
            run_dir: self.dir.path().join(tag).join("run"),
            state_dir: self.dir.path().join(tag).join("state"),
            allowed_gateway_ports: vec![(Proto::Tcp, GATEWAY_TCP), (Proto::Udp, GATEWAY_UDP)],
        }
    }

    pub fn open(&self, tag: &str) -> Network {
        let config = self.config(tag);
        self.space.run(move || block_on(Network::open(config))).expect("the network opens")
    }

    /// Runs one of the network's methods where a node would: in the host's namespace.
    pub fn with<T: Send + 'static>(
        &self,
        network: &std::sync::Arc<Network>,
        work: impl AsyncFnOnce(&Network) -> T + Send + 'static,
    ) -> T {
        let network = std::sync::Arc::clone(network);
        self.space.run(move || block_on(work(&network)))
    }
}

fn configure(socket: &mut Socket, name: &str, addresses: &[(&str, u8)]) {
    let link = links::index_of(socket, name).expect("list").expect("the link");
    for (address, prefix_len) in addresses {
        links::add_address(socket, link, address.parse().expect("an address"), *prefix_len).expect("address");
    }
    links::set_up(socket, link).expect("up");
}

/// Everything in the namespace that a network could leave behind, in words that can be compared.
pub fn leftovers(host: &Host) -> Vec<String> {
    host.space.run(|| {
        let mut socket = Socket::route().expect("a socket");
        let links = links::list(&mut socket).expect("list");
        let networks = links::networks_in_use(&mut socket).expect("list");
        let chains = super::nft::hooked_chains(&mut Socket::netfilter().expect("a socket")).expect("list");
        let mut found: Vec<_> = links.iter().map(|link| format!("link {}", link.name)).collect();
        found.extend(networks.iter().map(|(subnet, link)| format!("network {subnet} on {link}")));
        found.extend(chains.iter().map(|chain| format!("{chain:?}")));
        found.extend(
            std::fs::read_to_string("/proc/thread-self/net/arp")
                .expect("arp")
                .lines()
                .filter(|line| line.contains("0a:58"))
                .map(str::to_owned),
        );
        found.push(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("a setting"));
        found.sort();
        found
    })
}
