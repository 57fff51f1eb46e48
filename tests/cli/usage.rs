//! Help, wrong usage (2), and nodes that cannot be reached (1).

use crate::golden::{Run, nodectl};
use crate::node::Node;
use nodectl::proto::v1::ClusterStatusReply;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

fn run(args: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    Run::of(nodectl(folder.path(), args))
}

#[test]
fn alone_it_shows_the_first_minute() {
    run(&[]).matches("help", &[]);
}

#[test]
fn every_verb_has_help_with_an_example() {
    let verbs: [&[&str]; 28] = [
        &["dev"],
        &["deploy"],
        &["abort"],
        &["status"],
        &["logs"],
        &["exec"],
        &["scale"],
        &["restart"],
        &["stop"],
        &["start"],
        &["app", "ls"],
        &["app", "rm"],
        &["events"],
        &["node", "ls"],
        &["node", "cordon"],
        &["node", "uncordon"],
        &["node", "drain"],
        &["cluster", "status"],
        &["image", "load"],
        &["image", "ls"],
        &["image", "rm"],
        &["image", "gc"],
        &["image", "inspect"],
        &["why"],
        &["service", "install"],
        &["completions"],
        &["version"],
        &["deploy"],
    ];
    for verb in verbs {
        let run = run(&[verb, &["--help"]].concat());
        assert_eq!(run.code, Some(0), "{verb:?}");
        let example = format!("nodectl {}", verb.join(" "));
        let after = run.stdout.split("Example").nth(1).unwrap_or_else(|| panic!("{verb:?} has no example"));
        assert!(after.contains(&example), "{verb:?}: {after}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_right() {
    for (name, args) in [
        ("usage-unknown-verb", &["deplyo"][..]),
        ("usage-bad-target", &["logs", "web.1"]),
        ("usage-bad-count", &["scale", "web"]),
        ("usage-two-counts", &["scale", "web=1", "web=2", "-a", "shop"]),
        ("usage-no-target", &["restart"]),
        ("usage-part-of-app", &["stop", "shop/web"]),
        ("usage-bad-since", &["logs", "shop", "--since", "yesterday"]),
        ("usage-two-sources", &["deploy", ".", "--image", "x"]),
        ("usage-port-without-image", &["deploy", "--port", "80"]),
        ("usage-nothing-to-deploy", &["deploy"]),
        ("usage-dev-without-folder", &["dev", "missing"]),
        ("usage-dev-nothing-to-serve", &["dev", "."]),
        ("usage-https", &["status", "--addr", "https://example.com:7443"]),
        ("usage-bad-address", &["status", "--addr", "/run/api.sock"]),
        ("usage-exec-without-command", &["exec", "shop"]),
        ("usage-relative-data-folder", &["service", "install", "--print", "--data-dir", "x"]),
    ] {
        let run = run(args);
        run.matches(name, &[]);
        assert_eq!(run.code, Some(2), "{name}");
        assert_eq!(run.stdout, "", "{name}");
    }
}

#[test]
fn a_node_that_does_not_run_is_an_error_that_says_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = folder.path().display().to_string();
    let at = format!("unix://{shown}/api.sock");
    let run = Run::of(nodectl(folder.path(), &["status", "--addr", &at]));
    run.matches("unreachable-named", &[(&shown, "FOLDER")]);
    assert_eq!(run.code, Some(1));
    // Left behind by a node that was killed: nobody listens.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("api.sock")).expect("bound"));
    let run = Run::of(nodectl(folder.path(), &["status", "--addr", &at]));
    run.matches("unreachable-named", &[(&shown, "FOLDER")]);
}

#[test]
fn a_socket_of_somebody_else_is_told_apart_from_no_node() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to run as somebody else");
        return;
    }
    let node = Node::start();
    // The binary where anybody may run it.
    let program = std::env::temp_dir().join(format!("nodectl-cli-test-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_nodectl"), &program).expect("copied");
    let mut command = std::process::Command::new(&program);
    command
        .args(["status", "--addr", &node.address()])
        .env_clear()
        .env("HOME", "/")
        .current_dir("/")
        .uid(65_534)
        .gid(65_534);
    let run = Run::of(command);
    std::fs::remove_file(&program).expect("removed");
    run.matches("unreachable-permission", &[(&node.folder.path().display().to_string(), "FOLDER")]);
    assert_eq!(run.code, Some(1));
}

#[test]
fn without_an_address_the_default_folder_is_tried() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = Run::of(nodectl(folder.path(), &["node", "ls"]));
    assert_eq!(run.code, Some(1));
    let own = format!("unix://{}/data/nodectl/api.sock", folder.path().display());
    let expected = if nix::unistd::geteuid().is_root() { "unix:///var/lib/nodectl/api.sock" } else { &own };
    // Root may have a node running for real: then it answers.
    if !Path::new("/var/lib/nodectl/api.sock").exists() {
        assert!(run.stderr.contains(expected), "{}", run.stderr);
        assert!(run.stderr.contains("`nodectl dev`"), "{}", run.stderr);
        assert!(run.stderr.contains("NODECTL_ADDR=unix://DIR/api.sock"), "{}", run.stderr);
    }
}

#[test]
fn a_socket_with_a_path_beyond_what_an_address_holds_is_reached() {
    let deep: PathBuf = (0..6).map(|_| "a-folder-with-a-long-name").collect();
    let node = Node::start_at(&deep.join("api.sock"));
    assert!(node.address().len() > 120);
    node.scripts.cluster.answer(ClusterStatusReply { version: "0.1.0".into(), ..Default::default() });
    let run = node.run(&["version", "-o", "json"]);
    assert_eq!(run.json()["node"], "0.1.0", "{}", run.stderr);
}

#[test]
fn version_answers_without_a_node() {
    run(&["version", "--addr", "unix:///nowhere/api.sock"]).matches("version", &[]);
    run(&["version", "-o", "json", "--addr", "unix:///nowhere/api.sock"]).matches("version-json", &[]);
}

#[test]
fn completions_are_a_script_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let run = run(&["completions", shell]);
        assert_eq!(run.code, Some(0));
        for verb in ["deploy", "cordon", "inspect"] {
            assert!(run.stdout.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn the_unit_is_shown_without_touching_the_machine() {
    let run = run(&["service", "install", "--print", "--data-dir", "/srv/node"]);
    run.matches("service-print", &[(env!("CARGO_BIN_EXE_nodectl"), "/usr/local/bin/nodectl")]);
}

#[test]
fn installing_a_service_without_systemd_is_refused_with_the_reason() {
    if Path::new("/run/systemd/system").exists() {
        eprintln!("skipped: this machine is run by systemd");
        return;
    }
    run(&["service", "install"]).matches("service-no-systemd", &[]);
}
