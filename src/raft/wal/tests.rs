//! The log alone: what a crash at any byte leaves, what damage is told from it, and that old
//! segments go without taking a name with them.

use super::super::disk::{Name, Op};
use super::segment::{self, START};
use super::{Place, Wal, group};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT_BYTES: u64 = 16 << 10;

fn create(dir: &Path) -> Wal {
    Wal::create(dir, SEGMENT_BYTES, Bytes::from_static(b"whose")).expect("a new log")
}

fn reopen(dir: &Path) -> Result<Wal, String> {
    Wal::open(dir, SEGMENT_BYTES).map_err(|e| e.to_string())
}

fn entry(index: u64, length: usize) -> Op {
    Op::PutEntry { index, record: vec![index as u8; length].into() }
}

fn vote(n: u8) -> Op {
    Op::Put { name: Name::Vote, record: vec![n; 20].into() }
}

fn write(wal: &Wal, ops: &[Op]) {
    wal.write(ops).expect("written");
    wal.sync().expect("synced");
}

fn all(wal: &Wal) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    let mut next = 0;
    loop {
        let some = wal.entries(next..u64::MAX, 1000).expect("read");
        let Some((last, _)) = some.last() else { return found };
        next = last + 1;
        found.extend(some);
    }
}

#[test]
fn a_crash_at_any_byte_of_a_group_leaves_everything_before_it_and_can_be_written_on() {
    let source = tempfile::tempdir().expect("a folder");
    let wal = create(source.path());
    write(&wal, &[entry(0, 100), vote(1)]);
    write(&wal, &[entry(1, 300), entry(2, 1), vote(2)]);
    let whole = all(&wal);
    let number = wal.tail().segment.number;
    let end = wal.tail().offset;
    drop(wal);
    let bytes = std::fs::read(segment::path(source.path(), number)).expect("read");
    let mut start = START as usize;
    start += group::claimed(&bytes[start..]).expect("the first group").1;
    for cut in (start..end as usize).rev() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut torn = bytes.clone();
        // What a disk may hold there: nothing yet, or something else altogether.
        torn[cut..end as usize].fill(if cut % 2 == 0 { 0 } else { 0xa5 });
        std::fs::write(segment::path(dir.path(), number), torn).expect("written");
        let wal = reopen(dir.path()).expect("a crash leaves this");
        assert_eq!(all(&wal), whole[..1], "cut at {cut}");
        assert_eq!(wal.get(Name::Vote), Some(vec![1; 20].into()));
        write(&wal, &[entry(1, 7)]);
        drop(wal);
        assert_eq!(all(&reopen(dir.path()).expect("sound")).len(), 2);
    }
}

#[test]
fn a_group_that_went_bad_with_a_sound_one_after_it_is_damage() {
    for (spoilt, what) in [(1, "can't be read, and group"), (40, "can't be read past its group")] {
        let dir = tempfile::tempdir().expect("a folder");
        let wal = create(dir.path());
        for index in 0..60 {
            write(&wal, &[entry(index, 300)]);
        }
        assert_eq!(wal.tail().segment.number, 2);
        // The last of the first segment has no sound group behind it in its own file.
        let place = |n: u64| wal.held().entries.get(n).expect("there");
        let last = (0..60).rev().map(place).find(|place| place.segment == 1).expect("some");
        let Place { segment, offset, .. } = if spoilt == 1 { place(1) } else { last };
        drop(wal);
        let file = File::options().write(true).open(segment::path(dir.path(), segment)).expect("opened");
        file.write_all_at(&[0xff], u64::from(offset) + 5).expect("spoilt");
        let error = reopen(dir.path()).map(drop).expect_err("damage");
        assert!(error.contains(what), "{error}");
    }
}

/// Each claims to be as long as what is left: to check them all would take an hour.
#[test]
fn bytes_that_were_chosen_to_look_like_groups_do_not_hold_a_start_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = Wal::create(dir.path(), 64 << 20, Bytes::from_static(b"whose")).expect("a new log");
    write(&wal, &[vote(1), entry(0, 10)]);
    let offset = wal.tail().offset;
    drop(wal);
    // A variable can hold this: it is text.
    let record = b"ngrp\x01\x01\x01\x01xxxxxxxx".repeat(1 << 20);
    let file = File::options().write(true).open(segment::path(dir.path(), 1)).expect("opened");
    file.write_all_at(&record, offset).expect("written");
    let started = std::time::Instant::now();
    assert_eq!(all(&Wal::open(dir.path(), 64 << 20).expect("sound")).len(), 1);
    assert!(started.elapsed().as_secs() < 60);
}

#[test]
fn a_missing_file_in_the_middle_and_one_of_another_log_are_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    for index in 0..150 {
        write(&wal, &[entry(index, 300)]);
    }
    drop(wal);
    let second = segment::path(dir.path(), 2);
    let kept = std::fs::read(&second).expect("read");
    std::fs::remove_file(&second).expect("removed");
    let error = reopen(dir.path()).map(drop).expect_err("a gap");
    assert!(error.contains("0000000000000002.wal is missing"), "{error}");
    let third = std::fs::read(segment::path(dir.path(), 3)).expect("read");
    std::fs::write(&second, third).expect("written");
    let error = reopen(dir.path()).map(drop).expect_err("in the wrong place");
    assert!(error.contains("is really the one numbered 3"), "{error}");
    std::fs::write(&second, kept).expect("put back");
    assert_eq!(all(&reopen(dir.path()).expect("sound")).len(), 150);
}

/// Else a new log would be written over it, or the store be called damaged.
#[test]
fn a_folder_that_cannot_be_read_is_not_taken_for_one_without_a_log() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(!Wal::exists(&dir.path().join("log")).expect("nothing there"));
    drop(create(dir.path()));
    assert!(Wal::exists(dir.path()).expect("readable"));
    std::fs::create_dir(dir.path().join("in the way.new")).expect("made");
    Wal::exists(dir.path()).expect_err("it can't be removed");
}

#[test]
fn old_files_go_with_their_entries_and_names_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[vote(9)]);
    for index in 0..1000 {
        write(&wal, &[entry(index, 300)]);
        if index % 50 == 49 {
            write(&wal, &[Op::RemoveEntries(0..index - 9)]);
        }
        assert!(wal.size_bytes() <= 4 * SEGMENT_BYTES, "{} at {index}", wal.size_bytes());
    }
    assert!(wal.tail().segment.number > 15);
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).expect("read").map(|e| e.expect("one").file_name()).collect();
    assert!(names.len() <= 4 && names.iter().any(|name| name == segment::SPARE), "{names:?}");
    drop(wal);
    let wal = reopen(dir.path()).expect("sound");
    assert_eq!(wal.get(Name::Vote), Some(vec![9; 20].into()));
    assert_eq!(
        all(&wal).iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        (990..1000).collect::<Vec<_>>()
    );
}

/// Killed between write and sync: what is read then is in the kernel's memory, and a power cut
/// would take it from under the groups that follow.
#[test]
fn what_was_read_at_the_start_is_made_durable_before_it_is_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[vote(3), entry(0, 10)]);
    wal.write(&[entry(1, 10)]).expect("written");
    drop(wal);
    let file = File::options().write(true).open(segment::path(dir.path(), 1)).expect("opened");
    file.set_modified(std::time::UNIX_EPOCH).expect("set back");
    let before = segment::SYNCS.get();
    let wal = reopen(dir.path()).expect("sound");
    assert_eq!(all(&wal).len(), 2);
    assert!(segment::SYNCS.get() > before, "the last group may be lost, and the next one not");
    // A sync that failed leaves pages that no later sync writes, unless they are written again.
    let modified = file.metadata().and_then(|meta| meta.modified()).expect("a time");
    assert!(modified > std::time::UNIX_EPOCH, "the last group was not written again");
}

/// A crash between the making of a file and its first group, then on.
#[test]
fn a_new_file_without_a_group_still_gets_the_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[vote(3), entry(0, 10)]);
    let sequence = wal.tail().sequence;
    drop(wal);
    segment::create(dir.path(), 2, sequence, SEGMENT_BYTES, b"whose").expect("made");
    let wal = reopen(dir.path()).expect("a crash leaves this");
    write(&wal, &[Op::RemoveEntries(0..1), entry(1, 10)]);
    assert_eq!(wal.held().segments.len(), 1);
    drop(wal);
    let wal = reopen(dir.path()).expect("sound");
    assert_eq!(wal.get(Name::Vote), Some(vec![3; 20].into()));
    assert_eq!(all(&wal).len(), 1);
}

/// The same, where no entry keeps the file that the names are in.
#[test]
fn the_names_file_stays_as_long_as_the_new_one_has_no_group() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[vote(3), entry(0, 10)]);
    write(&wal, &[Op::RemoveEntries(0..1)]);
    let sequence = wal.tail().sequence;
    drop(wal);
    segment::create(dir.path(), 2, sequence, SEGMENT_BYTES, b"whose").expect("made");
    let wal = reopen(dir.path()).expect("a crash leaves this");
    // As for a write of which nothing is the log's: a list of snapshots.
    write(&wal, &[]);
    drop(wal);
    let wal = reopen(dir.path()).expect("sound");
    assert_eq!(wal.get(Name::Vote), Some(vec![3; 20].into()));
}

#[test]
fn a_group_larger_than_a_file_gets_one_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[entry(0, 10)]);
    write(&wal, &[entry(1, 1 << 20)]);
    write(&wal, &[entry(2, 10)]);
    drop(wal);
    let lengths: Vec<usize> =
        all(&reopen(dir.path()).expect("sound")).iter().map(|(_, record)| record.len()).collect();
    assert_eq!(lengths, [10, 1 << 20, 10]);
}

#[test]
fn a_reader_keeps_what_it_reads_while_the_file_is_let_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[entry(0, 100)]);
    let (_, segment, places) = wal.run(0, 1, 1000).expect("there");
    for index in 1..500 {
        write(&wal, &[Op::RemoveEntries(0..index), entry(index, 300)]);
    }
    let mut bytes = [0xee; 100];
    segment.file.read_exact_at(&mut bytes, u64::from(places[0].offset)).expect("read");
    assert_eq!(bytes, [0; 100], "the file was written again under the reader");
}

/// `log.rs` would take that for damage.
#[test]
fn a_reader_that_a_purge_overtakes_still_gets_what_is_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let wal = create(dir.path());
    write(&wal, &[entry(0, 10)]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_ne!(wal.entries(0..u64::MAX, 1).expect("read"), [], "there always is one");
                }
            });
        }
        for index in 1..40_000 {
            // Without the disk, which would take most of the time.
            let mut moved_on = Vec::new();
            group::encode(&mut moved_on, &[entry(index, 10), Op::RemoveEntries(0..index)]);
            wal.held().take(1, &moved_on, 0, START as u32).expect("taken");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// One thing that is done to a log.
#[derive(Clone, Debug)]
enum Deed {
    Append(usize),
    Vote(u8),
    CutBack(u64),
    Purge(u64),
    Reopen,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (1..4000usize).prop_map(Deed::Append),
        2 => any::<u8>().prop_map(Deed::Vote),
        1 => (0..5u64).prop_map(Deed::CutBack),
        2 => (0..20u64).prop_map(Deed::Purge),
        1 => Just(Deed::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn it_holds_what_a_plain_map_would(deeds in prop::collection::vec(deed(), 1..60)) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut wal = create(dir.path());
        let (mut map, mut first, mut next) = (BTreeMap::new(), 0, 0);
        let mut vote_given = None;
        for deed in deeds {
            match deed {
                Deed::Append(length) => {
                    write(&wal, &[entry(next, length)]);
                    map.insert(next, Bytes::from(vec![next as u8; length]));
                    next += 1;
                }
                Deed::Vote(n) => {
                    write(&wal, &[vote(n)]);
                    vote_given = Some(Bytes::from(vec![n; 20]));
                }
                Deed::CutBack(by) => {
                    let to = next.saturating_sub(by).max(first);
                    write(&wal, &[Op::RemoveEntries(to..next)]);
                    map.split_off(&to);
                    next = to;
                }
                Deed::Purge(by) => {
                    let upto = (first + by).min(next);
                    write(&wal, &[Op::RemoveEntries(first..upto)]);
                    map = map.split_off(&upto);
                    first = upto;
                }
                Deed::Reopen => {
                    drop(wal);
                    wal = reopen(dir.path()).expect("sound");
                }
            }
            prop_assert_eq!(&all(&wal), &map.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(&wal.get(Name::Vote), &vote_given);
        }
    }
}

type Files = BTreeMap<std::ffi::OsString, Vec<u8>>;

fn files(dir: &Path) -> Files {
    let read = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.expect("one");
        (e.file_name(), std::fs::read(e.path()).expect("read"))
    };
    std::fs::read_dir(dir).expect("a folder").map(read).collect()
}

/// What a power cut leaves of a write that was not synced: of each sector what it was, or what it
/// was to be. A new file's first block is durable before anything else of it.
fn cut_power(dir: &Path, before: &Files, keeps: impl Fn(usize) -> bool) {
    for (name, mut now) in files(dir) {
        let was_spare = before.get(std::ffi::OsStr::new(segment::SPARE)).filter(|b| b.len() == now.len());
        let is_new = !before.contains_key(&name);
        let was = before.get(&name).or(was_spare);
        for (number, sector) in now.chunks_mut(512).enumerate() {
            let at = number * 512;
            if (is_new && at < START as usize) || keeps(number) {
                continue;
            }
            match was {
                Some(was) => sector.copy_from_slice(&was[at..at + sector.len()]),
                None => sector.fill(0),
            }
        }
        std::fs::write(dir.join(name), now).expect("written");
    }
}

/// What is done in the test below: operations, and what becomes of the power then.
fn life() -> impl Strategy<Value = (Deed, u64)> {
    (deed(), prop_oneof![3 => Just(0), 1 => Just(1), 2 => any::<u64>()])
}

type Content = (Vec<(u64, Bytes)>, Option<Bytes>);

fn content(wal: &Wal) -> Content {
    (all(wal), wal.get(Name::Vote))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Synced, killed before the sync, or a power cut that keeps sectors by lot.
    #[test]
    fn whatever_sectors_a_power_cut_keeps_a_write_is_there_whole_or_not_at_all(
        lives in prop::collection::vec(life(), 1..80)
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut wal = create(dir.path());
        for (step, (deed, fate)) in lives.into_iter().enumerate() {
            // What a write does first, and syncs: the rest of it is what the power may be cut from.
            wal.tail().forget_torn().expect("synced");
            let before = files(dir.path());
            let was = content(&wal);
            let first = was.0.first().map_or(0, |(index, _)| *index);
            let next = was.0.last().map_or(first, |(index, _)| index + 1);
            let ops = match deed {
                // Writes that share sectors' bytes, and some that don't.
                Deed::Append(length) => {
                    let record = vec![if length % 2 == 0 { 0 } else { step as u8 }; length].into();
                    vec![Op::PutEntry { index: next, record }, vote(step as u8), entry(next + 1, 20)]
                }
                Deed::Vote(n) => vec![vote(n)],
                Deed::CutBack(by) => vec![Op::RemoveEntries(next.saturating_sub(by).max(first)..next)],
                Deed::Purge(by) => vec![Op::RemoveEntries(first..(first + by).min(next))],
                Deed::Reopen => vec![],
            };
            wal.write(&ops).expect("written");
            let is = content(&wal);
            match fate {
                0 => wal.sync().expect("synced"),
                1 => {
                    drop(wal);
                    wal = reopen(dir.path()).expect("killed");
                    prop_assert_eq!(content(&wal), is);
                }
                lot => {
                    drop(wal);
                    cut_power(dir.path(), &before, |sector| {
                        blake3::hash(&(lot ^ sector as u64).to_le_bytes()).as_bytes()[0] & 1 == 0
                    });
                    wal = reopen(dir.path()).expect("a crash leaves this");
                    let found = content(&wal);
                    prop_assert!(found == was || found == is, "{found:?}");
                }
            }
        }
        drop(wal);
        reopen(dir.path()).expect("sound");
    }
}
