//! A rollout as it goes, to its end: live lines for a person, NDJSON for a program, and a last
//! word that says what serves now. The rollout is the cluster's: leaving it does not stop it.

use super::client::Client;
use super::deploy::{took_ms, took_text};
use super::failure::Failure;
use super::follow::{self, Backoff};
use super::output::{Out, Tone, plain, say, shows_progress};
use super::views::{self, DeployLine};
use super::{when, words};
use crate::proto::v1::{Deployment, DeploymentProgress, DeploymentStatus, Instance, WatchDeploymentRequest};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use tonic::Status;

pub struct Rollout {
    pub app: String,
    pub release: u64,
    pub deployment: u64,
    pub urls: Vec<String>,
}

/// What a shell reports for a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// Follows the rollout until it is over or, if `leaves_on_interrupt`, Ctrl-C.
pub async fn follow(
    out: &Out,
    client: &Client,
    rollout: &Rollout,
    leaves_on_interrupt: bool,
) -> anyhow::Result<ExitCode> {
    let screen = Screen::new(out);
    let result = tokio::select! {
        result = until_over(out, client, rollout, &screen) => Some(result),
        _ = tokio::signal::ctrl_c(), if leaves_on_interrupt => None,
    };
    screen.clear();
    match result {
        Some(progress) => finish(out, rollout, &progress?),
        None => {
            let app = &rollout.app;
            say(Tone::Warn, &format!("\nthe rollout of {app} v{} goes on without you", rollout.release));
            say(
                Tone::Plain,
                &format!("  follow it: nodectl status {app} --watch\n  cancel it: nodectl abort {app}"),
            );
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// The last state of the rollout.
async fn until_over(
    out: &Out,
    client: &Client,
    rollout: &Rollout,
    screen: &Screen,
) -> anyhow::Result<DeploymentProgress> {
    // The deploy itself was answered: from here on, a lost connection is waited out.
    let mut backoff = if screen.bars.is_some() { Backoff::quiet() } else { Backoff::default() };
    backoff.succeeded();
    // Past its deadline and a minute, a rollout is over: then the silence is something else.
    let mut give_up_at_ms = when::now_ms() + 15 * 60_000;
    loop {
        let lost = match watch_once(out, client, rollout, screen, &mut backoff, &mut give_up_at_ms).await {
            Ok(Some(last)) => return Ok(last),
            // Without a last word: as if the node had gone away.
            Ok(None) => Status::unavailable("the watch ended early").into(),
            Err(error) => error,
        };
        if when::now_ms() > give_up_at_ms {
            return Err(Failure::new(format!("lost sight of the rollout of {}", rollout.app))
                .hint(format!("nodectl status {}", rollout.app))
                .into());
        }
        screen.head.set_message(follow::LOST);
        backoff.wait(lost).await?;
    }
}

async fn watch_once(
    out: &Out,
    client: &Client,
    rollout: &Rollout,
    screen: &Screen,
    backoff: &mut Backoff,
    give_up_at_ms: &mut u64,
) -> anyhow::Result<Option<DeploymentProgress>> {
    let request = WatchDeploymentRequest {
        tenant: String::new(),
        app: rollout.app.clone(),
        deployment: rollout.deployment,
    };
    let mut stream = client.apps().await?.watch_deployment(request).await?.into_inner();
    while let Some(progress) = stream.message().await? {
        backoff.succeeded();
        if let Some(deployment) = &progress.deployment {
            *give_up_at_ms = deployment.deadline_at_ms.max(when::now_ms()) + 60_000;
        }
        if progress.over {
            return Ok(Some(progress));
        }
        if out.is_json() {
            out.json_line(&progress_line(&progress))?;
        }
        screen.show(&progress);
    }
    Ok(None)
}

fn progress_line(progress: &DeploymentProgress) -> DeployLine {
    let nodes = views::node_names(&progress.nodes);
    DeployLine::Progress {
        status: progress.deployment.as_ref().map_or("unknown", |d| words::deployment_status(d.status)),
        waiting_for: progress.waiting_for.clone(),
        instances: progress.instances.iter().map(|instance| views::Instance::new(instance, &nodes)).collect(),
    }
}

impl Rollout {
    pub fn result_line(
        &self,
        status: &'static str,
        serving: Option<u64>,
        message: String,
        duration_ms: Option<u64>,
        log_tail: Vec<String>,
    ) -> DeployLine {
        DeployLine::Result {
            app: self.app.clone(),
            release: self.release,
            deployment: self.deployment,
            status,
            serving,
            message,
            duration_ms,
            urls: self.urls.clone(),
            log_tail,
        }
    }
}

fn finish(out: &Out, rollout: &Rollout, progress: &DeploymentProgress) -> anyhow::Result<ExitCode> {
    let deployment = progress.deployment.clone().unwrap_or_default();
    let done = deployment.status == DeploymentStatus::Done as i32;
    let failed = if done { None } else { failed_instance(rollout, &progress.instances) };
    let log_tail = failed
        .and_then(|instance| instance.observed.as_ref())
        .map(|o| o.log_tail.clone())
        .unwrap_or_default();
    if out.is_json() {
        let serving = if done { Some(deployment.release) } else { deployment.previous };
        let status = words::deployment_status(deployment.status);
        let message = deployment.message.clone();
        out.json_line(&rollout.result_line(status, serving, message, took_ms(&deployment), log_tail))?;
        return Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if !done {
        return Err(failure(rollout, &deployment, failed, &log_tail).into());
    }
    let word = out.paint.paint(Tone::Good, "done");
    out.line(format!("{word}{}: v{} serves", took_text(&deployment), deployment.release))?;
    for url in &rollout.urls {
        out.line(format!("  {url}"))?;
    }
    out.next(format!("nodectl logs -f {}", rollout.app));
    Ok(ExitCode::SUCCESS)
}

/// The instance of the new release that says most about why it failed.
fn failed_instance<'a>(rollout: &Rollout, instances: &'a [Instance]) -> Option<&'a Instance> {
    let own = instances.iter().filter(|instance| instance.release == rollout.release);
    let evidence = |instance: &&Instance| {
        let observed = instance.observed.as_ref();
        let failures = observed.map_or(0, |observed| observed.failures);
        (observed.is_some_and(|o| !o.ready), observed.is_some_and(|o| !o.log_tail.is_empty()), failures)
    };
    own.max_by_key(evidence)
}

fn failure(
    rollout: &Rollout,
    deployment: &Deployment,
    instance: Option<&Instance>,
    log_tail: &[String],
) -> Failure {
    /// What a node writes between the reason and the instance's last lines.
    const LAST_LINES: &str = "; its last lines:\n";
    /// What still fits beside the reason on a small screen.
    const SHOWN: usize = 12;
    let untouched =
        deployment.previous.map(|previous| format!(", v{previous} untouched")).unwrap_or_default();
    let outcome = match DeploymentStatus::try_from(deployment.status) {
        Ok(DeploymentStatus::Reverted) => match deployment.previous {
            Some(previous) => format!("reverted to v{previous}"),
            None => "reverted".to_owned(),
        },
        // What served before is the newer rollout's business then.
        Ok(DeploymentStatus::Cancelled) if deployment.message.starts_with("superseded") => {
            return Failure::new(format!("v{} was {}", deployment.release, plain(&deployment.message)))
                .hint(format!("that rollout goes on: nodectl status {} --watch", rollout.app));
        }
        Ok(DeploymentStatus::Cancelled) => format!("cancelled{untouched}"),
        _ => format!("failed{untouched}"),
    };
    let reason = if deployment.message.is_empty() {
        String::new()
    } else {
        // Its lines follow in the hint, one below the other.
        let (said, _) = deployment.message.split_once(LAST_LINES).unwrap_or((&deployment.message, ""));
        let said = if log_tail.is_empty() { &deployment.message } else { said };
        format!(": {}", plain(said))
    };
    let mut hint = String::new();
    if let (Some(instance), false) = (instance, log_tail.is_empty()) {
        hint.push_str(&format!("the last lines of {}:\n", words::instance_label(instance)));
        for line in log_tail.iter().skip(log_tail.len().saturating_sub(SHOWN)) {
            hint.push_str(&format!("  | {}\n", plain(line)));
        }
    }
    if deployment.status != DeploymentStatus::Cancelled as i32 {
        hint.push_str(&format!("more: nodectl why {0}, nodectl logs {0} --previous", rollout.app));
    }
    Failure::new(format!("{outcome}{reason}")).hint(hint)
}

/// Live lines on standard error: what is waited for, then one for each instance.
struct Screen {
    bars: Option<MultiProgress>,
    head: ProgressBar,
    instances: std::cell::RefCell<BTreeMap<u64, ProgressBar>>,
}

impl Screen {
    fn new(out: &Out) -> Self {
        let mut screen = Self { bars: None, head: ProgressBar::hidden(), instances: Default::default() };
        if shows_progress(out) {
            let bars = MultiProgress::new();
            screen.head = bars.add(ProgressBar::new_spinner());
            screen.head.set_style(style("{spinner} {wide_msg} {elapsed}"));
            screen.head.enable_steady_tick(Duration::from_millis(100));
            screen.bars = Some(bars);
        }
        screen
    }

    fn show(&self, progress: &DeploymentProgress) {
        let Some(bars) = &self.bars else { return };
        let waiting_for = if progress.waiting_for.is_empty() { "rolling out" } else { &progress.waiting_for };
        self.head.set_message(plain(waiting_for));
        let mut shown = self.instances.borrow_mut();
        shown.retain(|id, bar| {
            let stays = progress.instances.iter().any(|instance| instance.id == *id);
            if !stays {
                bar.finish_and_clear();
                bars.remove(bar);
            }
            stays
        });
        for instance in &progress.instances {
            let bar = shown.entry(instance.id).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_style(style("  {wide_msg}"));
                bar
            });
            bar.set_message(instance_line(instance));
            bar.tick();
        }
    }

    fn clear(&self) {
        for bar in self.instances.borrow().values() {
            bar.finish_and_clear();
        }
        self.head.finish_and_clear();
    }
}

fn instance_line(instance: &Instance) -> String {
    let (state, _) = words::instance_state(instance);
    let label = words::instance_label(instance);
    let release = format!("v{}", instance.release);
    let line = format!("{label:<10} {release:<5} {state:<10} {}", words::instance_note(instance));
    plain(line.trim_end())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is constant and good")
}
