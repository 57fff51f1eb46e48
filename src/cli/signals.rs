//! The signals that `exec` is sent: most are handed to the command, some are about our own
//! terminal.

use super::output::{Tone, say};
use super::terminal::{self, RawMode};
use crate::proto::v1::ExecInput;
use crate::proto::v1::exec_input::Input;
use std::io;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

pub struct Signals {
    sources: Vec<(i32, Signal)>,
}

const FORWARDED: [i32; 6] =
    [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];
/// The window's size; and being stopped and continued, where the terminal must be lent back.
const OF_TERMINAL: [i32; 3] = [libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT];

/// After so many Ctrl-C the user wants out more than the command does.
const INTERRUPTS: u32 = 3;

impl Signals {
    /// # Errors
    /// The process has no room for more descriptors.
    pub fn listen(on_terminal: bool) -> io::Result<Self> {
        let more: &[i32] = if on_terminal { &OF_TERMINAL } else { &[] };
        let sources =
            FORWARDED.iter().chain(more).map(|&number| Ok((number, signal(SignalKind::from_raw(number))?)));
        Ok(Self { sources: sources.collect::<io::Result<_>>()? })
    }

    /// Hands signals on; returns only when it is time to leave, with the exit status.
    pub async fn forward(&mut self, sender: &mpsc::Sender<ExecInput>, raw: Option<&RawMode>) -> i32 {
        let mut interrupts = 0;
        loop {
            let number = self.next().await;
            match (number, raw) {
                (libc::SIGWINCH, _) => resize(sender),
                (libc::SIGTSTP, Some(raw)) => {
                    raw.suspend();
                    // What the signal would have done without us.
                    _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
                }
                (libc::SIGCONT, Some(raw)) => {
                    raw.resume();
                    resize(sender);
                }
                (libc::SIGUSR1 | libc::SIGUSR2, _) => _ = hand_on(sender, number),
                // In raw mode Ctrl-C is a key, so this came from elsewhere: asked to end, or the
                // terminal is gone. The command is told, and nobody is left to wait.
                (_, Some(_)) => {
                    hand_on(sender, number);
                    return 128 + number;
                }
                (_, None) => {
                    let sent = hand_on(sender, number);
                    interrupts += u32::from(number == libc::SIGINT);
                    if !sent || interrupts == INTERRUPTS {
                        say(Tone::Warn, "leaving; the command may still run");
                        return 128 + number;
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            let mut sources = self.sources.iter_mut();
            let came =
                sources.find_map(|(number, source)| source.poll_recv(context).is_ready().then_some(*number));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// False if the node takes no input any more. Never waits: what is stuck is what one wants to
/// interrupt.
fn hand_on(sender: &mpsc::Sender<ExecInput>, number: i32) -> bool {
    sender.try_send(ExecInput { input: Some(Input::Signal(number)) }).is_ok()
}

/// Waits for room beside everything else, and then tells the size of that moment.
fn resize(sender: &mpsc::Sender<ExecInput>) {
    let sender = sender.clone();
    tokio::spawn(async move {
        if let (Ok(room), Some(size)) = (sender.reserve().await, terminal::size()) {
            room.send(ExecInput { input: Some(Input::Resize(size)) });
        }
    });
}
