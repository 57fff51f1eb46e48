//! Indexes, manifests and configurations: from verified bytes to values that hold together.
//! Pure. (OCI image-spec: image-index.md, manifest.md, config.md; Docker's schema 2.)

use super::error::{Fault, refuse, shown};
use super::limits::Limits;
use super::platform::Platform;
use super::streams::{Compression, digest_bytes};
use crate::model::ids::Digest;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// One image of one platform, its documents parsed and found to fit each other.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Digest,
    pub config_digest: Digest,
    pub platform: Platform,
    /// What the image says about running it: entrypoint, environment, user, ports.
    pub config: ImageConfiguration,
    /// Lowest first, as in the manifest.
    pub layers: Vec<Layer>,
    /// Manifest, configuration and layers as they are stored, compressed or not.
    pub size_bytes: u64,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the bytes as stored.
    pub blob: Digest,
    pub blob_bytes: u64,
    /// Of the archive, uncompressed.
    pub diff_id: Digest,
    pub(crate) compression: Compression,
}

impl Layer {
    /// As OCI names it (image-spec, media-types.md).
    pub fn media_type(&self) -> &'static str {
        match self.compression {
            Compression::None => OCI_LAYER,
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// What a descriptor leads to.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// A descriptor's digest and size in our types.
pub(crate) fn pointer(descriptor: &Descriptor) -> Result<(Digest, u64), Fault> {
    let text = descriptor.digest().to_string();
    let Ok(digest) = Digest::new(&text) else {
        refuse!("the digest {} is not sha256: and 64 hex digits", shown(text.as_bytes()));
    };
    if descriptor.size() > i64::MAX as u64 {
        refuse!("{digest} has the impossible size {}", descriptor.size());
    }
    Ok((digest, descriptor.size()))
}

/// Whether a media type names an index or a manifest; `None` for anything else.
pub(crate) fn is_index_type(media_type: &str) -> Option<bool> {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Some(true),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        _ => None,
    }
}

/// The keys by which an index could be taken for a manifest or the reverse
/// (CVE-2021-41190).
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<IgnoredAny>,
}

/// Parses what a descriptor of type `declared` led to.
pub(crate) fn parse(bytes: &[u8], declared: &str, what: &str) -> Result<Document, Fault> {
    let shape: Shape = json(bytes, what)?;
    if shape.fs_layers.is_some() {
        refuse!("{what} is in Docker's schema 1, which carries no digests of its layers");
    }
    let holds_index = shape.manifests.is_some();
    if holds_index && (shape.layers.is_some() || shape.config.is_some()) {
        refuse!("{what} is an index and a manifest at once");
    }
    if let Some(inner) = shape.media_type.as_deref().filter(|inner| *inner != declared) {
        refuse!(
            "conflicting media types: {what} is listed as {declared} and calls itself {}",
            shown(inner.as_bytes())
        );
    }
    match is_index_type(declared) {
        Some(true) if holds_index => Ok(Document::Index(json(bytes, what)?)),
        Some(false) if !holds_index => Ok(Document::Manifest(json(bytes, what)?)),
        Some(is_index) => {
            let expected = if is_index { "an index" } else { "a manifest" };
            refuse!("{what} is listed as {expected} and is none")
        }
        None => refuse!("{what} is of the media type {}, no image", shown(declared.as_bytes())),
    }
}

/// The index that a layout's `index.json` holds.
pub(crate) fn parse_root_index(bytes: &[u8]) -> Result<ImageIndex, Fault> {
    let shape: Shape = json(bytes, "index.json")?;
    let declared = shape.media_type.as_deref().unwrap_or(OCI_INDEX).to_owned();
    match parse(bytes, &declared, "index.json")? {
        Document::Index(index) => Ok(*index),
        Document::Manifest(_) => refuse!("index.json is a manifest instead of an index"),
    }
}

/// Puts a manifest and its configuration together.
pub(crate) fn image(
    manifest_bytes: &[u8],
    manifest: &ImageManifest,
    config_bytes: &[u8],
    limits: &Limits,
) -> Result<Image, Fault> {
    let config_type = manifest.config().media_type().to_string();
    if !matches!(&*config_type, OCI_CONFIG | DOCKER_CONFIG) {
        refuse!(
            "its configuration is of the media type {}: not a container image",
            shown(config_type.as_bytes())
        );
    }
    let config: ImageConfiguration = json(config_bytes, "the image's configuration")?;
    let (config_digest, config_size) = pointer(manifest.config())?;
    let diff_ids = diff_ids(&config)?;
    let listed = manifest.layers();
    if listed.len() != diff_ids.len() {
        refuse!("the manifest has {} layers, rootfs.diff_ids {}", listed.len(), diff_ids.len());
    }
    if listed.is_empty() {
        refuse!("the image has no layers: there is nothing in it to run");
    }
    if listed.len() > limits.max_layers {
        refuse!("the image has {} layers, and {} are the limit", listed.len(), limits.max_layers);
    }
    let layers = listed
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| layer(descriptor, diff_id))
        .collect::<Result<Vec<_>, _>>()?;
    let layer_bytes = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.blob_bytes));
    Ok(Image {
        manifest: digest_bytes(manifest_bytes),
        config_digest,
        platform: platform_of(&config),
        layers,
        size_bytes: layer_bytes.saturating_add(manifest_bytes.len() as u64).saturating_add(config_size),
        config,
    })
}

fn layer(descriptor: &Descriptor, diff_id: Digest) -> Result<Layer, Fault> {
    let (blob, blob_bytes) = pointer(descriptor)?;
    let media_type = descriptor.media_type().to_string();
    if media_type.contains("nondistributable") || media_type.contains("foreign") {
        refuse!("layer {blob} is foreign ({media_type}): its bytes are elsewhere, and may not be passed on");
    }
    if descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty()) {
        refuse!("layer {blob} is to be fetched from an address, which is not done");
    }
    let compression =
        match media_type.strip_prefix(OCI_LAYER).or_else(|| media_type.strip_prefix(DOCKER_LAYER)) {
            Some("") => Compression::None,
            Some("+gzip" | ".gzip") => Compression::Gzip,
            Some("+zstd" | ".zstd") => Compression::Zstd,
            _ => refuse!(
                "layer {blob} is of the media type {}, no layer that we read",
                shown(media_type.as_bytes())
            ),
        };
    Ok(Layer { blob, blob_bytes, diff_id, compression })
}

pub(crate) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, Fault> {
    let rootfs = config.rootfs();
    if rootfs.typ() != "layers" {
        refuse!("rootfs.type is {} instead of \"layers\"", shown(rootfs.typ().as_bytes()));
    }
    let parse = |text: &String| match Digest::new(text) {
        Ok(digest) => Ok(digest),
        Err(_) => refuse!("the diff id {} is not sha256: and 64 hex digits", shown(text.as_bytes())),
    };
    rootfs.diff_ids().iter().map(parse).collect()
}

pub(crate) fn platform_of(config: &ImageConfiguration) -> Platform {
    let variant = config.variant().as_deref();
    Platform::new(&config.os().to_string(), &config.architecture().to_string(), variant)
}

/// Parses JSON; the error says where it stops being what it should be.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(error) => refuse!("{what} is not valid: {error}"),
    }
}
