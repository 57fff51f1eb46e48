//! `nodectl exec`: a command inside an instance, with this process's input, output, terminal and
//! signals in its hands; its exit status becomes ours.
//!
//! ```text
//! stdin thread ─┐                                ┌─> stdout
//! signals ──────┼─> ExecInput ──node──> ExecOutput ─> stderr
//! resizes ──────┘                                └─> exit status
//! ```

use super::args::ExecArguments;
use super::client::Client;
use super::failure::{Failure, from_status, is_broken_pipe};
use super::output::{Tone, plain, say};
use super::signals::Signals;
use super::terminal::{self, RawMode};
use crate::proto::INSTANCE_KEY;
use crate::proto::v1::exec_input::Input;
use crate::proto::v1::exec_output::Output;
use crate::proto::v1::{ExecEof, ExecInput, ExecOutput, ExecStart};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Pieces of input on their way: enough to keep a pipe busy, few enough that a slow reader holds
/// its writer back.
const AHEAD: usize = 8;

pub async fn run(args: ExecArguments, client: Client) -> anyhow::Result<ExitCode> {
    let env = environment(&args.env)?;
    let mut instances = client.instances().await?;
    // Before raw mode, so that their errors are read on a terminal that works.
    let mut signals = Signals::listen(args.tty && args.interactive)?;
    let raw = if args.tty && args.interactive { Some(RawMode::enter()?) } else { None };

    let (sender, receiver) = mpsc::channel(AHEAD);
    let start = ExecStart {
        tenant: String::new(),
        target: args.target.to_string(),
        command: args.command,
        terminal: args.tty,
        size: if args.tty { terminal::size() } else { None },
        env,
        user: args.user.unwrap_or_default(),
        working_dir: args.workdir.unwrap_or_default(),
    };
    send(&sender, Input::Start(start)).await;
    if args.interactive {
        spawn_stdin(sender.clone());
    } else {
        send(&sender, Input::Eof(ExecEof {})).await;
    }
    let call = instances.exec(ReceiverStream::new(receiver));
    let status = async {
        let answer = call.await.map_err(from_status)?;
        if let Some(instance) = answer.metadata().get(INSTANCE_KEY).and_then(|name| name.to_str().ok()) {
            // A raw terminal goes to the start of a line only if told to.
            let end = if raw.is_some() { "\r" } else { "" };
            say(Tone::Dim, &format!("in {}{end}", plain(instance)));
        }
        copy_output(answer.into_inner()).await
    };
    let status = tokio::select! {
        status = status => status,
        code = signals.forward(&sender, raw.as_ref()) => Ok(code),
    };
    // The terminal is itself again before anything else is said on it.
    drop(raw);
    // `nodectl exec shop -- yes | head`: as if the command had written to that pipe itself, since
    // how it ended is not known.
    if status.as_ref().is_err_and(is_broken_pipe) {
        return Ok(ExitCode::from(128 + libc::SIGPIPE as u8));
    }
    // Exit statuses have eight bits, here as in the kernel.
    Ok(ExitCode::from((status? & 0xff) as u8))
}

async fn send(sender: &mpsc::Sender<ExecInput>, input: Input) {
    // A closed channel means that the call has ended: its own result says how.
    _ = sender.send(ExecInput { input: Some(input) }).await;
}

/// Reads standard input in a thread of its own: a read of a terminal cannot be cancelled, and
/// the process must end without it.
fn spawn_stdin(sender: mpsc::Sender<ExecInput>) {
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let input = match stdin.read(&mut buffer) {
                Ok(0) => Input::Eof(ExecEof {}),
                Ok(count) => Input::Stdin(bytes::Bytes::copy_from_slice(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // As for a terminal that was closed: there is no more to come.
                Err(_) => Input::Eof(ExecEof {}),
            };
            let is_last = matches!(input, Input::Eof(_));
            if sender.blocking_send(ExecInput { input: Some(input) }).is_err() || is_last {
                return;
            }
        }
    });
}

/// Writes what the command writes and returns its exit status.
async fn copy_output(mut stream: Streaming<ExecOutput>) -> anyhow::Result<i32> {
    while let Some(message) = stream.message().await.map_err(from_status)? {
        match message.output {
            Some(Output::Stdout(data)) => write(&mut io::stdout().lock(), &data)?,
            Some(Output::Stderr(data)) => write(&mut io::stderr().lock(), &data)?,
            Some(Output::ExitStatus(status)) => return Ok(status),
            None => {}
        }
    }
    Err(Failure::new("the node ended the session without the command's exit status").into())
}

fn write(to: &mut dyn Write, data: &[u8]) -> io::Result<()> {
    to.write_all(data)?;
    to.flush()
}

/// `K=V`, and `K` for the value that it has here.
fn environment(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut env = BTreeMap::new();
    for pair in pairs {
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match std::env::var(pair) {
                Ok(value) => (pair.as_str(), value),
                Err(_) => {
                    return Err(Failure::usage(format!("-e {pair}: there is no such variable here"))
                        .hint("give its value: -e NAME=VALUE"));
                }
            },
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("-e {pair}: the variable has no name")));
        }
        env.insert(name.to_owned(), value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_taken_from_here() {
        let pairs = ["A=1".to_owned(), "B=x=y".to_owned(), "PATH".to_owned()];
        let env = environment(&pairs).expect("an environment");
        assert_eq!((env["A"].as_str(), env["B"].as_str()), ("1", "x=y"));
        assert_eq!(env["PATH"], std::env::var("PATH").expect("a path"));
        assert_eq!(environment(&["=x".to_owned()]).expect_err("no name").code, 2);
        assert_eq!(environment(&["NO_SUCH_VARIABLE_HERE".to_owned()]).expect_err("unset").code, 2);
    }
}
