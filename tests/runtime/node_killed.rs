//! kill -9 of the node: containers go on, and the next node finds them.
//!
//! The node that is killed is this test's own binary, run again for the one ignored test
//! below, which starts a container in the folder that it is given and never ends.

use super::support::{Host, cannot_run, kill_9, sealed, until, within};
use nodectl::runtime::wiring::{Attachment, Reply, Unplugged, Wiring};
use nodectl::runtime::{Config, Exit, Runtime, State};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Never answers: a node is killed while it connects a network.
struct Stuck {
    sign: PathBuf,
}

impl Wiring for Stuck {
    fn attach(&self, _key: &str, _netns: OwnedFd) -> Reply<'_, Option<Attachment>> {
        std::fs::write(&self.sign, "").expect("sign");
        Box::pin(std::future::pending())
    }
    fn detach(&self, _key: &str) -> Reply<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn gateway(&self) -> Option<std::net::IpAddr> {
        None
    }
}

fn config(dir: &Path, tag: &str, wiring: Arc<dyn Wiring>) -> Config {
    Config { id_pool_dir: dir.join("ids"), exe: Some(sealed()), ..Config::new(dir.join("data"), tag, wiring) }
}

/// A node for the tests below: NODE_DIR, NODE_TAG, and NODE_STUCK to hang before the start.
#[tokio::test]
#[ignore = "run by other tests, as a process to be killed"]
async fn a_node() {
    let dir = PathBuf::from(std::env::var("NODE_DIR").expect("NODE_DIR"));
    let tag = std::env::var("NODE_TAG").expect("NODE_TAG");
    let sign = dir.join("sign");
    let wiring: Arc<dyn Wiring> = match std::env::var("NODE_STUCK") {
        Ok(_) => Arc::new(Stuck { sign: sign.clone() }),
        Err(_) => Arc::new(Unplugged),
    };
    let runtime = Runtime::open(config(&dir, &tag, wiring)).await.expect("opens");
    let launch = super::support::launch(
        &dir.join("layer"),
        1,
        "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done",
    );
    let container = runtime.start(launch).await.expect("starts");
    std::fs::write(dir.join("pid"), container.pid().to_string()).expect("pid");
    std::fs::write(sign, "").expect("sign");
    std::future::pending::<()>().await;
}

fn spawn_node(host: &Host, stuck: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--ignored", "--exact", "node_killed::a_node"]);
    command.env("NODE_DIR", host.dir.path()).env("NODE_TAG", &host.tag);
    if stuck {
        command.env("NODE_STUCK", "1");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("spawned")
}

#[tokio::test]
async fn containers_outlive_their_node_and_are_found_again() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut node = spawn_node(&host, false);
    until("the node has started it", || host.dir.path().join("sign").exists()).await;
    kill_9(node.id() as i32);
    node.wait().expect("reaped");
    let pid: i32 =
        std::fs::read_to_string(host.dir.path().join("pid")).expect("pid").parse().expect("a number");
    let lines = host.log("test/web.1").lines().count();
    until("it goes on writing its log", || host.log("test/web.1").lines().count() > lines + 10).await;

    let adopted = within(host.runtime.adopt()).await;
    let [container] = &adopted[..] else { panic!("{adopted:?}") };
    assert_eq!((container.pid(), container.state()), (pid, State::Running));
    assert_eq!(container.name(), "test/web.1");
    assert_eq!(within(container.stop(None, Some(Duration::ZERO))).await, Exit::Signal { number: 9 });
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn what_a_killed_node_had_half_made_is_gone() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut node = spawn_node(&host, true);
    until("the node is connecting it", || host.dir.path().join("sign").exists()).await;
    kill_9(node.id() as i32);
    node.wait().expect("reaped");
    // Its shim may or may not have noticed yet that nobody will ever start it.
    for container in within(host.runtime.adopt()).await {
        assert!(matches!(container.state(), State::Exited(Exit::StartFailed(_))), "{container:?}");
        container.remove().await.expect("removed");
    }
    host.close().await;
}
