//! Encodes nftables objects as nfnetlink messages: tables, chains, rules, sets.
//!
//! Which rules there are is `rules`; this file only knows how the kernel wants them spelled
//! (linux/netfilter/nf_tables.h). No `nft` program is needed, but `nft list ruleset` shows what
//! was made here in the words in which it would have made it itself.

use std::io;

use super::netlink::{APPEND, Attributes, CREATE, Message, Socket, find, text};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
const LIST_ELEMENT: u16 = 1;

/// Elements of one message: 500 of at most 80 bytes stay well below an attribute's 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Inet = 1,
    Bridge = 7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Postrouting = 4,
}

/// Where a base chain is hooked in. Policy is always accept: what is dropped is dropped by a rule.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    pub kind: &'static str,
    pub hook: Hook,
    pub priority: i32,
}

#[derive(Debug, Clone)]
pub struct Chain {
    pub name: &'static str,
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// A set of fixed-size keys. `key_types` are nft's own numbers for its data types; they matter
/// only to those who list the set.
#[derive(Debug, Clone)]
pub struct Set {
    pub name: &'static str,
    pub key_types: &'static [u32],
    pub key_len: u32,
    pub elements: Vec<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub family: Family,
    pub name: String,
    pub sets: Vec<Set>,
    pub chains: Vec<Chain>,
}

/// A chain that hooks into packets' way, whoever made it, as a dump tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookedChain {
    pub family: u8,
    pub table: String,
    pub name: String,
    pub hook: u32,
    pub drops_by_default: bool,
}

/// Replaces whole tables, all of them in one transaction: each packet meets the old rules or the
/// new ones, never none and never half.
pub fn replace(socket: &mut Socket, tables: &[Table]) -> io::Result<()> {
    transact(socket, tables.iter().flat_map(replace_messages).collect())
}

/// Deletes a table; it is no error if there is none.
pub fn delete(socket: &mut Socket, family: Family, name: &str) -> io::Result<()> {
    // Creating it first makes the deletion unconditional: DESTROYTABLE is younger than Debian 12.
    transact(socket, vec![table(family, NEW_TABLE, CREATE, name), table(family, DELETE_TABLE, 0, name)])
}

pub fn add_elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    keys: &[Vec<u8>],
) -> io::Result<()> {
    transact(socket, vec![elements(family, NEW_ELEMENTS, CREATE, table, set, keys)])
}

/// Deletes one element; it is no error if it, its set or its table is gone.
pub fn delete_element(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    key: &[u8],
) -> io::Result<()> {
    let message = elements(family, DELETE_ELEMENTS, 0, table, set, &[key.to_vec()]);
    match transact(socket, vec![message]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// All base chains of all families and tables in this network namespace.
pub fn hooked_chains(socket: &mut Socket) -> io::Result<Vec<HookedChain>> {
    let found = socket.dump(Message::new(message_type(GET_CHAIN), 0, &header(0)))?;
    Ok(found.iter().filter_map(|payload| parse_chain(payload)).collect())
}

fn parse_chain(payload: &[u8]) -> Option<HookedChain> {
    let family = *payload.first()?;
    let attributes = payload.get(4..)?;
    let be32 = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
    let hook = find(find(attributes, 4)?, 1).and_then(be32)?;
    Some(HookedChain {
        family,
        table: text(find(attributes, 1)?),
        name: text(find(attributes, 3)?),
        hook,
        drops_by_default: find(attributes, 5).and_then(be32) == Some(0),
    })
}

fn transact(socket: &mut Socket, messages: Vec<Message>) -> io::Result<()> {
    // The brackets carry the subsystem that the transaction belongs to, big-endian.
    let bracket = [0, 0, 0, SUBSYSTEM as u8];
    socket.batch(Message::new(BATCH_BEGIN, 0, &bracket), messages, Message::new(BATCH_END, 0, &bracket))
}

fn message_type(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// struct nfgenmsg
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn message(family: Family, kind: u16, flags: u16) -> Message {
    Message::new(message_type(kind), flags, &header(family as u8))
}

fn table(family: Family, kind: u16, flags: u16, name: &str) -> Message {
    message(family, kind, flags).string(1, name)
}

fn replace_messages(wanted: &Table) -> Vec<Message> {
    let family = wanted.family;
    let mut messages = vec![
        table(family, NEW_TABLE, CREATE, &wanted.name),
        table(family, DELETE_TABLE, 0, &wanted.name),
        table(family, NEW_TABLE, CREATE, &wanted.name),
    ];
    for (index, set) in wanted.sets.iter().enumerate() {
        messages.push(new_set(wanted, set, index as u32 + 1));
        for keys in set.elements.chunks(ELEMENTS_PER_MESSAGE) {
            messages.push(elements(family, NEW_ELEMENTS, CREATE, &wanted.name, set.name, keys));
        }
    }
    // All chains first: a rule may jump to any of them.
    messages.extend(wanted.chains.iter().map(|chain| new_chain(wanted, chain)));
    for chain in &wanted.chains {
        messages.extend(chain.rules.iter().map(|rule| new_rule(wanted, chain, rule)));
    }
    messages
}

fn new_set(table: &Table, set: &Set, id: u32) -> Message {
    // nft packs the types of a concatenated key into six bits each.
    let key_type = set.key_types.iter().fold(0, |all, kind| all << 6 | kind);
    message(table.family, NEW_SET, CREATE)
        .string(1, &table.name)
        .string(2, set.name)
        .attribute(3, &0_u32.to_be_bytes())
        .attribute(4, &key_type.to_be_bytes())
        .attribute(5, &set.key_len.to_be_bytes())
        .attribute(10, &id.to_be_bytes())
}

fn elements(family: Family, kind: u16, flags: u16, table: &str, set: &str, keys: &[Vec<u8>]) -> Message {
    let list = keys.iter().fold(Attributes::new(), |list, key| {
        let key = Attributes::new().attribute(1, key);
        list.nested(LIST_ELEMENT, Attributes::new().nested(1, key))
    });
    message(family, kind, flags).string(1, table).string(2, set).nested(3, list)
}

fn new_chain(table: &Table, chain: &Chain) -> Message {
    let named = message(table.family, NEW_CHAIN, CREATE).string(1, &table.name).string(3, chain.name);
    match chain.base {
        None => named,
        Some(base) => {
            let hook = Attributes::new().be32(1, base.hook as u32).be32(2, base.priority as u32);
            named.nested(4, hook).attribute(5, &1_u32.to_be_bytes()).string(7, base.kind)
        }
    }
}

fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> Message {
    message(table.family, NEW_RULE, CREATE | APPEND)
        .string(1, &table.name)
        .string(2, chain.name)
        .nested(4, rule.0.clone())
}

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
pub struct Rule(Attributes);

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
