//! What is wrong around the layers: digests, sizes, documents, the archive itself.

use super::super::build::*;
use super::{Case, case};
use ::tar::EntryType;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

fn tar() -> Vec<u8> {
    Tar::new().file("f", b"x").end()
}

fn one() -> BuiltLayer {
    BuiltLayer::new(GZIP, &tar())
}

pub(super) fn cases() -> Vec<Case> {
    [digests(), documents(), media_types(), platforms(), folders(), docker(), outer()]
        .into_iter()
        .flatten()
        .collect()
}

/// A good layout, spoiled, as an archive.
fn layout(name: &'static str, reason: &'static str, spoil: impl Fn(&mut Layout) + 'static) -> Case {
    case(name, reason, move |at| {
        let mut layout = Layout::of(&[one()]);
        spoil(&mut layout);
        write(at, "image.tar", &layout.tar())
    })
}

/// An image whose manifest was changed before its digest was taken.
fn manifest(
    name: &'static str,
    reason: &'static str,
    change: impl Fn(&mut Layout, &mut Value) + 'static,
) -> Case {
    layout(name, reason, move |layout| {
        let config = layout.blob(CONFIG, config(&[one()], &architecture()).to_string().as_bytes());
        let layers = vec![layout.blob(GZIP, &one().blob)];
        let mut manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        change(layout, &mut manifest);
        let manifest = layout.manifest(&manifest);
        layout.index(&[manifest]);
    })
}

/// An image whose configuration was changed before its digest was taken.
fn configured(name: &'static str, reason: &'static str, change: impl Fn(&mut Value) + 'static) -> Case {
    layout(name, reason, move |layout| {
        let mut config = config(&[one()], &architecture());
        change(&mut config);
        let manifest = layout.image_with(&[one()], &config);
        layout.index(&[manifest]);
    })
}

/// An index whose one descriptor was changed.
fn descriptor(name: &'static str, reason: &'static str, change: impl Fn(&mut Value) + 'static) -> Case {
    layout(name, reason, move |layout| {
        let mut manifest = layout.image(&[one()], &architecture());
        change(&mut manifest);
        layout.index(&[manifest]);
    })
}

/// The blob that holds these bytes gets others of the same length.
fn spoil_blob(layout: &mut Layout, bytes: &[u8]) {
    let blob = layout.files.get_mut(&Layout::blob_name(bytes)).expect("the blob is there");
    let last = blob.len() - 1;
    blob[last] ^= 0x20;
}

fn digests() -> Vec<Case> {
    vec![
        layout("a layer with a bad digest", "bad digest", |layout| {
            // Two members instead of one: the same archive in other bytes.
            let (half, rest) = (&tar()[..100], &tar()[100..]);
            let other = [gzip(half), gzip(rest)].concat();
            let manifest = layout.image(&[BuiltLayer { blob: one().blob, ..one() }], &architecture());
            let mut padded = one();
            padded.blob = other.clone();
            let real = layout.image(&[padded], &architecture());
            assert_ne!(real, manifest);
            // The manifest names `other`; what is there has the same archive and length.
            let mut wrong = other.clone();
            wrong[4] ^= 1; // gzip's time, which no reader checks
            layout.files.insert(Layout::blob_name(&other), wrong);
            layout.index(&[real]);
        }),
        layout("a manifest with a bad digest", "bad digest", |layout| {
            let config = config(&[one()], &architecture());
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
                "config": layout.blob(CONFIG, config.to_string().as_bytes()),
                "layers": [layout.blob(GZIP, &one().blob)]});
            let bytes = manifest.to_string();
            let descriptor = layout.manifest(&manifest);
            layout.index(&[descriptor]);
            spoil_blob(layout, bytes.as_bytes());
        }),
        layout("a configuration with a bad digest", "bad digest", |layout| {
            spoil_blob(layout, config(&[one()], &architecture()).to_string().as_bytes());
        }),
        configured("a wrong diff id", "wrong diff id", |config| {
            config["rootfs"]["diff_ids"][0] = format!("sha256:{}", "0".repeat(64)).into();
        }),
        configured("too many diff ids", "rootfs.diff_ids 2", |config| {
            let first = config["rootfs"]["diff_ids"][0].clone();
            config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(first);
        }),
        configured("no diff ids", "rootfs.diff_ids 0", |config| config["rootfs"]["diff_ids"] = json!([])),
        configured("a diff id that is none", "is not sha256:", |config| {
            config["rootfs"]["diff_ids"][0] = "../../etc".into();
        }),
        manifest("a wrong size of a layer", "wrong size", |_, manifest| {
            manifest["layers"][0]["size"] = 7.into()
        }),
        manifest("a wrong size of a configuration", "wrong size", |_, manifest| {
            manifest["config"]["size"] = 7.into()
        }),
        manifest("a negative size", "is not valid", |_, manifest| manifest["layers"][0]["size"] = json!(-1)),
        manifest("a size beyond an offset", "impossible size", |_, manifest| {
            manifest["layers"][0]["size"] = json!(u64::MAX);
        }),
        manifest("a digest of another kind", "is not sha256:", |_, manifest| {
            manifest["layers"][0]["digest"] = format!("sha512:{}", "0".repeat(128)).into();
        }),
        manifest("a digest that is a path", "is not", |_, manifest| {
            manifest["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into();
        }),
        manifest("one blob with two diff ids", "listed twice", |layout, manifest| {
            let mut both = config(&[one(), one()], &architecture());
            both["rootfs"]["diff_ids"][1] = format!("sha256:{}", "1".repeat(64)).into();
            manifest["config"] = layout.blob(CONFIG, both.to_string().as_bytes());
            let layer = manifest["layers"][0].clone();
            manifest["layers"].as_array_mut().unwrap().push(layer);
        }),
        descriptor("a wrong size of a manifest", "wrong size", |descriptor| descriptor["size"] = 7.into()),
        descriptor("a manifest that is absent", "listed and absent", |descriptor| {
            descriptor["digest"] = format!("sha256:{}", "0".repeat(64)).into();
        }),
        layout("a layer that is absent", "listed and absent", |layout| {
            layout.files.remove(&Layout::blob_name(&one().blob));
        }),
        layout("a configuration that is absent", "listed and absent", |layout| {
            layout.files.remove(&Layout::blob_name(config(&[one()], &architecture()).to_string().as_bytes()));
        }),
    ]
}

fn documents() -> Vec<Case> {
    vec![
        manifest("a configuration that is no JSON", "configuration is not valid", |layout, manifest| {
            manifest["config"] = layout.blob(CONFIG, b"\x7fELF, not JSON");
        }),
        manifest(
            "a configuration nested a thousand deep",
            "configuration is not valid",
            |layout, manifest| {
                manifest["config"] = layout.blob(CONFIG, "[".repeat(100_000).as_bytes());
            },
        ),
        configured("a configuration that says things twice", "appears twice, or not valid", |_| ())
            .into_duplicate(),
        configured("a root that is no layers", "instead of \"layers\"", |config| {
            config["rootfs"]["type"] = "x".into()
        }),
        manifest("no layers", "no layers", |layout, manifest| {
            manifest["config"] = layout.blob(CONFIG, config(&[], &architecture()).to_string().as_bytes());
            manifest["layers"] = json!([]);
        }),
        layout("too many layers", "6 layers, and 5 are the limit", |layout| {
            let manifest = layout.image(&vec![one(); 6], &architecture());
            layout.index(&[manifest]);
        }),
        layout("a manifest beyond the limit", "are the limit", |layout| {
            let manifest = layout.blob(MANIFEST, &vec![b' '; 5 << 20]);
            layout.index(&[manifest]);
        }),
        layout("an index that is no JSON", "index.json is not valid", |layout| {
            layout.files.insert("index.json".into(), b"{".to_vec());
        }),
        layout("an index of nothing", "lists no image", |layout| layout.index(&[])),
        layout("an index that leads to itself", "bad digest", |layout| {
            // A true loop would need a hash of itself; a forged one is caught as such.
            let hex = "a".repeat(64);
            let own = json!({"mediaType": INDEX, "digest": format!("sha256:{hex}"), "size": 0});
            let mut index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [own]});
            for _ in 0..4 {
                let size = index.to_string().len();
                index["manifests"][0]["size"] = size.into();
            }
            let own = index["manifests"][0].clone();
            layout.files.insert(format!("blobs/sha256/{hex}"), index.to_string().into_bytes());
            layout.index(&[own]);
        }),
        layout("indexes nested too deep", "nested more than 4 deep", |layout| {
            let mut inner = layout.image(&[one()], &architecture());
            for _ in 0..6 {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]});
                inner = layout.blob(INDEX, index.to_string().as_bytes());
            }
            layout.index(&[inner]);
        }),
        layout("an index that fans out", "more than 2000 manifests", |layout| {
            let mut inner = layout.image(&[one()], "other");
            for _ in 0..3 {
                let many = vec![inner; 20];
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": many});
                inner = layout.blob(INDEX, index.to_string().as_bytes());
            }
            layout.index(&[inner]);
        }),
        layout("two images of one name", "2 different images called shop:1", |layout| {
            let first = layout.image(&[one()], &architecture());
            let second = layout.image(&[BuiltLayer::new(PLAIN, &tar())], &architecture());
            layout.index(&[named(first, "shop:1"), named(second, "shop:1")]);
        }),
        layout("a name that is none", "it names an image", |layout| {
            let manifest = layout.image(&[one()], &architecture());
            layout.index(&[named(manifest, "../../Shop:1")]);
        }),
        layout("a tag that is none", "no name or tag", |layout| {
            let manifest = layout.image(&[one()], &architecture());
            layout.index(&[named(manifest, "a b")]);
        }),
        layout("a layout of the future", "layout version", |layout| {
            layout.files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
        }),
        layout("no layout file", "no oci-layout file", |layout| drop(layout.files.remove("oci-layout"))),
        layout("no index", "no index.json", |layout| drop(layout.files.remove("index.json"))),
    ]
}

impl Case {
    /// The same key twice in a configuration: which one counts?
    fn into_duplicate(self) -> Case {
        manifest(self.name, "duplicate field", |layout, manifest| {
            let text = config(&[one()], &architecture()).to_string();
            let twice = text.replacen('{', r#"{"os":"linux","#, 1);
            manifest["config"] = layout.blob(CONFIG, twice.as_bytes());
        })
    }
}

fn media_types() -> Vec<Case> {
    vec![
        manifest("an index and a manifest at once", "at once", |_, manifest| {
            manifest["manifests"] = json!([])
        }),
        manifest("a manifest that calls itself an index", "conflicting media types", |_, manifest| {
            manifest["mediaType"] = INDEX.into();
        }),
        manifest("Docker's schema 1", "schema 1", |_, manifest| manifest["fsLayers"] = json!([])),
        descriptor("a manifest that is listed as an index", "conflicting media types", |descriptor| {
            descriptor["mediaType"] = INDEX.into();
        }),
        descriptor("a manifest that is listed as something else", "no image", |descriptor| {
            descriptor["mediaType"] = "text/html".into();
        }),
        manifest("a chart instead of an image", "not a container image", |_, manifest| {
            manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        }),
        manifest("a layer of an unknown type", "no layer that we read", |_, manifest| {
            manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+lzma".into();
        }),
        manifest("a foreign layer", "is foreign", |_, manifest| {
            manifest["layers"][0]["mediaType"] =
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        }),
        manifest("a layer that may not be distributed", "is foreign", |_, manifest| {
            manifest["layers"][0]["mediaType"] =
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        }),
        manifest("a layer to be fetched", "fetched from an address", |_, manifest| {
            manifest["layers"][0]["urls"] = json!(["https://example.com/layer"]);
        }),
    ]
}

fn platforms() -> Vec<Case> {
    vec![
        layout("an image for another machine", "it has linux/mips64", |layout| {
            let manifest = layout.image(&[one()], "mips64");
            layout.index(&[manifest]);
        }),
        layout("an index without this machine", "it has linux/mips, linux/s390x", |layout| {
            let mips = with_platform(layout.image(&[one()], "mips"), "mips");
            let s390x = with_platform(layout.image(&[one()], "s390x"), "s390x");
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [mips, s390x]});
            let index = layout.blob(INDEX, index.to_string().as_bytes());
            layout.index(&[index]);
        }),
        layout("an index that lies about the platform", "it has linux/mips64", |layout| {
            let manifest = with_platform(layout.image(&[one()], "mips64"), &architecture());
            layout.index(&[manifest]);
        }),
    ]
}

/// The same as folders, where links of the file system come in.
fn folders() -> Vec<Case> {
    vec![
        case("a blob that is a link", "symbolic link", |at| {
            let folder = Layout::of(&[one()]).write_folder(&at.join("layout"));
            let blob = folder.join(Layout::blob_name(&one().blob));
            std::fs::rename(&blob, at.join("elsewhere")).unwrap();
            symlink(at.join("elsewhere"), &blob).unwrap();
            folder
        }),
        case("a folder of blobs that is a link", "symbolic link", |at| {
            let folder = Layout::of(&[one()]).write_folder(&at.join("layout"));
            std::fs::rename(folder.join("blobs"), at.join("blobs")).unwrap();
            symlink("../blobs", folder.join("blobs")).unwrap();
            folder
        }),
        case("an index that is a link", "symbolic link", |at| {
            let folder = Layout::of(&[one()]).write_folder(&at.join("layout"));
            std::fs::rename(folder.join("index.json"), at.join("index.json")).unwrap();
            symlink("../index.json", folder.join("index.json")).unwrap();
            folder
        }),
        case("a blob that is a folder", "no regular file", |at| {
            let folder = Layout::of(&[one()]).write_folder(&at.join("layout"));
            let blob = folder.join(Layout::blob_name(&one().blob));
            std::fs::remove_file(&blob).unwrap();
            std::fs::create_dir(&blob).unwrap();
            folder
        }),
        case("an empty folder", "it holds no image", |at| {
            std::fs::create_dir(at.join("empty")).unwrap();
            at.join("empty")
        }),
    ]
}

/// A docker archive, its listing changed.
fn saved(
    name: &'static str,
    reason: &'static str,
    change: impl Fn(&mut Layout, &mut Value) + 'static,
) -> Case {
    case(name, reason, move |at| {
        let mut archive = docker_archive(&[BuiltLayer::new(PLAIN, &tar())], &["shop:1"]);
        let mut listing: Value = serde_json::from_slice(&archive.files["manifest.json"]).unwrap();
        change(&mut archive, &mut listing);
        archive.files.insert("manifest.json".into(), listing.to_string().into_bytes());
        write(at, "image.tar", &archive.tar())
    })
}

fn docker() -> Vec<Case> {
    vec![
        saved("a layer's path that climbs", "has a `..`", |_, listing| {
            listing[0]["Layers"][0] = "../../../etc/passwd".into();
        }),
        saved("a layer's path that is absolute", "is absolute", |_, listing| {
            listing[0]["Layers"][0] = "/etc/passwd".into();
        }),
        saved("a configuration's path that climbs", "has a `..`", |_, listing| {
            listing[0]["Config"] = "../x".into()
        }),
        saved("a layer that is not there", "listed and absent", |_, listing| {
            listing[0]["Layers"][0] = "none".into()
        }),
        saved("a configuration that is not there", "listed and absent", |_, listing| {
            listing[0]["Config"] = "none.json".into();
        }),
        saved("a layer too many", "2 layers, rootfs.diff_ids 1", |_, listing| {
            let first = listing[0]["Layers"][0].clone();
            listing[0]["Layers"].as_array_mut().unwrap().push(first);
        }),
        saved("a layer of other content", "wrong diff id", |archive, listing| {
            let name = listing[0]["Layers"][0].as_str().unwrap().to_owned();
            archive.files.insert(name, Tar::new().file("f", b"other").end());
        }),
        saved("a configuration whose name lies", "bad digest", |archive, listing| {
            let name = format!("{}.json", "0".repeat(64));
            let config = listing[0]["Config"].as_str().unwrap().to_owned();
            let bytes = archive.files[&config].clone();
            archive.files.insert(name.clone(), bytes);
            listing[0]["Config"] = name.into();
        }),
        saved("a name with capitals", "upper-case", |_, listing| {
            listing[0]["RepoTags"] = json!(["x/Shop:1"])
        }),
        saved("a listing of nothing", "lists no image", |_, listing| *listing = json!([])),
        saved("a listing of another shape", "manifest.json is not valid", |_, listing| {
            *listing = json!({"a": 1})
        }),
        case("a layer that is a link out of the archive", "leads out of the root", |at| {
            write(at, "image.tar", &with_linked_layer("../../etc/passwd"))
        }),
        case("a layer that is an absolute link", "link out of the archive", |at| {
            write(at, "image.tar", &with_linked_layer("/etc/passwd"))
        }),
        case("a layer that is a loop of links", "loop of links", |at| {
            write(at, "image.tar", &with_linked_layer("layer.tar"))
        }),
    ]
}

/// A docker archive whose layer is a link.
fn with_linked_layer(target: &str) -> Vec<u8> {
    let archive = docker_archive(&[BuiltLayer::new(PLAIN, &tar())], &[]);
    let tar =
        archive.files.iter().fold(Tar::new(), |tar, (name, bytes)| match name.ends_with("/layer.tar") {
            true => tar.symlink(name, target),
            false => tar.file(name, bytes),
        });
    tar.end()
}

/// The file that is given, before anything is known of it.
fn file(name: &'static str, reason: &'static str, bytes: impl Fn() -> Vec<u8> + 'static) -> Case {
    case(name, reason, move |at| write(at, "file", &bytes()))
}

fn outer() -> Vec<Case> {
    let good = || Layout::of(&[one()]).tar();
    vec![
        case("no file", "no such file", |at| at.join("none")),
        case("a fifo", "neither a file nor a folder", |at| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let path = at.join("fifo");
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            path
        }),
        case("a device", "neither a file nor a folder", |_| "/dev/zero".into()),
        file("an empty file", "the file is empty", Vec::new),
        file("an empty archive", "the archive is empty", || Tar::new().end()),
        file("a text", "not a tar archive", || b"FROM scratch\n".repeat(100)),
        file("a short text", "ends inside a header", || b"hello".to_vec()),
        file("an archive of something else", "use `docker save`", || Tar::new().file("README", b"x").end()),
        file("a zip", "not a tar archive", || [&b"PK\x03\x04"[..], &[0; 600]].concat()),
        file("xz", "compressed with xz", || b"\xfd7zXZ\0\0\0".to_vec()),
        file("bzip2", "compressed with bzip2", || b"BZh91AY".to_vec()),
        file("a truncated archive", "truncated", move || {
            let mut tar = good();
            tar.truncate(tar.len() / 2 + 100);
            tar
        }),
        file("truncated gzip around it", "gzip data is truncated", move || {
            let mut packed = gzip(&good());
            packed.truncate(packed.len() / 2);
            packed
        }),
        file("a bomb around it", "decompression bomb", || gzip(&vec![0; 8 << 20])),
        file("a member twice", "twice", || {
            Tar::new().file("index.json", b"{}").file("index.json", b"{}").end()
        }),
        file("a device as a member", "use `docker save`", || {
            Tar::new().entry("x", EntryType::Char, "", b"").end()
        }),
        file("a member that climbs", "has a `..`", || Tar::new().file("../index.json", b"{}").end()),
        file("a member with a very long name", "very long name", || {
            Tar::new().long_name(&[b'x'; 2000]).file("x", b"").end()
        }),
        file("too many members", "more than 300 entries", || {
            (0..400).fold(Tar::new(), |tar, at| tar.file(&at.to_string(), b"")).end()
        }),
        file("bytes after its end", "after the end of the archive", move || [good(), good()].concat()),
    ]
}
