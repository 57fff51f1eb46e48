//! The shim's end of the logs: cut, stamp, append, rotate. Never blocks the app for long,
//! never fails it: on a full disk lines are lost, and counted.

use super::format::{Cutter, Stream, timestamp};
use super::{FileName, files};
use crate::runtime::launch::LogLimits;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends a container's output to its files.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    limits: LogLimits,
    name: FileName,
    file: Option<File>,
    written: u64,
    stdout: Cutter,
    stderr: Cutter,
    lost: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// Files appear with the first line.
    pub fn new(dir: PathBuf, key: &str, limits: LogLimits, now: SystemTime) -> Self {
        let start_ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let start_ms = u64::try_from(start_ms).unwrap_or(u64::MAX);
        Self {
            dir,
            limits,
            name: FileName { start_ms, key: key.to_owned(), number: 0 },
            file: None,
            written: 0,
            stdout: Cutter::new(Stream::Stdout),
            stderr: Cutter::new(Stream::Stderr),
            lost: 0,
            buffer: Vec::new(),
        }
    }

    /// Takes what the container wrote.
    pub fn feed(&mut self, stream: Stream, bytes: &[u8], now: SystemTime) {
        let time = timestamp(now);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.cutter(stream).feed(bytes, &time, &mut buffer);
        self.append(&buffer);
        self.buffer = buffer;
    }

    /// The container's end of the stream is closed.
    pub fn finish(&mut self, stream: Stream, now: SystemTime) {
        let mut buffer = Vec::new();
        self.cutter(stream).finish(&timestamp(now), &mut buffer);
        self.append(&buffer);
    }

    fn cutter(&mut self, stream: Stream) -> &mut Cutter {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.file.is_none() || self.written + lines.len() as u64 > self.limits.file_bytes {
            self.rotate();
        }
        // One write for whole lines: a reader never sees two of them mixed.
        match self.file.as_mut().map(|file| file.write_all(lines)) {
            Some(Ok(())) => self.written += lines.len() as u64,
            Some(Err(_)) | None => self.lost += 1,
        }
    }

    fn rotate(&mut self) {
        if self.file.is_some() {
            self.name.number += 1;
        }
        let _ = super::make_folder(&self.dir);
        let path = self.dir.join(self.name.to_string());
        self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).ok();
        self.written = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |meta| meta.len());
        // The bound is the slot's, whoever wrote the files: the oldest go.
        let all = files(&self.dir);
        let surplus = all.len().saturating_sub(self.limits.files.max(1) as usize);
        for old in all.into_iter().take(surplus).filter(|old| *old != self.name) {
            let _ = fs::remove_file(self.dir.join(old.to_string()));
        }
    }

    /// Writes that the disk refused.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_never_holds_more_than_its_limit() {
        let dir = tempfile::tempdir().expect("tempdir");
        let limits = LogLimits { file_bytes: 1000, files: 3 };
        for container in ["1.1", "1.2"] {
            let mut writer = Writer::new(dir.path().into(), container, limits, SystemTime::now());
            for line in 0..200 {
                writer.feed(Stream::Stdout, format!("line {line}\n").as_bytes(), SystemTime::now());
            }
            assert_eq!(writer.lost(), 0);
        }
        let all = files(dir.path());
        assert_eq!(all.len(), 3);
        for file in &all {
            let bytes = fs::metadata(dir.path().join(file.to_string())).expect("meta").len();
            assert!(bytes <= 1000, "{bytes}");
        }
        let last = fs::read_to_string(dir.path().join(all[2].to_string())).expect("read");
        assert!(last.ends_with("line 199\n"), "the newest lines are kept");
    }

    #[test]
    fn a_refusing_disk_loses_lines_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let not_a_dir = dir.path().join("file");
        fs::write(&not_a_dir, "").expect("write");
        let mut writer = Writer::new(not_a_dir.join("logs"), "1.1", LogLimits::default(), SystemTime::now());
        writer.feed(Stream::Stderr, b"hello\n", SystemTime::now());
        assert_eq!(writer.lost(), 1);
    }
}
