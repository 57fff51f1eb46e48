//! Removing what no image in use reaches.

use super::super::document::Image;
use super::super::error::{Doing, Error, Fault};
use super::{Key, Store, remove_tree, sync_folder};
use crate::model::ids::Digest;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    pub images_removed: usize,
    pub blobs_removed: usize,
    pub layers_removed: usize,
    /// Blobs and unpacked layers together.
    pub bytes_freed: u64,
}

impl Store {
    /// Removes blobs and layers that no image of `roots` reaches.
    ///
    /// `roots` is called while nothing can be published, and after the pins were read: an
    /// image that is being loaded is pinned, and one whose pin was dropped because its
    /// owner has recorded it is in what `roots` then reads. It must not call the store.
    ///
    /// # Errors
    /// A root that is damaged stops it with nothing removed, since what that root reaches
    /// cannot be known. A root that is not on this machine does not matter.
    pub fn gc(&self, roots: impl FnOnce() -> BTreeSet<Digest>) -> Result<GcReport, Error> {
        let trash = self.temporary_path("trash");
        let report = self.move_unreached(roots, &trash)?;
        // The slow part, without the lock.
        remove_tree(&trash).map_err(|fault| fault.into_error("the image store", self.root()))?;
        Ok(report)
    }

    /// What [`Store::gc`] would remove now; removes nothing.
    ///
    /// # Errors
    /// As `gc`'s.
    pub fn gc_plan(&self, roots: impl FnOnce() -> BTreeSet<Digest>) -> Result<GcReport, Error> {
        let names = self.names();
        let keep = self.reached(&names, roots)?;
        let to_error = |fault: Fault| fault.into_error("the image store", self.root());
        self.move_others(&keep, None).map_err(to_error)
    }

    fn reached(
        &self,
        names: &super::Names,
        roots: impl FnOnce() -> BTreeSet<Digest>,
    ) -> Result<BTreeSet<Key>, Error> {
        let mut keep: BTreeSet<Key> = names.pins.keys().cloned().collect();
        for root in roots() {
            if self.contains(&root) {
                keep.extend(keys_of(&self.image(&root)?));
            }
        }
        Ok(keep)
    }

    fn move_unreached(
        &self,
        roots: impl FnOnce() -> BTreeSet<Digest>,
        trash: &std::path::Path,
    ) -> Result<GcReport, Error> {
        let names = self.names();
        let keep = self.reached(&names, roots)?;
        let to_error = |fault: Fault| fault.into_error("the image store", self.root());
        self.move_others(&keep, Some(trash)).map_err(to_error)
    }

    /// Without a `trash`, only counts.
    fn move_others(&self, keep: &BTreeSet<Key>, trash: Option<&std::path::Path>) -> Result<GcReport, Fault> {
        if let Some(trash) = trash {
            fs::create_dir(trash).doing(|| format!("make {}", trash.display()))?;
        }
        let mut report = GcReport::default();
        let mut number = 0;
        let mut throw_away = |path: PathBuf| -> Result<(), Fault> {
            let Some(trash) = trash else { return Ok(()) };
            number += 1;
            match fs::rename(&path, trash.join(number.to_string())) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result.doing(|| format!("remove {}", path.display())),
            }
        };
        // Marks first, for good: an image without its blobs must not look whole.
        for manifest in self.names_in("manifests")? {
            if !keep.contains(&Key::Blob(manifest.clone())) {
                throw_away(self.mark_path(&manifest))?;
                report.images_removed += 1;
            }
        }
        sync_folder(&self.root().join("manifests"))?;
        for blob in self.names_in("blobs/sha256")? {
            if !keep.contains(&Key::Blob(blob.clone())) {
                report.bytes_freed += self.blob_size(&blob);
                throw_away(self.blob_path(&blob))?;
                report.blobs_removed += 1;
            }
        }
        for layer in self.names_in("layers")? {
            if !keep.contains(&Key::Layer(layer.clone())) {
                report.bytes_freed += self.record(&layer).unpacked_bytes;
                throw_away(self.layer_folder(&layer))?;
                throw_away(self.record_path(&layer))?;
                report.layers_removed += 1;
            }
        }
        Ok(report)
    }
}

/// Everything that an image is made of.
pub(super) fn keys_of(image: &Image) -> BTreeSet<Key> {
    let documents = [&image.manifest, &image.config_digest].map(|digest| Key::Blob(digest.clone()));
    let layers = image.layers.iter();
    let layers = layers.flat_map(|layer| [Key::Blob(layer.blob.clone()), Key::Layer(layer.diff_id.clone())]);
    documents.into_iter().chain(layers).collect()
}
