//! What flows: bodies both ways at once, upgrades, HTTP/2, trailers.

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_both_ways_chunk_by_chunk() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut client = client(proxy.address).await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receive)).boxed();
    let asked = client.send_request(request("POST", "shop.localhost", "/echo", body));
    let chunk = |number: u32| Ok(Frame::data(Bytes::from(format!("chunk {number}"))));
    send.send(chunk(0)).await.unwrap();
    let mut echoed = asked.await.unwrap().into_body();
    for number in 0..20 {
        // The next is sent only after this one has come back.
        let frame = tokio::time::timeout(DEADLINE, echoed.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from(format!("chunk {number}")));
        if number < 19 {
            send.send(chunk(number + 1)).await.unwrap();
        }
    }
    drop(send);
    assert!(tokio::time::timeout(DEADLINE, echoed.frame()).await.unwrap().is_none());
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_that_stops_stops_the_sender() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut client = client(proxy.address).await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receive)).boxed();
    let asked = client.send_request(request("POST", "shop.localhost", "/echo", body));
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    // Far more than all buffers on the way hold, and nobody reads the echo.
    let sent = tokio::spawn(async move {
        let mut sent = 0;
        for _ in 0..16 * 1024 {
            match tokio::time::timeout(
                std::time::Duration::from_secs(2),
                send.send(Ok(Frame::data(chunk.clone()))),
            )
            .await
            {
                Ok(Ok(())) => sent += chunk.len(),
                _ => break,
            }
        }
        sent
    });
    let response = asked.await.unwrap();
    let sent = sent.await.unwrap();
    assert!(sent < 256 << 20, "{sent} bytes were taken in without a reader");
    // And what was taken in comes out when somebody reads.
    let echoed = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echoed.len(), sent);
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgraded_connections_carry_bytes_both_ways_and_half_close() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    for protocol in ["websocket", "something/9"] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let head = format!(
            "GET /upgrade HTTP/1.1\r\nHost: shop.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("upgrade: {protocol}\r\n")), "{head}");
        assert_eq!(read_until(&mut stream, "\n").await, "hello from the backend\n");
        for line in ["not HTTP\n", "at all\n", "GET / HTTP/1.1\n\n"] {
            stream.write_all(line.as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut stream, line).await, line);
        }
        let stats = proxy.supervisor().stats().await.unwrap();
        assert_eq!(stats.services[&key("shop")].in_flight, 1, "{stats:?}");
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "goodbye\n");
        until("nothing is in flight", async || {
            proxy.supervisor().stats().await.unwrap().services[&key("shop")].in_flight == 0
        })
        .await;
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_to_h2c_is_not_passed_on() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let seen = raw(
        proxy.address,
        b"GET /headers HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close, Upgrade, HTTP2-Settings\r\n\
          Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    .await;
    assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    assert!(!seen.contains("upgrade:") && !seen.contains("http2-settings"), "{seen}");
    proxy.end().await;
}

async fn http2(proxy: &Proxy) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_carries_many_streams_on_one_connection() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let sender = http2(&proxy).await;
    let mut streams = tokio::task::JoinSet::new();
    for number in 0..100 {
        let mut sender = sender.clone();
        streams.spawn(async move {
            let text = format!("body {number}").repeat(1000);
            let request = Request::post("http://shop.localhost/echo").body(full(text.clone())).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text);
        });
    }
    while let Some(done) = streams.join_next().await {
        done.unwrap();
    }
    let mut sender = sender;
    let request = Request::get("http://other.localhost/").body(empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::NOT_FOUND);
    let stats = proxy.supervisor().stats().await.unwrap();
    assert_eq!(stats.connections, 1);
    proxy.end().await;
}

async fn trailers(body: hyper::body::Incoming) -> (Bytes, HeaderMap) {
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (collected.to_bytes(), trailers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_in_both_versions() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let mut two = http2(&proxy).await;
    let request =
        Request::post("http://shop.localhost/trailers").header("te", "trailers").body(full("x")).unwrap();
    let response = two.send_request(request).await.unwrap();
    let (body, found) = trailers(response.into_body()).await;
    assert_eq!((&body[..], found["grpc-status"].as_bytes()), (&b"body"[..], &b"0"[..]));

    let mut one = client(proxy.address).await;
    let mut request = request_with_te();
    *request.version_mut() = Version::HTTP_11;
    let response = one.send_request(request).await.unwrap();
    let (body, found) = trailers(response.into_body()).await;
    assert_eq!((&body[..], found["grpc-status"].as_bytes()), (&b"body"[..], &b"0"[..]));
    proxy.end().await;
}

fn request_with_te() -> Request<Body> {
    let mut request = request("GET", "shop.localhost", "/trailers", empty());
    request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    request
}
