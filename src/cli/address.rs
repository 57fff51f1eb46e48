//! Where the node's API is: what was typed, else the socket of the default data folder.

use super::failure::Failure;
use std::path::{Path, PathBuf};

/// A Unix socket, and whether it was named or is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub socket: PathBuf,
    pub named: bool,
}

/// The address that was given, else the default.
///
/// # Errors
/// It is of a kind that does not exist (yet), or there is no home folder to find the default in.
pub fn resolve(given: Option<&str>) -> anyhow::Result<Address> {
    match given {
        None | Some("") => Ok(Address { socket: default_data_dir()?.join("api.sock"), named: false }),
        Some(text) => Ok(Address { socket: parse(text)?, named: true }),
    }
}

fn parse(text: &str) -> Result<PathBuf, Failure> {
    let hint = "give the node's socket: unix:///var/lib/nodectl/api.sock";
    if text.starts_with("https://") {
        return Err(Failure::usage(format!("addresses like {text} are not supported yet")).hint(hint));
    }
    let Some(path) = text.strip_prefix("unix://") else {
        return Err(Failure::usage(format!("{text:?} is not the address of a node")).hint(hint));
    };
    if path.is_empty() || path.ends_with('/') {
        return Err(Failure::usage(format!("the address {text:?} names no socket")).hint(hint));
    }
    Ok(PathBuf::from(path))
}

/// Where a node keeps everything unless told otherwise: /var/lib/nodectl for root, else a folder
/// of the user's own.
///
/// # Errors
/// An ordinary user without a home folder.
pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/nodectl"));
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| Path::is_absolute(path));
    // The XDG base directory specification: a relative path there counts as none.
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Ok(data.join("nodectl"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/share/nodectl")),
        None => Err(Failure::new(
            "there is no home folder to find the node's data folder in: HOME is not set",
        )
        .hint(
            "set it, or name the folder: `nodectl dev --data-dir DIR`, and NODECTL_ADDR=unix://DIR/api.sock",
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_addresses_are_taken() {
        assert_eq!(parse("unix:///a/api.sock").expect("an address"), PathBuf::from("/a/api.sock"));
        for text in ["https://host:1", "http://host", "/a/api.sock", "unix://", "unix:///a/"] {
            assert_eq!(parse(text).expect_err(text).code, 2, "{text}");
        }
        assert!(parse("https://host:1").expect_err("https").message.contains("not supported yet"));
    }
}
