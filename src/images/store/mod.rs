//! The images on this machine's disk.
//!
//! ```text
//! ROOT/blobs/sha256/HEX     manifests, configurations, layers: exactly the bytes of their digest
//! ROOT/layers/HEX/          a layer unpacked, by diff id: a lower folder for overlayfs
//! ROOT/layers/HEX.json      what that took (record.rs)
//! ROOT/manifests/HEX        empty: this image is whole; made last, removed first
//! ROOT/tmp/                 work in progress, emptied at every start
//! ROOT/lock                 held by the one process that may write
//! ```
//! Everything is made in `tmp` and renamed into place after a sync, so a name that exists
//! is complete. The folder is root's alone: layers hold setuid programs.
//!
//! One mutex guards the names: publishing and the renames of a collection happen under it,
//! never the reading or writing of content. What an import relies on is pinned first.

mod gc;
mod staging;

pub use gc::GcReport;
pub(crate) use staging::Staging;

use super::document::{self, Document, Image, Layer};
use super::error::{Doing, Error, Fault};
use super::limits::Limits;
use super::streams::digest_bytes;
use super::unpack;
use crate::model::ids::Digest;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The image store of one node. Clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: PathBuf,
    names: Mutex<Names>,
    /// Unpacking again what a crash or a hand removed: rare, so one at a time.
    repairing: Mutex<()>,
    next_temporary: AtomicU64,
    _lock: File,
}

#[derive(Default)]
struct Names {
    pins: BTreeMap<Key, usize>,
}

/// What a pin can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Blob(Digest),
    Layer(Digest),
}

/// Keeps blobs and layers from being collected while it, or a clone of it, lives.
#[derive(Clone)]
pub struct Pin(#[allow(dead_code)] Arc<Held>);

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin")
    }
}

struct Held {
    store: Store,
    keys: BTreeSet<Key>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut names = self.store.names();
        for key in &self.keys {
            if let Some(count) = names.pins.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    names.pins.remove(key);
                }
            }
        }
    }
}

/// How much the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub images: usize,
    pub blobs: usize,
    pub blob_bytes: u64,
    pub layers: usize,
    pub unpacked_bytes: u64,
}

/// Kept beside an unpacked layer, so that nobody has to walk it to know its size.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Record {
    unpacked_bytes: u64,
    entries: u64,
}

impl Store {
    /// Opens the store at `root`, making it if there is none, and removes what an
    /// interrupted process left half-made.
    ///
    /// # Errors
    /// Another process has it open, or the folder cannot be made or written.
    pub fn open(root: &Path) -> Result<Store, Error> {
        Self::open_inner(root).map_err(|fault| match fault {
            Fault::Io { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock => {
                Error::InUse { root: root.to_owned() }
            }
            fault => fault.into_error(&root.display().to_string(), root),
        })
    }

    fn open_inner(root: &Path) -> Result<Store, Fault> {
        let opening = || format!("open the image store {}", root.display());
        DirBuilder::new().recursive(true).mode(0o700).create(root).doing(opening)?;
        let root = root.canonicalize().doing(opening)?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).doing(opening)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))
            .doing(opening)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).doing(opening)?;
        for folder in ["blobs/sha256", "layers", "manifests", "tmp"] {
            DirBuilder::new().recursive(true).mode(0o700).create(root.join(folder)).doing(opening)?;
        }
        for left in fs::read_dir(root.join("tmp")).doing(opening)? {
            remove_tree(&left.doing(opening)?.path())?;
        }
        Ok(Store(Arc::new(Inner {
            root,
            names: Mutex::default(),
            repairing: Mutex::default(),
            next_temporary: AtomicU64::new(0),
            _lock: lock,
        })))
    }

    /// The image's documents, read and verified now.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Damaged`] if the bytes are not those of the digest.
    pub fn image(&self, manifest: &Digest) -> Result<Image, Error> {
        if !self.contains(manifest) {
            return Err(Error::NotFound(manifest.clone()));
        }
        let bytes = self.read_blob(manifest)?;
        let parse = || -> Result<_, Fault> {
            let shape: serde_json::Value = document::json(&bytes, "the manifest")?;
            let declared = shape["mediaType"].as_str().unwrap_or(document::OCI_MANIFEST);
            match document::parse(&bytes, declared, "the manifest")? {
                Document::Manifest(parsed) => {
                    let config = document::pointer(parsed.config())?.0;
                    Ok((parsed, config))
                }
                Document::Index(_) => Err(Fault::Refused("the manifest is an index".to_owned())),
            }
        };
        let (parsed, config) = parse().map_err(|fault| self.damaged(manifest, fault))?;
        let config = self.read_blob(&config)?;
        // It was within the limits when it was loaded; those of today do not matter.
        document::image(&bytes, &parsed, &config, &Limits::default())
            .map_err(|fault| self.damaged(manifest, fault))
    }

    /// The folders of the image for overlayfs's `lowerdir`, top layer first. Layers are
    /// unpacked when they are loaded; one that is missing is unpacked again here.
    ///
    /// A folder is listed once even if the image has its layer twice (overlayfs refuses
    /// that; the upper one covers the lower), and nothing is listed below a layer whose
    /// root is opaque (overlayfs does not look at that mark on roots).
    ///
    /// # Errors
    /// As [`Store::image`], and those of unpacking.
    pub fn unpack(&self, manifest: &Digest) -> Result<Vec<PathBuf>, Error> {
        let image = self.image(manifest)?;
        let mut folders = Vec::new();
        for layer in image.layers.iter().rev() {
            let folder = self.layer_folder(&layer.diff_id);
            if !folder.is_dir() {
                self.unpack_again(layer)?;
            }
            if folders.contains(&folder) {
                continue;
            }
            let is_opaque =
                unpack::is_opaque(&folder).map_err(|fault| self.damaged(&layer.diff_id, fault))?;
            folders.push(folder);
            if is_opaque {
                break;
            }
        }
        Ok(folders)
    }

    fn unpack_again(&self, layer: &Layer) -> Result<(), Error> {
        let _one_at_a_time = self.0.repairing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.layer_folder(&layer.diff_id).is_dir() {
            return Ok(());
        }
        let run = || -> Result<(), Fault> {
            let staging = self.stage()?;
            let blob =
                File::open(self.blob_path(&layer.blob)).doing(|| format!("open layer {}", layer.blob))?;
            staging.add_layer(layer, blob, true, &Limits::default())?;
            staging.publish(&[]).map(drop)
        };
        run().map_err(|fault| self.damaged(&layer.blob, fault))
    }

    /// The images that are here.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        self.names_in("manifests").map_err(|fault| fault.into_error("the image store", self.root()))
    }

    /// Whether the image is here, whole.
    pub fn contains(&self, manifest: &Digest) -> bool {
        self.mark_path(manifest).exists()
    }

    pub fn usage(&self) -> Result<Usage, Error> {
        let run = || -> Result<Usage, Fault> {
            let blobs = self.names_in("blobs/sha256")?;
            let layers = self.names_in("layers")?;
            Ok(Usage {
                images: self.names_in("manifests")?.len(),
                blobs: blobs.len(),
                blob_bytes: blobs.iter().map(|blob| self.blob_size(blob)).sum(),
                layers: layers.len(),
                unpacked_bytes: layers.iter().map(|layer| self.record(layer).unpacked_bytes).sum(),
            })
        };
        run().map_err(|fault| fault.into_error("the image store", self.root()))
    }

    /// Bytes of a layer when unpacked; `None` if it is not here.
    pub fn unpacked_bytes(&self, diff_id: &Digest) -> Option<u64> {
        self.layer_folder(diff_id).is_dir().then(|| self.record(diff_id).unpacked_bytes)
    }

    /// Keeps the image from being collected, for as long as the pin lives.
    ///
    /// # Errors
    /// As [`Store::image`].
    pub fn pin(&self, manifest: &Digest) -> Result<Pin, Error> {
        // Pin first, look afterwards: what is seen then cannot go away.
        let mark = self.pin_keys([Key::Blob(manifest.clone())].into());
        let image = self.image(manifest)?;
        let all = self.pin_keys(gc::keys_of(&image));
        drop(mark);
        self.image(manifest)?;
        Ok(all)
    }

    /// The whole of a blob that is a document, verified.
    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let damaged = |reason: String| Error::Damaged { what: format!("blob {digest}"), reason };
        let file = File::open(self.blob_path(digest)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => damaged("it is missing".to_owned()),
            _ => Error::from_io(format!("open blob {digest}"), error, self.root()),
        })?;
        let most = Limits::default().max_document_bytes;
        let mut bytes = Vec::new();
        file.take(most)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::from_io(format!("read blob {digest}"), error, self.root()))?;
        match digest_bytes(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(damaged(format!("it holds {actual}"))),
        }
    }

    fn damaged(&self, digest: &Digest, fault: Fault) -> Error {
        match fault {
            Fault::Refused(reason) => Error::Damaged { what: digest.to_string(), reason },
            io => io.into_error("the image store", self.root()),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0.root
    }
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.root.join("blobs/sha256").join(digest.hex())
    }
    fn layer_folder(&self, diff_id: &Digest) -> PathBuf {
        self.0.root.join("layers").join(diff_id.hex())
    }
    fn record_path(&self, diff_id: &Digest) -> PathBuf {
        self.0.root.join("layers").join(format!("{}.json", diff_id.hex()))
    }
    fn mark_path(&self, manifest: &Digest) -> PathBuf {
        self.0.root.join("manifests").join(manifest.hex())
    }

    fn blob_size(&self, digest: &Digest) -> u64 {
        fs::metadata(self.blob_path(digest)).map_or(0, |metadata| metadata.len())
    }

    /// A lost record only makes a layer look small.
    fn record(&self, diff_id: &Digest) -> Record {
        let bytes = fs::read(self.record_path(diff_id)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// The digests that name entries of a folder; other names are not ours.
    fn names_in(&self, folder: &str) -> Result<Vec<Digest>, Fault> {
        let listing = || format!("list {folder} of the image store");
        let mut found = Vec::new();
        for entry in fs::read_dir(self.0.root.join(folder)).doing(listing)? {
            let name = entry.doing(listing)?.file_name();
            let digest = name.to_str().and_then(|hex| Digest::new(&format!("sha256:{hex}")).ok());
            found.extend(digest);
        }
        found.sort();
        Ok(found)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // A panic under the lock leaves counts and renames, each whole by itself.
        self.0.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn pin_keys(&self, keys: BTreeSet<Key>) -> Pin {
        let mut names = self.names();
        for key in &keys {
            *names.pins.entry(key.clone()).or_default() += 1;
        }
        Pin(Arc::new(Held { store: self.clone(), keys }))
    }

    fn temporary_path(&self, purpose: &str) -> PathBuf {
        let number = self.0.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.0.root.join("tmp").join(format!("{purpose}-{number}"))
    }
}

/// Removes a file or a folder with all that is in it, never through links.
fn remove_tree(path: &Path) -> Result<(), Fault> {
    let removing = || format!("remove {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).doing(removing),
        Ok(_) => fs::remove_file(path).doing(removing),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing(removing),
    }
}

fn sync_folder(path: &Path) -> Result<(), Fault> {
    let syncing = || format!("sync {}", path.display());
    File::open(path).doing(syncing)?.sync_all().doing(syncing)
}
