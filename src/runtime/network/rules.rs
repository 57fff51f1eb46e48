//! The firewall of one node, as a value: what containers may send, reach and be reached by. Pure.
//!
//! ```text
//!  container ─ eth0 ═ nv<tag>-<n> ─ ndctl-<tag> ─┬─ input ······ the node: allowed ports only
//!                        │                       ├─ forward ···· out: the world, but no other
//!                bridge prerouting               │               container, no metadata service
//!            its own MAC and address or nothing  └─ postrouting  masquerade
//! ```
//!
//! Two tables of one name. The `bridge` one sees each frame as it enters and ties it to the
//! port's owner; the `inet` one then may believe source addresses. Isolation of ports from each
//! other is the bridge's own (see `links::restrict_port`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::Proto;
use super::nft::{Base, Chain, Family, Hook, Set, Table};
use super::rule::{ESTABLISHED, INVALID, Layer, RELATED, Rule, Side, interface_key, port_key, service_key};
use super::subnet::{Subnet, mac_of};

/// The set, in the bridge table, of who owns which port.
pub const PORTS: &str = "ports";
/// The set, in the inet table, of other bridges that hold containers or virtual machines.
pub const OTHER_BRIDGES: &str = "other_bridges";

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERNET_SOURCE: (Layer, u32) = (Layer::Link, 6);
const ARP_SENDER_MAC: (Layer, u32) = (Layer::Network, 8);
const ARP_SENDER_ADDRESS: (Layer, u32) = (Layer::Network, 14);
const IPV4_SOURCE: (Layer, u32) = (Layer::Network, 12);
const IPV4_DESTINATION: (Layer, u32) = (Layer::Network, 16);
const ICMP: u8 = 1;
const ICMP_ECHO_REQUEST: u8 = 8;

/// Interfaces whose names say that containers or machines live behind them, our own bridge among
/// them: what the gateway is asked to send back to it is for another container. Docker's own
/// networks, `br-` and twelve hex digits, are found by looking ([`is_container_bridge`]): a
/// prefix would also hit a `br-lan` that is the way out.
const CONTAINER_BRIDGE_PREFIXES: [&str; 7] = ["ndctl-", "docker", "virbr", "podman", "cni", "lxcbr", "lxdbr"];

/// What the rules of one node depend on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    pub table: &'a str,
    pub bridge: &'a str,
    pub veth_prefix: &'a str,
    pub subnet: Subnet,
    pub allowed_gateway_ports: &'a [(Proto, u16)],
    pub other_bridges: BTreeSet<String>,
    pub slots: Vec<u32>,
}

pub fn tables(facts: &Facts) -> Vec<Table> {
    vec![bridge_table(facts), inet_table(facts)]
}

/// The element of [`PORTS`] that lets the container in `slot` speak.
pub fn owner_of_port(veth_prefix: &str, subnet: Subnet, slot: u32) -> Vec<u8> {
    let address = subnet.address(slot);
    port_key(&format!("{veth_prefix}{slot}"), mac_of(address), address.octets())
}

/// Whether an interface of this name is a bridge of another node's, of Docker's or the like.
pub fn is_container_bridge(name: &str) -> bool {
    let docker_network = name
        .strip_prefix("br-")
        .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    docker_network || CONTAINER_BRIDGE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn bridge_table(facts: &Facts) -> Table {
    let from_container = || Rule::new().interface_starts_with(Side::In, facts.veth_prefix);
    let prerouting = Chain {
        name: "prerouting",
        // -200 is the bridge family's `filter`: before br_netfilter hands the frame to iptables.
        base: Some(Base { kind: "filter", hook: Hook::Prerouting, priority: -200 }),
        rules: vec![from_container().jump("from_container")],
    };
    // Ethernet and IPv4, request or reply: what the rest of the match relies on.
    let arp_over_ethernet = [0, 1, 8, 0, 6, 4];
    let from_container = Chain {
        name: "from_container",
        base: None,
        rules: vec![
            Rule::new().ethertype_is(ETHERTYPE_IPV4).port_owns(ETHERNET_SOURCE, IPV4_SOURCE, PORTS).accept(),
            Rule::new()
                .ethertype_is(ETHERTYPE_ARP)
                .bytes_are(Layer::Network, 0, &arp_over_ethernet)
                .port_owns(ETHERNET_SOURCE, ARP_SENDER_ADDRESS, PORTS)
                .port_owns(ARP_SENDER_MAC, ARP_SENDER_ADDRESS, PORTS)
                .accept(),
            // IPv6, VLAN tags, and whatever a forger sends.
            Rule::new().drop(),
        ],
    };
    let ports = Set {
        name: PORTS,
        key_types: &[41, 9, 7],
        key_len: 28,
        elements: facts
            .slots
            .iter()
            .map(|slot| owner_of_port(facts.veth_prefix, facts.subnet, *slot))
            .collect(),
    };
    Table {
        family: Family::Bridge,
        name: facts.table.to_owned(),
        sets: vec![ports],
        chains: vec![prerouting, from_container],
    }
}

fn inet_table(facts: &Facts) -> Table {
    let services = Set {
        name: "gateway_ports",
        key_types: &[12, 13],
        key_len: 8,
        elements: facts
            .allowed_gateway_ports
            .iter()
            .map(|(proto, port)| service_key(proto.number(), *port))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    };
    let other_bridges = Set {
        name: OTHER_BRIDGES,
        key_types: &[41],
        key_len: 16,
        elements: facts.other_bridges.iter().map(|name| interface_key(name)).collect(),
    };
    Table {
        family: Family::Inet,
        name: facts.table.to_owned(),
        sets: vec![services, other_bridges],
        chains: vec![
            prerouting(facts),
            input(facts),
            forward(facts),
            Chain { name: "to_node", base: None, rules: to_node(facts) },
            Chain { name: "to_world", base: None, rules: to_world() },
            postrouting(facts),
        ],
    }
}

/// Our addresses exist on our bridge only: from elsewhere they are forged (as source) or an
/// attempt to walk in, past the proxy (as destination). Before conntrack undoes NAT, so that
/// answers to masqueraded requests still carry the node's own address here.
fn prerouting(facts: &Facts) -> Chain {
    let from_elsewhere =
        || Rule::new().interface_is_not(Side::In, facts.bridge).interface_is_not(Side::In, "lo");
    Chain {
        name: "prerouting",
        base: Some(Base { kind: "filter", hook: Hook::Prerouting, priority: -300 }),
        rules: vec![
            address_in(from_elsewhere(), IPV4_SOURCE, facts.subnet).drop(),
            address_in(from_elsewhere(), IPV4_DESTINATION, facts.subnet).drop(),
        ],
    }
}

fn input(facts: &Facts) -> Chain {
    Chain {
        name: "input",
        base: Some(Base { kind: "filter", hook: Hook::Input, priority: 0 }),
        rules: vec![Rule::new().interface_is(Side::In, facts.bridge).jump("to_node")],
    }
}

fn to_node(facts: &Facts) -> Vec<Rule> {
    let to_gateway = || {
        Rule::new().ipv4_only().bytes_are(
            IPV4_DESTINATION.0,
            IPV4_DESTINATION.1,
            &facts.subnet.gateway().octets(),
        )
    };
    vec![
        Rule::new().connection_is(ESTABLISHED | RELATED).accept(),
        to_gateway().transport_is(ICMP).bytes_are(Layer::Transport, 0, &[ICMP_ECHO_REQUEST]).accept(),
        to_gateway().service_in_set("gateway_ports").accept(),
        Rule::new().reject(),
    ]
}

fn forward(facts: &Facts) -> Chain {
    let from_container = || Rule::new().interface_is(Side::In, facts.bridge);
    let to_container = || Rule::new().interface_is(Side::Out, facts.bridge);
    Chain {
        name: "forward",
        base: Some(Base { kind: "filter", hook: Hook::Forward, priority: 0 }),
        rules: vec![
            from_container().jump("to_world"),
            to_container().connection_is(ESTABLISHED | RELATED).accept(),
            to_container().drop(),
        ],
    }
}

fn to_world() -> Vec<Rule> {
    let link_local = Subnet::containing(Ipv4Addr::new(169, 254, 0, 0), 16);
    let multicast = Subnet::containing(Ipv4Addr::new(224, 0, 0, 0), 4);
    let by_prefix = CONTAINER_BRIDGE_PREFIXES
        .iter()
        .map(|prefix| Rule::new().interface_starts_with(Side::Out, prefix).reject());
    let mut rules = vec![
        // It would pass NAT by and show the world the container's own address.
        Rule::new().connection_is(INVALID).drop(),
        // 169.254.169.254 hands a cloud's credentials to whoever asks from this machine.
        address_in(Rule::new(), IPV4_DESTINATION, link_local).reject(),
        address_in(Rule::new(), IPV4_DESTINATION, multicast).drop(),
    ];
    rules.extend(by_prefix);
    rules.push(Rule::new().interface_in_set(Side::Out, OTHER_BRIDGES).reject());
    rules
}

fn postrouting(facts: &Facts) -> Chain {
    let leaving = Rule::new().interface_is_not(Side::Out, facts.bridge);
    Chain {
        name: "postrouting",
        base: Some(Base { kind: "nat", hook: Hook::Postrouting, priority: 100 }),
        rules: vec![address_in(leaving, IPV4_SOURCE, facts.subnet).masquerade()],
    }
}

fn address_in(rule: Rule, (layer, offset): (Layer, u32), subnet: Subnet) -> Rule {
    rule.ipv4_only().masked_bytes_are(layer, offset, subnet.mask().octets(), subnet.base().octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_of_containers_are_told_from_a_way_out() {
        for name in ["docker0", "br-0123456789ab", "ndctl-a", "virbr0", "podman1", "cni0"] {
            assert!(is_container_bridge(name), "{name}");
        }
        for name in ["br-lan", "br0", "eth0", "wlan0", "br-0123456789xy", "enp1s0", "bond0"] {
            assert!(!is_container_bridge(name), "{name}");
        }
    }

    #[test]
    fn a_port_key_pads_each_part_to_whole_registers() {
        let subnet = "10.209.0.0/20".parse().expect("a subnet");
        let key = owner_of_port("nvtest-", subnet, 2);
        assert_eq!(key.len(), 28);
        assert_eq!(&key[..9], b"nvtest-2\0");
        assert_eq!(&key[16..], [0x0a, 0x58, 10, 209, 0, 2, 0, 0, 10, 209, 0, 2]);
    }
}
