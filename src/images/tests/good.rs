//! Images that must load, in every form in which they come.

use super::super::{Limits, Store};
use super::build::*;
use super::{has_tool, import, is_root, open};
use ::tar::{EntryType, Header};
use serde_json::{Value, json};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

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
    let length = rustix::fs::lgetxattr(top.join("data"), "trusted.overlay.opaque", &mut opaque[..]).unwrap();
    assert_eq!(&opaque[..length], b"y");
    assert_eq!(store.usage().unwrap().layers, 2);
}

/// Loads an image of the one layer and gives its folder.
fn unpacked(store: &Store, at: &Path, tar: &[u8]) -> PathBuf {
    let layout = Layout::of(&[BuiltLayer::new(PLAIN, tar)]);
    let imported = import(store, &write(at, "image.tar", &layout.tar())).unwrap();
    store.unpack(&imported[0].manifest).unwrap().remove(0)
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn owners_modes_times_and_attributes_are_the_archives() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    // cap_net_bind_service=ep, as `setcap` stores it (version 2).
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let owned = |mode: u32, uid: u64, gid: u64| {
        move |header: &mut Header| {
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(gid);
        }
    };
    let tar = Tar::new()
        .entry_with("./", EntryType::Directory, "", b"", owned(0o700, 5, 6))
        .entry_with("su", EntryType::Regular, "", b"x", owned(0o4755, 0, 0))
        .entry_with("sticky", EntryType::Directory, "", b"", owned(0o1777, 0, 0))
        .file("sticky/in", b"")
        .entry_with("owned", EntryType::Regular, "", b"x", owned(0o640, 1000, 2000))
        .pax(&[("uid", b"70000"), ("mtime", b"1234567890.5"), ("SCHILY.xattr.user.note", b"a\0b")])
        .file("pax", b"x")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.security.selinux", b"x")])
        .entry_with("capable", EntryType::Regular, "", b"x", owned(0o755, 7, 7))
        .entry_with("pipe", EntryType::Fifo, "", b"", owned(0o622, 3, 4))
        .entry_with("link", EntryType::Symlink, "/etc/shadow", b"", owned(0o777, 8, 9))
        .file("implied/parent/file", b"x")
        .end();
    let root = unpacked(&store, temporary.path(), &tar);
    let look = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    for (name, mode, uid, gid, mtime) in [
        (".", 0o40700, 5, 6, 1_700_000_000),
        ("su", 0o104755, 0, 0, 1_700_000_000),
        ("sticky", 0o41777, 0, 0, 1_700_000_000),
        ("owned", 0o100640, 1000, 2000, 1_700_000_000),
        ("pax", 0o100644, 70_000, 0, 1_234_567_890),
        ("capable", 0o100755, 7, 7, 1_700_000_000),
        ("pipe", 0o10622, 3, 4, 1_700_000_000),
        ("link", 0o120777, 8, 9, 1_700_000_000),
        ("implied", 0o40755, 0, 0, 0),
        ("implied/parent", 0o40755, 0, 0, 0),
    ] {
        let found = look(name);
        assert_eq!(
            (found.mode(), found.uid(), found.gid(), found.mtime()),
            (mode, uid, gid, mtime),
            "{name}"
        );
    }
    assert_eq!(look("pax").mtime_nsec(), 500_000_000);
    assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(attribute(&root.join("capable"), "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(attribute(&root.join("capable"), "security.selinux"), None);
    assert_eq!(attribute(&root.join("pax"), "user.note").as_deref(), Some(&b"a\0b"[..]));
    // Setuid programs are out of other users' reach: only root may enter the store.
    let store_mode = std::fs::metadata(temporary.path().join("images")).unwrap().mode();
    assert_eq!(store_mode & 0o777, 0o700);
}

#[test]
fn links_whiteouts_and_repeats_mean_what_oci_says() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let tar = Tar::new()
        .file("a", b"content")
        .hard_link("d/b", "./a")
        .symlink("d/up", "../a")
        .hard_link("d/up-again", "d/up")
        // A link within the layer as a parent is followed.
        .folder("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("lib/c", b"through the link")
        // A second entry of the same kind replaces the first, and not what links to it.
        .file("a", b"newer")
        .symlink("d/up", "b")
        .folder("usr/")
        // A whiteout hides the layers below and never its own layer.
        .file(".wh.gone", b"")
        .file("kept", b"kept")
        .file(".wh.kept", b"")
        .file(".wh.back", b"")
        .file("back", b"back")
        .folder("cleared")
        .file("cleared/own", b"")
        .file(".wh.cleared", b"")
        .file(".wh.again", b"")
        .file("again/implied", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/own", b"")
        .end();
    let root = unpacked(&store, temporary.path(), &tar);
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert_eq!((read("a").as_str(), read("d/b").as_str()), ("newer", "content"));
    assert_eq!(std::fs::read_link(root.join("d/up")).unwrap(), Path::new("b"));
    assert_eq!(std::fs::read_link(root.join("d/up-again")).unwrap(), Path::new("../a"));
    assert_eq!(read("usr/lib/c"), "through the link");
    assert!(std::fs::symlink_metadata(root.join("lib")).unwrap().is_symlink());
    assert_eq!((read("kept").as_str(), read("back").as_str()), ("kept", "back"));
    assert!(std::fs::symlink_metadata(root.join("gone")).unwrap().file_type().is_char_device());
    for (name, is_opaque) in [("cleared", true), ("again", true), ("opaque", true), ("usr", false)] {
        let mark = attribute(&root.join(name), "trusted.overlay.opaque");
        assert_eq!(mark.as_deref() == Some(b"y"), is_opaque, "{name}");
    }
    assert!(root.join("cleared/own").exists() && root.join("again/implied").exists());
}

#[test]
fn a_hard_link_shares_the_file_and_long_names_are_whole() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let folder = "n".repeat(200);
    let long = format!("{folder}/{}", "m".repeat(255));
    let odd = b"not-utf8-\xff\xfe";
    let tar = Tar::new()
        .long_name(long.as_bytes())
        .file("short", b"gnu")
        .entry("././@LongLink", EntryType::GNULongLink, "", long.as_bytes())
        .hard_link("hard", "short")
        .pax(&[("path", format!("{folder}/pax").as_bytes())])
        .file("short", b"pax")
        .long_name(odd)
        .file("short", b"odd")
        .end();
    let root = unpacked(&store, temporary.path(), &tar);
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"gnu");
    assert_eq!(std::fs::read(root.join(&folder).join("pax")).unwrap(), b"pax");
    assert_eq!(std::fs::read(root.join(std::ffi::OsStr::from_bytes(odd))).unwrap(), b"odd");
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&root.join("hard")), inode(&root.join(&long)));
}

#[test]
fn sparse_files_of_every_format_are_whole_and_stay_sparse() {
    if !is_root() {
        return;
    }
    if !has_tool("tar") {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let store = open(at);
    std::fs::create_dir(at.join("tree")).unwrap();
    // Forty pieces: more than fit into an old header, or its first extension.
    let mut content = vec![0; 8 << 20];
    for piece in 0..40 {
        content[piece * 200_000..][..5_000].fill(b'a' + (piece % 26) as u8);
    }
    let sparse = std::fs::File::create(at.join("tree/sparse")).unwrap();
    sparse.set_len(content.len() as u64).unwrap();
    for piece in 0..40 {
        sparse.write_all_at(&content[piece * 200_000..][..5_000], (piece * 200_000) as u64).unwrap();
    }
    std::fs::File::create(at.join("tree/hole")).unwrap().set_len(1 << 20).unwrap();
    // Ends in data, and not on a block: tar adds an empty piece after it.
    let tail = std::fs::File::create(at.join("tree/tail")).unwrap();
    tail.write_all_at(b"tail", 1 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let archive = at.join("layer.tar");
        let mut tar = std::process::Command::new("tar");
        tar.arg("--sparse").args(format).arg("-cf").arg(&archive).arg("-C").arg(at.join("tree")).arg(".");
        assert!(tar.status().unwrap().success());
        let archive = std::fs::read(&archive).unwrap();
        assert!(archive.len() < 2 << 20, "{format:?}: tar wrote a sparse archive");
        let root = unpacked(&store, at, &archive);
        assert!(std::fs::read(root.join("sparse")).unwrap() == content, "{format:?}");
        assert!(std::fs::read(root.join("hole")).unwrap() == vec![0; 1 << 20], "{format:?}");
        let tail = std::fs::read(root.join("tail")).unwrap();
        assert!(tail.len() == (1 << 20) + 4 && tail.ends_with(b"\0tail"), "{format:?}");
        assert!(
            std::fs::metadata(root.join("sparse")).unwrap().blocks() < 4096,
            "{format:?}: holes stay holes"
        );
    }
}

#[test]
fn of_many_platforms_this_machines_is_taken() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let layer = |text: &str| BuiltLayer::new(GZIP, &Tar::new().file("which", text.as_bytes()).end());
    let mut layout = Layout::new();
    let own = with_platform(layout.image(&[layer("own")], &architecture()), &architecture());
    let mips = with_platform(layout.image(&[layer("mips")], "mips"), "mips");
    // Builders attest beside each image; and archives of one platform leave out the others.
    let mut attestation = with_platform(layout.image(&[layer("attestation")], "unknown"), "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    layout.files.remove(&Layout::blob_name(&layer("mips").blob));
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [mips, attestation, own]});
    let index = layout.blob(INDEX, index.to_string().as_bytes());
    layout.index(&[named(index, "ghcr.io/acme/shop:2")]);
    let imported = import(&store, &write(temporary.path(), "image.tar", &layout.tar())).unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].names, ["ghcr.io/acme/shop:2"]);
    assert_eq!(imported[0].platform.architecture, architecture());
    let root = store.unpack(&imported[0].manifest).unwrap().remove(0);
    assert_eq!(std::fs::read(root.join("which")).unwrap(), b"own");
}

#[test]
fn an_archive_may_hold_several_images_and_one_image_several_names() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let layer = |text: &str| BuiltLayer::new(GZIP, &Tar::new().file("which", text.as_bytes()).end());
    let mut layout = Layout::new();
    let shop = layout.image(&[layer("shop")], &architecture());
    let blog = layout.image(&[layer("shop"), layer("blog")], &architecture());
    let full = |mut descriptor: Value, name: &str| {
        descriptor["annotations"] = json!({"io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": "latest"});
        descriptor
    };
    layout.index(&[
        full(shop.clone(), "docker.io/library/shop:1"),
        full(shop, "docker.io/library/shop:latest"),
        full(blog, "docker.io/acme/blog:1"),
    ]);
    // Docker from 25 on writes its old listing beside the layout; the layout counts.
    layout.files.insert("manifest.json".into(), b"[]".to_vec());
    let mut imported = import(&store, &write(temporary.path(), "image.tar", &layout.tar())).unwrap();
    imported.sort_by(|a, b| a.names.cmp(&b.names));
    let names: Vec<_> = imported.iter().map(|one| one.names.join(" ")).collect();
    assert_eq!(names, ["acme/blog:1", "shop:1 shop:latest"]);
    assert_eq!(store.usage().unwrap().layers, 2);
}

#[test]
fn a_bare_tag_is_no_name() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let mut layout = Layout::new();
    let image = layout.image(&[BuiltLayer::new(GZIP, &base())], &architecture());
    layout.index(&[named(image, "1.2")]);
    let imported = import(&store, &layout.write_folder(&temporary.path().join("layout"))).unwrap();
    assert_eq!((imported[0].names.len(), imported[0].tag.as_deref()), (0, Some("1.2")));
}

#[test]
fn a_layer_that_docker_lists_twice_is_a_link_and_is_found() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let archive = docker_archive(
        &[BuiltLayer::new(PLAIN, &base()), BuiltLayer::new(PLAIN, &upper()), BuiltLayer::new(PLAIN, &base())],
        &["shop"],
    );
    let third = format!("{:064}/layer.tar", 2);
    let target = format!("../{:064}/layer.tar", 0);
    let tar = archive.files.iter().fold(Tar::new(), |tar, (name, bytes)| match *name == third {
        true => tar.symlink(name, &target),
        false => tar.file(name, bytes),
    });
    let imported = import(&store, &write(temporary.path(), "image.tar", &tar.end())).unwrap();
    assert_eq!(imported[0].names, ["shop:latest"]);
    // Overlayfs refuses the same folder twice, and the upper one covers the lower.
    let folders = store.unpack(&imported[0].manifest).unwrap();
    assert_eq!(folders.len(), 2);
    assert!(folders[0].join("bin/app").exists() && folders[1].join("data/b").exists());
}

#[test]
fn nothing_is_listed_below_a_layer_whose_root_is_opaque() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let clearing = Tar::new().file(".wh..wh..opq", b"").file("only", b"").end();
    let layers = [&base(), &clearing, &upper()].map(|tar| BuiltLayer::new(GZIP, tar));
    let imported = import(&store, &write(temporary.path(), "image.tar", &Layout::of(&layers).tar())).unwrap();
    let folders = store.unpack(&imported[0].manifest).unwrap();
    assert_eq!(folders.len(), 2);
    assert!(folders[1].join("only").exists());
}

#[test]
fn progress_ends_where_it_said_it_would() {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path());
    let noise: Vec<u8> =
        (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layers =
        [BuiltLayer::new(PLAIN, &Tar::new().file("noise", &noise).end()), BuiltLayer::new(GZIP, &base())];
    let source = write(temporary.path(), "image.tar", &Layout::of(&layers).tar());
    let mut seen = Vec::new();
    store.import(&source, &Limits::default(), &mut |progress| seen.push(progress)).unwrap();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    assert_eq!((first.layers, first.layers_done, first.bytes_done), (2, 0, 0));
    assert_eq!((last.layers_done, last.bytes_done), (2, last.bytes));
    assert!(seen.len() > 8 && seen.is_sorted_by_key(|progress| progress.bytes_done), "{}", seen.len());
    // Again: nothing is left to read.
    seen.clear();
    store.import(&source, &Limits::default(), &mut |progress| seen.push(progress)).unwrap();
    assert_eq!((seen.len(), seen[0].layers), (1, 0));
}
