//! The user's terminal in raw mode: entered once, and left again however the command ends.

use super::failure::Failure;
use crate::proto::v1::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, IsTerminal};

/// Raw mode on standard input, until dropped: also by a panic, since panics unwind here.
pub struct RawMode {
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// # Errors
    /// Standard input is no terminal.
    pub fn enter() -> anyhow::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Err(Failure::usage("-t with -i needs a terminal, and standard input is none")
                .hint("leave -t out to hand a file or a pipe to the command")
                .into());
        }
        let before = termios::tcgetattr(&stdin).map_err(io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead is for the command: kept.
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(io::Error::from)?;
        Ok(Self { before, raw })
    }

    /// Lends the terminal back, while this process is stopped.
    pub fn suspend(&self) {
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }

    pub fn resume(&self) {
        _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.raw);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Not waiting for output to drain: nobody may be left to read it.
        self.suspend();
    }
}

/// The size of the terminal that the command's output goes to; `None` without one.
pub fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdout()).or_else(|_| termios::tcgetwinsize(io::stdin())).ok()?;
    let known = size.ws_row > 0 && size.ws_col > 0;
    known.then(|| TerminalSize { rows: u32::from(size.ws_row), columns: u32::from(size.ws_col) })
}
