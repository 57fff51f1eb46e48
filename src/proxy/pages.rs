//! The answers that the proxy gives itself: short, plain, and without a word of its inside.

use super::body::{Active, Reply};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};

/// What went wrong, as far as the client may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Why the request means nothing; the connection closes.
    Malformed(&'static str),
    MethodRefused,
    ExpectationRefused,
    NoRule {
        host: String,
    },
    NothingReady,
    Unreachable,
    TimedOut,
}

impl Problem {
    pub fn status(&self) -> StatusCode {
        match self {
            Problem::Malformed(_) => StatusCode::BAD_REQUEST,
            Problem::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Problem::ExpectationRefused => StatusCode::EXPECTATION_FAILED,
            Problem::NoRule { .. } => StatusCode::NOT_FOUND,
            Problem::NothingReady => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Unreachable => StatusCode::BAD_GATEWAY,
            Problem::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn text(&self) -> String {
        match self {
            Problem::Malformed(why) => format!("This request can't be understood: {}.", escape(why)),
            Problem::MethodRefused => "This method is not served here.".into(),
            Problem::ExpectationRefused => "This expectation can't be met.".into(),
            Problem::NoRule { host } if host.is_empty() => {
                "No app answers requests that name no host.".into()
            }
            Problem::NoRule { host } => {
                format!("No app has the host <b>{}</b> with this path.", escape(host))
            }
            Problem::NothingReady => {
                "The app is known, but no instance of it is ready. Try again in a moment.".into()
            }
            Problem::Unreachable => "The app did not accept the request, or broke off.".into(),
            Problem::TimedOut => "The app did not answer in time.".into(),
        }
    }

    /// The page as a response.
    pub fn response(&self, active: Active) -> Response<Reply> {
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let page = format!(
            "<!doctype html><title>{code} {reason}</title><h1>{code} {reason}</h1><p>{}</p>\n",
            self.text(),
            code = status.as_u16()
        );
        let mut response = Response::new(Reply::Page { page: Some(Bytes::from(page)), _active: active });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if matches!(self, Problem::NothingReady) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(self, Problem::Malformed(_) | Problem::MethodRefused) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_on_the_page_is_text_not_markup() {
        let text = Problem::NoRule { host: "<script>&\"'".into() }.text();
        assert!(text.contains("&lt;script&gt;&amp;&quot;&#39;"), "{text}");
    }
}
