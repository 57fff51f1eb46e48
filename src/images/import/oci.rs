//! OCI image layouts, as folders and as archives (OCI image-spec, image-layout.md), and the
//! archives of Docker from 25 on, which are layouts too.

use super::super::document::{self, Document, pointer};
use super::super::error::{Error, Fault, refuse, shown};
use super::super::limits::Limits;
use super::super::name::ImageName;
use super::super::platform::Platform;
use super::super::source::Source;
use super::super::streams::digest_bytes;
use super::{Found, LayerSource, Problem, archive_name};
use crate::model::ids::Digest;
use oci_spec::image::{Descriptor, ImageManifest};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// An index of indexes is the deepest that tools write.
const MAX_DEPTH: usize = 4;
/// The largest multi-platform images list a few dozen, attestations counted.
const MAX_DESCRIPTORS: usize = 2_000;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
const ATTESTATION: &str = "vnd.docker.reference.type";

#[derive(Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// A manifest that the layout lists, not opened yet.
#[derive(Clone)]
struct Candidate {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

/// What the top level calls an image: a full name, or a bare tag.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    name: Option<String>,
    tag: Option<String>,
}

/// The images of a layout that this machine runs.
pub(super) fn find(
    source: &Source,
    layout: &[u8],
    index: &[u8],
    limits: &Limits,
) -> Result<Vec<Found>, Problem> {
    let layout: LayoutFile = document::json(layout, "oci-layout")?;
    if !layout.version.starts_with("1.") {
        return Err(Fault::Refused(format!(
            "layout version {} is not supported",
            shown(layout.version.as_bytes())
        ))
        .into());
    }
    let index = document::parse_root_index(index)?;
    let mut groups: BTreeMap<Label, Vec<Candidate>> = BTreeMap::new();
    let mut walk = Walk { source, limits, seen: 0 };
    for descriptor in index.manifests() {
        let group = groups.entry(label(descriptor)?).or_default();
        walk.collect(descriptor, 1, group)?;
    }
    if groups.is_empty() {
        return Err(Fault::Refused("index.json lists no image".to_owned()).into());
    }
    let mut found: BTreeMap<Digest, Found> = BTreeMap::new();
    for (label, candidates) in groups {
        for one in choose(source, candidates, &label, limits)? {
            // The same image under several names is one image.
            let image = found.entry(one.image.manifest.clone()).or_insert(one);
            image.names.extend(label.name.clone());
            image.names.sort();
            image.names.dedup();
            image.tag = image.tag.take().or(label.tag.clone());
        }
    }
    Ok(found.into_values().collect())
}

struct Walk<'a> {
    source: &'a Source,
    limits: &'a Limits,
    seen: usize,
}

impl Walk<'_> {
    /// The manifests that a descriptor leads to, through indexes.
    fn collect(
        &mut self,
        descriptor: &Descriptor,
        depth: usize,
        into: &mut Vec<Candidate>,
    ) -> Result<(), Fault> {
        self.seen += 1;
        if self.seen > MAX_DESCRIPTORS {
            refuse!("the layout lists more than {MAX_DESCRIPTORS} manifests");
        }
        if annotation(descriptor, ATTESTATION).is_some() {
            return Ok(());
        }
        let media_type = descriptor.media_type().to_string();
        match document::is_index_type(&media_type) {
            Some(false) => {
                into.push(Candidate { descriptor: descriptor.clone(), platform: platform(descriptor) })
            }
            Some(true) if depth > MAX_DEPTH => {
                refuse!("indexes are nested more than {MAX_DEPTH} deep, or in a loop")
            }
            Some(true) => {
                let bytes = read_verified(self.source, descriptor, self.limits)?;
                let what = descriptor.digest().to_string();
                if let Document::Index(index) = document::parse(&bytes, &media_type, &what)? {
                    for inner in index.manifests() {
                        self.collect(inner, depth + 1, into)?;
                    }
                }
            }
            None => refuse!(
                "index.json lists something of the media type {}, no image",
                shown(media_type.as_bytes())
            ),
        }
        Ok(())
    }
}

/// Of the manifests under one name, the one for this machine; without a name, perhaps
/// several different images.
fn choose(
    source: &Source,
    candidates: Vec<Candidate>,
    label: &Label,
    limits: &Limits,
) -> Result<Vec<Found>, Problem> {
    let machine = Platform::of_this_machine();
    let mut available = BTreeSet::new();
    let mut fitting: BTreeMap<u32, Vec<Found>> = BTreeMap::new();
    for candidate in candidates {
        // What is said to be for other machines is not even opened: archives for one
        // platform list the others without having them.
        if let Some(said) = &candidate.platform
            && said.rank_on(&machine).is_none()
        {
            available.insert(said.clone());
            continue;
        }
        let found = open(source, &candidate.descriptor, limits)?;
        let platform = found.image.platform.clone();
        // The index may be finer than the configuration, which often leaves the variant out.
        let said = candidate.platform.as_ref().and_then(|said| said.rank_on(&machine));
        match platform.rank_on(&machine).map(|rank| said.unwrap_or(rank)) {
            Some(rank) => fitting.entry(rank).or_default().push(found),
            None => drop(available.insert(platform)),
        }
    }
    let Some((_, mut best)) = fitting.pop_first() else {
        available.retain(|platform| platform.os != "unknown");
        return Err(Problem::WrongPlatform { machine, available: available.into_iter().collect() });
    };
    best.sort_by(|a, b| a.image.manifest.cmp(&b.image.manifest));
    best.dedup_by(|a, b| a.image.manifest == b.image.manifest);
    if let (Some(name), [_, _, ..]) = (&label.name, &best[..]) {
        return Err(Fault::Refused(format!("it has {} different images called {name}", best.len())).into());
    }
    Ok(best)
}

fn open(source: &Source, descriptor: &Descriptor, limits: &Limits) -> Result<Found, Fault> {
    let manifest_bytes = read_verified(source, descriptor, limits)?;
    let what = descriptor.digest().to_string();
    let declared = descriptor.media_type().to_string();
    let Document::Manifest(manifest) = document::parse(&manifest_bytes, &declared, &what)? else {
        refuse!("{what} is no manifest");
    };
    let manifest: ImageManifest = *manifest;
    let config_bytes = read_verified(source, manifest.config(), limits)?;
    let image = document::image(&manifest_bytes, &manifest, &config_bytes, limits)?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        layers.push(match source.open_member(&blob_name(&layer.blob), limits)? {
            Some(member) => LayerSource::Member(member),
            None => LayerSource::Absent,
        });
    }
    Ok(Found { image, manifest_bytes, config_bytes, layers, names: Vec::new(), tag: None })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document's bytes, which have the digest and size that the descriptor promises.
fn read_verified(source: &Source, descriptor: &Descriptor, limits: &Limits) -> Result<Vec<u8>, Fault> {
    let (digest, size) = pointer(descriptor)?;
    let Some(bytes) = source.read_document(&blob_name(&digest), limits)? else {
        refuse!("blob {digest} is listed and absent");
    };
    if bytes.len() as u64 != size {
        refuse!("wrong size: blob {digest} has {} bytes, its descriptor says {size}", bytes.len());
    }
    let actual = digest_bytes(&bytes);
    if actual != digest {
        refuse!("bad digest: blob {digest} holds {actual}");
    }
    Ok(bytes)
}

fn label(descriptor: &Descriptor) -> Result<Label, Fault> {
    if let Some(name) = annotation(descriptor, IMAGE_NAME) {
        return Ok(Label { name: Some(archive_name(name)?), tag: None });
    }
    Ok(match annotation(descriptor, REF_NAME) {
        // By the specification this is a tag, in practice often a whole name.
        Some(text) if text.contains([':', '/']) => Label { name: Some(archive_name(text)?), tag: None },
        Some(text) => match ImageName::parse(&format!("x:{text}")) {
            Ok(_) => Label { name: None, tag: Some(text.to_owned()) },
            Err(_) => refuse!("{} is no name or tag of an image", shown(text.as_bytes())),
        },
        None => Label::default(),
    })
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations().as_ref()?.get(key).map(String::as_str)
}

fn platform(descriptor: &Descriptor) -> Option<Platform> {
    let said = descriptor.platform().as_ref()?;
    let variant = said.variant().as_deref();
    Some(Platform::new(&said.os().to_string(), &said.architecture().to_string(), variant))
}

impl Problem {
    pub fn into_error(self, what: &str, store: &std::path::Path) -> Error {
        match self {
            Problem::Fault(fault) => fault.into_error(what, store),
            Problem::WrongPlatform { machine, available } => {
                Error::WrongPlatform { what: what.to_owned(), machine, available }
            }
        }
    }
}
