//! Kills a process that writes to the store, again and again: what it acknowledged is there
//! when it starts anew. 64 proposers, 1 byte to 1 MiB.

mod store_writer;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use store_writer::Witness;

const DIR: &str = "NODECTL_TEST_STORE_DIR";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// Not a test of its own: what the test below starts, by this name.
#[test]
fn writer_that_is_killed() {
    if let Some(dir) = std::env::var_os(DIR) {
        store_writer::run(Path::new(&dir), 64);
    }
}

/// Killed when the test ends, however it ends.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> (Writer, Receiver<String>) {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["--exact", "writer_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the writer starts");
    let out = child.stdout.take().expect("a pipe");
    let (lines, heard) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines() {
            let Ok(line) = line else { break };
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    (Writer(child), heard)
}

/// Listens until `until`, or until the writer has nothing more to say.
fn listen(
    witness: &mut Witness,
    heard: &Receiver<String>,
    until: impl Fn(&Witness) -> bool,
    deadline: Instant,
) {
    while !until(witness) {
        match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => witness.hears(&line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    let rounds = number("NODECTL_KILL_ROUNDS", 40);
    let dir = tempfile::tempdir().expect("a folder");
    let mut witness = Witness::default();
    let mut seed = number("NODECTL_SEED", 0x2545_f491_4f6c_dd1d);
    for round in 0..rounds {
        let (mut writer, heard) = start(dir.path());
        witness.new_life();
        listen(&mut witness, &heard, |w| w.writing, Instant::now() + Duration::from_secs(60));
        assert!(witness.writing || !witness.trouble.is_empty(), "round {round}: the writer did not start");
        // Anything from a start that wrote nothing to some thousand writes.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let life = Duration::from_millis(seed % 300);
        listen(&mut witness, &heard, |_| false, Instant::now() + life);
        writer.0.kill().expect("kill -9");
        writer.0.wait().expect("gone");
        listen(&mut witness, &heard, |_| false, Instant::now() + Duration::from_secs(10));
        assert!(witness.trouble.is_empty(), "round {round} (seed {seed:#x}): {:#?}", witness.trouble);
    }
    eprintln!("{rounds} kills, {} acknowledged writes, none lost", witness.acknowledged());
    assert!(witness.acknowledged() > rounds, "hardly anything was written");
}
