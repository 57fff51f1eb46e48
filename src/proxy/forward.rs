//! One request's way: which service, which backend, there and back. Retries happen here, and
//! only while they can't make a request happen twice that must not.
//!
//! ```text
//! host, path ─► service ─► pick a backend ─► connection (pooled or new) ─► send ─► answer
//!                              ▲                  │ refused: any method      │ broken: if nothing
//!                              └──── try another ─┴──────────────────────────┘ of it can have acted
//! ```

use super::backend::{Key, Lease, Sender};
use super::body::{Active, Download, Outgoing, Reply, Upload};
use super::guard::Watched;
use super::headers::{self, Peer};
use super::pages::Problem;
use super::stats::count;
use super::table::Service;
use super::worker::{Place, Worker};
use super::{host, tunnel};
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Backends that one request may be sent to; a bound for a day on which all are broken.
const MAX_ATTEMPTS: usize = 5;

const BROKEN_BODY: Problem = Problem::Malformed("its body is not framed as announced");

const CUT_SHORT: Problem = Problem::Malformed("its body breaks off, or its trailers are too large");

/// The client behind a request.
#[derive(Debug)]
pub struct Client {
    pub peer: Peer,
    pub watched: Arc<Watched>,
    /// Taken for as long as anything of the connection is left.
    pub _place: Place,
}

/// Answers one request, whatever happens.
///
/// # Errors
/// Never: hyper's signature has it.
pub async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let number = client.watched.request_begins();
    let mut active = Active::new(Arc::clone(&client.watched));
    let http2 = request.version() == Version::HTTP_2;
    let routed = if client.watched.broke_body_of(number) {
        // Known before anything was sent: what arrives together is looked at together.
        Err(BROKEN_BODY)
    } else {
        route(&worker, &client, request, &mut active)
    };
    let answer = match routed {
        Ok((routed, service)) => forward(&worker, &client, routed, &service, number, active).await,
        Err(problem) => {
            count(&worker.unrouted, 1);
            problem.response(active)
        }
    };
    Ok(if http2 { without_connection(answer) } else { answer })
}

/// HTTP/2 has no `Connection`.
fn without_connection(mut answer: Response<Reply>) -> Response<Reply> {
    answer.headers_mut().remove(CONNECTION);
    answer
}

/// A request that has a service, made ready for a backend.
struct Routed {
    parts: Parts,
    upload: Option<Rc<Upload>>,
    upgrade: bool,
    /// The client's side, to be taken over after a 101.
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
}

fn route(
    worker: &Worker,
    client: &Client,
    request: Request<Incoming>,
    active: &mut Active,
) -> Result<(Routed, Rc<Service>), Problem> {
    if host::is_refused(request.method()) {
        return Err(Problem::MethodRefused);
    }
    if request.headers().get(EXPECT).is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Problem::ExpectationRefused);
    }
    let (mut parts, body) = request.into_parts();
    let host = host::of_request(&parts).map_err(Problem::Malformed)?;
    // Before the first table nothing is known of any host.
    let table = worker.table().ok_or(Problem::NothingReady)?;
    let Some(service) = table.find(&host.name, parts.uri.path()).cloned() else {
        return Err(Problem::NoRule { host: host.name });
    };
    active.belongs_to(&service.counters);
    let ended = body.is_end_stream();
    // A body before an upgrade is valid but unheard of, and mixes two framings: no upgrade then.
    let upgrade = headers::wanted_upgrade(&parts).filter(|_| ended);
    let upgrades = upgrade.is_some();
    let on_upgrade = if upgrades { parts.extensions.remove() } else { None };
    parts.extensions.clear();
    headers::prepare_request(&mut parts, host, &client.peer, upgrade, || worker.fresh_request_id());
    let upload = (!ended).then(|| Rc::new(Upload::new(body, Rc::clone(&service.counters))));
    Ok((Routed { parts, upload, upgrade: upgrades, on_upgrade }, service))
}

async fn forward(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    mut routed: Routed,
    service: &Service,
    number: u64,
    active: Active,
) -> Response<Reply> {
    let began = Instant::now();
    let on_upgrade = routed.on_upgrade.take();
    let upload = routed.upload.clone();
    let result = exchange(worker, service, routed).await;
    let broken = upload.as_ref().is_some_and(|_| client.watched.broke_body_of(number));
    let cut_short = upload.is_some_and(|upload| upload.is_broken());
    let response = match result {
        _ if broken => BROKEN_BODY.response(active),
        Err(_) if cut_short => CUT_SHORT.response(active),
        Ok(exchanged) => answer(client, service, exchanged, on_upgrade, active),
        Err(problem) => problem.response(active),
    };
    service.counters.answered(response.status(), began.elapsed());
    response
}

/// A backend's answer, and the connection that it came on.
struct Exchanged {
    response: Response<Incoming>,
    sender: Sender,
    lease: Lease,
}

fn answer(
    client: &Rc<Client>,
    service: &Service,
    exchanged: Exchanged,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
    active: Active,
) -> Response<Reply> {
    let Exchanged { mut response, sender, lease } = exchanged;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::prepare_response(response.headers_mut(), upgraded);
    if upgraded {
        // A backend that changes protocol without having been asked is broken.
        let Some(on_upgrade) = on_upgrade else { return Problem::Unreachable.response(active) };
        let backend = hyper::upgrade::on(&mut response);
        let counters = Rc::clone(&service.counters);
        let (mut parts, _) = response.into_parts();
        parts.extensions.clear();
        let reply = Reply::Empty { _active: Active::new(Arc::clone(&client.watched)) };
        client.watched.request_begins();
        // Before the client can see the 101, and so before it can send what is not HTTP.
        client.watched.becomes_raw();
        tunnel::spawn(on_upgrade, backend, counters, (Rc::clone(client), lease, active));
        return Response::from_parts(parts, reply);
    }
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let counters = Rc::clone(&service.counters);
    Response::from_parts(parts, Reply::Download(Download::new(body, sender, lease, counters, active)))
}

/// What is needed to send a request once more.
struct Copy {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Copy {
    fn request(self, upload: Option<&Rc<Upload>>) -> Request<Outgoing> {
        let mut request = Request::new(outgoing(upload));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

fn outgoing(upload: Option<&Rc<Upload>>) -> Outgoing {
    upload.map_or(Outgoing::Empty, |upload| Outgoing::Upload(Rc::clone(upload)))
}

async fn exchange(worker: &Rc<Worker>, service: &Service, routed: Routed) -> Result<Exchanged, Problem> {
    let Routed { parts, upload, upgrade, .. } = routed;
    let limits = worker.limits();
    let mut tried: Vec<Key> = Vec::new();
    // RFC 9110 §9.2.2; with a body, as long as none of it was taken.
    let repeatable = parts.method.is_idempotent() || upload.is_some();
    let mut request = Request::from_parts(parts, outgoing(upload.as_ref()));
    let mut problem = Problem::NothingReady;
    // One that was kept has failed: the next try is on a new connection.
    let mut anew = upgrade;
    for attempt in 0..MAX_ATTEMPTS {
        if attempt > 0 {
            count(&service.counters.retries, 1);
        }
        let Some(lease) = service.pick(&tried, || worker.random()).map(|backend| backend.lease()) else {
            break;
        };
        let backend = Rc::clone(lease.backend());
        let kept = if anew { None } else { backend.take_idle() };
        let was_kept = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let connected = if upgrade {
                    backend.connect_for_upgrade(limits.connect_timeout).await
                } else {
                    backend.connect(limits.connect_timeout).await
                };
                match connected {
                    Ok(sender) => sender,
                    Err(error) => {
                        // Nothing was sent: any method may go elsewhere.
                        worker.refused(&backend, || format!("could not connect: {error}"));
                        problem = Problem::Unreachable;
                        tried.push(backend.key);
                        continue;
                    }
                }
            }
        };
        // The gate may have closed while the connection was made.
        if !backend.is_open() {
            tried.push(backend.key);
            continue;
        }
        count(&backend.requests, 1);
        let copy = repeatable.then(|| Copy {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        });
        let sent = sender.try_send_request(request);
        let mut error = match in_time(sent, limits.response_timeout, upload.as_deref()).await {
            None => return Err(Problem::TimedOut),
            Some(Ok(response)) => {
                backend.answered();
                worker.budget_earned();
                return Ok(Exchanged { response, sender, lease });
            }
            Some(Err(error)) => error,
        };
        problem = Problem::Unreachable;
        anew = true;
        if let Some(unsent) = error.take_message() {
            // The kept connection had closed: not the backend's fault, so not `tried`.
            request = unsent;
            continue;
        }
        let untouched = upload.as_ref().is_none_or(|upload| !upload.is_touched());
        let broke =
            error.error().is_incomplete_message() || error.error().is_canceled() || is_io(error.error());
        if broke && !was_kept {
            worker.refused(&backend, || format!("broke a new connection: {}", error.error()));
        }
        match copy {
            // A kept connection that died costs nothing: the next try is on a new one, so it
            // happens once to a request, and an app that closes after each answer is not down.
            Some(copy) if broke && untouched && (was_kept || worker.budget_spent()) => {
                request = copy.request(upload.as_ref())
            }
            _ => break,
        }
    }
    Err(problem)
}

fn is_io(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

/// The answer, or `None` when there was none for `timeout`, beginning anew while the client
/// still uploads.
async fn in_time<T>(sent: impl Future<Output = T>, timeout: Duration, upload: Option<&Upload>) -> Option<T> {
    let mut sent = std::pin::pin!(sent);
    let mut wait = timeout;
    loop {
        match tokio::time::timeout(wait, &mut sent).await {
            Ok(result) => return Some(result),
            Err(_) => {
                let quiet = Duration::from_millis(upload?.quiet_ms());
                wait = timeout.checked_sub(quiet).filter(|left| !left.is_zero())?;
            }
        }
    }
}
