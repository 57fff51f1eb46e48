//! The routing table as one worker uses it: an index by host, and the worker's own backends
//! behind each service. Built anew from each table; backends that stay keep their pools.

use super::backend::{Backend, Key};
use super::stats::ServiceCounters;
use crate::model::ids::{ProcessKey, ViewVersion};
use crate::model::routes::{RoutingTable, path_matches};
use std::collections::HashMap;
use std::rc::Rc;

#[derive(Debug)]
pub struct Table {
    pub version: ViewVersion,
    /// Rules of one host, each with its place in the whole order.
    by_host: HashMap<Box<str>, Vec<Rule>>,
    any_host: Vec<Rule>,
    services: Vec<Rc<Service>>,
}

#[derive(Debug)]
struct Rule {
    place: usize,
    path: Box<str>,
    service: usize,
}

/// A process with its backends.
#[derive(Debug)]
pub struct Service {
    #[cfg_attr(not(test), expect(dead_code, reason = "for debugging and tests"))]
    pub key: ProcessKey,
    pub backends: Vec<Rc<Backend>>,
    pub counters: Rc<ServiceCounters>,
    /// Sum of the weights, if they differ.
    weights: Option<u64>,
}

impl Table {
    /// `backend` and `counters` give what the worker already has, or something new.
    pub fn build(
        table: &RoutingTable,
        mut backend: impl FnMut(&crate::model::routes::Backend) -> Rc<Backend>,
        mut counters: impl FnMut(&ProcessKey) -> Rc<ServiceCounters>,
    ) -> Self {
        let mut places = HashMap::new();
        let mut services = Vec::new();
        for (key, service) in &table.services {
            places.insert(key, services.len());
            let backends = service.backends.iter().map(&mut backend).collect();
            services.push(Rc::new(Service::new(key.clone(), backends, counters(key))));
        }
        let mut by_host: HashMap<Box<str>, Vec<Rule>> = HashMap::new();
        let mut any_host = Vec::new();
        for (place, rule) in table.rules.iter().enumerate() {
            // A rule may come before its service: then it leads to a service without backends.
            let service = *places.entry(&rule.to).or_insert_with(|| {
                services.push(Rc::new(Service::new(rule.to.clone(), Vec::new(), counters(&rule.to))));
                services.len() - 1
            });
            let entry = Rule { place, path: rule.path.as_str().into(), service };
            match &rule.host {
                Some(host) => by_host.entry(host.as_str().into()).or_default().push(entry),
                None => any_host.push(entry),
            }
        }
        Self { version: table.version, by_host, any_host, services }
    }

    /// The service that the first matching rule leads to; as `RoutingTable::find`.
    pub fn find(&self, host: &str, path: &str) -> Option<&Rc<Service>> {
        let first = |rules: &'_ [Rule]| rules.iter().position(|rule| path_matches(&rule.path, path));
        let own = self.by_host.get(host).and_then(|rules| first(rules).map(|at| &rules[at]));
        let any = first(&self.any_host).map(|at| &self.any_host[at]);
        let rule = match (own, any) {
            (Some(own), Some(any)) => Some(if own.place < any.place { own } else { any }),
            (own, any) => own.or(any),
        };
        rule.map(|rule| &self.services[rule.service])
    }
}

impl Service {
    fn new(key: ProcessKey, backends: Vec<Rc<Backend>>, counters: Rc<ServiceCounters>) -> Self {
        let even = backends.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let sum = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Self { key, backends, counters, weights: (!even).then_some(sum) }
    }

    /// A backend for one attempt: the less loaded of two that chance picks (Mitzenmacher,
    /// "The Power of Two Choices"), by weight, of those that are open, not tried, and not set
    /// aside after a refusal; those set aside are taken when there is no other.
    pub fn pick(&self, tried: &[Key], mut random: impl FnMut() -> u64) -> Option<Rc<Backend>> {
        if let [only] = self.backends.as_slice() {
            return (only.is_open() && !tried.contains(&only.key)).then(|| Rc::clone(only));
        }
        if self.backends.is_empty() {
            return None;
        }
        let good = |backend: &Rc<Backend>| {
            backend.is_open()
                && !backend.is_set_aside()
                && !tried.contains(&backend.key)
                && backend.weight > 0
        };
        let (one, two) = (self.draw(random()), self.draw(random()));
        match (good(one), good(two)) {
            (true, true) => return Some(Rc::clone(if two.load() < one.load() { two } else { one })),
            (true, false) => return Some(Rc::clone(one)),
            (false, true) => return Some(Rc::clone(two)),
            (false, false) => {}
        }
        // Chance hit none that will do: look at all.
        let least = |backends: &mut dyn Iterator<Item = &Rc<Backend>>| {
            backends.min_by_key(|backend| (backend.load(), random())).cloned()
        };
        let mut least = least;
        least(&mut self.backends.iter().filter(|backend| good(backend)))
            .or_else(|| least(&mut self.backends.iter().filter(|b| b.is_open() && !tried.contains(&b.key))))
    }

    /// One backend by its weight.
    fn draw(&self, random: u64) -> &Rc<Backend> {
        let Some(sum) = self.weights else {
            return &self.backends[(random % self.backends.len() as u64) as usize];
        };
        let mut left = random % sum.max(1);
        for backend in &self.backends {
            match left.checked_sub(u64::from(backend.weight)) {
                Some(rest) => left = rest,
                None => return backend,
            }
        }
        &self.backends[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{AppKey, AppName, InstanceId, ProcessName, TenantName};
    use crate::model::routes as model;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn key(app: &str) -> ProcessKey {
        ProcessKey {
            app: AppKey { tenant: TenantName::default_tenant(), app: AppName::new(app).unwrap() },
            process: ProcessName::new("web").unwrap(),
        }
    }

    fn build(table: &RoutingTable) -> Table {
        let backend = |b: &model::Backend| Rc::new(Backend::new(b, false));
        Table::build(table, backend, |_| Rc::default())
    }

    fn service(weights: &[u32]) -> Rc<Service> {
        let backends = weights.iter().enumerate().map(|(i, weight)| model::Backend {
            instance: InstanceId(i as u64),
            attempt: 0,
            address: ([127, 0, 0, 1], 1).into(),
            weight: *weight,
        });
        let service = model::Service { backends: backends.collect(), expected: false };
        let table = RoutingTable { services: [(key("a"), service)].into(), ..Default::default() };
        Rc::clone(&build(&table).services[0])
    }

    /// xorshift64: fixed seed, so that a failure can be looked at again.
    fn random() -> impl FnMut() -> u64 {
        let state = Cell::new(0x9e37_79b9_7f4a_7c15u64);
        move || {
            let mut x = state.get();
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            state.set(x);
            x
        }
    }

    #[test]
    fn picks_follow_the_weights() {
        let service = service(&[3, 1, 0]);
        let mut random = random();
        let mut counts = [0u32; 3];
        for _ in 0..40_000 {
            counts[service.pick(&[], &mut random).unwrap().key.0.0 as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        let share = f64::from(counts[0]) / 40_000.0;
        assert!((0.72..0.78).contains(&share), "{counts:?}");
    }

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        let service = service(&[1, 1]);
        let busy = service.backends[0].lease();
        let mut random = random();
        for _ in 0..1000 {
            let picked = service.pick(&[], &mut random).unwrap();
            // Twice the same by chance is the only way to the busy one.
            if picked.key.0.0 == 0 {
                assert_eq!(picked.load(), busy.backend().load());
            }
        }
        let idle = (0..1000).filter(|_| service.pick(&[], &mut random).unwrap().key.0.0 == 1).count();
        assert!(idle > 700, "{idle}");
    }

    #[test]
    fn closed_and_tried_backends_are_never_picked_and_refused_ones_only_at_last() {
        let service = service(&[1, 1, 1]);
        let mut random = random();
        service.backends[0].close();
        service.backends[1].refused();
        for _ in 0..200 {
            assert_eq!(service.pick(&[], &mut random).unwrap().key.0.0, 2);
        }
        let tried = [service.backends[2].key];
        assert_eq!(service.pick(&tried, &mut random).unwrap().key.0.0, 1);
        let tried = [service.backends[2].key, service.backends[1].key];
        assert!(service.pick(&tried, &mut random).is_none());
    }

    #[test]
    fn rule_without_service_leads_to_one_without_backends() {
        let rule = model::Rule { host: None, path: "/".into(), to: key("later") };
        let table = build(&RoutingTable { rules: vec![rule], ..Default::default() });
        assert!(table.find("x", "/").unwrap().backends.is_empty());
    }

    proptest! {
        #[test]
        fn index_finds_what_looking_at_each_rule_finds(
            rules in proptest::collection::vec((
                proptest::option::of(proptest::sample::select(vec!["a", "b"])),
                proptest::sample::select(vec!["/", "/x", "/x/y", "/z"]),
                proptest::sample::select(vec!["one", "two", "three"]),
            ), 0..8),
            host in proptest::sample::select(vec!["a", "b", "c"]),
            path in proptest::sample::select(vec!["/", "/x", "/x/y/z", "/xy", "*"]),
        ) {
            let rules = rules.into_iter().map(|(host, path, to)| model::Rule {
                host: host.map(str::to_owned), path: path.to_owned(), to: key(to),
            });
            let table = RoutingTable { rules: rules.collect(), ..Default::default() };
            let found = build(&table).find(host, path).map(|service| service.key.clone());
            prop_assert_eq!(found, table.find(host, path).map(|rule| rule.to.clone()));
        }
    }
}
