//! Random archives of names and links that like to climb: whatever they do, nothing
//! outside the layer's folder is touched, and nothing panics.

use super::super::streams::digest_bytes;
use super::super::{Limits, unpack};
use super::build::Tar;
use super::is_root;
use ::tar::EntryType;
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::path::Path;

// Few of each, so that they meet: without RESOLVE_BENEATH this test fails at once. All that
// leads out leads to the test's own folder, which is where a mistake would write.
const NAMES: &[&str] = &[
    "a",
    "b",
    "a/b",
    "a/x",
    "b/x",
    "a/b/x",
    "a/secret",
    "b/secret",
    ".wh.a",
    "a/.wh.secret",
    "b/.wh..wh..opq",
];
const TARGETS: &[&str] = &["a", "b", ".", "..", "../..", "a/..", "a/b/..", "HOST", "../host", "HOST/secret"];

#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    name: &'static str,
    target: &'static str,
}

/// Links first, then anything.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = |kinds: &[u8], names: &'static [&'static str]| {
        let parts = (
            prop::sample::select(kinds.to_vec()),
            prop::sample::select(names),
            prop::sample::select(TARGETS),
        );
        parts.prop_map(|(kind, name, target)| Step { kind, name, target })
    };
    let links = prop::collection::vec(step(b"2", &["a", "b", "a/b"]), 1..4);
    let others = prop::collection::vec(step(b"0012556", NAMES), 1..10);
    (links, others).prop_map(|(links, others)| [links, others].concat())
}

/// The content and facts of the one file beside the layer's folder, and what is there.
fn outside(at: &Path) -> (Vec<String>, String) {
    use std::os::unix::fs::MetadataExt;
    let host = at.join("host");
    let mut names = Vec::new();
    for folder in [at, &host] {
        for entry in std::fs::read_dir(folder).unwrap() {
            names.push(entry.unwrap().path().display().to_string());
        }
    }
    names.sort();
    let secret = std::fs::metadata(host.join("secret")).unwrap();
    let content = digest_bytes(&std::fs::read(host.join("secret")).unwrap());
    let folder = std::fs::metadata(&host).unwrap();
    let facts = format!("{content} {:o} {} {:?}", secret.mode(), secret.nlink(), secret.modified());
    (names, format!("{facts} {:o} {}", folder.mode(), folder.mtime()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_archive_reaches_outside_its_folder(steps in steps()) {
        if !is_root() {
            return Ok(());
        }
        let temporary = tempfile::tempdir().unwrap();
        let at = temporary.path();
        let host = at.join("host");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("secret"), "secret").unwrap();
        std::fs::create_dir(at.join("layer")).unwrap();
        let before = outside(at);
        // Each archive only as far as it is accepted: an early refusal hides what is after.
        let mut good = Tar::new();
        for Step { kind, name, target } in steps {
            let target = target.replace("HOST", host.to_str().unwrap());
            let link = if matches!(kind, b'1' | b'2') { target.as_str() } else { "" };
            let next = good.clone().entry(name, EntryType::new(kind), link, b"");
            std::fs::remove_dir_all(at.join("layer")).unwrap();
            std::fs::create_dir(at.join("layer")).unwrap();
            let folder = std::fs::File::open(at.join("layer")).unwrap();
            let archive = next.clone().end();
            let result = unpack::unpack(&mut archive.as_slice(), folder.as_fd(), &Limits::default());
            prop_assert_eq!(outside(at), before.clone());
            if result.is_ok() {
                good = next;
            } else if let Err(super::super::error::Fault::Io { action, source }) = result {
                prop_assert!(false, "failed instead of being refused: {}: {}", action, source);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        changes in prop::collection::vec((0usize..6144, any::<u8>()), 1..30),
        fix_checksums in any::<bool>(),
    ) {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"4096"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"b"),
        ];
        let mut map = b"2\n0\n512\n4096\n0\n".to_vec();
        map.resize(1024, 0);
        let mut archive = Tar::new().long_name(b"long").file("s", b"x").pax(records).file("f", &map).end();
        for (at, byte) in changes {
            let at = at % archive.len();
            archive[at] = byte;
        }
        if fix_checksums {
            for block in archive.chunks_exact_mut(512) {
                let mut header = ::tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let limits = Limits::default();
        let mut reader = super::super::tar::Reader::new(archive.as_slice(), &limits, 1_000);
        while let Ok(Some(entry)) = reader.next() {
            prop_assert!(entry.size <= i64::MAX as u64);
        }
    }
}
