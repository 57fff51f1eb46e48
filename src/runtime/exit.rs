//! How a container ended, told plainly, and the record of it that outlives the shim.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a container is no longer running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this status.
    Code(i32),
    /// A signal ended it.
    Signal { number: i32 },
    /// The kernel killed it for going over its memory limit.
    OutOfMemory { limit_bytes: u64 },
    /// Its shim died, and it was killed with it; the true status is unknown.
    ShimLost,
    /// It never ran: the text says why.
    StartFailed(String),
}

impl Exit {
    /// The status as a shell tells it: 128 + n for signals, 127 for what never ran.
    pub fn code(&self) -> i32 {
        match self {
            Exit::Code(code) => *code,
            Exit::Signal { number } => 128 + number,
            Exit::OutOfMemory { .. } | Exit::ShimLost => 128 + libc::SIGKILL,
            Exit::StartFailed(_) => 127,
        }
    }

    pub fn is_success(&self) -> bool {
        *self == Exit::Code(0)
    }
}

/// `SIGTERM` for 15, `signal 40` for what has no name.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// The number of `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`, as images and manifests write it.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal { number } => write!(f, "killed by {}", signal_name(*number)),
            Exit::OutOfMemory { limit_bytes } => {
                write!(f, "killed: out of memory (limit {})", Megabytes(*limit_bytes))
            }
            Exit::ShimLost => f.write_str("killed: its supervising process died"),
            Exit::StartFailed(why) => write!(f, "could not start: {why}"),
        }
    }
}

struct Megabytes(u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        if self.0.is_multiple_of(MIB) || self.0 >= 10 * MIB {
            write!(f, "{} MB", self.0 / MIB)
        } else {
            write!(f, "{} KB", self.0 / 1024)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_plainly() {
        assert_eq!(
            Exit::OutOfMemory { limit_bytes: 256 << 20 }.to_string(),
            "killed: out of memory (limit 256 MB)"
        );
        assert_eq!(Exit::Signal { number: 15 }.to_string(), "killed by SIGTERM");
        assert_eq!(Exit::Code(3).to_string(), "exited with status 3");
        assert_eq!(Exit::Signal { number: 9 }.code(), 137);
    }

    #[test]
    fn signals_are_read_as_images_write_them() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGQUIT", 3), ("SIGRTMIN+3", 37), ("SIGWINCH", 28)]
        {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "SIGNOPE", "SIGRTMIN+99", "SIGRTMIN-1"] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }
}
