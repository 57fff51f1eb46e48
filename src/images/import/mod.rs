//! Loading images: from a source that a user named to verified, unpacked images in the
//! store. All or nothing: whatever is wrong, the store is as it was.
//!
//! ```text
//! source.rs ─► docker.rs / oci.rs: what images are there, and do their documents hold
//!           ─► layers, several at a time: hash, copy, inflate, hash, unpack in one pass
//!           ─► staging.rs: one sync, then renamed into place, the image's own mark last
//! ```

mod assemble;
mod docker;
mod layers;
mod oci;

use super::document::Image;
use super::error::{Error, Fault, refuse, shown};
use super::limits::Limits;
use super::name;
use super::platform::Platform;
use super::source::{Member, NO_IMAGE, Source};
use super::store::{Pin, Store};
use crate::model::ids::Digest;
use std::path::Path;

pub use assemble::LayerWriter;

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Layers to unpack, those that the store already has not counted.
    pub layers: usize,
    pub layers_done: usize,
    /// Bytes of those layers as the source holds them.
    pub bytes: u64,
    pub bytes_done: u64,
}

/// An image that is now in the store.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The names in the archive in their normal form, such as `shop:1`; may be empty.
    pub names: Vec<String>,
    /// A layout may give a tag without a name.
    pub tag: Option<String>,
    pub manifest: Digest,
    pub platform: Platform,
    /// Manifest, configuration and layers as they are stored.
    pub size_bytes: u64,
    /// Keeps the image from [`Store::gc`] until its owner has recorded it. Drop it only
    /// after that.
    pub pin: Pin,
}

/// An image in a source, its documents verified, its layers not yet read.
pub(super) struct Found {
    pub image: Image,
    pub manifest_bytes: Vec<u8>,
    pub config_bytes: Vec<u8>,
    /// Beside `image.layers`.
    pub layers: Vec<LayerSource>,
    pub names: Vec<String>,
    pub tag: Option<String>,
}

pub(super) enum LayerSource {
    Member(Member),
    /// Listed and not there; the store may have it.
    Absent,
}

/// A fault, or an image for other machines.
pub(super) enum Problem {
    Fault(Fault),
    WrongPlatform { machine: Platform, available: Vec<Platform> },
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Problem::Fault(fault)
    }
}

impl Store {
    /// Loads every image of `source` that this machine runs: a docker-save archive, an OCI
    /// layout as archive or folder, an archive perhaps compressed with gzip or zstd.
    /// Layers are unpacked at once, so that a deployment need not wait for it.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the source, [`Error::WrongPlatform`] what
    /// it has instead, [`Error::DiskFull`] and the others what is wrong here. Nothing of
    /// the source is kept on any of them.
    pub fn import(
        &self,
        source: &Path,
        limits: &Limits,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Imported>, Error> {
        let what = source.display().to_string();
        let mut run = || -> Result<Vec<Imported>, Problem> {
            let mut staging = self.stage()?;
            let source = Source::open(source, limits, || staging.scratch_file())?;
            let found = find(&source, limits)?;
            layers::stage(&mut staging, &found, limits, progress)?;
            for one in &found {
                staging.add_document(&one.image.config_digest, &one.config_bytes)?;
                staging.add_document(&one.image.manifest, &one.manifest_bytes)?;
            }
            let manifests: Vec<_> = found.iter().map(|one| one.image.manifest.clone()).collect();
            let pin = staging.publish(&manifests)?;
            Ok(found.into_iter().map(|one| one.into_imported(&pin)).collect())
        };
        run().map_err(|problem| problem.into_error(&what, self.root()))
    }
}

impl Found {
    fn into_imported(self, pin: &Pin) -> Imported {
        Imported {
            names: self.names,
            tag: self.tag,
            manifest: self.image.manifest,
            platform: self.image.platform,
            size_bytes: self.image.size_bytes,
            pin: pin.clone(),
        }
    }
}

fn find(source: &Source, limits: &Limits) -> Result<Vec<Found>, Problem> {
    let layout = source.read_document("oci-layout", limits)?;
    let index = source.read_document("index.json", limits)?;
    let saved = source.read_document("manifest.json", limits)?;
    match (layout, index, saved) {
        // Docker from 25 on writes both; the layout says more.
        (Some(layout), Some(index), _) => oci::find(source, &layout, &index, limits),
        (_, _, Some(saved)) => Ok(docker::find(source, &saved, limits)?),
        (None, Some(_), None) => {
            Err(Fault::Refused("it has an index.json and no oci-layout file".to_owned()).into())
        }
        (Some(_), None, None) => {
            Err(Fault::Refused("it has an oci-layout file and no index.json".to_owned()).into())
        }
        (None, None, None) => Err(Fault::Refused(format!(
            "it holds no image: neither manifest.json (docker save) nor oci-layout and index.json (OCI \
             layout); {NO_IMAGE}"
        ))
        .into()),
    }
}

fn archive_name(text: &str) -> Result<String, Fault> {
    match name::normalise(text) {
        Ok(name) => Ok(name),
        Err(error) => refuse!("it names an image {}, which {}", shown(text.as_bytes()), error.problem),
    }
}
