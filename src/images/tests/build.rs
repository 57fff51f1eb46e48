//! Builds archives and layouts, honest and otherwise.

use super::super::streams::digest_bytes;
use ::tar::{EntryType, Header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A tar archive in the making. Nothing is checked: that is the point.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Tar::default()
    }
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, "", content)
    }
    pub fn folder(self, name: &str) -> Self {
        self.entry_with(name, EntryType::Directory, "", b"", |header| header.set_mode(0o755))
    }
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, target, b"")
    }
    pub fn entry(self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        self.entry_with(name, kind, link, content, |_| ())
    }
    pub fn entry_with(
        mut self,
        name: &str,
        kind: EntryType,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        let mut header = header(name, kind, link, content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.data(content)
    }
    /// Payload, padded to a block.
    pub fn data(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let content: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        self.entry("pax", EntryType::XHeader, "", &content)
    }
    pub fn long_name(self, name: &[u8]) -> Self {
        self.entry("././@LongLink", EntryType::GNULongName, "", &[name, b"\0"].concat())
    }
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub fn header(name: &str, kind: EntryType, link: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = 1 + key.len() + 1 + value.len() + 1;
    let mut length = body;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// The platform of the machine that runs the tests, without a variant.
pub fn architecture() -> String {
    super::super::Platform::of_this_machine().architecture
}

/// A layer as a manifest lists it.
#[derive(Clone)]
pub struct BuiltLayer {
    pub media_type: &'static str,
    pub blob: Vec<u8>,
    pub diff_id: String,
}

impl BuiltLayer {
    pub fn new(media_type: &'static str, tar: &[u8]) -> Self {
        let blob = match media_type {
            GZIP => gzip(tar),
            ZSTD => zstd(tar),
            _ => tar.to_vec(),
        };
        BuiltLayer { media_type, blob, diff_id: digest_bytes(tar).to_string() }
    }
}

/// A layout's files by name, to be spoiled before they are written out.
#[derive(Clone, Default)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Layout {
    pub fn new() -> Self {
        let mut layout = Layout::default();
        layout.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        layout
    }

    /// One image called `shop:1` of the given layers.
    pub fn of(layers: &[BuiltLayer]) -> Self {
        let mut layout = Layout::new();
        let manifest = layout.image(layers, &architecture());
        layout.index(&[named(manifest, "shop:1")]);
        layout
    }

    /// Adds a blob and gives its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest_bytes(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()})
    }

    /// Adds an image and gives its manifest's descriptor.
    pub fn image(&mut self, layers: &[BuiltLayer], architecture: &str) -> Value {
        let config = config(layers, architecture);
        self.image_with(layers, &config)
    }

    pub fn image_with(&mut self, layers: &[BuiltLayer], config: &Value) -> Value {
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let layers: Vec<Value> =
            layers.iter().map(|layer| self.blob(layer.media_type, &layer.blob)).collect();
        self.manifest(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        }))
    }

    pub fn manifest(&mut self, manifest: &Value) -> Value {
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    pub fn index(&mut self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.files.insert("index.json".into(), index.to_string().into_bytes());
    }

    /// The name of the blob that holds `bytes`.
    pub fn blob_name(bytes: &[u8]) -> String {
        format!("blobs/sha256/{}", digest_bytes(bytes).hex())
    }

    pub fn write_folder(&self, folder: &Path) -> PathBuf {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder.to_owned()
    }

    pub fn tar(&self) -> Vec<u8> {
        let tar = self.files.iter().fold(Tar::new(), |tar, (name, bytes)| tar.file(name, bytes));
        tar.end()
    }
}

pub fn config(layers: &[BuiltLayer], architecture: &str) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/bin/app"], "Env": ["A=b"], "User": "1000:1000"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

pub fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

pub fn with_platform(mut descriptor: Value, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
    descriptor
}

/// An archive as Docker before 25 saves it.
pub fn docker_archive(layers: &[BuiltLayer], tags: &[&str]) -> Layout {
    let config = config(layers, &architecture()).to_string().into_bytes();
    let config_name = format!("{}.json", digest_bytes(&config).hex());
    let mut archive = Layout::default();
    let mut names = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        names.push(format!("{at:064}/layer.tar"));
        archive.files.insert(names[at].clone(), layer.blob.clone());
    }
    archive.files.insert(config_name.clone(), config);
    let listing = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    archive.files.insert("manifest.json".into(), listing.to_string().into_bytes());
    archive
}

pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
