//! Who is slow or greedy is shown out.

use crate::support::*;
use nodectl::proxy::Limits;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_idle_clients_and_stalled_bodies_are_closed() {
    let app = App::start("one").await;
    let limits = Limits {
        head_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let proxy = Proxy::with(limits).await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let silent = TcpStream::connect(proxy.address).await.unwrap();
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await.unwrap();
    let head = read_until(&mut idle, "one").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut stalled = TcpStream::connect(proxy.address).await.unwrap();
    stalled
        .write_all(b"POST /count HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 9\r\n\r\n123")
        .await
        .unwrap();
    let mut slow = TcpStream::connect(proxy.address).await.unwrap();
    // A byte now and then does not keep it open.
    let dribble = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'a')) {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, dribble).await.expect("the slow client is still connected");
    for mut stream in [silent, idle, stalled] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {rest:?}");
    }
    until("nobody is connected", async || proxy.supervisor().stats().await.unwrap().connections == 0).await;
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_slow_backend_is_not_idleness() {
    let app = App::start("one").await;
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let proxy = Proxy::with(Limits { response_timeout: Duration::from_secs(1), ..limits }).await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let answer = get(proxy.address, "shop.localhost", "/slow").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_that_is_too_large_is_answered_431() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    for field in [
        format!("X: {}\r\n", "a".repeat(200_000)),
        (0..5000).map(|i| format!("X{i}: {}\r\n", "a".repeat(40))).collect(),
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: shop.localhost\r\n{field}\r\n");
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
    }
    assert_eq!(app.seen(), 0);
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_beyond_the_limit_wait_for_a_place() {
    let app = App::start("one").await;
    let limits = Limits { max_connections: 4, ..Limits::default() };
    let proxy = Proxy::with(limits).await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let address = proxy.address;
        // Idle afterwards: the places of idle clients are given to those who wait.
        clients.spawn(async move {
            let mut client = client(address).await;
            let asked = ask(&mut client, request("GET", "shop.localhost", "/", empty())).await;
            asked.unwrap().0
        });
    }
    let all = async {
        while let Some(status) = clients.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("some never got a place");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_in_all_places_do_not_keep_others_out() {
    let app = App::start("one").await;
    let hour = Duration::from_secs(3600);
    let limits = Limits { max_connections: 4, head_timeout: hour, idle_timeout: hour, ..Limits::default() };
    let proxy = Proxy::with(limits).await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    let answer = tokio::time::timeout(DEADLINE, get(proxy.address, "shop.localhost", "/")).await;
    assert!(answer.expect("a place in the end").starts_with("HTTP/1.1 200 "));
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_that_nobody_wants_still_gets_its_answer() {
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[])).await;
    let mut upload = b"POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: 8000000\r\n\r\n".to_vec();
    upload.resize(8_000_000, b'x');
    for _ in 0..5 {
        let answer = raw(proxy.address, &upload).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    proxy.end().await;
}
