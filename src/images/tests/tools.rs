//! Images that other people's tools made: umoci builds one, skopeo converts it, and what
//! overlayfs shows of our folders is what umoci had.

use super::build::write;
use super::{has_tool, import, in_own_mounts, is_root, mount, open};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str], folder: &Path) {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file of a whole second, since umoci rounds.
fn write_dated(root: &Path, name: &str, content: &[u8]) {
    let path = write(root, name, content);
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

/// A layout with the image `shop`, of two layers, and the tree that it stands for.
fn build(at: &Path) -> PathBuf {
    run("umoci", &["init", "--layout", "layout"], at);
    run("umoci", &["new", "--image", "layout:shop"], at);
    run("umoci", &["unpack", "--image", "layout:shop", "one"], at);
    let root = at.join("one/rootfs");
    for folder in ["bin", "etc/conf.d", "usr/lib", "var/cache/deep", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, mode) in
        [("bin/app", 0o755), ("bin/su", 0o4755), ("etc/gone", 0o644), ("var/cache/deep/x", 0o600)]
    {
        write_dated(&root, name, name.as_bytes());
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let long = "etc/conf.d/".to_owned() + &"long".repeat(50);
    write_dated(&root, &long, b"long");
    chown(root.join(&long), Some(1234), Some(4321)).unwrap();
    std::fs::hard_link(root.join("bin/app"), root.join("bin/linked")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("/etc/conf.d", root.join("absolute")).unwrap();
    run("umoci", &["repack", "--image", "layout:shop", "one"], at);
    run("umoci", &["unpack", "--image", "layout:shop", "two"], at);
    let root = at.join("two/rootfs");
    std::fs::remove_file(root.join("etc/gone")).unwrap();
    std::fs::remove_dir_all(root.join("var/cache")).unwrap();
    write_dated(&root, "usr/lib/new.so", b"new");
    run("umoci", &["repack", "--image", "layout:shop", "two"], at);
    run(
        "umoci",
        &["config", "--image", "layout:shop", "--config.entrypoint", "/bin/app", "--config.user", "7"],
        at,
    );
    root
}

/// Everything below a folder as facts that must agree; times of folders aside, which
/// overlayfs's merging does not keep.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            assert!(!metadata.file_type().is_char_device(), "{}: a whiteout shows", path.display());
            let content = match metadata.file_type() {
                kind if kind.is_file() => format!("{:?} {}", std::fs::read(&path).unwrap(), metadata.mtime()),
                kind if kind.is_symlink() => format!("{:?}", std::fs::read_link(&path).unwrap()),
                _ => {
                    pending.push(path.clone());
                    String::new()
                }
            };
            let fact = format!("{:o} {}:{} {content}", metadata.mode(), metadata.uid(), metadata.gid());
            seen.insert(path.strip_prefix(root).unwrap().to_owned(), fact);
        }
    }
    seen
}

#[test]
fn every_form_that_skopeo_writes_shows_the_tree_that_umoci_had() {
    if !is_root() || !has_tool("umoci") || !has_tool("skopeo") {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let at = temporary.path().to_owned();
    in_own_mounts(move || {
        let expected = tree(&build(&at));
        assert!(expected.len() > 10);
        let copy = |to: &str, args: &[&str]| {
            // A policy of our own: the machine may have none.
            let mut all = vec!["--insecure-policy", "copy"];
            all.extend(args);
            all.extend(["oci:layout:shop", to]);
            run("skopeo", &all, &at);
        };
        copy("docker-archive:docker.tar:shop:1", &[]);
        copy("oci-archive:oci.tar:shop:1", &[]);
        copy("oci:zstd:shop:1", &["--dest-compress-format", "zstd", "--dest-compress"]);
        copy("oci:plain:shop:1", &["--dest-decompress"]);
        let store = open(&at);
        let mut all = Vec::new();
        for (source, names) in [
            ("layout", &[][..]),
            ("docker.tar", &["shop:1"]),
            ("oci.tar", &["shop:1"]),
            ("zstd", &["shop:1"]),
            ("plain", &["shop:1"]),
        ] {
            let imported =
                import(&store, &at.join(source)).unwrap_or_else(|error| panic!("{source}: {error}"));
            assert_eq!((imported.len(), &imported[0].names[..]), (1, &names.map_strings()[..]), "{source}");
            let config = store.image(&imported[0].manifest).unwrap().config;
            assert_eq!(config.config().as_ref().unwrap().user().as_deref(), Some("7"), "{source}");
            all.push(store.unpack(&imported[0].manifest).unwrap());
        }
        assert!(all.iter().all(|folders| *folders == all[0]), "one folder for each content: {all:#?}");
        let merged = at.join("merged");
        std::fs::create_dir(&merged).unwrap();
        let lower: Vec<_> = all[0].iter().map(|folder| folder.display().to_string()).collect();
        mount("overlay", &merged, "overlay", &format!("lowerdir={}", lower.join(":")));
        assert_eq!(tree(&merged), expected);
        let inode = |name: &str| std::fs::metadata(merged.join(name)).unwrap().ino();
        assert_eq!(inode("bin/app"), inode("bin/linked"));
    });
}

trait MapStrings {
    fn map_strings(&self) -> Vec<String>;
}
impl MapStrings for &[&str] {
    fn map_strings(&self) -> Vec<String> {
        self.iter().map(|name| (*name).to_owned()).collect()
    }
}
