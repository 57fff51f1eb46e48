//! `why`: answers in plain sentences, derived from a snapshot.
use crate::model::ClusterState;
use crate::model::time::Timestamp;
pub struct Subject;
pub fn subject(_: &str) -> Subject {
    Subject
}
pub fn why(_: &ClusterState, _: &Subject, _: Timestamp) -> String {
    String::new()
}
