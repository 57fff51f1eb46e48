//! Speaks netlink: frames a request, nests its attributes, waits for the kernel's answer.
//!
//! Nothing here knows what a link or a rule is; that is `links` and `nft`. Everything is
//! blocking, because the kernel answers a netlink request before `send` returns, and because
//! half of the callers are plain threads inside a container's network namespace.
//!
//! ```text
//! nlmsghdr { len, type, flags, seq, pid } · family header · { len, type, value, padding }*
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const EXCLUSIVE: u16 = 0x200;
pub const REPLACE: u16 = 0x100;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
const NESTED: u16 = 0x8000;

/// A reply larger than this does not exist: the kernel builds dumps in chunks of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// One request under construction: append attributes, then hand it to a [`Socket`].
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `header` is the family's own fixed header (ifinfomsg, nfgenmsg, …).
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(header);
        pad(&mut bytes);
        Message { bytes }
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        push(&mut self.bytes, kind, value);
        self
    }

    pub fn string(self, kind: u16, value: &str) -> Message {
        self.attribute(kind, &zero_terminated(value))
    }

    pub fn nested(mut self, kind: u16, inner: Attributes) -> Message {
        push(&mut self.bytes, kind | NESTED, &inner.0);
        self
    }

    fn sealed(mut self, extra_flags: u16, sequence: u32) -> Vec<u8> {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A run of attributes, to be nested in a message or in another attribute.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Attributes {
        Attributes::default()
    }

    /// Starts with a fixed header, as a veth's peer does.
    pub fn with_header(header: &[u8]) -> Attributes {
        let mut bytes = header.to_vec();
        pad(&mut bytes);
        Attributes(bytes)
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Attributes {
        push(&mut self.0, kind, value);
        self
    }

    pub fn string(self, kind: u16, value: &str) -> Attributes {
        self.attribute(kind, &zero_terminated(value))
    }

    /// Big-endian, as nfnetlink wants its numbers.
    pub fn be32(self, kind: u16, value: u32) -> Attributes {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub fn nested(mut self, kind: u16, inner: Attributes) -> Attributes {
        push(&mut self.0, kind | NESTED, &inner.0);
        self
    }
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("callers keep an attribute below 64 KiB");
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn zero_terminated(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

/// The attributes in `bytes` as (type, value); stops at the first one that is cut short.
fn parse(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    parse(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The text of a zero-terminated attribute.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn route() -> io::Result<Socket> {
        Socket::open(SockProtocol::NetlinkRoute)
    }

    pub fn netfilter() -> io::Result<Socket> {
        Socket::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Socket> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers at once. If it ever did not, an error is better than a stuck thread.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        // A table with thousands of set elements goes down in one datagram.
        setsockopt(&fd, sockopt::SndBufForce, &(8 * 1024 * 1024))?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// Performs one request and waits for its acknowledgement.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.get(message).map(drop)
    }

    /// Performs one request; what the kernel answers before its acknowledgement, if anything.
    pub fn get(&mut self, message: Message) -> io::Result<Option<Vec<u8>>> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(&message.sealed(ACK, sequence))?;
        let mut answer = None;
        loop {
            for (kind, payload) in self.receive(sequence)? {
                if kind == TYPE_ERROR {
                    return failure(&payload).map(|()| answer);
                }
                answer = Some(payload);
            }
        }
    }

    /// Sends `messages` as one datagram and waits for the acknowledgement of the last but one:
    /// the shape of an nfnetlink batch, whose first and last message are only brackets.
    pub fn batch(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        let mut datagram = Vec::new();
        self.sequence += 1;
        datagram.extend(begin.sealed(0, self.sequence));
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            self.sequence += 1;
            let flags = if index + 1 == count { ACK } else { 0 };
            datagram.extend(message.sealed(flags, self.sequence));
        }
        let last = self.sequence;
        self.sequence += 1;
        datagram.extend(end.sealed(0, self.sequence));
        self.send(&datagram)?;
        self.wait_for_ack(last)
    }

    /// All objects of one kind: the payload (family header and attributes) of each.
    pub fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.send(&message.sealed(DUMP, sequence))?;
        let mut found = Vec::new();
        loop {
            for (kind, payload) in self.receive(sequence)? {
                match kind {
                    TYPE_DONE => return Ok(found),
                    TYPE_ERROR => failure(&payload)?,
                    _ => found.push(payload),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("netlink took half a message")) }
    }

    /// The first error ends the wait, whichever message of the batch it belongs to.
    fn wait_for_ack(&mut self, sequence: u32) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, acknowledged, payload) in frames(&buffer[..length]) {
                if kind == TYPE_ERROR {
                    failure(payload)?;
                    if acknowledged == sequence {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn receive(&mut self, sequence: u32) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let ours = frames(&buffer[..length]).filter(|frame| frame.1 == sequence);
        Ok(ours.map(|(kind, _, payload)| (kind, payload.to_vec())).collect())
    }
}

/// The messages of one datagram as (type, sequence, payload).
pub fn frames(datagram: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let kind = u16_at(rest, 4)?;
        let sequence = u32_at(rest, 8)?;
        let payload = rest.get(HEADER_LEN..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, payload))
    })
}

/// An error message carries a negative errno; zero is an acknowledgement.
fn failure(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0).map(|code| code as i32) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("netlink answered with half a message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_way_there_and_back() {
        let inner = Attributes::new().string(1, "eth0").be32(2, 7);
        let message = Message::new(16, CREATE, &[0; 16]).nested(18, inner).attribute(3, &[1, 2, 3]);
        let bytes = message.sealed(ACK, 5);
        let (kind, sequence, payload) = frames(&bytes).next().expect("one frame");
        assert_eq!((kind, sequence), (16, 5));
        let found: Vec<_> = parse(&payload[16..]).collect();
        assert_eq!(found[1], (3, [1, 2, 3].as_slice()));
        let nested: Vec<_> = parse(found[0].1).collect();
        assert_eq!(text(nested[0].1), "eth0");
        assert_eq!(nested[1], (2, 7_u32.to_be_bytes().as_slice()));
    }

    #[test]
    fn truncated_answers_end_the_parse_instead_of_panicking() {
        assert_eq!(parse(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(parse(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(frames(&[255, 0, 0, 0, 1]).count(), 0);
        assert!(failure(&[1]).is_err());
    }
}
