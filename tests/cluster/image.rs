//! Images for tests: busybox, as `docker save` would write it.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A docker-save archive of busybox that runs `command`, named `name`.
pub fn busybox(dir: &Path, name: &str, command: &[&str]) -> PathBuf {
    let layer = layer();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": command, "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    let manifest =
        serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }])
            .to_string();
    let path = dir.join("image.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).expect("an archive"));
    for (name, data) in [
        (config_name.as_str(), config.as_bytes()),
        ("layer.tar", layer.as_slice()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        append(&mut tar, name, data, 0o644);
    }
    tar.finish().expect("the archive ends");
    path
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, data: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, data).expect("an entry");
}

fn layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "bin/busybox", &busybox, 0o755);
    for applet in [
        "sh", "httpd", "cat", "echo", "sleep", "hostname", "id", "ls", "kill", "ps", "wget", "nc", "env",
        "stty",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a link");
    }
    append(&mut tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n", 0o644);
    append(&mut tar, "etc/group", b"root:x:0:\napp:x:1000:\n", 0o644);
    for (dir, mode) in [("tmp/", 0o1777), ("www/", 0o755)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(mode);
        tar.append_data(&mut header, dir, std::io::empty()).expect("a folder");
    }
    append(
        &mut tar,
        "www/cgi-bin/who",
        b"#!/bin/sh\necho 'Content-Type: text/plain'\necho\nhostname\n",
        0o755,
    );
    append(&mut tar, "www/index.html", b"hello from busybox\n", 0o644);
    tar.into_inner().expect("the layer ends")
}
