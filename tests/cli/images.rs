//! Images: loading from files, folders and pipes, and looking at them.

use crate::fixtures::*;
use crate::golden::Run;
use crate::node::{Node, Step};
use nodectl::proto::v1::*;
use std::io::Write;
use std::process::Stdio;
use tonic::Status;

fn stage(stage: &str) -> Step<LoadProgress> {
    Step::Send(LoadProgress { stage: stage.into(), bytes: 5, images: vec![] })
}

fn loading() -> Vec<Step<LoadProgress>> {
    vec![stage("receiving"), stage("verifying"), stage("unpacking"), Step::Send(loaded())]
}

#[test]
fn an_archive_arrives_whole_and_the_next_command_is_named() {
    let node = Node::start();
    node.scripts.load.reply(loading());
    let data: Vec<u8> = (0..1_000_003_u32).map(|n| (n / 7) as u8).collect();
    std::fs::write(node.folder.path().join("Shop App.tar.gz"), &data).expect("written");
    node.run(&["image", "load", "Shop App.tar.gz"]).matches("image-load", &[]);
    node.run(&["image", "load", "Shop App.tar.gz", "--name", "x:1", "-o", "json"])
        .matches("image-load-json", &[]);
    let requests = node.scripts.load.requests();
    assert_eq!(requests[0].name, "shop-app");
    assert!(requests[0].data == data, "the bytes arrived as they are");
    assert_eq!(requests[1].name, "x:1");
}

#[test]
fn standard_input_is_an_archive_too() {
    let node = Node::start();
    node.scripts.load.reply(loading());
    let mut command = node.command(&["image", "load", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("piped").write_all(b"an archive").expect("written");
    let run = Run::of_child(&command, child);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(node.scripts.load.only_request().data, b"an archive");
}

#[test]
fn a_layout_folder_is_packed_on_the_way() {
    let node = Node::start();
    node.scripts.load.reply(loading());
    node.write("layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    node.write("layout/index.json", "{}");
    node.write("layout/blobs/sha256/aa", "blob");
    let run = node.run(&["image", "load", "layout"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let data = node.scripts.load.only_request().data;
    let mut archive = tar::Archive::new(data.as_slice());
    let names: Vec<_> = archive
        .entries()
        .expect("a tar")
        .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
        .collect();
    assert_eq!(
        names,
        ["blobs", "blobs/sha256", "blobs/sha256/aa", "index.json", "oci-layout"].map(|name| {
            // Folders may carry a slash at their end.
            names.iter().find(|n| n.trim_end_matches('/') == name).cloned().unwrap_or_default()
        })
    );
}

#[test]
fn what_is_no_archive_is_told_before_or_by_the_node() {
    let node = Node::start();
    node.run(&["image", "load", "missing.tar"]).matches("image-load-missing", &[]);
    node.write("site/index.html", "hi");
    node.run(&["image", "load", "site"]).matches("image-load-site", &[]);
    node.write("bad.tar", "nonsense");
    node.scripts
        .load
        .fail(Status::invalid_argument("bad.tar is not an archive of an image: it starts with \"nons\""));
    node.run(&["image", "load", "bad.tar"]).matches("image-load-bad", &[]);
    node.scripts.load.reply(vec![stage("receiving")]);
    node.run(&["image", "load", "bad.tar"]);
    node.run(&["image", "load", "bad.tar"]).matches("image-load-cut-short", &[]);
}

fn record() -> Option<ImageRecord> {
    Some(ImageRecord {
        digest: loaded_image().digest,
        size_bytes: 12_345_678,
        platform: "linux/amd64".into(),
        loaded_at_ms: minutes_ago(),
    })
}

#[test]
fn images_are_listed_with_what_uses_them() {
    let node = Node::start();
    let used_by = vec!["shop v3".into(), "shop v2".into()];
    let used = NamedImage { name: "shop:1.4".into(), image: record(), used_by };
    let unused = NamedImage { name: "registry.example/base".into(), image: record(), used_by: vec![] };
    node.scripts.images.answer(ListImagesReply { images: vec![used, unused] });
    node.run(&["image", "ls"]).matches("image-ls", &[]);
    node.run(&["image", "ls", "-o", "json"]).matches("image-ls-json", &[]);
}

#[test]
fn an_image_is_inspected() {
    let node = Node::start();
    node.scripts.inspect.answer(InspectReply {
        name: "shop:1.4".into(),
        image: record(),
        layers: vec![LayerInfo {
            digest: "sha256:aa".into(),
            diff_id: "sha256:bb".into(),
            size_bytes: 999,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        }],
        entrypoint: vec!["/app/server".into()],
        command: vec!["--greeting".into(), "hello world".into()],
        user: "app".into(),
        working_dir: "/app".into(),
        env: vec!["PATH=/usr/bin".into()],
        exposed_ports: vec!["8080/tcp".into()],
        labels: [("team".to_owned(), "web".to_owned())].into(),
        config_json: br#"{"architecture":"amd64"}"#.as_slice().into(),
    });
    node.run(&["image", "inspect", "shop:1.4"]).matches("image-inspect", &[]);
    node.run(&["image", "inspect", "shop:1.4", "-o", "json"]).matches("image-inspect-json", &[]);
}

#[test]
fn images_are_removed_and_their_space_freed() {
    let node = Node::start();
    node.scripts.remove_image.answer(RemoveImageReply {});
    node.scripts.gc.answer(GcReply { blobs: 3, layers: 1, bytes: 4_200_000 });
    node.run(&["image", "rm", "shop:1.3"]).matches("image-rm", &[]);
    node.run(&["image", "rm", "shop:1.3", "-o", "json"]).matches("image-rm-json", &[]);
    node.run(&["image", "gc", "--dry-run"]).matches("image-gc-dry-run", &[]);
    node.run(&["image", "gc"]).matches("image-gc", &[]);
    node.run(&["image", "gc", "-o", "json"]).matches("image-gc-json", &[]);
    let dry: Vec<_> = node.scripts.gc.requests().iter().map(|request| request.dry_run).collect();
    assert_eq!(dry, [true, false, false]);
}
