//! What only the image knows: the port that it exposes, and whether it says what to run.

use super::reader::ManifestError;
use super::{Manifest, note_defaults};
use crate::model::app::{AppSpec, ProcessSpec};
use crate::model::ids::ProcessName;

/// What a spec needs to know of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// TCP ports of EXPOSE, in order.
    pub tcp_ports: Vec<u16>,
    /// It has an entrypoint or a command.
    pub has_command: bool,
}

/// A complete spec, with each default that acted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub spec: AppSpec,
    pub notes: Vec<String>,
}

/// Where a web process listens when nobody says: the port that images of web frameworks use most.
const DEFAULT_PORT: u16 = 8080;

impl Manifest {
    /// Fills in what the image knows.
    ///
    /// # Errors
    /// A process without a command in an image that has none.
    pub fn resolve(&self, image: &ImageFacts) -> Result<Resolved, Vec<ManifestError>> {
        let mut resolved = Resolved { spec: self.spec.clone(), notes: self.notes.clone() };
        let mut errors = Vec::new();
        for (name, process) in &mut resolved.spec.processes {
            if process.port.is_none() && name.as_str() == "web" {
                let (port, from) = port_of(image);
                process.port = Some(port);
                resolved.notes.push(format!("{name}: port {port} ({from})"));
            }
            if process.command.is_none() && !image.has_command {
                errors.push(ManifestError {
                    file: self.file.clone(),
                    line: self.lines.get(name).copied().unwrap_or(1),
                    key: format!("process.{name}.command"),
                    message: format!(
                        "process {name} has no command, and its image names none: add command = [\"/path/to/program\"] to [process.{name}]"
                    ),
                });
            }
        }
        if resolved.spec.processes.values().all(|process| process.port.is_none()) {
            resolved.notes.push(
                "no process has a port, so the app has no URL: name one web, or add port = 8080".into(),
            );
        }
        if errors.is_empty() { Ok(resolved) } else { Err(errors) }
    }
}

/// The app of `deploy --image`: one process, `web`, that runs the image's own command.
///
/// # Errors
/// The image has no command.
pub fn from_image(image: &ImageFacts, port: Option<u16>) -> Result<Resolved, String> {
    if !image.has_command {
        return Err("the image names no command to run: write a nodectl.toml with app, image and, \
                    below [process.web], command = [\"/path/to/program\"]"
            .into());
    }
    let (port, from) = port.map_or_else(|| port_of(image), |port| (port, "--port".into()));
    let process = ProcessSpec { port: Some(port), ..ProcessSpec::default() };
    let mut notes = Vec::new();
    let defaults = ["count 1", "cpu 100m", "memory 256 MB", "health tcp"].map(String::from);
    note_defaults(&mut notes, "web", &defaults);
    notes.push(format!("web: port {port} ({from})"));
    let web = ProcessName::new("web").expect("a DNS label");
    let spec = AppSpec { processes: [(web, process)].into(), ..AppSpec::default() };
    Ok(Resolved { spec, notes })
}

/// The image's only TCP port, else 8080; and where that came from.
fn port_of(image: &ImageFacts) -> (u16, String) {
    match &image.tcp_ports[..] {
        [port] => (*port, "the image exposes it".into()),
        [] => (DEFAULT_PORT, "default: the image exposes none".into()),
        several => {
            let ports: Vec<String> = several.iter().map(u16::to_string).collect();
            (DEFAULT_PORT, format!("default: the image exposes {}, choose one with port", ports.join(", ")))
        }
    }
}
