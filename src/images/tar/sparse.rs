//! Sparse files: where the payload's pieces go in the file. All four ways of saying it:
//! GNU's old header blocks, and the PAX formats 0.0, 0.1 and 1.0 (GNU tar manual,
//! appendix "Storing Sparse Files").

use super::super::error::{Fault, refuse, shown};
use super::pax::{Pax, decimal};
use super::{BLOCK, Entry, Kind, Reader, number};
use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};
use std::io::Read;

/// A map of one piece for each 4 KiB of a few GiB; more than any file system hands out.
const MAX_PIECES: usize = 1 << 20;

/// The file has `real_size` bytes, zeros but for the pieces (offset, length), in order.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub real_size: u64,
    pub pieces: Vec<(u64, u64)>,
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    present: bool,
    major: u64,
    minor: u64,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    numbers: Vec<u64>,
}

impl PaxSparse {
    pub fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.present = true;
        match key {
            b"major" => self.major = decimal(value, "sparse version")?,
            b"minor" => self.minor = decimal(value, "sparse version")?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value, "sparse size")?),
            b"numblocks" => {}
            b"offset" if self.numbers.len() % 2 == 1 => refuse!("a sparse map has two offsets in a row"),
            b"numbytes" if self.numbers.len().is_multiple_of(2) => {
                refuse!("a sparse map has two lengths in a row")
            }
            b"offset" | b"numbytes" => self.numbers.push(decimal(value, "sparse map")?),
            b"map" => {
                for number in value.split(|b| *b == b',') {
                    self.numbers.push(decimal(number, "sparse map")?);
                }
            }
            odd => refuse!("sparse files with GNU.sparse.{} are not supported", String::from_utf8_lossy(odd)),
        }
        Ok(())
    }
}

impl<R: Read> Reader<'_, R> {
    /// Fills in `entry.sparse` if the headers say that the file is sparse.
    pub(super) fn make_sparse(&mut self, header: &Header, pax: Pax, entry: &mut Entry) -> Result<(), Fault> {
        let is_old = header.entry_type().is_gnu_sparse();
        let sparse = pax.sparse;
        let (real_size, numbers) = match (is_old, sparse.present) {
            (false, false) => return Ok(()),
            (true, true) => refuse!("{} is sparse in two conflicting ways", shown(&entry.path)),
            (true, false) => self.old_map(header)?,
            (false, true) => {
                if let Some(name) = sparse.name {
                    entry.path = name;
                }
                let Some(real_size) = sparse.real_size else {
                    refuse!("{} is sparse and does not say its size", shown(&entry.path));
                };
                match (sparse.major, sparse.minor) {
                    (0, 0 | 1) => (real_size, sparse.numbers),
                    (1, 0) => (real_size, self.leading_map()?),
                    (major, minor) => refuse!("sparse format {major}.{minor} is not supported"),
                }
            }
        };
        if entry.kind != Kind::File {
            refuse!("{} is {} and yet sparse", shown(&entry.path), entry.kind.named());
        }
        entry.size = self.payload_left;
        let pieces =
            check_map(real_size, numbers, entry.size).map_err(|fault| fault.within(shown(&entry.path)))?;
        entry.sparse = Some(Sparse { real_size, pieces });
        Ok(())
    }

    /// Four pairs in the header, then blocks of 21 that do not count as payload.
    fn old_map(&mut self, header: &Header) -> Result<(u64, Vec<u64>), Fault> {
        let Some(gnu) = header.as_gnu() else {
            refuse!("an entry is sparse in GNU's way, but its header is not GNU's");
        };
        let mut numbers = Vec::new();
        let mut add = |pairs: &[GnuSparseHeader]| -> Result<(), Fault> {
            for pair in pairs.iter().filter(|pair| !pair.is_empty()) {
                numbers.push(number::size(&pair.offset, "sparse offset")?);
                numbers.push(number::size(&pair.numbytes, "sparse length")?);
            }
            if numbers.len() > 2 * MAX_PIECES {
                refuse!("a sparse map has more than {MAX_PIECES} pieces");
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.read_block(block.as_mut_bytes())? {
                refuse!("the archive is truncated: it ends inside a sparse map");
            }
            add(block.sparse())?;
            more = block.is_extended();
        }
        Ok((number::size(&gnu.realsize, "sparse size")?, numbers))
    }

    /// Format 1.0: decimal lines at the start of the payload, padded to a block.
    fn leading_map(&mut self) -> Result<Vec<u64>, Fault> {
        let mut lines = Lines { block: [0; BLOCK], at: BLOCK };
        let count = lines.next_number(self)?;
        if count > MAX_PIECES as u64 {
            refuse!("a sparse map has more than {MAX_PIECES} pieces");
        }
        (0..2 * count).map(|_| lines.next_number(self)).collect()
    }
}

/// Decimal lines, read a block at a time.
struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn next_number<R: Read>(&mut self, reader: &mut Reader<'_, R>) -> Result<u64, Fault> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                let mut filled = 0;
                while filled < BLOCK {
                    match reader.read_payload(&mut self.block[filled..])? {
                        0 => refuse!("a sparse map is cut short"),
                        read => filled += read,
                    }
                }
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' if !digits.is_empty() => return decimal(&digits, "sparse map"),
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => refuse!("a sparse map has something other than numbers"),
            }
        }
    }
}

/// Pieces in order, apart, inside the file, and together as long as the payload.
fn check_map(real_size: u64, numbers: Vec<u64>, payload: u64) -> Result<Vec<(u64, u64)>, Fault> {
    if numbers.len() % 2 == 1 {
        refuse!("the sparse map ends in the middle of a piece");
    }
    let pieces: Vec<(u64, u64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let mut end = 0;
    let mut total: u64 = 0;
    for (offset, length) in &pieces {
        if *offset < end || *offset > real_size || *length > real_size - offset {
            refuse!("the sparse map's pieces overlap or lie outside the file");
        }
        // Writers put each piece on a block boundary, readers differ in whether they
        // expect it: only maps that cannot tell the difference are taken. An empty piece after
        // the last byte is how GNU tar marks the end.
        if *length > 0 && !total.is_multiple_of(BLOCK as u64) {
            refuse!("the sparse map has a piece that is not whole blocks");
        }
        end = *offset + *length;
        total += *length;
    }
    if total != payload {
        refuse!("the sparse map has {total} bytes of data, the archive {payload}");
    }
    Ok(pieces)
}
