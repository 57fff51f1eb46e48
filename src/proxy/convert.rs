//! Between the model's tables and the wire's. What comes in is checked as it enters: a name
//! that is no name is refused here, and nowhere after.

use super::{Limits, wire};
use crate::model::ids::{AppKey, AppName, InstanceId, ProcessKey, ProcessName, TenantName, ViewVersion};
use crate::model::routes::{Backend, RoutingTable, Rule, Service, TableDelta};
use std::collections::BTreeMap;
use std::time::Duration;

/// Something on the wire is no value of the model.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error(transparent)]
    Name(#[from] crate::model::ids::NameError),
    #[error("{0:?} is not an address and port")]
    Address(String),
}

pub fn version_to_wire(version: ViewVersion) -> wire::Version {
    wire::Version { incarnation: version.incarnation, index: version.index }
}

pub fn version_from_wire(version: &wire::Version) -> ViewVersion {
    ViewVersion { incarnation: version.incarnation, index: version.index }
}

pub fn key_to_wire(key: &ProcessKey) -> wire::Process {
    wire::Process {
        tenant: key.app.tenant.as_str().to_owned(),
        app: key.app.app.as_str().to_owned(),
        process: key.process.as_str().to_owned(),
    }
}

pub fn key_from_wire(key: &wire::Process) -> Result<ProcessKey, Malformed> {
    Ok(ProcessKey {
        app: AppKey { tenant: TenantName::new(&key.tenant)?, app: AppName::new(&key.app)? },
        process: ProcessName::new(&key.process)?,
    })
}

fn rule_to_wire(rule: &Rule) -> wire::Rule {
    wire::Rule { host: rule.host.clone(), path: rule.path.clone(), to: key_to_wire(&rule.to) }
}

fn rule_from_wire(rule: wire::Rule) -> Result<Rule, Malformed> {
    Ok(Rule { host: rule.host, path: rule.path, to: key_from_wire(&rule.to)? })
}

fn service_to_wire((key, service): (&ProcessKey, &Service)) -> wire::Service {
    let backends = service.backends.iter().map(|backend| wire::Backend {
        instance: backend.instance.0,
        attempt: backend.attempt,
        address: backend.address.to_string(),
        weight: backend.weight,
    });
    wire::Service { key: key_to_wire(key), backends: backends.collect(), expected: service.expected }
}

fn service_from_wire(service: wire::Service) -> Result<(ProcessKey, Service), Malformed> {
    let backend = |backend: wire::Backend| {
        Ok(Backend {
            instance: InstanceId(backend.instance),
            attempt: backend.attempt,
            address: backend.address.parse().map_err(|_| Malformed::Address(backend.address))?,
            weight: backend.weight,
        })
    };
    let backends = service.backends.into_iter().map(backend).collect::<Result<_, Malformed>>()?;
    Ok((key_from_wire(&service.key)?, Service { backends, expected: service.expected }))
}

pub fn table_to_wire(table: &RoutingTable) -> wire::Table {
    wire::Table {
        version: version_to_wire(table.version),
        rules: table.rules.iter().map(rule_to_wire).collect(),
        services: table.services.iter().map(service_to_wire).collect(),
    }
}

pub fn table_from_wire(table: wire::Table) -> Result<RoutingTable, Malformed> {
    Ok(RoutingTable {
        version: version_from_wire(&table.version),
        rules: table.rules.into_iter().map(rule_from_wire).collect::<Result<_, _>>()?,
        services: table.services.into_iter().map(service_from_wire).collect::<Result<_, _>>()?,
    })
}

pub fn delta_to_wire(delta: &TableDelta) -> wire::Delta {
    wire::Delta {
        base: version_to_wire(delta.base),
        version: version_to_wire(delta.version),
        rules: delta
            .rules
            .as_ref()
            .map(|rules| wire::Rules { rules: rules.iter().map(rule_to_wire).collect() }),
        changed: delta.changed.iter().map(service_to_wire).collect(),
        removed: delta.removed.iter().map(key_to_wire).collect(),
    }
}

pub fn delta_from_wire(delta: wire::Delta) -> Result<TableDelta, Malformed> {
    let rules = match delta.rules {
        Some(rules) => Some(rules.rules.into_iter().map(rule_from_wire).collect::<Result<_, _>>()?),
        None => None,
    };
    Ok(TableDelta {
        base: version_from_wire(&delta.base),
        version: version_from_wire(&delta.version),
        rules,
        changed: delta.changed.into_iter().map(service_from_wire).collect::<Result<BTreeMap<_, _>, _>>()?,
        removed: delta.removed.iter().map(key_from_wire).collect::<Result<_, _>>()?,
    })
}

pub fn limits_to_wire(limits: &Limits) -> wire::Limits {
    let ms = |duration: Duration| duration.as_millis() as u64;
    wire::Limits {
        head_timeout_ms: ms(limits.head_timeout),
        idle_timeout_ms: ms(limits.idle_timeout),
        stall_timeout_ms: ms(limits.stall_timeout),
        connect_timeout_ms: ms(limits.connect_timeout),
        response_timeout_ms: ms(limits.response_timeout),
        max_connections: limits.max_connections as u64,
        shutdown_drain_ms: ms(limits.shutdown_drain),
    }
}

pub fn limits_from_wire(limits: &wire::Limits) -> Limits {
    let duration = Duration::from_millis;
    Limits {
        head_timeout: duration(limits.head_timeout_ms),
        idle_timeout: duration(limits.idle_timeout_ms),
        stall_timeout: duration(limits.stall_timeout_ms),
        connect_timeout: duration(limits.connect_timeout_ms),
        response_timeout: duration(limits.response_timeout_ms),
        max_connections: limits.max_connections as usize,
        shutdown_drain: duration(limits.shutdown_drain_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_deltas_come_back_as_they_went() {
        let key = |app: &str| ProcessKey {
            app: AppKey { tenant: TenantName::default_tenant(), app: AppName::new(app).unwrap() },
            process: ProcessName::new("web").unwrap(),
        };
        let backend =
            Backend { instance: InstanceId(4), attempt: 2, address: "[::1]:80".parse().unwrap(), weight: 3 };
        let table = RoutingTable {
            version: ViewVersion { incarnation: 1, index: 9 },
            rules: vec![
                Rule { host: Some("a.localhost".into()), path: "/x".into(), to: key("a") },
                Rule { host: None, path: "/".into(), to: key("b") },
            ],
            services: [
                (key("a"), Service { backends: vec![backend], expected: false }),
                (key("b"), Service { backends: vec![], expected: true }),
            ]
            .into(),
        };
        assert_eq!(table_from_wire(table_to_wire(&table)).unwrap(), table);
        for delta in [RoutingTable::default().difference(&table), table.difference(&RoutingTable::default())]
        {
            assert_eq!(delta_from_wire(delta_to_wire(&delta)).unwrap(), delta);
        }
        let mut wrong = table_to_wire(&table);
        wrong.rules[0].to.app = "No Name".into();
        assert!(table_from_wire(wrong).is_err());
    }
}
