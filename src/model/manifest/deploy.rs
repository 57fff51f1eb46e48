//! `[deploy]`: how one release takes the place of another.

use super::process::duration;
use super::reader::{Field, Keys, Section};
use crate::model::app::{DeployPolicy, Share, Strategy};
use crate::model::quantity::parse_percent;
use std::time::Duration;

pub(super) const DEPLOY_KEYS: Keys = Keys {
    known: &["strategy", "max_surge", "max_unavailable", "deadline", "auto_revert"],
    later: &["release_command", "canary", "groups", "gates", "bluegreen", "pause", "zones"],
    elsewhere: &[],
};

/// The policy, and which of its values are defaults.
pub(super) fn read(section: &Section<'_>) -> (DeployPolicy, Vec<String>) {
    section.check_keys(&DEPLOY_KEYS);
    let mut policy = DeployPolicy::default();
    let mut defaults = Vec::new();
    match section.get("strategy") {
        Some(field) => policy.strategy = strategy(&field).unwrap_or(policy.strategy),
        None => defaults.push("strategy rolling".into()),
    }
    if let Some(field) = section.get("max_surge") {
        policy.max_surge = share(&field).unwrap_or(policy.max_surge);
        only_rolling(&field, policy.strategy);
    }
    if let Some(field) = section.get("max_unavailable") {
        policy.max_unavailable = share(&field).unwrap_or(policy.max_unavailable);
        only_rolling(&field, policy.strategy);
    }
    let is_zero = |share| matches!(share, Share::Count(0) | Share::Percent(0));
    if is_zero(policy.max_surge) && is_zero(policy.max_unavailable) {
        let field = section.get("max_surge").or_else(|| section.get("max_unavailable"));
        if let Some(field) = field.filter(|_| policy.strategy == Strategy::Rolling) {
            field.fail("and max_unavailable cannot both be 0: nothing could ever be replaced");
        }
    }
    match section.get("deadline") {
        Some(field) => {
            let day = Duration::from_secs(24 * 3600);
            policy.deadline = duration(&field, Duration::from_secs(1), day, "5m").unwrap_or(policy.deadline);
        }
        None => defaults.push("deadline 5m".into()),
    }
    if let Some(auto_revert) = section.get("auto_revert").and_then(|field| field.boolean()) {
        policy.auto_revert = auto_revert;
    }
    (policy, defaults)
}

fn strategy(field: &Field<'_>) -> Option<Strategy> {
    match field.string("a strategy", "\"rolling\"")? {
        "rolling" => return Some(Strategy::Rolling),
        "recreate" => return Some(Strategy::Recreate),
        later @ ("bluegreen" | "canary") => {
            field.fail(format_args!("{later:?} is not supported yet: use \"rolling\" or \"recreate\""));
        }
        other => field.fail(format_args!("must be \"rolling\" or \"recreate\"; it is {other:?}")),
    }
    None
}

fn share(field: &Field<'_>) -> Option<Share> {
    if field.is_integer() {
        let count = field.integer(0..=super::process::COUNT_MAX.into(), 1)?;
        return u32::try_from(count).ok().map(Share::Count);
    }
    field.quantity("a number of instances, such as 1, or a part of them", "\"25%\"", parse_percent)
}

fn only_rolling(field: &Field<'_>, strategy: Strategy) {
    if strategy != Strategy::Rolling {
        field.fail("has no meaning with strategy \"recreate\", which stops everything first: remove it");
    }
}
