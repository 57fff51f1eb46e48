//! What node and shim say to each other: prost messages, each behind its length.
//!
//! Shims outlive upgrades, so a later node talks to an older shim: fields and variants are
//! only ever added, unknown ones are ignored, and a request that a shim doesn't know is
//! answered with an error. Frame: u32 big endian length, then one [`Request`] or [`Reply`].

use prost::Message;
use std::io::{Read, Write};

/// The protocol that this binary speaks; told in [`Snapshot`].
pub const VERSION: u32 = 1;

/// No message is near this; a longer frame is a fault.
const MAX_FRAME: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Comes back in the reply. 0 is never used.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Verb", tags = "2, 3, 4, 5, 6")]
    pub verb: Option<Verb>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Verb {
    /// How are you? Also: tell me when it ends, on this connection.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Let the created container run.
    #[prost(message, tag = "3")]
    Start(Start),
    #[prost(message, tag = "4")]
    Signal(Signal),
    /// Signal, wait, kill.
    #[prost(message, tag = "5")]
    Stop(Stop),
    /// Kill everything in it now; also ends one that was never started.
    #[prost(message, tag = "6")]
    Kill(Kill),
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {}

#[derive(Clone, PartialEq, Message)]
pub struct Start {
    /// The final text of /etc/hosts: the address is known only after create.
    #[prost(string, tag = "1")]
    pub hosts: String,
    /// For a later node that adopts this container.
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Signal {
    #[prost(int32, tag = "1")]
    pub number: i32,
    /// To every process in it rather than its first.
    #[prost(bool, tag = "2")]
    pub all: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stop {
    #[prost(int32, tag = "1")]
    pub signal: i32,
    #[prost(uint64, tag = "2")]
    pub grace_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Kill {}

#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    /// Of the request; 0 for what the shim says unasked.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5")]
    pub answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "2")]
    Snapshot(Snapshot),
    #[prost(message, tag = "3")]
    Done(Done),
    /// It could not be done: the text says why.
    #[prost(string, tag = "4")]
    Failed(String),
    /// The container ended.
    #[prost(message, tag = "5")]
    Ended(Ended),
}

#[derive(Clone, PartialEq, Message)]
pub struct Done {}

/// How a container is.
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
    /// Clock ticks after boot (field 22 of /proc/PID/stat): with the pid, names a process.
    #[prost(uint64, tag = "3")]
    pub start_time: u64,
    #[prost(bool, tag = "4")]
    pub started: bool,
    #[prost(string, tag = "5")]
    pub address: String,
}

/// [`crate::runtime::Exit`] on the wire and in the exit record.
#[derive(Clone, PartialEq, Message)]
pub struct Ended {
    #[prost(oneof = "Cause", tags = "1, 2, 3, 4")]
    pub cause: Option<Cause>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Cause {
    #[prost(int32, tag = "1")]
    Code(i32),
    #[prost(int32, tag = "2")]
    Signal(i32),
    /// The limit that it went over.
    #[prost(uint64, tag = "3")]
    OutOfMemory(u64),
    #[prost(string, tag = "4")]
    StartFailed(String),
}

impl From<&crate::runtime::Exit> for Ended {
    fn from(exit: &crate::runtime::Exit) -> Self {
        use crate::runtime::Exit;
        let cause = match exit {
            Exit::Code(code) => Some(Cause::Code(*code)),
            Exit::Signal { number } => Some(Cause::Signal(*number)),
            Exit::OutOfMemory { limit_bytes } => Some(Cause::OutOfMemory(*limit_bytes)),
            Exit::StartFailed(why) => Some(Cause::StartFailed(why.clone())),
            Exit::ShimLost => None,
        };
        Ended { cause }
    }
}

impl From<Ended> for crate::runtime::Exit {
    fn from(ended: Ended) -> Self {
        match ended.cause {
            Some(Cause::Code(code)) => Self::Code(code),
            Some(Cause::Signal(number)) => Self::Signal { number },
            Some(Cause::OutOfMemory(limit_bytes)) => Self::OutOfMemory { limit_bytes },
            Some(Cause::StartFailed(why)) => Self::StartFailed(why),
            None => Self::ShimLost,
        }
    }
}

/// One message as bytes on the wire.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode(&mut bytes).expect("a Vec grows");
    bytes
}

/// Takes the first whole message out of `buffer`; `None` needs more bytes.
///
/// # Errors
/// The bytes are no message: give the connection up.
pub fn take<M: Message + Default>(buffer: &mut Vec<u8>) -> std::io::Result<Option<M>> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too long"));
    }
    let Some(body) = buffer.get(4..4 + length) else { return Ok(None) };
    let message = M::decode(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// Writes one message; for blocking ends.
///
/// # Errors
/// The other end is gone.
pub fn send(to: &mut impl Write, message: &impl Message) -> std::io::Result<()> {
    to.write_all(&frame(message))
}

/// Reads one message; for blocking ends.
///
/// # Errors
/// The other end is gone or speaks something else.
pub fn receive<M: Message + Default>(from: &mut impl Read) -> std::io::Result<M> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(M::decode(&*body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let request = Request { id: 7, verb: Some(Verb::Stop(Stop { signal: 15, grace_ms: 1000 })) };
        let bytes = [frame(&request), frame(&request)].concat();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            while let Some(message) = take::<Request>(&mut buffer).expect("valid") {
                seen.push(message);
            }
        }
        assert_eq!(seen, [request.clone(), request]);
    }

    #[test]
    fn an_unknown_verb_of_a_later_version_is_an_empty_request() {
        // Field 90, length-delimited, empty: no verb that this version knows.
        let later = [&[0x08, 0x05][..], &[0xd2, 0x05, 0x00][..]].concat();
        let request = Request::decode(&*later).expect("unknown fields are ignored");
        assert_eq!(request, Request { id: 5, verb: None });
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused() {
        let mut buffer = vec![0xff; 8];
        take::<Request>(&mut buffer).expect_err("four gigabytes were accepted");
    }
}
