//! Links, addresses, routes and neighbours, as rtnetlink has them: one function a change.
//!
//! Which links there should be is decided in `mod.rs`; what is inside the container in `inside`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use super::netlink::{Attributes, CREATE, EXCLUSIVE, Message, REPLACE, Socket, find, text, u32_at};
use super::subnet::{Mac, Subnet};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;

const FAMILY_BRIDGE: u8 = 7;
const FAMILY_INET: u8 = 2;
const IF_UP: u32 = 1;

// IFLA_*
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MASTER: u16 = 10;
const LINK_PORT: u16 = 12;
const LINK_STATE: u16 = 16;
const LINK_INFO: u16 = 18;
const LINK_NAMESPACE_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_DATA: u16 = 5;
const VETH_PEER: u16 = 1;

// IFLA_BR_*
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP: u16 = 5;
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;

// IFLA_BRPORT_*
const PORT_STATE: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const PORT_LEARNING: u16 = 8;
const PORT_UNICAST_FLOOD: u16 = 9;
const PORT_ISOLATED: u16 = 33;

const NEIGHBOUR_DESTINATION: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;
const STATE_NO_ARP: u16 = 0x40;
const STATE_PERMANENT: u16 = 0x80;
/// The entry goes to the bridge that the port belongs to, not to the port itself.
const TO_MASTER: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Whether packets go through: it is up, has a carrier, and the kernel has acted on both.
    pub is_operational: bool,
    /// Whether the bridge that it is a port of passes its packets on; `false` if it is no port.
    pub is_forwarding: bool,
}

pub fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let found = socket.dump(Message::new(GET_LINK, 0, &link_header(0, 0, 0, 0)))?;
    Ok(found.iter().filter_map(|payload| parse_link(payload)).collect())
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    const OPERATIONAL: &[u8] = &[6];
    const FORWARDING: &[u8] = &[3];
    let index = u32_at(payload, 4)?;
    let attributes = payload.get(16..)?;
    let name = text(find(attributes, LINK_NAME)?);
    let is_operational = find(attributes, LINK_STATE) == Some(OPERATIONAL);
    let port = find(attributes, LINK_INFO).and_then(|info| find(info, INFO_PORT_DATA));
    let is_forwarding = port.and_then(|port| find(port, PORT_STATE)) == Some(FORWARDING);
    Some(Link { index, name, is_operational, is_forwarding })
}

/// The link called `name`, or `None`.
pub fn get(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    match socket.get(Message::new(GET_LINK, 0, &link_header(0, 0, 0, 0)).string(LINK_NAME, name)) {
        Ok(answer) => Ok(answer.and_then(|payload| parse_link(&payload))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The index of the link called `name`, or `None`.
pub fn index_of(socket: &mut Socket, name: &str) -> io::Result<Option<u32>> {
    Ok(get(socket, name)?.map(|link| link.index))
}

/// Waits until `is_ready` holds for the link called `name`.
///
/// Bringing a link up returns before it passes packets: the kernel's link watcher, a task of its
/// own, first has to see the carrier, and until then drops what is sent, without a word.
///
/// # Errors
/// After five seconds, where it should be one millisecond.
pub fn wait_until(socket: &mut Socket, name: &str, is_ready: impl Fn(&Link) -> bool) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !get(socket, name)?.is_some_and(|link| is_ready(&link)) {
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name} does not become operational"),
            ));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Creates the bridge, down. Its MAC is fixed, for a bridge without one of its own takes the
/// lowest of its ports' and changes it under the containers' ARP caches.
pub fn create_bridge(socket: &mut Socket, name: &str, mac: Mac) -> io::Result<()> {
    let settings = Attributes::new()
        .attribute(BRIDGE_FORWARD_DELAY, &0_u32.to_ne_bytes())
        .attribute(BRIDGE_STP, &0_u32.to_ne_bytes())
        .attribute(BRIDGE_MULTICAST_SNOOPING, &[0]);
    let info = Attributes::new().string(INFO_KIND, "bridge").nested(INFO_DATA, settings);
    let message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0, 0))
        .string(LINK_NAME, name)
        .attribute(LINK_ADDRESS, &mac)
        .nested(LINK_INFO, info);
    socket.request(message)
}

/// Creates a veth pair: `name` here as a port of `bridge`, its peer as `eth0` directly in the
/// namespace behind `namespace`. Both ends stay down.
pub fn create_veth(
    socket: &mut Socket,
    name: &str,
    bridge: u32,
    namespace: RawFd,
    mac: Mac,
) -> io::Result<()> {
    let peer = Attributes::with_header(&link_header(0, 0, 0, 0))
        .string(LINK_NAME, "eth0")
        .attribute(LINK_ADDRESS, &mac)
        .attribute(LINK_NAMESPACE_FD, &namespace.to_ne_bytes());
    let info = Attributes::new()
        .string(INFO_KIND, "veth")
        .nested(INFO_DATA, Attributes::new().nested(VETH_PEER, peer));
    let message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0, 0))
        .string(LINK_NAME, name)
        .attribute(LINK_MASTER, &bridge.to_ne_bytes())
        .nested(LINK_INFO, info);
    socket.request(message)
}

/// Makes a port one that can neither reach nor hear another port, and whose frames teach the
/// bridge nothing: where a MAC lives is said by [`pin_mac`] alone.
pub fn restrict_port(socket: &mut Socket, port: u32) -> io::Result<()> {
    let off = [PORT_HAIRPIN, PORT_LEARNING, PORT_UNICAST_FLOOD];
    let settings = off.into_iter().fold(Attributes::new(), |all, kind| all.attribute(kind, &[0]));
    let message = Message::new(SET_LINK, 0, &link_header(FAMILY_BRIDGE, port, 0, 0))
        .nested(LINK_PORT, settings.attribute(PORT_ISOLATED, &[1]));
    socket.request(message)
}

/// Writes into the bridge's table that `mac` is behind `port`.
pub fn pin_mac(socket: &mut Socket, port: u32, mac: Mac) -> io::Result<()> {
    let header = neighbour_header(FAMILY_BRIDGE, port, STATE_NO_ARP, TO_MASTER);
    let message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &header).attribute(NEIGHBOUR_MAC, &mac);
    socket.request(message)
}

/// Tells the host which MAC an address has, so that it never asks (and no one can answer falsely).
pub fn pin_neighbour(socket: &mut Socket, link: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
    let header = neighbour_header(FAMILY_INET, link, STATE_PERMANENT, 0);
    let message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &header)
        .attribute(NEIGHBOUR_DESTINATION, &address.octets())
        .attribute(NEIGHBOUR_MAC, &mac);
    socket.request(message)
}

/// Takes back [`pin_neighbour`]; it is no error if there is nothing to take back.
pub fn unpin_neighbour(socket: &mut Socket, link: u32, address: Ipv4Addr) -> io::Result<()> {
    let message = Message::new(DELETE_NEIGHBOUR, 0, &neighbour_header(FAMILY_INET, link, 0, 0))
        .attribute(NEIGHBOUR_DESTINATION, &address.octets());
    absent_is_fine(socket.request(message))
}

pub fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(NEW_LINK, 0, &link_header(0, index, IF_UP, IF_UP)))
}

/// Deletes a link by name; it is no error if there is none.
pub fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    let message = Message::new(DELETE_LINK, 0, &link_header(0, 0, 0, 0)).string(LINK_NAME, name);
    absent_is_fine(socket.request(message))
}

pub fn add_address(socket: &mut Socket, link: u32, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
    let mut header = vec![FAMILY_INET, prefix_len, 0, 0];
    header.extend_from_slice(&link.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, CREATE | REPLACE, &header)
        .attribute(1, &address.octets())
        .attribute(2, &address.octets());
    socket.request(message)
}

pub fn add_default_route(socket: &mut Socket, link: u32, gateway: Ipv4Addr) -> io::Result<()> {
    const MAIN_TABLE: u8 = 254;
    const PROTOCOL_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let header = [FAMILY_INET, 0, 0, 0, MAIN_TABLE, PROTOCOL_BOOT, 0, UNICAST, 0, 0, 0, 0];
    let message = Message::new(NEW_ROUTE, CREATE | REPLACE, &header)
        .attribute(5, &gateway.octets())
        .attribute(4, &link.to_ne_bytes());
    socket.request(message)
}

/// Every IPv4 network that this host has an address in or a route to, with the link it is on
/// (0 if none). Default routes, and the two halves that VPNs split them into, are left out.
pub fn networks_in_use(socket: &mut Socket) -> io::Result<Vec<(Subnet, u32)>> {
    let addresses = socket.dump(Message::new(GET_ADDRESS, 0, &[FAMILY_INET, 0, 0, 0, 0, 0, 0, 0]))?;
    let routes = socket.dump(Message::new(GET_ROUTE, 0, &[FAMILY_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?;
    let addresses = addresses.iter().filter_map(|payload| parse_address(payload));
    let routes = routes.iter().filter_map(|payload| parse_route(payload));
    Ok(addresses.chain(routes).filter(|(subnet, _)| subnet.prefix_len() > 1).collect())
}

fn parse_address(payload: &[u8]) -> Option<(Subnet, u32)> {
    let prefix_len = *payload.get(1)?;
    let link = u32_at(payload, 4)?;
    let address = find(payload.get(8..)?, 1)?;
    Some((Subnet::containing(ipv4(address)?, prefix_len), link))
}

fn parse_route(payload: &[u8]) -> Option<(Subnet, u32)> {
    let prefix_len = *payload.get(1)?;
    let attributes = payload.get(12..)?;
    let address = find(attributes, 1)?;
    let link = find(attributes, 4).and_then(|value| u32_at(value, 0));
    Some((Subnet::containing(ipv4(address)?, prefix_len), link.unwrap_or(0)))
}

/// The IPv4 addresses of one link, with their prefix lengths.
pub fn addresses_of(socket: &mut Socket, link: u32) -> io::Result<Vec<(Ipv4Addr, u8)>> {
    let found = socket.dump(Message::new(GET_ADDRESS, 0, &[FAMILY_INET, 0, 0, 0, 0, 0, 0, 0]))?;
    let ours = found.iter().filter(|payload| u32_at(payload, 4) == Some(link));
    Ok(ours
        .filter_map(|payload| {
            let address = find(payload.get(8..)?, 2)?;
            Some((ipv4(address)?, *payload.get(1)?))
        })
        .collect())
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH)) => {
            Ok(())
        }
        other => other,
    }
}

/// struct ifinfomsg
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// struct ndmsg
fn neighbour_header(family: u8, link: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}
