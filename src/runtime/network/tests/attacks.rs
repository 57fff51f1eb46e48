//! Containers that forge: each test sends forged frames and then an honest one on the same way,
//! and looks at what arrived before it.

use std::net::{Ipv4Addr, UdpSocket};

use super::frames::{Mac, PacketSocket, arp_reply, contains, ethernet, udp};
use super::space::{GATEWAY_UDP, WORLD_ADDRESS};
use super::subnet::mac_of;
use super::*;

const FORGED: &[u8] = b"forged frame";
const HONEST: &[u8] = b"honest frame";
const BROADCAST: Mac = [0xff; 6];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not an IPv4 address"),
    }
}

/// The container's own address, its gateway's, and a second container's.
struct Parties {
    own: Ipv4Addr,
    gateway: Ipv4Addr,
    victim: Ipv4Addr,
}

fn parties(scene: &Scene) -> Parties {
    let address = |n: usize| v4(scene.containers[n].1.address);
    Parties { own: address(0), gateway: v4(scene.containers[0].1.gateway), victim: address(1) }
}

/// What the host's stack takes in after the first container has sent `frames`.
fn arrived_at_bridge(scene: &Scene, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let Parties { own, gateway, .. } = parties(scene);
    let capture = scene.host.space.run(|| PacketSocket::on("ndctl-t"));
    scene.containers[0].0.run(move || {
        let socket = PacketSocket::on("eth0");
        let honest = ethernet(mac_of(gateway), mac_of(own), IPV4, &udp(own, gateway, GATEWAY_UDP, HONEST));
        // Several rounds: where the kernel spreads packets over CPUs, one could be overtaken.
        for _ in 0..20 {
            frames.iter().for_each(|frame| socket.send(frame));
        }
        socket.send(&honest);
    });
    capture.receive_until(HONEST)
}

#[test]
fn forged_source_addresses_do_not_leave_the_port() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(2);
    let Parties { own, gateway, victim } = parties(&scene);
    let stranger = Ipv4Addr::new(198, 51, 100, 7);
    let mac = mac_of(own);
    let forged_udp = |source| udp(source, gateway, GATEWAY_UDP, FORGED);
    let to_gateway =
        |source_mac, ethertype, payload: &[u8]| ethernet(mac_of(gateway), source_mac, ethertype, payload);
    let tagged = [&[0, 5][..], &IPV4.to_be_bytes(), &forged_udp(own)].concat();
    let cases = [
        ("another container's address", to_gateway(mac, IPV4, &forged_udp(victim))),
        ("the gateway's address", to_gateway(mac, IPV4, &forged_udp(gateway))),
        ("a stranger's address", to_gateway(mac, IPV4, &forged_udp(stranger))),
        ("another container's MAC", to_gateway(mac_of(victim), IPV4, &forged_udp(own))),
        ("another container's MAC and address", to_gateway(mac_of(victim), IPV4, &forged_udp(victim))),
        ("the gateway's MAC", to_gateway(mac_of(gateway), IPV4, &forged_udp(own))),
        ("IPv6", to_gateway(mac, IPV6, FORGED)),
        ("a VLAN tag", to_gateway(mac, VLAN, &tagged)),
        ("an unknown protocol", to_gateway(mac, 0x88b5, FORGED)),
        ("a broadcast under another address", ethernet(BROADCAST, mac, IPV4, &forged_udp(victim))),
    ];
    for (name, frame) in cases {
        assert!(contains(&frame, FORGED));
        let arrived = arrived_at_bridge(&scene, vec![frame]);
        assert!(!arrived.iter().any(|frame| contains(frame, FORGED)), "{name} got through");
    }
}

#[test]
fn forged_arp_does_not_leave_the_port_and_honest_arp_does() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(2);
    let Parties { own, gateway, victim } = parties(&scene);
    let mac = mac_of(own);
    let claim = |source_mac, sender_mac, sender| {
        ethernet(BROADCAST, source_mac, ARP, &arp_reply(sender_mac, sender, mac_of(gateway), gateway))
    };
    let is_arp = |frame: &&Vec<u8>| frame[12..14] == ARP.to_be_bytes();
    let cases = [
        ("I have the victim's address", claim(mac, mac, victim)),
        ("I have the gateway's address", claim(mac, mac, gateway)),
        ("my address is at the victim's MAC", claim(mac, mac_of(victim), own)),
        ("the victim speaks", claim(mac_of(victim), mac_of(victim), victim)),
        ("the victim's frame with my claim", claim(mac_of(victim), mac, own)),
    ];
    for (name, frame) in cases {
        let arrived = arrived_at_bridge(&scene, vec![frame]);
        assert_eq!(arrived.iter().filter(is_arp).count(), 0, "{name:?} got through");
    }
    let honest = arrived_at_bridge(&scene, vec![claim(mac, mac, own)]);
    assert_eq!(honest.iter().filter(is_arp).count(), 20, "what is true may be said");
}

#[test]
fn containers_cannot_reach_each_other_by_any_of_three_ways() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(2);
    // The bridge itself must keep them apart: where br_netfilter shows bridged frames to the
    // routed chains, those would too.
    let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    scene.host.space.run(move || std::fs::write(path, "0")).unwrap_or_default();
    let Parties { own, gateway, victim } = parties(&scene);
    let capture = scene.containers[1].0.run(|| PacketSocket::on("eth0"));
    let packet = udp(own, victim, 9000, FORGED);
    let frames = vec![
        // Directly, by broadcast, and by way of the gateway.
        ethernet(mac_of(victim), mac_of(own), IPV4, &packet),
        ethernet(BROADCAST, mac_of(own), IPV4, &packet),
        ethernet(mac_of(gateway), mac_of(own), IPV4, &packet),
    ];
    arrived_at_bridge(&scene, frames);
    scene.host.space.run(move || {
        let socket = UdpSocket::bind((gateway, 0)).expect("a socket");
        socket.send_to(HONEST, (victim, 9000)).expect("sends");
    });
    let arrived = capture.receive_until(HONEST);
    assert!(!arrived.iter().any(|frame| contains(frame, FORGED)), "{} frames", arrived.len());
    // And in the ordinary way, where nobody answers the question for the victim's MAC.
    let (container, _) = &scene.containers[0];
    converse(container, &scene.containers[1].0, victim.into(), 80).expect_err("no way");
}

#[test]
fn a_container_cannot_take_over_the_traffic_of_another() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(2);
    let Parties { own, gateway, victim } = parties(&scene);
    let capture = scene.containers[0].0.run(|| PacketSocket::on("eth0"));
    // A bridge that learns would now believe that the victim has moved to this port.
    let hello = ethernet(mac_of(gateway), mac_of(victim), IPV4, &udp(victim, gateway, GATEWAY_UDP, FORGED));
    arrived_at_bridge(&scene, vec![hello]);
    scene.host.space.run(move || {
        let socket = UdpSocket::bind((gateway, 0)).expect("a socket");
        socket.send_to(b"for the victim's eyes", (victim, 9000)).expect("sends");
        socket.send_to(HONEST, (own, 9000)).expect("sends");
    });
    let overheard = capture.receive_until(HONEST);
    assert!(!overheard.iter().any(|frame| contains(frame, b"for the victim's eyes")));
    let seen =
        converse(&scene.host.space, &scene.containers[1].0, victim.into(), 80).expect("still reachable");
    assert_eq!(IpAddr::from(gateway), seen.ip());
}

#[test]
fn neither_forged_nor_private_addresses_reach_the_world() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(2);
    let Parties { own, gateway, victim } = parties(&scene);
    let world: Ipv4Addr = WORLD_ADDRESS.parse().expect("an address");
    let capture = scene.host.world.run(|| PacketSocket::on("eth0"));
    scene.containers[0].0.run(move || {
        let socket = PacketSocket::on("eth0");
        for source in [victim, gateway, Ipv4Addr::new(198, 51, 100, 7), world] {
            socket.send(&ethernet(mac_of(gateway), mac_of(own), IPV4, &udp(source, world, 9000, FORGED)));
        }
        // A broken checksum: conntrack gives up on it, and NAT would let it pass as it is.
        let mut broken = udp(own, world, 9000, FORGED);
        broken[26..28].copy_from_slice(&[0x12, 0x34]);
        socket.send(&ethernet(mac_of(gateway), mac_of(own), IPV4, &broken));
        socket.send(&ethernet(mac_of(gateway), mac_of(own), IPV4, &udp(own, world, 9000, HONEST)));
    });
    let arrived = capture.receive_until(HONEST);
    assert!(!arrived.iter().any(|frame| contains(frame, FORGED)));
}

#[test]
fn what_is_meant_for_nobody_is_heard_by_nobody() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let gateway = v4(scene.containers[0].1.gateway);
    let own = v4(scene.containers[0].1.address);
    let capture = scene.containers[0].0.run(|| PacketSocket::on("eth0"));
    scene.host.space.run(move || {
        let socket = PacketSocket::on("ndctl-t");
        // A bridge that floods would hand this to each of its ports.
        let nobody = mac_of(Ipv4Addr::new(10, 209, 9, 9));
        socket.send(&ethernet(nobody, mac_of(gateway), IPV4, &udp(gateway, own, 9000, FORGED)));
        let socket = UdpSocket::bind((gateway, 0)).expect("a socket");
        socket.send_to(HONEST, (own, 9000)).expect("sends");
    });
    let heard = capture.receive_until(HONEST);
    assert!(!heard.iter().any(|frame| contains(frame, FORGED)));
}

#[test]
fn the_world_cannot_speak_as_a_container() {
    if !is_root() {
        return;
    }
    let scene = Scene::with_containers(1);
    let own = v4(scene.containers[0].1.address);
    let host: Ipv4Addr = super::space::HOST_ADDRESS.parse().expect("an address");
    let world: Ipv4Addr = WORLD_ADDRESS.parse().expect("an address");
    let socket = scene.host.space.run(move || UdpSocket::bind((host, 9000))).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    scene.host.space.run(|| {
        // Without the host's own check of where a source address belongs, which not all have on.
        for link in ["all", "up0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").expect("writes");
        }
    });
    scene.host.world.run(move || {
        let socket = PacketSocket::on("eth0");
        for (source, data) in [(own, FORGED), (world, HONEST)] {
            socket.send(&ethernet(BROADCAST, [2, 0, 0, 0, 0, 2], IPV4, &udp(source, host, 9000, data)));
        }
    });
    let mut first = [0; 64];
    let length = socket.recv(&mut first).expect("the honest one");
    assert_eq!(&first[..length], HONEST);
}
