//! Which instances have logs here, and one instance's part of its slot's log.

use super::{FileName, files};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An instance whose log is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// When its first file was begun; sorts by age.
    pub start_ms: u64,
    pub instance: u64,
    pub process: String,
    pub slot: u32,
}

/// The instances of an app whose logs are kept, those that are gone too, oldest first.
pub fn sources(data_dir: &Path, app: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for (process, slot, dir) in slots(&data_dir.join("logs").join(app)) {
        let mut seen = BTreeSet::new();
        for file in files(&dir) {
            if let Some((instance, _)) = parse_key(&file.key).filter(|(instance, _)| seen.insert(*instance)) {
                found.push(Source { start_ms: file.start_ms, instance, process: process.clone(), slot });
            }
        }
    }
    found.sort();
    found
}

/// The folder in which `instance` writes; `None` while it has written nothing.
pub fn dir_of(data_dir: &Path, instance: u64) -> Option<PathBuf> {
    let apps = std::fs::read_dir(data_dir.join("logs")).into_iter().flatten().flatten();
    let mut slots = apps.flat_map(|app| slots(&app.path()));
    let is_its = |file: &FileName| parse_key(&file.key).is_some_and(|(found, _)| found == instance);
    slots.find(|(_, _, dir)| files(dir).iter().any(is_its)).map(|(_, _, dir)| dir)
}

/// (process, slot, folder) below an app's folder.
fn slots(app: &Path) -> Vec<(String, u32, PathBuf)> {
    let folders = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
    };
    let mut found: Vec<_> = folders(app)
        .flat_map(|(process, dir)| {
            folders(&dir)
                .filter_map(|(slot, dir)| Some((slot.parse().ok()?, dir)))
                .collect::<Vec<_>>()
                .into_iter()
                .map(move |(slot, dir): (u32, PathBuf)| (process.clone(), slot, dir))
        })
        .collect();
    found.sort();
    found
}

/// `(instance, attempt)` of a container's key.
pub(super) fn parse_key(key: &str) -> Option<(u64, u32)> {
    let (instance, attempt) = key.split_once('.')?;
    Some((instance.parse().ok()?, attempt.parse().ok()?))
}
