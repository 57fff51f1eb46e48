//! Logs of containers: bounded files that outlive them, in the format of CRI.
//!
//! `2026-11-21T12:00:00.123456789Z stdout F text` is one line; `P` in place of `F` means that
//! the next entry of the same stream goes on with it. The shim writes ([`writer`]); the node
//! reads, also while it is being written ([`reader`]).
//!
//! A slot of an app (`shop/web.1`) has a folder. Each container there writes files of its own,
//! `<start in ms>-<instance.attempt>.<number>.log`, so that the last one of a release and the
//! first of the next never share a file, and files sort by age. Rotation starts a new file and
//! never renames: a reader simply goes on with the next.

pub mod format;
mod instances;
pub mod reader;
pub mod writer;

pub use instances::{Source, sources};

use std::path::{Path, PathBuf};

/// The folder of `app/process.slot` below the data folder.
///
/// `None` when the name is not of that form, or would leave the folder.
pub fn dir(data_dir: &Path, name: &str) -> Option<PathBuf> {
    let (app, rest) = name.split_once('/')?;
    let (process, slot) = rest.rsplit_once('.')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let ok = plain(app) && plain(process) && plain(slot);
    ok.then(|| data_dir.join("logs").join(app).join(process).join(slot))
}

/// Makes a log folder and those above it, for the node alone.
pub(crate) fn make_folder(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// One log file's place in the order of its folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName {
    pub start_ms: u64,
    pub key: String,
    pub number: u32,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (start, rest) = name.strip_suffix(".log")?.split_once('-')?;
        let (key, number) = rest.rsplit_once('.')?;
        Some(Self { start_ms: start.parse().ok()?, key: key.to_owned(), number: number.parse().ok()? })
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:013}-{}.{:06}.log", self.start_ms, self.key, self.number)
    }
}

/// The log files in a folder, oldest first.
pub(crate) fn files(dir: &Path) -> Vec<FileName> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<FileName> =
        entries.filter_map(|entry| FileName::parse(entry.file_name().to_str()?)).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_folder_never_leaves_the_data_folder() {
        let data = Path::new("/data");
        assert_eq!(dir(data, "shop/web.1"), Some("/data/logs/shop/web/1".into()));
        for name in
            ["shop", "shop/web", "../web.1", "shop/../x.1", "shop/web.", "/web.1", "a/b/c.1", "shop/.1"]
        {
            assert_eq!(dir(data, name), None, "{name}");
        }
    }

    #[test]
    fn file_names_sort_by_age() {
        let name = |start_ms, number| FileName { start_ms, key: "7.1".into(), number };
        let mut names = [name(20, 0), name(3, 11), name(3, 2)].map(|n| n.to_string());
        names.sort();
        assert_eq!(
            names.map(|n| FileName::parse(&n).expect("parses")),
            [name(3, 2), name(3, 11), name(20, 0)]
        );
    }
}
