//! Tests of the room as its callers see it: archives in, folders or refusals out. The
//! archives are built here, byte by byte where it matters.

mod build;
mod good;
mod hostile;
mod random;
mod store;
mod tools;

use super::{Limits, Store};
use std::path::Path;

/// Layers keep owners and devices, which only root may make.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

fn has_tool(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    if !found {
        eprintln!("skipped: needs {name}");
    }
    found
}

fn open(folder: &Path) -> Store {
    Store::open(&folder.join("images")).expect("a store")
}

fn import(store: &Store, source: &Path) -> Result<Vec<super::Imported>, super::Error> {
    store.import(source, &Limits::default(), &mut |_| ())
}

/// Runs `test` on a thread with mounts of its own, which go when the thread ends, however
/// it ends.
fn in_own_mounts(test: impl FnOnce() + Send + 'static) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            eprintln!("skipped: needs mount namespaces ({error})");
            return;
        }
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of our own");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn mount(source: &str, target: &Path, kind: &str, options: &str) {
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(options)).expect("a mount");
}
