//! Open, propose, restart: what a node does with its store.

use super::super::{Config, Error, ProposeError, open};
use super::support::deploy;
use crate::model::command::{Action, Rejection};

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
