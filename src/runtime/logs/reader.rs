//! Reading logs: the last N lines, everything since a time, and following while they grow.
//!
//! Follows across rotation, across restarts of the container and to its next instance, since
//! all write into the slot's folder. Reading is blocking file work in small steps; the async
//! [`follow`] runs it and polls for growth.

use super::format::{Entry, parse};
use super::instances::{dir_of, parse_key};
use super::{FileName, files};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Which lines to begin with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// At most the last so many; `None` is all that are kept.
    pub tail: Option<usize>,
    pub since: Option<SystemTime>,
}

/// A place in a slot's logs, from which reading goes on.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    /// The file being read and how far; `None` before the first file exists.
    at: Option<(FileName, u64)>,
    torn: Vec<u8>,
    only: Option<Only>,
}

/// One instance's part of a slot's log.
#[derive(Debug)]
struct Only {
    data_dir: PathBuf,
    instance: u64,
    /// Earlier attempts are passed over; `None` until the first look says which is the last.
    from_attempt: Option<u32>,
}

impl Reader {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), at: None, torn: Vec::new(), only: None }
    }

    /// What one instance has written and will write, with all its attempts or from the last
    /// on. It may not have written yet.
    pub fn of_instance(data_dir: &Path, instance: u64, earlier_attempts: bool) -> Self {
        let only =
            Only { data_dir: data_dir.to_owned(), instance, from_attempt: earlier_attempts.then_some(0) };
        Self { dir: PathBuf::new(), at: None, torn: Vec::new(), only: Some(only) }
    }

    /// The files to read, oldest first.
    fn files(&mut self) -> Vec<FileName> {
        let Some(only) = self.only.as_mut() else { return files(&self.dir) };
        if self.dir.as_os_str().is_empty() {
            let Some(dir) = dir_of(&only.data_dir, only.instance) else { return Vec::new() };
            self.dir = dir;
        }
        let mut files = files(&self.dir);
        let attempt_of =
            |file: &FileName| parse_key(&file.key).filter(|(i, _)| *i == only.instance).map(|(_, a)| a);
        let last = files.iter().filter_map(attempt_of).max();
        let from = *only.from_attempt.get_or_insert(last.unwrap_or(0));
        files.retain(|file| attempt_of(file).is_some_and(|attempt| attempt >= from));
        files
    }

    /// What the query asks for of what was there when it was asked, oldest first; the reader
    /// then stands at that end or a little past it. It ends however fast the log grows.
    pub fn begin(&mut self, query: Query) -> Vec<Entry> {
        let Some(end) = self.end() else { return Vec::new() };
        if let (None, Some(tail), None) = (&self.at, query.tail, query.since) {
            self.skip_to_last(tail);
        }
        let mut entries = std::collections::VecDeque::new();
        while self.at.as_ref().is_none_or(|at| *at < end) {
            let more = self.read_on();
            if more.is_empty() {
                break;
            }
            for entry in more {
                if query.since.is_some_and(|since| entry.time < since) {
                    continue;
                }
                entries.push_back(entry);
                if query.tail.is_some_and(|tail| entries.len() > tail) {
                    entries.pop_front();
                }
            }
        }
        entries.into()
    }

    /// The end of what is there now.
    fn end(&mut self) -> Option<(FileName, u64)> {
        let newest = self.files().pop()?;
        let length = std::fs::metadata(self.dir.join(newest.to_string())).map_or(0, |meta| meta.len());
        Some((newest, length))
    }

    /// Begins with the newest file from which on there are `tail` lines: the others need not
    /// be read for them.
    fn skip_to_last(&mut self, tail: usize) {
        let mut lines = 0;
        for file in self.files().into_iter().rev() {
            let bytes = std::fs::read(self.dir.join(file.to_string())).unwrap_or_default();
            lines += bytes.iter().filter(|byte| **byte == b'\n').count();
            self.at = Some((file, 0));
            if lines >= tail {
                return;
            }
        }
    }

    /// What was written since the last call; empty at the end. At most 1 MiB at a time.
    pub fn read_on(&mut self) -> Vec<Entry> {
        loop {
            let all = self.files();
            let (name, offset) = match self.at.take() {
                Some(at) => at,
                None => match all.first() {
                    Some(first) => (first.clone(), 0),
                    None => return Vec::new(),
                },
            };
            // Looked for before reading: a file that has a successor is complete.
            let next = all.into_iter().find(|file| *file > name);
            let entries = self.read_file(&name, offset);
            match (entries.is_empty(), next) {
                (true, Some(next)) => {
                    self.torn.clear();
                    self.at = Some((next, 0));
                }
                _ => return entries,
            }
        }
    }

    fn read_file(&mut self, name: &FileName, offset: u64) -> Vec<Entry> {
        let mut bytes = Vec::new();
        // A file that is gone was rotated away: nothing to read, go on with the next.
        let read = File::open(self.dir.join(name.to_string())).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.take(1 << 20).read_to_end(&mut bytes)
        });
        self.at = Some((name.clone(), offset + read.unwrap_or(0) as u64));
        self.torn.extend_from_slice(&bytes);
        let whole = self.torn.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.torn.drain(..whole).collect();
        let attempt = parse_key(&name.key).map_or(0, |(_, attempt)| attempt);
        let entries = lines.split(|byte| *byte == b'\n').filter_map(parse);
        entries.map(|entry| Entry { attempt, ..entry }).collect()
    }
}

/// The last lines that a container has written, oldest first, from the last 16 KiB of its
/// newest file: what a report needs, at the same cost however long the log is.
pub fn last_words(dir: &Path, key: &str, lines: usize) -> Vec<String> {
    const ENOUGH: u64 = 16 << 10;
    let Some(file) = files(dir).into_iter().rev().find(|file| file.key == key) else { return Vec::new() };
    let mut bytes = Vec::new();
    let read = File::open(dir.join(file.to_string())).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH)))?;
        file.take(ENOUGH).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let mut last: Vec<String> = bytes
        .split(|byte| *byte == b'\n')
        .rev()
        .filter_map(parse)
        .take(lines)
        .map(|entry| entry.text)
        .collect();
    last.reverse();
    last
}

/// Sends what the query asks for, then each new line, until the receiver goes away.
///
/// Polls every 100 ms: what a person reading along doesn't notice, and cheap.
///
/// # Cancel safety
/// Dropping the future stops reading; nothing is left behind.
pub async fn follow(dir: PathBuf, query: Query, to: tokio::sync::mpsc::Sender<Entry>) {
    let mut reader = Reader::new(&dir);
    let mut entries = reader.begin(query);
    loop {
        for entry in entries {
            if to.send(entry).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            () = to.closed() => return,
        }
        entries = reader.read_on();
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Stream;
    use super::super::writer::Writer;
    use super::*;
    use crate::runtime::launch::LogLimits;

    fn texts(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.text.as_str()).collect()
    }

    #[test]
    fn reading_goes_on_across_rotation_and_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let limits = LogLimits { file_bytes: 200, files: 100 };
        let mut reader = Reader::new(dir.path());
        assert!(reader.begin(Query::default()).is_empty());
        let mut seen = Vec::new();
        let start = SystemTime::now();
        for (attempt, key) in ["7.1", "7.2"].iter().enumerate() {
            let started = start + Duration::from_secs(attempt as u64);
            let mut writer = Writer::new(dir.path().into(), key, limits, started);
            for line in 0..50 {
                writer.feed(Stream::Stdout, format!("{key} {line}\n").as_bytes(), SystemTime::now());
                if line % 7 == 0 {
                    seen.extend(reader.read_on());
                }
            }
        }
        loop {
            let more = reader.read_on();
            if more.is_empty() {
                break;
            }
            seen.extend(more);
        }
        let expected: Vec<String> =
            ["7.1", "7.2"].iter().flat_map(|key| (0..50).map(move |line| format!("{key} {line}"))).collect();
        assert_eq!(texts(&seen), expected);
    }

    #[test]
    fn beginning_ends_while_the_log_grows_as_fast_as_it_is_read() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().expect("tempdir");
        let limits = LogLimits { file_bytes: 1 << 20, files: 3 };
        let mut writer = Writer::new(dir.path().into(), "7.1", limits, SystemTime::now());
        let line = vec![b'x'; 99].into_iter().chain([b'\n']).collect::<Vec<u8>>().repeat(5000);
        writer.feed(Stream::Stdout, &line, SystemTime::now());
        let (done, (told, answer)) = (AtomicBool::new(false), std::sync::mpsc::channel());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    writer.feed(Stream::Stdout, &line, SystemTime::now());
                }
            });
            let dir = dir.path();
            let reads = scope.spawn(move || {
                for query in [Query::default(), Query { tail: Some(2), since: None }] {
                    let _ = told.send(Reader::new(dir).begin(query).len());
                }
            });
            let read = || answer.recv_timeout(Duration::from_secs(60));
            let answers = (read(), read());
            done.store(true, Ordering::Relaxed);
            assert!(answers.0.is_ok_and(|lines| lines > 0), "all of it");
            assert_eq!(answers.1, Ok(2));
            let _ = reads.join();
        });
    }

    #[test]
    fn a_tail_reaches_over_files_and_following_goes_on_behind_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let limits = LogLimits { file_bytes: 200, files: 100 };
        let mut writer = Writer::new(dir.path().into(), "7.1", limits, SystemTime::now());
        let mut feed = |line: u32| {
            writer.feed(Stream::Stdout, format!("{line}\n").as_bytes(), SystemTime::now());
        };
        (0..50).for_each(&mut feed);
        let mut reader = Reader::new(dir.path());
        let tail = reader.begin(Query { tail: Some(20), since: None });
        let expected: Vec<String> = (30..50).map(|line| line.to_string()).collect();
        assert_eq!(texts(&tail), expected);
        feed(50);
        let mut more = reader.read_on();
        if more.is_empty() {
            more = reader.read_on();
        }
        assert_eq!(texts(&more), ["50"]);
    }

    #[test]
    fn tail_and_since_choose_where_to_begin() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut writer = Writer::new(dir.path().into(), "7.1", LogLimits::default(), SystemTime::now());
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for second in 0..10u64 {
            let stream = if second % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            writer.feed(stream, format!("{second}\n").as_bytes(), start + Duration::from_secs(second));
        }
        let begin = |query| Reader::new(dir.path()).begin(query);
        assert_eq!(texts(&begin(Query { tail: Some(3), since: None })), ["7", "8", "9"]);
        let since = Some(start + Duration::from_secs(8));
        assert_eq!(texts(&begin(Query { tail: None, since })), ["8", "9"]);
        assert_eq!(begin(Query::default())[1].stream, Stream::Stderr);
    }
}
