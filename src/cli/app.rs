//! `nodectl app ls` and `app rm`.

use super::args::{AppRmArguments, OutputOnly};
use super::client::{Client, request};
use super::deploy_watch::INTERRUPTED;
use super::failure::from_status;
use super::follow::{self, Backoff};
use super::output::{Out, Tone, say, shows_progress};
use super::views;
use crate::proto::v1::{AppRequest, ListAppsRequest, StatusRequest};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use std::time::Duration;
use tonic::{Code, Status};

pub async fn list(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ListAppsRequest::default();
    let reply = client.apps().await?.list(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        let nodes = views::node_names(&reply.nodes);
        let apps = reply.apps.iter().map(|app| views::App::new(app, &nodes)).collect();
        return out.json(&views::AppList { apps });
    }
    super::status::show_all(&out, &reply.apps)
}

/// Removes an app and, unless told otherwise, returns only when it is gone: what is said next
/// finds its name free.
pub async fn remove(args: AppRmArguments, client: Client) -> anyhow::Result<ExitCode> {
    let out = Out::new(args.output);
    let app = &args.app;
    let message = AppRequest { tenant: String::new(), app: app.clone() };
    let reply = client.apps().await?.remove(request(message)).await.map_err(from_status)?.into_inner();
    let change = views::Change { target: app.clone(), changed: reply.changed, index: reply.index };
    if args.detach {
        if out.is_json() {
            out.json(&change)?;
        } else if reply.changed {
            out.line(format!("removing {app}: its instances stop, then it is forgotten"))?;
            out.next(format!("nodectl status {app} --watch"));
        } else {
            out.line(format!("{app} is being removed already"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let bar = progress(&out);
    let gone = tokio::select! {
        gone = until_gone(app, &client, &bar) => Some(gone),
        _ = tokio::signal::ctrl_c() => None,
    };
    bar.finish_and_clear();
    let Some(gone) = gone else {
        say(Tone::Warn, &format!("\nthe removal of {app} goes on without you"));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    gone?;
    if out.is_json() {
        out.json(&change)?;
    } else {
        out.line(format!("removed {app}"))?;
        out.next("nodectl image gc");
    }
    Ok(ExitCode::SUCCESS)
}

fn progress(out: &Out) -> ProgressBar {
    if !shows_progress(out) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
            .expect("the template is constant and good"),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Returns when the app is not there any more, or one that was made anew has its name.
async fn until_gone(app: &str, client: &Client, bar: &ProgressBar) -> anyhow::Result<()> {
    // The removal itself was answered: from here on, a lost connection is waited out.
    let mut backoff = if bar.is_hidden() { Backoff::default() } else { Backoff::quiet() };
    backoff.succeeded();
    loop {
        let lost = match watch_once(app, client, bar, &mut backoff).await {
            Ok(()) => return Ok(()),
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => error,
        };
        bar.set_message(follow::LOST);
        backoff.wait(lost).await?;
    }
}

async fn watch_once(
    app: &str,
    client: &Client,
    bar: &ProgressBar,
    backoff: &mut Backoff,
) -> anyhow::Result<()> {
    let message = StatusRequest { tenant: String::new(), target: app.to_owned(), follow: true, stale: false };
    let mut stream = client.apps().await?.status(message).await?.into_inner();
    while let Some(reply) = stream.message().await? {
        backoff.succeeded();
        let Some(status) = reply.apps.first() else { return Ok(()) };
        if !status.app.as_ref().is_some_and(|app| app.removing) {
            return Ok(());
        }
        bar.set_message(match status.instances.len() {
            0 => format!("removing {app}"),
            1 => format!("removing {app}: 1 instance stops"),
            count => format!("removing {app}: {count} instances stop"),
        });
    }
    Err(Status::unavailable("the watch ended early").into())
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::NotFound)
}
