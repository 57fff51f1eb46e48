//! What the proxy counts: cells of one worker, and the sums over all workers that the node
//! reads. Counters start at 0 with each proxy process.

use super::{convert, wire};
use crate::model::ids::{InstanceId, ProcessKey};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds; one more bucket is above the last.
/// Roughly three a decade from 0.5 ms, as dashboards expect, and finer below a second.
pub const LATENCY_BOUNDS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 60_000_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
/// 1xx, 2xx, 3xx, 4xx, 5xx.
const CLASSES: usize = 5;

/// Everything, summed over the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub services: BTreeMap<ProcessKey, ServiceStats>,
    /// By (instance, attempt), of those that the table lists.
    pub instances: BTreeMap<(InstanceId, u32), InstanceStats>,
    /// Clients connected now.
    pub connections: u64,
    /// Requests that no service has seen: no rule, refused, or malformed beyond the framing.
    pub unrouted: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Answers by class: 1xx (101), 2xx, 3xx, 4xx, 5xx.
    pub by_class: [u64; CLASSES],
    pub in_flight: u64,
    /// Requests by time to the head of the response, in the buckets of [`LATENCY_BOUNDS_US`].
    pub latency: [u64; BUCKETS],
    pub latency_sum_us: u64,
    /// Bodies as they passed, without heads.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Attempts after the first.
    pub retries: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceStats {
    pub requests: u64,
    pub in_flight: u64,
}

impl Stats {
    /// What a stranger sent beyond our buckets is left out; a key that is none is skipped.
    pub(super) fn from_wire(stats: wire::Stats) -> Self {
        let service = |service: wire::ServiceStats| {
            let mut into = ServiceStats {
                in_flight: service.in_flight,
                bytes_in: service.bytes_in,
                bytes_out: service.bytes_out,
                retries: service.retries,
                latency_sum_us: service.latency_sum_us,
                ..Default::default()
            };
            into.by_class.iter_mut().zip(service.by_class).for_each(|(to, from)| *to = from);
            into.latency.iter_mut().zip(service.latency).for_each(|(to, from)| *to = from);
            Some((convert::key_from_wire(&service.key).ok()?, into))
        };
        let instance = |instance: wire::InstanceStats| {
            let counts = InstanceStats { requests: instance.requests, in_flight: instance.in_flight };
            ((InstanceId(instance.instance), instance.attempt), counts)
        };
        Self {
            services: stats.services.into_iter().filter_map(service).collect(),
            instances: stats.instances.into_iter().map(instance).collect(),
            connections: stats.connections,
            unrouted: stats.unrouted,
        }
    }

    pub(super) fn to_wire(&self, request: u64) -> wire::Stats {
        let service = |(key, service): (&ProcessKey, &ServiceStats)| wire::ServiceStats {
            key: convert::key_to_wire(key),
            by_class: service.by_class.to_vec(),
            in_flight: service.in_flight,
            latency: service.latency.to_vec(),
            bytes_in: service.bytes_in,
            bytes_out: service.bytes_out,
            retries: service.retries,
            latency_sum_us: service.latency_sum_us,
        };
        let instance = |(key, counts): (&(InstanceId, u32), &InstanceStats)| wire::InstanceStats {
            instance: key.0.0,
            attempt: key.1,
            requests: counts.requests,
            in_flight: counts.in_flight,
        };
        wire::Stats {
            request,
            services: self.services.iter().map(service).collect(),
            instances: self.instances.iter().map(instance).collect(),
            connections: self.connections,
            unrouted: self.unrouted,
        }
    }

    /// Adds what another worker counted.
    pub(super) fn add(&mut self, other: Stats) {
        for (key, theirs) in other.services {
            let ours = self.services.entry(key).or_default();
            ours.by_class.iter_mut().zip(theirs.by_class).for_each(|(to, from)| *to += from);
            ours.latency.iter_mut().zip(theirs.latency).for_each(|(to, from)| *to += from);
            ours.in_flight += theirs.in_flight;
            ours.latency_sum_us += theirs.latency_sum_us;
            ours.bytes_in += theirs.bytes_in;
            ours.bytes_out += theirs.bytes_out;
            ours.retries += theirs.retries;
        }
        for (key, theirs) in other.instances {
            let ours = self.instances.entry(key).or_default();
            ours.requests += theirs.requests;
            ours.in_flight += theirs.in_flight;
        }
        self.connections += other.connections;
        self.unrouted += other.unrouted;
    }
}

/// One service's counters in one worker. Cells: a worker is one thread.
#[derive(Debug, Default)]
pub(super) struct ServiceCounters {
    by_class: [Cell<u64>; CLASSES],
    latency: [Cell<u64>; BUCKETS],
    latency_sum_us: Cell<u64>,
    pub in_flight: Cell<u64>,
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
    pub retries: Cell<u64>,
}

/// Adds to a counter.
pub(super) fn count(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get().wrapping_add(more));
}

impl ServiceCounters {
    /// One answer: its status and how long its head took.
    pub fn answered(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        count(&self.by_class[class], 1);
        let us = took.as_micros() as u64;
        count(&self.latency[LATENCY_BOUNDS_US.partition_point(|bound| *bound < us)], 1);
        count(&self.latency_sum_us, us);
    }

    pub fn snapshot(&self) -> ServiceStats {
        ServiceStats {
            by_class: std::array::from_fn(|i| self.by_class[i].get()),
            in_flight: self.in_flight.get(),
            latency: std::array::from_fn(|i| self.latency[i].get()),
            latency_sum_us: self.latency_sum_us.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            retries: self.retries.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let counters = ServiceCounters::default();
        for us in [0, 500, 501, 60_000_000, 60_000_001] {
            counters.answered(http::StatusCode::OK, Duration::from_micros(us));
        }
        let stats = counters.snapshot();
        assert_eq!((stats.latency[0], stats.latency[1]), (2, 1));
        assert_eq!((stats.latency[BUCKETS - 2], stats.latency[BUCKETS - 1]), (1, 1));
        assert_eq!(stats.by_class, [0, 5, 0, 0, 0]);
    }

    #[test]
    fn sums_survive_the_wire() {
        let key = convert::key_from_wire(&wire::Process {
            tenant: "default".into(),
            app: "shop".into(),
            process: "web".into(),
        })
        .unwrap();
        let one = Stats {
            services: [(key, ServiceStats { by_class: [0, 3, 0, 1, 0], bytes_in: 9, ..Default::default() })]
                .into(),
            instances: [((InstanceId(1), 2), InstanceStats { requests: 4, in_flight: 1 })].into(),
            connections: 2,
            unrouted: 1,
        };
        let mut sum = one.clone();
        sum.add(one.clone());
        assert_eq!(sum.connections, 4);
        assert_eq!(sum.services.values().next().unwrap().by_class, [0, 6, 0, 2, 0]);
        assert_eq!(Stats::from_wire(sum.to_wire(1)), sum);
    }
}
