//! `nodectl status`: all apps in a line each, or one app with its instances; once, or again at
//! each change.

use super::args::StatusArguments;
use super::client::{Client, request};
use super::follow::Backoff;
use super::output::{Cell, Out, Table, Tone};
use super::views::{self, NodeNames};
use super::{failure, target, when, words};
use crate::proto::v1;

pub async fn run(args: StatusArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let chosen = if args.all { None } else { target::choose_optional(&args.target)? };
    if let Some(note) = chosen.as_ref().and_then(|chosen| chosen.note.as_ref()) {
        out.note(format!("{note}; every app: nodectl status -A"));
    }
    let target = chosen.map(|chosen| chosen.target.to_string()).unwrap_or_default();
    let message = v1::StatusRequest {
        tenant: String::new(),
        target: target.clone(),
        follow: args.watch,
        stale: args.stale,
    };
    if args.watch {
        return watch(&out, &client, &message).await;
    }
    let mut stream =
        client.apps().await?.status(request(message)).await.map_err(failure::from_status)?.into_inner();
    let Some(reply) = stream.message().await.map_err(failure::from_status)? else {
        return Err(failure::Failure::new("the node answered nothing").into());
    };
    show(&out, &target, &reply)
}

async fn watch(out: &Out, client: &Client, message: &v1::StatusRequest) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    loop {
        match watch_once(out, client, message, &mut backoff).await {
            Ok(()) => return Ok(()),
            Err(error) => backoff.wait(error).await?,
        }
    }
}

/// Shows each state until the stream ends.
async fn watch_once(
    out: &Out,
    client: &Client,
    message: &v1::StatusRequest,
    backoff: &mut Backoff,
) -> anyhow::Result<()> {
    let mut apps = client.apps().await?;
    let mut stream = apps.status(message.clone()).await?.into_inner();
    let mut latest = None;
    // Ages go on while nothing changes; only a screen is drawn again for that.
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            reply = stream.message() => match reply? {
                Some(reply) => {
                    backoff.succeeded();
                    latest = Some(reply);
                }
                None => return Ok(()),
            },
            _ = tick.tick(), if out.is_terminal && !out.is_json() => {}
        }
        let Some(reply) = &latest else { continue };
        if out.is_json() {
            out.json_line(&view(reply))?;
        } else {
            if out.is_terminal {
                // Home, draw, clear what is left below: no flicker.
                out.write(b"\x1b[H\x1b[2J")?;
            }
            show(out, &message.target, reply)?;
            if !out.is_terminal {
                out.line("")?;
            }
        }
    }
}

fn view(reply: &v1::StatusReply) -> views::Status {
    let nodes = views::node_names(&reply.nodes);
    let apps = reply.apps.iter().map(|app| views::App::new(app, &nodes)).collect();
    views::Status { index: reply.index, apps }
}

fn show(out: &Out, target: &str, reply: &v1::StatusReply) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(&view(reply));
    }
    if target.is_empty() {
        return show_all(out, &reply.apps);
    }
    let nodes = views::node_names(&reply.nodes);
    for (number, app) in reply.apps.iter().enumerate() {
        if number > 0 {
            out.line("")?;
        }
        show_app(out, app, &nodes)?;
    }
    Ok(())
}

/// A line for each app; `app ls` shows the same.
pub fn show_all(out: &Out, apps: &[v1::AppStatus]) -> anyhow::Result<()> {
    if apps.is_empty() {
        out.line("no apps yet")?;
        out.next("nodectl deploy DIR, or nodectl deploy --image NAME");
        return Ok(());
    }
    let mut table = Table::new(&["APP", "RELEASE", "STATE", "READY", "AGE", "URL"]);
    for status in apps {
        let app = status.app.clone().unwrap_or_default();
        let (state, tone) = words::app_state(status);
        table.row(vec![
            Cell::toned(words::app_name(app.key.as_ref()), Tone::Bold),
            release_text(status).into(),
            Cell::toned(state, tone),
            ready_text(&status.processes).into(),
            when::age(app.created_at_ms).into(),
            status.urls.join(" ").into(),
        ]);
    }
    out.table(&table)?;
    let troubled = apps.iter().find(|status| !status.problems.is_empty());
    if let Some(app) = troubled.and_then(|status| status.app.as_ref()) {
        out.next(format!("nodectl why {}", words::app_name(app.key.as_ref())));
    }
    Ok(())
}

fn release_text(status: &v1::AppStatus) -> String {
    let serving = status.app.as_ref().and_then(|app| app.serving);
    serving.map(|number| format!("v{number}")).unwrap_or_default()
}

/// `3/3`, or with several processes `web 3/3, worker 1/1`.
fn ready_text(processes: &[v1::ProcessStatus]) -> String {
    match processes {
        [one] => format!("{}/{}", one.ready, one.wanted),
        several => {
            let texts = several.iter().map(|p| format!("{} {}/{}", p.process, p.ready, p.wanted));
            texts.collect::<Vec<_>>().join(", ")
        }
    }
}

fn show_app(out: &Out, status: &v1::AppStatus, nodes: &NodeNames) -> anyhow::Result<()> {
    let app = status.app.clone().unwrap_or_default();
    let name = words::app_name(app.key.as_ref());
    let (state, tone) = words::app_state(status);
    out.line(format!("{}  {}", out.paint.paint(Tone::Bold, name), out.paint.paint(tone, &state)))?;
    let line = |label: &str, text: String| out.line(format!("  {label:<11}{text}"));
    if let Some(release) = &status.release {
        line("release", format!("v{} of {}", release.number, release.image_name))?;
    }
    if let (Some(serving), Some(target)) = (app.serving, app.target)
        && serving != target
    {
        line("serving", format!("v{serving}"))?;
    }
    if let Some(deployment) = &status.deployment {
        // How it failed is a problem's text, below: once is enough.
        let is_told = status.problems.iter().any(|problem| problem.contains(&deployment.message));
        line("deployment", deployment_text(deployment, !is_told))?;
    }
    for process in &status.processes {
        let from = if process.count_from == "scale" { " (by scale)" } else { "" };
        line("process", format!("{} {}/{} ready{from}", process.process, process.ready, process.wanted))?;
    }
    for url in &status.urls {
        line("url", url.clone())?;
    }
    if !status.instances.is_empty() {
        out.line("")?;
        out.table(&instances_table(&status.instances, nodes))?;
    }
    for problem in &status.problems {
        out.line("")?;
        let text = problem.trim_end().replace('\n', "\n  | ");
        let text = text.split('\n').map(super::output::plain).collect::<Vec<_>>().join("\n");
        out.prose(format!("{} {text}", out.paint.paint(Tone::Bad, "problem:")), 2)?;
    }
    if !status.problems.is_empty() {
        out.next(format!("nodectl why {name}, nodectl logs {name} --previous"));
    }
    Ok(())
}

fn deployment_text(deployment: &v1::Deployment, with_message: bool) -> String {
    let at = deployment.finished_at_ms.unwrap_or(deployment.started_at_ms);
    let status = words::deployment_status(deployment.status);
    let mut text = format!("v{} {status}, {} ago", deployment.release, when::age(at));
    if with_message && !deployment.message.is_empty() {
        text.push_str(": ");
        text.push_str(&super::output::plain(&deployment.message));
    }
    text
}

fn instances_table(instances: &[v1::Instance], nodes: &NodeNames) -> Table {
    let mut table = Table::new(&["INSTANCE", "RELEASE", "STATE", "NODE", "AGE", "RESTARTS", "NOTE"]);
    let mut sorted: Vec<_> = instances.iter().collect();
    sorted.sort_by_key(|instance| (&instance.process, instance.slot, instance.id));
    for instance in sorted {
        let (state, tone) = words::instance_state(instance);
        let restarts = instance.observed.as_ref().map_or(0, |observed| observed.attempt.saturating_sub(1));
        let node = nodes.get(&instance.node_id).map_or(instance.node_id.as_str(), String::as_str);
        table.row(vec![
            words::instance_label(instance).into(),
            format!("v{}", instance.release).into(),
            Cell::toned(state, tone),
            node.into(),
            when::age(instance.created_at_ms).into(),
            if restarts > 0 { restarts.to_string().into() } else { "".into() },
            words::instance_note(instance).into(),
        ]);
    }
    table
}
