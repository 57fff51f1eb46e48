//! What a proxy changes in headers (RFC 9110 §7.6, RFC 7239, and the X-Forwarded-* custom).
//! One look at the names decides what goes; most requests then need no removal at all.

use super::host::Host;
use http::header::{
    self, CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Uri, Version};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A client's address as the headers spell it, made once for each connection.
#[derive(Debug)]
pub struct Peer {
    ip: HeaderValue,
    forwarded: HeaderValue,
}

impl Peer {
    pub fn new(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let quoted = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto=http"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto=http"),
        };
        let value = |text: String| HeaderValue::try_from(text).expect("addresses are visible ASCII");
        Self { ip: value(ip.to_string()), forwarded: value(quoted) }
    }
}

/// The protocol that the client asks to change to, if the request may do that: `h2c` is not
/// passed on, for a backend that took it up would get frames that this proxy can't read.
pub fn wanted_upgrade(parts: &Parts) -> Option<HeaderValue> {
    let wanted = parts.headers.get(UPGRADE)?;
    let is_h2c = |text: &str| text.split(',').any(|p| p.trim().eq_ignore_ascii_case("h2c"));
    let fits = parts.version == Version::HTTP_11
        && lists(&parts.headers, "upgrade")
        && wanted.to_str().is_ok_and(|text| !is_h2c(text));
    fits.then(|| wanted.clone())
}

fn lists(headers: &HeaderMap, option: &str) -> bool {
    let names = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|name| name.trim().eq_ignore_ascii_case(option)))
    };
    headers.get_all(CONNECTION).iter().any(names)
}

/// Makes a client's request into the one for the backend.
pub fn prepare_request(
    parts: &mut Parts,
    host: Host,
    peer: &Peer,
    upgrade: Option<HeaderValue>,
    fresh_id: impl FnOnce() -> HeaderValue,
) {
    let wants_trailers = parts.headers.get(TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| te.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")))
    });
    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    remove_claims(headers);
    if parts.version >= Version::HTTP_2 {
        join_cookies(headers);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let authority = host.authority.unwrap_or_else(|| HeaderValue::from_static(""));
    headers.insert(X_FORWARDED_FOR, peer.ip.clone());
    headers.insert(X_REAL_IP, peer.ip.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(X_FORWARDED_HOST, authority.clone());
    headers.insert(FORWARDED, peer.forwarded.clone());
    headers.insert(HOST, authority);
    if !headers.contains_key(X_REQUEST_ID) {
        headers.insert(X_REQUEST_ID, fresh_id());
    }
    if parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.method, &parts.uri);
    }
    parts.version = Version::HTTP_11;
}

/// The target without scheme and host (RFC 9112 §3.2.1, §3.2.4).
fn origin_form(method: &Method, uri: &Uri) -> Uri {
    match uri.path_and_query() {
        Some(_) if *method == Method::OPTIONS && uri.path() == "*" => Uri::from_static("*"),
        Some(path) if path.as_str().starts_with('/') => Uri::from(path.clone()),
        // `http://host?query`
        Some(path) => format!("/{}", path.as_str()).parse().unwrap_or_default(),
        None => Uri::from_static("/"),
    }
}

/// Makes a backend's answer into the one for the client.
pub fn prepare_response(headers: &mut HeaderMap, upgraded: bool) {
    let upgrade = if upgraded { headers.remove(UPGRADE) } else { None };
    remove_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// What is meant for the next hop alone, and what `Connection` lists as such. `Trailer` stays:
/// trailers are passed on.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut found = [false; HOPS];
    for name in headers.keys() {
        if let Some(at) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            found[at] = true;
        }
    }
    if found[0] {
        remove_listed(headers);
    }
    for (name, _) in HOP_BY_HOP.iter().zip(found).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

/// `Connection` first. `Expect` is met by this hop: hyper says 100 when the body is wanted.
const HOPS: usize = 10;
static HOP_BY_HOP: [HeaderName; HOPS] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    HTTP2_SETTINGS,
];

fn remove_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        // The usual words name no header, or one that goes anyway.
        .filter(|name| {
            !["close", "keep-alive", "upgrade", "te", ""].iter().any(|w| name.eq_ignore_ascii_case(w))
        })
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in listed {
        // Framing is not the client's to remove: without a length the message has another end.
        if name != header::CONTENT_LENGTH && name != HOST {
            headers.remove(name);
        }
    }
}

/// What only a proxy may claim: set anew afterwards, or not at all. Underscores count as
/// hyphens, since CGI-like backends take them for the same.
fn remove_claims(headers: &mut HeaderMap) {
    let is_claim = |name: &&HeaderName| {
        let bytes = name.as_str().as_bytes();
        let starts = |with: &str| {
            bytes.len() >= with.len()
                && bytes.iter().zip(with.bytes()).all(|(b, w)| *b == w || (*b == b'_' && w == b'-'))
        };
        match bytes.first() {
            Some(b'x') => starts("x-forwarded") || starts("x-real-ip") || starts("x-original-"),
            Some(b'f') => bytes == b"forwarded",
            // No such field exists, but CGI programs take it for their HTTP_PROXY (CVE-2016-5385).
            Some(b'p') => bytes == b"proxy",
            _ => false,
        }
    };
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// HTTP/2 may send each cookie on its own; HTTP/1 has one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn prepared(request: http::request::Builder) -> Parts {
        let mut parts = request.body(()).unwrap().into_parts().0;
        let upgrade = wanted_upgrade(&parts);
        let host = crate::proxy::host::of_request(&parts).unwrap();
        let id = || HeaderValue::from_static("fresh");
        prepare_request(&mut parts, host, &Peer::new([192, 0, 2, 1].into()), upgrade, id);
        parts
    }

    fn text<'a>(parts: &'a Parts, name: &str) -> Vec<&'a str> {
        parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn spoofed_claims_are_replaced_however_they_are_spelled() {
        let parts = prepared(
            Request::get("/x")
                .header("host", "a:8080")
                .header("x-forwarded-for", "6.6.6.6")
                .header("x-forwarded-for", "7.7.7.7")
                .header("x_forwarded_for", "6.6.6.6")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-port", "443")
                .header("x-forwarded", "for=6.6.6.6")
                .header("forwarded", "for=6.6.6.6")
                .header("x_real-ip", "6.6.6.6")
                .header("proxy", "http://6.6.6.6")
                .header("x-request-id", "theirs")
                .header("x-other", "stays"),
        );
        assert_eq!(text(&parts, "x-forwarded-for"), ["192.0.2.1"]);
        assert_eq!(text(&parts, "x-real-ip"), ["192.0.2.1"]);
        assert_eq!(text(&parts, "x-forwarded-proto"), ["http"]);
        assert_eq!(text(&parts, "x-forwarded-host"), ["a:8080"]);
        assert_eq!(text(&parts, "forwarded"), ["for=192.0.2.1;proto=http"]);
        assert_eq!(text(&parts, "x-request-id"), ["theirs"]);
        assert_eq!(text(&parts, "x-other"), ["stays"]);
        let spoofed =
            parts.headers.values().any(|value| value.as_bytes().windows(7).any(|w| w == b"6.6.6.6"));
        assert!(!spoofed, "{:?}", parts.headers);
        assert!(!parts.headers.contains_key("x-forwarded-port"));
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let parts = prepared(
            Request::post("/")
                .header("host", "a")
                .header("connection", "close, X-Secret, Content-Length, Host")
                .header("connection", "x-more")
                .header("x-secret", "1")
                .header("x-more", "1")
                .header("content-length", "3")
                .header("keep-alive", "1")
                .header("proxy-connection", "keep-alive")
                .header("proxy-authorization", "x")
                .header("te", "gzip")
                .header("upgrade", "h2c")
                .header("http2-settings", "x")
                .header("expect", "100-continue"),
        );
        for gone in
            ["connection", "x-secret", "x-more", "keep-alive", "proxy-connection", "te", "upgrade", "expect"]
        {
            assert!(!parts.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(text(&parts, "content-length"), ["3"]);
        assert_eq!(text(&parts, "host"), ["a"]);
    }

    #[test]
    fn upgrade_and_te_trailers_are_made_anew_for_the_next_hop() {
        let asked = |upgrade: &str| {
            Request::get("/").header("host", "a").header("connection", "Upgrade").header("upgrade", upgrade)
        };
        let parts = prepared(asked("websocket"));
        assert_eq!(
            (text(&parts, "upgrade"), text(&parts, "connection")),
            (vec!["websocket"], vec!["upgrade"])
        );
        let parts = prepared(asked("websocket, h2c"));
        assert_eq!((text(&parts, "upgrade"), text(&parts, "connection")), (vec![], vec![]));
        let parts = prepared(Request::get("/").header("host", "a").header("te", "trailers, deflate"));
        assert_eq!((text(&parts, "te"), text(&parts, "connection")), (vec!["trailers"], vec!["te"]));
    }

    #[test]
    fn targets_become_origin_form_and_cookies_one_field() {
        for (target, expected) in
            [("http://a/x?y", "/x?y"), ("http://a", "/"), ("http://a?y", "/?y"), ("/x", "/x")]
        {
            let parts = prepared(Request::get(target).header("host", "a"));
            assert_eq!(parts.uri.to_string(), expected, "{target}");
        }
        let request = Request::get("http://a/").version(Version::HTTP_2);
        let parts = prepared(request.header("cookie", "a=1").header("cookie", "b=2"));
        assert_eq!((text(&parts, "cookie"), text(&parts, "host")), (vec!["a=1; b=2"], vec!["a"]));
    }
}
