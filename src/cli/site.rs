//! A folder as a tar: the same folder gives the same bytes, whoever packs it and when. What is
//! not to be published stays out: hidden files (.git, .env) except .well-known.

use super::failure::Failure;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What will be packed, in order.
#[derive(Debug)]
pub struct Folder {
    entries: Vec<Entry>,
    pub total_bytes: u64,
    /// Names that were left out.
    pub left_out: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    /// Inside the archive.
    name: PathBuf,
    source: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder,
    File { bytes: u64, executable: bool },
}

/// Which files of a folder count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// What a web site publishes.
    Site,
    /// All of it.
    Everything,
}

/// More files than any site or image layout has; a loop of links ends here too.
const MOST_ENTRIES: usize = 1_000_000;

impl Folder {
    /// Looks through a folder.
    ///
    /// # Errors
    /// Something in it cannot be read, or leads out of it.
    pub fn scan(root: &Path, choice: Choice) -> anyhow::Result<Self> {
        let real = fs::canonicalize(root).map_err(|error| cannot_read(root, &error))?;
        let mut folder = Self { entries: Vec::new(), total_bytes: 0, left_out: Vec::new() };
        let scan = Scan { root: &real, choice };
        scan.folder(&mut folder, &real, Path::new(""), &mut vec![real.clone()])?;
        Ok(folder)
    }

    /// Writes the archive: names sorted, nothing of this machine's owners and times.
    ///
    /// # Errors
    /// A file cannot be read, or has changed meanwhile; or the writer's own.
    pub fn write_tar(&self, writer: &mut dyn Write) -> anyhow::Result<()> {
        let mut tar = tar::Builder::new(writer);
        for entry in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match entry.kind {
                Kind::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_size(0);
                    tar.append_data(&mut header, &entry.name, io::empty())?;
                }
                Kind::File { bytes, executable } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(if executable { 0o755 } else { 0o644 });
                    header.set_size(bytes);
                    let file =
                        File::open(&entry.source).map_err(|error| cannot_read(&entry.source, &error))?;
                    let exact = Exact { file, left: bytes, path: &entry.source };
                    tar.append_data(&mut header, &entry.name, exact)?;
                }
            }
        }
        tar.into_inner()?;
        Ok(())
    }
}

struct Scan<'a> {
    root: &'a Path,
    choice: Choice,
}

impl Scan<'_> {
    /// `above`: the real folders that lead here, so that a link back up is noticed.
    fn folder(
        &self,
        into: &mut Folder,
        source: &Path,
        name: &Path,
        above: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let list = || -> io::Result<Vec<fs::DirEntry>> { fs::read_dir(source)?.collect() };
        let mut children = list().map_err(|error| cannot_read(source, &error))?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let (source, name) = (child.path(), name.join(child.file_name()));
            if self.is_left_out(&name) {
                into.left_out.push(name.display().to_string());
                continue;
            }
            if into.entries.len() >= MOST_ENTRIES {
                return Err(
                    Failure::new(format!("{} holds more than a million files", self.root.display())).into()
                );
            }
            self.child(into, source, name, above)?;
        }
        Ok(())
    }

    fn child(
        &self,
        into: &mut Folder,
        source: PathBuf,
        name: PathBuf,
        above: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let real = fs::canonicalize(&source).map_err(|error| cannot_read(&source, &error))?;
        if !real.starts_with(self.root) {
            return Err(Failure::new(format!(
                "{} is a link that leads out of the folder, to {}",
                source.display(),
                real.display()
            ))
            .hint("copy what it points to into the folder, or remove it")
            .into());
        }
        let metadata = fs::metadata(&real).map_err(|error| cannot_read(&source, &error))?;
        if metadata.is_dir() {
            if above.contains(&real) {
                return Err(Failure::new(format!(
                    "{} is a link back to a folder above it",
                    source.display()
                ))
                .into());
            }
            into.entries.push(Entry { name: name.clone(), source, kind: Kind::Folder });
            above.push(real.clone());
            self.folder(into, &real, &name, above)?;
            above.pop();
        } else if metadata.is_file() {
            let bytes = metadata.len();
            into.total_bytes += bytes;
            into.entries.push(Entry {
                name,
                source: real,
                kind: Kind::File { bytes, executable: is_executable(&metadata) },
            });
        } else {
            // Sockets, pipes, devices: nothing that could be sent.
            into.left_out.push(name.display().to_string());
        }
        Ok(())
    }

    fn is_left_out(&self, name: &Path) -> bool {
        if self.choice == Choice::Everything {
            return false;
        }
        let Some(last) = name.file_name() else { return false };
        let hidden = last.as_encoded_bytes().starts_with(b".") && last != ".well-known";
        hidden || name == Path::new(super::target::MANIFEST)
    }
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o111 != 0
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("could not read {}: {error}", path.display()))
}

/// Exactly as many bytes as the header promised, else an error.
struct Exact<'a> {
    file: File,
    left: u64,
    path: &'a Path,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::other(format!(
                "{} became shorter while it was read",
                self.path.display()
            )));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Folder) -> Vec<String> {
        folder.entries.iter().map(|entry| entry.name.display().to_string()).collect()
    }

    fn site() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, text).expect("written");
        };
        write("index.html", "<h1>hi</h1>");
        write("css/site.css", "body {}");
        write(".git/config", "secret");
        write(".env", "secret");
        write(".well-known/security.txt", "x");
        write("nodectl.toml", "app = \"x\"");
        dir
    }

    fn tar_of(dir: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        Folder::scan(dir, Choice::Site).expect("scanned").write_tar(&mut bytes).expect("packed");
        bytes
    }

    #[test]
    fn a_site_leaves_out_what_is_hidden_and_says_so() {
        let dir = site();
        let folder = Folder::scan(dir.path(), Choice::Site).expect("scanned");
        assert_eq!(
            names(&folder),
            [".well-known", ".well-known/security.txt", "css", "css/site.css", "index.html"]
        );
        assert_eq!(folder.left_out, [".env", ".git", "nodectl.toml"]);
        assert!(
            names(&Folder::scan(dir.path(), Choice::Everything).expect("scanned"))
                .contains(&".env".to_owned())
        );
    }

    #[test]
    fn the_same_folder_gives_the_same_bytes() {
        assert_eq!(tar_of(site().path()), tar_of(site().path()));
    }

    #[test]
    fn a_link_inside_is_followed_and_one_that_leads_out_is_refused() {
        let dir = site();
        std::os::unix::fs::symlink("index.html", dir.path().join("home.html")).expect("linked");
        std::os::unix::fs::symlink("css", dir.path().join("styles")).expect("linked");
        let folder = Folder::scan(dir.path(), Choice::Site).expect("scanned");
        assert!(names(&folder).contains(&"styles/site.css".to_owned()));
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("leak")).expect("linked");
        let error = Folder::scan(dir.path(), Choice::Site).expect_err("refused");
        assert!(error.to_string().contains("leads out of the folder"), "{error}");
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = site();
        std::os::unix::fs::symlink("..", dir.path().join("css/up")).expect("linked");
        let error = Folder::scan(dir.path(), Choice::Site).expect_err("refused");
        assert!(error.to_string().contains("link back"), "{error}");
    }
}
