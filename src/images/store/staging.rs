//! What is on its way into the store: made in a folder of `tmp`, and either published
//! whole or gone when this value is dropped.

use super::super::document::Layer;
use super::super::error::{Doing, Fault, refuse};
use super::super::limits::Limits;
use super::super::streams::{digest_bytes, pass_layer};
use super::super::unpack::{Unpacked, unpack};
use super::{Key, Pin, Record, Store, remove_tree, sync_folder};
use crate::model::ids::Digest;
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(crate) struct Staging {
    store: Store,
    folder: PathBuf,
    /// What of the store the new images rely on, so that no collection takes it away.
    pins: Vec<Pin>,
}

impl Store {
    pub(crate) fn stage(&self) -> Result<Staging, Fault> {
        let folder = self.temporary_path("staging");
        for part in ["", "blobs", "layers", "manifests"] {
            let path = folder.join(part);
            DirBuilder::new().mode(0o700).create(&path).doing(|| format!("make {}", path.display()))?;
        }
        Ok(Staging { store: self.clone(), folder, pins: Vec::new() })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Whatever cannot be removed now is removed at the next start.
        let _ = remove_tree(&self.folder);
    }
}

impl Staging {
    /// A file without a name, gone when it is closed.
    pub fn scratch_file(&self) -> Result<File, Fault> {
        let path = self.folder.join("scratch");
        let making = || "make a temporary file".to_owned();
        let file = File::options().read(true).write(true).create_new(true).open(&path).doing(making)?;
        fs::remove_file(&path).doing(making)?;
        Ok(file)
    }

    /// Whether the store has the layer's bytes; if so they stay.
    pub fn has_blob(&mut self, layer: &Layer) -> Result<bool, Fault> {
        self.pins.push(self.store.pin_keys([Key::Blob(layer.blob.clone())].into()));
        match fs::metadata(self.store.blob_path(&layer.blob)) {
            Ok(metadata) if metadata.len() != layer.blob_bytes => {
                refuse!(
                    "wrong size: layer {} has {} bytes, its descriptor says {}",
                    layer.blob,
                    metadata.len(),
                    layer.blob_bytes
                )
            }
            Ok(_) => Ok(true),
            Err(_) => Ok(false),
        }
    }

    /// Whether the store has the layer unpacked; if so it stays.
    pub fn has_layer(&mut self, diff_id: &Digest) -> bool {
        self.pins.push(self.store.pin_keys([Key::Layer(diff_id.clone())].into()));
        self.store.layer_folder(diff_id).is_dir()
    }

    /// Whether the layer was staged before, as another layer of the same image.
    pub fn has_staged(&self, layer: &Layer) -> bool {
        self.blob_path(&layer.blob).exists()
    }

    /// Adds a small blob.
    pub fn add_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Fault> {
        debug_assert_eq!(*digest, digest_bytes(bytes));
        fs::write(self.blob_path(digest), bytes).doing(|| format!("write blob {digest}"))
    }

    /// Reads a layer once: its bytes into a blob, its archive into a folder, both digests
    /// compared with what the image promises before anything can be published.
    pub fn add_layer(
        &self,
        layer: &Layer,
        source: impl Read,
        unpacking: bool,
        limits: &Limits,
    ) -> Result<Unpacked, Fault> {
        let making = || format!("make layer {}", layer.diff_id);
        let blob = File::create_new(self.blob_path(&layer.blob)).doing(making)?;
        let passed = pass_layer(source, Some(blob), layer.compression, limits, |plain| match unpacking {
            true => {
                let folder = self.layer_folder(&layer.diff_id);
                DirBuilder::new().mode(0o700).create(&folder).doing(making)?;
                unpack(plain, File::open(&folder).doing(making)?.as_fd(), limits)
            }
            false => {
                std::io::copy(plain, &mut std::io::sink()).doing(|| "read the layer".to_owned())?;
                Ok(Unpacked::default())
            }
        })?;
        // The plain digest first: without compression the two are one, and the diff id is
        // the name that means something to the image's maker.
        if passed.diff_id != layer.diff_id {
            refuse!("wrong diff id: rootfs.diff_ids says {}, the layer is {}", layer.diff_id, passed.diff_id);
        }
        if passed.blob != layer.blob {
            refuse!("bad digest: it holds {}", passed.blob);
        }
        if passed.blob_bytes != layer.blob_bytes {
            refuse!(
                "wrong size: it has {} bytes, its descriptor says {}",
                passed.blob_bytes,
                layer.blob_bytes
            );
        }
        if unpacking {
            let record = Record { unpacked_bytes: passed.result.bytes, entries: passed.result.entries };
            let record = serde_json::to_vec(&record).map_err(std::io::Error::from).doing(making)?;
            fs::write(self.record_path(&layer.diff_id), record).doing(making)?;
        }
        Ok(passed.result)
    }

    /// Makes everything staged part of the store, and `manifests` images of it. The pin
    /// that comes back holds all of it.
    pub fn publish(self, manifests: &[Digest]) -> Result<Pin, Fault> {
        let root = self.store.root().to_owned();
        for manifest in manifests {
            let mark = self.folder.join("manifests").join(manifest.hex());
            File::create(mark).doing(|| format!("mark image {manifest}"))?;
        }
        // One sync for everything that was written, however many files. What needs room on
        // the disk is done by then; from here on it is renames.
        let folder = File::open(&self.folder).doing(|| "open the staging folder".to_owned())?;
        rustix::fs::syncfs(&folder).doing(|| "sync the image store".to_owned())?;
        let staged = |part: &str| names_of(&self.folder.join(part));
        let layers = staged("layers")?;
        let blobs = staged("blobs")?;
        let mut names = self.store.names();
        // Records first: a folder without one looks empty, the reverse does no harm.
        let (records, folders): (Vec<_>, Vec<_>) =
            layers.into_iter().partition(|name| name.ends_with(".json"));
        for name in records.iter().chain(&folders) {
            put(&self.folder.join("layers").join(name), &root.join("layers").join(name))?;
        }
        sync_folder(&root.join("layers"))?;
        for name in &blobs {
            put(&self.folder.join("blobs").join(name), &root.join("blobs/sha256").join(name))?;
        }
        sync_folder(&root.join("blobs/sha256"))?;
        for manifest in manifests {
            put(&self.folder.join("manifests").join(manifest.hex()), &self.store.mark_path(manifest))?;
        }
        sync_folder(&root.join("manifests"))?;
        // Still under the lock: no collection can come between the names and the pin.
        let digest = |hex: &String| Digest::new(&format!("sha256:{hex}")).ok();
        let mut keys: std::collections::BTreeSet<Key> =
            blobs.iter().filter_map(digest).map(Key::Blob).collect();
        keys.extend(folders.iter().filter_map(digest).map(Key::Layer));
        for pin in &self.pins {
            keys.extend(pin.0.keys.iter().cloned());
        }
        for key in &keys {
            *names.pins.entry(key.clone()).or_default() += 1;
        }
        drop(names);
        Ok(Pin(std::sync::Arc::new(super::Held { store: self.store.clone(), keys })))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.hex())
    }
    fn layer_folder(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join("layers").join(diff_id.hex())
    }
    fn record_path(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join("layers").join(format!("{}.json", diff_id.hex()))
    }
}

fn names_of(folder: &Path) -> Result<Vec<String>, Fault> {
    let listing = || format!("list {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).doing(listing)? {
        names.extend(entry.doing(listing)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Renames into place unless the same content is there already, from another load. Only
/// called under the store's lock.
fn put(from: &Path, to: &Path) -> Result<(), Fault> {
    if to.exists() {
        return Ok(());
    }
    fs::rename(from, to).doing(|| format!("put {} in place", to.display()))
}
