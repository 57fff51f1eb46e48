//! `nodectl logs`: the lines of one or more instances, each with its name where there are
//! several; with `-f` on across restarts of the node, without a line lost or shown twice.

use super::args::LogsArguments;
use super::client::{Client, request};
use super::follow::{Backoff, in_words};
use super::output::{Out, Tone};
use super::{target, views, when};
use crate::proto::v1::{LogEntry, LogsRequest, StatusRequest};
use std::collections::{BTreeMap, BTreeSet};

pub async fn run(args: LogsArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let chosen = target::choose(&args.target)?;
    if let Some(note) = &chosen.note {
        out.note(note);
    }
    let mut request = LogsRequest {
        tenant: String::new(),
        target: chosen.target.to_string(),
        tail: args.tail,
        follow: args.follow,
        since_ms: args.since.map(when::Since::to_ms),
        previous: args.previous,
    };
    let mut printer = Printer::new(&out, args.timestamps);
    if chosen.target.slot.is_none() && !out.is_json() {
        printer.expect(instances_of(&client, &request.target).await?);
    }
    let began_ms = when::now_ms();
    let first = request.clone();
    let mut seen = Seen::default();
    let mut backoff = Backoff::default();
    loop {
        match stream(&client, &request, &mut seen, &mut printer, &mut backoff).await {
            // The node says by an error that it stops: a clean end is the end of the log.
            Ok(()) => return printer.flush(),
            Err(error) if !args.follow => {
                printer.flush()?;
                return Err(in_words(error));
            }
            Err(error) => backoff.wait(error).await?,
        }
        request = resume(&first, &mut seen, began_ms);
    }
}

/// Names of the instances that a target stands for now; none for an app that is gone, whose logs
/// may still be kept. What else is wrong, the request for the logs will say.
async fn instances_of(client: &Client, target: &str) -> anyhow::Result<BTreeSet<String>> {
    let message = StatusRequest { target: target.to_owned(), ..StatusRequest::default() };
    let reply = match client.apps().await?.status(request(message)).await {
        Ok(reply) => reply.into_inner().message().await.ok().flatten().unwrap_or_default(),
        Err(_) => return Ok(BTreeSet::new()),
    };
    let instances = reply.apps.iter().flat_map(|app| &app.instances);
    Ok(instances.map(super::words::instance_label).collect())
}

async fn stream(
    client: &Client,
    request: &LogsRequest,
    seen: &mut Seen,
    printer: &mut Printer<'_>,
    backoff: &mut Backoff,
) -> anyhow::Result<()> {
    let mut stream = client.instances().await?.logs(request.clone()).await?.into_inner();
    // The stream stands: what breaks from here on is worth taking up again.
    backoff.succeeded();
    while let Some(entry) = stream.message().await? {
        if seen.is_new(&entry) {
            printer.entry(entry)?;
        }
    }
    Ok(())
}

/// The request that goes on where the last one broke off. Nodes' clocks differ and lines of
/// several instances are not in one order, so it asks for a little more; [`Seen`] drops what
/// came before.
fn resume(first: &LogsRequest, seen: &mut Seen, began_ms: u64) -> LogsRequest {
    const OVERLAP_MS: u64 = 10_000;
    seen.begin_again();
    let floor = first.since_ms.unwrap_or(0);
    let since_ms = match seen.latest_ms() {
        Some(latest) => Some(latest.saturating_sub(OVERLAP_MS).max(floor)),
        // Nothing came: with `--tail` that was all that was wanted of the past.
        None if first.tail.is_some() => Some(began_ms.max(floor)),
        None => first.since_ms,
    };
    let tail = None;
    LogsRequest { since_ms, tail, ..first.clone() }
}

/// How far each instance's log has been shown. Lines of one instance come in the order of their
/// times; several may share one.
#[derive(Default)]
struct Seen {
    instances: BTreeMap<u64, Mark>,
    /// In this connection: entries at the mark's time that came again.
    again: BTreeMap<u64, u32>,
    resumed: bool,
}

struct Mark {
    at_unix_nanos: u64,
    /// Entries with exactly that time.
    entries: u32,
}

impl Seen {
    fn is_new(&mut self, entry: &LogEntry) -> bool {
        let at = entry.at_unix_nanos;
        let Some(mark) = self.instances.get_mut(&entry.instance) else {
            self.instances.insert(entry.instance, Mark { at_unix_nanos: at, entries: 1 });
            return true;
        };
        if at < mark.at_unix_nanos {
            // In one stream, a clock that was set back: shown. After a break, shown before.
            return !self.resumed || !self.again.contains_key(&entry.instance);
        }
        if at > mark.at_unix_nanos {
            *mark = Mark { at_unix_nanos: at, entries: 1 };
            self.again.remove(&entry.instance);
            return true;
        }
        if let Some(again) = self.again.get_mut(&entry.instance) {
            *again += 1;
            if *again <= mark.entries {
                return false;
            }
        }
        mark.entries += 1;
        true
    }

    fn begin_again(&mut self) {
        self.resumed = true;
        self.again = self.instances.keys().map(|&instance| (instance, 0)).collect();
    }

    fn latest_ms(&self) -> Option<u64> {
        self.instances.values().map(|mark| mark.at_unix_nanos / 1_000_000).max()
    }
}

/// A line longer than this is shown in pieces rather than kept in memory.
const LONGEST_LINE: usize = 1 << 20;

/// Puts pieces together to lines and writes them.
struct Printer<'a> {
    out: &'a Out,
    timestamps: bool,
    /// Instances by label, in the order of their appearance: a colour each.
    labels: Vec<String>,
    width: usize,
    /// First pieces of lines that go on.
    open: BTreeMap<(u64, u32, u32), LogEntry>,
}

impl<'a> Printer<'a> {
    fn new(out: &'a Out, timestamps: bool) -> Self {
        Self { out, timestamps, labels: Vec::new(), width: 0, open: BTreeMap::new() }
    }

    /// Instances that will probably speak: they share a width from the first line on.
    fn expect(&mut self, labels: BTreeSet<String>) {
        for label in labels {
            self.place(&label);
        }
    }

    fn place(&mut self, label: &str) -> usize {
        if let Some(place) = self.labels.iter().position(|known| known == label) {
            return place;
        }
        self.width = self.width.max(label.len());
        self.labels.push(label.to_owned());
        self.labels.len() - 1
    }

    fn entry(&mut self, entry: LogEntry) -> anyhow::Result<()> {
        let key = (entry.instance, entry.attempt, entry.stream);
        let goes_on = entry.partial;
        let whole = match self.open.remove(&key) {
            None => entry,
            Some(before) => {
                let line = [before.line.as_ref(), entry.line.as_ref()].concat();
                LogEntry { line: line.into(), ..before }
            }
        };
        if goes_on && whole.line.len() < LONGEST_LINE {
            self.open.insert(key, whole);
            return Ok(());
        }
        self.line(&whole)
    }

    /// Writes the lines whose end never came.
    fn flush(&mut self) -> anyhow::Result<()> {
        for (_, entry) in std::mem::take(&mut self.open) {
            self.line(&entry)?;
        }
        Ok(())
    }

    fn line(&mut self, entry: &LogEntry) -> anyhow::Result<()> {
        if self.out.is_json() {
            return self.out.json_line(&view(entry));
        }
        let paint = self.out.paint;
        let label = entry.target.split_once('/').map_or(entry.target.as_str(), |(_, label)| label);
        let place = self.place(label);
        let mut line = Vec::with_capacity(entry.line.len() + 32);
        if self.labels.len() > 1 {
            let prefix = format!("{label:<width$} |", width = self.width);
            line.extend_from_slice(paint.rotate(place, &prefix).as_bytes());
            line.push(b' ');
        }
        if self.timestamps {
            let at = when::rfc3339(entry.at_unix_nanos / 1_000_000);
            line.extend_from_slice(paint.paint(Tone::Dim, &at).as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&entry.line);
        line.push(b'\n');
        self.out.write(&line)
    }
}

fn view(entry: &LogEntry) -> views::LogLine {
    views::LogLine {
        target: entry.target.clone(),
        at: when::rfc3339(entry.at_unix_nanos / 1_000_000),
        at_unix_nanos: entry.at_unix_nanos,
        stream: if entry.stream == 2 { "stderr" } else { "stdout" },
        line: String::from_utf8_lossy(&entry.line).into_owned(),
        instance: entry.instance,
        attempt: entry.attempt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(instance: u64, at: u64) -> LogEntry {
        LogEntry { instance, at_unix_nanos: at, ..LogEntry::default() }
    }

    #[test]
    fn after_a_break_only_what_is_new_counts_also_among_lines_of_one_time() {
        let mut seen = Seen::default();
        for (instance, at) in [(1, 5), (1, 9), (1, 9), (2, 7)] {
            assert!(seen.is_new(&entry(instance, at)));
        }
        seen.begin_again();
        let came: Vec<bool> = [(1, 5), (2, 7), (1, 9), (1, 9), (1, 9), (2, 8), (1, 10), (3, 1)]
            .into_iter()
            .map(|(instance, at)| seen.is_new(&entry(instance, at)))
            .collect();
        assert_eq!(came, [false, false, false, false, true, true, true, true]);
    }

    #[test]
    fn a_clock_that_is_set_back_hides_no_line() {
        let mut seen = Seen::default();
        assert!(seen.is_new(&entry(1, 9)));
        assert!(seen.is_new(&entry(1, 3)));
    }

    #[test]
    fn resuming_asks_for_a_little_more_and_never_for_what_was_not_wanted() {
        let first = LogsRequest { tail: Some(0), follow: true, ..LogsRequest::default() };
        let mut seen = Seen::default();
        assert_eq!(resume(&first, &mut seen, 77_000).since_ms, Some(77_000));
        seen.is_new(&entry(1, 50_000_000_000));
        let again = resume(&first, &mut seen, 77_000);
        assert_eq!((again.since_ms, again.tail), (Some(40_000), None));
        let since = LogsRequest { since_ms: Some(45_000), ..first };
        assert_eq!(resume(&since, &mut seen, 77_000).since_ms, Some(45_000));
    }
}
