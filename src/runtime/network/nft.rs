//! Encodes nftables objects as nfnetlink messages: tables, chains, sets (and `rule`s).
//!
//! Which rules there are is `rules`; this file only knows how the kernel wants them spelled
//! (linux/netfilter/nf_tables.h). No `nft` program is needed, but `nft list ruleset` shows what
//! was made here in the words in which it would have made it itself.

use std::io;

use super::netlink::{APPEND, Attributes, CREATE, Message, Socket, find, text};
use super::rule::Rule;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULES: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
pub const LIST_ELEMENT: u16 = 1;

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

/// Makes the tables what is given, all in one transaction: each packet meets the old rules or the
/// new ones, never none and never half.
///
/// Tables that are there are emptied and filled again. Replacing them instead would hook a second
/// chain in beside the first for a moment, and a packet that came between the two at the instant
/// of the change could miss both. It is left for tables of another make (another version's).
pub fn put(socket: &mut Socket, tables: &[Table]) -> io::Result<()> {
    let refilled = transact(socket, tables.iter().flat_map(|table| fill(table, Start::Refill)).collect());
    refilled
        .or_else(|_| transact(socket, tables.iter().flat_map(|table| fill(table, Start::Recreate)).collect()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Refill,
    Recreate,
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

/// Whether a table holds as many rules as it was given. One that is gone holds none.
pub fn is_whole(socket: &mut Socket, wanted: &Table) -> io::Result<bool> {
    let request = message(wanted.family, GET_RULE, 0).string(1, &wanted.name);
    let found = socket.dump(request)?;
    Ok(found.len() == wanted.chains.iter().map(|chain| chain.rules.len()).sum::<usize>())
}

/// Whether a message of this type, heard from the kernel, tells of a table, chain or rule.
pub fn changes_rules(message_type: u16) -> bool {
    let kinds = [NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULES];
    message_type >> 8 == SUBSYSTEM && kinds.contains(&(message_type & 0xff))
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

fn fill(wanted: &Table, start: Start) -> Vec<Message> {
    let family = wanted.family;
    let create = || table(family, NEW_TABLE, CREATE, &wanted.name);
    let mut messages = vec![create()];
    if start == Start::Recreate {
        messages.extend([table(family, DELETE_TABLE, 0, &wanted.name), create()]);
    }
    // All sets and chains first: a rule may look into or jump to any of them.
    messages.extend(wanted.sets.iter().zip(1..).map(|(set, id)| new_set(wanted, set, id)));
    messages.extend(wanted.chains.iter().map(|chain| new_chain(wanted, chain)));
    messages.push(message(family, DELETE_RULES, 0).string(1, &wanted.name));
    for set in &wanted.sets {
        // Without a list of elements: all of them.
        messages.push(message(family, DELETE_ELEMENTS, 0).string(1, &wanted.name).string(2, set.name));
        for keys in set.elements.chunks(ELEMENTS_PER_MESSAGE) {
            messages.push(elements(family, NEW_ELEMENTS, CREATE, &wanted.name, set.name, keys));
        }
    }
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
