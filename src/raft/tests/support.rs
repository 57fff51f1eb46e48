//! What the tests of this room share: commands, and a store that is opened again.

use crate::model::app::{AppSpec, ProcessSpec};
use crate::model::command::Action;
use crate::model::ids::{AppKey, AppName, Digest, ProcessName, TenantName};
use std::sync::Arc;

pub fn app_key(name: &str) -> AppKey {
    AppKey { tenant: TenantName::default_tenant(), app: AppName::new(name).expect("a label") }
}

pub fn digest(n: u64) -> Digest {
    Digest::new(&format!("sha256:{n:064x}")).expect("64 digits")
}

/// A deployment whose command has about `payload_bytes`.
pub fn deploy(name: &str, n: u64, payload_bytes: usize) -> Action {
    let mut spec = AppSpec::default();
    spec.processes.insert(ProcessName::new("web").expect("a label"), ProcessSpec::default());
    spec.env.insert("PAYLOAD".into(), "x".repeat(payload_bytes));
    Action::Deploy {
        app: app_key(name),
        image: digest(n),
        image_name: format!("image:{n}"),
        spec: Arc::new(spec),
        hash: format!("{n:x}"),
        force: true,
        reset_scale: false,
    }
}
