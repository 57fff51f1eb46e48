//! Which host a request is for (RFC 9112 §3.2, RFC 9113 §8.3.1). Pure.

use crate::model::routes::normal_host;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Version};

/// What is asked for, and by whom it is spelled how.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    /// As rules spell it; empty when the client named none.
    pub name: String,
    /// As the client wrote it, with its port: what the backend gets. `None` as for `name`.
    pub authority: Option<HeaderValue>,
}

/// # Errors
/// Why the request has no meaning, for the client.
pub fn of_request(parts: &Parts) -> Result<Host, &'static str> {
    let mut given = parts.headers.get_all(HOST).iter();
    let header = given.next();
    if given.next().is_some() {
        return Err("more than one Host");
    }
    let authority = match (parts.uri.authority(), header) {
        (Some(authority), header) => {
            if parts.version < Version::HTTP_2 && !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
                return Err("a request target of a scheme that is not served here");
            }
            let value =
                HeaderValue::from_str(authority.as_str()).map_err(|_| "a host with strange characters")?;
            // HTTP/1 has a proxy ignore Host beside a target with a host; in HTTP/2 the two
            // must agree.
            if parts.version >= Version::HTTP_2
                && header.is_some_and(|header| !header.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
            {
                return Err("Host and :authority differ");
            }
            value
        }
        (None, Some(header)) => header.clone(),
        (None, None) if parts.version >= Version::HTTP_11 => return Err("no Host"),
        (None, None) => return Ok(Host { name: String::new(), authority: None }),
    };
    let text = authority.to_str().map_err(|_| "a host with strange characters")?;
    let name = normal_host(text).ok_or("a Host that is none")?.into_owned();
    Ok(Host { name, authority: Some(authority) })
}

/// Methods that this proxy does not carry: CONNECT asks for a tunnel to anywhere, TRACE for
/// the request's own headers back.
pub fn is_refused(method: &Method) -> bool {
    method == Method::CONNECT || method == Method::TRACE
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn host(version: Version, target: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        of_request(&request.body(()).unwrap().into_parts().0).map(|host| host.name)
    }

    #[test]
    fn host_comes_from_target_or_header() {
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        for (version, target, hosts, expected) in [
            (one, "/", &["A.localhost:8080"][..], Ok("a.localhost")),
            (one, "/", &["a."], Ok("a")),
            (one, "/", &[""], Ok("")),
            (one, "/", &[], Err("no Host")),
            (one, "/", &["a", "b"], Err("more than one Host")),
            (one, "/", &["a/b"], Err("a Host that is none")),
            (one, "/", &["me@a"], Err("a Host that is none")),
            (one, "http://b/x", &["a"], Ok("b")),
            (one, "ftp://b/x", &["a"], Err("a request target of a scheme that is not served here")),
            (one, "http://me@b/x", &["a"], Err("a Host that is none")),
            (Version::HTTP_10, "/", &[], Ok("")),
            (two, "http://a/x", &[], Ok("a")),
            (two, "http://a/x", &["A"], Ok("a")),
            (two, "http://a/x", &["b"], Err("Host and :authority differ")),
            (two, "/x", &[], Err("no Host")),
        ] {
            assert_eq!(host(version, target, hosts).as_deref(), expected.as_deref(), "{target} {hosts:?}");
        }
    }
}
