//! Which nodes may take an instance, and when none may, why: a chain of filters that each
//! name their reason, and the summary of all refusals with the smallest change that would
//! have helped. Constraints and pools by name will be further links of [`CHAIN`].

use crate::model::ids::NodeName;
use crate::model::node::{Node, NodeStatus};
use crate::model::resources::{Bytes, Cpu, Resources};
use std::fmt;

/// What is asked of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub need: Resources,
}

/// A node as the plan sees it: with what it has left after what was planned already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub node: &'a Node,
    pub free: Resources,
}

/// Why one node did not take an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Down,
    Draining,
    Cordoned,
    /// Too little is free.
    Resources,
}

type Filter = fn(&Ask, &Offer<'_>) -> Result<(), Reason>;

/// In the order in which a reason is worth telling: what is wrong with the node first, what
/// it lacks last.
const CHAIN: [Filter; 4] = [is_up, is_not_draining, is_not_cordoned, has_room];

fn is_up(_: &Ask, offer: &Offer<'_>) -> Result<(), Reason> {
    if offer.node.status == NodeStatus::Up { Ok(()) } else { Err(Reason::Down) }
}

fn is_not_draining(_: &Ask, offer: &Offer<'_>) -> Result<(), Reason> {
    if offer.node.draining { Err(Reason::Draining) } else { Ok(()) }
}

fn is_not_cordoned(_: &Ask, offer: &Offer<'_>) -> Result<(), Reason> {
    if offer.node.cordoned { Err(Reason::Cordoned) } else { Ok(()) }
}

fn has_room(ask: &Ask, offer: &Offer<'_>) -> Result<(), Reason> {
    if offer.free.covers(ask.need) { Ok(()) } else { Err(Reason::Resources) }
}

/// Whether the node may take the instance; the first reason against it if not.
pub(super) fn check(ask: &Ask, offer: &Offer<'_>) -> Result<(), Reason> {
    CHAIN.iter().try_for_each(|filter| filter(ask, offer))
}

/// Why no node took an instance: the refusals counted by reason, and what would have helped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub need: Resources,
    pub nodes: u32,
    /// Each reason with how many nodes gave it and the names of the first few.
    pub by_reason: Vec<(Reason, u32, Vec<NodeName>)>,
    /// What the need exceeds, of the nodes that take instances at all.
    pub short: Vec<Shortage>,
    /// The smallest change that would have worked.
    pub remedy: Remedy,
}

/// One resource of which no open node has enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub resource: Kind,
    pub need: u64,
    pub largest_free: u64,
    pub on: NodeName,
    /// The most that any open node has in total: when it is below the need, emptying the
    /// cluster would not help.
    pub largest_total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cpu,
    Memory,
    Disk,
}

/// The smallest change that would have worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// No node takes instances.
    AddNode,
    /// The node has room and is cordoned.
    Uncordon(NodeName),
    /// The node has room and is down.
    BringBack(NodeName),
    /// So much more on this node.
    Free { on: NodeName, more: Resources },
}

/// How many names of nodes a refusal carries for each reason.
const NAMES_KEPT: usize = 3;

/// Sums the refusals of all nodes up. Call it only when [`check`] refused every one.
pub(super) fn refusal<'a>(ask: &Ask, offers: impl Iterator<Item = Offer<'a>> + Clone) -> Refusal {
    let mut by_reason: Vec<(Reason, u32, Vec<NodeName>)> = Vec::new();
    let mut nodes = 0;
    for offer in offers.clone() {
        nodes += 1;
        let Err(reason) = check(ask, &offer) else { continue };
        let at = by_reason.iter().position(|(r, ..)| *r == reason).unwrap_or_else(|| {
            by_reason.push((reason, 0, Vec::new()));
            by_reason.len() - 1
        });
        by_reason[at].1 += 1;
        if by_reason[at].2.len() < NAMES_KEPT {
            by_reason[at].2.push(offer.node.name.clone());
        }
    }
    by_reason.sort_by_key(|(reason, ..)| std::cmp::Reverse(*reason));
    let open = offers.clone().filter(|offer| offer.node.accepts_instances());
    Refusal { need: ask.need, nodes, by_reason, short: shortages(ask, open), remedy: remedy(ask, offers) }
}

type Amount = fn(Resources) -> u64;

fn shortages<'a>(ask: &Ask, open: impl Iterator<Item = Offer<'a>> + Clone) -> Vec<Shortage> {
    let kinds: [(Kind, Amount); 3] =
        [(Kind::Cpu, |r| r.cpu_milli), (Kind::Memory, |r| r.memory_bytes), (Kind::Disk, |r| r.disk_bytes)];
    let mut short = Vec::new();
    for (resource, amount) in kinds {
        let need = amount(ask.need);
        let mut largest: Option<Offer<'a>> = None;
        let mut largest_total = 0;
        for offer in open.clone() {
            largest_total = largest_total.max(amount(offer.node.capacity));
            if largest.is_none_or(|best| amount(offer.free) > amount(best.free)) {
                largest = Some(offer);
            }
        }
        let Some(best) = largest.filter(|best| amount(best.free) < need) else { continue };
        let on = best.node.name.clone();
        short.push(Shortage { resource, need, largest_free: amount(best.free), on, largest_total });
    }
    short
}

fn remedy<'a>(ask: &Ask, offers: impl Iterator<Item = Offer<'a>> + Clone) -> Remedy {
    let roomy = |offer: &Offer<'_>| offer.free.covers(ask.need) && !offer.node.draining;
    if let Some(closed) = offers.clone().find(|o| roomy(o) && o.node.status == NodeStatus::Up) {
        return Remedy::Uncordon(closed.node.name.clone());
    }
    if let Some(down) = offers.clone().find(roomy) {
        return Remedy::BringBack(down.node.name.clone());
    }
    let lack = |offer: &Offer<'_>| ask.need.saturating_sub(offer.free);
    // The node that lacks the smallest part of what is asked, in its scarcest resource.
    let part = |offer: &Offer<'_>| {
        let lack = lack(offer);
        let ppm = |lack: u64, need: u64| u128::from(lack) * 1_000_000 / u128::from(need.max(1));
        ppm(lack.cpu_milli, ask.need.cpu_milli)
            .max(ppm(lack.memory_bytes, ask.need.memory_bytes))
            .max(ppm(lack.disk_bytes, ask.need.disk_bytes))
    };
    match offers.filter(|offer| offer.node.accepts_instances()).min_by_key(part) {
        Some(nearest) => Remedy::Free { on: nearest.node.name.clone(), more: lack(&nearest) },
        None => Remedy::AddNode,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("the cluster has no node: add one");
        }
        let mut parts: Vec<String> = self.short.iter().map(Shortage::to_string).collect();
        // Enough of each, but never all of it on one node.
        if parts.is_empty() && self.by_reason.iter().any(|(r, ..)| *r == Reason::Resources) {
            let need = Amounts(self.need);
            parts.push(format!("needs {need} together, which no open node has free"));
        }
        for (reason, count, names) in self.by_reason.iter().filter(|(r, ..)| *r != Reason::Resources) {
            parts.push(nodes_are(*count, names, *reason));
        }
        write!(f, "{}; {}", parts.join("; "), self.remedy)
    }
}

fn nodes_are(count: u32, names: &[NodeName], reason: Reason) -> String {
    let listed: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
    let more = count as usize - names.len();
    let is = if count == 1 { "is" } else { "are" };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest} {is} {reason}", listed.join(", "))
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Down => "down",
            Reason::Draining => "being drained",
            Reason::Cordoned => "cordoned",
            Reason::Resources => "too full",
        })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |value: u64| match self.resource {
            Kind::Cpu => Cpu(value).to_string(),
            Kind::Memory | Kind::Disk => Bytes(value).to_string(),
        };
        let what = match self.resource {
            Kind::Cpu => "of a core",
            Kind::Memory => "of memory",
            Kind::Disk => "of disk",
        };
        let what = if self.resource == Kind::Cpu && self.need >= 1000 { "cores" } else { what };
        write!(
            f,
            "needs {} {what}, the largest free is {} on {}",
            amount(self.need),
            amount(self.largest_free),
            self.on
        )?;
        if self.largest_total < self.need {
            write!(f, " (no open node has more than {} in all)", amount(self.largest_total))?;
        }
        Ok(())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::AddNode => f.write_str("add a node"),
            Remedy::Uncordon(node) => write!(f, "it would fit on {node}: uncordon it"),
            Remedy::BringBack(node) => write!(f, "it would fit on {node}: bring it back"),
            Remedy::Free { on, more } => write!(f, "{} more on {on} would do", Amounts(*more)),
        }
    }
}

/// The amounts that are not zero, for people.
struct Amounts(Resources);

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resources { cpu_milli, memory_bytes, disk_bytes } = self.0;
        let mut parts = Vec::new();
        if cpu_milli > 0 {
            parts.push(format!("{} CPU", Cpu(cpu_milli)));
        }
        if memory_bytes > 0 {
            parts.push(format!("{} of memory", Bytes(memory_bytes)));
        }
        if disk_bytes > 0 {
            parts.push(format!("{} of disk", Bytes(disk_bytes)));
        }
        f.write_str(&parts.join(" and "))
    }
}
