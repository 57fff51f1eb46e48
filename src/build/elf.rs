//! Whether our binary can run in an image that has nothing but it.

use super::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The program header that asks for a dynamic loader (elf(5)).
const PT_INTERP: u32 = 3;

/// # Errors
/// The file is no 64-bit ELF program, or needs a dynamic loader.
pub(super) fn check_static(path: &Path) -> Result<(), Error> {
    let not = |problem| Error::NotAServer { path: path.to_owned(), problem };
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let mut header = [0; 64];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"\x7fELF") {
        return Err(not("it is no program"));
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(not("it is no 64-bit little-endian program"));
    }
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (entry_bytes, entries) = (u64::from(number(54)), u64::from(number(56)));
    let table = u64::from_le_bytes(header[32..40].try_into().expect("eight bytes"));
    for entry in 0..entries {
        let mut kind = [0; 4];
        let offset = table.saturating_add(entry * entry_bytes);
        file.read_exact_at(&mut kind, offset).map_err(io)?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Err(not(
                "it is linked dynamically, and the image has no libraries; build nodectl from its \
                            own folder, where .cargo/config.toml links it statically",
            ));
        }
    }
    Ok(())
}
