//! What every call has: reflection, health, errors, an end.

use super::{World, soon};
use crate::proto::v1;
use futures_util::StreamExt;
use std::sync::atomic::Ordering;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::test]
async fn health_says_that_it_serves() {
    let world = World::new().await;
    let mut client = HealthClient::new(world.channel.clone());
    let reply = client.check(HealthCheckRequest { service: String::new() }).await.expect("answers");
    assert_eq!(reply.into_inner().status, ServingStatus::Serving as i32);
}

#[tokio::test]
async fn reflection_lists_the_public_services_and_their_files_in_both_versions() {
    let world = World::new().await;
    macro_rules! ask {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let mut client = ServerReflectionClient::new(world.channel.clone());
            let ask =
                |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let requests = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("nodectl.v1.Apps".into())),
            ];
            let replies =
                client.server_reflection_info(futures_util::stream::iter(requests)).await.expect("answers");
            let replies: Vec<_> = replies.into_inner().collect().await;
            let [Ok(list), Ok(file)] = &replies[..] else { panic!("{replies:?}") };
            let Some(MessageResponse::ListServicesResponse(list)) = &list.message_response else {
                panic!("{list:?}")
            };
            let mut names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(
                names,
                [
                    "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection",
                    "nodectl.v1.Apps",
                    "nodectl.v1.Cluster",
                    "nodectl.v1.Events",
                    "nodectl.v1.Images",
                    "nodectl.v1.Instances",
                    "nodectl.v1.Nodes",
                ]
            );
            assert!(
                matches!(&file.message_response, Some(MessageResponse::FileDescriptorResponse(_))),
                "{file:?}"
            );
        }};
    }
    ask!(v1);
    ask!(v1alpha);
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_call_and_nothing_else() {
    let world = World::new().await;
    let digest = world.host.add_image("panic", &[], &["/a"]);
    world.name_image("bad:latest", &digest);
    let request = v1::ImageRequest { image: "bad".into(), ..v1::ImageRequest::default() };
    let status = world.images().inspect(request).await.expect_err("panics");
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().starts_with("a fault in nodectl itself"), "{status}");
    world.images().list(v1::ListImagesRequest::default()).await.expect("the server goes on");
}

#[tokio::test]
async fn without_a_leader_changes_are_refused_and_stale_reads_are_answered() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    world.store.is_leaderless.store(true, Ordering::Relaxed);
    let status = world.deploy("app = \"shop\"").await.expect_err("refused");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the cluster has no leader now"));
    let list = |stale| v1::ListAppsRequest { stale, ..v1::ListAppsRequest::default() };
    assert_eq!(world.apps().list(list(false)).await.expect_err("refused").code(), Code::Unavailable);
    assert_eq!(world.apps().list(list(true)).await.expect("answered").into_inner().apps.len(), 1);
    let mut cluster = v1::cluster_client::ClusterClient::new(world.channel.clone());
    let status = cluster.status(v1::ClusterStatusRequest {}).await.expect("answered").into_inner();
    assert_eq!((status.leader.as_str(), status.term, status.apps, status.instances_ready), ("", 3, 1, 1));
}

#[tokio::test]
async fn watches_end_with_a_reason_when_the_server_stops() {
    let world = World::new().await;
    let request = v1::StatusRequest { follow: true, ..v1::StatusRequest::default() };
    let mut status = world.apps().status(request).await.expect("watches").into_inner();
    let request = v1::WatchEventsRequest { follow: true, ..v1::WatchEventsRequest::default() };
    let mut events = world.events().watch(request).await.expect("watches").into_inner();
    soon("a status", status.next()).await.expect("one").expect("good");
    soon("an event", events.next()).await.expect("one").expect("good");
    world.stop.cancel();
    let error = soon("the end", status.next()).await.expect("told").expect_err("an error");
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "the node is stopping: watch again when it is back")
    );
    let error = soon("the end", events.next()).await.expect("told").expect_err("an error");
    assert_eq!(error.code(), Code::Unavailable);
    soon("the server's end", world.served).await.expect("no panic");
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_connection_lives() {
    let world = World::new().await;
    let text = "#".repeat(super::super::MESSAGE_BYTES_MAX + 1);
    let status = world.deploy(&text).await.expect_err("too long");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    world.deploy("app = \"shop\"").await.expect("the next one is taken");
}

#[tokio::test]
async fn nodes_are_found_by_name_and_by_id() {
    let world = World::new().await;
    let mut nodes = v1::nodes_client::NodesClient::new(world.channel.clone());
    let set = |node: &str, cordoned| v1::SetNodeModeRequest { node: node.into(), cordoned, draining: None };
    let changed = |reply: tonic::Response<v1::SetNodeModeReply>| reply.into_inner().changed;
    assert!(changed(nodes.set_mode(set("node-1", Some(true))).await.expect("cordons")));
    assert!(!changed(
        nodes.set_mode(set("00000000000000000000000000000001", Some(true))).await.expect("is so")
    ));
    let error = nodes.set_mode(set("node-2", Some(true))).await.expect_err("unknown");
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "there is no node \"node-2\": did you mean node-1?")
    );
    assert_eq!(
        nodes.set_mode(set("node-1", None)).await.expect_err("nothing to do").code(),
        Code::InvalidArgument
    );
    let list = nodes.list(v1::ListNodesRequest::default()).await.expect("lists").into_inner().nodes;
    assert!(list[0].node.as_ref().expect("a node").cordoned);
}

#[tokio::test]
async fn the_replicated_store_answers_the_api() {
    use crate::api::{Deps, serve_unix};
    use crate::model::command::Action;
    let dir = tempfile::tempdir().expect("a folder");
    let handle = crate::raft::open(crate::raft::Config::new(dir.path().join("store"))).await.expect("opens");
    let act = async |action| handle.propose("test", action).await.expect("accepted");
    act(Action::InitCluster { cluster_id: 9 }).await;
    act(Action::RegisterNode(super::node_facts())).await;
    let socket = dir.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
    let host = std::sync::Arc::new(super::TestHost::default());
    let store = std::sync::Arc::new(handle.clone());
    let deps = Deps { store, host, upload_dir: dir.path().join("uploads") };
    let stop = tokio_util::sync::CancellationToken::new();
    let served = tokio::spawn(serve_unix(deps, listener, stop.clone().cancelled_owned()));
    let (channel, _socket) = super::connect(&socket).await;

    let mut cluster = v1::cluster_client::ClusterClient::new(channel.clone());
    let status = cluster.status(v1::ClusterStatusRequest {}).await.expect("answers").into_inner();
    assert_eq!(
        (status.leader.as_str(), status.cluster_id.as_str()),
        ("node-1", "00000000000000000000000000000009")
    );
    let mut events = v1::events_client::EventsClient::new(channel.clone());
    let request = v1::WatchEventsRequest {
        after_index: status.index,
        after_sub: u32::MAX,
        follow: true,
        ..Default::default()
    };
    let mut stream = events.watch(request).await.expect("watches").into_inner();
    let mut nodes = v1::nodes_client::NodesClient::new(channel);
    let request = v1::SetNodeModeRequest { node: "node-1".into(), cordoned: Some(true), draining: None };
    assert!(nodes.set_mode(request).await.expect("cordons").into_inner().changed);
    let batch = soon("an event", stream.next()).await.expect("one").expect("good");
    assert_eq!(batch.events[0].message, "node node-1 is up, cordoned");
    // The store goes first: a watch says so instead of hanging.
    handle.shutdown().await;
    let error = soon("the end", stream.next()).await.expect("told").expect_err("an error");
    assert_eq!(error.code(), Code::Unavailable);
    let error = nodes.list(v1::ListNodesRequest::default()).await.expect_err("closed");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    stop.cancel();
    soon("the server's end", served).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_status_too_large_for_a_message_leaves_the_log_tails_out() {
    use crate::model::command::{Action, Report};
    use crate::model::instance::{Observed, Phase};
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\ncount = 100\ncpu = \"1m\"\nmemory = \"4MB\"").await;
    let state = world.store.state();
    for instance in state.instances() {
        let observed = Observed {
            attempt: 2,
            step: 1,
            phase: Phase::Backoff,
            log_tail: vec!["x".repeat(1000); 60],
            ..Observed::default()
        };
        let reports = vec![Report { instance: instance.id, observed }];
        world.propose(Action::Observe { node: instance.node, reports });
    }
    let read = async |target: &str| {
        let request = v1::StatusRequest { target: target.into(), ..Default::default() };
        let mut stream = world.apps().status(request).await.expect("answers").into_inner();
        let reply = soon("a status", stream.next()).await.expect("one").expect("it fits");
        let tails = reply.apps[0]
            .instances
            .iter()
            .filter(|i| i.observed.as_ref().is_some_and(|o| !o.log_tail.is_empty()));
        (reply.apps[0].instances.len(), tails.count())
    };
    assert_eq!(read("").await, (100, 0));
    assert_eq!(read("shop/web.1").await, (1, 1));
}
