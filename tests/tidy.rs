//! Holds the code to ARCHITECTURE.md: which room may import which, what pure rooms may not
//! name, where `unsafe` may stand, that every file says what it is. It reads the sources as
//! tokens (comments, strings and white space gone), so a path is seen wherever it stands.

#[path = "tidy/source.rs"]
mod source;

use source::{Names, names, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Decisions are pure here: no clock, no randomness, no IO, no order but that of the keys.
const PURE: [&str; 2] = ["model", "scheduler"];
/// Names that code in pure rooms may not use, each with the reason.
const BANNED: [(&str, &str); 13] = [
    ("tokio", "decisions are not async: return an action, let the caller perform it"),
    ("await", "decisions are not async: return an action, let the caller perform it"),
    ("SystemTime", "time is an argument: see clock.rs"),
    ("Instant", "time is an argument: see clock.rs"),
    ("rand", "random values are arguments: see clock.rs"),
    ("HashMap", "its order differs from run to run: use BTreeMap"),
    ("HashSet", "its order differs from run to run: use BTreeSet"),
    ("std::fs", "no IO in pure rooms"),
    ("std::process", "no IO in pure rooms"),
    ("std::thread", "no threads in pure rooms"),
    ("TcpStream", "no IO in pure rooms"),
    ("TcpListener", "no IO in pure rooms"),
    ("UdpSocket", "no IO in pure rooms"),
];
/// The one room whose code may be unsafe.
const UNSAFE: &str = "runtime";

// ---- The table of ARCHITECTURE.md ----

type Table = BTreeMap<String, BTreeSet<String>>;

/// The rows below `| Room | May import |`; cells hold names in backquotes, all else is prose.
fn import_table(markdown: &str) -> Table {
    let mut lines = markdown.lines().skip_while(|line| !line.starts_with("| Room | May import"));
    let mut table = Table::new();
    for row in lines.by_ref().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        let quoted =
            |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
        for room in quoted(cells[1]) {
            table.insert(room, quoted(cells[2]));
        }
    }
    table
}

// ---- The rules ----

/// The room's imports that the table does not allow.
fn forbidden_imports(
    room: &str,
    names: &Names,
    table: &Table,
    rooms: &BTreeSet<String>,
) -> Vec<(usize, String)> {
    let nothing = BTreeSet::new();
    let allowed = table.get(room).unwrap_or(&nothing);
    let allows = |path: &[String]| {
        let named = |allowed: &String| {
            let allowed: Vec<&str> = allowed.split("::").collect();
            path.len() >= allowed.len() && path.iter().zip(&allowed).all(|(a, b)| a == b)
        };
        path[0] == room || allowed.iter().any(named)
    };
    let mut wrong: Vec<(usize, String)> = names
        .paths
        .iter()
        .filter(|(_, path)| path.first().is_some_and(|first| rooms.contains(first)) && !allows(path))
        .map(|(line, path)| (*line, format!("{room} may not import {}", path.join("::"))))
        .collect();
    wrong.dedup();
    wrong
}

fn banned_names(names: &Names) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (at, token) in names.tokens.iter().enumerate() {
        let follows = |text: &str| names.tokens.get(at + 2).is_some_and(|next| next.text == text);
        for (banned, reason) in BANNED {
            let hit = match banned.split_once("::") {
                Some((first, second)) => token.text == first && follows(second),
                None => token.text == banned,
            };
            if hit {
                wrong.push((token.line, format!("{banned} in a pure room: {reason}")));
            }
        }
    }
    wrong
}

// ---- The sources ----

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is at the root")
}

/// Folders of `src/`, and its files but the two roots.
fn rooms() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("src")).expect("src is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .filter(|name| !name.starts_with('.') && name != "lib" && name != "main")
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// `src/scheduler/explain/tell.rs` is `["scheduler", "explain", "tell"]`.
fn module_of(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root().join("src")).expect("below src").with_extension("");
    let mut module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// Each source with its module and names; files that only tests compile are left out.
fn sources_with_names() -> Vec<(PathBuf, Vec<String>, Names)> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut tests: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut all = Vec::new();
    for path in files {
        let module = module_of(&path);
        let source = fs::read_to_string(&path).expect("a readable source");
        let names = names(&source, &module);
        tests.extend(
            names
                .test_modules
                .iter()
                .map(|name| module.iter().cloned().chain([name.clone()]).collect::<Vec<_>>()),
        );
        all.push((path, module, names));
    }
    all.retain(|(_, module, _)| !(1..=module.len()).any(|n| tests.contains(&module[..n])));
    all
}

fn report(wrong: Vec<(PathBuf, usize, String)>) {
    let lines: Vec<String> = wrong
        .iter()
        .map(|(path, line, what)| {
            format!("{}:{line}: {what}", path.strip_prefix(root()).unwrap_or(path).display())
        })
        .collect();
    assert!(lines.is_empty(), "see ARCHITECTURE.md:\n{}", lines.join("\n"));
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let (table, rooms) = (import_table(&architecture()), rooms());
    let mut wrong = Vec::new();
    for (path, module, names) in sources_with_names() {
        let Some(room) = module.first().filter(|room| rooms.contains(*room)) else { continue };
        let found = forbidden_imports(room, &names, &table, &rooms);
        wrong.extend(found.into_iter().map(|(line, what)| (path.clone(), line, what)));
    }
    report(wrong);
}

#[test]
fn the_table_and_the_folders_name_the_same_rooms() {
    let (text, rooms) = (architecture(), rooms());
    let table: BTreeSet<String> = import_table(&text).into_keys().collect();
    assert_eq!(table, rooms, "the table of ARCHITECTURE.md, and src/");
    for room in &rooms {
        assert!(text.contains(&format!("### `{room}`")), "ARCHITECTURE.md has no paragraph on {room}");
    }
}

#[test]
fn pure_rooms_name_no_clock_no_randomness_no_io() {
    let mut wrong = Vec::new();
    for (path, module, names) in sources_with_names() {
        if module.first().is_some_and(|room| PURE.contains(&room.as_str())) {
            wrong.extend(banned_names(&names).into_iter().map(|(line, what)| (path.clone(), line, what)));
        }
    }
    report(wrong);
}

#[test]
fn unsafe_code_stands_in_the_runtime_alone() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut wrong = Vec::new();
    for path in files.into_iter().filter(|path| module_of(path).first().is_none_or(|room| room != UNSAFE)) {
        let source = fs::read_to_string(&path).expect("a readable source");
        let found = tokens(&source).into_iter().filter(|token| token.text == "unsafe");
        wrong.extend(found.map(|token| (path.clone(), token.line, "unsafe outside runtime".to_owned())));
    }
    report(wrong);
}

#[test]
fn every_file_says_what_it_is() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let says = |path: &PathBuf| fs::read_to_string(path).expect("a readable source").starts_with("//!");
    let silent = files.into_iter().filter(|path| !says(path));
    report(silent.map(|path| (path, 1, "does not start with `//!`".to_owned())).collect());
}

// ---- The checker itself ----

fn found(room: &str, module: &[&str], source: &str) -> Vec<(usize, String)> {
    let table = import_table(
        "# x\n| Room | May import | Not |\n|---|---|---|\n| `model` | nothing of ours | `raft` |\n\
         | `api`, `controller` | `model`, `raft::handle` | |\n| `raft` | `model` | |\n\nprose",
    );
    let rooms = table.keys().cloned().collect();
    let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
    forbidden_imports(room, &names(source, &module), &table, &rooms)
}

#[test]
fn forbidden_imports_are_found_however_they_are_written() {
    let wrong = |source| found("api", &["api", "server"], source);
    for source in [
        "use crate::raft::store::Log;",
        "use crate::{model::ids, raft::store};",
        "use crate::{\n    model::{ids::{A, B}},\n    raft::{handle, store::Log as L},\n};",
        "fn f() -> crate::raft::store::Log { todo!() }",
        "use super::super::raft::store;",
        "mod inner { use super::super::super::raft::store; }",
        "use crate::raft::*;",
        "let x = \"\\\"\"; use crate::raft::store;",
        "let x = 'a'; let y: &'static str = r#\"\"\"#; use crate::raft::store;",
    ] {
        assert_eq!(wrong(source).len(), 1, "{source}");
    }
    assert_eq!(wrong("\n\nuse crate::raft::store;"), [(3, "api may not import raft::store".to_owned())]);
}

#[test]
fn what_is_allowed_or_no_import_is_left_alone() {
    for source in [
        "use crate::model::ids::AppKey;",
        "use crate::raft::handle::Handle;",
        "use crate::api::errors;",
        "use super::errors;",
        "// use crate::raft::store;",
        "/* /* nested */ use crate::raft::store; */",
        "let text = \"crate::raft::store\";",
        "#[cfg(test)]\nmod tests { use crate::raft::store; }",
        "#[cfg(test)]\nuse crate::raft::store;",
    ] {
        assert_eq!(found("api", &["api", "server"], source), [], "{source}");
    }
    let declared = names("#[cfg(test)]\nmod world;\nuse crate::x;", &["scheduler".to_owned()]);
    assert_eq!(declared.test_modules, ["world"]);
}

#[test]
fn banned_names_are_found_in_code_alone() {
    let hits = |source| banned_names(&names(source, &["model".to_owned()])).len();
    assert_eq!(hits("use std::collections::HashMap;"), 1);
    assert_eq!(hits("std::fs::read(path)"), 1);
    assert_eq!(hits("async fn f() { g().await }"), 1);
    assert_eq!(hits("// HashMap would not do\nlet operand = \"rand\"; use std::net::SocketAddr;"), 0);
}
