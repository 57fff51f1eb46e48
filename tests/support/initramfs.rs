//! Packs a small Linux system into an initramfs: busybox, modules with what they depend on,
//! programs with the libraries they need. Knows nothing of running it: that is `vm`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in the making: path in the machine (without leading slash) → what is there.
#[derive(Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    data: Vec<u8>,
    device: (u32, u32),
}

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

impl Initramfs {
    pub fn new() -> Initramfs {
        let mut new = Initramfs::default();
        // The kernel opens it for the first process, before there is a devtmpfs.
        let console = Entry { mode: CHARACTER | 0o600, data: Vec::new(), device: (5, 1) };
        new.insert("dev/console", console);
        new.folder("new");
        new
    }

    pub fn folder(&mut self, path: &str) {
        self.insert(path, Entry { mode: FOLDER | 0o755, data: Vec::new(), device: (0, 0) });
    }

    pub fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        self.insert(path, Entry { mode: REGULAR | mode, data, device: (0, 0) });
    }

    /// A copy of a file of this machine, with its mode.
    pub fn copy(&mut self, from: &Path, to: &str) -> io::Result<()> {
        let mode = fs::metadata(from)?.permissions().mode() & 0o7777;
        self.file(to, mode, fs::read(from)?);
        Ok(())
    }

    /// Everything in a folder of this machine, at the same path.
    pub fn copy_tree(&mut self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.copy_tree(&path)?,
                Ok(_) => self.copy(&path, &path.to_string_lossy())?,
                // A dangling link.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A program as `bin/NAME`, without its debug information (which would fill the machine's
    /// memory), and with the libraries it needs if it is not static.
    pub fn program(&mut self, program: &Path, name: &str) -> io::Result<()> {
        self.file(&format!("bin/{name}"), 0o755, stripped(program)?);
        let listed = Command::new("ldd").arg(program).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library), library)?;
        }
        Ok(())
    }

    /// The named modules and all they depend on, so that the machine's modprobe (and with it the
    /// kernel's own autoloading) finds them as on a real system. What is built in needs no file.
    pub fn modules(&mut self, kernel: &Path, version: &str, names: &[&str]) -> io::Result<()> {
        let root = kernel.join("lib/modules").join(version);
        let index = fs::read_to_string(root.join("modules.dep"))?;
        let dependencies: BTreeMap<&str, Vec<&str>> = index
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(module, needed)| (module, needed.split_whitespace().collect()))
            .collect();
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for name in names {
            if let Some((path, needed)) = dependencies.iter().find(|(path, _)| module_name(path) == *name) {
                wanted.insert(path);
                wanted.extend(needed);
            }
        }
        for path in &wanted {
            self.copy(&root.join(path), &format!("lib/modules/{version}/{path}"))?;
        }
        let kept = |line: &&str| line.split(':').next().is_some_and(|path| wanted.contains(&path));
        let dep: Vec<&str> = index.lines().filter(kept).collect();
        self.file(&format!("lib/modules/{version}/modules.dep"), 0o644, (dep.join("\n") + "\n").into_bytes());
        let names: BTreeSet<String> = wanted.iter().map(|path| module_name(path)).collect();
        let aliases = fs::read_to_string(root.join("modules.alias"))?;
        let kept =
            |line: &&str| line.rsplit(' ').next().is_some_and(|name| names.contains(&name.replace('-', "_")));
        let aliases: Vec<&str> = aliases.lines().filter(kept).collect();
        self.file(
            &format!("lib/modules/{version}/modules.alias"),
            0o644,
            (aliases.join("\n") + "\n").into_bytes(),
        );
        Ok(())
    }

    /// Writes it in the "newc" format that the kernel unpacks; not compressed, for the emulated
    /// machine decompresses more slowly than it reads.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut archive = Vec::new();
        for (index, (name, entry)) in self.entries.iter().enumerate() {
            append(&mut archive, index as u32 + 1, name, entry);
        }
        let end = Entry { mode: 0, data: Vec::new(), device: (0, 0) };
        append(&mut archive, 0, "TRAILER!!!", &end);
        fs::write(path, archive)
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.entries.contains_key(parent)
        {
            self.folder(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

fn append(archive: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) {
    let size = u32::try_from(entry.data.len()).expect("no file of 4 GiB");
    let (major, minor) = entry.device;
    let name_size = name.len() as u32 + 1;
    let fields = [inode, entry.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(&entry.data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// `kernel/net/bridge/br_netfilter.ko.xz` → `br_netfilter`
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn stripped(program: &Path) -> io::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let copy: PathBuf = folder.path().join("stripped");
    let strip = Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program).output();
    match strip {
        Ok(output) if output.status.success() => fs::read(copy),
        // No strip, or no ELF file: as it is.
        _ => fs::read(program),
    }
}
