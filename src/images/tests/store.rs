//! The store over time: collection, pins, many callers, crashes, damage, a full disk.

use super::super::{Error, Imported, Limits, Store};
use super::build::*;
use super::{import, in_own_mounts, is_root, open};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn layer_of(text: &str) -> BuiltLayer {
    BuiltLayer::new(GZIP, &Tar::new().folder("d").file("d/which", text.as_bytes()).end())
}

fn archive(at: &Path, name: &str, layers: &[BuiltLayer]) -> PathBuf {
    write(at, name, &Layout::of(layers).tar())
}

/// The names of all files of the store's own folders.
fn names_in(store: &Store, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.root().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_collection_keeps_what_roots_reach_and_removes_the_rest() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let kept = import(&store, &archive(at, "a", &[layer_of("shared"), layer_of("kept")])).unwrap();
    let other = import(&store, &archive(at, "b", &[layer_of("shared"), layer_of("other")])).unwrap();
    let (kept_id, other_id) = (kept[0].manifest.clone(), other[0].manifest.clone());
    drop((kept, other));
    let before = store.usage().unwrap();
    assert_eq!((before.images, before.layers, before.blobs), (2, 3, 7));
    let report = store.gc(|| [kept_id.clone()].into()).unwrap();
    assert_eq!((report.images_removed, report.layers_removed, report.blobs_removed), (1, 1, 3));
    let after = store.usage().unwrap();
    assert_eq!(
        report.bytes_freed,
        before.blob_bytes + before.unpacked_bytes - after.blob_bytes - after.unpacked_bytes
    );
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&kept_id));
    assert!(matches!(store.image(&other_id), Err(Error::NotFound(_))));
    assert_eq!(store.unpack(&kept_id).unwrap().len(), 2);
    assert_eq!(names_in(&store, "tmp").len(), 0);
    // Without any root nothing stays, not even a record.
    store.gc(BTreeSet::new).unwrap();
    for folder in ["blobs/sha256", "layers", "manifests", "tmp"] {
        assert_eq!(names_in(&store, folder).len(), 0, "{folder}");
    }
}

#[test]
fn a_pin_keeps_an_image_until_it_is_dropped() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let imported = import(&store, &archive(at, "a", &[layer_of("a")])).unwrap().remove(0);
    let again = import(&store, &archive(at, "a", &[layer_of("a")])).unwrap().remove(0);
    let Imported { manifest, pin, .. } = imported;
    for holder in [pin, again.pin] {
        assert_eq!(store.gc(BTreeSet::new).unwrap().images_removed, 0);
        store.unpack(&manifest).unwrap();
        drop(holder);
    }
    let pin = store.pin(&manifest).unwrap();
    assert_eq!(store.gc(BTreeSet::new).unwrap().images_removed, 0);
    drop(pin);
    assert_eq!(store.gc(BTreeSet::new).unwrap().images_removed, 1);
    assert!(matches!(store.pin(&manifest), Err(Error::NotFound(_))));
}

#[test]
fn collections_never_take_anything_from_imports_beside_them() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let sources: Vec<_> = (0..3)
        .map(|n| archive(at, &format!("{n}.tar"), &[layer_of("shared"), layer_of(&n.to_string())]))
        .collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                removed += store.gc(BTreeSet::new).unwrap().images_removed;
            }
            removed
        });
        let importers: Vec<_> = sources
            .iter()
            .map(|source| {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..10 {
                        let imported = import(store, source).unwrap().remove(0);
                        let folders = store.unpack(&imported.manifest).unwrap();
                        assert!(folders.iter().all(|folder| folder.join("d/which").is_file()));
                    }
                })
            })
            .collect();
        for importer in importers {
            importer.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0, "the collector had something to do");
    });
}

#[test]
fn many_callers_load_and_unpack_the_same_image() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let source = archive(at, "a", &[layer_of("a"), layer_of("b"), layer_of("c")]);
    let load = || {
        let imported = import(&store, &source).unwrap().remove(0);
        store.unpack(&imported.manifest).unwrap()
    };
    let folders: Vec<_> = thread::scope(|scope| {
        let loading: Vec<_> = (0..6).map(|_| scope.spawn(load)).collect();
        loading.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|these| *these == folders[0]));
    // And when a layer's folder is lost, they restore it together.
    let manifest = store.list().unwrap().remove(0);
    std::fs::remove_dir_all(&folders[0][1]).unwrap();
    thread::scope(|scope| {
        let unpacking: Vec<_> = (0..6).map(|_| scope.spawn(|| store.unpack(&manifest).unwrap())).collect();
        for one in unpacking {
            assert_eq!(one.join().unwrap(), folders[0]);
        }
    });
    assert!(folders[0][1].join("d/which").is_file());
    assert_eq!(names_in(&store, "tmp").len(), 0);
}

#[test]
fn a_second_process_is_kept_out_and_a_restart_finds_everything() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let manifest = import(&store, &archive(at, "a", &[layer_of("a")])).unwrap().remove(0).manifest;
    let second = Store::open(&at.join("images"));
    assert!(matches!(second, Err(Error::InUse { .. })), "{:?}", second.err());
    let half_made = store.root().join("tmp/staging-7/layers/x");
    std::fs::create_dir_all(&half_made).unwrap();
    drop(store);
    let store = open(at);
    assert_eq!(names_in(&store, "tmp").len(), 0);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&manifest));
    store.unpack(&manifest).unwrap();
}

#[test]
fn damage_is_told_and_nothing_is_collected_on_its_account() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let manifest = import(&store, &archive(at, "a", &[layer_of("a")])).unwrap().remove(0).manifest;
    let image = store.image(&manifest).unwrap();
    let blob = |digest: &crate::model::ids::Digest| store.root().join("blobs/sha256").join(digest.hex());
    let spoil = |path: &Path| {
        let whole = std::fs::read(path).unwrap();
        let mut spoilt = whole.clone();
        spoilt[whole.len() / 2] ^= 1;
        std::fs::write(path, spoilt).unwrap();
        whole
    };
    for digest in [&image.manifest, &image.config_digest] {
        let whole = spoil(&blob(digest));
        assert!(matches!(store.image(&manifest), Err(Error::Damaged { .. })), "{digest}");
        let collected = store.gc(|| [manifest.clone()].into());
        assert!(matches!(collected, Err(Error::Damaged { .. })), "{digest}: {collected:?}");
        std::fs::write(blob(digest), whole).unwrap();
    }
    // A layer's blob matters when its folder has to be made again.
    let folder = store.unpack(&manifest).unwrap().remove(0);
    std::fs::remove_dir_all(&folder).unwrap();
    let whole = spoil(&blob(&image.layers[0].blob));
    assert!(matches!(store.unpack(&manifest), Err(Error::Damaged { .. })));
    assert!(!folder.exists() && names_in(&store, "tmp").is_empty());
    std::fs::write(blob(&image.layers[0].blob), whole).unwrap();
    store.unpack(&manifest).unwrap();
    assert!(folder.join("d/which").is_file());
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path().to_owned();
    in_own_mounts(move || {
        let disk = at.join("disk");
        std::fs::create_dir(&disk).unwrap();
        super::mount("tmpfs", &disk, "tmpfs", "size=3m");
        let store = open(&disk);
        let noise: Vec<u8> =
            (0..500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let large = BuiltLayer::new(PLAIN, &Tar::new().file("noise", &noise).end());
        let source = archive(&at, "large", &[large]);
        let outer = write(&at, "outer.tar.gz", &gzip(&std::fs::read(&source).unwrap()));
        for source in [&source, &outer] {
            let error = import(&store, source).unwrap_err();
            assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
            for folder in ["blobs/sha256", "layers", "manifests", "tmp"] {
                assert_eq!(names_in(&store, folder).len(), 0, "{folder}");
            }
        }
        let small = import(&store, &archive(&at, "small", &[layer_of("small")]));
        small.expect("what fits is loaded");
    });
}

/// Not a test of its own: what the next one kills.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn load_and_collect_until_killed() {
    let Some(at) = std::env::var_os("NODECTL_TEST_FOLDER").map(PathBuf::from) else { return };
    let store = open(&at);
    std::fs::write(at.join("started"), "").unwrap();
    // The parent kills us long before; should it be gone, we end as well.
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        for name in ["a", "b"] {
            drop(import(&store, &at.join(name)));
        }
        store.gc(BTreeSet::new).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_whole_images_or_none() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    archive(at, "a", &[layer_of("shared"), layer_of("a")]);
    archive(at, "b", &[layer_of("shared"), layer_of("b")]);
    for round in 0..12u64 {
        let _ = std::fs::remove_file(at.join("started"));
        let name = "images::tests::store::load_and_collect_until_killed";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--test-threads", "1"])
            .env("NODECTL_TEST_FOLDER", at)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !at.join("started").exists() && Instant::now() < deadline {
            thread::yield_now();
        }
        // A different moment each round; which one does not matter.
        thread::sleep(Duration::from_millis(3 + round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(at);
        assert!(names_in(&store, "tmp").is_empty());
        for manifest in store.list().unwrap() {
            for folder in store.unpack(&manifest).unwrap() {
                assert!(folder.join("d/which").is_file(), "round {round}: {}", folder.display());
            }
        }
    }
}

#[test]
fn limits_of_a_whole_image_hold_over_its_layers() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    let source = archive(at, "a", &[layer_of("one"), layer_of("two"), layer_of("three")]);
    for limits in [
        Limits { max_image_entries: 5, ..Limits::default() },
        Limits { max_image_unpacked_bytes: 7, ..Limits::default() },
    ] {
        let error = store.import(&source, &limits, &mut |_| ()).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert_eq!(store.usage().unwrap(), Default::default());
    }
}
