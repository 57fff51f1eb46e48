//! A disk that fills up under the store, and a start while it is full: what was acknowledged is
//! there as soon as there is room, and until then the start says what is wrong.

use super::super::{Config, open};
use super::support::{app_key, deploy};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;

const DISK: &str = "size=24m,mode=0700";

/// In a mount namespace of this thread, and of those that it starts: gone with the last of them.
fn small_disk(at: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("small"), at, Some("tmpfs"), MsFlags::empty(), Some(DISK))
}

#[test]
fn nothing_acknowledged_is_lost_on_a_full_disk_and_a_start_while_it_is_full() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().to_owned();
    let done = std::thread::spawn(move || match small_disk(&at) {
        Err(nix::errno::Errno::EPERM) => eprintln!("skipped: needs root, for a disk of its own"),
        Err(e) => panic!("a small disk could not be mounted: {e}"),
        Ok(()) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(fill_and_start_again(&at));
        }
    });
    done.join().expect("it holds");
}

async fn fill_and_start_again(at: &Path) {
    let dir = at.join("raft");
    let config = Config { snapshot_every_entries: 40, segment_bytes: 1 << 20, ..Config::new(&dir) };
    let filler = at.join("filler");
    for round in 0..3u64 {
        // Each round ends at another place: between files of the log, or within a snapshot.
        std::fs::write(&filler, vec![1; (9 << 20) + round as usize * 300_000]).expect("room for it");
        let store = open(config.clone()).await.expect("there is room to start");
        let mut acknowledged = 0;
        let refused = loop {
            let name = format!("round-{round}-{acknowledged}");
            match store.propose("test", deploy(&name, acknowledged, 30_000)).await {
                Ok(_) => acknowledged += 1,
                Err(e) => break e.to_string(),
            }
        };
        assert!(acknowledged > 10, "round {round}: {refused}");
        store.shutdown().await;
        for _ in 0..3 {
            match open(config.clone()).await {
                Ok(store) => store.shutdown().await,
                Err(e) => assert!(e.to_string().contains("disk is full"), "round {round}: {e}"),
            }
        }
        std::fs::remove_file(&filler).expect("removed");
        let store = open(config.clone()).await.expect("there is room again");
        for n in 0..acknowledged {
            let key = app_key(&format!("round-{round}-{n}"));
            assert!(store.view().state.app(&key).is_some(), "round {round}: {n} of {acknowledged} is gone");
        }
        for n in 0..acknowledged {
            let app = app_key(&format!("round-{round}-{n}"));
            store
                .propose("test", crate::model::command::Action::RemoveApp { app: app.clone() })
                .await
                .expect("removed");
            let forget = crate::model::command::ChangeKind::ForgetApp { app };
            let changes = vec![crate::model::command::Change { expects: Vec::new(), kind: forget }];
            let term = store.metrics().term;
            let action = crate::model::command::Action::Apply { term, changes };
            store.propose("test", action).await.expect("forgotten");
        }
        store.shutdown().await;
    }
}
