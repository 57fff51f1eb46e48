//! The nodes with what they have left, and the choice among them: zones are kept in balance
//! first, then nodes, then the one with the most room is taken.
//!
//! Made once for a plan and kept true while the plan goes on. A placement costs the
//! logarithm of the number of nodes: each zone keeps its nodes ordered by room, and a
//! process walks that order once.

use super::filter::{self, Ask, Offer, Refusal};
use super::spread::{Count, Spread};
use crate::model::ClusterState;
use crate::model::ids::{NodeId, Zone};
use crate::model::node::Node;
use crate::model::resources::Resources;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Room left, in millionths of the scarcest resource: integers, so that order is exact.
type Score = Reverse<u32>;

pub(super) struct Pool<'a> {
    /// In the order of their ids.
    nodes: Vec<Entry<'a>>,
    /// In the order of their names.
    zones: Vec<ZoneEntry<'a>>,
}

struct Entry<'a> {
    node: &'a Node,
    free: Resources,
    zone: usize,
}

struct ZoneEntry<'a> {
    name: &'a Zone,
    free: Resources,
    capacity: Resources,
    /// The nodes that take instances, most room first.
    by_score: BTreeSet<(Score, usize)>,
}

fn score(free: Resources, capacity: Resources) -> Score {
    let part = |free: u64, capacity: u64| {
        if capacity == 0 { 0 } else { (u128::from(free) * 1_000_000 / u128::from(capacity)) as u32 }
    };
    Reverse(part(free.cpu_milli, capacity.cpu_milli).min(part(free.memory_bytes, capacity.memory_bytes)))
}

impl<'a> Pool<'a> {
    pub fn of(state: &'a ClusterState) -> Self {
        let names: BTreeSet<&Zone> = state.nodes.values().map(|node| &node.zone).collect();
        let index: BTreeMap<&Zone, usize> = names.iter().enumerate().map(|(i, zone)| (*zone, i)).collect();
        let mut zones: Vec<ZoneEntry<'a>> = names
            .into_iter()
            .map(|name| ZoneEntry {
                name,
                free: Resources::default(),
                capacity: Resources::default(),
                by_score: BTreeSet::new(),
            })
            .collect();
        let mut nodes = Vec::with_capacity(state.nodes.len());
        for node in state.nodes.values() {
            let free = node.capacity.saturating_sub(state.used_on(node.id));
            let zone = index[&node.zone];
            if node.accepts_instances() {
                zones[zone].free = zones[zone].free.saturating_add(free);
                zones[zone].capacity = zones[zone].capacity.saturating_add(node.capacity);
                zones[zone].by_score.insert((score(free, node.capacity), nodes.len()));
            }
            nodes.push(Entry { node, free, zone });
        }
        Self { nodes, zones }
    }

    fn offers(&self) -> impl Iterator<Item = Offer<'a>> + Clone {
        self.nodes.iter().map(|entry| Offer { node: entry.node, free: entry.free })
    }

    /// Whether some node would take it now.
    pub fn fits(&self, ask: &Ask) -> bool {
        self.offers().any(|offer| filter::check(ask, &offer).is_ok())
    }

    /// Why no node takes it; ask only when none does.
    pub fn refusal(&self, ask: &Ask) -> Refusal {
        filter::refusal(ask, self.offers())
    }

    fn accepts(&self, ask: &Ask, at: usize) -> bool {
        let entry = &self.nodes[at];
        filter::check(ask, &Offer { node: entry.node, free: entry.free }).is_ok()
    }

    /// Takes `need` of the node.
    fn take(&mut self, at: usize, need: Resources) {
        let entry = &mut self.nodes[at];
        let zone = &mut self.zones[entry.zone];
        zone.by_score.remove(&(score(entry.free, entry.node.capacity), at));
        entry.free = entry.free.saturating_sub(need);
        zone.free = zone.free.saturating_sub(need);
        zone.by_score.insert((score(entry.free, entry.node.capacity), at));
    }

    fn at(&self, id: NodeId) -> Option<usize> {
        self.nodes.binary_search_by_key(&id, |entry| entry.node.id).ok()
    }
}

/// Places the instances of one process, one after the other.
pub(super) struct Placer<'p, 'a> {
    pool: &'p mut Pool<'a>,
    ask: Ask,
    zones: Vec<ZoneWalk>,
    /// Zones in which the process may still find room, the emptiest of it first.
    open: BTreeSet<(Count, Score, usize)>,
    counts: BTreeMap<usize, Count>,
}

/// How far the process has come in one zone.
#[derive(Default)]
struct ZoneWalk {
    count: Count,
    /// The last place looked at in the zone's order of nodes without an instance of it.
    seen: Option<(Score, usize)>,
    /// The nodes that have one already, those with the fewest first.
    again: BTreeSet<(Count, Score, usize)>,
}

impl<'p, 'a> Placer<'p, 'a> {
    pub fn new(pool: &'p mut Pool<'a>, ask: Ask, spread: &Spread<'a>) -> Self {
        let mut zones: Vec<ZoneWalk> = pool.zones.iter().map(|_| ZoneWalk::default()).collect();
        let mut counts = BTreeMap::new();
        for (id, count) in &spread.nodes {
            let Some(at) = pool.at(*id).filter(|_| count.total > 0) else { continue };
            let entry = &pool.nodes[at];
            counts.insert(at, *count);
            if entry.node.accepts_instances() {
                zones[entry.zone].again.insert((*count, score(entry.free, entry.node.capacity), at));
            }
        }
        let mut open = BTreeSet::new();
        for (at, zone) in pool.zones.iter().enumerate().filter(|(_, zone)| !zone.by_score.is_empty()) {
            zones[at].count = spread.zones.get(zone.name).copied().unwrap_or_default();
            open.insert((zones[at].count, score(zone.free, zone.capacity), at));
        }
        Self { pool, ask, zones, open, counts }
    }

    /// The node for the next one; `None` when no node takes it.
    pub fn place(&mut self) -> Option<&'a Node> {
        while let Some(first) = self.open.pop_first() {
            let zone = first.2;
            let Some(at) = self.fresh(zone).or_else(|| self.again(zone)) else { continue };
            self.pool.take(at, self.ask.need);
            let entry = &self.pool.nodes[at];
            let count = self.counts.entry(at).or_default();
            count.total += 1;
            count.current += 1;
            let walk = &mut self.zones[zone];
            walk.count.total += 1;
            walk.count.current += 1;
            walk.again.insert((*count, score(entry.free, entry.node.capacity), at));
            let room = &self.pool.zones[zone];
            self.open.insert((walk.count, score(room.free, room.capacity), zone));
            return Some(entry.node);
        }
        None
    }

    pub fn refusal(&self) -> Refusal {
        self.pool.refusal(&self.ask)
    }

    /// A node of the zone that has none of the process: the one with the most room.
    fn fresh(&mut self, zone: usize) -> Option<usize> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = self.zones[zone].seen.map_or(Unbounded, Excluded);
        for place in self.pool.zones[zone].by_score.range((start, Unbounded)) {
            self.zones[zone].seen = Some(*place);
            let (_, at) = *place;
            if !self.counts.contains_key(&at) && self.pool.accepts(&self.ask, at) {
                return Some(at);
            }
        }
        None
    }

    /// A node of the zone that has some already: the one with the fewest.
    fn again(&mut self, zone: usize) -> Option<usize> {
        while let Some((_, _, at)) = self.zones[zone].again.pop_first() {
            if self.pool.accepts(&self.ask, at) {
                return Some(at);
            }
        }
        None
    }
}
