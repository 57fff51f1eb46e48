//! Random histories: a restart and a snapshot change nothing.

use super::super::hub::View;
use super::super::snapshot::{self, Applied};
use super::super::types::{Encoded, LeaderId, LogId, Member, Membership, StoredMembership};
use super::super::{Config, Handle, open};
use super::support::{app_key, deploy, digest};
use crate::model::ClusterState;
use crate::model::app::DeploymentStatus;
use crate::model::command::{Action, Change, ChangeKind, Command, ImageRecord, NodeFacts, Report};
use crate::model::ids::{
    DeploymentId, InstanceId, NodeId, NodeName, ProcessName, ReleaseNumber, TenantName, Zone,
};
use crate::model::instance::{Exit, Observed, Phase};
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use openraft::vote::RaftLeaderId;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn web() -> ProcessName {
    ProcessName::new("web").expect("a label")
}

fn node_facts(n: u128) -> NodeFacts {
    NodeFacts {
        id: NodeId(n),
        name: NodeName::new(&format!("node-{n}")).expect("a label"),
        zone: Zone::new("here").expect("a label"),
        pool: String::new(),
        labels: BTreeMap::new(),
        capacity: Resources { cpu_milli: 4000, memory_bytes: 8_000_000_000, disk_bytes: 0 },
        platform: "linux/amd64".into(),
        version: "0.1.0".into(),
        addresses: Vec::new(),
        raft_id: None,
    }
}

/// Few names, so that most commands meet something that is there.
fn action() -> impl Strategy<Value = Action> {
    let app = || (0..3u8).prop_map(|n| app_key(&format!("app-{n}")));
    let node = || (1..3u128).prop_map(NodeId);
    let change = prop_oneof![
        4 => (app(), 1..4u32, 1..4u64, node()).prop_map(|(app, slot, release, node)| ChangeKind::Place {
            app, process: web(), slot, release: ReleaseNumber(release), generation: 0, node, reason: "test".into(),
        }),
        1 => (1..8u64).prop_map(|id| ChangeKind::Stop { instance: InstanceId(id), reason: "test".into() }),
        1 => (1..8u64).prop_map(|id| ChangeKind::Forget { instance: InstanceId(id), reason: "test".into() }),
        1 => app().prop_map(|app| ChangeKind::ForgetApp { app }),
        2 => (app(), 1..9u64, any::<bool>()).prop_map(|(app, id, done)| ChangeKind::EndDeployment {
            app,
            deployment: DeploymentId(id),
            status: if done { DeploymentStatus::Done } else { DeploymentStatus::Reverted },
            message: "test".into(),
        }),
    ];
    let change = change.prop_map(|kind| Change { expects: Vec::new(), kind });
    let phases = [Phase::Starting, Phase::Running, Phase::Backoff, Phase::Stopped];
    let report =
        (1..8u64, 1..3u32, 1..9u32, 0..phases.len()).prop_map(move |(id, attempt, step, phase)| Report {
            instance: InstanceId(id),
            observed: Observed {
                attempt,
                step,
                phase: phases[phase],
                ready: phase == 1,
                address: "10.0.0.5:8080".parse().ok(),
                last_exit: Some(Exit::Code(3)),
                log_tail: vec!["the last line".into()],
                ..Observed::default()
            },
        });
    prop_oneof![
        1 => (1..3u128).prop_map(|n| Action::RegisterNode(node_facts(n))),
        1 => (node(), any::<bool>())
            .prop_map(|(node, cordon)| Action::SetNodeMode { node, cordoned: Some(cordon), draining: None }),
        4 => (0..3u8, 0..5u64, 0..6000usize).prop_map(|(app, n, size)| deploy(&format!("app-{app}"), n, size)),
        1 => (app(), 0..9u32).prop_map(|(app, n)| Action::Scale { app, counts: [(web(), n)].into() }),
        1 => (app(), any::<bool>())
            .prop_map(|(app, one)| Action::Restart { app, process: one.then(web), slot: None }),
        1 => (app(), any::<bool>()).prop_map(|(app, stopped)| Action::SetStopped { app, stopped }),
        1 => app().prop_map(|app| Action::RemoveApp { app }),
        1 => (0..4u64, any::<bool>()).prop_map(|(n, remove)| {
            let (tenant, name) = (TenantName::default_tenant(), format!("image-{n}"));
            if remove {
                return Action::RemoveImage { tenant, name };
            }
            let image = ImageRecord { digest: digest(n), size_bytes: n, platform: "linux".into(), loaded_at: Timestamp::default() };
            Action::SetImage { tenant, name, image }
        }),
        6 => vec(change, 1..4).prop_map(|changes| Action::Apply { term: 1, changes }),
        4 => (node(), vec(report, 1..3)).prop_map(|(node, reports)| Action::Observe { node, reports }),
    ]
}

fn config(dir: &std::path::Path) -> Config {
    // Small, so that a history of some dozen commands has snapshots and a purge in it.
    Config { snapshot_every_entries: 15, ..Config::new(dir) }
}

async fn propose_all(store: &Handle, actions: &[Action]) {
    for action in actions {
        store.propose_outcome("test", action.clone()).await.expect("taken");
    }
}

fn same(left: &View, right: &View) -> Result<(), TestCaseError> {
    prop_assert_eq!(&left.state, &right.state);
    prop_assert!(left.events.iter().eq(right.events.iter()));
    left.state.check_indexes().map_err(TestCaseError::fail)
}

fn few() -> ProptestConfig {
    ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn a_restart_gives_the_state_that_was(actions in vec(action(), 1..90), more in vec(action(), 0..20)) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let dir = tempfile::tempdir().expect("a folder");
        runtime.block_on(async {
            let store = open(config(dir.path())).await.expect("a new store");
            propose_all(&store, &actions).await;
            let before = store.view();
            store.shutdown().await;
            let store = open(config(dir.path())).await.expect("the same store");
            same(&before, &store.view())?;
            propose_all(&store, &more).await;
            let before = store.view();
            store.shutdown().await;
            let store = open(config(dir.path())).await.expect("the same store");
            same(&before, &store.view())?;
            store.shutdown().await;
            Ok::<(), TestCaseError>(())
        })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_is_the_state_it_was_taken_of(actions in vec(action(), 0..120)) {
        let mut view = View::default();
        for (index, action) in (1..).zip(actions) {
            let command = Command { at: Timestamp::from_unix_ms(index * 10), by: "test".into(), action };
            let command = Encoded::new(&command).decode().expect("just encoded");
            let (_, events) = view.state.apply(index, &command);
            events.into_iter().for_each(|event| view.events.push(event));
        }
        let members = BTreeMap::from([(1, Member { address: "10.0.0.1:7000".into(), node_id: "ab".into() })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], members).expect("one voter");
        let id = LogId::new(LeaderId::new(3, 1), view.state.index);
        let applied = Applied { last: Some(id), membership: StoredMembership::new(Some(id), membership), view };
        let dir = tempfile::tempdir().expect("a folder");
        let file = snapshot::write(dir.path(), &applied).expect("written");
        let again = snapshot::read(&file).expect("sound");
        prop_assert_eq!(again.last, applied.last);
        prop_assert_eq!(&again.membership, &applied.membership);
        same(&again.view, &applied.view)?;
        // Taking a snapshot of it gives the same bytes.
        let second = tempfile::tempdir().expect("a folder");
        prop_assert_eq!(snapshot::write(second.path(), &again).expect("written").hash, file.hash);
    }
}

#[test]
fn an_empty_state_has_a_snapshot_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = snapshot::write(dir.path(), &Applied::default()).expect("written");
    assert_eq!(snapshot::read(&file).expect("sound").view.state, ClusterState::default());
}
