//! Durable writes through the whole store: `cargo run --release --example store_bench DIR`.
//! Prints writes a second for 1, 64 and 256 proposers of commands of about 200 bytes, the file
//! sizes and the memory at the end. Run it by hand, on the disk in question.

use nodectl::model::command::Action;
use nodectl::model::ids::NodeId;
use nodectl::raft::{Config, Handle, open};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const EACH: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("which folder?"))?;
    let started = Instant::now();
    let store = open(Config::new(&dir)).await?;
    println!("open: {:?} at entry {}", started.elapsed(), store.metrics().applied_index);
    report_memory("idle");
    for proposers in [1, 64, 256] {
        run(&store, proposers).await;
    }
    println!("{:?}", store.metrics());
    tokio::time::sleep(Duration::from_secs(2)).await;
    report_memory("after");
    let started = Instant::now();
    store.shutdown().await;
    println!("shutdown: {:?}", started.elapsed());
    Ok(())
}

async fn run(store: &Handle, proposers: usize) {
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                while started.elapsed() < EACH {
                    // A label on a node that isn't there: the write is real, the state stays small.
                    let action = Action::LabelNode {
                        node: NodeId(1),
                        set: [("payload".to_owned(), "x".repeat(150))].into(),
                        remove: Vec::new(),
                    };
                    if let Err(e) = store.propose_outcome("bench", action).await {
                        eprintln!("{e}");
                        return;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    println!("{proposers:4} proposers: {rate:8.0} durable writes/s");
}

fn report_memory(when: &str) {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let pss = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or("Pss: ?").to_owned();
    println!("{when}: {pss}");
}
