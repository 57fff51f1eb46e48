//! What a proxy needs to know, and nothing else: rules in order, and the ready backends
//! behind each; how a rule matches, and the difference between two tables. The proxy room
//! sees these values, never the cluster state.

use super::ids::{InstanceId, ProcessKey, ViewVersion};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The whole table of one view. A proxy swaps it in as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    pub version: ViewVersion,
    /// In order; the first rule that matches wins. The projection sorts exact hosts before
    /// any-host rules and longer paths before shorter.
    pub rules: Vec<Rule>,
    pub services: BTreeMap<ProcessKey, Service>,
}

/// `host` and `path` to a process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Lower case, without port and trailing dot; `None` matches every host.
    pub host: Option<String>,
    /// Matches whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. `/` matches all.
    pub path: String,
    pub to: ProcessKey,
}

/// What stands behind a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub backends: Vec<Backend>,
    /// An instance is being started: a request may be worth parking.
    pub expected: bool,
}

/// The address of a ready instance. (instance, attempt) names it; an address alone never
/// does, since addresses are used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    pub instance: InstanceId,
    pub attempt: u32,
    pub address: SocketAddr,
    /// Of the smooth weighted share between versions; 1 when nothing is weighted.
    pub weight: u32,
}

/// What turns one table into a newer one: only the services that differ travel, and the
/// rules only when they changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDelta {
    /// The version that this delta was made against.
    pub base: ViewVersion,
    pub version: ViewVersion,
    /// `None`: the rules stay as they are.
    pub rules: Option<Vec<Rule>>,
    pub changed: BTreeMap<ProcessKey, Service>,
    pub removed: Vec<ProcessKey>,
}

/// Why a delta was not applied; the caller acts differently on each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaRefused {
    /// What is held is as new or newer: nothing to do.
    #[error("the table {offered:?} is not newer than {held:?}")]
    Stale { held: ViewVersion, offered: ViewVersion },
    /// Made against another base: ask for the whole table.
    #[error("the delta is against {base:?}, but {held:?} is held")]
    OtherBase { held: ViewVersion, base: ViewVersion },
}

impl RoutingTable {
    /// The first rule that matches, by looking at each in order. The proxy uses an index
    /// that is tested to give the same answer.
    pub fn find(&self, host: &str, path: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(host, path))
    }

    /// What `newer` has that this one has not.
    pub fn difference(&self, newer: &RoutingTable) -> TableDelta {
        TableDelta {
            base: self.version,
            version: newer.version,
            rules: (self.rules != newer.rules).then(|| newer.rules.clone()),
            changed: newer
                .services
                .iter()
                .filter(|(key, service)| self.services.get(*key) != Some(*service))
                .map(|(key, service)| (key.clone(), service.clone()))
                .collect(),
            removed: self.services.keys().filter(|key| !newer.services.contains_key(*key)).cloned().collect(),
        }
    }

    /// Makes this table the one that `delta` leads to.
    ///
    /// # Errors
    /// The delta is stale, or made against a table other than this; nothing was changed.
    pub fn apply(&mut self, delta: TableDelta) -> Result<(), DeltaRefused> {
        if delta.version <= self.version {
            return Err(DeltaRefused::Stale { held: self.version, offered: delta.version });
        }
        if delta.base != self.version {
            return Err(DeltaRefused::OtherBase { held: self.version, base: delta.base });
        }
        if let Some(rules) = delta.rules {
            self.rules = rules;
        }
        for key in &delta.removed {
            self.services.remove(key);
        }
        self.services.extend(delta.changed);
        self.version = delta.version;
        Ok(())
    }
}

impl Rule {
    /// `host` as [`normal_host`] gives it.
    pub fn matches(&self, host: &str, path: &str) -> bool {
        self.host.as_deref().is_none_or(|wanted| wanted == host) && path_matches(&self.path, path)
    }
}

/// Whether `path` is `rule` or lies below it, by whole segments.
pub fn path_matches(rule: &str, path: &str) -> bool {
    let rule = rule.strip_suffix('/').unwrap_or(rule);
    match path.strip_prefix(rule) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || rule.is_empty(),
        None => false,
    }
}

/// The host of an authority as rules spell it: lower case, without port and trailing dot;
/// `None` where it is no host (RFC 3986 §3.2.2, without percent-encoding, which no DNS name
/// needs, and without user information, which RFC 9110 §4.2.4 has recipients refuse).
pub fn normal_host(authority: &str) -> Option<Cow<'_, str>> {
    let host = if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, port) = authority.split_at(end + 1);
        host[1..end].parse::<std::net::Ipv6Addr>().ok()?;
        check_port(port)?;
        host
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        let (host, port) = authority.split_at(end);
        check_port(port)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        // Underscores are no host name but occur in practice, and lead nowhere else.
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !host.bytes().all(fits) || (host.is_empty() && !authority.is_empty()) {
            return None;
        }
        host
    };
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// `""`, `":"` or `":8080"` (RFC 3986 allows the empty port).
fn check_port(port: &str) -> Option<()> {
    let Some(digits) = port.strip_prefix(':') else { return port.is_empty().then_some(()) };
    (digits.is_empty() || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()))
        .then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{AppKey, AppName, ProcessName, TenantName};
    use proptest::prelude::*;

    fn key(app: &str) -> ProcessKey {
        ProcessKey {
            app: AppKey { tenant: TenantName::default_tenant(), app: AppName::new(app).unwrap() },
            process: ProcessName::new("web").unwrap(),
        }
    }

    #[test]
    fn paths_match_by_whole_segments() {
        for (rule, path, expected) in [
            ("/", "/", true),
            ("/", "/anything", true),
            ("/", "*", true),
            ("/api", "/api", true),
            ("/api", "/api/x", true),
            ("/api/", "/api/x", true),
            ("/api/", "/api", true),
            ("/api", "/apix", false),
            ("/api", "/ap", false),
            ("/api", "/x/api", false),
            ("/a/b", "/a/b/c", true),
            ("/a/b", "/a", false),
        ] {
            assert_eq!(path_matches(rule, path), expected, "{rule} {path}");
        }
    }

    #[test]
    fn hosts_lose_port_case_and_trailing_dot() {
        for (given, expected) in [
            ("Shop.Localhost:8080", Some("shop.localhost")),
            ("shop.localhost.", Some("shop.localhost")),
            ("shop.localhost.:80", Some("shop.localhost")),
            ("shop:", Some("shop")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("127.0.0.1:8080", Some("127.0.0.1")),
            ("", Some("")),
            (".", None),
            (":80", None),
            ("a b", None),
            ("a:b", None),
            ("a:99999", None),
            ("user@a", None),
            ("a/b", None),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
            ("a:+1", None),
        ] {
            assert_eq!(normal_host(given).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn first_rule_in_order_wins() {
        let rule = |host: Option<&str>, path: &str, to: &str| Rule {
            host: host.map(str::to_owned),
            path: path.to_owned(),
            to: key(to),
        };
        let table = RoutingTable {
            rules: vec![rule(Some("a"), "/x", "one"), rule(Some("a"), "/", "two"), rule(None, "/", "rest")],
            ..Default::default()
        };
        for (host, path, expected) in
            [("a", "/x/y", "one"), ("a", "/y", "two"), ("b", "/x", "rest"), ("", "/", "rest")]
        {
            assert_eq!(table.find(host, path).map(|r| &r.to), Some(&key(expected)), "{host}{path}");
        }
    }

    fn tables() -> impl Strategy<Value = RoutingTable> {
        let app = proptest::sample::select(vec!["a", "b", "c", "d"]);
        let backend = (0u64..6, 0u32..3).prop_map(|(id, attempt)| Backend {
            instance: InstanceId(id),
            attempt,
            address: ([127, 0, 0, 1], 1000 + id as u16).into(),
            weight: 1,
        });
        let service = (proptest::collection::vec(backend, 0..4), any::<bool>())
            .prop_map(|(backends, expected)| Service { backends, expected });
        let rule = (proptest::option::of(app.clone()), app.clone()).prop_map(|(host, to)| Rule {
            host: host.map(str::to_owned),
            path: "/".to_owned(),
            to: key(to),
        });
        (
            proptest::collection::vec(rule, 0..4),
            proptest::collection::btree_map(app.prop_map(key), service, 0..4),
            0u64..3,
            0u64..5,
        )
            .prop_map(|(rules, services, incarnation, index)| RoutingTable {
                version: ViewVersion { incarnation, index },
                rules,
                services,
            })
    }

    proptest! {
        #[test]
        fn difference_applied_gives_the_newer_table(older in tables(), newer in tables()) {
            let mut held = older.clone();
            let result = held.apply(older.difference(&newer));
            if newer.version > older.version {
                prop_assert_eq!(result, Ok(()));
                prop_assert_eq!(held, newer);
            } else {
                let stale = DeltaRefused::Stale { held: older.version, offered: newer.version };
                prop_assert_eq!(result, Err(stale));
                prop_assert_eq!(held, older);
            }
        }
    }

    #[test]
    fn delta_of_another_base_changes_nothing() {
        let at =
            |index| RoutingTable { version: ViewVersion { incarnation: 1, index }, ..Default::default() };
        let mut held = at(1);
        let refused = held.apply(at(2).difference(&at(3))).unwrap_err();
        assert_eq!(refused, DeltaRefused::OtherBase { held: at(1).version, base: at(2).version });
        assert_eq!(held, at(1));
    }
}
