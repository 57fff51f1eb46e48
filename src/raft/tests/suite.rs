//! openraft's own suite for log storage and state machines, on the real disk.

use super::super::Config;
use super::super::log::LogStore;
use super::super::machine::Machine;
use super::super::open::open_store;
use super::super::types::TypeConfig;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().expect("a temporary folder");
        let config = Config::new(dir.path());
        let parts = open_store(&config).and_then(|store| store.into_parts(&config)).expect("a new store");
        Ok((dir, parts.log, parts.machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_suite_of_openraft_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}
