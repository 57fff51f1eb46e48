//! `[[route]]`: a host and a path to a process.

use super::reader::{Field, Keys, Section};
use crate::model::app::RouteSpec;
use crate::model::ids::ProcessName;

pub(super) const ROUTE_KEYS: Keys = Keys {
    known: &["host", "path", "process"],
    later: &[
        "method",
        "methods",
        "headers",
        "header",
        "query",
        "percent",
        "weight",
        "redirect",
        "rewrite",
        "strip_prefix",
        "tcp",
        "port",
        "tls",
        "hosts",
        "sticky",
        "timeout",
        "rate_limit",
        "compress",
        "auth",
    ],
    elsewhere: &[],
};

/// A route as read. `None` in `process`: the app's main process.
pub(super) struct Route {
    pub host: Option<String>,
    pub path: String,
    pub process: Option<ProcessName>,
    pub line: usize,
}

impl Route {
    /// `shop.example.com/`, `*/api`.
    pub fn name(&self) -> String {
        format!("{}{}", self.host.as_deref().unwrap_or("*"), self.path)
    }

    pub fn to(self, process: ProcessName) -> RouteSpec {
        RouteSpec { host: self.host, path: self.path, process }
    }
}

/// `None` when it has a fault, which the reader then knows.
pub(super) fn read(section: &Section<'_>) -> Option<Route> {
    section.check_keys(&ROUTE_KEYS);
    let (host, path, process) = (section.get("host"), section.get("path"), section.get("process"));
    if host.is_none() && path.is_none() {
        section.fail(
            "a [[route]] needs a host, such as \"shop.example.com\", or a path, such as \"/api\"".into(),
        );
        return None;
    }
    let host = host.map(|field| read_host(&field));
    let path = match path {
        Some(field) => read_path(&field),
        None => Some("/".to_owned()),
    };
    let process = process.map(|field| read_process(&field));
    // Each of the three was read before any fault stops us, so that all are told.
    Some(Route { host: transpose(host)?, path: path?, process: transpose(process)?, line: section.line })
}

/// `None` is a fault, `Some(None)` is not written.
fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}

fn read_process(field: &Field<'_>) -> Option<ProcessName> {
    let name = field.string("a process's name", "\"web\"")?;
    ProcessName::new(name).map_err(|error| field.fail(format_args!("is no process: {error}"))).ok()
}

fn read_host(field: &Field<'_>) -> Option<String> {
    let written = field.string("a host name", "\"shop.example.com\"")?;
    check_host(written).map_err(|problem| field.fail(problem)).ok()
}

/// The host in lower case, without the dot that may end it (RFC 1123 §2.1).
fn check_host(written: &str) -> Result<String, String> {
    let host = written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase();
    if host.contains("://") {
        return Err(format!("must be a host name without a scheme; it is {written:?}"));
    }
    if host.contains('*') {
        return Err(format!("has a wildcard, which is not supported yet; it is {written:?}"));
    }
    if let Some((name, _)) = host.split_once(':') {
        return Err(format!("must be a host name without a port, such as {name:?}; it is {written:?}"));
    }
    if let Some((name, path)) = host.split_once('/') {
        return Err(format!("must be a host name: write host = {name:?}, path = \"/{path}\""));
    }
    if !host.is_ascii() {
        return Err(format!("must be written in its ASCII form, xn--…; it is {written:?}"));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(format!("must be a host name, such as \"shop.example.com\"; it is {written:?}"));
    }
    Ok(host)
}

fn read_path(field: &Field<'_>) -> Option<String> {
    let written = field.string("a path", "\"/\" or \"/api\"")?;
    check_path(written).map_err(|problem| field.fail(problem)).ok()
}

/// The path without a slash at its end: routes match whole segments.
fn check_path(written: &str) -> Result<String, String> {
    if !written.starts_with('/') {
        return Err(format!("must start with \"/\"; it is {written:?}"));
    }
    if written.len() > 1024 {
        return Err("is longer than 1024 characters".into());
    }
    if written.contains('*') {
        return Err(format!(
            "matches everything below it already: write it without \"*\"; it is {written:?}"
        ));
    }
    // RFC 3986 §3.3, `pchar` without percent-encoding: what a proxy compares must have one spelling.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()+,;=:@".contains(c);
    if let Some(c) = written.chars().find(|c| !is_plain(*c)) {
        return Err(format!("has the character {c:?}, which a route's path cannot have; it is {written:?}"));
    }
    let path = written.strip_suffix('/').unwrap_or(written);
    if path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(format!("has an empty segment, \".\" or \"..\"; it is {written:?}"));
    }
    Ok(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}
