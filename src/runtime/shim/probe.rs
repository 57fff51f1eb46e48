//! `nodectl shim --probe FOLDER`: whether this host can do what containers need.

use crate::runtime::rootdir;
use crate::runtime::stage::Stage;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

/// `nodectl shim --probe LOWER`: whether this host can do what containers need, in its own
/// process so that a node with threads need not unshare anything. The answer is a word on
/// standard output: `ok`, `no-idmap: …`, `no-overlay: …`.
pub(super) fn main(folder: &Path) -> ExitCode {
    let answer = match try_probe(folder) {
        Ok(()) => "ok".to_owned(),
        Err(text) => text,
    };
    println!("{answer}");
    ExitCode::SUCCESS
}

fn try_probe(folder: &Path) -> Result<(), String> {
    let text = |error: rootdir::Error| super::chain(&error);
    rootdir::leave_host_mounts().map_err(|e| format!("no-overlay: {}", text(e)))?;
    let lower = vec![folder.join("lower")];
    let scratch = folder.join("scratch");
    let overlay = |userns: Option<&OwnedFd>, kind: &str| {
        let layers = rootdir::open_layers(&lower, userns)?;
        let scratch = rootdir::open_scratch(&scratch.join(kind), &layers, 0)?;
        let place = Stage::new(0)?.attach()?;
        rootdir::mount_overlay(&place, &layers, &scratch)
    };
    overlay(None, "plain").map_err(|e| format!("no-overlay: {}", text(e)))?;
    let mapped = || {
        let userns = rootdir::user_namespace(crate::runtime::ids::DEFAULT_BASE)?;
        overlay(Some(&userns), "mapped").map(|_| userns.as_raw_fd())
    };
    mapped().map_err(|e| format!("no-idmap: {}", text(e)))?;
    Ok(())
}
