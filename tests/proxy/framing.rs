//! What one parser could read one way and another another way never reaches a backend.

use crate::support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const HOST: &str = "Host: shop.localhost\r\n";
/// What a smuggler would hide.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";

/// (request, whether its head is good, so that a part of it may have been passed on)
fn inputs() -> Vec<(String, bool)> {
    let head = |fields: &str| (format!("POST / HTTP/1.1\r\n{HOST}{fields}\r\n{HIDDEN}"), false);
    let whole = |text: &str| (format!("{text}{HIDDEN}"), false);
    let chunks = |body: &str| {
        (format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}"), true)
    };
    vec![
        whole("GET / HTTP/1.1\nHost: shop.localhost\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: shop.localhost\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\n"),
        whole("GET / HTTP/1.1\nHost: shop.localhost\n\n"),
        whole("GET / HTTP/1.1\r\n\r\n"),
        whole("GET /\r\n"),
        whole("GET / \r\n\r\n"),
        whole("GET  / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET /a b HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET\t/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET / HTTP/1.1 \r\nHost: shop.localhost\r\n\r\n"),
        whole("GET / HTTP/1.2\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET / HTTP/2.0\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET / http/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("G@T / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole(" GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET /\u{7f} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
        whole("GET / HTTP/1.1\r\n Host: shop.localhost\r\n\r\n"),
        head("Host: other.localhost\r\n"),
        head("X: y\r\n folded\r\n"),
        head("X: y\r\n\tfolded\r\n"),
        head("X : y\r\n"),
        head("X\t: y\r\n"),
        head("X\r\n"),
        head(": y\r\n"),
        head("X: \0\r\n"),
        head("X: a\rb\r\n"),
        head("X: \u{8}\r\n"),
        head("X\0: y\r\n"),
        head("Content-Length: 1\r\nContent-Length: 2\r\n"),
        head("Content-Length: 50\r\nContent-Length: 50\r\n"),
        head("Content-Length: 50, 50\r\n"),
        head("Content-Length: +50\r\n"),
        head("Content-Length: -1\r\n"),
        head("Content-Length: 0x10\r\n"),
        head("Content-Length: 5 0\r\n"),
        head("Content-Length: \r\n"),
        head("Content-Length: 99999999999999999999\r\n"),
        head("Content-Length : 50\r\n"),
        head("Content-Length\u{b}: 50\r\n"),
        head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        head("Transfer-Encoding: identity\r\n"),
        head("Transfer-Encoding: gzip, chunked\r\n"),
        head("Transfer-Encoding: chunked, identity\r\n"),
        head("Transfer-Encoding: xchunked\r\n"),
        head("Transfer-Encoding: \"chunked\"\r\n"),
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        head("Transfer-Encoding:\u{b}chunked\r\n"),
        head("Transfer-Encoding : chunked\r\n"),
        head("Transfer-Encoding: chun\r\n ked\r\n"),
        whole("POST / HTTP/1.0\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"),
        chunks("\r\n"),
        chunks("x\r\n"),
        chunks("-1\r\n"),
        chunks("0x1\r\na\r\n0\r\n\r\n"),
        chunks("1 \r\na\r\n0\r\n\r\n"),
        chunks("1\na\r\n0\r\n\r\n"),
        chunks("1\r\nab\r\n0\r\n\r\n"),
        chunks("1\r\na\n0\r\n\r\n"),
        chunks("1;a\nb\r\na\r\n0\r\n\r\n"),
        chunks("10000000000000000\r\na\r\n0\r\n\r\n"),
        chunks("ffffffffffffffff\r\na\r\n0\r\n\r\n"),
        chunks("0\r\nX: y\n\r\n"),
        chunks("0\r\nContent-Length: 5\r\n\r\n"),
        chunks("0\r\n\n"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_are_answered_400_closed_and_never_forwarded() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let inputs = inputs();
    assert!(inputs.len() >= 40);
    for (text, _) in &inputs {
        let answer = raw(proxy.address, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{text:?}: {answer:?}");
        assert_eq!(app.seen(), 0, "{text:?} was forwarded");
    }
    let after = get(proxy.address, "shop.localhost", "/").await;
    assert!(after.starts_with("HTTP/1.1 200 "), "{after}");
    assert_eq!(app.seen(), 1, "something was forwarded after its answer");
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_goes_wrong_under_way_ends_its_request_and_hides_none() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    for (text, _) in inputs().iter().filter(|(_, good_head)| *good_head) {
        let text = text.replacen("POST / ", "POST /count ", 1);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let before = app.seen();
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        until("the head was passed on", async || app.seen() == before + 1).await;
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer:?}");
        assert_eq!(app.seen(), before + 1, "{text:?} was sent again");
        assert_eq!(app.hidden.load(std::sync::atomic::Ordering::SeqCst), 0, "{text:?} hid a request");
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_the_client_does_not_finish_is_its_own_fault() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let chunked = format!("POST /count HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let trailers = format!("{chunked}0\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    let short = format!("POST /count HTTP/1.1\r\n{HOST}Content-Length: 10\r\n\r\nabc");
    for text in [trailers, chunked, short] {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        writing.write_all(text.as_bytes()).await.unwrap();
        writing.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut reading, &mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_anywhere_the_verdict_is_the_same() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let bad = "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX: y\n\r\n";
    let good = "POST /count HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                2\r\nab\r\n0\r\n\r\n";
    for (text, expected) in [(bad, "HTTP/1.1 400 "), (good, "HTTP/1.1 200 ")] {
        for cut in (1..text.len()).step_by(7) {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&text.as_bytes()[..cut]).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            let _ = stream.write_all(&text.as_bytes()[cut..]).await;
            let head = read_until(&mut stream, "\r\n\r\n").await;
            assert!(head.starts_with(expected), "cut at {cut} of {text:?}: {head}");
        }
    }
    proxy.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_before_a_bad_one_is_answered() {
    let app = App::start("one").await;
    let proxy = Proxy::start().await;
    proxy.serve(table(1, &[("shop", &[(1, app.address)])])).await;
    let text = format!("GET / HTTP/1.1\r\n{HOST}\r\nGET / HTTP/1.1\n{HOST}\r\n");
    let answer = raw(proxy.address, text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    assert_eq!(app.seen(), 1);
    proxy.end().await;
}
