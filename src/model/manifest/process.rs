//! `[process.NAME]`: what one kind of program needs.

use super::reader::{Field, Keys, Section};
use crate::model::app::{Check, Health, ProcessSpec, StopPolicy, UserNamespace};
use crate::model::ids::ProcessName;
use crate::model::quantity::{Span, parse_bytes, parse_cpu_milli, parse_duration};
use crate::model::resources::{Bytes, Cpu};
use std::time::Duration;

/// More instances of one process than any cluster of ours has places for.
pub const COUNT_MAX: u32 = 10_000;
/// The kernel's own limit of process ids.
const PIDS_MAX: u64 = 4_194_304;
const CPU_MILLI_MAX: u64 = 1_024_000;
/// Below this a container cannot even start.
const MEMORY_BYTES_MIN: u64 = 4_000_000;
const MEMORY_BYTES_MAX: u64 = 64_000_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) const PROCESS_KEYS: Keys = Keys {
    known: &[
        "command",
        "count",
        "cpu",
        "cpu_max",
        "memory",
        "pids",
        "port",
        "health",
        "stop",
        "env",
        "userns",
        "read_only",
    ],
    later: &[
        "config",
        "secrets",
        "per_zone",
        "uptests",
        "where",
        "max_per",
        "unique",
        "prefer",
        "volumes",
        "tmpfs",
        "disk",
        "devices",
        "gpu",
        "priority",
        "exclusive",
        "everywhere",
        "autoscale",
        "tcp",
        "protocol",
        "user",
        "working_dir",
        "capabilities",
        "liveness",
        "sidecars",
        "depends_on",
        "image",
    ],
    elsewhere: &[
        (&["host", "path", "domains"], "[[route]]"),
        (&["strategy", "max_surge", "max_unavailable", "deadline", "auto_revert"], "[deploy]"),
        (&["interval", "timeout", "unhealthy", "http"], "health = { … }"),
        (&["signal", "grace"], "stop = { … }"),
    ],
};

const HEALTH_KEYS: Keys = Keys {
    known: &["http", "tcp", "command", "interval", "timeout", "unhealthy", "grace"],
    later: &["healthy", "headers", "status", "port", "host", "method", "grpc", "liveness"],
    elsewhere: &[],
};

const STOP_KEYS: Keys = Keys { known: &["signal", "grace"], later: &["pre_stop"], elsewhere: &[] };

/// What one table says, and which of its values are defaults.
pub(super) struct Process {
    pub spec: ProcessSpec,
    /// `count 1`, `cpu 100m`: what was not written.
    pub defaults: Vec<String>,
    /// It has a check that needs a port, with the check's name.
    pub checks_port: Option<&'static str>,
    pub line: usize,
}

pub(super) fn read(name: &ProcessName, section: &Section<'_>) -> Process {
    section.check_keys(&PROCESS_KEYS);
    let mut spec = ProcessSpec::default();
    let mut defaults = Vec::new();
    let place = section.place();
    if let Some(field) = section.get("command") {
        spec.command = field.command();
    }
    match section.get("count") {
        Some(field) => {
            spec.count = field.integer(0..=COUNT_MAX.into(), 3).map_or(1, |count| count as u32);
        }
        None => defaults.push(format!("count {}", spec.count)),
    }
    match section.get("cpu") {
        Some(field) => spec.cpu_milli = cpu(&field).unwrap_or(spec.cpu_milli),
        None => defaults.push(format!("cpu {}", Cpu(spec.cpu_milli))),
    }
    if let Some(field) = section.get("cpu_max") {
        spec.cpu_max_milli = cpu(&field);
        if let Some(max) = spec.cpu_max_milli.filter(|max| *max < spec.cpu_milli) {
            field.fail(format_args!(
                "caps the process below what it reserves: cpu_max is {}, cpu is {}",
                Cpu(max),
                Cpu(spec.cpu_milli)
            ));
        }
    }
    match section.get("memory") {
        Some(field) => spec.memory_bytes = memory(&field).unwrap_or(spec.memory_bytes),
        None => defaults.push(format!("memory {}", Bytes(spec.memory_bytes))),
    }
    if let Some(field) = section.get("pids") {
        spec.pids_max = field.integer(1..=PIDS_MAX, 4096).unwrap_or(spec.pids_max);
    }
    if let Some(field) = section.get("port") {
        spec.port = field.integer(1..=65_535, 8080).and_then(|port| u16::try_from(port).ok());
    }
    let mut checks_port = None;
    match section.get("health") {
        Some(field) => {
            if let Some(health) = field.section(format!("{place} health"), "{ http = \"/healthz\" }") {
                (spec.health, checks_port) = read_health(&health);
            }
        }
        // Without a port there is nothing to connect to, and nothing to tell.
        None if spec.port.is_some() || name.as_str() == "web" => defaults.push("health tcp".into()),
        None => {}
    }
    if let Some(field) = section.get("stop")
        && let Some(stop) = field.section(format!("{place} stop"), "{ signal = \"TERM\", grace = \"10s\" }")
    {
        spec.stop = read_stop(&stop);
    }
    if let Some(env) = section.get("env").and_then(|field| field.env(format!("{place} env"))) {
        spec.env = env;
    }
    if let Some(field) = section.get("userns") {
        match field.string("a kind of user namespace", "\"private\"") {
            Some("private") | None => {}
            Some("host") => spec.user_namespace = UserNamespace::Host,
            Some(other) => {
                field.fail(format_args!("must be \"private\" (the default) or \"host\"; it is {other:?}"));
            }
        }
    }
    if let Some(read_only) = section.get("read_only").and_then(|field| field.boolean()) {
        spec.read_only_root = read_only;
    }
    Process { spec, defaults, checks_port, line: section.line }
}

fn cpu(field: &Field<'_>) -> Option<u64> {
    // `cpu = 2` can only mean cores, so it needs no quotes.
    let Some(text) = field.number_text() else {
        field.string("a part of a core", "\"250m\" or \"2\"")?;
        return None;
    };
    let milli = parse_cpu_milli(&text).map_err(|message| field.fail(message)).ok()?;
    if !(1..=CPU_MILLI_MAX).contains(&milli) {
        field.fail(format_args!("must be from \"1m\" to \"{}\"; it is {text:?}", CPU_MILLI_MAX / 1000));
        return None;
    }
    Some(milli)
}

fn memory(field: &Field<'_>) -> Option<u64> {
    let bytes = field.quantity("a size with its unit", "\"256MB\"", parse_bytes)?;
    if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&bytes) {
        field.fail(format_args!("must be from \"4MB\" to \"64TB\"; it is {}", Bytes(bytes)));
        return None;
    }
    Some(bytes)
}

/// A duration within bounds.
pub(super) fn duration(field: &Field<'_>, min: Duration, max: Duration, example: &str) -> Option<Duration> {
    let example = format!("{example:?}");
    let duration = field.quantity("a duration with its unit", &example, parse_duration)?;
    if duration < min || duration > max {
        field.fail(format_args!(
            "must be from \"{}\" to \"{}\"; it is {}",
            Span(min),
            Span(max),
            Span(duration)
        ));
        return None;
    }
    Some(duration)
}

fn read_health(section: &Section<'_>) -> (Health, Option<&'static str>) {
    section.check_keys(&HEALTH_KEYS);
    let mut health = Health::default();
    let mut checks_port = None;
    let forms: Vec<_> = ["http", "tcp", "command"].into_iter().filter_map(|key| section.get(key)).collect();
    if let [first, second, ..] = &forms[..] {
        second.fail(format_args!("comes beside {:?}: a process has one check", first.key));
    }
    for form in &forms {
        match form.key {
            "http" => {
                checks_port = Some("http");
                if let Some(path) = form.string("a path", "\"/healthz\"") {
                    if let Err(problem) = check_request_path(path) {
                        form.fail(problem);
                    }
                    health.check = Check::Http { path: path.to_owned() };
                }
            }
            "tcp" => match form.boolean() {
                Some(true) => checks_port = Some("tcp"),
                Some(false) => form.fail("cannot be false: use http or command for another kind of check"),
                None => {}
            },
            _ => {
                if let Some(command) = form.command() {
                    health.check = Check::Command { command };
                }
            }
        }
    }
    if let Some(field) = section.get("interval") {
        let interval = duration(&field, Duration::from_millis(100), HOUR, "2s");
        health.interval = interval.unwrap_or(health.interval);
    }
    if let Some(field) = section.get("timeout") {
        let timeout = duration(&field, MILLISECOND, Duration::from_secs(600), "1s");
        health.timeout = timeout.unwrap_or(health.timeout);
    }
    if let Some(field) = section.get("unhealthy") {
        health.unhealthy = field.integer(1..=1000, 3).map_or(health.unhealthy, |times| times as u32);
    }
    if let Some(field) = section.get("grace") {
        health.grace = duration(&field, Duration::ZERO, HOUR, "30s").unwrap_or(health.grace);
    }
    (health, checks_port)
}

/// What a probe sends as its request target: a path, and a query if one is needed (RFC 9112 §3.2.1).
fn check_request_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("must start with \"/\"; it is {path:?}"));
    }
    if path.len() > 2048 {
        return Err("is longer than 2048 characters".into());
    }
    match path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => {
            Err(format!("has the character {c:?}, which a request's path cannot have; it is {path:?}"))
        }
        None => Ok(()),
    }
}

fn read_stop(section: &Section<'_>) -> StopPolicy {
    section.check_keys(&STOP_KEYS);
    let mut stop = StopPolicy::default();
    if let Some(field) = section.get("signal")
        && let Some(name) = field.string("a signal's name", "\"TERM\"")
    {
        match super::signal::number(name) {
            Ok(number) => stop.signal = Some(number),
            Err(problem) => field.fail(problem),
        }
    }
    if let Some(field) = section.get("grace") {
        stop.grace = duration(&field, Duration::ZERO, HOUR, "10s").unwrap_or(stop.grace);
    }
    stop
}
