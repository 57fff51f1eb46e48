//! Deploys: what is found and sent, and how a rollout ends.

use crate::fixtures::*;
use crate::golden::Run;
use crate::node::{Node, Step, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodectl::proto::v1::*;
use std::process::Stdio;
use tonic::Status;

fn reply() -> DeployReply {
    DeployReply {
        app: "shop".into(),
        release: 3,
        deployment: 9,
        reused: false,
        notes: vec!["port 8080 (the image exposes it)".into(), "memory 256 MB (default)".into()],
        urls: vec!["http://shop.localhost:8080/".into()],
    }
}

fn progress(
    status: DeploymentStatus,
    previous: Option<u64>,
    message: &str,
    instances: Vec<Instance>,
) -> Step<DeploymentProgress> {
    let over = status != DeploymentStatus::Running;
    Step::Send(DeploymentProgress {
        nodes: vec![crate::fixtures::node()],
        deployment: Some(deployment(status, previous, message)),
        instances,
        waiting_for: if over { String::new() } else { "shop/web.1 to become ready".into() },
        over,
        index: 42,
    })
}

fn running() -> Step<DeploymentProgress> {
    let instances = vec![instance(1, 2, ready()), instance(1, 3, starting())];
    progress(DeploymentStatus::Running, Some(2), "", instances)
}

fn done() -> Step<DeploymentProgress> {
    progress(DeploymentStatus::Done, Some(2), "", vec![instance(1, 3, ready())])
}

/// A node that takes a deploy and plays its rollout.
fn node(rollout: Vec<Step<DeploymentProgress>>) -> Node {
    let node = Node::start();
    node.scripts.deploy.answer(reply());
    node.scripts.watch_deployment.reply(rollout);
    node
}

fn source(node: &Node) -> deploy_request::Source {
    node.scripts.deploy.only_request().source.expect("a source")
}

#[test]
fn an_image_is_deployed_and_followed_to_its_end() {
    let node = node(vec![running(), done()]);
    node.run(&["deploy", "--image", "shop:1.4", "--port", "8080", "--force"]).matches("deploy-image", &[]);
    let request = node.scripts.deploy.only_request();
    assert!(request.force && !request.reset_scale);
    let image = ImageSource { image: "shop:1.4".into(), app: String::new(), port: Some(8080) };
    assert_eq!(request.source, Some(deploy_request::Source::Image(image)));
}

#[test]
fn each_step_is_a_json_line_and_the_result_is_the_last() {
    let node = node(vec![running(), done()]);
    let run = node.run(&["deploy", "--image", "shop:1.4", "--name", "shop", "-o", "json"]);
    run.matches("deploy-json", &[]);
    let types: Vec<_> = run.json_lines().iter().map(|line| line["type"].clone()).collect();
    assert_eq!(types, ["started", "progress", "result"]);
}

#[test]
fn a_manifest_is_sent_as_it_is() {
    let node = node(vec![done()]);
    let text = "app = \"shop\"\nimage = \"shop:1.4\"\nunknown = 1\n";
    node.write("nodectl.toml", text);
    node.run(&["deploy", "--reset-scale"]).matches("deploy-manifest", &[]);
    let manifest = ManifestSource { file_name: "nodectl.toml".into(), text: text.into() };
    assert_eq!(source(&node), deploy_request::Source::Manifest(manifest));
}

#[test]
fn a_manifests_error_is_shown_in_the_nodes_words() {
    let node = Node::start();
    node.write("x/nodectl.toml", "app = \"shop\"\nimgae = \"shop:1.4\"\n");
    let message =
        "x/nodectl.toml:2: unknown key \"imgae\", did you mean \"image\"?\nx/nodectl.toml:1: second";
    node.scripts.deploy.fail(Status::invalid_argument(message));
    node.run(&["deploy", "-f", "x/nodectl.toml"]).matches("deploy-bad-manifest", &[]);
}

#[test]
fn a_folder_with_a_page_becomes_an_image_that_is_deployed() {
    let node = node(vec![done()]);
    node.write("My Site/index.html", "<h1>hi</h1>");
    node.write("My Site/.env", "SECRET=1");
    node.scripts.build.answer(loaded());
    node.run(&["deploy", "My Site"]).matches("deploy-site", &[]);
    let sent = node.scripts.build.only_request();
    assert_eq!(sent.name, "my-site");
    let mut archive = tar::Archive::new(sent.data.as_slice());
    let entries = archive.entries().expect("a tar").map(|entry| {
        let entry = entry.expect("an entry");
        let header = entry.header();
        (
            entry.path().expect("a path").display().to_string(),
            header.mtime().expect("a time"),
            header.uid().expect("an id"),
        )
    });
    assert_eq!(entries.collect::<Vec<_>>(), [("index.html".to_owned(), 0, 0)]);
    let image = ImageSource { image: loaded_image().digest, app: "my-site".into(), port: None };
    assert_eq!(source(&node), deploy_request::Source::Image(image));
}

#[test]
fn a_manifest_with_a_static_folder_deploys_what_was_just_sent() {
    let node = node(vec![done()]);
    let text = "app = \"shop\"\n[build]\nstatic = \"public\"\n";
    node.write("x/nodectl.toml", text);
    node.run(&["deploy", "x"]).matches("deploy-static-missing", &[]);
    node.write("x/public/index.html", "hi");
    node.scripts.build.answer(loaded());
    let run = node.run(&["deploy", "x"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let request = node.scripts.deploy.only_request();
    assert_eq!(request.image_override, Some(loaded_image().digest));
    let manifest = ManifestSource { file_name: "x/nodectl.toml".into(), text: text.into() };
    assert_eq!(request.source, Some(deploy_request::Source::Manifest(manifest)));
}

#[test]
fn a_rollout_that_fails_says_what_still_serves_and_the_last_lines() {
    let reason = "shop/web.1 exited with status 3 four times";
    let failed = progress(
        DeploymentStatus::Failed,
        Some(2),
        reason,
        vec![instance(1, 2, ready()), instance(1, 3, crashed())],
    );
    let node = node(vec![running(), failed]);
    node.run(&["deploy", "--image", "shop:1.4"]).matches("deploy-failed", &[]);
    node.scripts.watch_deployment.requests.lock().expect("no panic").clear();
    node.run(&["deploy", "--image", "shop:1.4", "-o", "json"]).matches("deploy-failed-json", &[]);
}

#[test]
fn every_other_end_is_a_failure_too() {
    for (name, status, previous, message) in [
        ("deploy-first-failed", DeploymentStatus::Failed, None, "no instance became ready within 5 min"),
        ("deploy-reverted", DeploymentStatus::Reverted, Some(2), "2 of 3 instances failed their check"),
        ("deploy-cancelled", DeploymentStatus::Cancelled, Some(2), "by root"),
        ("deploy-superseded", DeploymentStatus::Cancelled, Some(2), "superseded by v4"),
    ] {
        let node = node(vec![progress(status, previous, message, vec![])]);
        let run = node.run(&["deploy", "--image", "shop:1.4"]);
        run.matches(name, &[]);
        assert_eq!(run.code, Some(1));
    }
}

#[test]
fn detached_it_returns_at_once() {
    let node = node(vec![Step::Hold]);
    node.run(&["deploy", "--image", "shop:1.4", "--detach"]).matches("deploy-detached", &[]);
    node.run(&["deploy", "--image", "shop:1.4", "--detach", "-o", "json"])
        .matches("deploy-detached-json", &[]);
    assert!(node.scripts.watch_deployment.requests().is_empty());
}

#[test]
fn ctrl_c_leaves_the_rollout_running_and_says_how_to_go_on() {
    let node = node(vec![running(), Step::Hold]);
    let mut command = node.command(&["deploy", "--image", "shop:1.4"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    eventually("the watch", || (!node.scripts.watch_deployment.requests().is_empty()).then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("signalled");
    let run = Run::of_child(&command, child);
    run.matches("deploy-interrupted", &[]);
    assert!(node.scripts.cancel.requests().is_empty());
}

#[test]
fn a_node_that_restarts_meanwhile_does_not_end_the_watch() {
    let mut node = node(vec![running(), Step::Hold]);
    node.scripts.watch_deployment.reply(vec![done()]);
    let mut command = node.command(&["deploy", "--image", "shop:1.4"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    eventually("the watch", || (!node.scripts.watch_deployment.requests().is_empty()).then_some(()));
    node.restart();
    let run = Run::of_child(&command, child);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("v3 serves"), "{}", run.stdout);
    assert_eq!(node.scripts.deploy.requests().len(), 1, "deployed once");
}

#[test]
fn a_name_beside_a_manifest_is_refused() {
    let node = Node::start();
    node.write("nodectl.toml", "app = \"shop\"\n");
    node.run(&["deploy", "--name", "other"]).matches("deploy-name-and-manifest", &[]);
}
