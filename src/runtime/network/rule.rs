//! One nftables rule: matches that must all hold, then what happens, each an expression as the
//! kernel wants it (linux/netfilter/nf_tables.h). Which rules there are is `rules`.

use super::netlink::Attributes;
use super::nft::LIST_ELEMENT;

const META_INTERFACE_IN: u32 = 6;
const META_INTERFACE_OUT: u32 = 7;
const META_NETWORK_PROTOCOL: u32 = 15;
const META_TRANSPORT_PROTOCOL: u32 = 16;
const NAME_LEN: usize = 16;

/// The first of sixteen 4-byte registers. Parts of a concatenated key go into neighbours.
const REGISTER: u32 = 8;

#[derive(Debug, Clone, Copy)]
pub enum Layer {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// Which interface of a packet a match looks at.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    In,
    Out,
}

/// Connection-tracking states, as bits of a mask.
/// What conntrack could make no sense of. NAT leaves it as it is.
pub const INVALID: u32 = 1;
pub const ESTABLISHED: u32 = 2;
pub const RELATED: u32 = 4;

/// One rule: matches that must all hold, then what happens.
#[derive(Debug, Clone, Default)]
pub struct Rule(pub(super) Attributes);

impl Rule {
    pub fn new() -> Rule {
        Rule::default()
    }

    pub fn interface_is(self, side: Side, name: &str) -> Rule {
        self.load_interface(side, REGISTER).compare(true, &interface_key(name))
    }

    pub fn interface_is_not(self, side: Side, name: &str) -> Rule {
        self.load_interface(side, REGISTER).compare(false, &interface_key(name))
    }

    pub fn interface_starts_with(self, side: Side, prefix: &str) -> Rule {
        self.load_interface(side, REGISTER).compare(true, prefix.as_bytes())
    }

    pub fn interface_in_set(self, side: Side, set: &str) -> Rule {
        self.load_interface(side, REGISTER).in_set(set)
    }

    /// The ethertype as it was on the wire, for the bridge family. The packet's own note of its
    /// protocol would not do: the kernel has taken a VLAN tag off by then, and says what was in it.
    pub fn ethertype_is(self, value: u16) -> Rule {
        self.bytes_are(Layer::Link, 12, &value.to_be_bytes())
    }

    /// IPv4, for the inet family: to be said before a header of IPv4's is looked at.
    pub fn ipv4_only(self) -> Rule {
        self.load_meta(META_NETWORK_PROTOCOL, REGISTER).compare(true, &[libc::NFPROTO_IPV4 as u8])
    }

    pub fn transport_is(self, protocol: u8) -> Rule {
        self.load_meta(META_TRANSPORT_PROTOCOL, REGISTER).compare(true, &[protocol])
    }

    pub fn bytes_are(self, layer: Layer, offset: u32, value: &[u8]) -> Rule {
        self.load_bytes(layer, offset, value.len() as u32, REGISTER).compare(true, value)
    }

    /// Four bytes under a mask: an IPv4 network.
    pub fn masked_bytes_are(self, layer: Layer, offset: u32, mask: [u8; 4], value: [u8; 4]) -> Rule {
        self.load_bytes(layer, offset, 4, REGISTER).mask(&mask).compare(true, &value)
    }

    pub fn connection_is(self, states: u32) -> Rule {
        let load = Attributes::new().be32(1, REGISTER).be32(2, 0);
        self.expression("ct", load).mask(&states.to_ne_bytes()).compare(false, &[0; 4])
    }

    /// (incoming interface, six bytes of MAC, four bytes of address) is in the set: see
    /// [`port_key`].
    pub fn port_owns(self, mac: (Layer, u32), address: (Layer, u32), set: &str) -> Rule {
        self.load_interface(Side::In, REGISTER)
            .load_bytes(mac.0, mac.1, 6, REGISTER + 4)
            .load_bytes(address.0, address.1, 4, REGISTER + 6)
            .in_set(set)
    }

    /// (transport protocol, destination port) is in the set: see [`service_key`].
    pub fn service_in_set(self, set: &str) -> Rule {
        self.load_meta(META_TRANSPORT_PROTOCOL, REGISTER)
            .load_bytes(Layer::Transport, 2, 2, REGISTER + 1)
            .in_set(set)
    }

    pub fn accept(self) -> Rule {
        self.verdict(1, None)
    }

    pub fn drop(self) -> Rule {
        self.verdict(0, None)
    }

    pub fn jump(self, chain: &str) -> Rule {
        self.verdict(-3, Some(chain))
    }

    /// Answers with ICMP "administratively prohibited": the app learns at once, not by a timeout.
    pub fn reject(self) -> Rule {
        self.expression("reject", Attributes::new().be32(1, 2).attribute(2, &[3]))
    }

    pub fn masquerade(self) -> Rule {
        self.expression("masq", Attributes::new())
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Rule {
        let mut verdict = Attributes::new().be32(1, code as u32);
        if let Some(chain) = chain {
            verdict = verdict.string(2, chain);
        }
        let data = Attributes::new().nested(2, verdict);
        self.expression("immediate", Attributes::new().be32(1, 0).nested(2, data))
    }

    fn load_interface(self, side: Side, register: u32) -> Rule {
        let key = match side {
            Side::In => META_INTERFACE_IN,
            Side::Out => META_INTERFACE_OUT,
        };
        self.load_meta(key, register)
    }

    fn load_meta(self, key: u32, register: u32) -> Rule {
        self.expression("meta", Attributes::new().be32(1, register).be32(2, key))
    }

    fn load_bytes(self, layer: Layer, offset: u32, length: u32, register: u32) -> Rule {
        let load = Attributes::new().be32(1, register).be32(2, layer as u32).be32(3, offset).be32(4, length);
        self.expression("payload", load)
    }

    fn mask(self, mask: &[u8; 4]) -> Rule {
        let value = |bytes: &[u8]| Attributes::new().attribute(1, bytes);
        let operation = Attributes::new()
            .be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nested(4, value(mask))
            .nested(5, value(&[0; 4]));
        self.expression("bitwise", operation)
    }

    fn compare(self, equal: bool, value: &[u8]) -> Rule {
        let data = Attributes::new().attribute(1, value);
        self.expression("cmp", Attributes::new().be32(1, REGISTER).be32(2, u32::from(!equal)).nested(3, data))
    }

    fn in_set(self, set: &str) -> Rule {
        self.expression("lookup", Attributes::new().string(1, set).be32(2, REGISTER))
    }

    fn expression(self, name: &str, data: Attributes) -> Rule {
        let expression = Attributes::new().string(1, name).nested(2, data);
        Rule(self.0.nested(LIST_ELEMENT, expression))
    }
}

/// An interface name as the kernel compares it: zero-padded to its full 16 bytes.
pub fn interface_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(NAME_LEN, 0);
    key
}

/// A key for [`Rule::port_owns`]; each part is padded to whole registers.
pub fn port_key(interface: &str, mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    [interface_key(interface), mac.to_vec(), vec![0; 2], address.to_vec()].concat()
}

/// A key for [`Rule::service_in_set`].
pub fn service_key(protocol: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol, 0, 0, 0, high, low, 0, 0]
}
