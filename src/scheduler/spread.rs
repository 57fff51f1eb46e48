//! How the instances of one process are spread over zones and nodes, and in which order to
//! stop some of them so that what stays is spread evenly.

use crate::model::ids::{NodeId, Zone};
use crate::model::instance::Instance;
use crate::model::node::Node;
use std::cmp::Reverse;
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

    fn fullness(&self, node: &Node, among: Among) -> (Fullness, Fullness) {
        let of = |count: Option<&Count>| {
            let Count { total, current } = count.copied().unwrap_or_default();
            let tie = i64::from(current);
            (total, if among == Among::Current { tie } else { -tie })
        };
        (of(self.zones.get(&node.zone)), of(self.nodes.get(&node.id)))
    }
}

/// The highest is the fullest: the total, then what breaks a tie.
type Fullness = (u32, i64);

/// Which ones are to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// Old ones: among equally full places from the one with the fewest current ones, since
    /// that is where the next is wanted.
    Old,
    /// Current ones: from the one with the most of them.
    Current,
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
    among: Among,
    tiers: BTreeMap<u8, Tier<'a>>,
}

#[derive(Default)]
struct Tier<'a> {
    waiting: BTreeMap<NodeId, Vec<Candidate<'a>>>,
    zones: BTreeSet<(Fullness, &'a Zone)>,
    nodes: BTreeMap<&'a Zone, BTreeSet<(Fullness, NodeId)>>,
}

impl<'a> Removal<'a> {
    pub fn new(among: Among, candidates: impl Iterator<Item = Candidate<'a>>, spread: &Spread<'a>) -> Self {
        let mut tiers: BTreeMap<u8, Tier<'a>> = BTreeMap::new();
        for candidate in candidates {
            let tier = tiers.entry(candidate.tier).or_default();
            let node = candidate.node;
            tier.waiting.entry(node.id).or_default().push(candidate);
            let (zone, on) = spread.fullness(node, among);
            tier.zones.insert((zone, &node.zone));
            tier.nodes.entry(&node.zone).or_default().insert((on, node.id));
        }
        for tier in tiers.values_mut() {
            for list in tier.waiting.values_mut() {
                list.sort_by_key(|c| (c.rank, Reverse(c.instance.id)));
            }
        }
        Self { among, tiers }
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
            tier.forget_node(next.node, spread.fullness(next.node, self.among));
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
        let before = spread.fullness(node, self.among);
        change(spread);
        let after = spread.fullness(node, self.among);
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
    fn forget_node(&mut self, node: &'a Node, (zone, on): (Fullness, Fullness)) {
        self.waiting.remove(&node.id);
        if let Some(nodes) = self.nodes.get_mut(&node.zone) {
            nodes.remove(&(on, node.id));
            if nodes.is_empty() {
                self.nodes.remove(&node.zone);
                self.zones.remove(&(zone, &node.zone));
            }
        }
    }
}
