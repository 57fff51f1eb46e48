//! The disk on sled 0.34. What sled needs to be trusted with a log:
//!
//! - `flush()` does not survive a power cut (it uses sync_file_range, which commits neither the
//!   file's length nor the drive's cache): each sync is a flush and then fdatasync of sled's
//!   file.
//! - Items above about 128 KiB go to blob files that sled never syncs: every value is at most
//!   4 KiB, longer records are stored in chunks.
//! - Its page cache may take 1 GiB unless told otherwise.
//! - It panics on some damaged files: see `guarded`.

use super::disk::{Disk, Name, Op};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokio::sync::oneshot;

/// Values of at most 4 KiB, the key included.
const CHUNK_BYTES: usize = 4000;
/// Sled's own page cache. The log is read once, at start; recent entries are kept by `log.rs`.
const CACHE_BYTES: u64 = 8 << 20;
/// Pages are rewritten in segments of this size, and up to a few are kept in memory.
const SEGMENT_BYTES: usize = 512 << 10;

pub(super) struct SledDisk {
    db: sled::Db,
    log: sled::Tree,
    names: sled::Tree,
    /// Sled's file, for the sync that sled leaves out.
    file: File,
    /// Dropped last: whoever holds the other end learns that the files are free.
    _released: oneshot::Sender<()>,
}

impl SledDisk {
    /// Opens the disk in `dir`, or makes it.
    ///
    /// # Errors
    /// Whatever sled says, a panic of its included. `InvalidData` is damage.
    pub fn open(dir: &Path) -> io::Result<(Self, oneshot::Receiver<()>)> {
        std::fs::create_dir_all(dir)?;
        let opened = retried(|| {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                // The writer syncs; sled's own timer would only burn CPU.
                .flush_every_ms(None)
                .open()?;
            let log = db.open_tree("log")?;
            let names = db.open_tree("names")?;
            db.flush()?;
            Ok((db, log, names))
        });
        let (db, log, names) = opened?;
        let file = File::options().read(true).write(true).open(dir.join("db"))?;
        file.sync_all()?;
        // The names of `db` and `conf` themselves must survive, too.
        for path in [dir, dir.parent().unwrap_or(dir)] {
            File::open(path)?.sync_all()?;
        }
        let (_released, released) = oneshot::channel();
        Ok((Self { db, log, names, file, _released }, released))
    }

    fn apply(&self, ops: &[Op]) -> sled::Result<()> {
        let mut batch = sled::Batch::default();
        let mut pending = false;
        for op in ops {
            match op {
                Op::PutEntry { index, record } => {
                    for (chunk, part) in record.chunks(CHUNK_BYTES).enumerate() {
                        batch.insert(&key(*index, chunk as u32)[..], part);
                    }
                    pending = true;
                }
                Op::RemoveEntries(range) => {
                    if std::mem::take(&mut pending) {
                        self.log.apply_batch(std::mem::take(&mut batch))?;
                    }
                    self.remove(range)?;
                }
                Op::Put { name, record } => {
                    if std::mem::take(&mut pending) {
                        self.log.apply_batch(std::mem::take(&mut batch))?;
                    }
                    self.names.insert(name.as_str(), &record[..])?;
                }
            }
        }
        if pending {
            self.log.apply_batch(batch)?;
        }
        Ok(())
    }

    /// From the end backward: a crash in between leaves no hole.
    fn remove(&self, range: &Range<u64>) -> sled::Result<()> {
        loop {
            let mut batch = sled::Batch::default();
            let mut any = false;
            let keys = self.log.range(key(range.start, 0)..key(range.end, 0)).keys().rev();
            for found in keys.take(4096) {
                batch.remove(found?);
                any = true;
            }
            if !any {
                return Ok(());
            }
            self.log.apply_batch(batch)?;
        }
    }

    fn scan(&self, range: Range<u64>, limit_bytes: usize) -> sled::Result<Vec<(u64, Bytes)>> {
        let mut entries: Vec<(u64, Bytes)> = Vec::new();
        let mut current: Option<(u64, Vec<u8>)> = None;
        let mut taken = 0;
        for item in self.log.range(key(range.start, 0)..key(range.end, 0)) {
            let (found, value) = item?;
            let index = index_of(&found);
            match &mut current {
                Some((open, record)) if *open == index => record.extend_from_slice(&value),
                _ => {
                    if let Some((done, record)) = current.take() {
                        taken += record.len();
                        entries.push((done, record.into()));
                        if taken >= limit_bytes {
                            return Ok(entries);
                        }
                    }
                    current = Some((index, value.to_vec()));
                }
            }
        }
        entries.extend(current.map(|(index, record)| (index, record.into())));
        Ok(entries)
    }
}

impl Disk for SledDisk {
    fn write(&self, ops: &[Op]) -> io::Result<()> {
        guarded(|| self.apply(ops))
    }

    fn sync(&self) -> io::Result<()> {
        guarded(|| self.db.flush().map(drop))?;
        // The data, and of what is about the file all that reading it back needs: its length
        // and where its blocks are, not its times, which would be a journal commit each time.
        self.file.sync_data()
    }

    fn get(&self, name: Name) -> io::Result<Option<Bytes>> {
        guarded(|| Ok(self.names.get(name.as_str())?.map(|value| Bytes::copy_from_slice(&value))))
    }

    fn entries(&self, range: Range<u64>, limit_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        guarded(|| self.scan(range, limit_bytes))
    }

    fn size_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }
}

/// Index, then chunk, both big-endian: sled's order is the log's order.
fn key(index: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> u64 {
    // A key of another length can only be damage; the checksum of what it leads to says so.
    key.get(..8).map_or(u64::MAX, |bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
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
        Ok(Err(sled::Error::Io(e))) => Err(e),
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
