//! Images that must load, in every form in which they come.

use super::build::*;
use super::{import, is_root, open};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

fn base() -> Vec<u8> {
    Tar::new()
        .folder("bin/")
        .file("bin/app", b"#!/bin/sh\n")
        .folder("etc/")
        .file("etc/old", b"old")
        .folder("data/")
        .file("data/a", b"a")
        .end()
}

fn upper() -> Vec<u8> {
    Tar::new()
        .file("etc/.wh.old", b"")
        .folder("data/")
        .file("data/.wh..wh..opq", b"")
        .file("data/b", b"b")
        .end()
}

#[test]
fn every_form_of_an_archive_gives_the_same_folders() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let forms: Vec<(&str, std::path::PathBuf)> = vec![
        ("layout folder, gzip", {
            let layout = Layout::of(&[BuiltLayer::new(GZIP, &base()), BuiltLayer::new(GZIP, &upper())]);
            layout.write_folder(&at.join("layout"))
        }),
        ("layout archive, zstd", {
            let layout = Layout::of(&[BuiltLayer::new(ZSTD, &base()), BuiltLayer::new(ZSTD, &upper())]);
            write(at, "zstd.tar", &layout.tar())
        }),
        ("layout archive in gzip", {
            let layout = Layout::of(&[BuiltLayer::new(PLAIN, &base()), BuiltLayer::new(GZIP, &upper())]);
            write(at, "outer.tar.gz", &gzip(&layout.tar()))
        }),
        ("docker archive", {
            let archive = docker_archive(
                &[BuiltLayer::new(PLAIN, &base()), BuiltLayer::new(PLAIN, &upper())],
                &["shop:1"],
            );
            write(at, "docker.tar", &archive.tar())
        }),
        ("docker archive in zstd, layers in gzip", {
            let archive = docker_archive(
                &[BuiltLayer::new(GZIP, &base()), BuiltLayer::new(GZIP, &upper())],
                &["shop:1"],
            );
            write(at, "docker.tar.zst", &zstd(&archive.tar()))
        }),
    ];
    let store = open(at);
    let mut folders = Vec::new();
    for (form, source) in &forms {
        let imported = import(&store, source).unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!(imported.len(), 1, "{form}");
        assert_eq!(imported[0].names, ["shop:1"], "{form}");
        let image = store.image(&imported[0].manifest).unwrap();
        assert_eq!(image.config.config().as_ref().unwrap().user().as_deref(), Some("1000:1000"), "{form}");
        folders.push(store.unpack(&imported[0].manifest).unwrap());
    }
    // One folder for each content, whatever it was compressed with.
    assert!(folders.iter().all(|these| *these == folders[0]), "{folders:?}");
    let [top, bottom] = &folders[0][..] else { panic!("{folders:?}") };
    assert_eq!(std::fs::read(bottom.join("bin/app")).unwrap(), b"#!/bin/sh\n");
    let whiteout = std::fs::symlink_metadata(top.join("etc/old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut opaque = [0; 8];
    let length = rustix::fs::lgetxattr(&top.join("data"), "trusted.overlay.opaque", &mut opaque[..]).unwrap();
    assert_eq!(&opaque[..length], b"y");
    assert_eq!(store.usage().unwrap().layers, 2);
}
