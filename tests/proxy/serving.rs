//! Requests find their backends, and who asks for what is not there hears it.

use crate::support::*;
use http::StatusCode;
use nodectl::model::ids::InstanceId;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_spread_over_the_backends_and_counted() {
    let apps = [App::start("one").await, App::start("two").await, App::start("three").await];
    let backends: Vec<_> = apps.iter().zip(1..).map(|(app, id)| (id, app.address)).collect();
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &backends)])).await;
    let mut client = client(proxy.address).await;
    for _ in 0..300 {
        let (status, body) = ask(&mut client, request("GET", "shop.localhost", "/x", empty())).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(["one", "two", "three"].contains(&body.as_str()), "{body}");
    }
    for app in &apps {
        assert!(app.seen() > 50, "{:?}", apps.each_ref().map(App::seen));
    }
    let stats = proxy.supervisor().stats().await.unwrap();
    let shop = &stats.services[&key("shop")];
    assert_eq!(shop.by_class, [0, 300, 0, 0, 0]);
    assert_eq!(shop.latency.iter().sum::<u64>(), 300);
    assert_eq!(
        shop.bytes_out,
        apps.iter().zip([3, 3, 5]).map(|(app, length)| app.seen() * length).sum::<u64>()
    );
    for (app, id) in apps.iter().zip(1..) {
        assert_eq!(stats.instances[&(InstanceId(id), 0)].requests, app.seen());
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_told_plainly() {
    let app = App::start("one").await;
    // Bound and closed again: refuses.
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let response_timeout = std::time::Duration::from_millis(300);
    let limits = nodectl::proxy::Limits { response_timeout, ..Default::default() };
    let proxy = Proxy::with(limits).await;
    let address = proxy.address;
    let before = tokio::spawn(async move { get(address, "shop.localhost", "/").await });
    let backends: &[(u64, SocketAddr)] = &[(1, app.address)];
    proxy.serve(table(1, &[("shop", backends), ("none", &[]), ("down", &[(2, refusing)])])).await;
    let before = before.await.unwrap();
    assert!(before.starts_with("HTTP/1.1 200 "), "who came before the first table: {before}");
    let mut events = proxy.supervisor().events();

    let page = get(proxy.address, "Sh<b>op.localhost", "/").await;
    assert!(page.starts_with("HTTP/1.1 400 "), "{page}");
    let page = get(proxy.address, "other.localhost:8080", "/").await;
    assert!(page.starts_with("HTTP/1.1 404 "), "{page}");
    assert!(page.contains("<b>other.localhost</b>"), "{page}");
    let page = get(proxy.address, "none.localhost", "/").await;
    assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
    assert!(page.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{page}");
    let page = get(proxy.address, "down.localhost", "/").await;
    assert!(page.starts_with("HTTP/1.1 502 "), "{page}");
    let page = get(proxy.address, "shop.localhost", "/slow").await;
    assert!(page.starts_with("HTTP/1.1 504 "), "{page}");
    let page = get(proxy.address, "SHOP.localhost.:8080", "/").await;
    assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("one"), "{page}");

    match tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap() {
        nodectl::proxy::Event::BackendTrouble { instance, attempt, reason } => {
            assert_eq!((instance, attempt), (InstanceId(2), 0));
            assert!(reason.contains("refused"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_sees_who_asked_and_nothing_spoofed() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let seen = raw(
        proxy.address,
        b"GET http://shop.localhost:99/headers?q=1 HTTP/1.1\r\nHost: ignored\r\n\
          X-Forwarded-For: 6.6.6.6\r\nX-FORWARDED-PROTO: https\r\nx_forwarded_for: 6.6.6.6\r\n\
          Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Secret: 1\r\n\
          Connection: close, X-Secret\r\nKeep-Alive: 6\r\nX-Kept: yes\r\n\r\n",
    )
    .await;
    let (_, seen) = seen.split_once("\r\n\r\n").unwrap();
    for line in [
        "GET /headers?q=1\n",
        "host: shop.localhost:99\n",
        "x-forwarded-for: 127.0.0.1\n",
        "x-forwarded-proto: http\n",
        "x-forwarded-host: shop.localhost:99\n",
        "x-real-ip: 127.0.0.1\n",
        "forwarded: for=127.0.0.1;proto=http\n",
        "x-kept: yes\n",
    ] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
    assert!(!seen.contains("6.6.6.6") && !seen.contains("x-secret"), "{seen}");
    assert!(!seen.contains("keep-alive") && !seen.contains("connection"), "{seen}");
    let id = seen.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_odd_clients_are_served_or_refused_as_the_rfc_says() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    for (sent, expected, why) in [
        ("GET / HTTP/1.0\r\nHost: shop.localhost\r\n\r\n", "HTTP/1.0 200 ", "1.0 closes by itself"),
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 404 ", "1.0 without Host has no rule here"),
        ("HEAD / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 ", "HEAD"),
        (
            "OPTIONS * HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 ",
            "asterisk",
        ),
        ("CONNECT shop.localhost:80 HTTP/1.1\r\nHost: shop.localhost:80\r\n\r\n", "HTTP/1.1 405 ", "CONNECT"),
        ("TRACE / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", "HTTP/1.1 405 ", "TRACE"),
        ("GET ftp://shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", "HTTP/1.1 400 ", "ftp"),
        (
            "POST / HTTP/1.1\r\nHost: shop.localhost\r\nExpect: miracles\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 417 ",
            "another expectation",
        ),
    ] {
        let answer = raw(proxy.address, sent.as_bytes()).await;
        assert!(answer.starts_with(expected), "{why}: {answer}");
    }
    // 100 comes before the body is sent, and the body arrives.
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let head =
        "POST /count HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(read_until(&mut stream, "5").await, "5");
    proxy.end().await;
}

/// Accepts, answers once, and closes without having said so.
async fn closes_after_each_answer() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_until(&mut stream, "\r\n\r\n").await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_connections_that_die_cost_no_request() {
    let backend = closes_after_each_answer().await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, backend)])])).await;
    let mut client = client(proxy.address).await;
    for _ in 0..500 {
        let answer = ask(&mut client, request("GET", "shop.localhost", "/", empty())).await.unwrap();
        assert_eq!(answer, (StatusCode::OK, "ok".into()));
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_dies_under_load_costs_no_request() {
    let apps = [App::start("one").await, App::start("two").await];
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, apps[0].address), (2, apps[1].address)])])).await;
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = client(proxy.address).await;
        loads.spawn(async move {
            for _ in 0..300 {
                let (status, body) =
                    ask(&mut client, request("GET", "shop.localhost", "/", empty())).await.unwrap();
                assert_eq!(status, StatusCode::OK, "{body}");
            }
        });
    }
    until("the first has seen some", async || apps[0].seen() > 50).await;
    apps[0].die();
    while let Some(done) = loads.join_next().await {
        done.unwrap();
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_tried_elsewhere_for_any_method() {
    let app = App::start("one").await;
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address), (2, refusing)])])).await;
    for _ in 0..40 {
        // A new connection each time, so that both workers meet the refusing backend.
        let mut client = client(proxy.address).await;
        let post = request("POST", "shop.localhost", "/count", full("twelve bytes"));
        assert_eq!(ask(&mut client, post).await.unwrap(), (StatusCode::OK, "12".into()));
    }
    proxy.end().await;
}
