//! The process: adopted, replaced, ended, and never more than it must be.

use crate::support::*;
use http::StatusCode;
use nodectl::proxy::{Event, Limits, Supervisor};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_serves_on_without_its_node_and_is_adopted_by_the_next() {
    let app = App::start("one").await;
    let mut proxy = Proxy::start().await;
    proxy.serve(table(5, &[("shop", &[(1, app.address)])])).await;
    let pid = proxy.supervisor().pid().unwrap();
    let mut client = client(proxy.address).await;
    drop(proxy.supervisor.take());
    for _ in 0..50 {
        let answer = ask(&mut client, request("GET", "shop.localhost", "/", empty())).await.unwrap();
        assert_eq!(answer, (StatusCode::OK, "one".into()));
    }
    proxy.supervisor = Some(Supervisor::start_or_adopt(proxy.config.clone()).await.unwrap());
    assert_eq!(proxy.supervisor().pid(), Some(pid));
    assert_eq!(proxy.supervisor().addresses(), [proxy.address]);
    // What a node knows that starts from an old snapshot does not undo what is served.
    proxy.supervisor().publish(table(3, &[]));
    let version = proxy.supervisor().served().borrow().unwrap();
    assert_eq!(version.index, 5);
    let answer = ask(&mut client, request("GET", "shop.localhost", "/", empty())).await.unwrap();
    assert_eq!(answer, (StatusCode::OK, "one".into()));
    // And the new node leads on: differences follow.
    proxy.serve(table(6, &[("cart", &[(1, app.address)])])).await;
    let answer = ask(&mut client, request("GET", "cart.localhost", "/", empty())).await.unwrap();
    assert_eq!(answer, (StatusCode::OK, "one".into()));
    proxy.serve(table(7, &[("cart", &[])])).await;
    let (status, _) = ask(&mut client, request("GET", "cart.localhost", "/", empty())).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // An adopted proxy is watched like a child.
    let mut events = proxy.supervisor().events();
    kill(pid);
    assert_eq!(next(&mut events).await, Event::Died { pid });
    let Event::Started { pid: new } = next(&mut events).await else { panic!("not started") };
    assert_ne!(new, pid);
    proxy.end().await;
}

async fn next(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Event {
    tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_proxy_is_back_with_the_same_table_and_serves_who_waited() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    for _ in 0..3 {
        let pid = proxy.supervisor().pid().unwrap();
        kill(pid);
        until("it is dead", async || !is_alive(pid)).await;
        // Connected while there is no proxy, or hardly one.
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let address = proxy.address;
            waiting.spawn(async move { get(address, "shop.localhost", "/").await });
        }
        while let Some(answer) = waiting.join_next().await {
            let answer = answer.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("one"), "{answer}");
        }
        until("the new id is known", async || proxy.supervisor().pid().is_some_and(|new| new != pid)).await;
    }
    proxy.end().await;
}

/// A node that came back a moment ago does not know its table yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_proxy_that_dies_before_the_first_table_sends_nobody_away() {
    let app = App::start("one").await;
    let mut proxy = Proxy::start().await;
    proxy.serve(table(5, &[("shop", &[(1, app.address)])])).await;
    let pid = proxy.supervisor().pid().unwrap();
    drop(proxy.supervisor.take());
    proxy.supervisor = Some(Supervisor::start_or_adopt(proxy.config.clone()).await.unwrap());
    let mut events = proxy.supervisor().events();
    kill(pid);
    assert_eq!(next(&mut events).await, Event::Died { pid });
    let address = proxy.address;
    let waiting = tokio::spawn(async move { get(address, "shop.localhost", "/").await });
    // A gate that is closed meanwhile is closed at once: nothing is in flight.
    let gate = proxy.supervisor().close_gate(nodectl::model::ids::InstanceId(9), 0, DEADLINE);
    assert_eq!(gate.await.unwrap().in_flight, 0);
    assert!(!waiting.is_finished() && proxy.supervisor().pid().is_none());
    proxy.supervisor().publish(table(6, &[("shop", &[(1, app.address)])]));
    let answer = waiting.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("one"), "{answer}");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_proxy_that_dies_before_the_first_table_is_ended_by_a_shutdown() {
    let mut proxy = Proxy::start().await;
    proxy.serve(table(5, &[("shop", &[])])).await;
    let pid = proxy.supervisor().pid().unwrap();
    drop(proxy.supervisor.take());
    proxy.supervisor = Some(Supervisor::start_or_adopt(proxy.config.clone()).await.unwrap());
    let mut events = proxy.supervisor().events();
    kill(pid);
    assert_eq!(next(&mut events).await, Event::Died { pid });
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_has_no_privileges() {
    let proxy = Proxy::start().await;
    let pid = proxy.supervisor().pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    if nix::unistd::geteuid().is_root() {
        let uid = nodectl::proxy::DEFAULT_UID;
        assert_eq!(field("Uid"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Gid"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Groups"), "");
        assert_eq!(field("CapBnd"), "0000000000000000");
        // Every thread, not only the first.
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            assert!(status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{status}");
        }
        // Nothing of the node's is open: standard streams, listeners, epoll, timers, links.
        for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let to = std::fs::read_link(fd.unwrap().path()).unwrap();
            let to = to.to_string_lossy();
            let known = ["socket:", "anon_inode:", "/dev/null", "/dev/urandom", "pipe:"]
                .iter()
                .any(|k| to.starts_with(k))
                || to.ends_with("/proxy.log");
            assert!(known, "{to}");
        }
    } else {
        eprintln!("skipped in part: dropping privileges needs root");
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ"));
    assert!(environment.map_or(true, |environment| environment.is_empty()));
    let session = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 =
        session.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid, "it has no session of its own");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_lets_requests_finish() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let head = "POST /count HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 4\r\n\r\n12";
    stream.write_all(head.as_bytes()).await.unwrap();
    until("it is in flight", async || app.seen() == 1).await;
    let address = proxy.address;
    let ending = tokio::spawn(proxy.end());
    until("new clients are refused", async || TcpStream::connect(address).await.is_err()).await;
    stream.write_all(b"34").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_in_use_is_told_before_anything_is_started() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("proxy"), Limits::default());
    config.http = vec![held.local_addr().unwrap()];
    let error = Supervisor::start_or_adopt(config).await.unwrap_err().to_string();
    assert!(error.contains("is in use (by ") && error.contains("--http"), "{error}");
    assert!(!folder.path().join("proxy/proxy.pid").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_with_a_very_long_path_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(100)).join("y".repeat(100));
    let config = config(&long, Limits::default());
    let supervisor = Supervisor::start_or_adopt(config.clone()).await.unwrap();
    let pid = supervisor.pid();
    drop(supervisor);
    let supervisor = Supervisor::start_or_adopt(config).await.unwrap();
    assert_eq!(supervisor.pid(), pid);
    supervisor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_addresses_replace_the_proxy_that_runs() {
    let mut proxy = Proxy::start().await;
    let pid = proxy.supervisor().pid().unwrap();
    drop(proxy.supervisor.take());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    proxy.config.http = vec![free];
    let supervisor = Supervisor::start_or_adopt(proxy.config.clone()).await.unwrap();
    assert_ne!(supervisor.pid(), Some(pid));
    assert_eq!(supervisor.addresses(), [free]);
    assert!(!is_alive(pid));
    supervisor.shutdown().await;
}

#[test]
fn proxy_started_by_hand_says_who_starts_it() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nodectl"))
        .arg("proxy")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is started by the node process"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn program_that_is_no_proxy_is_an_error_and_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder.path().join("proxy"), Limits::default());
    for (program, expected) in [("/bin/false", "ended while it started"), ("/nowhere", "could not start")] {
        config.program = program.into();
        let error = Supervisor::start_or_adopt(config.clone()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
