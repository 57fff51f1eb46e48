//! How the instances of one process are spread over zones and nodes, and in which order to
//! stop some of them so that what stays is spread evenly.

use crate::model::ids::{NodeId, Zone};
use crate::model::instance::Instance;
use crate::model::node::Node;
use std::collections::{BTreeMap, BTreeSet};

/// Instances in one place: all that are to stay for now, and those among them that are as
/// wanted. The second count breaks ties, so that a rollout ends as even as it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Count {
    pub total: u32,
    pub current: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Spread<'a> {
    pub zones: BTreeMap<&'a Zone, Count>,
    pub nodes: BTreeMap<NodeId, Count>,
}

impl<'a> Spread<'a> {
    pub fn add(&mut self, node: &'a Node, current: bool) {
        let zone = self.zones.entry(&node.zone).or_default();
        let on = self.nodes.entry(node.id).or_default();
        for count in [zone, on] {
            count.total += 1;
            count.current += u32::from(current);
        }
    }

    pub fn remove(&mut self, node: &'a Node, current: bool) {
        let zone = self.zones.entry(&node.zone).or_default();
        let on = self.nodes.entry(node.id).or_default();
        for count in [zone, on] {
            count.total = count.total.saturating_sub(1);
            count.current = count.current.saturating_sub(u32::from(current));
        }
    }

    fn on(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |count| count.total)
    }

    fn zone(&self, zone: &Zone) -> u32 {
        self.zones.get(zone).map_or(0, |count| count.total)
    }
}

/// One that may be stopped.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub instance: &'a Instance,
    pub node: &'a Node,
    /// Lower tiers go first, whatever the balance.
    pub tier: u8,
    /// Among those of one node, the higher goes first.
    pub rank: u64,
    /// Whether the spread counts it.
    pub counted: bool,
    pub current: bool,
}

/// Gives candidates in the order in which to stop them: by tier, then from the fullest zone,
/// from its fullest node, the highest rank. Each step costs the logarithm.
pub(super) struct Removal<'a> {
    tiers: BTreeMap<u8, Tier<'a>>,
}

#[derive(Default)]
struct Tier<'a> {
    waiting: BTreeMap<NodeId, Vec<Candidate<'a>>>,
    zones: BTreeSet<(u32, &'a Zone)>,
    nodes: BTreeMap<&'a Zone, BTreeSet<(u32, NodeId)>>,
}

impl<'a> Removal<'a> {
    pub fn new(candidates: impl Iterator<Item = Candidate<'a>>, spread: &Spread<'a>) -> Self {
        let mut tiers: BTreeMap<u8, Tier<'a>> = BTreeMap::new();
        for candidate in candidates {
            let tier = tiers.entry(candidate.tier).or_default();
            let node = candidate.node;
            tier.waiting.entry(node.id).or_default().push(candidate);
            tier.zones.insert((spread.zone(&node.zone), &node.zone));
            tier.nodes.entry(&node.zone).or_default().insert((spread.on(node.id), node.id));
        }
        for tier in tiers.values_mut() {
            for list in tier.waiting.values_mut() {
                list.sort_by_key(|c| (c.rank, std::cmp::Reverse(c.instance.id)));
            }
        }
        Self { tiers }
    }

    /// The next to go, without taking it.
    pub fn peek(&self) -> Option<Candidate<'a>> {
        let tier = self.tiers.values().next()?;
        let (_, zone) = tier.zones.last()?;
        let (_, node) = tier.nodes.get(zone)?.last()?;
        tier.waiting.get(node)?.last().copied()
    }

    /// Takes the next to go; the spread then counts without it.
    pub fn pop(&mut self, spread: &mut Spread<'a>) -> Option<Candidate<'a>> {
        let next = self.peek()?;
        let mut entry = self.tiers.first_entry()?;
        let tier = entry.get_mut();
        let list = tier.waiting.get_mut(&next.node.id)?;
        list.pop();
        if list.is_empty() {
            tier.forget_node(next.node, spread);
        }
        if tier.waiting.is_empty() {
            entry.remove();
        }
        if next.counted {
            self.recount(next.node, spread, |spread| spread.remove(next.node, next.current));
        }
        Some(next)
    }

    /// Counts one more on `node`.
    pub fn add(&mut self, node: &'a Node, spread: &mut Spread<'a>) {
        self.recount(node, spread, |spread| spread.add(node, true));
    }

    /// Drops all candidates of the lowest tier.
    pub fn skip_tier(&mut self) {
        self.tiers.pop_first();
    }

    fn recount(&mut self, node: &'a Node, spread: &mut Spread<'a>, change: impl FnOnce(&mut Spread<'a>)) {
        let before = (spread.zone(&node.zone), spread.on(node.id));
        change(spread);
        let after = (spread.zone(&node.zone), spread.on(node.id));
        for tier in self.tiers.values_mut() {
            if tier.zones.remove(&(before.0, &node.zone)) {
                tier.zones.insert((after.0, &node.zone));
            }
            if let Some(nodes) = tier.nodes.get_mut(&node.zone)
                && nodes.remove(&(before.1, node.id))
            {
                nodes.insert((after.1, node.id));
            }
        }
    }
}

impl<'a> Tier<'a> {
    fn forget_node(&mut self, node: &'a Node, spread: &Spread<'a>) {
        self.waiting.remove(&node.id);
        if let Some(nodes) = self.nodes.get_mut(&node.zone) {
            nodes.remove(&(spread.on(node.id), node.id));
            if nodes.is_empty() {
                self.nodes.remove(&node.zone);
                self.zones.remove(&(spread.zone(&node.zone), &node.zone));
            }
        }
    }
}
