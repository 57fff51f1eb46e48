//! From a folder to a running member: lock, version, disk, mark, checks, writer, Raft.
//!
//! ```text
//! raft/
//!   lock        held while a node runs
//!   version     which format, written by which nodectl
//!   log/        entries, the vote: the write-ahead log
//!   names/      which snapshots are kept: sled
//!   mark        how far the log is known to reach
//!   snapshots/  the newest two
//! ```

use super::Config;
use super::disk::{Disk, Op};
use super::envelope::Fault;
use super::error::Error;
use super::handle::{Handle, Held};
use super::hub::Hub;
use super::log::LogStore;
use super::machine::{Growth, Machine, Snapshots};
use super::mark::Mark;
use super::network::Alone;
use super::parts::{self, Opened};
use super::recover::{Recovered, recover};
use super::snapshot;
use super::types::{Member, TypeConfig};
use super::writer;
use crate::proto::v1;
use openraft::SnapshotPolicy;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A cluster of one elects itself within an election timeout; replaying a long log on a slow
/// disk takes longer. After this something is wrong.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the store in `config.dir`, or makes a new one, whose only voter is this server. When
/// this returns, the state is at least as new as anything that was acknowledged before.
///
/// # Errors
/// See [`Error`]. Nothing that can be read is ever overwritten by a failed start.
pub async fn open(config: Config) -> Result<Handle, Error> {
    let settings = config.clone();
    let dir = config.dir.clone();
    let opened = tokio::task::spawn_blocking(move || open_store(&settings))
        .await
        .unwrap_or_else(|e| Err(Error::Start(format!("opening the store failed: {e}"))));
    let started = match opened {
        Ok(store) => start(config, store).await,
        Err(e) => Err(e),
    };
    started.map_err(|e| e.or_full(&dir))
}

/// Of the folder's layout: 1 had the log in sled.
const FORMAT: u16 = 2;

/// A store that was opened and found sound.
pub(super) struct Store {
    lock: File,
    pub disk: Arc<dyn Disk>,
    released: oneshot::Receiver<()>,
    mark: Mark,
    pub recovered: Recovered,
    raft_id: u64,
}

pub(super) fn open_store(config: &Config) -> Result<Store, Error> {
    let dir = &config.dir;
    let snapshots = dir.join("snapshots");
    std::fs::create_dir_all(&snapshots).map_err(Error::io(format!("create {}", snapshots.display())))?;
    let lock = lock(dir)?;
    let written_by = check_version(dir)?;
    let fault = |fault: Fault| match fault {
        Fault::Damaged(what) => Error::Damaged { dir: dir.clone(), what },
        Fault::Newer(what) => Error::Newer { dir: dir.clone(), what, written_by: written_by.clone() },
    };
    let trouble = |what: &str, e: io::Error| match e.kind() {
        io::ErrorKind::InvalidData => fault(match e.downcast::<Fault>() {
            Ok(fault) => fault,
            Err(e) => Fault::Damaged(e.to_string()),
        }),
        _ => Error::Io { what: format!("{what} in {}", dir.display()), source: e },
    };
    let there = |name: &str| {
        let path = dir.join(name);
        path.try_exists().map_err(Error::io(format!("look for {}", path.display())))
    };
    snapshot::delete_unfinished(&snapshots).map_err(Error::io(format!("tidy {}", snapshots.display())))?;
    let is_old = there("mark")?;
    let missing = || fault(Fault::Damaged("the file `mark` is missing".into()));
    // What is made only after the mark. Told before anything is made: the next start sees it too.
    if !is_old && (there("version")? || !is_empty(&snapshots)?) {
        return Err(missing());
    }
    let opened = parts::Parts::open(dir, config.raft_id, config.segment_bytes, is_old);
    let Opened { disk, identity, released } = opened.map_err(|e| trouble("open the log", e))?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mark = is_old.then(|| Mark::open(&dir.join("mark"), &identity.store_id)).transpose();
    let mark = mark.map_err(|e| trouble("open the mark", e))?;
    let known = mark.as_ref().map(|mark| mark.known.clone()).unwrap_or_default();
    let recovered = recover(&*disk, &snapshots, &known).map_err(fault)?;
    if !is_old && (recovered.index.vote.is_some() || recovered.index.last.is_some()) {
        return Err(missing());
    }
    let mark = match mark {
        Some(mark) => mark,
        None => create_mark(dir, &identity).map_err(|e| trouble("make the mark", e))?,
    };
    write_version(dir).map_err(|e| trouble("write the version", e))?;
    Ok(Store { lock, disk, released, mark, recovered, raft_id: identity.raft_id })
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io(format!("open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io(format!("lock {}", path.display()))(e)),
    }
}

fn is_empty(dir: &Path) -> Result<bool, Error> {
    let mut entries = std::fs::read_dir(dir).map_err(Error::io(format!("read {}", dir.display())))?;
    Ok(entries.next().is_none())
}

/// Who wrote this folder last. Plain text, so that any version can read it.
///
/// # Errors
/// A newer format.
fn check_version(dir: &Path) -> Result<String, Error> {
    let path = dir.join("version");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(env!("CARGO_PKG_VERSION").to_owned()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
    };
    let mut words = text.split_whitespace();
    let format =
        words.by_ref().skip_while(|word| *word != "format").nth(1).and_then(|n| n.parse::<u16>().ok());
    let writer = words.skip_while(|word| *word != "nodectl").nth(1).map(str::to_owned);
    let (Some(format), Some(written_by)) = (format, writer) else {
        let what = "the file `version` does not say which version it is".to_owned();
        return Err(Error::Damaged { dir: dir.to_owned(), what });
    };
    if format != FORMAT {
        let what = format!("the store is of format {format}, and only format {FORMAT} is known here");
        let dir = dir.to_owned();
        return Err(match format < FORMAT {
            true => Error::Older { dir, what, written_by },
            false => Error::Newer { dir, what, written_by },
        });
    }
    Ok(written_by)
}

fn write_version(dir: &Path) -> io::Result<()> {
    let text = format!("store format {FORMAT}\nwritten by nodectl {}\n", env!("CARGO_PKG_VERSION"));
    let path = dir.join("version");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let temporary = dir.join("version.new");
    std::fs::write(&temporary, text)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}

/// The mark comes last when a store is made, and whole: where there is one, there is a store.
fn create_mark(dir: &Path, identity: &v1::StoreIdentity) -> io::Result<Mark> {
    // The folder's own name, and its parent's, must survive before anything in it is promised.
    for above in dir.ancestors().skip(1).take(2).filter(|above| !above.as_os_str().is_empty()) {
        match File::open(above) {
            // Then it is not ours, and was there before.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            folder => folder?.sync_all()?,
        }
    }
    let temporary = dir.join("mark.new");
    let mark = Mark::create(&temporary, &identity.store_id)?;
    std::fs::rename(&temporary, dir.join("mark"))?;
    File::open(dir)?.sync_all()?;
    Ok(mark)
}

impl Store {
    /// The parts that openraft drives, the hub that shows what they do, and the lock.
    pub(super) fn into_parts(self, config: &Config) -> Result<Parts, Error> {
        let Store { lock, disk, released, mark, recovered, raft_id } = self;
        let Recovered { index, applied, snapshots, leftover } = recovered;
        let written = index.last.map_or(0, |id| id.index + 1);
        let purged = index.purged.filter(|_| leftover);
        let (queue, _thread) =
            writer::spawn(disk.clone(), mark, written).map_err(Error::io("start the store's writer"))?;
        if let Some(purged) = purged {
            let ops = vec![Op::RemoveEntries(0..purged.index + 1)];
            let job = writer::Job { ops, moves: writer::Moves::Nothing, done: writer::Done::Lazy };
            queue.send(job).map_err(Error::io("finish deleting old log entries"))?;
        }
        let hub = Hub::new(applied.view.clone());
        let snapshots = Arc::new(Snapshots::new(config.dir.join("snapshots"), queue.clone(), snapshots));
        let growth = Growth::new(config.snapshot_every_bytes);
        let too_much = growth.too_much.clone();
        let machine = Machine::new(applied, hub.clone(), snapshots.clone(), growth);
        let log = LogStore::new(index, disk.clone(), queue.clone());
        Ok(Parts { lock, disk, released, queue, hub, snapshots, too_much, machine, log, raft_id })
    }
}

pub(super) struct Parts {
    pub lock: File,
    pub disk: Arc<dyn Disk>,
    pub released: oneshot::Receiver<()>,
    pub queue: writer::Queue,
    pub hub: Hub,
    pub snapshots: Arc<Snapshots>,
    pub too_much: Arc<tokio::sync::Notify>,
    pub machine: Machine,
    pub log: LogStore,
    pub raft_id: u64,
}

async fn start(config: Config, store: Store) -> Result<Handle, Error> {
    let dir: PathBuf = config.dir.clone();
    let parts = store.into_parts(&config)?;
    let Parts { lock, disk, released, queue, hub, snapshots, too_much, machine, log, raft_id } = parts;
    let failed = |what: String| Error::Start(format!("{what} (store in {})", dir.display()));
    let settings = Arc::new(engine_config(&config).validate().map_err(|e| failed(e.to_string()))?);
    let raft = openraft::Raft::<TypeConfig, Machine>::new(raft_id, settings, Alone, log, machine)
        .await
        .map_err(|e| failed(e.to_string()))?;
    if !raft.is_initialized().await.map_err(|e| failed(e.to_string()))? {
        let members = BTreeMap::from([(raft_id, Member::default())]);
        raft.initialize(members).await.map_err(|e| failed(e.to_string()))?;
    }
    let held = Held { queue, released, _lock: lock };
    let handle = Handle::start(raft, raft_id, hub, snapshots, too_much, Arc::downgrade(&disk), held);
    drop(disk);
    handle.caught_up(START_TIMEOUT).await.map_err(failed)?;
    Ok(handle)
}

fn engine_config(config: &Config) -> openraft::Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "nodectl".into(),
        heartbeat_interval: millis(config.heartbeat_interval),
        election_timeout_min: millis(config.election_timeout),
        election_timeout_max: 2 * millis(config.election_timeout),
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every_entries),
        // Purging is ours (handle.rs): the log stays back to the older of the two snapshots.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    }
}
