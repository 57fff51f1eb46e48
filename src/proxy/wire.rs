//! What the node and the proxy say to each other on the control socket: prost messages in
//! frames, written by hand so that the room needs no generated code.
//!
//! ```text
//! 'n' 'p' version 0 | length (u32, little endian) | Frame (prost)
//! ```
//! Fields are only ever added: a node of a later version must be able to take over a proxy
//! of an earlier one. Descriptors travel beside the first byte of a frame (SCM_RIGHTS); see
//! `descriptors.rs`. Mapping to the model is in `convert.rs`.

use prost::{Message, Oneof};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Raised when a frame's meaning changes so that the other side must not go on.
pub const PROTOCOL: u32 = 1;
/// A table of a hundred thousand backends takes about 6 MB.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
pub const HEADER_BYTES: usize = 8;
const MAGIC: [u8; 4] = [b'n', b'p', 1, 0];

#[derive(Clone, PartialEq, Message)]
pub struct Version {
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Process {
    #[prost(string, tag = "1")]
    pub tenant: String,
    #[prost(string, tag = "2")]
    pub app: String,
    #[prost(string, tag = "3")]
    pub process: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rule {
    #[prost(string, optional, tag = "1")]
    pub host: Option<String>,
    #[prost(string, tag = "2")]
    pub path: String,
    #[prost(message, required, tag = "3")]
    pub to: Process,
}

#[derive(Clone, PartialEq, Message)]
pub struct Backend {
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    /// `127.0.0.1:80`, `[::1]:80`.
    #[prost(string, tag = "3")]
    pub address: String,
    #[prost(uint32, tag = "4")]
    pub weight: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Service {
    #[prost(message, required, tag = "1")]
    pub key: Process,
    #[prost(message, repeated, tag = "2")]
    pub backends: Vec<Backend>,
    #[prost(bool, tag = "3")]
    pub expected: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Table {
    #[prost(message, required, tag = "1")]
    pub version: Version,
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<Rule>,
    #[prost(message, repeated, tag = "3")]
    pub services: Vec<Service>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Rules {
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Delta {
    #[prost(message, required, tag = "1")]
    pub base: Version,
    #[prost(message, required, tag = "2")]
    pub version: Version,
    #[prost(message, optional, tag = "3")]
    pub rules: Option<Rules>,
    #[prost(message, repeated, tag = "4")]
    pub changed: Vec<Service>,
    #[prost(message, repeated, tag = "5")]
    pub removed: Vec<Process>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseGate {
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(uint64, tag = "3")]
    pub drain_ms: u64,
    /// Comes back in the answer.
    #[prost(uint64, tag = "4")]
    pub request: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct GateClosed {
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// 0, unless the time ran out.
    #[prost(uint64, tag = "2")]
    pub in_flight: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Number {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

/// The first frame on every connection; the listeners' descriptors travel with it.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Of the table that is served; absent until there was one.
    #[prost(message, optional, tag = "3")]
    pub table: Option<Version>,
    /// One for each descriptor, in order; an address occurs once for each worker.
    #[prost(string, repeated, tag = "4")]
    pub listeners: Vec<String>,
    /// nodectl's version, for people.
    #[prost(string, tag = "5")]
    pub release: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Trouble {
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServiceStats {
    #[prost(message, required, tag = "1")]
    pub key: Process,
    /// 1xx (101 only), 2xx, 3xx, 4xx, 5xx.
    #[prost(uint64, repeated, tag = "2")]
    pub by_class: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub in_flight: u64,
    /// One for each bound of `stats::BOUNDS_US`, and one above the last; to the response's head.
    #[prost(uint64, repeated, tag = "4")]
    pub latency: Vec<u64>,
    #[prost(uint64, tag = "5")]
    pub bytes_in: u64,
    #[prost(uint64, tag = "6")]
    pub bytes_out: u64,
    #[prost(uint64, tag = "7")]
    pub retries: u64,
    #[prost(uint64, tag = "8")]
    pub latency_sum_us: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct InstanceStats {
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(uint64, tag = "3")]
    pub requests: u64,
    #[prost(uint64, tag = "4")]
    pub in_flight: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stats {
    #[prost(uint64, tag = "1")]
    pub request: u64,
    #[prost(message, repeated, tag = "2")]
    pub services: Vec<ServiceStats>,
    #[prost(message, repeated, tag = "3")]
    pub instances: Vec<InstanceStats>,
    #[prost(uint64, tag = "4")]
    pub connections: u64,
    /// Answered without any service: no rule, malformed, refused.
    #[prost(uint64, tag = "5")]
    pub unrouted: u64,
}

/// `proxy::Limits`.
#[derive(Clone, PartialEq, Message)]
pub struct Limits {
    #[prost(uint64, tag = "1")]
    pub head_timeout_ms: u64,
    #[prost(uint64, tag = "2")]
    pub idle_timeout_ms: u64,
    #[prost(uint64, tag = "3")]
    pub stall_timeout_ms: u64,
    #[prost(uint64, tag = "4")]
    pub connect_timeout_ms: u64,
    #[prost(uint64, tag = "5")]
    pub response_timeout_ms: u64,
    #[prost(uint64, tag = "6")]
    pub max_connections: u64,
    #[prost(uint64, tag = "7")]
    pub shutdown_drain_ms: u64,
}

/// The first and only frame on the proxy's standard input: what to become. The control
/// listener and the TCP listeners travel with it, in this order.
#[derive(Clone, PartialEq, Message)]
pub struct Boot {
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    #[prost(uint32, tag = "2")]
    pub workers: u32,
    #[prost(string, repeated, tag = "3")]
    pub listeners: Vec<String>,
    #[prost(message, optional, tag = "4")]
    pub table: Option<Table>,
    #[prost(message, repeated, tag = "5")]
    pub closed_gates: Vec<CloseGate>,
    #[prost(message, required, tag = "6")]
    pub limits: Limits,
    #[prost(uint32, tag = "7")]
    pub protocol: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    // From the node.
    #[prost(message, tag = "1")]
    Table(Table),
    #[prost(message, tag = "2")]
    Delta(Delta),
    #[prost(message, tag = "3")]
    CloseGate(CloseGate),
    #[prost(message, tag = "4")]
    Ping(Number),
    #[prost(message, tag = "5")]
    Shutdown(Number),
    #[prost(message, tag = "6")]
    AskStats(Number),
    #[prost(message, tag = "7")]
    Boot(Boot),
    // From the proxy.
    #[prost(message, tag = "16")]
    Hello(Hello),
    #[prost(message, tag = "17")]
    GateClosed(GateClosed),
    #[prost(message, tag = "18")]
    Pong(Number),
    #[prost(message, tag = "19")]
    Trouble(Trouble),
    #[prost(message, tag = "20")]
    Stats(Stats),
    /// The delta did not fit: send the whole table.
    #[prost(message, tag = "21")]
    NeedTable(Version),
    /// Every worker serves this table now.
    #[prost(message, tag = "22")]
    TableServed(Version),
}

/// The frame's bytes, ready to be written.
pub fn encode(body: Body) -> Vec<u8> {
    let frame = Frame { body: Some(body) };
    let length = frame.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    frame.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

/// The length of the frame behind a header.
///
/// # Errors
/// It is no header of ours, or the frame is larger than any that we send.
pub fn frame_length(header: [u8; HEADER_BYTES]) -> io::Result<usize> {
    let (magic, length) = header.split_at(4);
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame of the proxy's protocol"));
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    Ok(length)
}

/// The message in a frame; `None` for a kind that this version does not know, to be ignored.
///
/// # Errors
/// The bytes are no frame.
pub fn decode(bytes: &[u8]) -> io::Result<Option<Body>> {
    let frame = Frame::decode(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(frame.body)
}

/// The next message. Not cancel safe: let one task do the reading.
///
/// # Errors
/// The stream ended or broke, or something else talks on it.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Body>> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = frame_length(header)?;
    let mut bytes = Vec::new();
    // Grows with what really arrives, not with what the header promised.
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_stream_and_strangers_are_refused() {
        let body = Body::CloseGate(CloseGate { instance: 7, attempt: 1, drain_ms: 100, request: 3 });
        let bytes = encode(body.clone());
        assert_eq!(read(&mut &bytes[..]).await.unwrap(), Some(body));
        assert!(read(&mut &bytes[..bytes.len() - 1]).await.is_err());
        assert!(read(&mut &b"GET / HTTP/1.1\r\n"[..]).await.is_err());
        let mut huge = MAGIC.to_vec();
        huge.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&mut &huge[..]).await.is_err());
    }
}
