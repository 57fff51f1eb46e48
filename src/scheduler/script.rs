//! The language of the scripted scenarios: one command a line, what it shows below it, each
//! line of that after `| `. See `testdata/README.md`.

use super::explain;
use super::plan::{MAX_CHANGES, Plan};
use super::world::{World, key};
use crate::model::app::{AppSpec, Check, DeployPolicy, ProcessSpec, Share, Strategy};
use crate::model::command::{Action, ChangeKind, Outcome};
use crate::model::ids::{InstanceId, NodeId, ProcessKey, ProcessName};
use crate::model::instance::{Desired, Exit};
use crate::model::node::NodeStatus;
use crate::model::resources::Resources;
use std::collections::BTreeMap;
use std::time::Duration;

pub struct Script {
    world: World,
    /// Kept by `keep`, to be applied late.
    kept: Option<Plan>,
    out: Vec<String>,
}

/// Runs one scenario: its text with what each command shows.
pub fn run(commands: &[&str]) -> Vec<String> {
    let mut script = Script { world: World::new(), kept: None, out: Vec::new() };
    let mut text = Vec::new();
    for command in commands {
        text.push((*command).to_owned());
        if !command.trim().is_empty() && !command.starts_with('#') {
            script.command(command);
        }
        text.extend(
            script
                .out
                .drain(..)
                .flat_map(|shown| shown.lines().map(|line| format!("| {line}")).collect::<Vec<_>>()),
        );
    }
    text
}

impl Script {
    fn show(&mut self, line: impl Into<String>) {
        self.out.push(line.into());
    }

    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let rest = &words[1..];
        match (words[0], rest) {
            ("node", [name, settings @ ..]) => self.node(name, settings),
            ("deploy", [app, settings @ ..]) => self.deploy(app, settings),
            ("scale", [app, counts @ ..]) => {
                let count = |word: &&str| {
                    let (process, count) = pair(word);
                    (process_name(process), number(count) as u32)
                };
                let counts = counts.iter().map(count).collect();
                self.act(Action::Scale { app: key(app), counts });
            }
            ("restart", [target]) => {
                let (app, process, slot) = split_name(target);
                self.act(Action::Restart { app: key(app), process: process.map(process_name), slot });
            }
            ("stop", [app]) => self.act(Action::SetStopped { app: key(app), stopped: true }),
            ("start", [app]) => self.act(Action::SetStopped { app: key(app), stopped: false }),
            ("remove", [app]) => self.act(Action::RemoveApp { app: key(app) }),
            ("cancel", [app]) => self.act(Action::CancelDeployment { app: key(app) }),
            ("cordon" | "uncordon", [name]) => self.mode(name, Some(words[0] == "cordon"), None),
            ("drain" | "undrain", [name]) => self.mode(name, None, Some(words[0] == "drain")),
            ("down" | "up", [name]) => {
                let status = if words[0] == "up" { NodeStatus::Up } else { NodeStatus::Down };
                let node = self.node_id(name);
                self.act(Action::SetNodeStatus { node, status });
            }
            ("advance", [seconds]) => {
                self.world.advance(Duration::from_secs(number(seconds.trim_end_matches('s'))));
            }
            ("ready", ["all"]) => {
                self.world.all_ready();
            }
            ("gone", ["all"]) => {
                self.world.all_gone();
            }
            ("ready", [name]) => {
                let id = self.instance(name, Desired::Run);
                self.world.make_ready(id);
            }
            ("unready", [name, why @ ..]) => {
                let id = self.instance(name, Desired::Run);
                self.world.make_unready(id, &why.join(" "));
            }
            ("gone", [name]) => {
                let id = self.instance(name, Desired::Stop);
                self.world.make_gone(id);
            }
            ("vanish", [name]) => {
                let id = self.instance(name, Desired::Run);
                self.world.make_gone(id);
            }
            ("crash", [name, times, log @ ..]) => {
                let id = self.instance(name, Desired::Run);
                let lines: Vec<String> = log.join(" ").split(" / ").map(str::to_owned).collect();
                for _ in 0..number(times) {
                    self.world.crash(id, Exit::Code(1), &lines);
                }
            }
            ("unhealthy", [name, why @ ..]) => {
                let id = self.instance(name, Desired::Run);
                let why = format!("not healthy within 30 s: {}", why.join(" "));
                self.world.crash(id, Exit::Unhealthy(why), &["listening on 127.0.0.1:3000".to_owned()]);
            }
            ("plan", []) => {
                let plan = self.world.plan();
                self.tell(&plan);
            }
            ("step", []) => {
                let plan = self.world.plan();
                self.tell(&plan);
                let outcome = self.world.apply(&plan);
                self.refusals(&outcome, &plan);
            }
            ("settle", []) => self.settle(),
            ("keep", []) => {
                let plan = self.world.plan();
                self.tell(&plan);
                self.kept = Some(plan);
            }
            ("apply-kept", []) => {
                let plan = self.kept.clone().expect("`keep` comes first");
                let outcome = self.world.apply(&plan);
                self.show(format!("{} of {} changes refused", outcome.refused, plan.changes.len()));
            }
            ("show", []) => self.show_instances(),
            ("why", [target]) => {
                let answer = explain::why(&self.world.state, &self.subject(target), self.world.now);
                self.show(answer.to_string());
            }
            _ => panic!("unknown command: {line}"),
        }
    }

    fn act(&mut self, action: Action) {
        let outcome = self.world.act(action);
        if let Some(rejection) = outcome.result {
            self.show(format!("rejected: {rejection}"));
        }
    }

    fn refusals(&mut self, outcome: &Outcome, plan: &Plan) {
        if outcome.refused > 0 {
            self.show(format!("{} of {} changes refused", outcome.refused, plan.changes.len()));
        }
    }

    /// Steps until nothing changes, with every agent doing at once what it is told.
    fn settle(&mut self) {
        for _ in 0..100 {
            let plan = self.world.plan();
            if !plan.changes.is_empty() {
                self.tell(&plan);
                self.world.apply(&plan);
            }
            let moved = self.world.all_gone() | self.world.all_ready();
            if plan.changes.is_empty() && !moved {
                plan.report.iter().for_each(|unplaced| self.out.push(format!("unplaced {unplaced}")));
                return;
            }
            if !plan.changes.is_empty() {
                self.show("--");
            }
        }
        panic!("does not settle: {:#?}", self.out);
    }

    fn tell(&mut self, plan: &Plan) {
        assert!(plan.changes.len() <= MAX_CHANGES);
        if plan.changes.is_empty() {
            self.show("nothing to change");
        }
        for change in &plan.changes {
            let line = self.tell_change(&change.kind);
            self.show(line);
        }
        for unplaced in &plan.report {
            self.show(format!("unplaced {unplaced}"));
        }
        if let Some(at) = plan.wake_at {
            self.show(format!("wake in {} s", at.since(self.world.now).as_secs()));
        }
    }

    fn tell_change(&self, change: &ChangeKind) -> String {
        let state = &self.world.state;
        let place =
            |node: NodeId| state.nodes.get(&node).map_or("?".into(), |n| format!("{} ({})", n.name, n.zone));
        let instance = |id: InstanceId| {
            state.instance(id).map_or(format!("#{id}"), |i| {
                format!("{} #{id} v{} on {}", i.name(), i.release, place(i.node))
            })
        };
        match change {
            ChangeKind::Place { app, process, slot, release, node, reason, .. } => {
                format!("place {app}/{process}.{slot} v{release} on {}: {reason}", place(*node))
            }
            ChangeKind::Stop { instance: id, reason } => format!("stop {}: {reason}", instance(*id)),
            ChangeKind::Forget { instance: id, reason } => format!("forget {}: {reason}", instance(*id)),
            ChangeKind::EndDeployment { app, status, message, .. } => {
                format!("end deployment of {app}, {status:?}: {message}")
            }
            ChangeKind::ForgetApp { app } => format!("forget app {app}"),
        }
    }

    fn show_instances(&mut self) {
        let mut lines = Vec::new();
        for app in self.world.state.apps.values() {
            let release = |n: Option<_>| n.map_or("none".to_owned(), |n| format!("v{n}"));
            lines.push(format!(
                "{}: target {}, serving {}",
                app.key,
                release(app.target),
                release(app.serving)
            ));
            for i in self.world.state.instances_of(&app.key) {
                let node = self.world.state.nodes.get(&i.node).map_or("?", |n| n.name.as_str());
                let desired = if i.desired == Desired::Run { "" } else { ", to stop" };
                let seen = if i.observed.ready { "ready".into() } else { format!("{:?}", i.observed.phase) };
                let name = format!("{}.{}", i.process, i.slot);
                lines.push(format!("  {name} #{} v{} on {node}: {seen}{desired}", i.id, i.release));
            }
        }
        self.out.extend(lines);
    }

    fn node(&mut self, name: &str, settings: &[&str]) {
        let mut settings = map(settings);
        let zone = settings.remove("zone").unwrap_or("a");
        let capacity = Resources {
            cpu_milli: cpu(settings.remove("cpu").unwrap_or("4")),
            memory_bytes: bytes(settings.remove("mem").unwrap_or("8GB")),
            disk_bytes: 0,
        };
        assert!(settings.is_empty(), "unknown settings {settings:?}");
        self.world.add_node(name, zone, capacity);
    }

    /// `web=3` makes a process; the other settings are for all of them.
    fn deploy(&mut self, app: &str, words: &[&str]) {
        let force = words.contains(&"force");
        let no_revert = words.contains(&"no-revert");
        let named: Vec<&str> = words.iter().copied().filter(|w| w.contains('=')).collect();
        let mut settings = map(&named);
        let mut deploy = DeployPolicy { auto_revert: !no_revert, ..DeployPolicy::default() };
        let mut process = ProcessSpec::default();
        let mut env = BTreeMap::new();
        for (name, value) in std::mem::take(&mut settings) {
            match name {
                "mem" => process.memory_bytes = bytes(value),
                "cpu" => process.cpu_milli = cpu(value),
                "port" => process.port = Some(number(value) as u16),
                "check" => process.health.check = Check::Http { path: value.into() },
                "surge" => deploy.max_surge = share(value),
                "unavailable" => deploy.max_unavailable = share(value),
                "deadline" => deploy.deadline = Duration::from_secs(number(value.trim_end_matches('s'))),
                "recreate" => deploy.strategy = Strategy::Recreate,
                "env" => {
                    env.insert("VALUE".to_owned(), value.to_owned());
                }
                _ => {
                    settings.insert(name, value);
                }
            }
        }
        let mut processes = BTreeMap::new();
        for (name, count) in settings {
            let count = number(count) as u32;
            processes.insert(process_name(name), ProcessSpec { count, ..process.clone() });
        }
        let outcome = self.world.deploy(app, AppSpec { processes, routes: vec![], env, deploy }, force);
        if let Some(rejection) = outcome.result {
            self.show(format!("rejected: {rejection}"));
        }
    }

    fn mode(&mut self, name: &str, cordoned: Option<bool>, draining: Option<bool>) {
        let node = self.node_id(name);
        self.act(Action::SetNodeMode { node, cordoned, draining });
    }

    fn node_id(&self, name: &str) -> NodeId {
        let node = self.world.state.nodes.values().find(|n| n.name.as_str() == name);
        node.unwrap_or_else(|| panic!("no node {name}")).id
    }

    /// A node's name is one that a node has.
    fn subject(&self, text: &str) -> explain::Subject {
        if let Some(node) = self.world.state.nodes.values().find(|n| n.name.as_str() == text) {
            return explain::Subject::Node(node.name.clone());
        }
        let (app, named, slot) = split_name(text);
        let process = |name| ProcessKey { app: key(app), process: process_name(name) };
        match (named, slot) {
            (Some(name), Some(slot)) => explain::Subject::Instance { process: process(name), slot },
            (Some(name), None) => explain::Subject::Process(process(name)),
            _ => explain::Subject::App(key(app)),
        }
    }

    /// The newest of that name, or `#id`.
    fn instance(&self, name: &str, desired: Desired) -> InstanceId {
        if let Some(id) = name.strip_prefix('#') {
            return InstanceId(number(id));
        }
        let found = self.world.state.instances().filter(|i| i.desired == desired && i.name() == name).last();
        found.unwrap_or_else(|| panic!("no instance {name} that is to {desired:?}")).id
    }
}

fn map<'a>(words: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
    words.iter().map(|word| pair(word)).collect()
}

fn pair(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or_else(|| panic!("{word} is not name=value"))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn share(text: &str) -> Share {
    match text.strip_suffix('%') {
        Some(percent) => Share::Percent(number(percent) as u32),
        None => Share::Count(number(text) as u32),
    }
}

fn cpu(text: &str) -> u64 {
    text.strip_suffix('m').map_or_else(|| number(text) * 1000, number)
}

fn bytes(text: &str) -> u64 {
    match (text.strip_suffix("GB"), text.strip_suffix("MB")) {
        (Some(n), _) => number(n) * 1_000_000_000,
        (_, Some(n)) => number(n) * 1_000_000,
        _ => number(text),
    }
}

fn process_name(name: &str) -> ProcessName {
    ProcessName::new(name).expect("a process's name")
}

/// `shop`, `shop/web` or `shop/web.3`.
fn split_name(name: &str) -> (&str, Option<&str>, Option<u32>) {
    let Some((app, rest)) = name.split_once('/') else { return (name, None, None) };
    match rest.split_once('.') {
        Some((process, slot)) => (app, Some(process), Some(number(slot) as u32)),
        None => (app, Some(rest), None),
    }
}
