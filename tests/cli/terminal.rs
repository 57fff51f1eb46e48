//! A terminal with the binary at its far end, and what is drawn only there.

use crate::fixtures::*;
use crate::node::{Node, Step, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nodectl::proto::v1::*;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

/// Both ends of a terminal with the binary at the far one.
pub struct Session {
    pub near: File,
    far: Option<OwnedFd>,
    pub child: std::process::Child,
}

impl Session {
    pub fn start(node: &Node, args: &[&str]) -> Self {
        Self::run(node.command(args), size(80, 24))
    }

    pub fn run(mut command: Command, window: Winsize) -> Self {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let far = || Stdio::from(pty.slave.try_clone().expect("duplicated"));
        let near = File::from(pty.master);
        tcsetwinsize(&near, window).expect("sized");
        let child =
            command.stdin(far()).stdout(far()).stderr(far()).env("TERM", "xterm").spawn().expect("it runs");
        Self { near, far: Some(pty.slave), child }
    }

    /// The next byte of the screen; `None` when the program has ended and all was read.
    fn next(&mut self) -> Option<u8> {
        let mut ready = [PollFd::new(self.near.as_fd(), PollFlags::POLLIN)];
        let count = poll(&mut ready, PollTimeout::from(20_000_u16)).expect("polled");
        assert!(count > 0, "nothing came to the screen");
        let mut byte = [0];
        // Without a far end, a terminal ends with an error instead of an end.
        matches!(self.near.read(&mut byte), Ok(1)).then_some(byte[0])
    }

    pub fn line(&mut self) -> String {
        let bytes = std::iter::from_fn(|| self.next().filter(|&byte| byte != b'\n'));
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).trim_end().to_owned()
    }

    /// Reads until the text was on the screen.
    fn until(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(wanted.as_bytes()) {
            seen.push(self.next().unwrap_or_else(|| panic!("{wanted:?} never came")));
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    pub fn end(&mut self) -> Option<i32> {
        eventually("the end", || self.child.try_wait().expect("waited")).code()
    }

    /// What is on the screen after all that was read, once the program has ended.
    pub fn rest(&mut self) -> String {
        self.far = None;
        let rest: Vec<u8> = std::iter::from_fn(|| self.next()).collect();
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub fn press(&mut self, keys: &[u8]) {
        self.near.write_all(keys).expect("pressed");
    }

    /// Whether keys go to the program one by one and uninterpreted.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(self.far.as_ref().expect("not at its end")).expect("a terminal").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn screen_of(node: &Node, args: &[&str], columns: u16, no_color: bool) -> String {
    let mut command = node.command(args);
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let mut session = Session::run(command, size(columns, 24));
    session.rest()
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let node = Node::start();
    node.scripts.status.answer(troubled());
    let screen = screen_of(&node, &["status", "shop"], 100, false);
    assert!(screen.contains("\x1b[31mbackoff\x1b[0m"), "{screen}");
    assert!(!screen_of(&node, &["status", "shop"], 100, true).contains('\x1b'));
    assert!(!node.run(&["status", "shop"]).stdout.contains('\x1b'));
}

#[test]
fn a_table_fits_the_terminal() {
    let node = Node::start();
    let mut observed = crashed();
    observed.message = "the program needs a database that it can reach under DATABASE_URL".into();
    node.scripts.status.answer(status_of(app(vec![instance(1, 3, observed)])));
    let screen = screen_of(&node, &["status", "shop"], 80, true);
    let table: Vec<_> = screen
        .lines()
        .skip_while(|line| !line.starts_with("INSTANCE"))
        .take_while(|line| !line.trim().is_empty())
        .collect();
    assert!(table.len() >= 4, "{screen}");
    assert!(table.iter().all(|line| line.trim_end().chars().count() <= 80), "{screen}");
}

#[test]
fn a_rollout_is_drawn_as_it_goes_and_wiped_at_its_end() {
    let node = Node::start();
    let rollout = |status: DeploymentStatus, observed| {
        Step::Send(DeploymentProgress {
            nodes: vec![crate::fixtures::node()],
            deployment: Some(deployment(status, Some(2), "")),
            instances: vec![instance(1, 3, observed)],
            waiting_for: "shop/web.1 to become ready".into(),
            over: status != DeploymentStatus::Running,
            index: 42,
        })
    };
    node.scripts.deploy.answer(DeployReply {
        app: "shop".into(),
        release: 3,
        deployment: 9,
        ..Default::default()
    });
    node.scripts.watch_deployment.reply(vec![rollout(DeploymentStatus::Running, starting()), Step::Hold]);
    node.scripts.watch_deployment.reply(vec![rollout(DeploymentStatus::Done, ready())]);
    let mut node = node;
    let mut session = Session::run(node.command(&["deploy", "--image", "shop"]), size(100, 24));
    for wanted in ["deploying", "to become ready", "web.1", "starting"] {
        session.until(wanted);
    }
    node.restart();
    let rest = session.rest();
    assert!(rest.contains("v3 serves"), "{rest}");
    assert_eq!(session.end(), Some(0));
}

#[test]
fn a_watched_status_is_drawn_over_the_last_one() {
    let node = Node::start();
    node.scripts.status.reply(vec![Step::Send(healthy()), Step::Send(troubled())]);
    let screen = screen_of(&node, &["status", "shop", "--watch"], 100, true);
    let last = screen.rsplit("\x1b[H\x1b[2J").next().expect("a last one");
    assert!(last.contains("degraded"), "{screen}");
}
