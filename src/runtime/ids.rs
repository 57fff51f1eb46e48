//! Ranges of host ids for user namespaces: one of 65,536 ids for each living container.
//!
//! The pool is a folder with a file for each range in use, created exclusively, so several
//! nodes on one host share it safely. The file says whose it is: `tag key`. Ranges that
//! /etc/subuid or /etc/subgid promise to somebody else are left alone.

use crate::runtime::users::RANGE;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Above what distributions, systemd-nspawn (to 1,879,048,191) and subuid tools hand out.
pub const DEFAULT_BASE: u32 = 1_879_048_192;

/// As many as fit below 2^31, where signed readers of ids stumble.
const RANGES: u32 = 4096;

/// The host's pool of id ranges.
#[derive(Clone, Debug)]
pub struct Pool {
    dir: PathBuf,
    base: u32,
    /// Who takes: ours to release and to sweep.
    tag: String,
    foreign: Vec<(u64, u64)>,
    /// Where to look next: ranges rest before they are used again, and a busy host need not
    /// try all that are taken.
    next: Arc<AtomicU32>,
}

/// One range in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub index: u32,
    /// The host id of the container's root.
    pub base: u32,
}

impl Pool {
    /// # Errors
    /// The folder cannot be made.
    pub fn open(dir: PathBuf, base: u32, tag: &str) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut foreign = subordinate(&text("/etc/subuid"));
        foreign.extend(subordinate(&text("/etc/subgid")));
        Ok(Self { dir, base, tag: tag.to_owned(), foreign, next: Arc::default() })
    }

    /// Takes a free range for `key`.
    ///
    /// # Errors
    /// The disk refuses, or all ranges are taken.
    pub fn take(&self, key: &str) -> io::Result<Range> {
        for _ in 0..RANGES {
            let index = self.next.fetch_add(1, Ordering::Relaxed) % RANGES;
            let range = self.range(index);
            let Some(range) = range.filter(|r| !overlaps(&self.foreign, r.base)) else { continue };
            match OpenOptions::new().write(true).create_new(true).open(self.file(index)) {
                Ok(mut file) => {
                    if let Err(error) = file.write_all(format!("{} {key}", self.tag).as_bytes()) {
                        let _ = fs::remove_file(self.file(index));
                        return Err(error);
                    }
                    return Ok(range);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!(
            "all {RANGES} ranges of user ids are taken; see {}",
            self.dir.display()
        )))
    }

    /// Gives back the range that begins at this host id; idempotent.
    pub fn release_base(&self, base: u32) {
        let index = base.saturating_sub(self.base) / RANGE;
        let _ = fs::remove_file(self.file(index));
    }

    /// Gives back every range of `key`; idempotent.
    pub fn release(&self, key: &str) {
        self.release_where(|owner| owner == key);
    }

    /// Gives back every range of ours whose key is not kept: after a crash of the node.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) {
        self.release_where(|owner| !keep(owner));
    }

    fn release_where(&self, gone: impl Fn(&str) -> bool) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let owner = fs::read_to_string(&path).unwrap_or_default();
            if owner.split_once(' ').is_some_and(|(tag, key)| tag == self.tag && gone(key)) {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn range(&self, index: u32) -> Option<Range> {
        let base = self.base.checked_add(index.checked_mul(RANGE)?)?;
        Some(Range { index, base })
    }

    fn file(&self, index: u32) -> PathBuf {
        Path::new(&self.dir).join(index.to_string())
    }
}

/// The ranges of an /etc/subuid: `name:start:count` a line.
fn subordinate(text: &str) -> Vec<(u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(1);
            let start: u64 = fields.next()?.trim().parse().ok()?;
            let count: u64 = fields.next()?.trim().parse().ok()?;
            Some((start, start.saturating_add(count)))
        })
        .collect()
}

fn overlaps(foreign: &[(u64, u64)], base: u32) -> bool {
    let (start, end) = (u64::from(base), u64::from(base) + u64::from(RANGE));
    foreign.iter().any(|(from, to)| *from < end && start < *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(dir: &Path, tag: &str) -> Pool {
        Pool {
            dir: dir.into(),
            base: DEFAULT_BASE,
            tag: tag.into(),
            foreign: Vec::new(),
            next: Arc::default(),
        }
    }

    #[test]
    fn living_containers_never_share_a_range() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (pool(dir.path(), "a"), pool(dir.path(), "b"));
        let taken = [a.take("1.1"), b.take("1.1"), a.take("2.1")].map(|r| r.expect("taken").base);
        assert_eq!(taken, [DEFAULT_BASE, DEFAULT_BASE + RANGE, DEFAULT_BASE + 2 * RANGE]);
        let fresh = pool(dir.path(), "b");
        fresh.sweep(|_| false);
        assert_eq!(
            fresh.take("9.1").expect("taken").base,
            DEFAULT_BASE + RANGE,
            "a released range is used again"
        );
        a.release_base(DEFAULT_BASE);
        let fresh = pool(dir.path(), "c");
        assert_eq!(fresh.take("9.2").expect("taken").base, DEFAULT_BASE);
    }

    #[test]
    fn a_sweep_frees_only_what_is_ours_and_gone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (pool(dir.path(), "a"), pool(dir.path(), "b"));
        for range in [a.take("1.1"), a.take("2.1"), b.take("3.1")] {
            range.expect("taken");
        }
        a.sweep(|key| key == "2.1");
        let left = fs::read_dir(dir.path()).expect("pool").flatten();
        let mut left: Vec<String> = left.map(|e| fs::read_to_string(e.path()).expect("owner")).collect();
        left.sort();
        assert_eq!(left, ["a 2.1", "b 3.1"]);
    }

    #[test]
    fn ranges_promised_to_others_are_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let subuid = format!("me:100000:65536\nodd line\nyou:{}:10\n", DEFAULT_BASE + 5);
        let pool = Pool { foreign: subordinate(&subuid), ..pool(dir.path(), "a") };
        assert_eq!(pool.take("1.1").expect("taken").base, DEFAULT_BASE + RANGE);
    }
}
