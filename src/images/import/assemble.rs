//! Images that this node makes itself: layers written by a caller, documents written here,
//! nothing in them but what the caller gave, so that equal input is the same image.

use super::super::document::{self, Layer, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::super::error::{Doing, Error, Fault};
use super::super::limits::Limits;
use super::super::platform::Platform;
use super::super::store::{Staging, Store};
use super::super::streams::{BUFFER_BYTES, Compression, HashingWriter, digest_bytes};
use super::{Found, Imported};
use oci_spec::image::ImageManifest;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// Writes a layer's tar archive. It is called twice, once to learn the digest, and again
/// if the store does not have that layer: both times it must write the same bytes.
pub type LayerWriter<'a> = &'a dyn Fn(&mut dyn Write) -> io::Result<()>;

impl Store {
    /// Makes an image for this machine of `layers`, lowest first. `config` is the `config`
    /// object of an OCI image configuration (Entrypoint, User and so on); `what` names the
    /// image in errors.
    ///
    /// # Errors
    /// As [`Store::import`]; a layer is held to the same rules wherever it comes from.
    pub fn assemble(
        &self,
        what: &str,
        layers: &[LayerWriter<'_>],
        config: &Value,
        limits: &Limits,
    ) -> Result<Imported, Error> {
        self.assemble_inner(layers, config, limits).map_err(|fault| fault.into_error(what, self.root()))
    }

    fn assemble_inner(
        &self,
        layers: &[LayerWriter<'_>],
        config: &Value,
        limits: &Limits,
    ) -> Result<Imported, Fault> {
        let mut staging = self.stage()?;
        let mut added: Vec<Layer> = Vec::new();
        for write in layers {
            added.push(add(&mut staging, write, limits)?);
        }
        let config_bytes = configuration(&added, config);
        let manifest_bytes = manifest(&added, &config_bytes);
        let parsed: ImageManifest = document::json(&manifest_bytes, "the manifest")?;
        let image = document::image(&manifest_bytes, &parsed, &config_bytes, limits)?;
        staging.add_document(&image.config_digest, &config_bytes)?;
        staging.add_document(&image.manifest, &manifest_bytes)?;
        let pin = staging.publish(std::slice::from_ref(&image.manifest))?;
        let found =
            Found { image, manifest_bytes, config_bytes, layers: Vec::new(), names: Vec::new(), tag: None };
        Ok(found.into_imported(&pin))
    }
}

fn add(staging: &mut Staging, write: LayerWriter<'_>, limits: &Limits) -> Result<Layer, Fault> {
    let writing = || "write a layer".to_owned();
    let mut hashing = HashingWriter::new(io::sink());
    write(&mut hashing).doing(writing)?;
    let (_, digest, bytes) = hashing.finish();
    let layer =
        Layer { blob: digest.clone(), blob_bytes: bytes, diff_id: digest, compression: Compression::None };
    // Both are asked, since asking pins.
    let has_blob = staging.has_blob(&layer)?;
    let has_folder = staging.has_layer(&layer.diff_id);
    if has_blob && has_folder || staging.has_staged(&layer) {
        return Ok(layer);
    }
    let scratch = staging.scratch_file()?;
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, &scratch);
    write(&mut buffered).doing(writing)?;
    buffered.flush().doing(writing)?;
    drop(buffered);
    let written = rewound(scratch)?;
    staging.add_layer(&layer, written, !has_folder, limits)?;
    Ok(layer)
}

fn rewound(mut file: File) -> Result<File, Fault> {
    io::Seek::rewind(&mut file).doing(|| "rewind a temporary file".to_owned())?;
    Ok(file)
}

fn configuration(layers: &[Layer], config: &Value) -> Vec<u8> {
    let platform = Platform::of_this_machine();
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    // No time of creation: it would make every build another image.
    let configuration = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    configuration.to_string().into_bytes()
}

fn manifest(layers: &[Layer], config: &[u8]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| json!({"mediaType": OCI_LAYER, "digest": layer.blob.as_str(), "size": layer.blob_bytes}))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_bytes(config).as_str(), "size": config.len()},
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}
