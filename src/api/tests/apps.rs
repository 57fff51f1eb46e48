//! Apps from deploy to removal.

use super::{World, soon};
use crate::model::command::Action;
use crate::model::instance::Phase;
use crate::proto::v1;
use crate::proto::v1::deploy_request::Source;
use futures_util::StreamExt;
use tonic::{Code, Status};

fn app(name: &str) -> v1::AppRequest {
    v1::AppRequest { app: name.into(), ..Default::default() }
}

fn image(image: &str, app: &str, port: Option<u32>) -> v1::DeployRequest {
    let source = Source::Image(v1::ImageSource { image: image.into(), app: app.into(), port });
    v1::DeployRequest { source: Some(source), ..Default::default() }
}

fn said(status: &Status) -> (Code, &str) {
    (status.code(), status.message())
}

#[tokio::test]
async fn a_manifest_becomes_a_release_with_its_urls_and_defaults_told() {
    let world = World::new().await;
    let reply = world
        .deploy("app = \"shop\"\n[[route]]\nhost = \"shop.example\"\npath = \"/x\"")
        .await
        .expect("deploys");
    assert_eq!((reply.app.as_str(), reply.release, reply.deployment, reply.reused), ("shop", 1, 1, false));
    assert_eq!(reply.urls, ["http://shop.localhost:8080/", "http://shop.example:8080/x"]);
    assert!(reply.notes.contains(&"web: port 80 (the image exposes it)".to_owned()), "{:?}", reply.notes);

    let busy = world.deploy("app = \"shop\"").await.expect_err("is being deployed");
    assert_eq!(
        said(&busy),
        (
            Code::FailedPrecondition,
            "app shop is being deployed already (v1): wait for it (`nodectl status shop --watch`), or take over with --force"
        )
    );
    world.settle();
    let again = world
        .deploy("app = \"shop\"\n[[route]]\nhost = \"SHOP.example\"\npath = \"/x/\"")
        .await
        .expect("deploys");
    assert_eq!((again.release, again.reused), (1, true), "what is equal in meaning is the same release");
    world.settle();
    let other = world.deploy("app = \"shop\"\n[process.web]\ncount = 2").await.expect("deploys");
    assert_eq!((other.release, other.reused), (2, false));
}

#[tokio::test]
async fn every_fault_of_a_manifest_comes_back_at_once() {
    let world = World::new().await;
    let status =
        world.deploy("app = \"shop\"\n[process.web]\ncout = 3\nport = 0").await.expect_err("refused");
    assert_eq!(
        said(&status),
        (
            Code::InvalidArgument,
            "nodectl.toml:3: unknown key \"cout\" in [process.web]: did you mean \"count\"?\n\
             nodectl.toml:4: \"port\" in [process.web] must be from 1 to 65535; it is 0"
        )
    );
}

#[tokio::test]
async fn an_image_alone_becomes_an_app() {
    let world = World::new().await;
    let reply = world.apps().deploy(image("shop", "", None)).await.expect("deploys").into_inner();
    assert_eq!((reply.app.as_str(), reply.urls), ("shop", vec!["http://shop.localhost:8080/".to_owned()]));
    assert_eq!(reply.notes[0], "app shop (from the image's name)");
    let digest = world.store.state().images.values().next().expect("an image").digest.to_string();
    let reply = world.apps().deploy(image(&digest, "other", Some(3000))).await.expect("deploys").into_inner();
    assert!(reply.notes.contains(&"web: port 3000 (--port)".to_owned()), "{:?}", reply.notes);
}

#[tokio::test]
async fn an_image_that_cannot_be_deployed_says_why_and_what_to_do() {
    let world = World::new().await;
    let arm = world.host.add_image("linux/arm64", &[], &["/a"]);
    world.name_image("pi:latest", &arm);
    let empty = world.host.add_image("linux/amd64", &[], &[]);
    world.name_image("empty:latest", &empty);
    for (request, code, message) in [
        (
            image("shp", "", None),
            Code::NotFound,
            "there is no image shp:latest: did you mean shop:latest? `nodectl image ls` lists all",
        ),
        (
            image("shop:2", "", None),
            Code::NotFound,
            "there is no image shop:2: did you mean shop:latest? `nodectl image ls` lists all",
        ),
        (
            // Shares its tag with what there is, and nothing else.
            image("sear", "", None),
            Code::NotFound,
            "there is no image sear:latest: `nodectl image ls` lists what there is, `nodectl image load FILE` brings one in",
        ),
        (
            image("zebra", "", None),
            Code::NotFound,
            "there is no image zebra:latest: `nodectl image ls` lists what there is, `nodectl image load FILE` brings one in",
        ),
        (
            image("pi", "", None),
            Code::FailedPrecondition,
            "image pi:latest is linux/arm64, this cluster's nodes are linux/amd64: build or load it for one of those",
        ),
        (
            image("empty", "", None),
            Code::InvalidArgument,
            "image empty: the image names no command to run: write a nodectl.toml with app, image and, below [process.web], command = [\"/path/to/program\"]",
        ),
        (image("a b", "x", None), Code::InvalidArgument, "\"a b\" is no image name"),
        (image("shop", "", Some(0)), Code::InvalidArgument, "the port must be from 1 to 65535; it is 0"),
        (
            image("___", "", None),
            Code::InvalidArgument,
            "no app's name can be made of the image's, \"___\": name the app with --name",
        ),
        (
            v1::DeployRequest::default(),
            Code::InvalidArgument,
            "nothing to deploy: give a manifest or an image",
        ),
        (
            v1::DeployRequest { tenant: "acme".into(), ..image("shop", "", None) },
            Code::InvalidArgument,
            "tenants are not supported yet: leave the tenant \"acme\" out",
        ),
    ] {
        let status = world.apps().deploy(request).await.expect_err(message);
        assert_eq!(said(&status), (code, message));
    }
    for (text, message) in [
        (
            "app = \"shop\"",
            "nodectl.toml names no image: add image = \"NAME\", or [build] with static = \"FOLDER\"",
        ),
        (
            "app = \"shop\"\n[build]\nstatic = \"public\"",
            "nodectl.toml builds its image from the folder \"public\": build it first and give its name; `nodectl deploy` does both",
        ),
    ] {
        let source = Source::Manifest(v1::ManifestSource { file_name: String::new(), text: text.into() });
        let request = v1::DeployRequest { source: Some(source), ..Default::default() };
        let status = world.apps().deploy(request).await.expect_err(message);
        assert_eq!(said(&status), (Code::InvalidArgument, message));
    }
    assert!(world.store.state().apps.is_empty(), "nothing was half made");
}

#[tokio::test]
async fn a_deployment_is_followed_to_its_end_and_says_what_it_waits_for() {
    let world = World::new().await;
    let reply = world.deploy("app = \"shop\"").await.expect("deploys");
    let request =
        v1::WatchDeploymentRequest { app: "shop".into(), deployment: reply.deployment, ..Default::default() };
    let mut progress = world.apps().watch_deployment(request.clone()).await.expect("watches").into_inner();
    let first = soon("progress", progress.next()).await.expect("one").expect("good");
    assert!(!first.over && first.instances.is_empty() && !first.waiting_for.is_empty(), "{first:?}");
    world.plan();
    let placed = soon("progress", progress.next()).await.expect("one").expect("good");
    assert_eq!(placed.instances.len(), 1);
    assert!(placed.waiting_for.contains("web.1"), "{}", placed.waiting_for);
    world.settle();
    let mut last = placed;
    while let Some(next) = soon("progress", progress.next()).await {
        let next = next.expect("good");
        assert!(next.index > last.index);
        last = next;
    }
    assert!(last.over && last.waiting_for.is_empty());
    assert_eq!(last.deployment.expect("it").status, v1::DeploymentStatus::Done as i32);
    // Who comes later sees the end, at once.
    let mut late = world.apps().watch_deployment(request).await.expect("watches").into_inner();
    assert!(soon("progress", late.next()).await.expect("one").expect("good").over);
    assert!(soon("the end", late.next()).await.is_none());

    let unknown = v1::WatchDeploymentRequest { app: "shop".into(), deployment: 99, ..Default::default() };
    let status = world.apps().watch_deployment(unknown).await.expect_err("unknown");
    assert_eq!(said(&status), (Code::NotFound, "app shop has no deployment 99: see `nodectl status shop`"));
}

#[tokio::test]
async fn status_shows_an_app_and_follows_only_what_changes() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\ncount = 2\n[process.worker]").await;
    world.deployed("app = \"blog\"").await;
    let request =
        |target: &str, follow| v1::StatusRequest { target: target.into(), follow, ..Default::default() };
    let one = async |target: &str| {
        let mut stream = world.apps().status(request(target, false)).await.expect("answers").into_inner();
        let reply = soon("a status", stream.next()).await.expect("one").expect("good");
        assert!(stream.next().await.is_none());
        reply
    };
    assert_eq!(one("").await.apps.len(), 2);
    let shop = one("shop").await.apps.remove(0);
    let counts: Vec<_> = shop.processes.iter().map(|p| (p.process.as_str(), p.wanted, p.ready)).collect();
    assert_eq!(counts, [("web", 2, 2), ("worker", 1, 1)]);
    assert_eq!((shop.instances.len(), shop.problems.len()), (3, 0), "{:?}", shop.problems);
    assert_eq!(one("shop/web").await.apps[0].instances.len(), 2);
    assert_eq!(one("shop/web.2").await.apps[0].instances.len(), 1);

    let mut follow = world.apps().status(request("shop", true)).await.expect("watches").into_inner();
    soon("the first", follow.next()).await.expect("one").expect("good");
    // What does not concern the app makes no message; what does is the next one.
    world.propose(Action::SetImage {
        tenant: crate::model::ids::TenantName::default_tenant(),
        name: "x:latest".into(),
        image: (**world.store.state().images.values().next().expect("an image")).clone(),
    });
    let state = world.store.state();
    let instance = state.instances().find(|i| i.name() == "shop/web.1").expect("runs");
    world.report(instance, Phase::Running, false, "GET / answered 500");
    let next = soon("the next", follow.next()).await.expect("one").expect("good");
    assert_eq!(next.apps[0].problems, ["shop/web.1 runs but is not ready: GET / answered 500"]);
    assert_eq!(next.index, world.store.state().index);
}

#[tokio::test]
async fn a_slot_that_two_share_is_named_once() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    world.deploy("app = \"shop\"\n[env]\nA = \"1\"").await.expect("deploys");
    world.plan();
    let slots: Vec<u32> = world.store.state().instances().map(|i| i.slot).collect();
    assert_eq!(slots, [1, 1], "the old one and the new one");
    let request = v1::StatusRequest { target: "shop/web.7".into(), ..Default::default() };
    let status = world.apps().status(request).await.expect_err("no such slot");
    assert_eq!(status.message(), "there is no instance shop/web.7: there is 1; see `nodectl status shop`");
}

#[tokio::test]
async fn targets_that_are_not_there_say_what_may_have_been_meant() {
    let world = World::new().await;
    world.deployed("app = \"shop\"\n[process.web]\n[process.worker]").await;
    for (target, code, message) in [
        ("shp", Code::NotFound, "there is no app shp: did you mean shop?"),
        ("zebra", Code::NotFound, "there is no app zebra: see `nodectl app ls`"),
        ("shop/wev", Code::NotFound, "app shop has no process wev: did you mean web?"),
        ("shop/zebra", Code::NotFound, "app shop has no process zebra: it has web, worker"),
        (
            "shop/web.7",
            Code::NotFound,
            "there is no instance shop/web.7: there is 1; see `nodectl status shop`",
        ),
        (
            "web.1",
            Code::InvalidArgument,
            "\"web.1\" is no target: an instance is named with its app, APP/web.1",
        ),
    ] {
        let request = v1::StatusRequest { target: target.into(), ..Default::default() };
        let status = world.apps().status(request).await.expect_err(target);
        assert_eq!(said(&status), (code, message));
    }
}

#[tokio::test]
async fn scale_restart_stop_start_and_remove_do_what_they_say() {
    let world = World::new().await;
    world.deployed("app = \"shop\"").await;
    let scale = |process: &str, count| v1::ScaleRequest {
        app: "shop".into(),
        counts: [(process.to_owned(), count)].into(),
        ..Default::default()
    };
    let reply = world.apps().scale(scale("web", 3)).await.expect("scales").into_inner();
    assert!(reply.changed);
    assert_eq!(reply.index, world.store.state().index);
    let reply = world.deploy("app = \"shop\"").await.expect("deploys");
    assert_eq!(
        reply.notes.last().map(String::as_str),
        Some("count web=3 (from `nodectl scale`; --reset-scale goes back to the manifest)")
    );
    world.settle();
    assert_eq!(world.store.state().instances().count(), 3);
    let status = world.apps().scale(scale("wev", 3)).await.expect_err("no process");
    assert_eq!(said(&status), (Code::NotFound, "app shop has no process wev: did you mean web?"));
    let status = world.apps().scale(scale("web", 10_001)).await.expect_err("too many");
    assert_eq!(
        said(&status),
        (Code::InvalidArgument, "web=10001 is too many: a process has at most 10000 instances")
    );

    for target in ["shop/web.2", "shop/web", "shop"] {
        let request = v1::RestartRequest { target: target.into(), ..Default::default() };
        assert!(world.apps().restart(request).await.expect(target).into_inner().changed);
    }
    assert!(world.apps().stop(app("shop")).await.expect("stops").into_inner().changed);
    assert!(!world.apps().stop(app("shop")).await.expect("is stopped").into_inner().changed);
    assert!(world.apps().start(app("shop")).await.expect("starts").into_inner().changed);
    let status = world.apps().cancel_deployment(app("shop")).await.expect_err("none runs");
    assert_eq!(said(&status), (Code::FailedPrecondition, "app shop is not being deployed"));

    let request = v1::StatusRequest { target: "shop".into(), follow: true, ..Default::default() };
    let mut follow = world.apps().status(request).await.expect("watches").into_inner();
    assert!(world.apps().remove(app("shop")).await.expect("removes").into_inner().changed);
    assert!(!world.apps().remove(app("shop")).await.expect("goes already").into_inner().changed);
    let left = world.store.state().instances().count();
    let status = world.deploy("app = \"shop\"").await.expect_err("its name is not free yet");
    assert_eq!(
        status.message(),
        format!(
            "app shop is being removed, and {left} instances are still stopping: deploy it anew once it is gone \
             (`nodectl app rm shop` waits for that)"
        )
    );
    loop {
        // The agent says that what was to stop is gone; then the app is forgotten.
        world.plan();
        for instance in world.store.state().instances() {
            world.report(instance, Phase::Stopped, false, "");
        }
        match soon("the end of the watch", follow.next()).await.expect("told") {
            Ok(reply) => {
                assert!(reply.apps[0].app.as_ref().expect("an app").removing || reply.apps.len() == 1)
            }
            Err(status) => {
                assert_eq!(
                    said(&status),
                    (Code::NotFound, "there is no app shop: there are none yet; `nodectl deploy` makes one")
                );
                break;
            }
        }
        if world.store.state().apps.is_empty() {
            continue;
        }
    }
}

#[tokio::test]
async fn why_explains_what_cannot_be_placed() {
    let world = World::new().await;
    world.deploy("app = \"shop\"\n[process.web]\nmemory = \"100GB\"").await.expect("deploys");
    world.plan();
    let why = async |target: &str| {
        let request = v1::WhyRequest { target: target.into(), ..Default::default() };
        world.apps().why(request).await.map(|reply| reply.into_inner().lines)
    };
    let lines = why("shop").await.expect("explains");
    assert!(lines.iter().any(|line| line.contains("100 GB") && line.contains("64 GB")), "{lines:?}");
    let lines = why("node-1").await.expect("explains");
    assert!(lines[0].starts_with("node-1 is up"), "{lines:?}");
    assert_eq!(said(&why("shp").await.expect_err("unknown")).1, "there is no app shp: did you mean shop?");
    assert_eq!(why("shop/wev").await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(
        said(&why("node-9").await.expect_err("unknown")).1,
        "there is no app and no node node-9: see `nodectl app ls` and `nodectl node ls`"
    );
}

#[test]
fn the_content_hash_is_the_same_everywhere_and_differs_with_every_part() {
    use crate::api::content_hash;
    use crate::model::app::{AppSpec, RouteSpec};
    use crate::model::ids::{Digest, ProcessName};
    let digest = |digit: &str| Digest::new(&format!("sha256:{}", digit.repeat(64))).expect("a digest");
    let mut spec = AppSpec::default();
    // Golden: a change of it would make every equal deploy a new release after an upgrade.
    assert_eq!(
        content_hash(&digest("a"), &spec),
        "486d56a27257408bff0c72815d42c6e4ba8c5df3b5665326b74b9b968c90696c"
    );
    let plain = content_hash(&digest("a"), &spec);
    assert_ne!(content_hash(&digest("b"), &spec), plain);
    spec.env.insert("A".into(), "1".into());
    spec.env.insert("B".into(), "2".into());
    let with_env = content_hash(&digest("a"), &spec);
    assert_ne!(with_env, plain);
    let mut other = AppSpec::default();
    other.env.insert("B".into(), "2".into());
    other.env.insert("A".into(), "1".into());
    assert_eq!(content_hash(&digest("a"), &other), with_env, "order of writing does not count");
    let web = ProcessName::new("web").expect("a name");
    other.routes.push(RouteSpec { host: None, path: "/".into(), process: web });
    assert_ne!(content_hash(&digest("a"), &other), with_env);
}
