//! The owner's gate: after it has closed, nothing reaches the instance, and nothing is lost.

use crate::support::*;
use http::StatusCode;
use nodectl::model::ids::InstanceId;
use nodectl::proxy::GateClosed;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_closes_under_load_without_one_failed_request() {
    let apps = [App::start("one").await, App::start("two").await];
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, apps[0].address), (2, apps[1].address)])])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (stop, mut client) = (Arc::clone(&stop), client(proxy.address).await);
        loads.spawn(async move {
            let mut answers = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let (method, body) =
                    if answers.is_multiple_of(2) { ("GET", empty()) } else { ("POST", full("body")) };
                let (status, text) =
                    ask(&mut client, request(method, "shop.localhost", "/pause", body)).await.unwrap();
                assert_eq!(status, StatusCode::OK, "{text}");
                answers += 1;
            }
            answers
        });
    }
    until("both are busy", async || apps.iter().all(|app| app.seen() > 20)).await;
    let closed = proxy.supervisor().close_gate(InstanceId(1), 0, DEADLINE).await.unwrap();
    assert_eq!(closed, GateClosed { in_flight: 0 });
    let at_close = apps[0].seen();
    // Nothing is in flight: the instance may be killed at once.
    apps[0].die();
    let more = apps[1].seen() + 50;
    until("the other goes on", async || apps[1].seen() > more).await;
    // Still without it in the next table, and also if a late table lists it again.
    proxy.serve(table(2, &[("shop", &[(1, apps[0].address), (2, apps[1].address)])])).await;
    let more = apps[1].seen() + 50;
    until("the other goes on", async || apps[1].seen() > more).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(done) = loads.join_next().await {
        assert!(done.unwrap() > 0);
    }
    assert_eq!(apps[0].seen(), at_close, "a request passed a closed gate");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_waits_for_what_is_in_flight_or_for_the_time_given() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await.unwrap();
    until("it is in flight", async || app.seen() == 1).await;
    let closing = proxy.supervisor().close_gate(InstanceId(1), 0, Duration::from_millis(100));
    assert_eq!(closing.await.unwrap(), GateClosed { in_flight: 1 });
    let answer = get(proxy.address, "shop.localhost", "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let closing = tokio::spawn(proxy.supervisor().close_gate(InstanceId(1), 0, DEADLINE));
    drop(stream);
    assert_eq!(closing.await.unwrap().unwrap(), GateClosed { in_flight: 0 });
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gate_of_an_unknown_instance_stays_closed_when_it_appears() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[])).await;
    let closed = proxy.supervisor().close_gate(InstanceId(1), 0, DEADLINE).await.unwrap();
    assert_eq!(closed, GateClosed { in_flight: 0 });
    proxy.serve(table(2, &[("shop", &[(1, app.address)])])).await;
    let answer = get(proxy.address, "shop.localhost", "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // A new proxy process has to know it as well.
    let pid = proxy.supervisor().pid().unwrap();
    kill(pid);
    until("another one serves", async || proxy.supervisor().pid().is_some_and(|new| new != pid)).await;
    let answer = get(proxy.address, "shop.localhost", "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(app.seen(), 0);
    proxy.end().await;
}
