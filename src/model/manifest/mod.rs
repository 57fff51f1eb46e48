//! `nodectl.toml` → a [`Manifest`]: strict, complete, and patient in what it says of mistakes.
//!
//! ```text
//!   text ──parse──▶ Manifest ──resolve(image facts)──▶ Resolved { spec, notes }
//!                                                        ▲
//!   --image NAME ───────────from_image(image facts)──────┘
//! ```
//!
//! Every key is known, or refused with its line and the nearest known one; keys of later
//! versions are refused by name. `reader.rs` walks the tables; the other files know the keys.

mod deploy;
mod process;
mod reader;
mod resolve;
mod route;
mod signal;
#[cfg(test)]
mod tests;

pub use process::COUNT_MAX;
pub use reader::ManifestError;
pub use resolve::{ImageFacts, Resolved, from_image};

use super::app::{AppSpec, DeployPolicy};
use super::ids::{AppName, ProcessName};
use process::Process;
use reader::{Keys, Reader, Section};
use route::Route;
use std::collections::BTreeMap;
use toml::de::DeTable;

/// A manifest longer than this is a mistake; the state store's entries have a limit too.
pub const TEXT_BYTES_MAX: usize = 512 * 1024;
const PROCESSES_MAX: usize = 50;
const ROUTES_MAX: usize = 200;

/// What a manifest says, checked. The spec is complete but for what only the image knows:
/// [`Manifest::resolve`] fills that in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub app: AppName,
    /// `None` when it is built, or given beside the manifest.
    pub image: Option<String>,
    pub build: Option<Static>,
    pub spec: AppSpec,
    /// Each default that acted: `web: count 1, cpu 100m, memory 256 MB (defaults)`.
    pub notes: Vec<String>,
    file: String,
    /// Where each process stands in the file, for what is found out later.
    lines: BTreeMap<ProcessName, usize>,
}

/// `[build] static = "public"`: a folder with an index.html, relative to the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    pub folder: String,
}

const TOP_KEYS: Keys = Keys {
    known: &["app", "image", "build", "env", "process", "route", "deploy"],
    later: &[
        "config",
        "secrets",
        "secret",
        "job",
        "volumes",
        "volume",
        "group",
        "groups",
        "depends_on",
        "alerts",
        "tenant",
        "service",
        "cron",
        "pipeline",
        "domains",
        "include",
    ],
    elsewhere: &[
        (
            &[
                "command",
                "count",
                "cpu",
                "cpu_max",
                "memory",
                "pids",
                "port",
                "health",
                "stop",
                "userns",
                "read_only",
            ],
            "[process.web]",
        ),
        (&["host", "path"], "[[route]]"),
        (
            &["strategy", "max_surge", "max_unavailable", "deadline", "auto_revert", "release_command"],
            "[deploy]",
        ),
        (&["static", "dockerfile", "buildpack"], "[build]"),
    ],
};

const BUILD_KEYS: Keys = Keys {
    known: &["static"],
    later: &["dockerfile", "buildpack", "context", "args", "target", "stack", "builder"],
    elsewhere: &[],
};

/// Reads a manifest. `file_name` is for messages only.
///
/// # Errors
/// Every fault, in the order of the file.
pub fn parse(file_name: &str, text: &str) -> Result<Manifest, Vec<ManifestError>> {
    let reader = Reader::new(file_name, text);
    if text.len() > TEXT_BYTES_MAX {
        reader.error(1, "", || {
            format!("is {} bytes long; a manifest has at most {TEXT_BYTES_MAX}", text.len())
        });
        return Err(reader.into_errors());
    }
    let (document, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let line = reader.line_at(fault.span().map_or(0, |span| span.start));
        reader.error(line, "", || format!("not valid TOML: {}", fault.message().trim().replace('\n', ", ")));
    }
    // What was read past a fault of syntax may be nonsense: faults found in it would mislead.
    if !faults.is_empty() {
        return Err(reader.into_errors());
    }
    let manifest = read(&Section::top(&reader, document.get_ref()), file_name);
    match manifest {
        Some(manifest) if !reader.has_errors() => Ok(manifest),
        _ => Err(reader.into_errors()),
    }
}

/// `None` when a part without which there is no manifest is missing; its fault is noted.
fn read(top: &Section<'_>, file: &str) -> Option<Manifest> {
    top.check_keys(&TOP_KEYS);
    let app = read_app(top);
    let image = top.get("image").and_then(|field| {
        let name = field.string("an image's name", "\"shop:1.4\"")?;
        check_image_name(name).map_err(|problem| field.fail(problem)).ok()
    });
    let build = top.get("build").and_then(|field| {
        let section = field.section("in [build]".into(), "[build]\nstatic = \"public\"")?;
        section.check_keys(&BUILD_KEYS);
        let Some(folder) = section.get("static") else {
            section.fail("[build] needs static = \"FOLDER\"".into());
            return None;
        };
        let path = folder.string("a folder", "\"public\"")?;
        if path.is_empty() || path.contains('\0') {
            folder.fail(format_args!("must name a folder; it is {path:?}"));
            return None;
        }
        Some(Static { folder: path.to_owned() })
    });
    if let Some(field) = top.get("build").filter(|_| top.get("image").is_some()) {
        field.fail("comes beside \"image\": an app is either built or given as an image");
    }
    let env = top.get("env").and_then(|field| field.env("in [env]".into())).unwrap_or_default();
    let mut notes = Vec::new();
    let processes = read_processes(top, &mut notes);
    let routes = read_routes(top, &processes, &mut notes);
    let deploy = read_deploy(top, &mut notes);
    check_port_variable(top, &env, &processes);

    let lines = processes.iter().map(|(name, process)| (name.clone(), process.line)).collect();
    let processes = processes.into_iter().map(|(name, process)| (name, process.spec)).collect();
    let spec = AppSpec { processes, routes, env, deploy };
    Some(Manifest { app: app?, image, build, spec, notes, file: file.to_owned(), lines })
}

fn read_app(top: &Section<'_>) -> Option<AppName> {
    let Some(field) = top.get("app") else {
        // A key below a table's line belongs to that table: the usual way to lose this one.
        let strayed = ["env", "build", "deploy"].into_iter().find_map(|table| {
            let section = top.get(table).filter(|field| field.is_table())?.section(String::new(), "")?;
            section.get("app").map(|field| (table, field.line))
        });
        top.fail(match strayed {
            Some((table, line)) => {
                format!("\"app\" is missing: line {line} sets it inside [{table}]; move it above the first [table]")
            }
            None => "\"app\" is missing: add app = \"NAME\" as the first line".into(),
        });
        return None;
    };
    let name = field.string("a name", "\"shop\"")?;
    AppName::new(name).map_err(|error| field.fail(format_args!("is no name: {error}"))).ok()
}

/// Whether the text can be an image's name at all; what it means is for the cluster to say.
fn check_image_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 512 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("must be an image's name, such as \"shop:1.4\"; it is {name:?}"));
    }
    Ok(name.to_owned())
}

fn read_processes(top: &Section<'_>, notes: &mut Vec<String>) -> BTreeMap<ProcessName, Process> {
    let mut processes = BTreeMap::new();
    let table = top.get("process").and_then(|field| {
        let section = field.section("in [process]".into(), "[process.web]")?;
        Some((field, section))
    });
    if let Some((field, table)) = table {
        let fields = table.fields();
        if fields.len() > PROCESSES_MAX {
            field.fail(format_args!("has {} processes; an app has at most {PROCESSES_MAX}", fields.len()));
            return processes;
        }
        for field in fields {
            if !field.is_table() && process::PROCESS_KEYS.known.contains(&field.key) {
                field.fail(format_args!("needs its process's name: write it below [process.web]"));
                continue;
            }
            let place = format!("in [process.{}]", field.key);
            let Some(section) = field.section(place, "[process.web]") else { continue };
            match ProcessName::new(field.key) {
                Ok(name) => {
                    let read = process::read(&name, &section);
                    if let Some(check) = read.checks_port.filter(|_| !serves(&name, &read)) {
                        section.fail(format!(
                            "[process.{name}] has a health check by {check} but no port: add port = 8080"
                        ));
                    }
                    note_defaults(notes, name.as_str(), &read.defaults);
                    processes.insert(name, read);
                }
                Err(error) => field.fail(format_args!("is no process: {error}")),
            }
        }
    }
    if processes.is_empty() && !top.reader.has_errors() {
        let web = ProcessName::new("web").expect("a DNS label");
        notes.push("one process, web, that runs the image's own command (no [process.NAME])".into());
        let process = Process {
            spec: Default::default(),
            defaults: ["count 1", "cpu 100m", "memory 256 MB", "health tcp"].map(String::from).into(),
            checks_port: None,
            line: 1,
        };
        note_defaults(notes, web.as_str(), &process.defaults);
        processes.insert(web, process);
    }
    processes
}

fn note_defaults(notes: &mut Vec<String>, what: &str, defaults: &[String]) {
    match defaults {
        [] => {}
        [one] => notes.push(format!("{what}: {one} (default)")),
        several => notes.push(format!("{what}: {} (defaults)", several.join(", "))),
    }
}

/// Whether it will have a port: its own, or as `web` the image's.
fn serves(name: &ProcessName, process: &Process) -> bool {
    process.spec.port.is_some() || name.as_str() == "web"
}

fn read_routes(
    top: &Section<'_>,
    processes: &BTreeMap<ProcessName, Process>,
    notes: &mut Vec<String>,
) -> Vec<super::app::RouteSpec> {
    let Some(field) = top.get("route") else { return Vec::new() };
    let Some(sections) = field.sections("in [[route]]", "[[route]]") else { return Vec::new() };
    if sections.len() > ROUTES_MAX {
        field.fail(format_args!("has {} routes; an app has at most {ROUTES_MAX}", sections.len()));
        return Vec::new();
    }
    let main = main_process(processes);
    let mut seen: Vec<(String, usize)> = Vec::new();
    let mut routes = Vec::new();
    for section in &sections {
        let Some(route) = route::read(section) else { continue };
        let name = route.name();
        if let Some((_, line)) = seen.iter().find(|(other, _)| *other == name) {
            section.fail(format!("the route {name} stands in line {line} already"));
            continue;
        }
        seen.push((name.clone(), route.line));
        if let Some(to) = target(section, &route, processes, main, notes) {
            routes.push(route.to(to));
        }
    }
    routes
}

/// `web`, else the first process that has a port: the rule of `project::main_process`.
fn main_process(processes: &BTreeMap<ProcessName, Process>) -> Option<&ProcessName> {
    let serving = || processes.iter().filter(|(name, process)| serves(name, process)).map(|(name, _)| name);
    serving().find(|name| name.as_str() == "web").or_else(|| serving().next())
}

fn target(
    section: &Section<'_>,
    route: &Route,
    processes: &BTreeMap<ProcessName, Process>,
    main: Option<&ProcessName>,
    notes: &mut Vec<String>,
) -> Option<ProcessName> {
    let Some(name) = &route.process else {
        let Some(main) = main else {
            section.fail("no process has a port for this route to lead to: add port = 8080 to one".into());
            return None;
        };
        notes.push(format!("route {} leads to {main} (default)", route.name()));
        return Some(main.clone());
    };
    match processes.get(name) {
        Some(process) if serves(name, process) => return Some(name.clone()),
        Some(_) => section.fail(format!(
            "the route {} leads to process {name}, which has no port: add port = 8080 to [process.{name}]",
            route.name()
        )),
        None => {
            let names = || processes.keys().map(ProcessName::as_str);
            let hint = match super::near::nearest(name.as_str(), names()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there is {}", names().collect::<Vec<_>>().join(", ")),
            };
            section.fail(format!(
                "the route {} leads to process {name}, which is not here: {hint}",
                route.name()
            ));
        }
    }
    None
}

fn read_deploy(top: &Section<'_>, notes: &mut Vec<String>) -> DeployPolicy {
    let Some(field) = top.get("deploy") else {
        notes.push("deploy: strategy rolling, deadline 5m (defaults)".into());
        return DeployPolicy::default();
    };
    let Some(section) = field.section("in [deploy]".into(), "[deploy]\ndeadline = \"5m\"") else {
        return DeployPolicy::default();
    };
    let (policy, defaults) = deploy::read(&section);
    note_defaults(notes, "deploy", &defaults);
    policy
}

/// `PORT` is nodectl's to set where a process has a port: two authors of one value would
/// leave the app listening where nobody asks.
fn check_port_variable(
    top: &Section<'_>,
    env: &BTreeMap<String, String>,
    processes: &BTreeMap<ProcessName, Process>,
) {
    const WHY: &str = "is set by nodectl to the process's port: remove it, and write port = 8080 instead";
    let Some(main) = main_process(processes) else { return };
    let variable =
        |section: &Section<'_>| section.get("env")?.section(String::new(), "")?.get("PORT").map(|f| f.line);
    if env.contains_key("PORT")
        && let Some(line) = variable(top)
    {
        top.reader.error(line, "env.PORT", || format!("\"PORT\" in [env] {WHY} (process {main})"));
    }
    for (name, process) in processes {
        if serves(name, process) && process.spec.env.contains_key("PORT") {
            let line = process.line;
            let key = format!("process.{name}.env.PORT");
            top.reader.error(line, &key, || format!("\"PORT\" in [process.{name}] env {WHY}"));
        }
    }
}
