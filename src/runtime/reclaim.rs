//! Taking back everything that a container had on this host, whatever state it was left in.

use crate::runtime::cgroup::Place;
use crate::runtime::ids::Pool;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a container of this key may have had.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    pub key: String,
    pub cgroup: Place,
    pub folder: PathBuf,
    pub scratch: PathBuf,
    pub id_base: Option<u32>,
    pub ids: Pool,
}

impl Remains {
    /// Kills what still runs, and removes all of it; idempotent. Blocking.
    ///
    /// The run folder goes last: as long as it is there, a later sweep tries again.
    ///
    /// # Errors
    /// A process that the kernel doesn't let die, or a disk that refuses.
    pub(crate) fn reclaim(&self) -> io::Result<()> {
        self.cgroup.destroy(Duration::from_secs(10))?;
        remove_all(&self.scratch)?;
        match self.id_base {
            Some(base) => self.ids.release_base(base),
            None => self.ids.release(&self.key),
        }
        remove_all(&self.folder)
    }
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
