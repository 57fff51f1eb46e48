//! Byte streams of layers: hashed, copied and inflated in one pass, and stopped when they
//! grow out of proportion.
//!
//! ```text
//! source ─► Metered (blob digest, copy to the store) ─► inflate ─► Metered (diff id) ─► tar
//! ```

use super::error::{Doing, Fault, Refusal, refuse};
use super::limits::Limits;
use crate::model::ids::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Large enough that system calls cost nothing beside the hash.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// How a layer or an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Told by the first bytes. The error names formats that we know and do not read.
    pub fn of(start: &[u8]) -> Result<Self, Fault> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame: zstd:chunked and pzstd may start with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => {
                refuse!("it is compressed with xz; use gzip, zstd or nothing")
            }
            [b'B', b'Z', b'h', ..] => refuse!("it is compressed with bzip2; use gzip, zstd or nothing"),
            _ => Compression::None,
        })
    }

    pub fn named(self) -> &'static str {
        match self {
            Compression::None => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Hashes and counts what passes, and copies it if asked to.
pub(crate) struct Metered<R> {
    inner: R,
    hash: Option<Sha256>,
    copy: Option<File>,
    passed: Arc<AtomicU64>,
}

impl<R: Read> Metered<R> {
    pub fn new(inner: R, copy: Option<File>) -> Self {
        Metered { inner, hash: Some(Sha256::new()), copy, passed: Arc::default() }
    }

    fn unhashed(inner: R) -> Self {
        Metered { hash: None, ..Metered::new(inner, None) }
    }

    /// The digest of all that passed, and how many bytes that was.
    pub fn finish(self) -> (Option<Digest>, u64) {
        (self.hash.map(digest_of), self.passed.load(Ordering::Relaxed))
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..read]);
        }
        if let Some(copy) = &mut self.copy {
            copy.write_all(&buffer[..read])?;
        }
        self.passed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

fn digest_of(hash: Sha256) -> Digest {
    Digest::new(&format!("sha256:{}", hex::encode(hash.finalize()))).expect("a SHA-256 in hex is a digest")
}

/// The digest of bytes in memory.
pub(crate) fn digest_bytes(bytes: &[u8]) -> Digest {
    digest_of(Sha256::new_with_prefix(bytes))
}

/// Writes through, hashing.
pub(crate) struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    written: u64,
}

impl<W: Write> HashingWriter<W> {
    pub fn new(inner: W) -> Self {
        HashingWriter { inner, hash: Sha256::new(), written: 0 }
    }
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, digest_of(self.hash), self.written)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What one pass over a layer found out.
pub(crate) struct Passed<T> {
    pub blob: Digest,
    pub blob_bytes: u64,
    pub diff_id: Digest,
    pub result: T,
}

/// Runs a layer's bytes through `consume`, which sees them inflated and must read to the
/// end. Nothing is compared here; the caller holds the digests against what was promised.
pub(crate) fn pass_layer<T>(
    source: impl Read,
    copy: Option<File>,
    compression: Compression,
    limits: &Limits,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, Fault>,
) -> Result<Passed<T>, Fault> {
    let mut raw = Metered::new(source, copy);
    let raw_bytes = raw.passed.clone();
    let (result, diff_id) = {
        let inflated = inflate(BufReader::with_capacity(BUFFER_BYTES, &mut raw), compression)?;
        let bounded = Bounded { inner: inflated, compressed_bytes: raw_bytes, bytes: 0, limits };
        let bounded = BufReader::with_capacity(BUFFER_BYTES, bounded);
        // An uncompressed layer is hashed once: both digests are of the same bytes.
        let mut plain = match compression {
            Compression::None => Metered::unhashed(bounded),
            _ => Metered::new(bounded, None),
        };
        let result = consume(&mut plain)?;
        (result, plain.finish().0)
    };
    if raw.read(&mut [0; 16]).doing(|| "read the layer".to_owned())? != 0 {
        refuse!("there are bytes after the end of the compressed data");
    }
    let (blob, blob_bytes) = raw.finish();
    let blob = blob.expect("the outer meter hashes");
    let diff_id = diff_id.unwrap_or_else(|| blob.clone());
    Ok(Passed { blob, blob_bytes, diff_id, result })
}

/// The plain bytes of a compressed stream. Several members or frames in a row are one
/// stream (pigz, estargz and zstd:chunked write such).
pub(crate) fn inflate<'a>(
    source: impl io::BufRead + 'a,
    compression: Compression,
) -> Result<Box<dyn Read + 'a>, Fault> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => {
            Box::new(Blamed { inner: flate2::bufread::MultiGzDecoder::new(source), what: "gzip" })
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(source);
            let mut decoder = decoder.doing(|| "start the zstd decoder".to_owned())?;
            // What the format asks every decoder to bear at least is 8 MiB; 128 MiB is
            // what `zstd -d` bears, and what `zstd --ultra -22` writes.
            decoder.window_log_max(27).doing(|| "bound the zstd decoder".to_owned())?;
            Box::new(Blamed { inner: decoder, what: "zstd" })
        }
    })
}

/// Makes a decoder's complaints refusals: the data is to blame, not the machine.
struct Blamed<R> {
    inner: R,
    what: &'static str,
}

impl<R: Read> Read for Blamed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let from_the_system = error.raw_os_error().is_some();
            let named_already = error.get_ref().is_some_and(|inner| inner.is::<Refusal>());
            match error.kind() {
                _ if from_the_system || named_already => error,
                io::ErrorKind::Interrupted => error,
                io::ErrorKind::UnexpectedEof => Refusal::io(format!("the {} data is truncated", self.what)),
                _ => Refusal::io(format!("the {} data is corrupt: {error}", self.what)),
            }
        })
    }
}

/// Stops a stream that grows beyond the limits.
struct Bounded<'a, R> {
    inner: R,
    compressed_bytes: Arc<AtomicU64>,
    bytes: u64,
    limits: &'a Limits,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        check_expansion(self.bytes, self.compressed_bytes.load(Ordering::Relaxed), self.limits)?;
        Ok(read)
    }
}

fn check_expansion(bytes: u64, compressed_bytes: u64, limits: &Limits) -> io::Result<()> {
    // Headers and padding come on top of the files that `max_layer_unpacked_bytes` counts.
    let most = limits.max_layer_unpacked_bytes.saturating_add(limits.max_layer_entries.saturating_mul(1024));
    if bytes > most {
        return Err(Refusal::io(format!("it unpacks to more than {most} bytes")));
    }
    let proportionate = compressed_bytes.saturating_mul(limits.max_expansion);
    if bytes > limits.expansion_free_bytes && bytes > proportionate {
        return Err(Refusal::io(format!(
            "it looks like a decompression bomb: {compressed_bytes} bytes became more than {} times as many",
            limits.max_expansion
        )));
    }
    Ok(())
}

/// Decompresses an outer archive into `target`.
pub(crate) fn decompress_archive(
    source: impl Read,
    target: &mut File,
    compression: Compression,
    limits: &Limits,
) -> Result<u64, Fault> {
    let mut raw = Metered::unhashed(source);
    let compressed_bytes = raw.passed.clone();
    let mut inflated = inflate(BufReader::with_capacity(BUFFER_BYTES, &mut raw), compression)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes: u64 = 0;
    loop {
        let read = inflated.read(&mut buffer).doing(|| "read the archive".to_owned())?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read as u64;
        let so_far = compressed_bytes.load(Ordering::Relaxed);
        if bytes > limits.max_archive_bytes {
            refuse!("it unpacks to more than {} bytes", limits.max_archive_bytes);
        }
        if bytes > limits.expansion_free_bytes && bytes > so_far.saturating_mul(limits.max_expansion) {
            refuse!(
                "it looks like a decompression bomb: {so_far} bytes became more than {} times as many",
                limits.max_expansion
            );
        }
        target.write_all(&buffer[..read]).doing(|| "write the unpacked archive".to_owned())?;
    }
}
