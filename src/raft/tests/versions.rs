//! Records of other versions: older ones stay readable, newer ones are named as such.

use super::super::disk::{Disk, Name, Op};
use super::super::envelope::{Kind, seal};
use super::super::hub::View;
use super::super::mark::{Known, Mark};
use super::super::open::open_store;
use super::super::parts::Parts;
use super::super::types::{
    Encoded, Entry, LeaderId, LogId, Member, Membership, StoredMembership, Vote, log_id_to_wire, open_entry,
    seal_entry,
};
use super::super::{Config, Error, open, snapshot};
use super::support::{app_key, deploy, digest};
use crate::model::app::DeploymentStatus;
use crate::model::command::{Action, Change, ChangeKind, Command, Expect, ImageRecord, NodeFacts, Report};
use crate::model::ids::{
    DeploymentId, InstanceId, NodeId, NodeName, ProcessName, RaftId, ReleaseNumber, TenantName, Zone,
};
use crate::model::instance::{Exit, Observed, Phase};
use crate::model::node::NodeStatus;
use crate::model::resources::Resources;
use crate::model::time::Timestamp;
use crate::proto::v1;
use bytes::Bytes;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::{RaftLeaderId, RaftVote};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1")
}

/// Log entries, one command of each kind among them, in the order of the log.
fn fixture_records() -> Vec<(u64, Bytes)> {
    let mut found: Vec<(u64, Bytes)> = fs::read_dir(fixtures().join("log"))
        .expect("the fixtures")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            let index = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            (index.expect("named by its index"), fs::read(&path).expect("readable").into())
        })
        .collect();
    found.sort();
    found
}

fn replay(records: &[(u64, Bytes)]) -> View {
    let mut view = View::default();
    for (index, record) in records {
        let entry = open_entry(*index, record).expect("readable");
        if let EntryPayload::Normal(command) = entry.payload {
            let (outcome, events) = view.state.apply(*index, &command.decode().expect("known"));
            assert_eq!((outcome.result, outcome.refused), (None, 0), "entry {index}");
            events.into_iter().for_each(|event| view.events.push(event));
        }
    }
    view
}

/// An old log means for ever what it meant, also to a version whose `apply` has learnt more:
/// that is what `feature_level` is for. An old snapshot is that state.
#[test]
fn the_log_and_the_snapshot_of_the_first_format_are_still_read_and_mean_the_same() {
    let view = replay(&fixture_records());
    let path = fixtures().join("state.snapshot");
    let bytes = fs::read(&path).expect("readable");
    let hash = *blake3::hash(&bytes).as_bytes();
    let file = snapshot::SnapshotFile { path, size_bytes: bytes.len() as u64, hash };
    let applied = snapshot::read(&file).expect("readable");
    assert_eq!(applied.view.state, view.state);
    assert!(applied.view.events.iter().eq(view.events.iter()));
    let state = &view.state;
    let sizes = [state.apps.len(), state.releases.len(), state.nodes.len(), state.images.len()];
    assert_eq!((sizes, state.instances().count(), view.events.iter().count()), ([2, 3, 1, 1], 2, 30));
}

/// Wrote the fixtures, once. Run with NODECTL_WRITE_FIXTURES=1 for a new format, in a new
/// folder; those of a released format are never written again.
#[test]
fn fixtures_are_written_on_request() {
    if std::env::var_os("NODECTL_WRITE_FIXTURES").is_none() {
        return;
    }
    let dir = fixtures();
    fs::create_dir_all(dir.join("log")).expect("made");
    let leader = LeaderId::new(3, 1);
    let members =
        BTreeMap::from([(1, Member { address: "10.0.0.1:7000".into(), node_id: format!("{:032x}", 1) })]);
    let membership = Membership::new(vec![BTreeSet::from([1])], members).expect("one voter");
    let mut entries = vec![
        Entry::new(LogId::new(LeaderId::new(0, 0), 0), EntryPayload::Membership(membership.clone())),
        Entry::new(LogId::new(leader, 1), EntryPayload::Blank),
    ];
    for (n, action) in (2..).zip(history()) {
        let at = Timestamp::from_unix_ms(1_700_000_000_000 + n * 1000);
        let command = Encoded::new(&Command { at, by: "operator".into(), action });
        entries.push(Entry::new(LogId::new(leader, n), EntryPayload::Normal(command)));
    }
    let records: Vec<(u64, Bytes)> =
        entries.iter().map(|entry| (entry.log_id.index, seal_entry(entry).into())).collect();
    for (index, record) in &records {
        fs::write(dir.join(format!("log/{index}.entry")), record).expect("written");
    }
    let view = replay(&records);
    let last = entries.last().map(|entry| entry.log_id);
    let membership = StoredMembership::new(entries.first().map(|entry| entry.log_id), membership);
    let file = snapshot::write(&dir, &snapshot::Applied { last, membership, view }).expect("written");
    let pointer = file.to_pointer(last);
    fs::rename(&file.path, dir.join("state.snapshot")).expect("renamed");
    let id = |index| Some(log_id_to_wire(&LogId::new(leader, index)));
    let identity =
        v1::StoreIdentity { raft_id: 1, store_id: STORE_ID.into(), created_at_ms: 1_700_000_000_000 };
    let vote = v1::Vote { leader: Some(v1::LeaderId { term: 3, raft_id: 1 }), committed: true };
    let pointers = v1::SnapshotPointers { snapshots: vec![pointer] };
    let named = |name: Name| name.as_str().as_bytes();
    for (name, record) in [
        (Name::Identity, seal(Kind::Identity, named(Name::Identity), &identity)),
        (Name::Vote, seal(Kind::Vote, named(Name::Vote), &vote)),
        (
            Name::Committed,
            seal(Kind::Committed, named(Name::Committed), &v1::CommittedRecord { log_id: id(17) }),
        ),
        (Name::Purged, seal(Kind::Purged, named(Name::Purged), &v1::PurgedRecord { log_id: id(5) })),
        (Name::Snapshots, seal(Kind::SnapshotPointers, named(Name::Snapshots), &pointers)),
    ] {
        fs::write(dir.join(name.as_str()), record).expect("written");
    }
    let mut mark = Mark::create(&dir.join("mark"), STORE_ID).expect("made");
    mark.write(marked()).expect("written");
}

const STORE_ID: &str = "0000000000000000000000000000002a";

fn marked() -> Known {
    let leader = LeaderId::new(3, 1);
    Known { last: Some(LogId::new(leader, 31)), vote: Some(Vote::from_leader_id(leader, true)) }
}

#[test]
fn the_mark_of_the_first_format_is_still_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("mark");
    fs::copy(fixtures().join("mark"), &path).expect("copied");
    assert_eq!(Mark::open(&path, STORE_ID).expect("sound").known, marked());
    assert!(Mark::open(&path, "another").is_err());
}

/// Each kind of command, and each kind of change, once at least; all of them accepted.
fn history() -> Vec<Action> {
    let (shop, blog) = (app_key("shop"), app_key("blog"));
    let web = ProcessName::new("web").expect("a label");
    let node = NodeId(1);
    let facts = NodeFacts {
        id: node,
        name: NodeName::new("node-1").expect("a label"),
        zone: Zone::new("zone-a").expect("a label"),
        pool: "default".into(),
        labels: [("disk".to_owned(), "fast".to_owned())].into(),
        capacity: Resources { cpu_milli: 4000, memory_bytes: 8_000_000_000, disk_bytes: 1 },
        platform: "linux/amd64".into(),
        version: "0.1.0".into(),
        addresses: vec!["10.0.0.1".into()],
        raft_id: Some(RaftId(1)),
    };
    let image = ImageRecord {
        digest: digest(1),
        size_bytes: 12_345,
        platform: "linux/amd64".into(),
        loaded_at: Timestamp::from_unix_ms(1_700_000_000_000),
    };
    let tenant = TenantName::default_tenant;
    let set_image =
        |name: &str| Action::SetImage { tenant: tenant(), name: name.into(), image: image.clone() };
    let change = |expects, kind| Action::Apply { term: 3, changes: vec![Change { expects, kind }] };
    let place = |slot| ChangeKind::Place {
        app: shop.clone(),
        process: web.clone(),
        slot,
        release: ReleaseNumber(1),
        generation: 0,
        node,
        reason: "most free memory".into(),
    };
    let seen = |step, phase, ready| Observed {
        attempt: 1,
        step,
        phase,
        ready,
        address: "10.209.0.5:8080".parse().ok(),
        last_exit: Some(Exit::OutOfMemory { limit_bytes: 256_000_000 }),
        message: "was killed".into(),
        started_at: Some(Timestamp::from_unix_ms(5)),
        log_tail: vec!["out of memory".into()],
        ..Observed::default()
    };
    let report =
        |id, observed| Action::Observe { node, reports: vec![Report { instance: InstanceId(id), observed }] };
    let end = |id, status| ChangeKind::EndDeployment {
        app: shop.clone(),
        deployment: DeploymentId(id),
        status,
        message: "every instance is ready".into(),
    };
    vec![
        Action::InitCluster { cluster_id: 0x0123_4567_89ab_cdef },
        Action::RegisterNode(facts),
        Action::LabelNode {
            node,
            set: [("a".to_owned(), "b".to_owned())].into(),
            remove: vec!["disk".into()],
        },
        Action::SetNodeMode { node, cordoned: Some(true), draining: None },
        Action::SetNodeMode { node, cordoned: Some(false), draining: Some(false) },
        Action::SetNodeStatus { node, status: NodeStatus::Down },
        Action::SetNodeStatus { node, status: NodeStatus::Up },
        set_image("docker.io/library/shop:1"),
        set_image("docker.io/library/gone:1"),
        Action::RemoveImage { tenant: tenant(), name: "docker.io/library/gone:1".into() },
        deploy("shop", 1, 20),
        change(vec![Expect::Node(node, 8)], place(1)),
        change(Vec::new(), place(2)),
        change(Vec::new(), place(3)),
        report(1, seen(1, Phase::Running, true)),
        report(2, seen(1, Phase::Backoff, false)),
        change(vec![Expect::Deployment(shop.clone(), DeploymentId(1), 12)], end(1, DeploymentStatus::Done)),
        Action::Scale { app: shop.clone(), counts: [(web.clone(), 5)].into() },
        Action::Restart { app: shop.clone(), process: Some(web), slot: Some(1) },
        Action::Restart { app: shop.clone(), process: None, slot: None },
        change(
            vec![Expect::Instance(InstanceId(3), 15)],
            ChangeKind::Stop { instance: InstanceId(3), reason: "scaled down".into() },
        ),
        change(Vec::new(), ChangeKind::Forget { instance: InstanceId(3), reason: "gone".into() }),
        deploy("shop", 2, 20),
        Action::CancelDeployment { app: shop.clone() },
        Action::SetStopped { app: shop.clone(), stopped: true },
        Action::SetStopped { app: shop, stopped: false },
        deploy("blog", 3, 20),
        deploy("old", 4, 20),
        Action::RemoveApp { app: app_key("old") },
        change(vec![Expect::App(blog, 28)], ChangeKind::ForgetApp { app: app_key("old") }),
    ]
}

#[test]
fn the_named_records_of_the_first_format_are_still_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = Parts::open(dir.path(), 1, 1 << 20, false).expect("a disk").disk;
    let read = |name: &str| Bytes::from(fs::read(fixtures().join(name)).expect("readable"));
    for name in [Name::Identity, Name::Vote, Name::Committed, Name::Purged, Name::Snapshots] {
        disk.write(&[Op::Put { name, record: read(name.as_str()) }]).expect("written");
    }
    let index = |id: Option<v1::LogId>| id.map(|id| id.index);
    use super::super::recover::named;
    let identity: v1::StoreIdentity =
        named(&disk, Name::Identity, Kind::Identity).expect("read").expect("there");
    assert_eq!((identity.raft_id, identity.created_at_ms), (1, 1_700_000_000_000));
    let vote: v1::Vote = named(&disk, Name::Vote, Kind::Vote).expect("read").expect("there");
    assert_eq!((vote.committed, vote.leader.map(|l| (l.term, l.raft_id))), (true, Some((3, 1))));
    let committed: v1::CommittedRecord =
        named(&disk, Name::Committed, Kind::Committed).expect("read").expect("there");
    assert_eq!(index(committed.log_id), Some(17));
    let purged: v1::PurgedRecord = named(&disk, Name::Purged, Kind::Purged).expect("read").expect("there");
    assert_eq!(index(purged.log_id), Some(5));
    let pointers: v1::SnapshotPointers =
        named(&disk, Name::Snapshots, Kind::SnapshotPointers).expect("read").expect("there");
    assert_eq!(pointers.snapshots.len(), 1);
}

fn sealed(entry: v1::StoredEntry) -> Op {
    let index = entry.id.as_ref().map_or(0, |id| id.index);
    Op::PutEntry { index, record: seal(Kind::Entry, &index.to_be_bytes(), &entry).into() }
}

/// A store, closed, whose log goes on with one more entry that this version did not write.
async fn store_with(dir: &Path, payload: Option<v1::stored_entry::Payload>) -> Error {
    let store = open(Config::new(dir)).await.expect("a new store");
    store.propose("test", deploy("shop", 1, 100)).await.expect("deployed");
    store.shutdown().await;
    let opened = open_store(&Config::new(dir)).expect("sound");
    let last = opened.recovered.index.last.expect("entries");
    let mut id = log_id_to_wire(&last);
    id.index += 1;
    opened.disk.write(&[sealed(v1::StoredEntry { id: Some(id), payload })]).expect("written");
    opened.disk.sync().expect("synced");
    drop(opened);
    match open(Config::new(dir)).await {
        Ok(_) => panic!("opened with an entry that it can't know"),
        Err(e) => e,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_halts_the_node_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    // Field 999 of Command: an action that this version has never heard of.
    let command = Bytes::from_static(&[0x08, 0x01, 0xba, 0x3e, 0x00]);
    let error = store_with(dir.path(), Some(v1::stored_entry::Payload::Command(command))).await;
    let text = error.to_string();
    assert!(matches!(error, Error::Newer { .. }), "{text}");
    assert!(text.contains("command that is not known here"), "{text}");
    assert!(text.contains("or newer with this data folder"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_of_entry_halts_the_node() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = store_with(dir.path(), None).await;
    assert!(matches!(error, Error::Newer { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(Config::new(dir.path())).await.expect("a new store");
    store.propose("test", Action::InitCluster { cluster_id: 1 }).await.expect("made");
    store.shutdown().await;
    for (format, version, advice) in
        [(9, "9.1.0", "start nodectl 9.1.0 or newer"), (1, "0.0.9", "start that version")]
    {
        let other = format!("store format {format}\nwritten by nodectl {version}\n");
        fs::write(dir.path().join("version"), &other).expect("written");
        let error = match open(Config::new(dir.path())).await {
            Ok(_) => panic!("opened"),
            Err(e) => e.to_string(),
        };
        assert!(error.contains(advice), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("version")).expect("there"), other);
    }
}
