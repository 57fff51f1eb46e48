//! Where time, randomness and fresh ids enter the program; everywhere else they are values.

use crate::model::ids::NodeId;
use crate::model::time::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock, as a value.
pub fn now() -> Timestamp {
    // A clock before 1970 is a broken machine; zero keeps cluster time from going back.
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// A fresh random 128-bit number: cluster and node ids.
pub fn random_u128() -> u128 {
    rand::random()
}

/// A fresh node identity.
pub fn random_node_id() -> NodeId {
    NodeId(random_u128())
}
