//! Logs of one or many instances as one stream: what is kept in the order of its times, then
//! what comes as it comes.
//!
//! ```text
//!   instance ─┐                      ┌─▶ kept: merged by time
//!   instance ─┼─ host.log (pulled) ──┤
//!   (new one)─┘                      └─▶ live: whoever speaks first
//! ```
//! The client's pace is everyone's: nothing is read ahead but one line of each instance.

use super::host::{HostError, LogItem, LogLine, LogQuery, LogSource, LogStream};
use super::stream::{Reply, stopped};
use super::{Api, Fault, View, Watch, target, tenant};
use crate::model::ClusterState;
use crate::model::ids::{AppKey, InstanceId};
use crate::model::instance::Instance;
use crate::model::target::Target;
use crate::proto::v1;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

impl Api {
    pub(super) async fn read_logs(&self, request: v1::LogsRequest) -> Result<Reply<v1::LogEntry>, Fault> {
        let tenant = tenant(&request.tenant)?;
        let target = target::parse(&request.target)?;
        let query = LogQuery {
            tail: request.tail.map(u64::from),
            since_unix_nanos: request.since_ms.map(|ms| ms.saturating_mul(1_000_000)),
            follow: request.follow,
            earlier_attempts: request.previous,
        };
        let app = AppKey { tenant, app: target.app.clone() };
        // Before the view: an instance that is placed in between is found by the watch.
        let watch = request.follow.then(|| self.store.watch());
        let View { state, .. } = self.view_of_here().await?;
        let chosen = self.choose_logs(&state, &app, &target, request.previous).await?;
        let mut kept = Vec::new();
        for source in &chosen {
            kept.push(Source::open(self, &app, source, query.clone()).await?);
        }
        let known = state.instances().map(|instance| instance.id).chain(chosen.iter().map(|s| s.instance));
        let newest = known.max().unwrap_or_default();
        let follow = watch.map(|watch| Follow {
            api: self.clone(),
            app,
            target,
            watch,
            newest,
            pending: VecDeque::new(),
            is_over: false,
        });
        let merge = Merge { kept, live: SelectAll::new(), follow };
        Ok(self.until_stopped(futures_util::stream::unfold(Some(merge), Merge::step)))
    }

    /// The instances whose logs were asked for: the newest of each slot, those that are gone
    /// where none is left, and with `previous` all that are kept.
    async fn choose_logs(
        &self,
        state: &ClusterState,
        app: &AppKey,
        target: &Target,
        previous: bool,
    ) -> Result<Vec<LogSource>, Fault> {
        let current = target::instances(state, &app.tenant, target)
            .map(|instances| instances.iter().map(source_of).collect::<Vec<_>>());
        if let Ok(current) = &current
            && !current.is_empty()
            && !previous
        {
            return Ok(current.clone());
        }
        let wanted = |source: &LogSource| {
            target.process.as_ref().is_none_or(|process| *process == source.process)
                && target.slot.is_none_or(|slot| slot == source.slot)
        };
        let mut kept = self.host.kept_logs(&app.app).await?;
        kept.retain(wanted);
        kept.extend(current.clone().unwrap_or_default());
        kept.sort_by_key(|source| source.instance);
        kept.dedup_by_key(|source| source.instance);
        if kept.is_empty() {
            // Nothing is left of it: what the target means today is the better answer.
            return current;
        }
        if !previous {
            let newest: BTreeMap<_, _> = kept.into_iter().map(|s| ((s.process.clone(), s.slot), s)).collect();
            kept = newest.into_values().collect();
        }
        Ok(kept)
    }
}

/// Names an instance in each of its entries.
#[derive(Clone)]
struct Label {
    target: String,
    instance: InstanceId,
}

impl Label {
    fn entry(&self, line: LogLine) -> v1::LogEntry {
        v1::LogEntry {
            target: self.target.clone(),
            at_unix_nanos: line.at_unix_nanos,
            stream: line.stream,
            line: line.line,
            partial: line.is_partial,
            instance: self.instance.0,
            attempt: line.attempt,
        }
    }
}

/// One instance's log, with the line that it has ready.
struct Source {
    label: Label,
    stream: LogStream,
    head: Option<LogLine>,
    /// What was kept has been read.
    is_caught_up: bool,
    is_over: bool,
}

impl Source {
    async fn open(api: &Api, app: &AppKey, source: &LogSource, query: LogQuery) -> Result<Self, Fault> {
        let stream = match api.host.log(source.instance, query).await {
            Ok(stream) => stream,
            // Its log was let go in between: no reason to withhold the others'.
            Err(HostError::NotFound(_)) => Box::pin(futures_util::stream::empty()),
            Err(error) => return Err(error.into()),
        };
        let target = format!("{}/{}.{}", app.app, source.process, source.slot);
        let label = Label { target, instance: source.instance };
        Ok(Source { label, stream, head: None, is_caught_up: false, is_over: false })
    }

    /// Reads the next kept line, if there is one.
    async fn fill(&mut self) -> Result<(), Fault> {
        if self.head.is_some() || self.is_caught_up || self.is_over {
            return Ok(());
        }
        match self.stream.next().await {
            Some(Ok(LogItem::Line(line))) => self.head = Some(line),
            Some(Ok(LogItem::CaughtUp)) => self.is_caught_up = true,
            Some(Err(error)) => return Err(error.into()),
            None => self.is_over = true,
        }
        Ok(())
    }

    /// What comes from now on.
    fn live(self) -> Live {
        let label = self.label;
        Box::pin(self.stream.filter_map(move |item| {
            let entry = match item {
                Ok(LogItem::Line(line)) => Some(Ok(label.entry(line))),
                Ok(LogItem::CaughtUp) => None,
                Err(error) => Some(Err(error.into())),
            };
            std::future::ready(entry)
        }))
    }
}

type Live = Pin<Box<dyn futures_util::Stream<Item = Result<v1::LogEntry, Fault>> + Send>>;

struct Merge {
    /// Emptied when all that was kept has been sent.
    kept: Vec<Source>,
    live: SelectAll<Live>,
    follow: Option<Follow>,
}

impl Merge {
    async fn step(this: Option<Self>) -> Option<(Result<v1::LogEntry, Fault>, Option<Self>)> {
        let mut this = this?;
        match this.next().await {
            Ok(Some(entry)) => Some((Ok(entry), Some(this))),
            Ok(None) => None,
            Err(fault) => Some((Err(fault), None)),
        }
    }

    async fn next(&mut self) -> Result<Option<v1::LogEntry>, Fault> {
        if let Some(entry) = self.next_kept().await? {
            return Ok(Some(entry));
        }
        let Some(follow) = &mut self.follow else { return Ok(None) };
        loop {
            if follow.is_over && self.live.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                entry = self.live.next(), if !self.live.is_empty() => match entry {
                    Some(entry) => return entry.map(Some),
                    None => continue,
                },
                fresh = follow.fresh(), if !follow.is_over => {
                    self.live.extend(fresh?.map(Source::live));
                }
            }
        }
    }

    /// The earliest line of all that are kept.
    async fn next_kept(&mut self) -> Result<Option<v1::LogEntry>, Fault> {
        for source in &mut self.kept {
            source.fill().await?;
        }
        let earliest = self
            .kept
            .iter_mut()
            .filter_map(|source| source.head.as_ref().map(|line| line.at_unix_nanos).map(|at| (at, source)))
            .min_by_key(|(at, _)| *at);
        if let Some((_, source)) = earliest {
            return Ok(source.head.take().map(|line| source.label.entry(line)));
        }
        for source in self.kept.drain(..).filter(|source| !source.is_over) {
            self.live.push(source.live());
        }
        Ok(None)
    }
}

/// Waits for instances that come later.
struct Follow {
    api: Api,
    app: AppKey,
    target: Target,
    watch: Box<dyn Watch>,
    /// Ids only rise: what is above this is new.
    newest: InstanceId,
    /// Placed, and their logs not yet opened.
    pending: VecDeque<LogSource>,
    /// The app is gone: nothing new will come.
    is_over: bool,
}

impl Follow {
    /// The log of an instance that was placed since.
    ///
    /// # Cancel safety
    /// An instance is taken off `pending` only when its log is open.
    async fn fresh(&mut self) -> Result<Option<Source>, Fault> {
        if self.pending.is_empty() {
            let Some(view) = self.watch.changed().await else { return Err(stopped()) };
            self.is_over = view.state.app(&self.app).is_none();
            let known = self.newest;
            for instance in view.state.instances_of(&self.app).filter(|instance| instance.id > known) {
                self.newest = instance.id;
                if target::matches(&self.target, instance) {
                    self.pending.push_back(source_of(instance));
                }
            }
        }
        let Some(source) = self.pending.front() else { return Ok(None) };
        let query = LogQuery { follow: true, earlier_attempts: true, ..LogQuery::default() };
        let source = Source::open(&self.api, &self.app, source, query).await?;
        self.pending.pop_front();
        Ok(Some(source))
    }
}

fn source_of(instance: &Arc<Instance>) -> LogSource {
    LogSource { instance: instance.id, process: instance.process.clone(), slot: instance.slot }
}
