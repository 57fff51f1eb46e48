//! Runs the scripts of `testdata/` and compares what they show with what is written there.
//! `UPDATE_GOLDEN=1 cargo test --lib scheduler::scenarios` writes it anew: read the
//! difference before you commit it.

use super::script;
use std::path::{Path, PathBuf};

/// A scenario starts at `## its name`; what a command showed starts with `| `.
fn rerun(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut scenario: Vec<&str> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("| ") && *line != "|") {
        if line.starts_with("## ") {
            out.extend(script::run(&scenario));
            scenario.clear();
            out.push(line.to_owned());
        } else {
            scenario.push(line);
        }
    }
    out.extend(script::run(&scenario));
    out.join("\n") + "\n"
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scheduler/testdata");
    let entries = std::fs::read_dir(folder).expect("testdata is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    files.sort();
    files
}

#[test]
fn scripted_scenarios_plan_what_is_written() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let written = std::fs::read_to_string(&path).expect("a readable script");
        let shown = rerun(&written);
        if shown == written {
            continue;
        }
        if update {
            std::fs::write(&path, &shown).expect("a writable script");
            continue;
        }
        let differs = written.lines().zip(shown.lines()).position(|(a, b)| a != b).unwrap_or(0);
        wrong.push(format!(
            "{}, line {}:\n  written: {}\n  shown:   {}",
            path.display(),
            differs + 1,
            written.lines().nth(differs).unwrap_or_default(),
            shown.lines().nth(differs).unwrap_or_default()
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_forty_scenarios() {
    let count: usize = scripts()
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("a readable script"))
        .map(|text| text.lines().filter(|line| line.starts_with("## ")).count())
        .sum();
    assert!(count >= 40, "only {count}");
}
