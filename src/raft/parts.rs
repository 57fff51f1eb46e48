//! The disk, of its two parts: the log, with the vote and the log's own notes, in the
//! write-ahead log (`wal/`); whose store this is and which snapshots are kept in sled
//! (`names.rs`).
//!
//! Nothing depends on sled alone. Each of the log's files says whose it is, and a snapshot can
//! prove itself: if sled can't be read, it is put aside and made anew from them.

use super::disk::{Disk, Name, Op};
use super::envelope::{Fault, Kind, open, seal};
use super::names::Names;
use super::snapshot;
use super::wal::Wal;
use crate::clock;
use crate::proto::v1;
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::path::Path;
use tokio::sync::oneshot;

pub(super) struct Parts {
    wal: Wal,
    names: Names,
}

/// A disk that was opened.
pub(super) struct Opened {
    pub disk: Parts,
    pub identity: v1::StoreIdentity,
    /// Answered when the files are free again.
    pub released: oneshot::Receiver<()>,
}

impl Parts {
    /// Opens the disk of the store in `dir`, or makes a new one, for the server `raft_id`.
    ///
    /// # Errors
    /// `InvalidData` for damage, with a [`Fault`] where it is known which.
    pub fn open(dir: &Path, raft_id: u64, segment_bytes: u64, is_old: bool) -> io::Result<Opened> {
        let (log, names) = (dir.join("log"), dir.join("names"));
        let wal = match Wal::exists(&log)? {
            true => Wal::open(&log, segment_bytes)?,
            false if is_old => return Err(Fault::Damaged("the log is missing".into()).into()),
            false => Wal::create(&log, segment_bytes, new_identity(raft_id))?,
        };
        let record = wal.identity().clone();
        let identity: v1::StoreIdentity = open(Kind::Identity, Name::Identity.as_str().as_bytes(), &record)
            .map_err(|fault| fault.within("the identity in the log"))?;
        let opened = Names::open(&names).and_then(|(names, released)| {
            check_names(&names, is_old)?;
            Ok((names, released))
        });
        let (names, released) = match opened {
            Err(e) if e.kind() == io::ErrorKind::InvalidData && (is_old || no_snapshots(dir)?) => {
                tracing::warn!(
                    error = %e,
                    "the list of snapshots can't be read: it is made anew from the snapshots, and what is \
                     left of it is put aside as `names.damaged`"
                );
                made_anew(dir, &names, &record)?
            }
            other => other?,
        };
        if names.get(Name::Identity)?.is_some_and(|found| found != record) {
            return Err(Fault::Damaged("the list of snapshots belongs to another store".into()).into());
        }
        if !is_old {
            names.put(Name::Identity, &record)?;
        }
        Ok(Opened { disk: Parts { wal, names }, identity, released })
    }
}

fn new_identity(raft_id: u64) -> Bytes {
    let identity = v1::StoreIdentity {
        raft_id,
        store_id: format!("{:032x}", clock::random_u128()),
        created_at_ms: clock::now().unix_ms,
    };
    seal(Kind::Identity, Name::Identity.as_str().as_bytes(), &identity).into()
}

/// That what sled holds is whole.
fn check_names(names: &Names, is_old: bool) -> io::Result<()> {
    let check = |name: Name, what: Option<Result<(), Fault>>| match what {
        // A version that knows more has to say so, in `recover.rs`.
        None | Some(Ok(()) | Err(Fault::Newer(_))) => Ok(()),
        Some(Err(fault)) => Err(io::Error::from(fault.within(&format!("the record `{}`", name.as_str())))),
    };
    let identity = names.get(Name::Identity)?;
    if identity.is_none() && is_old {
        return Err(Fault::Damaged("there is nothing in it".into()).into());
    }
    let whole = identity.map(|record| {
        open::<v1::StoreIdentity>(Kind::Identity, Name::Identity.as_str().as_bytes(), &record).map(drop)
    });
    check(Name::Identity, whole)?;
    let whole = names.get(Name::Snapshots)?.map(|record| {
        let place = Name::Snapshots.as_str().as_bytes();
        open::<v1::SnapshotPointers>(Kind::SnapshotPointers, place, &record).map(drop)
    });
    check(Name::Snapshots, whole)
}

fn no_snapshots(dir: &Path) -> io::Result<bool> {
    Ok(std::fs::read_dir(dir.join("snapshots"))?.next().is_none())
}

fn made_anew(dir: &Path, place: &Path, identity: &Bytes) -> io::Result<(Names, oneshot::Receiver<()>)> {
    let aside = dir.join("names.damaged");
    let pointers = v1::SnapshotPointers { snapshots: snapshot::sound_ones(&dir.join("snapshots"))? };
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match std::fs::rename(place, &aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (names, released) = Names::open(place)?;
    let sealed = seal(Kind::SnapshotPointers, Name::Snapshots.as_str().as_bytes(), &pointers);
    names.put(Name::Snapshots, &sealed)?;
    // Last: without it all this is done again.
    names.put(Name::Identity, identity)?;
    Ok((names, released))
}

fn is_seldom(name: Name) -> bool {
    matches!(name, Name::Identity | Name::Snapshots)
}

impl Disk for Parts {
    /// Sled's part first, and durable: the log may then let go of what a snapshot holds.
    fn write(&self, ops: &[Op]) -> io::Result<()> {
        let seldom = |op: &Op| matches!(op, Op::Put { name, .. } if is_seldom(*name));
        if !ops.iter().any(seldom) {
            return self.wal.write(ops);
        }
        for op in ops {
            if let Op::Put { name, record } = op
                && is_seldom(*name)
            {
                self.names.put(*name, record)?;
            }
        }
        let rest: Vec<Op> = ops.iter().filter(|op| !seldom(op)).cloned().collect();
        self.wal.write(&rest)
    }

    fn sync(&self) -> io::Result<()> {
        self.wal.sync()
    }

    fn get(&self, name: Name) -> io::Result<Option<Bytes>> {
        if is_seldom(name) { self.names.get(name) } else { Ok(self.wal.get(name)) }
    }

    fn entries(&self, range: Range<u64>, limit_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.wal.entries(range, limit_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.wal.size_bytes()
    }
}
