//! Raw Ethernet: forged frames out, captured frames in, through a packet socket.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::runtime::network::links::index_of;
use crate::runtime::network::netlink::Socket;

pub type Mac = [u8; 6];

/// A packet socket bound to one interface of the calling thread's namespace.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn on(interface: &str) -> PacketSocket {
        let everything = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(everything))
        };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened and is owned by no one else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = index_of(&mut Socket::route().expect("a socket"), interface)
            .expect("list")
            .expect("the interface");
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything;
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of `length` bytes and outlives the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        PacketSocket(fd)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = nix::sys::socket::send(self.0.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }

    /// All frames that come in until one contains `marker`, that one included.
    pub fn receive_until(&self, marker: &[u8]) -> Vec<Vec<u8>> {
        let timeout = nix::sys::time::TimeVal::new(5, 0);
        nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)
            .expect("timeout");
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut frames = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            assert!(
                Instant::now() < deadline,
                "the marker did not arrive; {} other frames did",
                frames.len()
            );
            let flags = nix::sys::socket::MsgFlags::empty();
            let length =
                nix::sys::socket::recv(self.0.as_raw_fd(), &mut buffer, flags).expect("the marker in time");
            frames.push(buffer[..length].to_vec());
            if contains(&buffer[..length], marker) {
                return frames;
            }
        }
    }
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

pub fn ethernet(destination: Mac, source: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An IPv4 packet with a UDP datagram to `port`.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let length = 28 + data.len() as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend_from_slice(&4242_u16.to_be_bytes());
    packet.extend_from_slice(&port.to_be_bytes());
    packet.extend_from_slice(&(length - 20).to_be_bytes());
    // A zero checksum means that there is none.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(data);
    packet
}

pub fn arp_reply(sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend_from_slice(&sender_mac);
    packet.extend_from_slice(&sender.octets());
    packet.extend_from_slice(&target_mac);
    packet.extend_from_slice(&target.octets());
    packet
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
