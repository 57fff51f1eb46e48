//! Snapshots as files: the state at one log index, one sealed record after another.
//!
//! ```text
//! header (log id, membership, counters) · record · record · … · end (how many)
//! ```
//!
//! A file is written beside its place, synced, renamed, and its folder synced; then the pointer
//! to it (name, length, BLAKE3 of the whole) goes into the store. What reads it holds one
//! record at a time.

use super::envelope::{Fault, HEADER_BYTES, Kind, open, payload_length, seal};
use super::hub::View;
use super::types::{
    LogId, SnapshotMeta, StoredMembership, log_id_to_wire, optional_log_id, stored_membership_from_wire,
    stored_membership_to_wire,
};
use crate::model::ClusterState;
use crate::model::event::{Event, EventRing};
use crate::model::ids::TenantName;
use crate::model::time::Timestamp;
use crate::proto::{convert, v1};
use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One record: larger than any command, so that none that was taken can't be kept.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// The state after the entry `last`, as the state machine holds it and a snapshot keeps it.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    pub view: View,
}

impl Applied {
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }
}

/// A finished snapshot on this server's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub size_bytes: u64,
    /// BLAKE3 of the whole file.
    pub hash: [u8; 32],
}

impl SnapshotFile {
    pub fn to_pointer(&self, last: Option<LogId>) -> v1::SnapshotPointer {
        v1::SnapshotPointer {
            file: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size_bytes: self.size_bytes,
            hash: Bytes::copy_from_slice(&self.hash),
            last: last.as_ref().map(log_id_to_wire),
        }
    }

    pub fn from_pointer(dir: &Path, pointer: &v1::SnapshotPointer) -> Result<Self, Fault> {
        let plain = !pointer.file.is_empty() && !pointer.file.contains('/') && pointer.file != "..";
        let hash = <[u8; 32]>::try_from(&pointer.hash[..]).ok().filter(|_| plain);
        let hash = hash.ok_or_else(|| Fault::Damaged("the pointer to a snapshot makes no sense".into()))?;
        Ok(Self { path: dir.join(&pointer.file), size_bytes: pointer.size_bytes, hash })
    }
}

/// Writes `applied` to a new file in `dir`, durable when this returns.
pub(super) fn write(dir: &Path, applied: &Applied) -> io::Result<SnapshotFile> {
    let name = match &applied.last {
        Some(id) => format!("{:020}-{:010}.snapshot", id.index, id.leader_id.term),
        None => "empty.snapshot".to_owned(),
    };
    let path = dir.join(&name);
    let temporary = dir.join(format!("{name}.new"));
    let written = write_beside(&temporary, applied).and_then(|written| {
        std::fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(written)
    });
    if written.is_err() {
        // On a full disk this is what fills it.
        let _ = std::fs::remove_file(&temporary);
    }
    let (size_bytes, hash) = written?;
    Ok(SnapshotFile { path, size_bytes, hash })
}

fn write_beside(temporary: &Path, applied: &Applied) -> io::Result<(u64, [u8; 32])> {
    let mut out = Hashing {
        file: BufWriter::new(File::create(temporary)?),
        hasher: blake3::Hasher::new(),
        size_bytes: 0,
    };
    write_records(&mut out, applied)?;
    let Hashing { file, hasher, size_bytes } = out;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok((size_bytes, *hasher.finalize().as_bytes()))
}

/// Deletes what a crash left half-written in `dir`.
pub(super) fn delete_unfinished(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_records(out: &mut impl Write, applied: &Applied) -> io::Result<()> {
    use v1::snapshot_record::Record;
    let state = &applied.view.state;
    let header = v1::SnapshotHeader {
        id: String::new(),
        last: applied.last.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&applied.membership)),
        state: Some(v1::StateHeader {
            index: state.index,
            cluster_id: format!("{:032x}", state.cluster_id),
            incarnation: state.incarnation,
            feature_level: state.feature_level,
            now_ms: state.now.unix_ms,
            next_instance: state.next_instance,
            next_deployment: state.next_deployment,
        }),
    };
    out.write_all(&seal(Kind::SnapshotHeader, b"", &header))?;
    let mut count: u64 = 0;
    let mut put = |record: Record| {
        let sealed =
            seal(Kind::SnapshotRecord, &count.to_be_bytes(), &v1::SnapshotRecord { record: Some(record) });
        count += 1;
        out.write_all(&sealed)
    };
    // Releases before instances: what an instance takes of its node is in its release.
    for node in state.nodes.values() {
        put(Record::Node((&**node).into()))?;
    }
    for app in state.apps.values() {
        put(Record::App((&**app).into()))?;
    }
    for release in state.releases.values() {
        put(Record::Release((&**release).into()))?;
    }
    for deployment in state.deployments.values() {
        put(Record::Deployment((&**deployment).into()))?;
    }
    for instance in state.instances() {
        put(Record::Instance((&**instance).into()))?;
    }
    for ((tenant, name), image) in &state.images {
        put(Record::Image(v1::ImageEntry {
            tenant: tenant.to_string(),
            name: name.clone(),
            image: Some((&**image).into()),
        }))?;
    }
    for event in applied.view.events.iter() {
        put(Record::Event((&**event).into()))?;
    }
    out.write_all(&seal(Kind::SnapshotEnd, &count.to_be_bytes(), &v1::SnapshotEnd { records: count }))
}

/// What a snapshot file holds, if it is exactly what `file` says.
pub(super) fn read(file: &SnapshotFile) -> Result<Applied, Fault> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let read = || -> Result<Applied, Fault> {
        let opened = File::open(&file.path).map_err(|e| Fault::Damaged(format!("can't be opened ({e})")))?;
        let mut source =
            Source { file: BufReader::new(opened), hasher: blake3::Hasher::new(), size_bytes: 0 };
        let applied = read_records(&mut source)?;
        if source.size_bytes != file.size_bytes || *source.hasher.finalize().as_bytes() != file.hash {
            return Err(Fault::Damaged("is not the one that was taken".into()));
        }
        Ok(applied)
    };
    read().map_err(|fault| fault.within(&format!("the snapshot {name}")))
}

fn read_records(source: &mut Source) -> Result<Applied, Fault> {
    let header: v1::SnapshotHeader = open(Kind::SnapshotHeader, b"", &source.record()?)?;
    let mut state = state_from_header(header.state.unwrap_or_default())?;
    let mut events = EventRing::default();
    let mut count: u64 = 0;
    loop {
        let record = source.record()?;
        let place = count.to_be_bytes();
        match open::<v1::SnapshotRecord>(Kind::SnapshotRecord, &place, &record) {
            Ok(v1::SnapshotRecord { record: Some(record) }) => restore(&mut state, &mut events, record)?,
            Ok(v1::SnapshotRecord { record: None }) => {
                return Err(Fault::Newer(format!("has a record ({count}) that is not known here")));
            }
            Err(fault) => match open::<v1::SnapshotEnd>(Kind::SnapshotEnd, &place, &record) {
                Ok(end) if end.records == count => break,
                _ => return Err(fault.within(&format!("record {count}"))),
            },
        }
        count += 1;
    }
    if !source.at_end()? {
        return Err(Fault::Damaged("goes on after its end".into()));
    }
    Ok(Applied {
        last: optional_log_id(header.last)?,
        membership: stored_membership_from_wire(header.membership.unwrap_or_default())?,
        view: View { state, events },
    })
}

fn sense(e: convert::Error) -> Fault {
    if e.newer { Fault::Newer(e.to_string()) } else { Fault::Damaged(e.to_string()) }
}

fn state_from_header(header: v1::StateHeader) -> Result<ClusterState, Fault> {
    let mut state = ClusterState::default();
    state.index = header.index;
    state.cluster_id = convert::hex_u128(&header.cluster_id, "cluster_id").map_err(sense)?;
    state.incarnation = header.incarnation;
    state.feature_level = header.feature_level;
    state.now = Timestamp::from_unix_ms(header.now_ms);
    state.next_instance = header.next_instance;
    state.next_deployment = header.next_deployment;
    Ok(state)
}

fn restore(
    state: &mut ClusterState,
    events: &mut EventRing,
    record: v1::snapshot_record::Record,
) -> Result<(), Fault> {
    use crate::model::app::{App, Deployment, Release};
    use crate::model::command::ImageRecord;
    use crate::model::instance::Instance;
    use crate::model::node::Node;
    use v1::snapshot_record::Record;
    match record {
        Record::Node(node) => {
            let node = Node::try_from(node).map_err(sense)?;
            state.nodes.insert(node.id, Arc::new(node));
        }
        Record::App(app) => {
            let app = App::try_from(app).map_err(sense)?;
            state.apps.insert(app.key.clone(), Arc::new(app));
        }
        Record::Release(release) => {
            let release = Release::try_from(release).map_err(sense)?;
            state.releases.insert((release.app.clone(), release.number), Arc::new(release));
        }
        Record::Deployment(deployment) => {
            let deployment = Deployment::try_from(deployment).map_err(sense)?;
            state.deployments.insert((deployment.app.clone(), deployment.id), Arc::new(deployment));
        }
        Record::Instance(instance) => state.put_instance(Instance::try_from(instance).map_err(sense)?),
        Record::Image(entry) => {
            let tenant = TenantName::new(&entry.tenant).map_err(|e| Fault::Damaged(e.to_string()))?;
            let image = ImageRecord::try_from(entry.image.unwrap_or_default()).map_err(sense)?;
            state.images.insert((tenant, entry.name), Arc::new(image));
        }
        Record::Event(event) => events.push(Event::try_from(event).map_err(sense)?),
    }
    Ok(())
}

/// Hashes and counts what passes through.
struct Hashing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Source {
    file: BufReader<File>,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl Source {
    fn take(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        self.file.read_exact(buffer).map_err(|e| Fault::Damaged(format!("is cut short ({e})")))?;
        self.hasher.update(buffer);
        self.size_bytes += buffer.len() as u64;
        Ok(())
    }

    /// The next sealed record, whole.
    fn record(&mut self) -> Result<Bytes, Fault> {
        let mut record = BytesMut::zeroed(HEADER_BYTES);
        self.take(&mut record)?;
        let length = payload_length(&record)
            .filter(|length| *length <= RECORD_BYTES_MAX)
            .ok_or_else(|| Fault::Damaged("has something else where a record should start".into()))?;
        record.resize(HEADER_BYTES + length, 0);
        self.take(&mut record[HEADER_BYTES..])?;
        Ok(record.freeze())
    }

    fn at_end(&mut self) -> Result<bool, Fault> {
        let read = self.file.read(&mut [0]).map_err(|e| Fault::Damaged(format!("can't be read ({e})")))?;
        Ok(read == 0)
    }
}

/// Pointers to every whole snapshot in `dir`, newest first, by reading each.
///
/// # Errors
/// The disk's, and `InvalidData` for one of a newer version, which is not ours to leave out.
pub(super) fn sound_ones(dir: &Path) -> io::Result<Vec<v1::SnapshotPointer>> {
    let mut found = Vec::new();
    // Whoever wrote the newest may have been killed before its name was durable.
    File::open(dir)?.sync_all()?;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "snapshot") {
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        let size_bytes = path.metadata()?.len();
        let file = SnapshotFile { path, size_bytes, hash: *hasher.finalize().as_bytes() };
        match read(&file) {
            Ok(applied) => found.push((applied.last, file.to_pointer(applied.last))),
            Err(Fault::Damaged(what)) => tracing::warn!(%what, "left out a damaged snapshot"),
            Err(newer @ Fault::Newer(_)) => return Err(newer.into()),
        }
    }
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    Ok(found.into_iter().map(|(_, pointer)| pointer).collect())
}

/// Deletes every file in `dir` that `keep` doesn't name: what is older, and what a crash left half-written.
pub(super) fn delete_others(dir: &Path, keep: &[String]) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !keep.iter().any(|name| entry.file_name() == name.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
