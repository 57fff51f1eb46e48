//! A network's life: opened twice, killed and opened again, churned, swept, closed.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};

use super::space::{HOST_ADDRESS, METADATA_ADDRESS, WORLD_ADDRESS, block_on, leftovers};
use super::*;

#[test]
fn close_leaves_the_host_as_it_was() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let before = leftovers(&host);
    let network = Arc::new(host.open("t"));
    let mut scene = Scene { host, network, containers: Vec::new() };
    (1..=3).for_each(|n| scene.add(&n.to_string()));
    assert!(leftovers(&scene.host).len() > before.len() + 5);
    let run_dir = scene.host.config("t").run_dir;
    let host = scene.close();
    assert_eq!(leftovers(&host), before);
    let files = std::fs::read_dir(run_dir).expect("a folder").count();
    assert_eq!(files, 1, "only the empty folder `attachments`");
}

#[test]
fn a_hundred_attachments_come_and_go_without_a_trace() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let before = leftovers(&scene.host);
    let mut addresses = BTreeSet::new();
    for n in 0..100 {
        let container = Space::new();
        let key = format!("churn.{n}");
        addresses.insert(scene.attach(&key, container.pid).expect("attaches").address);
        match n % 4 {
            // The namespace dies first, and takes the veth with it.
            0 => drop(container),
            // A start that fails half-way: the namespace is there already, with another eth0.
            1 => {
                scene.attach("failed", container.pid).expect_err("eth0 is taken");
                assert_eq!(scene.network.attachment("failed"), None);
            }
            2 => assert_eq!(scene.detach("unheard-of").ok(), Some(())),
            _ => {}
        }
        scene.detach(&key).expect("detaches");
        scene.detach(&key).expect("twice is no error");
        assert_eq!(scene.network.attachment(&key), None);
    }
    assert_eq!(addresses.len(), 100, "a freed address is not used again at once");
    assert_eq!(leftovers(&scene.host), before);
    assert_eq!(scene.network.keys().len(), 1);
}

#[test]
fn many_attach_at_the_same_time() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(0);
    let spaces: Vec<_> = (0..40).map(|_| Space::new()).collect();
    let network = Arc::clone(&scene.network);
    let pids: Vec<i32> = spaces.iter().map(|space| space.pid).collect();
    let results = scene.host.space.run(move || {
        block_on(async {
            let attach = |pid: i32| {
                let network = Arc::clone(&network);
                async move { network.attach(&format!("p{pid}"), pid).await }
            };
            futures_util::future::join_all(pids.into_iter().map(attach)).await
        })
    });
    let addresses: BTreeSet<_> =
        results.into_iter().map(|result| result.expect("attaches").address).collect();
    assert_eq!(addresses.len(), 40);
    for (space, address) in spaces.iter().zip(addresses.iter().rev()) {
        // Whoever got it: each address answers.
        let owner = spaces.iter().find(|other| {
            scene.network.attachment(&format!("p{}", other.pid)).map(|found| found.address) == Some(*address)
        });
        converse(&scene.host.space, owner.unwrap_or(space), *address, 80).expect("reaches");
    }
}

/// Echoes datagrams on a thread until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn on(socket: UdpSocket) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Echo { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Sends numbered datagrams one after another, each when the last came back, until told to stop:
/// returns how many came back. A lost one is an error.
fn ping_until(socket: UdpSocket, target: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    std::thread::spawn(move || {
        let mut count: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            socket.send_to(&count.to_be_bytes(), target).expect("sends");
            let mut answer = [0; 8];
            socket.recv(&mut answer).unwrap_or_else(|error| panic!("datagram {count} was lost: {error}"));
            assert_eq!(u64::from_be_bytes(answer), count);
            count += 1;
        }
        count
    })
}

#[test]
fn opening_again_while_traffic_flows_loses_no_packet() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, attachment) = &scene.containers[0];
    let bind = |space: &Space| space.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    let port = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
    let (inside, outside) = (bind(container), bind(&scene.host.world));
    let targets = [
        (bind(&scene.host.space), SocketAddr::new(attachment.address, port(&inside))),
        (bind(container), SocketAddr::new(WORLD_ADDRESS.parse().expect("an address"), port(&outside))),
    ];
    let _echoes = [Echo::on(inside), Echo::on(outside)];
    let stop = Arc::new(AtomicBool::new(false));
    let pings = targets.map(|(socket, target)| ping_until(socket, target, Arc::clone(&stop)));
    for _ in 0..30 {
        // As after a kill -9: nothing was closed.
        let again = Arc::new(scene.host.open("t"));
        assert_eq!(again.attachment("1.1"), Some(*attachment));
        let keep = again.keys();
        scene.host.with(&again, async move |network| network.sweep(&keep).await).expect("sweeps");
    }
    stop.store(true, Ordering::Relaxed);
    for ping in pings {
        let count = ping.join().expect("none was lost");
        assert!(count > 30, "{count} datagrams");
    }
}

#[test]
fn after_a_kill_the_living_are_found_and_the_dead_are_swept() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::with_containers(2);
    let run_dir = scene.host.config("t").run_dir;
    // Killed after the record was written and before the veth was there; and a veth whose
    // record is lost.
    std::fs::write(run_dir.join("attachments/9.9"), "77").expect("writes");
    std::fs::write(run_dir.join("attachments/.1.7"), "half").expect("writes");
    std::fs::remove_file(run_dir.join("attachments/2.1")).expect("removes");
    scene.network = Arc::new(scene.host.open("t"));
    let first = scene.containers[0].1;
    assert_eq!(scene.network.attachment("1.1"), Some(first));
    let keep = BTreeSet::from(["1.1".to_owned()]);
    scene.host.with(&scene.network, async move |network| network.sweep(&keep).await).expect("sweeps");
    assert_eq!(scene.network.keys(), BTreeSet::from(["1.1".to_owned()]));
    let links = leftovers(&scene.host);
    let veths: Vec<_> = links.iter().filter(|link| link.contains("nvt-")).collect();
    assert_eq!(veths.len(), 1, "{veths:?}");
    converse(&scene.host.space, &scene.containers[0].0, first.address, 80).expect("still there");
    scene.add("3.1");
    let third = scene.containers[2].1;
    assert!(third.address != first.address && third.address != scene.containers[1].1.address);
}

#[test]
fn flushed_rules_are_put_back_by_a_sweep_and_by_an_attachment() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::with_containers(1);
    let metadata: IpAddr = METADATA_ADDRESS.parse().expect("an address");
    let world: IpAddr = WORLD_ADDRESS.parse().expect("an address");
    for round in 0..2 {
        // As `nft flush ruleset` does it.
        scene.host.space.run(|| {
            let mut socket = netlink::Socket::netfilter().expect("a socket");
            nft::delete(&mut socket, nft::Family::Inet, "nodectl-t").expect("deletes");
            nft::delete(&mut socket, nft::Family::Bridge, "nodectl-t").expect("deletes");
        });
        if round == 0 {
            let keep = scene.network.keys();
            scene.host.with(&scene.network, async move |network| network.sweep(&keep).await).expect("sweeps");
        } else {
            scene.add("2.1");
        }
        for (container, _) in &scene.containers {
            let seen = converse(container, &scene.host.world, world, 80).expect("reaches");
            assert_eq!(seen.ip().to_string(), HOST_ADDRESS);
            converse(container, &scene.host.world, metadata, 80).expect_err("refused");
        }
    }
}

#[test]
fn a_taken_subnet_is_avoided_and_the_chosen_one_remembered() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.space.run(|| {
        let mut socket = netlink::Socket::route().expect("a socket");
        let lo = links::index_of(&mut socket, "lo").expect("list").expect("lo");
        links::add_address(&mut socket, lo, "10.209.3.4".parse().expect("an address"), 24).expect("address");
    });
    let network = host.open("t");
    assert_eq!(network.subnet(), ("10.209.16.0".parse().expect("an address"), 20));
    assert_eq!(network.gateway().to_string(), "10.209.16.1");
    host.space.run(move || block_on(network.close())).expect("closes");
    let other = host.open("u");
    assert_eq!(other.subnet().0.to_string(), "10.209.16.0");
    let again = host.open("t");
    assert_eq!(again.subnet().0.to_string(), "10.209.32.0", "what it remembers is now another's");
    host.space.run(move || block_on(other.close())).expect("closes");
    host.space.run(move || block_on(again.close())).expect("closes");
    assert_eq!(host.open("t").subnet().0.to_string(), "10.209.32.0", "remembered");
}

#[test]
fn two_nodes_that_open_at_once_get_two_subnets_and_stay_apart() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    let configs: Vec<_> = (0..6).map(|n| host.config(&format!("n{n}"))).collect();
    let networks = host.space.run(move || {
        let opening = configs.into_iter().map(Network::open);
        block_on(futures_util::future::join_all(opening))
    });
    let networks: Vec<_> = networks.into_iter().map(|network| Arc::new(network.expect("opens"))).collect();
    let subnets: BTreeSet<_> = networks.iter().map(|network| network.subnet()).collect();
    assert_eq!(subnets.len(), 6);
    let (one, two) = (Space::new(), Space::new());
    let pids = [one.pid, two.pid];
    let attach = |n: usize| host.with(&networks[n], async move |network| network.attach("1", pids[n]).await);
    let (_, second) = (attach(0).expect("attaches"), attach(1).expect("attaches"));
    converse(&one, &two, second.address, 80).expect_err("the other node's container");
    converse(&one, &host.space, second.gateway, space::GATEWAY_TCP).expect_err("the other node's gateway");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(0);
    let space = Space::new();
    let own = scene.host.space.pid;
    let refused = |key: &str, pid| scene.attach(key, pid).expect_err("refused").to_string();
    assert!(refused("../../etc/x", space.pid).contains("../../etc/x"));
    assert!(refused("", space.pid).contains("must be"));
    assert!(refused("1.1", own).contains("host's own"));
    assert!(refused("1.1", i32::MAX).contains("still running?"));
    for tag in ["", "seventh", "UP", "a-b", "é"] {
        let config = Config { tag: tag.into(), ..scene.host.config("x") };
        let error = scene.host.space.run(move || block_on(Network::open(config))).expect_err("refused");
        assert!(matches!(error, Error::BadTag { .. }), "{error}");
    }
    assert!(scene.network.keys().is_empty());
}

/// A process in a user and a network namespace of its own, as a container's init is.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[test]
fn a_container_in_a_user_namespace_is_attached_like_any_other() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(0);
    let spawned = std::process::Command::new("unshare").args(["-U", "-r", "-n", "sleep", "1000"]).spawn();
    let Ok(child) = spawned.map(Child) else {
        return eprintln!("skipped: needs the program unshare");
    };
    let pid = child.0.id() as i32;
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while namespace(&pid.to_string()) == namespace("self") {
        assert!(std::time::Instant::now() < deadline, "unshare did not come to it");
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = leftovers(&scene.host);
    let attachment = scene.attach("1.1", pid).expect("attaches");
    let answers = scene.host.space.run(move || {
        // Nobody listens, and the container's kernel says so: the way is there and back.
        TcpStream::connect_timeout(&(attachment.address, 80).into(), Duration::from_secs(2))
    });
    assert_eq!(answers.expect_err("refused").kind(), io::ErrorKind::ConnectionRefused);
    drop(child);
    scene.detach("1.1").expect("detaches");
    assert_eq!(leftovers(&scene.host), before);
}

#[test]
fn a_node_whose_records_are_gone_gives_no_living_containers_address_away() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::with_containers(3);
    std::fs::remove_dir_all(scene.host.config("t").run_dir).expect("removes");
    scene.network = Arc::new(scene.host.open("t"));
    assert!(scene.network.keys().is_empty());
    scene.add("new.1");
    let addresses: BTreeSet<_> = scene.containers.iter().map(|(_, attachment)| attachment.address).collect();
    assert_eq!(addresses.len(), 4);
    for (container, attachment) in &scene.containers {
        converse(&scene.host.space, container, attachment.address, 80).expect("all live on");
    }
    let keep = BTreeSet::from(["new.1".to_owned()]);
    scene.host.with(&scene.network, async move |network| network.sweep(&keep).await).expect("sweeps");
    let left = leftovers(&scene.host);
    assert_eq!(left.iter().filter(|line| line.contains("link nvt-")).count(), 1, "{left:?}");
}
