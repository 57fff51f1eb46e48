//! Runs the binary and compares what it said with a file.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// What one run said.
pub struct Run {
    pub command: String,
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

/// The binary, in a folder and an environment of the test's own.
pub fn nodectl(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodectl"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder.join("data"));
    command.stdin(Stdio::null());
    command
}

impl Run {
    pub fn of(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        Self::of_child(&command, child)
    }

    /// What a started run says to its end; killed if that does not come.
    pub fn of_child(command: &Command, child: Child) -> Self {
        let pid = Pid::from_raw(child.id() as i32);
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if end.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
                kill(pid, Signal::SIGKILL).expect("killed");
            }
        });
        let output = child.wait_with_output().expect("it ends");
        drop(ended);
        watchdog.join().expect("no panic");
        Self::from_output(command, output)
    }

    fn from_output(command: &Command, output: Output) -> Self {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        Self {
            command: args.join(" "),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
            code: output.status.code(),
        }
    }

    /// Compares with `golden/NAME.txt`. `hide` are texts of this run only, with what stands in.
    pub fn matches(&self, name: &str, hide: &[(&str, &str)]) {
        let code = self.code.map_or("by a signal".to_owned(), |code| code.to_string());
        let mut text = format!("$ nodectl {}\n{}", self.command, self.stdout);
        text.push_str(&format!("--- stderr\n{}--- exit {code}\n", self.stderr));
        for (from, to) in hide {
            text = text.replace(from, to);
        }
        let text = hide_recent_times(&text);
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(format!("{name}.txt"));
        if std::env::var_os("NODECTL_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("the golden file can be written");
            return;
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            panic!("no golden file {name}.txt: run with NODECTL_UPDATE_GOLDEN=1 and read it")
        });
        assert_eq!(text, expected, "{name}.txt differs");
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Standard output as JSON documents, one a line.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Fixtures are minutes old, so that ages are stable; the instants themselves are not.
fn hide_recent_times(text: &str) -> String {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |window: &[u8]| {
        window.len() == SHAPE.len()
            && window.iter().zip(SHAPE).all(|(c, s)| if *s == b'd' { c.is_ascii_digit() } else { c == s })
    };
    let bytes = text.as_bytes();
    let mut result = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + SHAPE.len()).min(bytes.len());
        // Fixed instants of the fixtures are all of 2001.
        if fits(&bytes[at..end]) && !bytes[at..].starts_with(b"2001-") {
            result.extend_from_slice(b"RECENT");
            at = end;
        } else {
            result.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(result).expect("still UTF-8")
}
