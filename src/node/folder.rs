//! The data folder: who this node is, which version wrote it, and the lock that keeps a
//! second node out.

use crate::clock;
use crate::model::ids::NodeId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Raised when an older nodectl could not read what a newer one wrote.
const FORMAT: &str = "nodectl data folder, format 1";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "another node is running on {path}{owner}: stop it first, or choose another folder with --data-dir"
    )]
    InUse { path: PathBuf, owner: String },
    #[error(
        "{path} was written by another version of nodectl ({found:?}; this one reads {FORMAT:?}): \
         run that version, or choose another folder with --data-dir"
    )]
    OtherVersion { path: PathBuf, found: String },
    #[error("{path} is a file: a node keeps what it has in a folder, choose one with --data-dir")]
    NotAFolder { path: PathBuf },
    #[error("{path} is not a nodectl data folder and is not empty: choose an empty folder with --data-dir")]
    NotOurs { path: PathBuf },
    #[error(
        "{path} is damaged ({problem}): restore it from a backup, or choose another folder with --data-dir"
    )]
    Damaged { path: PathBuf, problem: String },
}

/// An opened data folder. Dropping it lets another node in.
pub struct Folder {
    pub path: PathBuf,
    pub node: NodeId,
    /// Made by this process, as was the folder itself.
    made: Made,
    _lock: File,
}

#[derive(Clone, Copy)]
struct Made {
    folder: bool,
    identity: bool,
}

impl Folder {
    /// Opens `path`, or makes it. Only its owner may look inside.
    ///
    /// # Errors
    /// It cannot be made or read, another node holds it, or it is not of this version.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        let io = |doing: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { doing, path, source }
        };
        if path.is_file() {
            return Err(Error::NotAFolder { path: path.to_owned() });
        }
        let made_folder = !path.exists();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("make the data folder", path))?;
        let path = fs::canonicalize(path).map_err(io("find the data folder", path))?;
        let identity = path.join("identity");
        if !identity.exists() && !is_empty(&path).map_err(io("read the data folder", &path))? {
            return Err(Error::NotOurs { path });
        }
        let lock_path = path.join("lock");
        let made_lock = !lock_path.exists();
        let mut lock = open_lock(&lock_path).map_err(io("open", &lock_path))?;
        if lock.try_lock().is_err() {
            let pid = io::read_to_string(&lock).unwrap_or_default();
            let owner = match pid.trim() {
                "" => String::new(),
                pid => format!(" (process {pid})"),
            };
            return Err(Error::InUse { path, owner });
        }
        // A start that failed meanwhile took its file away, and with it this lock's meaning.
        let is_it = |now: fs::Metadata| lock.metadata().is_ok_and(|ours| ours.ino() == now.ino());
        if !fs::metadata(&lock_path).is_ok_and(is_it) {
            return Err(Error::InUse { path, owner: String::new() });
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(io("set the permissions of", &path))?;
        let mut made = Made { folder: made_folder, identity: false };
        if let Err(error) = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())) {
            made.identity = made_lock && !identity.exists();
            Folder { path, node: NodeId(0), made, _lock: lock }.withdraw();
            return Err(io("write", &lock_path)(error));
        }
        let node = match fs::read_to_string(&identity) {
            Ok(text) => read_identity(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let node = clock::random_node_id();
                made.identity = true;
                if let Err(error) = write_identity(&path, &identity, node) {
                    Folder { path, node, made, _lock: lock }.withdraw();
                    return Err(io("write", &identity)(error));
                }
                node
            }
            Err(error) => return Err(io("read", &identity)(error)),
        };
        Ok(Folder { path, node, made, _lock: lock })
    }

    /// Takes back what `open` made, where nothing else was put into it: a start that failed at
    /// its beginning leaves no trace. What was there before stays.
    pub fn withdraw(self) {
        if !self.made.identity {
            return;
        }
        for name in ["identity", "identity.tmp", "lock"] {
            let _ = fs::remove_file(self.path.join(name));
        }
        if self.made.folder {
            let _ = fs::remove_dir(&self.path);
        }
    }

    /// Six characters that tell this node's bridges, cgroups and folders from those of
    /// other nodes on the same host.
    pub fn tag(&self) -> String {
        self.node.to_string()[..6].to_owned()
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// Nothing in it but what a first start that was cut short may have left.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "lock" && name != "identity.tmp" && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_identity(path: &Path, text: &str) -> Result<NodeId, Error> {
    let mut lines = text.lines();
    let format = lines.next().unwrap_or_default();
    if format != FORMAT {
        return Err(Error::OtherVersion { path: path.to_owned(), found: format.to_owned() });
    }
    lines.next().and_then(|line| line.strip_prefix("node ")).and_then(|id| id.parse().ok()).ok_or_else(|| {
        Error::Damaged { path: path.to_owned(), problem: "its identity file names no node".into() }
    })
}

fn write_identity(folder: &Path, identity: &Path, node: NodeId) -> io::Result<()> {
    let temporary = folder.join("identity.tmp");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    write!(file, "{FORMAT}\nnode {node}\n")?;
    file.sync_all()?;
    fs::rename(&temporary, identity)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = Folder::open(&path).unwrap().node;
        assert_eq!(Folder::open(&path).unwrap().node, first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_a_failed_start_made_is_taken_back_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        Folder::open(&path).unwrap().withdraw();
        assert!(!path.exists());
        fs::create_dir(&path).unwrap();
        Folder::open(&path).unwrap().withdraw();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "an empty folder of the user's stays");
        let node = Folder::open(&path).unwrap().node;
        Folder::open(&path).unwrap().withdraw();
        assert_eq!(Folder::open(&path).unwrap().node, node, "a node that was here before stays");
    }

    #[test]
    fn a_second_node_on_the_same_folder_is_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Folder::open(dir.path()).unwrap();
        let error = Folder::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_folder_of_another_version_or_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity"), "nodectl data folder, format 9\nnode 1\n").unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(Error::OtherVersion { .. })));
        fs::write(dir.path().join("identity"), format!("{FORMAT}\nnode\n")).unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(Error::Damaged { .. })));
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), "").unwrap();
        assert!(matches!(Folder::open(other.path()), Err(Error::NotOurs { .. })));
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
        assert!(matches!(Folder::open(&other.path().join("thesis.tex")), Err(Error::NotAFolder { .. })));
    }
}
