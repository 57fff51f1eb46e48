//! Why.
use super::{Api, Fault, View};
use crate::model::ids::TenantName;
impl Api {
    pub(super) fn explain(&self, _: &View, _: &TenantName, _: &str) -> Result<Vec<String>, Fault> {
        Ok(vec![])
    }
}
