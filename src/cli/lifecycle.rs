//! `restart`, `stop`, `start`, `abort`: one request each, and what to look at next.

use super::args::TargetOnly;
use super::client::{Client, request};
use super::failure::{Failure, from_status};
use super::output::Out;
use super::target::{self, Target};
use super::views;
use crate::proto::v1::{AppRequest, ChangeReply, RestartRequest};

pub async fn restart(args: TargetOnly, client: Client) -> anyhow::Result<()> {
    let (out, target) = begin(&args)?;
    let message = RestartRequest { tenant: String::new(), target: target.to_string() };
    let reply = client.apps().await?.restart(request(message)).await.map_err(from_status)?.into_inner();
    end(&out, &target, &reply, "restarting", "has nothing to restart")
}

pub async fn stop(args: TargetOnly, client: Client) -> anyhow::Result<()> {
    let (out, target) = begin(&args)?;
    let message = whole_app(&target, "stop", "`nodectl scale PROCESS=0` stops one process")?;
    let reply = client.apps().await?.stop(request(message)).await.map_err(from_status)?.into_inner();
    end(&out, &target, &reply, "stopping", "was stopped already")
}

pub async fn start(args: TargetOnly, client: Client) -> anyhow::Result<()> {
    let (out, target) = begin(&args)?;
    let message = whole_app(&target, "start", "`nodectl scale PROCESS=N` starts one process")?;
    let reply = client.apps().await?.start(request(message)).await.map_err(from_status)?.into_inner();
    end(&out, &target, &reply, "starting", "was not stopped")
}

pub async fn abort(args: TargetOnly, client: Client) -> anyhow::Result<()> {
    let (out, target) = begin(&args)?;
    let message = whole_app(&target, "abort", "a rollout is of a whole app")?;
    let reply =
        client.apps().await?.cancel_deployment(request(message)).await.map_err(from_status)?.into_inner();
    end(&out, &target, &reply, "cancelling the rollout of", "has no running rollout")
}

fn begin(args: &TargetOnly) -> anyhow::Result<(Out, Target)> {
    let out = Out::new(args.output);
    let chosen = target::choose(&args.target)?;
    if let Some(note) = &chosen.note {
        out.note(note);
    }
    Ok((out, chosen.target))
}

fn whole_app(target: &Target, verb: &str, instead: &str) -> Result<AppRequest, Failure> {
    if target.process.is_some() {
        return Err(Failure::usage(format!("{verb} acts on a whole app, and {target} is a part of one"))
            .hint(format!("nodectl {verb} {}; {instead}", target.app)));
    }
    Ok(AppRequest { tenant: String::new(), app: target.app.clone() })
}

fn end(out: &Out, target: &Target, reply: &ChangeReply, doing: &str, already: &str) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(&views::Change {
            target: target.to_string(),
            changed: reply.changed,
            index: reply.index,
        });
    }
    if !reply.changed {
        return out.line(format!("{target} {already}"));
    }
    out.line(format!("{doing} {target}"))?;
    out.next(format!("nodectl status {} --watch", target.app));
    Ok(())
}
