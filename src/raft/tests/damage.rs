//! A store whose bytes have changed: it opens with everything that was acknowledged, or says
//! that it is damaged. Nothing in between, and no panic.

use super::super::open::open_store;
use super::super::types::open_entry;
use super::super::{Config, Error, open};
use super::support::deploy;
use crate::model::ClusterState;
use crate::model::command::Action;
use openraft::EntryPayload;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn config(dir: &Path) -> Config {
    Config { snapshot_every_entries: 60, segment_bytes: 128 << 10, ..Config::new(dir) }
}

/// A store with two snapshots, a purged log, entries of one byte to some chunks; and the state
/// that everything acknowledged adds up to.
async fn real_store(dir: &Path) -> ClusterState {
    let store = open(config(dir)).await.expect("a new store");
    store.propose("test", Action::InitCluster { cluster_id: 7 }).await.expect("made");
    for n in 0..200u64 {
        let payload_bytes = [1, 100, 700, 9000][n as usize % 4];
        store.propose("test", deploy(&format!("app-{}", n % 5), n, payload_bytes)).await.expect("deployed");
    }
    let state = store.view().state;
    store.shutdown().await;
    state
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("inside"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        fs::copy(&file, &target).expect("copied");
    }
    fs::create_dir_all(to.join("names/blobs")).expect("made");
}

/// The state that a start would come to, without starting Raft.
fn state_at_start(dir: &Path) -> Result<ClusterState, Error> {
    let store = open_store(&config(dir))?;
    let mut state = store.recovered.applied.view.state.clone();
    let next = store.recovered.applied.last.map_or(0, |id| id.index + 1);
    let mut from = next;
    loop {
        let records = store.disk.entries(from..u64::MAX, 1 << 20).expect("checked before");
        let Some((last, _)) = records.last() else { return Ok(state) };
        from = last + 1;
        for (index, record) in &records {
            let entry = open_entry(*index, record).expect("checked before");
            if let EntryPayload::Normal(command) = entry.payload {
                state.apply(*index, &command.decode().expect("checked before"));
            }
        }
    }
}

/// A cheap generator: the offsets need to be spread, not random.
struct Spread(u64);

impl Spread {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below.max(1)
    }
}

fn rounds() -> u64 {
    std::env::var("NODECTL_DAMAGE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Damages one copy after another; counts what became of them.
fn damage_each(what: &str, source: &Path, whole: &ClusterState, damage: impl Fn(&Path, &mut Spread)) {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut spread = Spread(0x5eed);
    for round in 0..rounds() {
        let dir = tempfile::tempdir().expect("a folder");
        copy(source, dir.path());
        damage(dir.path(), &mut spread);
        let outcome = match state_at_start(dir.path()) {
            Ok(state) => {
                assert!(state == *whole, "{what}, round {round}: opened with another state");
                "whole".to_owned()
            }
            Err(e @ (Error::Damaged { .. } | Error::Newer { .. } | Error::Older { .. })) => {
                let text = e.to_string();
                let text = text.split_once("damaged:").map_or(text.clone(), |(_, why)| why.to_owned());
                text.chars().take(60).filter(|c| !c.is_ascii_digit()).collect()
            }
            Err(e) => panic!("{what}, round {round}: {e}: {:?}", std::error::Error::source(&e)),
        };
        *counts.entry(outcome).or_default() += 1;
    }
    eprintln!("{what}: {counts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_is_harmless_or_reported() {
    let source = tempfile::tempdir().expect("a folder");
    let whole = real_store(source.path()).await;
    assert_eq!(state_at_start(source.path()).expect("sound"), whole);
    for file in files(source.path()) {
        let name = file.strip_prefix(source.path()).expect("inside").to_owned();
        let length = fs::metadata(&file).expect("there").len();
        if length == 0 {
            continue;
        }
        damage_each(&format!("{} ({length} bytes)", name.display()), source.path(), &whole, |dir, spread| {
            let file = fs::File::options().read(true).write(true).open(dir.join(&name)).expect("there");
            let offset = spread.next(length);
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).expect("read");
            byte[0] ^= 1 << spread.next(8);
            file.write_all_at(&byte, offset).expect("written");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_missing_file_is_harmless_or_reported() {
    let source = tempfile::tempdir().expect("a folder");
    let whole = real_store(source.path()).await;
    for file in files(source.path()) {
        let name = file.strip_prefix(source.path()).expect("inside").to_owned();
        let length = fs::metadata(&file).expect("there").len();
        damage_each(&format!("{} cut", name.display()), source.path(), &whole, |dir, spread| {
            match spread.next(8) {
                0 => fs::remove_file(dir.join(&name)).expect("removed"),
                1 => fs::File::options()
                    .write(true)
                    .open(dir.join(&name))
                    .expect("there")
                    .set_len(0)
                    .expect("cut"),
                _ => {
                    let file = fs::File::options().write(true).open(dir.join(&name)).expect("there");
                    file.set_len(spread.next(length)).expect("cut");
                }
            }
        });
    }
}

/// The whole log is put back to an earlier day, which no checksum can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_acknowledged_entries_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let earlier = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    store.propose("test", deploy("shop", 1, 10)).await.expect("deployed");
    store.shutdown().await;
    copy(dir.path(), earlier.path());
    let store = open(Config::new(dir.path())).await.expect("the same store");
    store.propose("test", deploy("shop", 2, 10)).await.expect("deployed");
    store.shutdown().await;
    fs::remove_dir_all(dir.path().join("log")).expect("removed");
    copy(&earlier.path().join("log"), &dir.path().join("log"));
    let error = open_store(&Config::new(dir.path())).map(|_| ()).expect_err("an entry is missing");
    assert!(error.to_string().contains("had been written and acknowledged"), "{error}");
    fs::remove_dir_all(dir.path().join("log")).expect("removed");
    let error = open_store(&Config::new(dir.path())).map(|_| ()).expect_err("everything is missing");
    assert!(error.to_string().contains("the log is missing"), "{error}");
}

/// A supervisor starts a node again at once: the second start must not trust what the first did not.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_mark_is_reported_each_time_whatever_else_is_missing() {
    let source = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(source.path())).await.expect("a new store");
    store.propose("test", deploy("shop", 1, 10)).await.expect("deployed");
    store.shutdown().await;
    for gone in [&[][..], &["version"], &["log"], &["log", "names"]] {
        let dir = tempfile::tempdir().expect("a folder");
        copy(source.path(), dir.path());
        fs::remove_file(dir.path().join("mark")).expect("removed");
        for name in gone {
            let path = dir.path().join(name);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        }
        for start in 0..2 {
            let error = open_store(&Config::new(dir.path())).map(|_| ()).expect_err("no mark");
            assert!(error.to_string().contains("`mark` is missing"), "{gone:?}, start {start}: {error}");
        }
        let log = dir.path().join("log").exists();
        assert_eq!(log, !gone.contains(&"log"), "{gone:?}: a log was made in a damaged store");
    }
}

/// The log reaches back to the older of the two snapshots, so that one of them may be lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_older_snapshot_and_the_log_stand_in_for_a_damaged_newest() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = real_store(dir.path()).await;
    let mut snapshots = files(&dir.path().join("snapshots"));
    // A third, if the store was closed between the making of one and the removal of the oldest.
    assert!(snapshots.len() >= 2);
    let newest = snapshots.pop().expect("two");
    fs::write(&newest, "not a snapshot").expect("written");
    let store = open(config(dir.path())).await.expect("opened");
    assert_eq!(store.view().state, whole);
    store.shutdown().await;
    for older in &snapshots {
        fs::write(older, "not a snapshot").expect("written");
    }
    let error = open(config(dir.path())).await.map(|_| ()).expect_err("no snapshot is left");
    assert!(matches!(&error, Error::Damaged { what, .. } if what.contains("snapshot")), "{error}");
}
