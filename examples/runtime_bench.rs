//! Create, start, exit and removal of one container, beside other runtimes: what
//! `bench/runtime.py` runs. `runtime_bench NODECTL LAYER ROUNDS [NAME=BUNDLE]...`
//!
//! Ours goes the way that the node goes: `nodectl::runtime`, a shim executed from the sealed
//! memfd, its socket, removal. A peer is `NAME run --bundle BUNDLE ID`. They take turns, so
//! that what else the machine does hits all of them. A line for each, in microseconds.

use anyhow::{Context, bail, ensure};
use nodectl::model::ids::InstanceId;
use nodectl::runtime::wiring::Unplugged;
use nodectl::runtime::{Config, Exit, Launch, Resources, Runtime, SealedExe, Stop, UserNamespace};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WARM_UP: usize = 5;

struct Peer {
    name: String,
    bundle: String,
    took: Vec<Duration>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: runtime_bench NODECTL LAYER ROUNDS [NAME=BUNDLE]...");
    let (program, layer, rounds) = (next()?, PathBuf::from(next()?), next()?.parse::<usize>()?);
    let mut peers: Vec<Peer> = args
        .map(|peer| {
            let (name, bundle) = peer.split_once('=').context("a peer is NAME=BUNDLE")?;
            Ok(Peer { name: name.into(), bundle: bundle.into(), took: Vec::new() })
        })
        .collect::<anyhow::Result<_>>()?;

    let folder = tempfile::tempdir()?;
    let tag = format!("bench{}", std::process::id());
    let config = Config {
        exe: Some(SealedExe::copy_of(&mut std::fs::File::open(&program)?)?),
        id_pool_dir: folder.path().join("ids"),
        ..Config::new(folder.path().join("data"), &tag, Arc::new(Unplugged))
    };
    let runtime = Runtime::open(config).await?;
    let (mut started, mut exited, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds + WARM_UP {
        let launch = launch(&layer, round as u64 + 1);
        let begin = Instant::now();
        let container = runtime.start(launch).await?;
        let up = begin.elapsed();
        let exit = container.wait().await;
        let over = begin.elapsed();
        container.remove().await?;
        let gone = begin.elapsed();
        ensure!(exit == Exit::Code(0), "it ended with {exit:?}");
        if round >= WARM_UP {
            started.push(up);
            exited.push(over);
            removed.push(gone);
        }
        for peer in &mut peers {
            let mut command = Command::new(&peer.name);
            command.args(["run", "--bundle", &peer.bundle, &format!("{tag}-{round}")]);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let begin = Instant::now();
            let status = command.status().with_context(|| peer.name.clone())?;
            let took = begin.elapsed();
            if !status.success() {
                bail!("{} failed: {status}", peer.name);
            }
            if round >= WARM_UP {
                peer.took.push(took);
            }
        }
    }
    runtime.close().await;
    print("nodectl", &mut removed);
    print("nodectl-started", &mut started);
    print("nodectl-exited", &mut exited);
    for peer in &mut peers {
        print(&peer.name, &mut peer.took);
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

/// `name median lower-quartile upper-quartile`, in microseconds.
fn print(name: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |quarter: usize| took[(took.len() * quarter / 4).min(took.len() - 1)].as_micros();
    println!("{name} {} {} {}", at(2), at(1), at(3));
}
