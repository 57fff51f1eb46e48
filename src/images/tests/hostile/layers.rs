//! What is wrong inside one layer: its names, links, kinds, sizes, compression.

use super::super::build::*;
use super::{Case, layer};
use ::tar::{EntryType, Header};
use std::path::Path;

/// A path that leads from a layer's folder to the host's, or to where it would be.
const OUT: &str = "../../../host/secret";

fn host(at: &Path) -> String {
    // `at` is a folder beside the host's.
    at.parent().unwrap().join("host").display().to_string()
}

pub(super) fn cases() -> Vec<Case> {
    [
        names(),
        links(),
        devices_and_whiteouts(),
        attributes(),
        extensions(),
        numbers(),
        shapes(),
        sparse(),
        compressed(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn names() -> Vec<Case> {
    vec![
        layer("a name that climbs", "has a `..`", |_| Tar::new().file("../x", b"").end()),
        layer("a name that climbs from below", "has a `..`", |_| Tar::new().file("a/../../x", b"").end()),
        layer("a name that ends in ..", "has a `..`", |_| Tar::new().folder("a/..").end()),
        layer("an absolute name", "is absolute", |at| {
            Tar::new().long_name(host(at).as_bytes()).file("x", b"").end()
        }),
        layer("an empty name", "empty name", |_| Tar::new().file("", b"").end()),
        layer("a component that is too long", "a component of 256 bytes", |_| {
            Tar::new().long_name(&[b'x'; 256]).file("x", b"").end()
        }),
        layer("a path that is too long", "5000 bytes", |_| {
            Tar::new().long_name(&b"abcdefghi/".repeat(500)).folder("x").end()
        }),
        layer("a path that is too deep", "folders deep", |_| {
            Tar::new().long_name(&b"d/".repeat(1000)).folder("x").end()
        }),
        layer("folders whose paths fill the memory", "the paths of its folders", |_| {
            // One entry, 250 implied folders, each path longer by sixteen bytes.
            let deep: Vec<u8> = [b"d".repeat(15), b"/".to_vec()].concat().repeat(250);
            Tar::new().long_name(&deep).folder("x").end()
        }),
        layer("a NUL in a PAX path", "NUL byte", |_| {
            Tar::new().pax(&[("path", b"a\0b")]).file("a", b"").end()
        }),
        layer("a PAX path that climbs over a harmless one", "has a `..`", |_| {
            Tar::new().pax(&[("path", OUT.as_bytes())]).file("harmless", b"x").end()
        }),
        layer("a NUL in a GNU long name", "NUL byte", |_| Tar::new().long_name(b"a\0b").file("a", b"").end()),
        layer("a root that is a link", "root of the layer is a symbolic link", |_| {
            Tar::new().symlink("./", "x").end()
        }),
        layer("a root that is a file", "root of the layer is a file", |_| Tar::new().file(".", b"").end()),
    ]
}

fn links() -> Vec<Case> {
    vec![
        layer("a link out of the root", "leads out of the root", |_| Tar::new().symlink("a", OUT).end()),
        layer("a link out of the root from a folder", "leads out of the root", |_| {
            Tar::new().folder("d").symlink("d/a", "../../x").end()
        }),
        layer("an absolute link as a parent", "absolute or leads out", |at| {
            Tar::new().symlink("a", &host(at)).file("a/secret", b"x").end()
        }),
        layer("an absolute link to the root as a parent", "absolute or leads out", |at| {
            // All of these would land in the folder that is compared, not elsewhere.
            let inside = format!("a{}/x", host(at));
            Tar::new().symlink("a", "/").long_name(inside.as_bytes()).file("x", b"x").end()
        }),
        layer("links that climb together as a parent", "absolute or leads out", |_| {
            // By its text `c` stays inside; followed, it is the root's own parent.
            Tar::new().folder("a").symlink("a/b", "..").symlink("c", "a/b/..").file("c/x", b"x").end()
        }),
        layer("a loop of links as a parent", "loop of symbolic links", |_| {
            Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"x").end()
        }),
        layer("a link to nowhere as a parent", "to no folder of this layer", |_| {
            Tar::new().symlink("a", "nowhere").file("a/x", b"x").end()
        }),
        layer("a link to a file as a parent", "to no folder of this layer", |_| {
            Tar::new().file("f", b"").symlink("a", "f").file("a/x", b"x").end()
        }),
        layer("a magic link as a parent", "absolute or leads out", |at| {
            let root = format!("/proc/self/root{}", host(at));
            Tar::new().symlink("a", &root).file("a/x", b"x").end()
        }),
        layer("a file as a parent", "is a file", |_| Tar::new().file("f", b"").file("f/x", b"x").end()),
        layer("a fifo as a parent", "is a fifo", |_| {
            Tar::new().entry("f", EntryType::Fifo, "", b"").file("f/x", b"x").end()
        }),
        layer("an empty link", "no target", |_| Tar::new().symlink("a", "").end()),
        layer("a hard link that climbs", "has a `..`", |_| Tar::new().hard_link("h", OUT).end()),
        layer("an absolute hard link", "is absolute", |_| Tar::new().hard_link("h", "/etc/passwd").end()),
        layer("a hard link to nothing", "does not have", |_| Tar::new().hard_link("h", "none").end()),
        layer("a hard link to itself", "does not have", |_| Tar::new().hard_link("h", "h").end()),
        layer("a hard link to a folder", "a hard link to a folder", |_| {
            Tar::new().folder("d").hard_link("h", "d").end()
        }),
        layer("a hard link to the root", "is the root", |_| Tar::new().hard_link("h", ".").end()),
        layer("a hard link to a link that points out", "points out", |at| {
            Tar::new().symlink("s", &host(at)).hard_link("h", "s").end()
        }),
        layer("a hard link that turns a good link into one out", "leads out of the root", |_| {
            Tar::new().folder("d").symlink("d/s", "../t").hard_link("h", "d/s").end()
        }),
        layer("a hard link through an absolute link", "absolute or leads out", |at| {
            Tar::new().symlink("s", &host(at)).hard_link("h", "s/secret").end()
        }),
        layer("a hard link to a whiteout's name", "is a whiteout", |_| {
            Tar::new().file(".wh.x", b"").hard_link("h", ".wh.x").end()
        }),
        layer("a hard link to what a whiteout made", "a whiteout", |_| {
            Tar::new().file(".wh.x", b"").hard_link("h", "x").end()
        }),
        layer("a NUL in a PAX link", "NUL byte", |_| {
            Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("s", "a").end()
        }),
    ]
}

fn devices_and_whiteouts() -> Vec<Case> {
    let device = |kind, major, minor| {
        move |_: &Path| {
            let set = |header: &mut Header| {
                header.set_device_major(major).unwrap();
                header.set_device_minor(minor).unwrap();
            };
            Tar::new().entry_with("dev", kind, "", b"", set).end()
        }
    };
    vec![
        layer("a character device", "device node", device(EntryType::Char, 1, 3)),
        layer("a block device", "device node", device(EntryType::Block, 8, 0)),
        layer("a whiteout in overlayfs's own form", "device node", device(EntryType::Char, 0, 0)),
        layer("a whiteout of nothing", "of no name", |_| Tar::new().file(".wh.", b"").end()),
        layer("a whiteout of the folder itself", "of no name", |_| Tar::new().file("d/.wh..", b"").end()),
        layer("a whiteout of the folder above", "of no name", |_| Tar::new().file("d/.wh...", b"").end()),
        layer("a reserved whiteout", "reserved whiteout", |_| Tar::new().file(".wh..wh.plnk", b"").end()),
        layer("something inside a whiteout", "nothing inside", |_| Tar::new().file(".wh.a/b", b"").end()),
        layer("a whiteout that climbs", "has a `..`", |_| Tar::new().file("../.wh.host", b"").end()),
        layer("a whiteout that is a folder", "a folder instead of an empty file", |_| {
            Tar::new().folder(".wh.a").end()
        }),
        layer("a whiteout that is a link", "a symbolic link instead of an empty file", |_| {
            Tar::new().symlink(".wh.a", "b").end()
        }),
        layer("a whiteout with content", "instead of an empty file", |_| {
            Tar::new().file(".wh.a", b"x").end()
        }),
        layer("an opaque mark that is a folder", "a folder instead of an empty file", |_| {
            Tar::new().folder(".wh..wh..opq").end()
        }),
        layer("a whiteout below an absolute link", "absolute or leads out", |at| {
            Tar::new().symlink("a", &host(at)).file("a/.wh.secret", b"").end()
        }),
    ]
}

fn attributes() -> Vec<Case> {
    let with = |key: &'static str, value: &'static [u8]| {
        move |_: &Path| {
            let key = format!("SCHILY.xattr.{key}");
            Tar::new().pax(&[(&key, value)]).file("f", b"x").end()
        }
    };
    vec![
        layer("overlayfs's opaque mark", "the host's to set", with("trusted.overlay.opaque", b"y")),
        layer("overlayfs's redirect", "the host's to set", with("trusted.overlay.redirect", b"/etc")),
        layer("overlayfs's user mark", "the host's to set", with("user.overlay.whiteout", b"y")),
        layer("a NUL in an attribute's name", "the host's to set", with("user.a\0b", b"y")),
        layer("a broken capability", "does not take", with("security.capability", b"\x01\x02")),
        layer("an attribute on a link", "with the attribute", |_| {
            Tar::new().pax(&[("SCHILY.xattr.user.a", b"b")]).symlink("s", "t").end()
        }),
    ]
}

fn extensions() -> Vec<Case> {
    vec![
        layer("two PAX sizes", "is set twice", |_| {
            Tar::new().pax(&[("size", b"1"), ("size", b"512")]).file("f", b"x").end()
        }),
        layer("a PAX size against the header's", "conflicting sizes", |_| {
            Tar::new().pax(&[("size", b"1024")]).file("f", b"x").end()
        }),
        layer("two PAX paths", "is set twice", |_| {
            Tar::new().pax(&[("path", b"a"), ("path", b"b")]).file("f", b"").end()
        }),
        layer("two PAX headers", "two PAX headers", |_| {
            Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("f", b"").end()
        }),
        layer("two long names", "two long names", |_| {
            Tar::new().long_name(b"a").long_name(b"b").file("f", b"").end()
        }),
        layer("a PAX path against a long name", "conflicting names", |_| {
            Tar::new().long_name(b"a").pax(&[("path", b"b")]).file("f", b"").end()
        }),
        layer("a PAX record that lies about its length", "malformed", |_| {
            Tar::new().entry("pax", EntryType::XHeader, "", b"99 path=a\n").file("f", b"").end()
        }),
        layer("a global header that renames", "global PAX header", |_| {
            Tar::new()
                .entry("pax", EntryType::XGlobalHeader, "", &pax_record("path", b"x"))
                .file("f", b"")
                .end()
        }),
        layer("an extension header of nothing", "ends after an extension header", |_| {
            Tar::new().pax(&[("path", b"a")]).end()
        }),
        layer("a long name that is very long", "extension header has", |_| {
            Tar::new().long_name(&[b'x'; 100_000]).file("f", b"").end()
        }),
        layer("an extension header of eight exabytes", "extension header has", |_| {
            Tar::new().entry_with("pax", EntryType::XHeader, "", b"", |header| header.set_size(1 << 62)).end()
        }),
    ]
}

fn numbers() -> Vec<Case> {
    let with = |change: fn(&mut Header)| {
        move |_: &Path| Tar::new().entry_with("f", EntryType::Regular, "", b"x", change).end()
    };
    vec![
        layer("a negative size", "negative or absurd", with(|header| header.as_old_mut().size = [0xff; 12])),
        layer(
            "a size of eight exabytes",
            "negative or absurd",
            with(|header| {
                header.as_old_mut().size = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
            }),
        ),
        layer(
            "a size beyond the offset's end",
            "impossible",
            with(|header| header.set_size(i64::MAX as u64)),
        ),
        layer(
            "a size that is no number",
            "is no number",
            with(|header| header.as_old_mut().size = *b"12z4567890x\0"),
        ),
        layer("a size beyond the archive", "truncated", with(|header| header.set_size(1 << 20))),
        layer("a file beyond the limit", "are the limit", with(|header| header.set_size(1 << 30))),
        layer("a user id beyond 32 bits", "out of range", with(|header| header.set_uid(1 << 32))),
        layer(
            "the user id that means nobody asked",
            "out of range",
            with(|header| header.set_uid(0xffff_ffff)),
        ),
        layer("a wrong checksum", "checksum is wrong", |_| {
            let mut tar = Tar::new().file("f", b"x").end();
            tar[0] ^= 1;
            tar
        }),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        layer("a file that becomes a folder", "appears twice, as a file and as a folder", |_| {
            Tar::new().file("a", b"").folder("a").end()
        }),
        layer("a folder that becomes a link", "appears twice, as a folder and as a symbolic link", |_| {
            Tar::new().folder("a").symlink("a", "b").end()
        }),
        layer("a link that becomes a file", "appears twice, as a symbolic link and as a file", |at| {
            Tar::new().symlink("a", &host(at)).file("a", b"x").end()
        }),
        layer("a link that becomes a hard link", "appears twice", |at| {
            Tar::new().file("f", b"").symlink("a", &host(at)).hard_link("a", "f").end()
        }),
        layer("a folder with data", "yet has 1 bytes of data", |_| {
            Tar::new().entry("d", EntryType::Directory, "", b"x").end()
        }),
        layer("a hard link with data", "yet has 1 bytes of data", |_| {
            Tar::new().file("f", b"").entry("h", EntryType::Link, "f", b"x").end()
        }),
        layer("an unknown kind", "a kind that no layer has", |_| {
            Tar::new().entry("x", EntryType::new(b'Z'), "", b"").end()
        }),
        layer("bytes after the end", "after the end of the archive", |_| {
            let mut tar = Tar::new().file("f", b"").end();
            tar.extend(Tar::new().file("hidden", b"").end());
            tar
        }),
        layer("an end inside a header", "ends inside a header", |_| {
            let mut tar = Tar::new().file("f", b"").0;
            tar.truncate(300);
            tar
        }),
        layer("an end inside padding", "ends inside an entry's padding", |_| {
            let mut tar = Tar::new().file("f", b"x").0;
            tar.truncate(513);
            tar
        }),
        layer("no archive at all", "damaged or not a tar archive", |_| b"hello ".repeat(1000)),
        layer("more bytes than a layer may have", "unpacks to more than", |_| {
            let file = vec![0; 12 << 20];
            Tar::new().file("a", &file).file("b", &file).file("c", &file).end()
        }),
    ]
}

fn sparse() -> Vec<Case> {
    let old = |pieces: [(u64, u64); 2], real_size| {
        move |_: &Path| {
            let set = |header: &mut Header| {
                let gnu = header.as_gnu_mut().unwrap();
                for (at, (offset, length)) in pieces.iter().enumerate() {
                    gnu.sparse[at].set_offset(*offset);
                    gnu.sparse[at].set_length(*length);
                }
                gnu.set_real_size(real_size);
            };
            Tar::new().entry_with("f", EntryType::GNUSparse, "", &[1; 1024], set).end()
        }
    };
    vec![
        layer("sparse pieces that overlap", "overlap or lie outside", old([(0, 512), (256, 512)], 4096)),
        layer("a sparse piece beyond the file", "overlap or lie outside", old([(0, 512), (8192, 512)], 4096)),
        layer("sparse pieces that are too few", "archive 1024", old([(0, 512), (4096, 0)], 4096)),
        layer(
            "sparse pieces that are not whole blocks",
            "not whole blocks",
            old([(0, 500), (512, 524)], 4096),
        ),
        layer(
            "a sparse file of eight exabytes",
            "are the limit",
            old([(0, 512), (1024, 512)], i64::MAX as u64),
        ),
        layer("a PAX sparse map that is no numbers", "other than numbers", |_| {
            let records: &[(&str, &[u8])] = &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"f"),
                ("GNU.sparse.realsize", b"10"),
            ];
            Tar::new().pax(records).file("f", &[b'x'; 512]).end()
        }),
        layer("a PAX sparse name that climbs", "has a `..`", |_| {
            let records: &[(&str, &[u8])] =
                &[("GNU.sparse.name", OUT.as_bytes()), ("GNU.sparse.size", b"0"), ("GNU.sparse.map", b"0,0")];
            Tar::new().pax(records).file("f", b"").end()
        }),
        layer("a sparse format of the future", "sparse format 2.0", |_| {
            let records: &[(&str, &[u8])] = &[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"0")];
            Tar::new().pax(records).file("f", b"").end()
        }),
    ]
}

/// As an image of the layer, whose blob was changed after its diff id was taken.
fn packed(
    name: &'static str,
    reason: &'static str,
    media_type: &'static str,
    change: impl Fn(Vec<u8>) -> Vec<u8> + 'static,
) -> Case {
    super::case(name, reason, move |at| {
        let tar = Tar::new().file("f", b"some content").end();
        let mut layer = BuiltLayer::new(media_type, &tar);
        layer.blob = change(std::mem::take(&mut layer.blob));
        write(at, "image.tar", &Layout::of(&[layer]).tar())
    })
}

fn bomb() -> Vec<u8> {
    Tar::new().file("zeros", &vec![0; 12 << 20]).end()
}

fn compressed() -> Vec<Case> {
    let shorter = |mut blob: Vec<u8>| {
        blob.truncate(blob.len() - 12);
        blob
    };
    vec![
        packed("truncated gzip", "gzip data is truncated", GZIP, shorter),
        packed("truncated zstd", "zstd data is truncated", ZSTD, shorter),
        packed("garbage after gzip", "gzip data is corrupt", GZIP, |blob| {
            [&blob, &b"garbage, long enough"[..]].concat()
        }),
        packed("garbage after zstd", "zstd data is corrupt", ZSTD, |blob| {
            [&blob, &b"garbage, long enough"[..]].concat()
        }),
        packed("gzip with a wrong checksum", "gzip data is corrupt", GZIP, |mut blob| {
            let at = blob.len() - 8;
            blob[at] ^= 1;
            blob
        }),
        packed("a second, hidden gzip member", "after the end of the archive", GZIP, |blob| {
            [blob, gzip(&Tar::new().file("hidden", b"").end())].concat()
        }),
        packed("a gzip bomb", "decompression bomb", GZIP, |_| gzip(&bomb())),
        packed("a zstd bomb", "decompression bomb", ZSTD, |_| zstd(&bomb())),
        packed("zstd that is called gzip", "listed as gzip and holds zstd", GZIP, |_| zstd(b"x")),
        packed("gzip that is called plain", "listed as plain and holds gzip", PLAIN, |_| gzip(b"x")),
        packed("a plain archive that is called zstd", "listed as zstd and holds plain", ZSTD, |_| {
            Tar::new().end()
        }),
        packed("a million entries", "more than 1000 entries", ZSTD, |_| {
            // A frame of a thousand headers, a thousand times.
            let mut header = header("f", EntryType::Regular, "", 0);
            header.set_cksum();
            zstd(&header.as_bytes().repeat(1_000)).repeat(1_000)
        }),
        packed("xz", "compressed with xz", PLAIN, |_| b"\xfd7zXZ\0\0\0".to_vec()),
        packed("another archive in the same compression", "wrong diff id", GZIP, |_| {
            gzip(&Tar::new().file("f", b"other content").end())
        }),
    ]
}
