//! Things die; users see nothing.

use crate::harness::*;
use crate::single::{ready_instances, shop};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Requests without a pause, on four threads, until it is asked how it went.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<String>>>,
    served: Arc<AtomicU64>,
}

impl Load {
    fn start() -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU64::new(0));
        // Threads inherit the network namespace of the one that makes them.
        let threads = (0..4)
            .map(|_| {
                let (stop, served) = (stop.clone(), served.clone());
                std::thread::spawn(move || {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match get("shop.localhost", "/") {
                            Ok(page) if page.status == 200 => {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(page) => failed.push(format!("{} {}", page.status, page.body_text())),
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            })
            .collect();
        Load { stop, threads, served }
    }

    fn serve_some(&self, more: u64) {
        let goal = self.served.load(Ordering::Relaxed) + more;
        wait_for("requests to be served", 60, || {
            let now = self.served.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        });
    }

    /// What failed.
    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("load does not panic")).collect()
    }
}

/// The processes of this node that do `verb`.
fn of_kind(node: &Node, verb: &str) -> BTreeMap<i32, String> {
    let mut all = node.processes();
    all.retain(|_, line| line.split_whitespace().nth(1) == Some(verb));
    all
}

/// The first process of each container; what it forks for a request comes and goes.
fn container_pids(node: &Node) -> Vec<i32> {
    let is_init = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let httpd = node.processes().into_iter().filter(|(_, line)| line.starts_with("httpd"));
    let mut pids: Vec<i32> = httpd.map(|(pid, _)| pid).filter(is_init).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn kill_9_of_the_node_fails_no_request_and_all_is_adopted() {
    on_own_network(|| {
        let mut node = shop(2);
        let containers = container_pids(&node);
        let proxies: Vec<i32> = of_kind(&node, "proxy").into_keys().collect();
        assert_eq!((containers.len(), proxies.len()), (2, 1), "{:?}", node.processes());
        let load = Load::start();
        load.serve_some(100);
        node.kill();
        load.serve_some(300);
        node.start_again(&[]);
        load.serve_some(300);
        let status = ready_instances(&node);
        assert_eq!(status.len(), 2);
        assert!(status.iter().all(|i| i["attempt"] == 1), "no restart: {status:?}");
        assert_eq!(container_pids(&node), containers, "same processes");
        assert_eq!(of_kind(&node, "proxy").into_keys().collect::<Vec<_>>(), proxies, "same proxy");
        assert_eq!(load.finish(), Vec::<String>::new());
        // Adopted means watched: a death is still noticed.
        signal(containers[0], libc::SIGKILL);
        wait_for("the restart", 20, || match ready_instances(&node) {
            ready if ready.len() == 2 && ready.iter().any(|i| i["attempt"] == 2) => Ok(()),
            ready => Err(format!("{ready:?}")),
        });
    });
}

/// What systemd does to restart the service that `service install` writes.
#[test]
fn a_service_that_is_restarted_fails_no_request_and_restarts_no_container() {
    on_own_network(|| {
        let mut node = shop(2);
        node.kill();
        node.start_again(&["--leave-running"]);
        let containers = container_pids(&node);
        let load = Load::start();
        load.serve_some(100);
        assert!(node.end(libc::SIGTERM).success());
        load.serve_some(300);
        node.start_again(&["--leave-running"]);
        load.serve_some(300);
        assert_eq!(load.finish(), Vec::<String>::new());
        assert_eq!(container_pids(&node), containers, "same processes");
        assert!(node.interrupt().success());
        assert_eq!(node.processes(), BTreeMap::new(), "Ctrl-C still ends everything");
    });
}

#[test]
fn a_killed_container_is_restarted_and_no_request_meets_it() {
    on_own_network(|| {
        let node = shop(3);
        let load = Load::start();
        load.serve_some(100);
        // Idle of requests inside: a request that a killed process was answering is lost with it.
        let victim = container_pids(&node)[0];
        signal(victim, libc::SIGKILL);
        wait_for("the restart", 20, || match ready_instances(&node) {
            ready if ready.len() == 3 && ready.iter().any(|i| i["attempt"] == 2) => Ok(()),
            ready => Err(format!("{ready:?}")),
        });
        load.serve_some(200);
        let failed = load.finish();
        // At most what was inside the killed process at that moment: four threads.
        assert!(failed.len() <= 4, "{failed:?}");
    });
}

#[test]
fn a_killed_shim_is_noticed_and_nothing_of_it_is_left() {
    on_own_network(|| {
        let mut node = shop(1);
        let before = container_pids(&node);
        let shims: Vec<i32> = of_kind(&node, "shim").into_keys().collect();
        assert_eq!(shims.len(), 1, "{:?}", node.processes());
        signal(shims[0], libc::SIGKILL);
        wait_for("the replacement", 20, || {
            let now = container_pids(&node);
            let ready = ready_instances(&node);
            if now.len() == 1 && now != before && ready.len() == 1 {
                Ok(())
            } else {
                Err(format!("{now:?} {ready:?}"))
            }
        });
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
        assert!(node.interrupt().success());
        assert_eq!(node.traces(), Vec::<String>::new());
    });
}

#[test]
fn a_killed_proxy_is_back_with_the_same_table() {
    on_own_network(|| {
        let node = shop(1);
        let proxies: Vec<i32> = of_kind(&node, "proxy").into_keys().collect();
        signal(proxies[0], libc::SIGKILL);
        // The listening socket lives on: a connection waits in it and is not refused.
        let page = get("shop.localhost", "/").unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        let now: Vec<i32> = of_kind(&node, "proxy").into_keys().collect();
        assert_eq!(now.len(), 1);
        assert_ne!(now, proxies);
    });
}

#[test]
fn a_restart_of_all_instances_under_load_fails_no_request() {
    on_own_network(|| {
        let node = shop(2);
        let before = container_pids(&node);
        let load = Load::start();
        load.serve_some(100);
        node.ok(&["restart", "shop"]);
        wait_for("new instances", 60, || {
            let now = container_pids(&node);
            if now.len() == 2 && now.iter().all(|pid| !before.contains(pid)) {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        });
        load.serve_some(100);
        assert_eq!(load.finish(), Vec::<String>::new());
    });
}

#[test]
fn a_second_interrupt_ends_at_once_and_what_runs_is_found_again() {
    on_own_network(|| {
        // busybox as the first process ignores SIGTERM: a stop takes its whole grace.
        let mut node = shop(2);
        let status = node.interrupt_twice();
        assert_eq!(status.code(), Some(130));
        node.start_again(&[]);
        wait_for("both instances", 30, || match ready_instances(&node) {
            ready if ready.len() == 2 => Ok(()),
            ready => Err(format!("{ready:?}")),
        });
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
        assert!(node.interrupt().success());
        assert_eq!(node.traces(), Vec::<String>::new());
    });
}

#[test]
fn a_data_folder_that_takes_nothing_is_told_plainly_and_left_as_it_was() {
    on_own_network(|| {
        let disk = Disk::of_bytes(64 * 1024);
        let data = disk.path().join("data");
        let start = || {
            let args = ["dev", "--data-dir", data.to_str().unwrap(), "--http", HTTP];
            let output = std::process::Command::new(BINARY).args(args).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        let ballast = disk.fill();
        let (code, said) = start();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("disk is full") && said.lines().count() == 2, "{said}");
        assert!(!data.exists(), "nothing half-made is left");
        std::fs::remove_file(ballast).unwrap();
        disk.read_only();
        let (code, said) = start();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("Read-only file system") && said.contains("--data-dir"), "{said}");
        assert_eq!(said.matches("os error").count(), 1, "{said}");
    });
}

#[test]
fn a_node_whose_store_fails_ends_and_leaves_what_it_runs() {
    on_own_network(|| {
        let disk = Disk::of_bytes(64 << 20);
        let mut node = Node::start_at(disk.path().join("data"));
        let archive =
            crate::image::busybox(disk.path(), "shop:1", &["httpd", "-f", "-p", "8080", "-h", "/www"]);
        node.ok(&["image", "load", archive.to_str().unwrap()]);
        node.ok(&["deploy", "--image", "shop:1", "--name", "shop"]);
        let containers = container_pids(&node);
        assert_eq!(containers.len(), 1);
        let ballast = disk.fill();
        // The log's file has room reserved: changes go on until it is used up.
        let elsewhere = tempfile::tempdir().unwrap();
        let manifest = elsewhere.path().join("filler.toml");
        let mut round = 0;
        wait_for("the store's failure", 60, || {
            round += 1;
            let large: String = (0..8).map(|n| format!("K{n} = \"{}\"\n", "x".repeat(60_000))).collect();
            let text = format!(
                "app = \"filler\"\nimage = \"shop:1\"\n[process.web]\ncount = 0\n[env]\nROUND = \"{round}\"\n{large}"
            );
            std::fs::write(&manifest, text).unwrap();
            node.run(&["deploy", "--force", "--detach", "-f", manifest.to_str().unwrap()]);
            if node.data.join("api.sock").exists() { Err("it goes on".into()) } else { Ok(()) }
        });
        assert_eq!(node.ends().code(), Some(1));
        assert!(!container_pids(&node).is_empty(), "what runs goes on");
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
        std::fs::remove_file(ballast).unwrap();
        node.start_again(&[]);
        assert_eq!(get("shop.localhost", "/").unwrap().status, 200);
        assert!(node.interrupt().success());
        assert_eq!(node.traces(), Vec::<String>::new());
    });
}

#[test]
fn an_interrupt_while_containers_start_leaves_none() {
    on_own_network(|| {
        let mut node = shop(1);
        node.ok(&["scale", "web=20", "-a", "shop"]);
        wait_for("a start", 20, || {
            if container_pids(&node).len() > 2 { Ok(()) } else { Err("none yet".into()) }
        });
        assert!(node.interrupt().success());
        assert_eq!(node.traces(), Vec::<String>::new());
    });
}
