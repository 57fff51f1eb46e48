//! `nodectl events`: what happened, oldest first; with `-f` what happens, across restarts of the
//! node.

use super::args::EventsArguments;
use super::client::Client;
use super::follow::{Backoff, in_words};
use super::output::{Out, Tone, plain, say};
use super::{target, views, when};
use crate::proto::v1::{Event, EventBatch, WatchEventsRequest};

/// A place in the stream of events: everything after it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    index: u64,
    sub: u32,
}

/// Reads `N` (after everything of index N) or `N.SUB` (after that one event).
///
/// # Errors
/// It is neither.
pub fn parse_position(text: &str) -> Result<Position, String> {
    let (index, sub) = match text.split_once('.') {
        None => (text.parse().ok(), Some(u32::MAX)),
        Some((index, sub)) => (index.parse().ok(), sub.parse().ok()),
    };
    match (index, sub) {
        (Some(index), Some(sub)) => Ok(Position { index, sub }),
        _ => Err("give an event's index, as in 1200, or index and sub, as in 1200.1".to_owned()),
    }
}

pub async fn run(args: EventsArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let chosen = if args.all { None } else { target::choose_optional(&args.target)? };
    if let Some(note) = chosen.as_ref().and_then(|chosen| chosen.note.as_ref()) {
        out.note(format!("{note}; every event: nodectl events -A"));
    }
    let target = chosen.map(|chosen| chosen.target.to_string()).unwrap_or_default();
    let mut position = args.after.unwrap_or_default();
    let mut backoff = Backoff::default();
    loop {
        let request = WatchEventsRequest {
            tenant: String::new(),
            after_index: position.index,
            after_sub: position.sub,
            follow: args.follow,
            target: target.clone(),
        };
        match stream(&out, &client, request, &mut position, &mut backoff).await {
            Ok(()) => return Ok(()),
            Err(error) if !args.follow => return Err(in_words(error)),
            Err(error) => backoff.wait(error).await?,
        }
    }
}

async fn stream(
    out: &Out,
    client: &Client,
    request: WatchEventsRequest,
    position: &mut Position,
    backoff: &mut Backoff,
) -> anyhow::Result<()> {
    let mut stream = client.events().await?.watch(request).await?.into_inner();
    while let Some(batch) = stream.message().await? {
        backoff.succeeded();
        show(out, &batch)?;
        *position = Position { index: batch.index, sub: batch.sub };
    }
    Ok(())
}

fn show(out: &Out, batch: &EventBatch) -> anyhow::Result<()> {
    if batch.gap {
        say(Tone::Warn, "older events have been forgotten: there is a gap before this one");
    }
    for event in &batch.events {
        if out.is_json() {
            out.json_line(&views::Event::new(event))?;
        } else {
            out.prose(line(out, event), 4)?;
        }
    }
    Ok(())
}

fn line(out: &Out, event: &Event) -> String {
    let instant = when::rfc3339(event.at_ms);
    // On a terminal as much as tells events of these days apart: `11-21 16:42:07`, in UTC too.
    let short = instant.get(5..19).map(|text| text.replace('T', " ")).filter(|_| out.is_terminal);
    let at = out.paint.paint(Tone::Dim, &short.unwrap_or(instant));
    // The longest kind, `instance-stopping`; targets mostly fit 14.
    let kind = format!("{:<17}", event.kind);
    let text = format!("{at}  {kind}  {:<14}  {}", plain(&event.target), plain(&event.message));
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_index_means_after_everything_of_it() {
        assert_eq!(parse_position("12"), Ok(Position { index: 12, sub: u32::MAX }));
        assert_eq!(parse_position("12.3"), Ok(Position { index: 12, sub: 3 }));
        for text in ["", "x", "1.", "-1", "1.2.3"] {
            assert!(parse_position(text).is_err(), "{text}");
        }
    }
}
