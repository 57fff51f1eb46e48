//! Strict HTTP/1 request framing (RFC 9112), as a scanner over the bytes that arrive. Pure;
//! `guard.rs` puts it in front of hyper.
//!
//! Why a second look: a request that two parsers divide differently lets a client hide one
//! request in another ("smuggling"). hyper is lenient in places (a line may end in a bare
//! LF), so everything on which implementations are known to differ is refused here, before
//! hyper sees it; what passes means the same to both, and hyper writes it anew for the
//! backend. The scanner follows messages on its own: head, body by length or by chunks,
//! trailers, next head. It keeps no copy but of a line that was cut by a read.

/// Lines longer than this are refused; hyper has answered 431 before.
const MAX_LINE_BYTES: usize = 128 * 1024;
/// RFC 9112 §2.2: a server should ignore at least one empty line before a request.
const MAX_EMPTY_LINES: u8 = 2;
/// Chunk extensions have no use but to keep a server busy.
const MAX_EXTENSION_BYTES: u16 = 256;

/// The byte at which the stream stops being a request that means one thing only.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    /// Offset in the bytes given to [`Scanner::scan`].
    pub at: usize,
    /// The message's head was good and has been passed on.
    pub in_body: bool,
    pub why: &'static str,
}

/// Where the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Between,
    Head,
    Body,
}

#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    /// The beginning of a line whose end has not arrived.
    carry: Vec<u8>,
    head: Head,
    heads: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request line; with the number of empty lines seen.
    #[default]
    Start,
    Fields,
    Fixed(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    ChunkExtension {
        size: u64,
        seen: u16,
    },
    ChunkSizeEnd(u64),
    ChunkData(u64),
    ChunkDataCr,
    ChunkDataLf,
    Trailers,
}

/// What the fields of one head say about framing.
#[derive(Debug, Default)]
struct Head {
    empty_lines: u8,
    version_1_0: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

type Refused = &'static str;

impl Scanner {
    /// Follows the next bytes.
    ///
    /// # Errors
    /// The first violation; nothing after it may be read.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let mut at = 0;
        while at < bytes.len() {
            at = match self.state {
                State::Start | State::Fields | State::Trailers => self.line(bytes, at)?,
                State::Fixed(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    self.state = if left == taken { State::Start } else { State::Fixed(left - taken) };
                    at + taken as usize
                }
                State::ChunkData(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    self.state =
                        if left == taken { State::ChunkDataCr } else { State::ChunkData(left - taken) };
                    at + taken as usize
                }
                _ => {
                    self.state =
                        self.chunk_byte(bytes[at]).map_err(|why| Violation { at, in_body: true, why })?;
                    at + 1
                }
            };
        }
        Ok(())
    }

    pub fn position(&self) -> Position {
        match self.state {
            State::Start if self.carry.is_empty() => Position::Between,
            State::Start | State::Fields => Position::Head,
            _ => Position::Body,
        }
    }

    /// Heads that have ended so far.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// One line, or its part that is there; gives where the next begins.
    fn line(&mut self, bytes: &[u8], from: usize) -> Result<usize, Violation> {
        let in_body = self.state == State::Trailers;
        let rest = &bytes[from..];
        let Some(length) = rest.iter().position(|b| *b == b'\n') else {
            if self.carry.len() + rest.len() > MAX_LINE_BYTES {
                return Err(Violation { at: bytes.len() - 1, in_body, why: "a line is too long" });
            }
            self.carry.extend_from_slice(rest);
            return Ok(bytes.len());
        };
        let at = from + length;
        let checked = if self.carry.is_empty() {
            self.whole_line(&rest[..length])
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&rest[..length]);
            let checked = self.whole_line(&line);
            line.clear();
            self.carry = line;
            checked
        };
        checked.map_err(|why| Violation { at, in_body, why })?;
        Ok(at + 1)
    }

    /// A line without its LF.
    fn whole_line(&mut self, line: &[u8]) -> Result<(), Refused> {
        let Some(line) = line.strip_suffix(b"\r") else { return Err("a line ends in a bare LF") };
        match self.state {
            State::Start if line.is_empty() => {
                self.head.empty_lines += 1;
                if self.head.empty_lines > MAX_EMPTY_LINES {
                    return Err("empty lines in place of a request");
                }
            }
            State::Start => {
                self.head = Head { version_1_0: request_line(line)?, ..Head::default() };
                self.state = State::Fields;
            }
            State::Trailers if line.is_empty() => self.state = State::Start,
            State::Trailers => {
                let (name, _) = field(line)?;
                if is(name, b"content-length") || is(name, b"transfer-encoding") || is(name, b"host") {
                    return Err("framing in a trailer");
                }
            }
            _ if line.is_empty() => self.state = self.end_of_head()?,
            _ => self.head.take(line)?,
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<State, Refused> {
        let head = std::mem::take(&mut self.head);
        if !head.host && !head.version_1_0 {
            return Err("no Host");
        }
        if head.chunked && head.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        if head.chunked && head.version_1_0 {
            return Err("Transfer-Encoding in HTTP/1.0");
        }
        self.heads += 1;
        Ok(match head.length {
            _ if head.chunked => State::ChunkSize { size: 0, digits: 0 },
            None | Some(0) => State::Start,
            Some(length) => State::Fixed(length),
        })
    }

    /// RFC 9112 §7.1, without the white space that some servers bear.
    fn chunk_byte(&self, byte: u8) -> Result<State, Refused> {
        Ok(match (self.state, byte) {
            (State::ChunkSize { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // 15 digits fit whatever any implementation counts in 64 bits.
                if digits == 15 {
                    return Err("a chunk size is too large");
                }
                let digit = u64::from((byte as char).to_digit(16).unwrap_or_default());
                State::ChunkSize { size: size * 16 + digit, digits: digits + 1 }
            }
            (State::ChunkSize { digits: 0, .. }, _) => return Err("no chunk size"),
            (State::ChunkSize { size, .. }, b'\r') => State::ChunkSizeEnd(size),
            (State::ChunkSize { size, .. }, b';') => State::ChunkExtension { size, seen: 0 },
            (State::ChunkSize { .. }, _) => return Err("a chunk size is no hexadecimal number"),
            (State::ChunkExtension { size, .. }, b'\r') => State::ChunkSizeEnd(size),
            (State::ChunkExtension { size, seen }, b'\t' | b' '..=b'~') => {
                if seen == MAX_EXTENSION_BYTES {
                    return Err("a chunk extension is too long");
                }
                State::ChunkExtension { size, seen: seen + 1 }
            }
            (State::ChunkExtension { .. }, _) => return Err("a control character in a chunk extension"),
            (State::ChunkSizeEnd(0), b'\n') => State::Trailers,
            (State::ChunkSizeEnd(size), b'\n') => State::ChunkData(size),
            (State::ChunkDataCr, b'\r') => State::ChunkDataLf,
            (State::ChunkDataLf, b'\n') => State::ChunkSize { size: 0, digits: 0 },
            _ => return Err("a chunk does not end in CRLF"),
        })
    }
}

impl Head {
    fn take(&mut self, line: &[u8]) -> Result<(), Refused> {
        let (name, value) = field(line)?;
        match name.len() {
            4 if is(name, b"host") => once(&mut self.host, "two Hosts")?,
            14 if is(name, b"content-length") => {
                // 18 digits fit whatever any implementation counts in 63 bits. A list of equal
                // values is valid to some (RFC 9112 §6.3), so it means two things.
                let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                let length = digits.then(|| value.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0')));
                let Some(length) = length else { return Err("Content-Length is no number") };
                if self.length.replace(length).is_some() {
                    return Err("two Content-Lengths");
                }
            }
            17 if is(name, b"transfer-encoding") => {
                if !is(value, b"chunked") {
                    return Err("a Transfer-Encoding other than chunked");
                }
                once(&mut self.chunked, "two Transfer-Encodings")?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Notes that something was seen, and refuses it the second time.
fn once(seen: &mut bool, why: Refused) -> Result<(), Refused> {
    if std::mem::replace(seen, true) { Err(why) } else { Ok(()) }
}

fn is(name: &[u8], lower: &[u8]) -> bool {
    name.eq_ignore_ascii_case(lower)
}

/// Whether it is HTTP/1.0; one space between the parts and none elsewhere.
fn request_line(line: &[u8]) -> Result<bool, Refused> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("the request line has not three parts");
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err("the method is no token");
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("the request target has characters that no URI has");
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err("neither HTTP/1.1 nor HTTP/1.0"),
    }
}

/// Name and trimmed value of a field line (RFC 9112 §5, without folding).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    let Some(colon) = line.iter().position(|b| *b == b':') else { return Err("a field without a colon") };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // Also refuses white space before the colon, and a line that begins with it (a fold).
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err("a field name is no token");
    }
    if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err("a control character in a field value");
    }
    let end = value.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |last| last + 1);
    let start = value[..end].iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(end);
    Ok((name, &value[start..end]))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let allowed = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut i = 0;
        while i < allowed.len() {
            table[allowed[i] as usize] = true;
            i += 1;
        }
        table
    };
    TOKEN[byte as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: &str = "Host: a\r\n";

    /// What is refused whatever follows; the tests of the whole proxy send the same kinds.
    fn refused() -> Vec<(String, bool)> {
        let head = |fields: &str| (format!("GET / HTTP/1.1\r\n{HOST}{fields}\r\n"), false);
        let chunks =
            |body: &str| (format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{body}"), true);
        let whole = |text: &str| (text.to_owned(), false);
        vec![
            whole("GET / HTTP/1.1\nHost: a\r\n\r\n"),
            whole("GET / HTTP/1.1\r\nHost: a\n\r\n"),
            whole("GET / HTTP/1.1\r\nHost: a\r\n\n"),
            whole("GET / HTTP/1.1\r\n\r\n"),
            whole("GET /\r\n"),
            whole("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
            whole("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
            whole("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
            whole("GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
            whole("GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            whole("G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
            whole(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            whole("GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
            whole("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            head("Host: b\r\n"),
            head(" folded: x\r\n"),
            head("X: y\r\n folded\r\n"),
            head("X: y\r\n\tfolded\r\n"),
            head("X : y\r\n"),
            head("X\r\n"),
            head(": y\r\n"),
            head("X: \0\r\n"),
            head("X: a\rb\r\n"),
            head("X: \x08\r\n"),
            head("Content-Length: 1\r\nContent-Length: 2\r\n"),
            head("Content-Length: 1\r\nContent-Length: 1\r\n"),
            head("Content-Length: 1, 1\r\n"),
            head("Content-Length: +1\r\n"),
            head("Content-Length: -1\r\n"),
            head("Content-Length: 0x1\r\n"),
            head("Content-Length: 1 2\r\n"),
            head("Content-Length: \r\n"),
            head("Content-Length: 9999999999999999999\r\n"),
            head("Content-Length : 1\r\n"),
            head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            head("Transfer-Encoding: chunked\r\ncontent-length: 1\r\n"),
            head("Transfer-Encoding: identity\r\n"),
            head("Transfer-Encoding: gzip, chunked\r\n"),
            head("Transfer-Encoding: chunked, chunked\r\n"),
            head("Transfer-Encoding: xchunked\r\n"),
            head("Transfer-Encoding: \"chunked\"\r\n"),
            head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            head("Transfer-Encoding:\x0bchunked\r\n"),
            head("Transfer-Encoding : chunked\r\n"),
            head("Transfer-Encoding: chun\r\n ked\r\n"),
            whole("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            chunks("\r\n"),
            chunks("x\r\n"),
            chunks("-1\r\n"),
            chunks("0x1\r\n"),
            chunks("1 \r\na\r\n"),
            chunks(" 1\r\na\r\n"),
            chunks("1\na\r\n"),
            chunks("1\r\nab\r\n"),
            chunks("1\r\na\n"),
            chunks("1;a\nb\r\na\r\n"),
            chunks("1;a\0\r\na\r\n"),
            chunks("ffffffffffffffff\r\n"),
            chunks("10000000000000000\r\n"),
            chunks("0\r\nX: y\n\r\n"),
            chunks("0\r\nContent-Length: 1\r\n\r\n"),
            chunks("0\r\n\n"),
            chunks(&format!("1;{}\r\na\r\n", "x".repeat(300))),
        ]
    }

    #[test]
    fn whatever_parsers_differ_on_is_refused() {
        for (text, in_body) in refused() {
            let violation = Scanner::default().scan(text.as_bytes()).expect_err(&format!("{text:?}"));
            assert_eq!(violation.in_body, in_body, "{text:?}: {violation:?}");
        }
    }

    #[test]
    fn valid_requests_pass_and_are_counted() {
        let several = concat!(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nPOST /x HTTP/1.1\r\nhost:a\r\ncontent-length:  3 \r\n\r\nabc",
            "POST /y HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "3;name=\"value\"\r\nabc\r\n0a\r\n0123456789\r\n0\r\nTrailer-Field: x\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost:\r\nX: \t caf\u{e9} \r\n\r\n",
        );
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(several.as_bytes()), Ok(()));
        assert_eq!((scanner.heads(), scanner.position()), (5, Position::Between));
    }

    #[test]
    fn position_tells_head_from_body() {
        let mut scanner = Scanner::default();
        for (bytes, expected) in [
            ("", Position::Between),
            ("P", Position::Head),
            ("OST / HTTP/1.1\r\nHo", Position::Head),
            ("st: a\r\nContent-Length: 2\r\n\r\n", Position::Body),
            ("a", Position::Body),
            ("b", Position::Between),
        ] {
            scanner.scan(bytes.as_bytes()).unwrap();
            assert_eq!(scanner.position(), expected, "after {bytes:?}");
        }
    }

    proptest! {
        /// However the network cuts a stream, the verdict falls at the same byte.
        #[test]
        fn cuts_change_nothing(case in 0usize..60, cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let all = refused();
            let text = all[case % all.len()].0.as_bytes();
            let expected = Scanner::default().scan(text).unwrap_err().at;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut scanner = Scanner::default();
            let found = cuts.windows(2).find_map(|pair| {
                scanner.scan(&text[pair[0]..pair[1]]).err().map(|v| pair[0] + v.at)
            });
            prop_assert_eq!(found, Some(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Scanner::default().scan(&bytes);
        }
    }
}
