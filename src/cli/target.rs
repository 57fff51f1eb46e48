//! The one grammar of targets: `shop`, `shop/web`, `shop/web.3`; and which app is meant when
//! none is named. The server checks names again; here it is about a quick, exact answer.

use super::args::TargetArguments;
use super::failure::Failure;
use std::fmt;
use std::path::Path;

/// Something that runs, as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub app: String,
    pub process: Option<String>,
    pub slot: Option<u32>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.app)?;
        if let Some(process) = &self.process {
            write!(f, "/{process}")?;
        }
        if let Some(slot) = self.slot {
            write!(f, ".{slot}")?;
        }
        Ok(())
    }
}

impl Target {
    pub fn app(app: impl Into<String>) -> Self {
        Self { app: app.into(), process: None, slot: None }
    }
}

/// Reads a target.
///
/// # Errors
/// The text is none; the message says what it should look like.
pub fn parse_target(text: &str) -> Result<Target, String> {
    let Some((app, rest)) = text.split_once('/') else {
        if let Some((process, slot)) = text.split_once('.')
            && slot.parse::<u32>().is_ok()
        {
            return Err(format!("which app? an instance is named APP/{process}.{slot}"));
        }
        return Ok(Target::app(parse_app(text)?));
    };
    let app = parse_app(app)?;
    let (process, slot) = match rest.split_once('.') {
        None => (rest, None),
        Some((process, slot)) => {
            let slot = slot
                .parse::<u32>()
                .map_err(|_| format!("{slot:?} is not the number of an instance, as in {app}/{process}.1"))?;
            (process, Some(slot))
        }
    };
    Ok(Target { process: Some(parse_label("process", process)?), app, slot })
}

/// Reads an app's name.
///
/// # Errors
/// It is not a DNS label of at most 40 bytes.
pub fn parse_app(text: &str) -> Result<String, String> {
    parse_label("app", text)
}

/// Reads the name of a process.
///
/// # Errors
/// It is not a DNS label of at most 40 bytes.
pub fn parse_process(text: &str) -> Result<String, String> {
    parse_label("process", text)
}

/// Names become host names: the same rule as in the model, which the server applies.
fn parse_label(kind: &str, name: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > 40 {
        "is longer than 40 characters"
    } else if name.starts_with('-') || name.ends_with('-') {
        "starts or ends with a hyphen"
    } else if !name.bytes().all(fits) {
        "has characters other than a-z, 0-9 and hyphen"
    } else {
        return Ok(name.to_owned());
    };
    Err(format!("the {kind} name {name:?} {problem}"))
}

/// A label made of any name, for a folder or a file that becomes an app; `None` if nothing is left.
pub fn label_from(name: &str) -> Option<String> {
    let mut label = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(40);
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// Where the manifest is looked for when nothing else names the app.
pub const MANIFEST: &str = "nodectl.toml";

/// A target and, if it was a default that acted, where it came from.
pub struct Chosen {
    pub target: Target,
    pub note: Option<String>,
}

/// The target that was named, else the app of `-a`, else that of ./nodectl.toml.
///
/// # Errors
/// There is none of them, or the manifest cannot be read.
pub fn choose(args: &TargetArguments) -> anyhow::Result<Chosen> {
    match choose_optional(args)? {
        Some(chosen) => Ok(chosen),
        None => {
            Err(Failure::usage("which app? no target was given, and there is no nodectl.toml in this folder")
                .hint("name one: APP, APP/PROCESS or APP/PROCESS.N, or -a APP; `nodectl app ls` lists them")
                .into())
        }
    }
}

/// Like [`choose`], but `None` where nothing names an app.
///
/// # Errors
/// The manifest is there and cannot be read.
pub fn choose_optional(args: &TargetArguments) -> anyhow::Result<Option<Chosen>> {
    if let Some(target) = &args.target {
        return Ok(Some(Chosen { target: target.clone(), note: None }));
    }
    if let Some(app) = &args.app {
        return Ok(Some(Chosen { target: Target::app(app), note: None }));
    }
    let Some(app) = manifest_app(Path::new(MANIFEST))? else { return Ok(None) };
    let note = format!("app {app} (./{MANIFEST})");
    Ok(Some(Chosen { target: Target::app(app), note: Some(note) }))
}

/// The app that was named, else that of ./nodectl.toml.
///
/// # Errors
/// As [`choose`].
pub fn choose_app(app: Option<&String>) -> anyhow::Result<Chosen> {
    choose(&TargetArguments { target: None, app: app.cloned() })
}

/// The `app` of a manifest; `None` if there is no such file.
fn manifest_app(path: &Path) -> anyhow::Result<Option<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(format!("could not read ./{MANIFEST}: {error}")).into()),
    };
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        Failure::new(format!("./{MANIFEST} is not valid TOML: {}", error.message()))
            .hint("`nodectl deploy` says where; or name the app with -a APP")
    })?;
    match table.get("app").and_then(toml::Value::as_str) {
        Some(app) => match parse_app(app) {
            Ok(app) => Ok(Some(app)),
            Err(problem) => Err(Failure::new(format!("./{MANIFEST}: {problem}")).into()),
        },
        None => Err(Failure::new(format!("./{MANIFEST} has no `app = \"…\"`"))
            .hint("add it, or name the app with -a APP")
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_were_written() {
        for text in ["shop", "shop/web", "shop/web.3", "a-1/b-2.0"] {
            assert_eq!(parse_target(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_what_it_should_be() {
        for (text, part) in [
            ("", "is empty"),
            ("Shop", "a-z"),
            ("shop/", "process name \"\" is empty"),
            ("shop/web.x", "not the number"),
            ("shop/web.", "not the number"),
            ("web.3", "APP/web.3"),
            ("-shop", "hyphen"),
            ("a/b/c", "a-z"),
        ] {
            let error = parse_target(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_folder_name_becomes_a_label() {
        for (name, label) in [
            ("My Site", Some("my-site")),
            ("shop", Some("shop")),
            ("...", None),
            ("_a__b_", Some("a-b")),
            ("Été", Some("t")),
        ] {
            assert_eq!(label_from(name).as_deref(), label, "{name}");
        }
        assert_eq!(label_from(&"x".repeat(50)).map(|l| l.len()), Some(40));
    }
}
