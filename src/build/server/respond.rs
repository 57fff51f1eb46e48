//! One request to one response.

use super::conditional::{Answer, Validators, decide};
use super::connection::Activity;
use super::file::{Content, Opened, open};
use super::path::{PathError, Wanted, encoded, wanted};
use super::types::{cache_control, content_type};
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    LAST_MODIFIED, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

const NOT_FOUND: &str = "<!doctype html><meta charset=utf-8><title>Not found</title><h1>Not found</h1>\
                         <p>There is no such page here.</p>\n";

pub(super) fn respond<B>(root: &File, request: &Request<B>, activity: &Rc<Activity>) -> Response<Content> {
    let method = request.method();
    if *method != Method::GET && *method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let mut response = match wanted(request.uri().path()) {
        Ok(wanted) => find(root, request, &wanted, activity),
        Err(PathError::NotFound) => not_found(root, activity),
        Err(PathError::Malformed) => text(StatusCode::BAD_REQUEST, "malformed path\n"),
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if *method == Method::HEAD {
        // The length of what a GET would get; hyper sends no body.
        let length = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        if response.status() != StatusCode::NOT_MODIFIED {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Content::empty();
    }
    response
}

fn find<B>(root: &File, request: &Request<B>, wanted: &Wanted, activity: &Rc<Activity>) -> Response<Content> {
    let opened = match open(root, &wanted.path) {
        Ok(Opened::Folder) if wanted.as_folder => {
            open(root, &wanted.path.join("index.html")).map(|opened| match opened {
                // A folder of that name is no page.
                Opened::Folder => Opened::Nothing,
                other => other,
            })
        }
        Ok(Opened::File(..)) if wanted.as_folder => Ok(Opened::Nothing),
        other => other,
    };
    match opened {
        Ok(Opened::File(file, validators)) => {
            let named = if wanted.as_folder { Path::new("index.html") } else { &wanted.path };
            send(request, named, file, validators, activity)
        }
        Ok(Opened::Folder) => redirect(request, wanted),
        Ok(Opened::Nothing) => not_found(root, activity),
        Err(error) => {
            eprintln!("static-server: could not open {}: {error}", wanted.path.display());
            text(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
        }
    }
}

fn send<B>(
    request: &Request<B>,
    name: &Path,
    file: File,
    validators: Validators,
    activity: &Rc<Activity>,
) -> Response<Content> {
    let answer = decide(request.method(), request.headers(), &validators);
    let (status, offset, left) = match answer {
        Answer::Full => (StatusCode::OK, 0, validators.length),
        Answer::Part(offset, count) => (StatusCode::PARTIAL_CONTENT, offset, count),
        Answer::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Answer::PreconditionFailed => return text(StatusCode::PRECONDITION_FAILED, "precondition failed\n"),
        Answer::Unsatisfiable => {
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "range not satisfiable\n");
            insert(&mut response, CONTENT_RANGE, format!("bytes */{}", validators.length));
            return response;
        }
    };
    let content = match status {
        StatusCode::NOT_MODIFIED => Content::empty(),
        _ => Content::File { file, offset, left, activity: activity.clone() },
    };
    let mut response = Response::new(content);
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        let last = offset + left - 1;
        insert(&mut response, CONTENT_RANGE, format!("bytes {offset}-{last}/{}", validators.length));
    }
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control(name)));
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if let Some(modified) = validators.modified {
        insert(&mut response, LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
    insert(&mut response, ETAG, validators.etag);
    response
}

/// To the same path with a slash. Built from the parts that were found to be harmless, so
/// that it never leads to another host.
fn redirect<B>(request: &Request<B>, wanted: &Wanted) -> Response<Content> {
    let mut location = format!("/{}/", encoded(wanted.path.as_os_str()));
    if let Some(query) = request.uri().query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "moved\n");
    insert(&mut response, LOCATION, location);
    insert(&mut response, CACHE_CONTROL, "no-cache".to_owned());
    response
}

/// The site's own page for it, if there is one.
fn not_found(root: &File, activity: &Rc<Activity>) -> Response<Content> {
    let content = match open(root, Path::new("404.html")) {
        Ok(Opened::File(file, validators)) => {
            Content::File { file, offset: 0, left: validators.length, activity: activity.clone() }
        }
        _ => Content::text(NOT_FOUND),
    };
    let mut response = Response::new(content);
    *response.status_mut() = StatusCode::NOT_FOUND;
    insert(&mut response, CONTENT_TYPE, "text/html; charset=utf-8".to_owned());
    insert(&mut response, CACHE_CONTROL, "no-cache".to_owned());
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Content> {
    let mut response = Response::new(Content::text(text));
    *response.status_mut() = status;
    insert(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8".to_owned());
    response
}

fn insert(response: &mut Response<Content>, name: http::HeaderName, value: String) {
    // Everything that comes here is made of plain characters or was a header already.
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(name, value);
    }
}
