//! What containers reach, and what reaches them.

use std::net::UdpSocket;

use super::space::{GATEWAY_TCP, GATEWAY_UDP, HOST_ADDRESS, METADATA_ADDRESS, WORLD_ADDRESS};
use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn the_host_reaches_a_container_and_sees_its_address() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, attachment) = &scene.containers[0];
    let seen = converse(&scene.host.space, container, attachment.address, 80).expect("reaches");
    assert_eq!(seen.ip(), attachment.gateway);
}

#[test]
fn a_container_reaches_the_world_under_the_hosts_address() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let seen =
        converse(&scene.containers[0].0, &scene.host.world, address(WORLD_ADDRESS), 80).expect("reaches");
    assert_eq!(seen.ip(), address(HOST_ADDRESS));
}

#[test]
fn a_container_reaches_the_allowed_ports_of_its_gateway_and_no_other() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, attachment) = &scene.containers[0];
    let host = &scene.host.space;
    let seen = converse(container, host, attachment.gateway, GATEWAY_TCP).expect("allowed");
    assert_eq!(seen.ip(), attachment.address);
    let cases = [
        (attachment.gateway, GATEWAY_TCP + 2),
        (attachment.gateway, 22),
        // Allowed on the gateway's address is not allowed on the host's others.
        (address(HOST_ADDRESS), GATEWAY_TCP),
        (address(HOST_ADDRESS), 22),
    ];
    for (target, port) in cases {
        let error = converse(container, host, target, port).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{target}:{port}: {error}");
    }
}

#[test]
fn the_metadata_service_is_refused_though_the_host_itself_reaches_it() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let world = &scene.host.world;
    converse(&scene.host.space, world, address(METADATA_ADDRESS), 80).expect("the host reaches it");
    let error = converse(&scene.containers[0].0, world, address(METADATA_ADDRESS), 80).expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
}

#[test]
fn the_world_does_not_walk_in_even_if_it_knows_the_way() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, attachment) = &scene.containers[0];
    let subnet = scene.network.subnet();
    // A neighbour on the host's own network may simply route the subnet to the host.
    scene.host.world.run(|| {
        let mut socket = netlink::Socket::route().expect("a socket");
        let eth0 = links::index_of(&mut socket, "eth0").expect("list").expect("eth0");
        let host = HOST_ADDRESS.parse().expect("an address");
        links::add_default_route(&mut socket, eth0, host).expect("route");
    });
    assert!(matches!(subnet.0, IpAddr::V4(_)));
    let world = &scene.host.world;
    for (server, target, port) in
        [(container, attachment.address, 80), (&scene.host.space, attachment.gateway, GATEWAY_TCP)]
    {
        let error = converse(world, server, target, port).expect_err("dropped");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{target}:{port}: {error}");
    }
}

#[test]
fn a_container_has_loopback_and_no_ipv6_towards_the_bridge() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let (container, _) = &scene.containers[0];
    converse(container, container, address("127.0.0.1"), 80).expect("loopback");
    let (inside, ranges, lowest) = container.run(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        (
            read("/proc/thread-self/net/if_inet6"),
            read("/proc/sys/net/ipv4/ping_group_range"),
            read("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        )
    });
    assert!(!inside.contains("eth0"), "{inside}");
    assert_eq!(ranges.split_whitespace().collect::<Vec<_>>(), ["0", "2147483647"]);
    assert_eq!(lowest.trim(), "0");
    let outside = scene
        .host
        .space
        .run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))
        .unwrap_or_default();
    assert!(!outside.contains("ndctl") && !outside.contains("nvt-"), "{outside}");
}

#[test]
fn the_first_packet_after_an_attachment_arrives() {
    if !is_root() {
        return;
    }
    let patience = Some(Duration::from_secs(5));
    for n in 0..20 {
        // A fresh bridge each second time: it has to come up as well.
        let mut scene = Scene::with_containers(n % 2);
        let container = Space::new();
        let inside = container.run(|| UdpSocket::bind("0.0.0.0:9000")).expect("a socket");
        let outside = scene.host.space.run(|| UdpSocket::bind(("0.0.0.0", GATEWAY_UDP))).expect("a socket");
        let attachment = scene.attach("late", container.pid).expect("attaches");
        scene.containers.push((container, attachment));
        let mut word = [0; 4];
        for (from, to, address, port) in [
            (&outside, &inside, attachment.address, 9000),
            (&inside, &outside, attachment.gateway, GATEWAY_UDP),
        ] {
            to.set_read_timeout(patience).expect("a timeout");
            from.send_to(b"word", (address, port)).expect("sends");
            to.recv(&mut word).unwrap_or_else(|error| panic!("round {n}, to {address}: {error}"));
        }
    }
}
