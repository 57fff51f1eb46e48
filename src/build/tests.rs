//! Folders to images.

use super::*;
use crate::images::Store;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use tempfile::TempDir;

struct Workshop {
    temporary: TempDir,
    store: Store,
}

/// `None`, with the reason printed, where layers cannot be unpacked.
fn workshop() -> Option<Workshop> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let temporary = tempfile::tempdir().unwrap();
    let store = Store::open(&temporary.path().join("images")).unwrap();
    fs::create_dir_all(temporary.path().join("site/assets")).unwrap();
    fs::create_dir_all(temporary.path().join("site/.git")).unwrap();
    fs::create_dir_all(temporary.path().join("site/.well-known")).unwrap();
    for (name, content) in [
        ("site/index.html", "<h1>hello</h1>"),
        ("site/assets/app.js", "1"),
        ("site/.git/config", "secret"),
        ("site/.well-known/security.txt", "Contact: x"),
    ] {
        fs::write(temporary.path().join(name), content).unwrap();
    }
    fs::write(temporary.path().join("server"), program(0)).unwrap();
    Some(Workshop { temporary, store })
}

/// The start of a 64-bit program with one program header of the given kind.
fn program(kind: u32) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64..68].copy_from_slice(&kind.to_le_bytes());
    bytes
}

impl Workshop {
    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }
    fn build(&self) -> Result<Imported, Error> {
        static_site(&self.store, &self.path("site"), &self.path("server"), &Limits::default())
    }
    fn refusal(&self) -> String {
        self.build().expect_err("refused").to_string()
    }
}

#[test]
fn a_folder_becomes_an_image_of_server_and_site() {
    let Some(shop) = workshop() else { return };
    symlink("assets/app.js", shop.path("site/link.js")).unwrap();
    let long = format!("site/{}.txt", "long".repeat(40));
    fs::write(shop.path(&long), "long").unwrap();
    let built = shop.build().unwrap();
    let image = shop.store.image(&built.manifest).unwrap();
    let config = image.config.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_deref().unwrap(), ["/nodectl", "static-server", "--root", "/site"]);
    assert_eq!(config.user().as_deref(), Some("65534:65534"));
    assert_eq!(config.exposed_ports().as_deref().unwrap(), ["8080/tcp"]);
    let folders = shop.store.unpack(&built.manifest).unwrap();
    let [site, server] = &folders[..] else { panic!("{folders:?}") };
    assert_eq!(fs::read(server.join("nodectl")).unwrap(), program(0));
    assert_eq!(fs::metadata(server.join("nodectl")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(site.join("site/index.html")).unwrap(), "<h1>hello</h1>");
    assert_eq!(fs::read_to_string(site.join("site/link.js")).unwrap(), "1");
    assert_eq!(fs::read_to_string(site.join(&long)).unwrap(), "long");
    assert!(site.join("site/.well-known/security.txt").exists());
    assert!(!site.join("site/.git").exists());
    let mut hash = [0; 64];
    let length = rustix::fs::getxattr(site.join("site/index.html"), ETAG_ATTRIBUTE, &mut hash[..]).unwrap();
    assert_eq!(&hash[..length], &blake3::hash(b"<h1>hello</h1>").to_hex().as_bytes()[..32]);
}

#[test]
fn equal_content_is_an_equal_image_whatever_times_and_modes() {
    let Some(shop) = workshop() else { return };
    let first = shop.build().unwrap().manifest;
    let index = shop.path("site/index.html");
    fs::write(&index, "<h1>hello</h1>").unwrap();
    fs::set_permissions(&index, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(shop.path("site/.env"), "left out").unwrap();
    assert_eq!(shop.build().unwrap().manifest, first);
    fs::write(&index, "<h1>other</h1>").unwrap();
    let second = shop.build().unwrap().manifest;
    assert_ne!(second, first);
    // The server's layer is shared.
    let bottom = |manifest| shop.store.unpack(manifest).unwrap().pop();
    assert_eq!(bottom(&first), bottom(&second));
}

#[test]
fn what_is_no_site_is_refused_with_its_reason_and_leaves_nothing() {
    let Some(shop) = workshop() else { return };
    let before = shop.store.usage().unwrap();
    symlink("/etc/passwd", shop.path("site/link")).unwrap();
    assert!(
        shop.refusal().contains("link cannot be part of a site: it is a symbolic link out of the folder")
    );
    fs::remove_file(shop.path("site/link")).unwrap();
    symlink("../server", shop.path("site/link")).unwrap();
    assert!(shop.refusal().contains("out of the folder"));
    fs::remove_file(shop.path("site/link")).unwrap();
    symlink("nowhere", shop.path("site/link")).unwrap();
    assert!(shop.refusal().contains("leads nowhere"));
    fs::remove_file(shop.path("site/link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(shop.path("site/socket")).unwrap();
    assert!(shop.refusal().contains("neither a file"));
    drop(socket);
    fs::remove_file(shop.path("site/socket")).unwrap();
    fs::write(shop.path("server"), program(3)).unwrap();
    assert!(shop.refusal().contains("linked dynamically"));
    fs::write(shop.path("server"), "#!/bin/sh").unwrap();
    assert!(shop.refusal().contains("no program"));
    fs::remove_file(shop.path("site/index.html")).unwrap();
    assert!(shop.refusal().contains("has no index.html"));
    let nothing = static_site(&shop.store, &shop.path("none"), &shop.path("server"), &Limits::default());
    assert!(nothing.unwrap_err().to_string().contains("no folder"));
    assert_eq!(shop.store.usage().unwrap(), before);
}

#[test]
fn our_own_test_program_is_static_enough() {
    // Linked by the same rule as nodectl itself (.cargo/config.toml).
    elf::check_static(&std::env::current_exe().unwrap()).unwrap();
}
