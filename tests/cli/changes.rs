//! What changes one thing: scale, restart, stop, start, abort, app rm, node cordon and drain.

use crate::fixtures::{change, healthy};
use crate::node::{Node, Step};
use nodectl::proto::v1::SetNodeModeReply;

#[test]
fn scale_names_processes_and_counts() {
    let node = Node::start();
    node.scripts.scale.answer(change(true));
    node.run(&["scale", "web=5", "worker=2", "-a", "shop"]).matches("scale", &[]);
    node.run(&["scale", "web=5", "-a", "shop", "-o", "json"]).matches("scale-json", &[]);
    let request = &node.scripts.scale.requests()[0];
    assert_eq!(request.app, "shop");
    assert_eq!(
        request.counts.iter().map(|(p, c)| (p.as_str(), *c)).collect::<Vec<_>>(),
        [("web", 5), ("worker", 2)]
    );
}

#[test]
fn scale_acts_on_the_manifests_app_and_says_so() {
    let node = Node::start();
    node.write("nodectl.toml", "app = \"shop\"\n");
    node.scripts.scale.answer(change(false));
    node.run(&["scale", "web=5"]).matches("scale-manifest", &[]);
}

#[test]
fn an_app_is_restarted_stopped_started_and_its_rollout_aborted() {
    let node = Node::start();
    let scripts = &node.scripts;
    for script in [&scripts.stop, &scripts.start, &scripts.cancel] {
        script.answer(change(true));
        script.answer(change(false));
    }
    scripts.restart.answer(change(true));
    node.run(&["restart", "shop/web.2"]).matches("restart", &[]);
    node.run(&["restart", "shop", "-o", "json"]).matches("restart-json", &[]);
    for verb in ["stop", "start", "abort"] {
        node.run(&[verb, "shop"]).matches(verb, &[]);
        node.run(&[verb, "-a", "shop"]).matches(&format!("{verb}-already"), &[]);
        let json = node.run(&[verb, "shop", "-o", "json"]).json();
        assert_eq!(json, serde_json::json!({ "target": "shop", "changed": false, "index": 43 }), "{verb}");
    }
    assert_eq!(scripts.restart.requests()[0].target, "shop/web.2");
}

#[test]
fn an_app_is_removed_only_by_name() {
    let node = Node::start();
    node.write("nodectl.toml", "app = \"shop\"\n");
    node.scripts.remove.answer(change(true));
    node.scripts.status.fail(tonic::Status::not_found("there is no app shop"));
    assert_eq!(node.run(&["app", "rm"]).code, Some(2));
    node.run(&["app", "rm", "shop"]).matches("app-rm", &[]);
    node.run(&["app", "rm", "shop", "-o", "json"]).matches("app-rm-json", &[]);
    node.run(&["app", "rm", "shop", "--detach"]).matches("app-rm-detached", &[]);
    assert_eq!(node.scripts.status.requests().len(), 2, "only what waits asks");
}

#[test]
fn a_removal_is_over_when_the_app_is_gone() {
    let node = Node::start();
    node.scripts.remove.answer(change(true));
    let mut leaving = healthy();
    leaving.apps[0].app.as_mut().expect("an app").removing = true;
    let gone = tonic::Status::not_found("there is no app shop");
    // A node that stops in between is waited for; what it says of the app then is the end.
    node.scripts
        .status
        .reply(vec![Step::Send(leaving.clone()), Step::Fail(tonic::Status::unavailable("stopping"))]);
    node.scripts.status.reply(vec![Step::Send(leaving), Step::Fail(gone)]);
    let run = node.run(&["app", "rm", "shop"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "removed shop\n"), "{}", run.stderr);
    assert_eq!(node.scripts.status.requests().len(), 2);
    // An app of that name that is not leaving is another one.
    let other = Node::start();
    other.scripts.remove.answer(change(true));
    other.scripts.status.answer(healthy());
    assert_eq!(other.run(&["app", "rm", "shop"]).stdout, "removed shop\n");
}

#[test]
fn a_node_is_cordoned_drained_and_taken_back() {
    let node = Node::start();
    node.scripts.mode.answer(SetNodeModeReply { changed: true });
    for verb in ["cordon", "drain", "uncordon"] {
        node.run(&["node", verb, "node-1"]).matches(&format!("node-{verb}"), &[]);
    }
    node.run(&["node", "drain", "node-1", "-o", "json"]).matches("node-drain-json", &[]);
    let modes: Vec<_> = node.scripts.mode.requests().iter().map(|m| (m.cordoned, m.draining)).collect();
    let drain = (Some(true), Some(true));
    assert_eq!(modes, [(Some(true), None), drain, (Some(false), Some(false)), drain]);
}
