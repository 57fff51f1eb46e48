//! Who follows is not disturbed by a node that dies and comes back.

use crate::harness::*;
use crate::image;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A verb that goes on; what it says goes to a file.
struct Following {
    child: Child,
    said: PathBuf,
}

impl Following {
    fn start(node: &Node, name: &str, args: &[&str]) -> Following {
        let said = node.data.parent().unwrap().join(name);
        let file = std::fs::File::create(&said).unwrap();
        let child =
            node.command(args).stdin(Stdio::null()).stdout(file).stderr(Stdio::null()).spawn().unwrap();
        Following { child, said }
    }

    /// The whole lines so far.
    fn lines(&self) -> Vec<String> {
        read_lines(&self.said)
    }

    fn wait_until(&self, what: &str, check: impl Fn(&[String]) -> bool) {
        wait_for(what, 30, || {
            let lines = self.lines();
            if check(&lines) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

#[test]
fn who_follows_logs_and_events_loses_and_repeats_nothing_over_a_kill_9_of_the_node() {
    on_own_network(|| {
        let mut node = Node::start();
        let talk =
            "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done & exec httpd -f -p 8080 -h /www";
        let archive = image::busybox(node.data.parent().unwrap(), "talk:1", &["sh", "-c", talk]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        node.ok(&["deploy", "--image", "talk:1", "--name", "talk"]);
        let logs = Following::start(&node, "logs", &["logs", "-f", "talk"]);
        let events = Following::start(&node, "events", &["events", "-f", "-A", "-o", "json"]);
        for _ in 0..2 {
            let seen = logs.lines().len();
            logs.wait_until("lines", |lines| lines.len() > seen + 10);
            node.kill();
            // What is written while nobody listens comes too.
            let file = log_file(&node.data);
            let size = std::fs::metadata(&file).unwrap().len();
            wait_for("lines while the node is away", 30, || match std::fs::metadata(&file).unwrap().len() {
                now if now > size + 400 => Ok(()),
                now => Err(now.to_string()),
            });
            node.start_again(&[]);
            let seen = logs.lines().len();
            logs.wait_until("more lines", |lines| lines.len() > seen + 20);
        }
        for (number, line) in logs.lines().iter().enumerate() {
            assert!(line.ends_with(&format!("line {number}")), "{number}: {line}");
        }
        node.ok(&["restart", "talk"]);
        let key = |line: &String| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            (event["index"].as_u64().unwrap(), event["sub"].as_u64().unwrap())
        };
        events.wait_until("the restart", |lines| lines.iter().any(|line| line.contains("\"restarted\"")));
        let told: Vec<_> = events.lines().iter().map(key).collect();
        assert!(told.is_sorted_by(|a, b| a < b), "in order, each once: {told:?}");
        let all = node.ok(&["events", "-A", "-o", "json"]);
        let all: BTreeSet<_> = all.lines().map(|line| key(&line.to_owned())).collect();
        let last = *told.last().unwrap();
        // The ring of events begins anew with the process: what it has is what must have been told.
        for event in all.range(..=last) {
            assert!(told.contains(event), "{event:?} was not told");
        }
    });
}

/// The only log there is.
fn log_file(data: &Path) -> PathBuf {
    let folder = data.join("logs/talk/web/1");
    std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).next().unwrap()
}
