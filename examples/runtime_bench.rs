//! Create, start, exit and removal of one container, beside other runtimes: what
//! `bench/runtime.py` runs. `runtime_bench NODECTL LAYER ROUNDS [NAME=BUNDLE]...`
//!
//! Ours goes the way that the node goes: `nodectl::runtime`, a shim executed from the sealed
//! memfd, its socket, removal, the shim's end. A peer comes twice: as `NAME run`, which ends with
//! removal too, and as the calls of a supervisor that plugs in a network in between, which is what
//! ours does and what containerd does with them: create, start, its end, delete (`NAME-calls`).
//! They take turns, so that what else the machine does hits all of them.
//! A line for each: name; time by the clock, then processor time, each as median, lower and
//! upper quartile in microseconds.

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use nodectl::model::ids::InstanceId;
use nodectl::runtime::wiring::Unplugged;
use nodectl::runtime::{Config, Exit, Launch, Resources, Runtime, SealedExe, Stop, UserNamespace};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP: usize = 5;

/// What one runtime took: times in microseconds of each round.
struct Figures {
    name: String,
    /// Of the clock, from before the order to create until nothing is left.
    took_us: Vec<u128>,
    /// Of processors, user and system: of its processes and of ours while we drive them.
    cpu_us: Vec<u128>,
}

impl Figures {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), took_us: Vec::new(), cpu_us: Vec::new() }
    }

    fn add(&mut self, took: Duration, cpu: Duration) {
        self.took_us.push(took.as_micros());
        self.cpu_us.push(cpu.as_micros());
    }
}

/// Another runtime.
struct Peer {
    program: String,
    bundle: String,
    at_once: Figures,
    by_calls: Figures,
}

impl Peer {
    /// Runs it, outside of the mounts that it cannot stand.
    fn call(&self, mounts: &Option<OwnedFd>, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(mounts) = mounts {
            let mounts = mounts.try_clone()?;
            // SAFETY: one system call, on a descriptor that the closure owns.
            unsafe {
                command
                    .pre_exec(move || Ok(nix::sched::setns(&mounts, nix::sched::CloneFlags::CLONE_NEWNS)?));
            }
        }
        let status = command.status().with_context(|| self.program.clone())?;
        ensure!(status.success(), "{} {args:?} failed: {status}", self.program);
        Ok(())
    }

    fn run_by_calls(&self, mounts: &Option<OwnedFd>, id: &str, pid_file: &Path) -> anyhow::Result<()> {
        let file = pid_file.to_str().context("a plain path")?;
        self.call(mounts, &["create", "--bundle", &self.bundle, "--pid-file", file, id])?;
        let pid = Pid::from_raw(std::fs::read_to_string(pid_file)?.trim().parse()?);
        self.call(mounts, &["start", id])?;
        let ended = waitpid(pid, None)?;
        ensure!(ended == WaitStatus::Exited(pid, 0), "{} ended with {ended:?}", self.program);
        self.call(mounts, &["delete", id])
    }

    fn figures(&mut self) -> [&mut Figures; 2] {
        [&mut self.at_once, &mut self.by_calls]
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: runtime_bench NODECTL LAYER ROUNDS [NAME=BUNDLE]...");
    let (program, layer, rounds) = (next()?, PathBuf::from(next()?), next()?.parse::<usize>()?);
    let mut peers: Vec<Peer> = args
        .map(|peer| {
            let (name, bundle) = peer.split_once('=').context("a peer is NAME=BUNDLE")?;
            Ok(Peer {
                program: name.to_owned(),
                bundle: bundle.to_owned(),
                at_once: Figures::new(name),
                by_calls: Figures::new(&format!("{name}-calls")),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    // A container that a peer made, and that its process left behind, is then this one's to wait for.
    nix::sys::prctl::set_child_subreaper(true)?;

    let mounts = std::env::var_os("PEERS_WITHOUT").map(mounts_without).transpose()?;
    let folder = tempfile::tempdir()?;
    let tag = format!("bench{}", std::process::id());
    let config = Config {
        exe: Some(SealedExe::copy_of(&mut std::fs::File::open(&program)?)?),
        id_pool_dir: folder.path().join("ids"),
        ..Config::new(folder.path().join("data"), &tag, Arc::new(Unplugged))
    };
    let runtime = Runtime::open(config).await?;
    let mut ours = Figures::new("nodectl");
    let mut steps = ["started", "exited", "removed"].map(|step| Figures::new(&format!("nodectl-{step}")));
    for round in 0..rounds + WARM_UP {
        let launch = launch(&layer, round as u64 + 1);
        let (begin, before) = (Instant::now(), cpu_time()?);
        let container = runtime.start(launch).await?;
        let started = begin.elapsed();
        let exit = container.wait().await;
        let exited = begin.elapsed();
        container.remove().await?;
        let removed = begin.elapsed();
        // The shim is the last to go, and a peer's processes are gone when it returns.
        until_no_child_is_left().await?;
        let (took, cpu) = (begin.elapsed(), cpu_time()? - before);
        ensure!(exit == Exit::Code(0), "it ended with {exit:?}");
        if round >= WARM_UP {
            ours.add(took, cpu);
            for (step, took) in steps.iter_mut().zip([started, exited, removed]) {
                step.add(took, Duration::ZERO);
            }
        }
        for peer in &mut peers {
            let id = format!("{tag}-{round}");
            let (begin, before) = (Instant::now(), cpu_time()?);
            peer.call(&mounts, &["run", "--bundle", &peer.bundle, &id])?;
            let (took, cpu) = (begin.elapsed(), cpu_time()? - before);
            let (begin, before) = (Instant::now(), cpu_time()?);
            peer.run_by_calls(&mounts, &format!("{id}-calls"), &folder.path().join("pid"))?;
            let (took_by_calls, cpu_by_calls) = (begin.elapsed(), cpu_time()? - before);
            if round >= WARM_UP {
                peer.at_once.add(took, cpu);
                peer.by_calls.add(took_by_calls, cpu_by_calls);
            }
        }
    }
    runtime.close().await;
    for figures in [&mut ours].into_iter().chain(&mut steps).chain(peers.iter_mut().flat_map(Peer::figures)) {
        let took = quartiles(&mut figures.took_us);
        println!("{} {took} {}", figures.name, quartiles(&mut figures.cpu_us));
    }
    Ok(())
}

/// A mount namespace as the host's, without what is mounted at one place.
fn mounts_without(place: OsString) -> anyhow::Result<OwnedFd> {
    let mut holder = Command::new("unshare")
        .args(["--mount", "sh", "-c", "umount \"$0\" 2>/dev/null; echo; exec cat"])
        .arg(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = [0];
    holder.stdout.as_mut().context("it has an output")?.read_exact(&mut line)?;
    let mounts = File::open(format!("/proc/{}/ns/mnt", holder.id()))?;
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(mounts.into())
}

/// Processor time of this process and of all children that it has waited for, and theirs.
fn cpu_time() -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            sum += Duration::from_micros(u64::try_from(time.num_microseconds())?);
        }
    }
    Ok(sum)
}

async fn until_no_child_is_left() -> anyhow::Result<()> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let deadline = Instant::now() + Duration::from_secs(10);
    while waitid(Id::All, flags) != Err(Errno::ECHILD) {
        ensure!(Instant::now() < deadline, "a shim stays");
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    Ok(())
}

fn launch(layer: &std::path::Path, instance: u64) -> Launch {
    Launch {
        instance: InstanceId(instance),
        attempt: 1,
        name: "bench/web.1".into(),
        hostname: "bench".into(),
        layers: vec![layer.to_owned()],
        image: oci_spec::image::Config::default(),
        command: Some(vec!["/bin/true".into()]),
        env: Vec::new(),
        resources: Resources { memory_bytes: Some(256 << 20), pids_max: Some(512), ..Resources::default() },
        read_only_root: false,
        user_namespace: UserNamespace::Private,
        stop: Stop::default(),
        hosts: Vec::new(),
    }
}

/// `median lower-quartile upper-quartile`.
fn quartiles(of: &mut [u128]) -> String {
    of.sort_unstable();
    let at = |quarter: usize| of[(of.len() * quarter / 4).min(of.len() - 1)];
    format!("{} {} {}", at(2), at(1), at(3))
}
