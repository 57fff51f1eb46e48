//! What shows: status, app ls, why, events, node ls, cluster status.

use crate::fixtures::*;
use crate::golden::{Following, WHILE_AWAY};
use crate::node::{Node, Step};
use nodectl::proto::v1::*;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use tonic::Status;

#[test]
fn status_of_one_app_shows_its_instances() {
    let node = Node::start();
    node.scripts.status.answer(healthy());
    node.run(&["status", "shop"]).matches("status-app", &[]);
    node.run(&["status", "shop", "-o", "json"]).matches("status-app-json", &[]);
    assert_eq!(node.scripts.status.requests()[0].target, "shop");
}

#[test]
fn status_says_what_is_wrong_and_what_to_look_at() {
    let node = Node::start();
    node.scripts.status.answer(troubled());
    node.run(&["status", "shop"]).matches("status-trouble", &[]);
}

#[test]
fn status_without_a_target_takes_the_manifests_app_and_says_so() {
    let node = Node::start();
    node.scripts.status.answer(healthy());
    node.run(&["status"]).matches("status-all", &[]);
    node.write("nodectl.toml", "app = \"shop\"\n");
    let run = node.run(&["status"]);
    assert!(
        run.stderr.starts_with("app shop (./nodectl.toml); every app: nodectl status -A\n"),
        "{}",
        run.stderr
    );
    node.run(&["status", "-A"]);
    node.run(&["status", "-a", "blog"]);
    let targets: Vec<_> = node.scripts.status.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["", "shop", "", "blog"]);
}

#[test]
fn a_manifest_that_names_no_app_is_told() {
    let node = Node::start();
    node.write("nodectl.toml", "[env]\n");
    node.run(&["logs"]).matches("manifest-without-app", &[]);
    node.write("nodectl.toml", "app = ");
    node.run(&["logs"]).matches("manifest-not-toml", &[]);
}

#[test]
fn an_empty_cluster_says_how_to_begin() {
    let node = Node::start();
    node.scripts.apps.answer(ListAppsReply::default());
    node.scripts.images.answer(ListImagesReply::default());
    node.run(&["app", "ls"]).matches("app-ls-empty", &[]);
    node.run(&["image", "ls"]).matches("image-ls-empty", &[]);
}

#[test]
fn apps_are_listed() {
    let node = Node::start();
    let mut stopped = app(vec![]);
    stopped.app.as_mut().expect("an app").stopped = true;
    stopped.app.as_mut().expect("an app").key = Some(AppKey { tenant: "default".into(), app: "blog".into() });
    stopped.urls = vec!["http://blog.localhost:8080/".into()];
    node.scripts.apps.answer(ListAppsReply {
        apps: vec![stopped, app(vec![instance(1, 3, ready())])],
        index: 42,
        nodes: vec![crate::fixtures::node()],
    });
    node.run(&["app", "ls"]).matches("app-ls", &[]);
    node.run(&["app", "ls", "-o", "json"]).matches("app-ls-json", &[]);
}

#[test]
fn status_watch_shows_each_state_and_goes_on_after_a_restart() {
    let mut node = Node::start();
    node.scripts.status.reply(vec![Step::Send(healthy()), Step::Hold]);
    let watch =
        Following::start(node.command(&["status", "shop", "--watch", "-o", "json"]), node.folder.path());
    watch.lines(1);
    node.restart();
    for line in watch.lines(2) {
        let state: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&state["index"], &state["apps"][0]["app"]), (&42.into(), &"shop".into()));
    }
    drop(watch);
    assert!(node.scripts.status.requests().iter().all(|request| request.follow));
}

#[test]
fn why_prints_the_nodes_sentences() {
    let node = Node::start();
    let lines =
        vec!["shop/web needs 64 GB of memory".into(), "the largest free is 22.9 GB, on node-1".into()];
    node.scripts.why.answer(WhyReply { lines });
    node.run(&["why", "shop/web"]).matches("why", &[]);
    node.run(&["why", "node-1", "-o", "json"]).matches("why-json", &[]);
    assert_eq!(node.scripts.why.requests()[1].target, "node-1");
}

fn batch() -> EventBatch {
    let event = |index, sub, kind: &str, target: &str, message: &str| Event {
        index,
        sub,
        at_ms: FIXED_MS + index,
        kind: kind.into(),
        app: key(),
        instance: Some(31),
        target: target.into(),
        node_id: Some(NODE_ID.into()),
        message: message.into(),
    };
    EventBatch {
        events: vec![
            event(40, 0, "deployed", "shop", "v3 of shop:1.4 by root"),
            event(41, 1, "instance-phase", "shop/web.1", "ready on node-1"),
        ],
        index: 41,
        sub: 1,
        gap: false,
    }
}

#[test]
fn events_are_shown_and_resumed_by_index() {
    let node = Node::start();
    node.scripts.events.answer(batch());
    node.run(&["events"]).matches("events", &[]);
    node.run(&["events", "--after", "39", "-o", "json"]).matches("events-json", &[]);
    let request = &node.scripts.events.requests()[1];
    assert_eq!((request.after_index, request.after_sub, request.follow), (39, u32::MAX, false));
}

#[test]
fn followed_events_go_on_after_a_restart_from_where_they_were() {
    let mut node = Node::start();
    node.scripts.events.reply(vec![Step::Send(batch()), Step::Hold]);
    node.scripts.events.reply(vec![
        Step::Send(EventBatch { gap: true, ..batch() }),
        Step::Fail(Status::failed_precondition("enough")),
    ]);
    let follow = Following::start(node.command(&["events", "-f", "-o", "json"]), node.folder.path());
    follow.lines(2);
    node.restart();
    let run = follow.end();
    run.matches("events-follow", WHILE_AWAY);
    let request = &node.scripts.events.requests()[1];
    assert_eq!((request.after_index, request.after_sub), (41, 1));
}

#[test]
fn nodes_are_listed_with_what_is_taken() {
    let node = Node::start();
    let mut other = node_view();
    let inner = other.node.as_mut().expect("a node");
    inner.name = "node-2".into();
    inner.draining = true;
    inner.cordoned = true;
    let mut down = node_view();
    let inner = down.node.as_mut().expect("a node");
    inner.name = "node-3".into();
    inner.status = NodeStatus::Down as i32;
    node.scripts.nodes.answer(ListNodesReply { nodes: vec![node_view(), other, down] });
    node.run(&["node", "ls"]).matches("node-ls", &[]);
    node.run(&["node", "ls", "-o", "json"]).matches("node-ls-json", &[]);
}

#[test]
fn the_cluster_is_shown() {
    let node = Node::start();
    node.scripts.cluster.answer(ClusterStatusReply {
        cluster_id: NODE_ID.into(),
        term: 2,
        leader: "node-1".into(),
        index: 42,
        nodes: vec![node_view()],
        apps: 1,
        instances: 3,
        instances_ready: 2,
        version: "0.1.0".into(),
    });
    node.run(&["cluster", "status"]).matches("cluster-status", &[]);
    node.run(&["cluster", "status", "-o", "json"]).matches("cluster-status-json", &[]);
    node.run(&["version"]).matches("version-with-node", &[]);
}

#[test]
fn what_the_node_refuses_is_told_in_its_words() {
    let node = Node::start();
    for (name, status) in [
        ("refused-not-found", Status::not_found("there is no app \"shop\": `nodectl app ls` lists them")),
        ("refused-internal", Status::internal("index out of range")),
        ("refused-unknown-method", Status::unimplemented("")),
        ("refused-deadline", Status::deadline_exceeded("")),
        ("refused-unavailable", Status::unavailable("no leader: 1 of 3 servers answers")),
        ("refused-lost", Status::unavailable("")),
        ("refused-silent", Status::permission_denied("")),
    ] {
        node.scripts.why.fail(status.clone());
        node.run(&["why", "shop"]);
        let run = node.run(&["why", "shop"]);
        run.matches(name, &[]);
        assert_eq!(run.code, Some(1));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let node = Node::start();
    let lines = (0..20_000).map(|n| format!("line {n}")).collect();
    node.scripts.why.answer(WhyReply { lines });
    let mut child = node
        .command(&["why", "shop"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
    assert_eq!(first, "line 0\n");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
