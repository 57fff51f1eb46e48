//! A small cluster as the node would show it.

use nodectl::proto::v1::*;
use std::time::{SystemTime, UNIX_EPOCH};

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// Three minutes and a half ago: shown as `3m` also on a slow day.
pub fn minutes_ago() -> u64 {
    now_ms() - 210_000
}

/// 2001-09-09T01:46:40Z, for what shows instants.
pub const FIXED_MS: u64 = 1_000_000_000_000;

pub fn key() -> Option<AppKey> {
    Some(AppKey { tenant: "default".into(), app: "shop".into() })
}

pub const NODE_ID: &str = "0123456789abcdef0123456789abcdef";

pub fn node() -> Node {
    Node {
        id: NODE_ID.into(),
        name: "node-1".into(),
        zone: "local".into(),
        pool: "default".into(),
        capacity: Some(Resources {
            cpu_milli: 2000,
            memory_bytes: 8_000_000_000,
            disk_bytes: 50_000_000_000,
        }),
        platform: "linux/amd64".into(),
        version: "0.1.0".into(),
        addresses: vec!["127.0.0.1".into()],
        raft_id: Some(1),
        joined_at_ms: minutes_ago(),
        ..Node::default()
    }
}

pub fn node_view() -> NodeView {
    let used = Resources { cpu_milli: 250, memory_bytes: 768_000_000, disk_bytes: 0 };
    NodeView { node: Some(node()), used: Some(used), instances: 3 }
}

pub fn instance(slot: u32, release: u64, observed: Observed) -> Instance {
    Instance {
        id: 10 * release + u64::from(slot),
        app: key(),
        process: "web".into(),
        slot,
        release,
        node_id: NODE_ID.into(),
        created_at_ms: minutes_ago(),
        cause: Some(Cause { index: 7, reason: "deploy v3".into() }),
        observed: Some(observed),
        ..Instance::default()
    }
}

pub fn ready() -> Observed {
    Observed {
        attempt: 1,
        phase: Phase::Running as i32,
        ready: true,
        address: Some("10.209.0.5:8080".into()),
        started_at_ms: Some(minutes_ago()),
        ..Observed::default()
    }
}

pub fn starting() -> Observed {
    Observed {
        attempt: 1,
        phase: Phase::Starting as i32,
        message: "waiting for port 8080".into(),
        ..Observed::default()
    }
}

pub fn crashed() -> Observed {
    Observed {
        attempt: 4,
        phase: Phase::Backoff as i32,
        last_exit: Some(Exit { exit: Some(exit::Exit::Code(3)) }),
        failures: 4,
        log_tail: vec!["reading config".into(), "no such database \x1b[2J".into()],
        ..Observed::default()
    }
}

pub fn deployment(status: DeploymentStatus, previous: Option<u64>, message: &str) -> Deployment {
    let over = status != DeploymentStatus::Running;
    Deployment {
        id: 9,
        app: key(),
        release: 3,
        previous,
        status: status as i32,
        started_at_ms: minutes_ago(),
        deadline_at_ms: minutes_ago() + 300_000,
        finished_at_ms: over.then(|| minutes_ago() + 3_260),
        message: message.into(),
        by: "root".into(),
        ..Deployment::default()
    }
}

pub fn app(instances: Vec<Instance>) -> AppStatus {
    let ready = instances.iter().filter(|i| i.observed.as_ref().is_some_and(|o| o.ready)).count() as u32;
    AppStatus {
        app: Some(App {
            key: key(),
            created_at_ms: minutes_ago(),
            target: Some(3),
            serving: Some(3),
            next_release: 4,
            ..App::default()
        }),
        release: Some(Release {
            app: key(),
            number: 3,
            image_digest: "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".into(),
            image_name: "shop:1.4".into(),
            created_at_ms: minutes_ago(),
            ..Release::default()
        }),
        deployment: Some(deployment(DeploymentStatus::Done, Some(2), "")),
        processes: vec![ProcessStatus {
            process: "web".into(),
            wanted: instances.len() as u32,
            ready,
            count_from: "scale".into(),
        }],
        instances,
        urls: vec!["http://shop.localhost:8080/".into()],
        problems: Vec::new(),
    }
}

pub fn healthy() -> StatusReply {
    status_of(app(vec![instance(1, 3, ready()), instance(2, 3, ready())]))
}

pub fn troubled() -> StatusReply {
    let mut app = app(vec![instance(1, 3, ready()), instance(2, 3, crashed())]);
    app.problems.push("web.2 exits with status 3 soon after it starts: read its log".into());
    status_of(app)
}

pub fn status_of(app: AppStatus) -> StatusReply {
    StatusReply { apps: vec![app], nodes: vec![node()], index: 42 }
}

pub fn change(changed: bool) -> ChangeReply {
    ChangeReply { changed, index: 43 }
}

pub fn loaded_image() -> LoadedImage {
    LoadedImage {
        names: vec!["shop:1.4".into()],
        digest: "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef".into(),
        size_bytes: 12_345_678,
        platform: "linux/amd64".into(),
    }
}

pub fn loaded() -> LoadProgress {
    LoadProgress { stage: "done".into(), bytes: 12, images: vec![loaded_image()] }
}
