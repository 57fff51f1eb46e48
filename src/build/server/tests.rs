//! The server over loopback: bytes on a socket in, bytes out.

use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A test waits this long for what should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    _outer: TempDir,
    root: PathBuf,
}

fn site() -> Site {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("site");
    std::fs::create_dir_all(root.join("docs/empty")).unwrap();
    std::fs::create_dir_all(root.join("a b")).unwrap();
    std::fs::write(outer.path().join("secret"), "secret").unwrap();
    for (name, content) in [
        ("index.html", "<h1>home</h1>"),
        ("docs/index.html", "<h1>docs</h1>"),
        ("a b/\u{fc}.txt", "umlaut"),
        ("style.css", "body{}"),
        ("empty.txt", ""),
        (".env", "secret"),
        ("digits", "0123456789"),
    ] {
        std::fs::write(root.join(name), content).unwrap();
    }
    symlink("../secret", root.join("out")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("docs/index.html", root.join("inside")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    Site { _outer: outer, root }
}

/// Runs `test` beside a server of the site; `stop` is in the test's hands.
fn with_server<F: Future<Output = ()>>(site: &Site, test: impl FnOnce(SocketAddr, oneshot::Sender<()>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let root = open_root(&site.root).unwrap();
        let server = tokio::task::spawn_local(run(listener, root, async {
            let _ = stopped.await;
        }));
        tokio::time::timeout(PATIENCE, test(address, stop)).await.expect("the test finishes");
        tokio::time::timeout(PATIENCE, server).await.expect("the server stops").unwrap();
    });
}

/// The same, stopping when the test is done.
fn serving<F: Future<Output = ()>>(site: &Site, test: impl FnOnce(SocketAddr) -> F) {
    with_server(site, |address, stop| {
        let test = test(address);
        async move {
            test.await;
            stop.send(()).expect("the server is still there");
        }
    });
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// One request on a connection of its own.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {answer:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Reply { status, headers, body: body.to_owned() }
}

#[test]
fn files_folders_and_nothing_else_are_served() {
    let site = site();
    serving(&site, |address| async move {
        for (path, status, body) in [
            ("/", 200, "<h1>home</h1>"),
            ("/index.html", 200, "<h1>home</h1>"),
            ("/docs/", 200, "<h1>docs</h1>"),
            ("/docs", 301, "moved"),
            ("/docs/empty/", 404, "Not found"),
            ("/a%20b/%C3%BC.txt", 200, "umlaut"),
            ("/style.css?v=1", 200, "body{}"),
            ("/style.css/", 404, "Not found"),
            ("/style.css/x", 404, "Not found"),
            ("/inside", 200, "<h1>docs</h1>"),
            ("/empty.txt", 200, ""),
            ("/nothing", 404, "Not found"),
            ("/.env", 404, "Not found"),
            ("/out", 404, "Not found"),
            ("/absolute", 404, "Not found"),
            ("/loop", 404, "Not found"),
            ("/fifo", 404, "Not found"),
            ("/../secret", 404, "Not found"),
            ("/%2e%2e/secret", 404, "Not found"),
            ("/docs/%2e%2e%2f%2e%2e%2fsecret", 404, "Not found"),
            ("//secret", 404, "Not found"),
            ("/a%00b", 400, "malformed"),
            ("/a%zz", 400, "malformed"),
        ] {
            let reply = ask(address, "GET", path, &[]).await;
            assert_eq!(reply.status, status, "{path}: {reply:?}");
            assert!(reply.body.contains(body), "{path}: {reply:?}");
            assert_eq!(reply.header("content-length"), reply.body.len().to_string(), "{path}");
            assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
            let head = ask(address, "HEAD", path, &[]).await;
            assert_eq!((head.status, head.body.as_str()), (status, ""), "HEAD {path}");
            assert_eq!(head.header("content-length"), reply.header("content-length"), "HEAD {path}");
        }
    });
}

#[test]
fn headers_say_what_a_file_is() {
    let site = site();
    serving(&site, |address| async move {
        let home = ask(address, "GET", "/", &[]).await;
        assert_eq!(home.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(home.header("cache-control"), "no-cache");
        assert_eq!(home.header("accept-ranges"), "bytes");
        assert!(!home.header("last-modified").is_empty());
        let tag = home.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        let again = ask(address, "GET", "/", &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", tag.as_str()));
        let dated = ask(address, "GET", "/", &[("If-Modified-Since", home.header("last-modified"))]).await;
        assert_eq!(dated.status, 304);
        let moved = ask(address, "GET", "/a%20b?x=1", &[]).await;
        assert_eq!((moved.status, moved.header("location")), (301, "/a%20b/?x=1"));
        let css = ask(address, "GET", "/style.css", &[]).await;
        assert_eq!(css.header("content-type"), "text/css; charset=utf-8");
    });
}

#[test]
fn a_range_is_a_part_of_the_file() {
    let site = site();
    serving(&site, |address| async move {
        for (range, status, body, said) in [
            ("bytes=2-4", 206, "234", "bytes 2-4/10"),
            ("bytes=-3", 206, "789", "bytes 7-9/10"),
            ("bytes=8-", 206, "89", "bytes 8-9/10"),
            ("bytes=10-", 416, "range not satisfiable\n", "bytes */10"),
            ("bytes=0-1,3-4", 200, "0123456789", ""),
        ] {
            let reply = ask(address, "GET", "/digits", &[("Range", range)]).await;
            assert_eq!((reply.status, reply.body.as_str()), (status, body), "{range}");
            assert_eq!(reply.header("content-range"), said, "{range}");
        }
    });
}

#[test]
fn other_methods_are_told_which_are_allowed() {
    let site = site();
    serving(&site, |address| async move {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
            let reply = ask(address, method, "/", &[("Content-Length", "0")]).await;
            assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"), "{method}");
        }
    });
}

#[test]
fn the_sites_own_page_says_what_is_missing() {
    let site = site();
    std::fs::write(site.root.join("404.html"), "<p>gone fishing").unwrap();
    serving(&site, |address| async move {
        let reply = ask(address, "GET", "/nothing", &[]).await;
        assert_eq!((reply.status, reply.body.as_str()), (404, "<p>gone fishing"));
        assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    });
}

#[test]
fn an_attribute_that_is_a_hash_becomes_the_etag() {
    let site = site();
    let set = |name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(site.root.join(name), super::super::ETAG_ATTRIBUTE, value, flags)
    };
    if set("style.css", b"0123456789abcdef").is_err() {
        eprintln!("skipped: needs a file system with user attributes");
        return;
    }
    set("digits", b"\"\r\nX-Evil: 1, 0123456789").unwrap();
    let epoch = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: epoch, last_modification: epoch };
    let flags = rustix::fs::AtFlags::empty();
    rustix::fs::utimensat(rustix::fs::CWD, site.root.join("style.css"), &times, flags).unwrap();
    serving(&site, |address| async move {
        let css = ask(address, "GET", "/style.css", &[]).await;
        assert_eq!(css.header("etag"), "\"0123456789abcdef\"");
        assert_eq!(css.header("last-modified"), "", "a time of 0 says nothing");
        let digits = ask(address, "GET", "/digits", &[]).await;
        assert!(!digits.header("etag").contains("Evil") && digits.header("x-evil").is_empty(), "{digits:?}");
    });
}

#[test]
fn one_connection_serves_many_requests_and_large_files_stream() {
    let site = site();
    // Sparse: 64 MiB that nobody should hold in memory at once.
    let large = File::create(site.root.join("large.bin")).unwrap();
    large.set_len(64 << 20).unwrap();
    serving(&site, |address| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut piece = vec![0; 1 << 16];
        for _ in 0..3 {
            stream.write_all(b"GET /digits HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"0123456789") {
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "the connection stays open");
                seen.extend(&piece[..read]);
            }
        }
        stream.write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut total = 0;
        loop {
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                read => total += read,
            }
        }
        assert!(total > 64 << 20, "{total}");
    });
}

#[test]
fn http2_is_spoken_by_prior_knowledge() {
    let site = site();
    serving(&site, |address| async move {
        let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(address).await.unwrap());
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut client, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        for _ in 0..3 {
            let request =
                http::Request::get(format!("http://{address}/docs/")).body(Empty::<Bytes>::new()).unwrap();
            let reply = client.send_request(request).await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2));
            assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "<h1>docs</h1>");
        }
        drop(client);
        driver.await.unwrap().unwrap();
    });
}

#[test]
fn a_stop_lets_the_request_in_flight_finish_and_closes_idle_connections() {
    let site = site();
    let large = File::create(site.root.join("large.bin")).unwrap();
    large.set_len(32 << 20).unwrap();
    with_server(&site, |address, stop| async move {
        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut piece = vec![0; 1 << 16];
        idle.write_all(b"GET /digits HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut piece).await.unwrap() > 0);
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut total = busy.read(&mut piece).await.unwrap();
        stop.send(()).unwrap();
        assert_eq!(idle.read(&mut piece).await.unwrap(), 0, "idle connections are closed");
        assert_eq!(silent.read(&mut piece).await.unwrap_or(0), 0, "silent ones too");
        loop {
            match busy.read(&mut piece).await.unwrap() {
                0 => break,
                read => total += read,
            }
        }
        assert!(total > 32 << 20, "{total}");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    });
}

#[test]
fn arguments_and_port_are_checked() {
    let args = |args: &[&str]| root_argument(args.iter().map(OsString::from));
    assert_eq!(args(&["--root", "/site"]), Ok("/site".into()));
    for bad in [&[][..], &["--root"], &["/site"], &["--root", "/site", "x"]] {
        assert!(args(bad).unwrap_err().starts_with("usage"), "{bad:?}");
    }
    assert_eq!(port(None), Ok(8080));
    assert_eq!(port(Some("80".into())), Ok(80));
    for bad in ["", "0", "70000", "http", "-1"] {
        assert!(port(Some(bad.into())).is_err(), "{bad}");
    }
}
