//! Every hostile or broken source is refused with its reason and leaves nothing: not in
//! the store, not beside it. The tables are in the two files below.

mod documents;
mod layers;

use super::super::{Error, Limits};
use super::build::*;
use super::{is_root, open};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A source to be made in the given folder, and a part of the reason it is refused for.
struct Case {
    name: &'static str,
    reason: &'static str,
    make: Box<dyn Fn(&Path) -> PathBuf>,
}

fn case(name: &'static str, reason: &'static str, make: impl Fn(&Path) -> PathBuf + 'static) -> Case {
    Case { name, reason, make: Box::new(make) }
}

/// An archive of one image with the one layer.
fn layer(name: &'static str, reason: &'static str, tar: impl Fn(&Path) -> Vec<u8> + 'static) -> Case {
    case(name, reason, move |at| {
        write(at, "image.tar", &Layout::of(&[BuiltLayer::new(PLAIN, &tar(at))]).tar())
    })
}

/// Small enough that going beyond them is quick to build.
fn limits() -> Limits {
    Limits {
        max_layer_entries: 1_000,
        max_layer_unpacked_bytes: 32 << 20,
        max_file_bytes: 16 << 20,
        max_expansion: 200,
        expansion_free_bytes: 1 << 20,
        max_header_bytes: 1 << 16,
        max_folder_path_bytes: 100_000,
        max_layers: 5,
        max_members: 300,
        ..Limits::default()
    }
}

/// Everything below a folder: kind, mode, owner, links, times and content.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        // A folder's time changes when something came and went, which is allowed.
        let time = if metadata.is_dir() { 0 } else { metadata.mtime() };
        let mut fact = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
        fact.push_str(&format!(
            " {} {time} {}",
            metadata.rdev(),
            super::super::streams::digest_bytes(&content)
        ));
        if !metadata.is_dir() {
            fact.push_str(&format!(" links {}", metadata.nlink()));
        }
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen.insert(path, fact);
    }
    seen
}

fn run(cases: Vec<Case>) {
    if !is_root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path();
    let host = at.join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("secret", host.join("link")).unwrap();
    let store = open(at);
    // Not an empty store: what is there must stay as it is.
    let good = Layout::of(&[BuiltLayer::new(GZIP, &Tar::new().file("good", b"good").end())]);
    let good = super::import(&store, &write(at, "good.tar", &good.tar())).unwrap();
    let before = (snapshot(&host), snapshot(&at.join("images")));
    let mut failures = Vec::new();
    for Case { name, reason, make } in cases {
        let folder = tempfile::tempdir_in(at).unwrap();
        let source = make(folder.path());
        match store.import(&source, &limits(), &mut |_| ()) {
            Err(error @ (Error::Refused { .. } | Error::WrongPlatform { .. })) => {
                let text = error.to_string();
                if !text.contains(reason) {
                    failures.push(format!("{name}: refused because {text:?}, not {reason:?}"));
                }
            }
            Err(error) => failures.push(format!("{name}: failed instead of being refused: {error:?}")),
            Ok(_) => failures.push(format!("{name}: accepted")),
        }
        if (snapshot(&host), snapshot(&at.join("images"))) != before {
            panic!("{name}: left something behind; so far: {failures:#?}");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(store.image(&good[0].manifest).is_ok());
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    let cases = layers::cases();
    assert!(cases.len() >= 45, "{}", cases.len());
    run(cases);
}

#[test]
fn hostile_documents_and_archives_are_refused_and_leave_nothing() {
    let cases = documents::cases();
    assert!(cases.len() >= 45, "{}", cases.len());
    run(cases);
}

#[test]
fn the_default_limits_stop_a_million_entries() {
    assert!(Limits::default().max_layer_entries < 1_000_000);
}
