//! The records that are written once or seldom, in sled: whose store this is, and which
//! snapshots are kept. What sled needs to be trusted with them:
//!
//! - `flush()` does not survive a power cut (it uses sync_file_range, which commits neither the
//!   file's length nor the drive's cache): each write is a flush and then fdatasync of sled's
//!   file.
//! - Its page cache may take 1 GiB unless told otherwise.
//! - It panics on some damaged files (see `guarded`), and after a start on a full disk it may not
//!   open again. What is here can be made anew from the snapshots themselves: `parts.rs` does.

use super::disk::Name;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokio::sync::oneshot;

/// All that is here fits many times over.
const CACHE_BYTES: u64 = 256 << 10;
const SEGMENT_BYTES: usize = 64 << 10;

pub(super) struct Names {
    db: sled::Db,
    /// Sled's file, for the sync that sled leaves out.
    file: File,
    /// Dropped last: whoever holds the other end learns that the files are free.
    _released: oneshot::Sender<()>,
}

impl Names {
    /// Opens what is in `dir`, or makes it.
    ///
    /// # Errors
    /// Whatever sled says, a panic of its included. `InvalidData` is damage.
    pub fn open(dir: &Path) -> io::Result<(Self, oneshot::Receiver<()>)> {
        std::fs::create_dir_all(dir)?;
        let db = retried(|| {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                // Each write is synced; sled's own timer would only burn CPU.
                .flush_every_ms(None)
                .open()?;
            db.flush()?;
            Ok(db)
        })?;
        let file = File::options().read(true).write(true).open(dir.join("db"))?;
        file.sync_all()?;
        // The names of `db` and `conf` themselves must survive, too.
        for path in [dir, dir.parent().unwrap_or(dir)] {
            File::open(path)?.sync_all()?;
        }
        let (_released, released) = oneshot::channel();
        Ok((Self { db, file, _released }, released))
    }

    pub fn get(&self, name: Name) -> io::Result<Option<Bytes>> {
        guarded(|| Ok(self.db.get(name.as_str())?.map(|value| Bytes::copy_from_slice(&value))))
    }

    /// Durable when this returns.
    pub fn put(&self, name: Name, record: &[u8]) -> io::Result<()> {
        guarded(|| {
            self.db.insert(name.as_str(), record)?;
            self.db.flush().map(drop)
        })?;
        self.file.sync_data()
    }
}

/// Sled locks its file, and a store that was just closed in this process may hold that lock for
/// a moment in one of sled's threads. No other process can: our own lock came first.
fn retried<T>(work: impl Fn() -> sled::Result<T>) -> io::Result<T> {
    for _ in 0..200 {
        match guarded(&work) {
            Err(e) if e.to_string().contains("could not acquire lock") => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            other => return other,
        }
    }
    guarded(work)
}

/// Sled panics on some damaged files: here that is an error like any other.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        // The system's own errors; "failed to fill whole buffer" and the like are damage.
        Ok(Err(sled::Error::Io(e))) if e.raw_os_error().is_some() => Err(e),
        Ok(Err(e)) => Err(invalid(format!("sled: {e}"))),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(invalid(format!("sled gave up: {text}")))
        }
    }
}
