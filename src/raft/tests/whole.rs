//! Open, propose, restart: what a node does with its store.

use super::super::open::open_store;
use super::super::{Closed, Config, Error, ProposeError, open, snapshot};
use super::support::{app_key, deploy};
use crate::model::command::{Action, Rejection, Reply};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    store.propose("test", Action::InitCluster { cluster_id: 7 }).await.expect("the cluster is made");
    for n in 0..20 {
        store.propose("test", deploy(&format!("app-{}", n % 3), n, 40_000)).await.expect("deployed");
    }
    assert!(store.metrics().is_leader);
    let before = store.read().await.expect("linearizable");
    store.shutdown().await;
    let again = open(Config::new(dir.path())).await.expect("the same store");
    assert_eq!(again.view().state, before.state);
    assert_eq!(again.view().events.iter().count(), before.events.iter().count());
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_the_same_folder_is_told_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    let second = open(Config::new(dir.path())).await;
    assert!(matches!(second, Err(Error::Locked { .. })));
    store.shutdown().await;
    open(Config::new(dir.path())).await.expect("free again").shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_and_commands_that_are_too_large_change_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    let gone = Action::RemoveApp { app: super::support::app_key("gone") };
    let refused = store.propose("test", gone).await;
    assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::NotFound(_)))), "{refused:?}");
    let before = store.view().state;
    let refused = store.propose("test", deploy("big", 1, 2 << 20)).await;
    assert!(
        matches!(refused, Err(ProposeError::TooLarge { size_bytes, .. }) if size_bytes > 2 << 20),
        "{refused:?}"
    );
    assert_eq!(store.view().state, before);
    let other = store.clone();
    store.shutdown().await;
    assert_eq!(other.propose("test", deploy("late", 1, 1)).await, Err(ProposeError::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_every_change_and_then_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    let mut watcher = store.subscribe();
    watcher.changed().await.expect("at once");
    let mut seen = BTreeSet::new();
    let proposals = (0..50u64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.propose("test", deploy(&format!("app-{n}"), n, 10)).await })
    });
    for proposal in proposals.collect::<Vec<_>>() {
        proposal.await.expect("no panic").expect("deployed");
    }
    // All 50 are acknowledged, so the view that a watcher gets now has them all.
    while seen.len() < 50 {
        let (view, touched) = watcher.changed().await.expect("open");
        assert!(touched.apps.iter().all(|app| view.state.app(app).is_some()));
        seen.extend(touched.apps);
    }
    let last = store.subscribe().changed().await.expect("at once").1;
    assert_eq!(last.apps, seen);
    store.shutdown().await;
    assert!(matches!(watcher.changed().await, Err(Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proposed_a_change_finds_it_in_the_view() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    let leadership = *store.leadership().borrow();
    for n in 0..30 {
        let reply = store.propose("test", deploy("shop", n, 1)).await.expect("deployed");
        let Reply::Deployed { release, .. } = reply else { panic!("{reply:?}") };
        let view = store.view();
        assert_eq!(view.state.app(&app_key("shop")).and_then(|app| app.target), Some(release));
    }
    assert!(leadership.is_leader && leadership.term > 0, "{leadership:?}");
    let mut watch = store.leadership();
    store.shutdown().await;
    watch.wait_for(|now| !now.is_leader).await.expect("who has stopped does not lead");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_purged_and_its_files_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = Config { snapshot_every_entries: 10, segment_bytes: 1 << 20, ..Config::new(dir.path()) };
    let store = open(config.clone()).await.expect("a new store");
    for n in 0..60u64 {
        let payload_bytes = if n % 10 == 9 { 1 << 20 } else { 10 };
        store.propose("test", deploy("shop", n, payload_bytes)).await.expect("deployed");
        if n % 10 == 0 {
            store.propose("test", Action::RemoveApp { app: app_key("shop") }).await.expect("removed");
        }
        let gone =
            |view: &super::super::View| view.state.app(&app_key("shop")).is_none_or(|app| !app.removing);
        if !gone(&store.view()) {
            let forget = crate::model::command::ChangeKind::ForgetApp { app: app_key("shop") };
            let changes = vec![crate::model::command::Change { expects: Vec::new(), kind: forget }];
            store.propose("test", Action::Apply { term: 1, changes }).await.expect("forgotten");
        }
    }
    let mut watcher = store.subscribe();
    while store.metrics().purged_index.is_none() {
        // Purging follows the snapshot; each further write gives it a moment.
        store.propose("test", deploy("shop", 1000, 1)).await.expect("deployed");
        watcher.changed().await.expect("open");
    }
    let before = store.view().state;
    store.shutdown().await;
    let files = std::fs::read_dir(dir.path().join("log")).expect("the log's folder");
    let bytes: u64 = files.map(|file| file.expect("a file").metadata().expect("there").len()).sum();
    assert!(bytes < 6 << 20, "{bytes} bytes are left of six large commands and their purge");
    let store = open(config).await.expect("the same store");
    assert_eq!(store.view().state, before);
    store.shutdown().await;
}

/// On a full disk these would be what keeps it full.
#[test]
fn a_snapshot_that_was_not_finished_goes_at_once_or_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let snapshots = dir.path().join("snapshots");
    // It can't take its place.
    std::fs::create_dir_all(snapshots.join("empty.snapshot")).expect("made");
    snapshot::write(&snapshots, &snapshot::Applied::default()).expect_err("no room for it");
    let left = || std::fs::read_dir(&snapshots).expect("read").count();
    assert_eq!(left(), 1);
    std::fs::remove_dir(snapshots.join("empty.snapshot")).expect("removed");
    std::fs::write(snapshots.join("1.snapshot.new"), "half of o").expect("written");
    open_store(&Config::new(dir.path())).map(drop).expect("a new store");
    assert_eq!(left(), 0);
}
