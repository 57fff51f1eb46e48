//! The line format: pure. Cutting a stream of bytes into entries, and entries into text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Longer lines are split: 16 KiB, as Kubernetes and Docker do.
pub const MAX_LINE: usize = 16 * 1024;

/// `2026-11-21T12:00:00.123456789Z` (RFC 3339).
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The reverse of [`timestamp`]; `None` for anything else.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != 30 || !text.is_ascii() || bytes[29] != b'Z' || bytes[10] != b'T' || bytes[19] != b'.' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let sane = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sane || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::new(seconds, u32::try_from(number(20..29)?).ok()?))
}

/// Days after 1970-01-01 to (year, month, day), in the proleptic Gregorian calendar
/// (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub struct Cutter {
    stream: Stream,
    pending: Vec<u8>,
}

impl Cutter {
    pub fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends the entries that `bytes` completes to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.entry(&window[..end], b'F', time, out);
                    bytes = &bytes[end + 1..];
                }
                None if window.len() == room => {
                    self.entry(window, b'P', time, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.pending.extend_from_slice(window);
                    return;
                }
            }
        }
    }

    /// The stream ended: what was not yet a line becomes one.
    pub fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.entry(b"", b'F', time, out);
        }
    }

    fn entry(&mut self, rest: &[u8], flag: u8, time: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.as_str().as_bytes());
        out.extend_from_slice(&[b' ', flag, b' ']);
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.pending.clear();
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub time: SystemTime,
    pub stream: Stream,
    /// As written by the app, without the line's end; invalid UTF-8 is replaced.
    pub text: String,
    /// The line goes on with this stream's next entry.
    pub partial: bool,
    /// Of the instance that wrote it; the file's name says which.
    pub attempt: u32,
}

/// Reads one line of a log file; `None` for a torn or foreign one.
pub fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time = parse_timestamp(std::str::from_utf8(fields.next()?).ok()?)?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match fields.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Entry {
        time,
        stream,
        partial,
        attempt: 0,
        text: String::from_utf8_lossy(fields.next()?).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-21T12:00:00.123456789Z";

    #[test]
    fn timestamps_are_what_date_says() {
        let table = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_795_262_400, "2026-11-21T12:00:00.000000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ];
        for (seconds, text) in table {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), text);
            assert_eq!(parse_timestamp(text), Some(time));
        }
        assert_eq!(parse_timestamp(NOW).map(timestamp).as_deref(), Some(NOW));
        assert_eq!(parse_timestamp("2026-13-21T12:00:00.123456789Z"), None);
    }

    fn cut(chunks: &[&[u8]]) -> Vec<(String, bool)> {
        let (mut cutter, mut out) = (Cutter::new(Stream::Stdout), Vec::new());
        for chunk in chunks {
            cutter.feed(chunk, NOW, &mut out);
        }
        cutter.finish(NOW, &mut out);
        let lines = out.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| parse(line).expect("our own format")).map(|e| (e.text, e.partial)).collect()
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let expected = vec![("one".to_owned(), false), (String::new(), false), ("end".to_owned(), false)];
        assert_eq!(cut(&[b"one\n\nend"]), expected);
        assert_eq!(cut(&[b"o", b"ne", b"\n", b"\ne", b"nd"]), expected);
    }

    #[test]
    fn very_long_lines_are_split_and_marked() {
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        let lengths: Vec<_> = cut(&[&long, b"\n"]).into_iter().map(|(text, p)| (text.len(), p)).collect();
        assert_eq!(lengths, [(MAX_LINE, true), (MAX_LINE, true), (5, false)]);
    }
}
