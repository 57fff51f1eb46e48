//! The layers of what is being loaded: which are new, and reading those, several at once.

use super::super::document::Layer;
use super::super::error::{Fault, refuse};
use super::super::limits::Limits;
use super::super::source::Member;
use super::super::store::Staging;
use super::super::streams::Compression;
use super::super::unpack::Unpacked;
use super::{Found, LayerSource, Progress};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// More would only make the disk seek.
const MAX_WORKERS: usize = 4;
/// A report each time this much of a layer was read.
const REPORT_BYTES: u64 = 1 << 20;

/// One blob to read.
struct Job {
    layer: Layer,
    member: Member,
    /// Another blob of the same content may already give the folder.
    unpack: bool,
}

enum Event {
    Read(u64),
    Done(Unpacked),
}

/// Stages every layer that the store does not have.
pub(super) fn stage(
    staging: &mut Staging,
    found: &[Found],
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Fault> {
    let jobs = plan(staging, found)?;
    let mut state = Progress {
        layers: jobs.len(),
        layers_done: 0,
        bytes: jobs.iter().map(|job| job.layer.blob_bytes).fold(0, u64::saturating_add),
        bytes_done: 0,
    };
    progress(state);
    let workers = thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS).min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let staging = &*staging;
    thread::scope(|scope| {
        // Bounded by the workers: a report waits until the last one was shown.
        let (events, reports) = sync_channel(MAX_WORKERS);
        let handles: Vec<_> = (0..workers)
            .map(|_| {
                let (events, queue) = (events.clone(), &queue);
                scope.spawn(move || work(staging, queue, limits, &events))
            })
            .collect();
        drop(events);
        let mut sum = Unpacked::default();
        let mut over = Ok(());
        for event in reports {
            match event {
                Event::Read(bytes) => state.bytes_done += bytes,
                Event::Done(unpacked) => {
                    state.layers_done += 1;
                    sum.bytes = sum.bytes.saturating_add(unpacked.bytes);
                    sum.entries += unpacked.entries;
                    over = check_sum(sum, limits);
                    if over.is_err() {
                        break; // the workers' next report fails, and they end
                    }
                }
            }
            progress(state);
        }
        let results: Vec<_> = handles.into_iter().map(|handle| handle.join()).collect();
        over?;
        for result in results {
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

fn check_sum(sum: Unpacked, limits: &Limits) -> Result<(), Fault> {
    if sum.bytes > limits.max_image_unpacked_bytes {
        refuse!("it unpacks to more than {} bytes", limits.max_image_unpacked_bytes);
    }
    if sum.entries > limits.max_image_entries {
        refuse!("it has more than {} entries", limits.max_image_entries);
    }
    Ok(())
}

/// One job for each blob that is not in the store; the first of each content unpacks.
fn plan(staging: &mut Staging, found: &[Found]) -> Result<Vec<Job>, Fault> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut unpacking = BTreeSet::new();
    let mut planned = BTreeMap::new();
    let every = found.iter().flat_map(|one| one.image.layers.iter().zip(&one.layers));
    for (layer, source) in every {
        if let Some(previous) = planned.insert(layer.blob.clone(), layer.clone()) {
            if previous != *layer {
                refuse!("layer {} is listed twice with conflicting sizes, types or diff ids", layer.blob);
            }
            continue;
        }
        let member = match source {
            LayerSource::Member(member) => {
                check_size(layer, member.size())?;
                Some(member)
            }
            LayerSource::Absent => None,
        };
        let has_blob = staging.has_blob(layer)?;
        let has_folder = staging.has_layer(&layer.diff_id);
        if has_blob && has_folder {
            continue;
        }
        let Some(member) = member else {
            refuse!("layer {} is listed and absent", layer.blob);
        };
        let unpack = !has_folder && unpacking.insert(layer.diff_id.clone());
        jobs.push(Job { layer: layer.clone(), member: member.clone(), unpack });
    }
    Ok(jobs)
}

fn check_size(layer: &Layer, actual: u64) -> Result<(), Fault> {
    if actual != layer.blob_bytes {
        refuse!(
            "wrong size: layer {} has {actual} bytes, its descriptor says {}",
            layer.blob,
            layer.blob_bytes
        );
    }
    Ok(())
}

/// Takes jobs until there are none or one fails.
fn work(
    staging: &Staging,
    queue: &Mutex<impl Iterator<Item = Job>>,
    limits: &Limits,
    events: &SyncSender<Event>,
) -> Result<(), Fault> {
    loop {
        let job = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
        let Some(Job { layer, member, unpack }) = job else { return Ok(()) };
        check_compression(&layer, &member)?;
        let reported = Reported { inner: member, events, unreported: 0 };
        match staging.add_layer(&layer, reported, unpack, limits) {
            Ok(unpacked) => drop(events.send(Event::Done(unpacked))),
            Err(fault) => {
                // The others stop at their next job; what they have is thrown away.
                queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).by_ref().for_each(drop);
                return Err(fault.within(format_args!("layer {}", layer.blob)));
            }
        }
    }
}

/// The media type and the bytes must say the same.
fn check_compression(layer: &Layer, member: &Member) -> Result<(), Fault> {
    let actual = Compression::of(&member.start()?)
        .map_err(|fault| fault.within(format_args!("layer {}", layer.blob)))?;
    if actual != layer.compression {
        refuse!(
            "conflicting media types: layer {} is listed as {} and holds {} data",
            layer.blob,
            layer.compression.named(),
            actual.named()
        );
    }
    Ok(())
}

/// Tells of the bytes read now and then.
struct Reported<'a> {
    inner: Member,
    events: &'a SyncSender<Event>,
    unreported: u64,
}

impl Read for Reported<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unreported += read as u64;
        if self.unreported >= REPORT_BYTES || read == 0 {
            let bytes = std::mem::take(&mut self.unreported);
            let heard = bytes == 0 || self.events.send(Event::Read(bytes)).is_ok();
            if !heard {
                return Err(io::Error::other("the load was given up"));
            }
        }
        Ok(read)
    }
}
