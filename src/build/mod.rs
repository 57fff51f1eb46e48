//! Source becomes an image. Today: a folder with an `index.html` becomes an image that
//! holds our own file server and the folder (`site.rs` reads the folder, `archive.rs`
//! writes the layers, `server/` is what runs inside). Later: Dockerfiles and buildpacks.
//!
//! The image has two layers, so that a change to the site does not carry the server along:
//! ```text
//! /nodectl      this very program, statically linked: the image needs nothing else
//! /site/…       the folder
//! ```

mod archive;
mod elf;
mod server;
mod site;
mod upload;

pub use server::static_server_main;
pub use upload::static_site_archive;

use crate::images::{self, Imported, Limits, Store};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Where the folder is inside the image.
const SITE: &str = "site";
/// The extended attribute by which a file brings its content's hash along, in hex. The
/// server makes it the ETag; every replica on every node then gives the same one.
const ETAG_ATTRIBUTE: &str = "user.nodectl.etag";

/// Why a folder did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is no folder; give a folder with an index.html", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} has no index.html; a static site needs one at its top", .0.display())]
    NoIndex(PathBuf),
    #[error("{} cannot be part of a site: {problem}", path.display())]
    NotForASite { path: PathBuf, problem: String },
    #[error("{} cannot serve a site: {problem}", path.display())]
    NotAServer { path: PathBuf, problem: &'static str },
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Images(#[from] images::Error),
}

/// Makes the image of a static site: `folder` served by `server`, which is our own binary
/// (`/proc/self/exe` will do). Equal folders and binaries give the same digest: entries are
/// sorted, and owners, modes and times of the folder do not count, only names and content.
///
/// Left out are names that start with a dot (`.git`, `.env`, `.DS_Store`), but for
/// `.well-known`. Links inside the folder are kept; others are an error.
///
/// # Errors
/// Each says which file is to blame; nothing is kept then.
pub fn static_site(store: &Store, folder: &Path, server: &Path, limits: &Limits) -> Result<Imported, Error> {
    let items = site::read(folder, limits)?;
    elf::check_static(server)?;
    let config = json!({
        "Entrypoint": ["/nodectl", "static-server", "--root", format!("/{SITE}")],
        "User": "65534:65534",
        "WorkingDir": "/",
        "ExposedPorts": {"8080/tcp": {}},
    });
    let server_layer = |to: &mut dyn std::io::Write| archive::write_server(to, server);
    let site_layer = |to: &mut dyn std::io::Write| archive::write_site(to, folder, &items);
    let what = folder.display().to_string();
    Ok(store.assemble(&what, &[&server_layer, &site_layer], &config, limits)?)
}

#[cfg(test)]
mod tests;
