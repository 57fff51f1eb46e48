//! `nodectl why`: the node's own explanation, most important sentence first.

use super::args::{TargetArguments, WhyArguments};
use super::client::{Client, request};
use super::failure::from_status;
use super::output::{Out, plain};
use super::{target, views};
use crate::proto::v1::WhyRequest;

pub async fn run(args: WhyArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    // A thing may also be a node's name, so its grammar is left to the server.
    let thing = match args.thing {
        Some(thing) => thing,
        None => {
            let chosen = target::choose(&TargetArguments { target: None, app: args.app })?;
            if let Some(note) = &chosen.note {
                out.note(note);
            }
            chosen.target.to_string()
        }
    };
    let message = WhyRequest { tenant: String::new(), target: thing.clone() };
    let reply = client.apps().await?.why(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::Why { target: thing, lines: reply.lines });
    }
    for line in &reply.lines {
        out.prose(plain(line), 2)?;
    }
    Ok(())
}
