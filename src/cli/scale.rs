//! `nodectl scale web=5`: how many instances of each process run.

use super::args::ScaleArguments;
use super::client::{Client, request};
use super::failure::{Failure, from_status};
use super::output::Out;
use super::{target, views};
use crate::proto::v1::ScaleRequest;
use std::collections::BTreeMap;

/// `web=5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    process: String,
    count: u32,
}

/// Reads `PROCESS=COUNT`.
///
/// # Errors
/// It is none.
pub fn parse_count(text: &str) -> Result<Count, String> {
    let Some((process, count)) = text.split_once('=') else {
        return Err("write PROCESS=COUNT, as in web=5".to_owned());
    };
    if let Some((app, process)) = process.split_once('/') {
        return Err(format!("name the app with -a: {process}={count} -a {app}"));
    }
    let process = target::parse_process(process)?;
    let count = count.parse().map_err(|_| format!("{count:?} is not a count, as in {process}=5"))?;
    Ok(Count { process, count })
}

pub async fn run(args: ScaleArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let mut counts = BTreeMap::new();
    for Count { process, count } in args.counts {
        if counts.insert(process.clone(), count).is_some_and(|before| before != count) {
            return Err(Failure::usage(format!("{process} is given two counts")).into());
        }
    }
    let chosen = target::choose_app(args.app.as_ref())?;
    if let Some(note) = &chosen.note {
        out.note(note);
    }
    let app = chosen.target.app;
    let message = ScaleRequest { tenant: String::new(), app: app.clone(), counts: counts.clone() };
    let reply = client.apps().await?.scale(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::Scaled { app, counts, changed: reply.changed, index: reply.index });
    }
    let texts: Vec<_> = counts.iter().map(|(process, count)| format!("{process}={count}")).collect();
    let texts = texts.join(" ");
    if !reply.changed {
        return out.line(format!("{app} had {texts} already"));
    }
    out.line(format!("scaling {app} to {texts}"))?;
    out.next(format!("nodectl status {app} --watch"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_a_process_and_a_number() {
        assert_eq!(parse_count("web=5"), Ok(Count { process: "web".into(), count: 5 }));
        for (text, part) in [
            ("web", "PROCESS=COUNT"),
            ("web=", "not a count"),
            ("web=-1", "not a count"),
            ("Web=1", "a-z"),
            ("shop/web=5", "web=5 -a shop"),
        ] {
            let error = parse_count(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
