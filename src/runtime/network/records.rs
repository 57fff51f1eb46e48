//! What a node remembers of its network across kill -9: small files, each replaced as a whole.
//!
//! In `run_dir` (tmpfs; gone with the machine, as the links are): `attachments/KEY` with the
//! slot, `next` with the slot to try next, `ip_forward` if it was us who switched it on. In
//! `state_dir`: `subnet`, so that a node keeps its addresses over a reboot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use super::subnet::Subnet;

#[derive(Debug, Clone)]
pub struct Records {
    run_dir: PathBuf,
    state_dir: PathBuf,
}

impl Records {
    pub fn open(run_dir: &Path, state_dir: &Path) -> Result<Records, Error> {
        for dir in [run_dir, &run_dir.join("attachments"), state_dir] {
            fs::create_dir_all(dir).map_err(|source| error(dir, source))?;
        }
        Ok(Records { run_dir: run_dir.to_owned(), state_dir: state_dir.to_owned() })
    }

    /// All attachments as key → slot. A file that cannot be read as a slot is removed: it names
    /// nothing, and the veth it may have stood for is swept as unknown.
    pub fn attachments(&self) -> Result<BTreeMap<String, u32>, Error> {
        let dir = self.run_dir.join("attachments");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(|source| error(&dir, source))? {
            let path = entry.map_err(|source| error(&dir, source))?.path();
            let key = path.file_name().and_then(|name| name.to_str()).filter(|key| is_key(key));
            let slot = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            match (key, slot) {
                (Some(key), Some(slot)) => {
                    found.insert(key.to_owned(), slot);
                }
                _ => remove(&path)?,
            }
        }
        Ok(found)
    }

    pub fn put_attachment(&self, key: &str, slot: u32, next: u32) -> Result<(), Error> {
        write(&self.run_dir.join("next"), &next.to_string())?;
        write(&self.attachment_path(key), &slot.to_string())
    }

    pub fn remove_attachment(&self, key: &str) -> Result<(), Error> {
        remove(&self.attachment_path(key))
    }

    pub fn next_slot(&self) -> u32 {
        let text = fs::read_to_string(self.run_dir.join("next")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    pub fn subnet(&self) -> Option<Subnet> {
        fs::read_to_string(self.state_dir.join("subnet")).ok()?.parse().ok()
    }

    pub fn put_subnet(&self, subnet: Subnet) -> Result<(), Error> {
        write(&self.state_dir.join("subnet"), &subnet.to_string())
    }

    pub fn has_switched_forwarding_on(&self) -> bool {
        self.run_dir.join("ip_forward").exists()
    }

    pub fn put_switched_forwarding_on(&self) -> Result<(), Error> {
        write(&self.run_dir.join("ip_forward"), "1")
    }

    /// Forgets all but the subnet, at close.
    pub fn clear(&self) -> Result<(), Error> {
        for name in ["next", "ip_forward"] {
            remove(&self.run_dir.join(name))?;
        }
        for key in self.attachments()?.into_keys() {
            self.remove_attachment(&key)?;
        }
        Ok(())
    }

    fn attachment_path(&self, key: &str) -> PathBuf {
        self.run_dir.join("attachments").join(key)
    }
}

/// Whether `key` can be a file's name, and no hidden or temporary one.
pub fn is_key(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=128).contains(&key.len()) && !key.starts_with('.') && key.bytes().all(plain)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}"));
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| error(path, source))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(path, source)),
        _ => Ok(()),
    }
}

fn error(path: &Path, source: io::Error) -> Error {
    Error::Record { path: path.to_owned(), source }
}
