//! Archives of `docker save` that describe themselves by `manifest.json` alone (Docker
//! before 25, skopeo's and podman's docker-archive). They have no OCI manifest; we write
//! one, from nothing but the archive's content, so that the same archive is always the
//! same image.

use super::super::document::{self, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::super::error::{Doing, Fault, refuse, shown};
use super::super::limits::Limits;
use super::super::source::{Member, Source};
use super::super::streams::{Compression, Metered, digest_bytes};
use super::{Found, LayerSource, archive_name};
use crate::model::ids::Digest;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Option<Vec<String>>,
}

/// In the order in which it is written out: the digest depends on it.
#[derive(Serialize)]
struct Manifest<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    config: Pointer<'a>,
    layers: Vec<Pointer<'a>>,
}

#[derive(Serialize)]
struct Pointer<'a> {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: &'a str,
    size: u64,
}

/// The images that `manifest.json` lists.
pub(super) fn find(source: &Source, listing: &[u8], limits: &Limits) -> Result<Vec<Found>, Fault> {
    let saved: Vec<Saved> = document::json(listing, "manifest.json")?;
    if saved.is_empty() {
        refuse!("manifest.json lists no image");
    }
    saved.iter().map(|saved| find_one(source, saved, limits)).collect()
}

fn find_one(source: &Source, saved: &Saved, limits: &Limits) -> Result<Found, Fault> {
    let config_name = &saved.config;
    let Some(config_bytes) = source.read_document(config_name, limits)? else {
        refuse!("the configuration {} is listed and absent", shown(config_name.as_bytes()));
    };
    let config_digest = digest_bytes(&config_bytes);
    check_own_name(config_name, &config_digest)?;
    let config: ImageConfiguration = document::json(&config_bytes, "the image's configuration")?;
    let diff_ids = document::diff_ids(&config)?;
    let listed = saved.layers.as_deref().unwrap_or_default();
    if listed.len() != diff_ids.len() {
        refuse!("manifest.json has {} layers, rootfs.diff_ids {}", listed.len(), diff_ids.len());
    }
    if listed.len() > limits.max_layers {
        refuse!("the image has {} layers, and {} are the limit", listed.len(), limits.max_layers);
    }
    let mut layers = Vec::new();
    for (name, diff_id) in listed.iter().zip(&diff_ids) {
        layers.push(layer(source, name, diff_id, limits)?);
    }
    let manifest_bytes = manifest(&config_digest, config_bytes.len() as u64, &layers)?;
    let parsed: ImageManifest = document::json(&manifest_bytes, "the manifest")?;
    let image = document::image(&manifest_bytes, &parsed, &config_bytes, limits)?;
    let names = saved
        .repo_tags
        .iter()
        .flatten()
        .map(|name| archive_name(name))
        .collect::<Result<BTreeSet<_>, _>>()?;
    Ok(Found {
        image,
        manifest_bytes,
        config_bytes,
        layers: layers.into_iter().map(|layer| LayerSource::Member(layer.member)).collect(),
        names: names.into_iter().collect(),
        tag: None,
    })
}

struct FoundLayer {
    member: Member,
    blob: Digest,
    compression: Compression,
}

fn layer(source: &Source, name: &str, diff_id: &Digest, limits: &Limits) -> Result<FoundLayer, Fault> {
    let opened =
        source.open_member(name, limits).map_err(|fault| fault.within("a layer of manifest.json"))?;
    let Some(member) = opened else {
        refuse!("the layer {} is listed and absent", shown(name.as_bytes()));
    };
    let compression = Compression::of(&member.start()?)?;
    // Uncompressed, a layer's own digest is its diff id, which the load then verifies. A
    // compressed one (docker load takes such) has to be read once to learn it.
    let blob = match compression {
        Compression::None => diff_id.clone(),
        _ => {
            let mut reading = Metered::new(member.clone(), None);
            std::io::copy(&mut reading, &mut std::io::sink()).doing(|| "read the archive".to_owned())?;
            reading.finish().0.expect("a new meter hashes")
        }
    };
    Ok(FoundLayer { member, blob, compression })
}

/// `<hex>.json` and `blobs/sha256/<hex>` promise what they hold.
fn check_own_name(name: &str, digest: &Digest) -> Result<(), Fault> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = last.strip_suffix(".json").unwrap_or(last);
    if Digest::new(&format!("sha256:{stem}")).is_ok() && stem != digest.hex() {
        refuse!("bad digest: {} holds {digest}", shown(name.as_bytes()));
    }
    Ok(())
}

fn manifest(config: &Digest, config_bytes: u64, layers: &[FoundLayer]) -> Result<Vec<u8>, Fault> {
    let layers = layers.iter().map(|layer| Pointer {
        media_type: match layer.compression {
            Compression::None => OCI_LAYER.to_owned(),
            compression => format!("{OCI_LAYER}+{}", compression.named()),
        },
        digest: layer.blob.as_str(),
        size: layer.member.size(),
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: Pointer { media_type: OCI_CONFIG.to_owned(), digest: config.as_str(), size: config_bytes },
        layers: layers.collect(),
    };
    serde_json::to_vec(&manifest).map_err(std::io::Error::from).doing(|| "write the manifest".to_owned())
}
