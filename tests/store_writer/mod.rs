//! A program that writes to the store until it is killed, and says what was acknowledged; and
//! the check of what it says. Shared by the tests that kill a process and those that cut a
//! machine's power.
//!
//! Each proposer counts up, and waits for each write before the next. The write k of proposer
//! p is an image named `p-(k mod 256)` that carries k and bytes that only (p, k) give, most of
//! them few, one in 64 up to a megabyte. So the state holds the last 256 writes of each
//! proposer: one that is missing in between is seen.

use nodectl::model::ClusterState;
use nodectl::model::command::{Action, ImageRecord};
use nodectl::model::ids::{Digest, TenantName};
use nodectl::model::time::Timestamp;
use nodectl::raft::{Config, Handle, open};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Writes of each proposer that stay in the state.
const KEPT: u64 = 256;
/// The same for those that are large: the state must fit into a small machine's memory.
const LARGE_KEPT: u64 = 2;

fn mix(p: u64, k: u64) -> u64 {
    let mut x = p.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ k.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 31;
    x.wrapping_mul(0x94d0_49bb_1331_11eb) ^ (x >> 29)
}

fn is_large(k: u64) -> bool {
    k.is_multiple_of(64)
}

/// 1 byte to 1 MiB, each size as likely as one twice as large.
fn payload(p: u64, k: u64) -> String {
    let r = mix(p, k);
    let most_bits = if is_large(k) { 20 } else { 9 };
    let bits = r % (most_bits + 1);
    let length = (1 + (r >> 8) % (1 << bits)) as usize;
    format!("{r:016x}").repeat(length / 16 + 1)[..length].to_owned()
}

fn name(p: u64, k: u64) -> String {
    if is_large(k) { format!("{p}-large-{}", k / 64 % LARGE_KEPT) } else { format!("{p}-{}", k % KEPT) }
}

fn write_of(p: u64, k: u64) -> Action {
    Action::SetImage {
        tenant: TenantName::default_tenant(),
        name: name(p, k),
        image: ImageRecord {
            digest: Digest::new(&format!("sha256:{:064x}", mix(p, k))).expect("64 digits"),
            size_bytes: k,
            platform: payload(p, k),
            loaded_at: Timestamp::default(),
        },
    }
}

/// The last write of each proposer, after checking that the writes before it are all there and
/// are what was written.
fn found(state: &ClusterState) -> Result<BTreeMap<u64, u64>, String> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for ((_, name), image) in &state.images {
        let p = name.split('-').next().and_then(|p| p.parse().ok()).ok_or("a name that nobody wrote")?;
        let newest = last.entry(p).or_default();
        *newest = (*newest).max(image.size_bytes);
    }
    for (p, newest) in &last {
        let oldest_large = newest.saturating_sub(64 * LARGE_KEPT - 1);
        for k in newest.saturating_sub(KEPT - 65).max(1)..=*newest {
            if is_large(k) && k < oldest_large {
                continue;
            }
            let image = state.images.get(&(TenantName::default_tenant(), name(*p, k)));
            match image {
                None => return Err(format!("write {k} of {p} is missing, and {newest} is there")),
                Some(image) if image.size_bytes != k => {
                    return Err(format!("in place of write {k} of {p} is {}", image.size_bytes));
                }
                Some(image) if image.platform != payload(*p, k) => {
                    return Err(format!("write {k} of {p} came back different"));
                }
                Some(_) => {}
            }
        }
    }
    Ok(last)
}

fn say(line: &str) {
    // One write: what the killed process had not said was not said.
    let _ = std::io::stdout().write_all(format!("\n{line}\n").as_bytes());
    let _ = std::io::stdout().flush();
}

fn numbers(counts: impl Iterator<Item = (u64, u64)>) -> String {
    counts.fold(String::new(), |mut text, (p, k)| {
        let _ = write!(text, " {p}={k}");
        text
    })
}

/// Writes until it is killed. Says `FOUND p=k …` or `BAD why`, then `ACK p=k …` again and again.
pub fn run(dir: &Path, proposers: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome =
        runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(write(dir, proposers)));
    if let Err(why) = outcome {
        say(&format!("BAD {why}"));
    }
}

async fn write(dir: &Path, proposers: u64) -> Result<(), String> {
    say("OPENING");
    let mut config = Config::new(dir);
    // Often, so that many cuts fall into a snapshot or a purge.
    config.snapshot_every_entries = 150;
    config.snapshot_every_bytes = 4 << 20;
    let store = open(config).await.map_err(|e| {
        let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{e}{cause}").replace('\n', " ")
    })?;
    say("OPEN");
    let last = found(&store.view().state)?;
    say(&format!("FOUND{}", numbers(last.clone().into_iter())));
    let acked: Arc<Vec<AtomicU64>> = Arc::new((0..proposers).map(|_| AtomicU64::new(0)).collect());
    for p in 0..proposers {
        tokio::spawn(propose(store.clone(), p, last.get(&p).copied().unwrap_or(0), acked.clone()));
    }
    let mut said: Vec<u64> = vec![0; acked.len()];
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut news = Vec::new();
        for (p, said) in said.iter_mut().enumerate() {
            let k = acked[p].load(Ordering::Acquire);
            if k > *said {
                *said = k;
                news.push((p as u64, k));
            }
        }
        if !news.is_empty() {
            say(&format!("ACK{}", numbers(news.into_iter())));
        }
        if let Some(failure) = store.metrics().failure {
            return Err(failure);
        }
    }
}

async fn propose(store: Handle, p: u64, from: u64, acked: Arc<Vec<AtomicU64>>) {
    for k in from + 1.. {
        if let Err(e) = store.propose("writer", write_of(p, k)).await {
            return say(&format!("BAD write {k} of {p}: {e}"));
        }
        acked[p as usize].store(k, Ordering::Release);
    }
}

/// What the writer has said over all its lives.
#[derive(Default)]
pub struct Witness {
    acked: BTreeMap<u64, u64>,
    /// The writer has found everything and writes again.
    pub writing: bool,
    pub trouble: Vec<String>,
    /// The last that was heard, for a failure's report.
    pub tail: VecDeque<String>,
}

impl Witness {
    pub fn acknowledged(&self) -> u64 {
        self.acked.values().sum()
    }

    pub fn new_life(&mut self) {
        self.writing = false;
        self.tail.clear();
    }

    pub fn hears(&mut self, line: &str) {
        let line = line.trim();
        if self.tail.len() == 20 {
            self.tail.pop_front();
        }
        self.tail.extend((!line.is_empty()).then(|| line.to_owned()));
        if let Some(rest) = line.strip_prefix("FOUND") {
            let found = parse(rest);
            for (p, k) in &self.acked {
                let there = found.get(p).copied().unwrap_or(0);
                if there < *k {
                    self.trouble.push(format!("write {k} of {p} was acknowledged, and {there} is the last"));
                }
            }
            self.writing = true;
        } else if let Some(rest) = line.strip_prefix("ACK") {
            for (p, k) in parse(rest) {
                let newest = self.acked.entry(p).or_default();
                *newest = (*newest).max(k);
            }
        } else if line.starts_with("BAD") || line.contains("panicked") {
            self.trouble.push(line.to_owned());
        }
    }
}

fn parse(text: &str) -> BTreeMap<u64, u64> {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(p, k)| Some((p.parse().ok()?, k.parse().ok()?)))
        .collect()
}
