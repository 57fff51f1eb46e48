//! Exec: pipes, exit status, signals, and a true terminal.

use crate::fixtures::NODE_ID;
use crate::golden::Run;
use crate::node::{Node, eventually};
use crate::terminal::{Session, size};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodectl::proto::v1::exec_input::Input;
use nodectl::proto::v1::exec_output::Output;
use nodectl::proto::v1::*;
use rustix::termios::tcsetwinsize;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

/// A few programs as an instance might hold them.
pub async fn play(start: ExecStart, mut input: Streaming<ExecInput>, to: Sender<Result<ExecOutput, Status>>) {
    let send = async |output| {
        _ = to.send(Ok(ExecOutput { output: Some(output) })).await;
    };
    let out = async |text: String| send(Output::Stdout(text.into())).await;
    if let Some(size) = &start.size {
        out(format!("size {}x{}\r\n", size.columns, size.rows)).await;
    }
    match start.command[0].as_str() {
        "both" => {
            out("to stdout\n".into()).await;
            send(Output::Stderr("to stderr\n".into())).await;
            return send(Output::ExitStatus(7)).await;
        }
        "cut" => return,
        "missing" => {
            let mut status = Status::failed_precondition("shop/web.1 has no command `missing`");
            status.metadata_mut().insert(nodectl::proto::EXIT_STATUS_KEY, 127.into());
            _ = to.send(Err(status)).await;
            return;
        }
        _ => out("up\r\n".into()).await,
    }
    while let Ok(Some(ExecInput { input: Some(input) })) = input.message().await {
        match input {
            Input::Stdin(data) if start.terminal => {
                for byte in &data {
                    out(format!("key {byte:02x}\r\n")).await;
                }
                if data.contains(&b'q') {
                    return send(Output::ExitStatus(5)).await;
                }
            }
            Input::Stdin(data) => send(Output::Stdout(data)).await,
            Input::Eof(_) if start.command[0] == "cat" => return send(Output::ExitStatus(0)).await,
            Input::Eof(_) => out("eof\n".into()).await,
            Input::Resize(size) => out(format!("size {}x{}\r\n", size.columns, size.rows)).await,
            Input::Signal(number) => return send(Output::ExitStatus(128 + number)).await,
            Input::Start(_) => {}
        }
    }
}

fn started(node: &Node) -> ExecStart {
    node.scripts.exec.lock().expect("no panic").last().expect("an exec").clone()
}

#[test]
fn both_outputs_and_the_exit_status_are_handed_through() {
    let node = Node::start();
    node.run(&["exec", "shop/web.1", "both", "-l", "--", "-x"]).matches("exec-both", &[]);
    let start = started(&node);
    assert_eq!(start.command, ["both", "-l", "--", "-x"]);
    assert!(!start.terminal && start.size.is_none());
}

#[test]
fn flags_before_the_target_are_ours_and_a_double_dash_may_stand_before_the_command() {
    let node = Node::start();
    let mut command = node.command(&[
        "exec",
        "-u",
        "app:www",
        "-w",
        "/srv",
        "-e",
        "A=1",
        "-e",
        "FROM_HERE",
        "shop",
        "--",
        "both",
        "-e",
    ]);
    command.env("FROM_HERE", NODE_ID);
    assert_eq!(Run::of(command).code, Some(7));
    let start = started(&node);
    assert_eq!(
        (start.user.as_str(), start.working_dir.as_str(), start.target.as_str()),
        ("app:www", "/srv", "shop")
    );
    assert_eq!(start.command, ["both", "-e"]);
    assert_eq!(
        start.env.into_iter().collect::<Vec<_>>(),
        [("A".into(), "1".into()), ("FROM_HERE".into(), NODE_ID.into())]
    );
}

#[test]
fn standard_input_flows_through_to_its_end() {
    let node = Node::start();
    let mut command = node.command(&["exec", "-i", "shop", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut stdin = child.stdin.take().expect("piped");
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).expect("written"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.strip_prefix(b"up\r\n") == Some(&data), "the bytes came back as they went");
}

#[test]
fn without_i_the_command_has_no_input() {
    let node = Node::start();
    let mut command = node.command(&["exec", "shop", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    // Standard input stays open: it must not be waited for.
    let stdin = child.stdin.take();
    let status = eventually("the end", || child.try_wait().expect("waited"));
    drop(stdin);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_as_a_pipe_would() {
    let node = Node::start();
    let mut command = node.command(&["exec", "-i", "shop", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("piped");
    let status = eventually("the end", || {
        // Each is answered, and the first answer that nobody can read is the end.
        _ = stdin.write_all(b"more");
        child.try_wait().expect("waited")
    });
    assert_eq!(status.code(), Some(141));
}

#[test]
fn a_signal_reaches_the_command_and_its_status_comes_back() {
    let node = Node::start();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1] {
        let mut command = node.command(&["exec", "shop", "wait"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        assert_eq!(line, "up\r\n");
        kill(Pid::from_raw(child.id() as i32), signal).expect("signalled");
        assert_eq!(child.wait().expect("it ends").code(), Some(128 + signal as i32));
    }
}

#[test]
fn what_goes_wrong_is_told() {
    let node = Node::start();
    node.run(&["exec", "shop", "missing"]).matches("exec-missing", &[]);
    node.run(&["exec", "shop", "cut"]).matches("exec-cut", &[]);
    node.run(&["exec", "-it", "shop", "sh"]).matches("exec-no-terminal", &[]);
    node.run(&["exec", "-e", "NO_SUCH_VARIABLE", "shop", "sh"]).matches("exec-no-variable", &[]);
}

#[test]
fn a_terminal_is_raw_is_resized_takes_ctrl_c_as_a_key_and_is_left_as_it_was() {
    let node = Node::start();
    let mut session = Session::start(&node, &["exec", "-it", "shop/web.1", "sh"]);
    assert_eq!(session.line(), "size 80x24");
    assert_eq!(session.line(), "up");
    assert!(session.is_raw());
    session.press(b"\x03");
    assert_eq!(session.line(), "key 03");
    tcsetwinsize(&session.near, size(132, 50)).expect("sized");
    // The terminal is not this program's controlling one, so the kernel does not tell it.
    kill(Pid::from_raw(session.child.id() as i32), Signal::SIGWINCH).expect("signalled");
    assert_eq!(session.line(), "size 132x50");
    session.press(b"q");
    assert_eq!(session.line(), "key 71");
    assert_eq!(session.end(), Some(5));
    assert!(!session.is_raw());
    assert!(started(&node).terminal);
}

#[test]
fn the_terminal_is_restored_when_the_node_goes_away_or_the_client_is_asked_to_end() {
    let mut node = Node::start();
    let mut session = Session::start(&node, &["exec", "-it", "shop/web.1", "sh"]);
    assert_eq!([session.line(), session.line()], ["size 80x24", "up"]);
    assert!(session.is_raw());
    kill(Pid::from_raw(session.child.id() as i32), Signal::SIGTERM).expect("signalled");
    assert_eq!(session.end(), Some(143));
    assert!(!session.is_raw());

    let mut session = Session::start(&node, &["exec", "-it", "shop/web.1", "sh"]);
    assert_eq!([session.line(), session.line()], ["size 80x24", "up"]);
    node.crash();
    assert_eq!(session.end(), Some(1));
    assert!(!session.is_raw());
    let said = session.rest();
    assert!(said.contains("the connection to the node was lost"), "{said}");
}

#[test]
fn while_it_is_stopped_the_terminal_is_lent_back() {
    let node = Node::start();
    let mut session = Session::start(&node, &["exec", "-it", "shop/web.1", "sh"]);
    assert_eq!([session.line(), session.line()], ["size 80x24", "up"]);
    let pid = Pid::from_raw(session.child.id() as i32);
    kill(pid, Signal::SIGTSTP).expect("signalled");
    eventually("the terminal as it was", || (!session.is_raw()).then_some(()));
    tcsetwinsize(&session.near, size(100, 30)).expect("sized");
    kill(pid, Signal::SIGCONT).expect("signalled");
    assert_eq!(session.line(), "size 100x30");
    assert!(session.is_raw());
    session.press(b"q");
    assert_eq!(session.line(), "key 71");
    assert_eq!(session.end(), Some(5));
}
