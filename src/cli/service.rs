//! `nodectl service install`: the systemd unit that runs a node, and why its lines are as they
//! are.

use super::args::ServiceInstallArguments;
use super::failure::Failure;
use super::output::Out;
use super::views;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNIT_PATH: &str = "/etc/systemd/system/nodectl.service";

pub fn install(args: ServiceInstallArguments) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("could not find this program's own file: {error}")))?;
    if !args.data_dir.is_absolute() {
        return Err(Failure::usage(format!(
            "the data folder {} must be absolute: systemd starts elsewhere",
            args.data_dir.display()
        ))
        .into());
    }
    let unit = unit(&program, &args.data_dir, args.http)?;
    if args.print {
        return show(&out, unit);
    }
    check_machine()?;
    let written = write_if_changed(Path::new(UNIT_PATH), &unit)?;
    if written {
        systemctl_reload()?;
    }
    if out.is_json() {
        return out.json(&views::Unit { path: UNIT_PATH.to_owned(), written, unit });
    }
    out.line(format!("{} {UNIT_PATH}", if written { "wrote" } else { "nothing to change in" }))?;
    out.note(format!(
        "it runs {}, data in {}, proxy on {}",
        program.display(),
        args.data_dir.display(),
        args.http
    ));
    if !program.starts_with("/usr") && !program.starts_with("/opt") {
        out.note("that file must stay where it is: better copy it to /usr/local/bin and install from there");
    }
    out.next("systemctl enable --now nodectl, then nodectl status");
    Ok(())
}

fn show(out: &Out, unit: String) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(&views::Unit { path: UNIT_PATH.to_owned(), written: false, unit });
    }
    out.write(unit.as_bytes())
}

/// The unit's text.
///
/// # Errors
/// A path that a unit cannot hold.
fn unit(program: &Path, data_dir: &Path, http: SocketAddr) -> Result<String, Failure> {
    let (program, data_dir) = (quoted(program)?, quoted(data_dir)?);
    Ok(format!(
        "# Written by `nodectl service install`.
[Unit]
Description=nodectl node
After=network-online.target
Wants=network-online.target
# A disk that is full, or a port in use, may be better in an hour: never give up.
StartLimitIntervalSec=0

[Service]
Type=simple
ExecStart={program} dev --leave-running --data-dir {data_dir} --http {http}
# Containers and the proxy outlive the node: a restart, an upgrade or a stop of it ends only the
# node itself, and they go on serving. To end them too: nodectl stop APP, before.
KillMode=process
# The node makes control groups for its containers.
Delegate=yes
Restart=always
RestartSec=1
# As many as the kernel lets one process have: each connection is an open file.
LimitNOFILE=1048576
TasksMax=infinity
# Under memory pressure an instance goes before the node that restarts it.
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
"
    ))
}

/// A path as an argument of ExecStart (systemd.service(5), systemd.syntax(7)).
fn quoted(path: &Path) -> Result<String, Failure> {
    let Some(text) = path.to_str().filter(|text| !text.chars().any(char::is_control)) else {
        return Err(Failure::new(format!("a unit cannot hold the path {path:?}"))
            .hint("move it to a path of plain text"));
    };
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let is_simple = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b));
    Ok(if is_simple { escaped } else { format!("\"{escaped}\"") })
}

fn check_machine() -> Result<(), Failure> {
    // sd_booted(3): what tells whether systemd runs this machine.
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Failure::new("this machine is not run by systemd, so there is nothing to install a service into")
            .hint("run `nodectl dev` under the supervisor that you have; `nodectl service install --print` shows the unit"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(format!("only root may write {UNIT_PATH}"))
            .hint("sudo nodectl service install; with --print it only shows the unit"));
    }
    Ok(())
}

/// Writes the file whole or not at all; false if it was so already.
fn write_if_changed(path: &Path, text: &str) -> Result<bool, Failure> {
    if std::fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    let mut temporary = PathBuf::from(path).into_os_string();
    temporary.push(".new");
    let write = || -> io::Result<()> {
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        _ = std::fs::remove_file(&temporary);
        Failure::new(format!("could not write {}: {error}", path.display()))
    })?;
    Ok(true)
}

fn systemctl_reload() -> Result<(), Failure> {
    let hint = "the unit is written; run `systemctl daemon-reload` by hand";
    match Command::new("systemctl").arg("daemon-reload").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::new(format!("systemctl daemon-reload failed: {message}")).hint(hint))
        }
        Err(error) => Err(Failure::new(format!("could not run systemctl: {error}")).hint(hint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_lets_containers_outlive_the_node() {
        let http = SocketAddr::from(([127, 0, 0, 1], 8080));
        let text = unit(Path::new("/usr/bin/nodectl"), Path::new("/var/lib/nodectl"), http).expect("a unit");
        for line in [
            "KillMode=process",
            "Delegate=yes",
            "StartLimitIntervalSec=0",
            "ExecStart=/usr/bin/nodectl dev --leave-running --data-dir /var/lib/nodectl --http 127.0.0.1:8080",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn paths_are_quoted_where_systemd_would_read_more_into_them() {
        assert_eq!(quoted(Path::new("/a b/%n$x\"")).expect("a path"), "\"/a b/%%n$$x\\\"\"");
        assert!(quoted(Path::new("/a\nExecStartPre=x")).is_err());
    }
}
