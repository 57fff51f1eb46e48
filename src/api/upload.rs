//! Uploads wait in files of their own until they are imported. Whatever happens to one, its
//! file is removed; what a killed node left is removed when the next one starts.

use super::Fault;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest archive: beyond any image that we have seen by a factor of three, and far
/// enough below a small disk that a mistake does not fill it unseen.
pub(super) const UPLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// At a time; the next caller waits. Each is bounded by the disk alone, so few.
const UPLOADS_MAX: usize = 4;

/// The folder of uploads.
pub(super) struct Uploads {
    dir: PathBuf,
    next: AtomicU64,
    places: Arc<Semaphore>,
}

impl Uploads {
    /// Makes the folder, and empties it of what a killed node left.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            if is_ours && entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, next: AtomicU64::new(1), places: Arc::new(Semaphore::new(UPLOADS_MAX)) })
    }

    /// A new, empty upload; waits while too many are under way.
    pub async fn create(&self) -> Result<Upload, Fault> {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{PREFIX}{number}"));
        let file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await;
        // The guard is made before anything can fail or be dropped, so that the file never outlives it.
        let guard = RemoveOnDrop(path);
        let file = file.map_err(|error| disk_fault(&error, &self.dir, 0))?;
        Ok(Upload {
            file: Some(tokio::io::BufWriter::with_capacity(WRITE_BYTES, file)),
            guard,
            bytes: 0,
            _place: place,
        })
    }
}

const PREFIX: &str = "upload-";
/// Chunks come in some tens of kilobytes; each write to a file is a trip to another thread.
const WRITE_BYTES: usize = 1024 * 1024;

/// One upload; its file goes with it.
pub(super) struct Upload {
    file: Option<tokio::io::BufWriter<tokio::fs::File>>,
    guard: RemoveOnDrop,
    pub bytes: u64,
    _place: OwnedSemaphorePermit,
}

impl Upload {
    pub fn path(&self) -> &Path {
        &self.guard.0
    }

    pub async fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.bytes += data.len() as u64;
        if self.bytes > UPLOAD_BYTES_MAX {
            return Err(Fault::TooLarge(format!(
                "the archive is larger than {}, the most that is taken",
                crate::model::resources::Bytes(UPLOAD_BYTES_MAX)
            )));
        }
        let Some(file) = &mut self.file else { return Err(Fault::Internal("the upload is complete".into())) };
        file.write_all(data).await.map_err(|error| disk_fault(&error, self.guard.0.as_path(), self.bytes))
    }

    /// Everything is in the file, which is then closed for writing. Not synced: an upload that
    /// a power cut takes was not acknowledged.
    pub async fn finish(&mut self) -> Result<(), Fault> {
        if let Some(mut file) = self.file.take() {
            // The inner flush too: tokio's file reports a failed write at the next call.
            let result = match file.flush().await {
                Ok(()) => file.get_mut().flush().await,
                Err(error) => Err(error),
            };
            result.map_err(|error| disk_fault(&error, self.guard.0.as_path(), self.bytes))?;
        }
        Ok(())
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "could not remove an upload");
        }
    }
}

fn disk_fault(error: &io::Error, path: &Path, bytes: u64) -> Fault {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::TooLarge(format!(
            "the node's disk is full after {} of the upload: free some space (`nodectl image gc`), then try again",
            crate::model::resources::Bytes(bytes)
        )),
        _ => Fault::Internal(format!("could not write the upload to {path}: {error}")),
    }
}
