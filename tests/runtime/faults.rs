//! A hundred starts with faults leave the host as it was.

use super::support::{Host, cannot_run, kill_9, shim_pid, within};
use nodectl::runtime::wiring::{Attachment, Reply, Wiring};
use nodectl::runtime::{Exit, Launch, State};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Refuses every fourth container.
#[derive(Default)]
struct Flaky {
    attached: AtomicU32,
    detached: AtomicU32,
}

impl Wiring for Flaky {
    fn attach(&self, key: &str, _netns: OwnedFd) -> Reply<'_, Option<Attachment>> {
        self.attached.fetch_add(1, Ordering::Relaxed);
        let instance: u64 = key.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let refuse = instance % 8 == 3;
        Box::pin(async move { if refuse { Err("no cable".to_owned()) } else { Ok(None) } })
    }
    fn detach(&self, _key: &str) -> Reply<'_, ()> {
        self.detached.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::ready(Ok(())))
    }
    fn gateway(&self) -> Option<std::net::IpAddr> {
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_starts_with_faults_leave_nothing_behind() {
    if cannot_run() {
        return;
    }
    let wiring = Arc::new(Flaky::default());
    let host = Arc::new(Host::with(wiring.clone()).await);
    let mut tasks = tokio::task::JoinSet::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(4));
    for instance in 0..100u64 {
        let (host, turns) = (host.clone(), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("open");
            one(&host, instance).await;
        });
    }
    while let Some(done) = within(tasks.join_next()).await {
        done.expect("no fault panics");
    }
    assert!(wiring.detached.load(Ordering::Relaxed) >= wiring.attached.load(Ordering::Relaxed));
    Arc::into_inner(host).expect("all tasks are done").close().await;
}

/// One container with the fault that its number says.
async fn one(host: &Host, instance: u64) {
    let launch = host.launch(instance, "sleep 100 & sleep 100");
    match instance % 8 {
        0 => {
            let launch = Launch { command: Some(vec!["/no/such/thing".into()]), ..launch };
            host.runtime.start(launch).await.expect_err("a missing command started");
        }
        1 => {
            let launch = Launch { layers: vec![host.dir.path().join("no-layer")], ..launch };
            host.runtime.start(launch).await.expect_err("a missing layer started");
        }
        2 => {
            let container = host.start(launch).await;
            kill_9(shim_pid(host, &container));
            assert_eq!(within(container.wait()).await, Exit::ShimLost);
            container.remove().await.expect("removed");
        }
        3 => {
            let error = host.runtime.start(launch).await.expect_err("an unplugged container started");
            assert!(error.to_string().contains("no cable"), "{error}");
        }
        4 => {
            let container = host.start(launch).await;
            kill_9(container.pid());
            assert_eq!(within(container.wait()).await, Exit::Signal { number: 9 });
            container.remove().await.expect("removed");
        }
        5 => shim_killed_while_starting(host, launch, instance).await,
        6 => {
            // The caller loses interest; what was begun is finished and removed.
            let abandoned = host.runtime.start(launch);
            let wait = std::time::Duration::from_micros(instance * 150);
            let _ = tokio::time::timeout(wait, abandoned).await.map(|started| {
                let container = started.expect("starts");
                tokio::spawn(async move { container.remove().await.expect("removed") })
            });
        }
        _ => {
            let container = host.start(launch).await;
            assert_eq!(container.state(), State::Running);
            container.remove().await.expect("removed");
        }
    }
}

/// kill -9 of the shim at some moment between its birth and the container's start.
async fn shim_killed_while_starting(host: &Host, launch: Launch, instance: u64) {
    let folder = host.config.run_dir.join(format!("{instance}.1"));
    let hunt = tokio::task::spawn_blocking(move || {
        let needle = format!("{}\0", folder.display());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < deadline {
            for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                if String::from_utf8_lossy(&command).ends_with(&needle) {
                    // Spread over the first milliseconds of its life: spin, since the moment is the fault.
                    let until = std::time::Instant::now() + std::time::Duration::from_micros(instance * 100);
                    while std::time::Instant::now() < until {
                        std::hint::spin_loop();
                    }
                    if let Ok(pid) = entry.file_name().to_string_lossy().parse() {
                        kill_9(pid);
                    }
                    return;
                }
            }
        }
    });
    if let Ok(container) = host.runtime.start(launch).await {
        assert!(matches!(within(container.wait()).await, Exit::ShimLost | Exit::Signal { .. }));
        container.remove().await.expect("removed");
    }
    hunt.await.expect("hunted");
}
