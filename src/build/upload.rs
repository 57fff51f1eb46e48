//! A site's folder that came as a tar, as clients send it: laid out again, then built.

use super::{Error, static_site};
use crate::images::{Imported, Limits, Store};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// As [`static_site`], for a tar of the folder. Only plain files and folders are taken, each
/// by a relative name that goes nowhere but down: no link is ever made, so none is followed.
///
/// # Errors
/// Each says which entry is to blame; nothing is kept then.
pub fn static_site_archive(
    store: &Store,
    archive: &Path,
    server: &Path,
    limits: &Limits,
) -> Result<Imported, Error> {
    let folder = tempfile::Builder::new()
        .prefix("site-")
        .tempdir_in(archive.parent().unwrap_or(Path::new("/")))
        .map_err(|source| Error::Io { action: "make a folder beside", path: archive.to_owned(), source })?;
    lay_out(archive, folder.path(), limits)?;
    static_site(store, folder.path(), server, limits)
}

fn lay_out(archive: &Path, folder: &Path, limits: &Limits) -> Result<(), Error> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io { action, path, source }
    };
    let file = File::open(archive).map_err(io("open", archive))?;
    let mut tar = tar::Archive::new(io::BufReader::new(file));
    let (mut count, mut bytes) = (0u64, 0u64);
    for entry in tar.entries().map_err(io("read", archive))? {
        let mut entry = entry.map_err(io("read", archive))?;
        let name = entry.path().map_err(io("read", archive))?.into_owned();
        let refuse = |problem: &str| Error::NotForASite { path: name.clone(), problem: problem.to_owned() };
        count += 1;
        bytes = bytes.saturating_add(entry.size());
        if count > limits.max_layer_entries || bytes > limits.max_layer_unpacked_bytes {
            return Err(refuse("the site is larger than an image may be"));
        }
        let place = below(folder, &name).ok_or_else(|| refuse("its name leaves the folder"))?;
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&place).map_err(io("make", &name))?,
            tar::EntryType::Regular => {
                if let Some(parent) = place.parent() {
                    fs::create_dir_all(parent).map_err(io("make the folder of", &name))?;
                }
                let mut options = OpenOptions::new();
                let mut file = options
                    .write(true)
                    .create_new(true)
                    .mode(0o644)
                    .open(&place)
                    .map_err(io("make", &name))?;
                let copied = io::copy(&mut entry.by_ref(), &mut file).map_err(io("write", &name))?;
                if copied != entry.size() {
                    return Err(refuse("the archive ends in the middle of it"));
                }
            }
            _ => return Err(refuse("it is neither a file nor a folder")),
        }
    }
    Ok(())
}

fn below(folder: &Path, name: &Path) -> Option<PathBuf> {
    let mut place = folder.to_owned();
    for part in name.components() {
        match part {
            Component::Normal(part) => place.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = Path::new("/site");
        assert_eq!(below(folder, Path::new("a/./b.html")), Some("/site/a/b.html".into()));
        for name in ["../a", "a/../../b", "/etc/passwd"] {
            assert_eq!(below(folder, Path::new(name)), None, "{name}");
        }
    }
}
