//! Start, watch, stop, adopt, limits, logs, exec.

use super::support::{Host, cannot_run, kill_9, shim_pid, until, within};
use nodectl::runtime::{ExecSpec, Exit, Runtime, State, Stop, UserNamespace};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_container_runs_and_tells_its_exit_status() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let (log, exit) = host.run(host.launch(1, "echo out; echo err >&2; hostname; id -u; exit 3")).await;
    assert_eq!(exit, Exit::Code(3));
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0", "err", "out", "web-1"]);
    host.close().await;
}

#[tokio::test]
async fn what_ends_a_container_is_told_plainly() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    // A first process ignores signals without a handler, even its own.
    let (_, exit) = host.run(host.launch(1, "kill -ABRT $$; exit 7")).await;
    assert_eq!(exit, Exit::Code(7));
    let (_, exit) = host.run(host.launch(2, "sh -c 'kill -SEGV $$'; exit $?")).await;
    assert_eq!(exit, Exit::Code(139));
    let container = host.start(host.launch(3, "sleep 100")).await;
    kill_9(container.pid());
    assert_eq!(within(container.wait()).await, Exit::Signal { number: 9 });
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told_as_such() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut launch = host.launch(1, "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    launch.resources.memory_bytes = Some(32 << 20);
    let container = host.start(launch).await;
    let exit = within(container.wait()).await;
    assert_eq!(exit.to_string(), "killed: out of memory (limit 32 MB)");
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn limits_are_what_the_kernel_was_told() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut launch = host.launch(1, "sh -c 'while :; do sleep 100 & done' 2>/dev/null; exec sleep 100");
    launch.resources = nodectl::runtime::Resources {
        cpu_milli: Some(500),
        cpu_max_milli: Some(1500),
        memory_bytes: Some(64 << 20),
        pids_max: Some(20),
    };
    let container = host.start(launch).await;
    until("the limit of processes", || container.stats().pids >= 19).await;
    let group = nodectl::runtime::cgroup::Place {
        layout: nodectl::runtime::cgroup::layout().expect("cgroups"),
        path: format!("/nodectl-{}/{}", host.tag, container.key()),
    };
    let read = |controller: &str, v1: &str, v2: &str| {
        let file = match group.layout {
            nodectl::runtime::cgroup::Layout::V1 => v1,
            nodectl::runtime::cgroup::Layout::V2 => v2,
        };
        std::fs::read_to_string(group.file(controller, file)).expect(file).trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "20");
    assert!(["150000", "150000 100000"].contains(&read("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    if group.layout == nodectl::runtime::cgroup::Layout::V1 {
        assert_eq!(read("cpu", "cpu.shares", ""), "512");
    }
    assert!(container.stats().memory_bytes > 0 && container.stats().cpu_us > 0);
    assert_eq!(within(container.kill()).await, Exit::Signal { number: 9 });
    container.remove().await.expect("removed");
    host.close().await;
}

/// Those that make the container are in its group, and must not count.
#[tokio::test]
async fn a_container_of_few_processes_starts() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    for (instance, (pids, script)) in
        (1..).zip([(1, "exit 3"), (2, "true & wait $!; exit 3"), (3, "true | true; exit 3")])
    {
        let mut launch = host.launch(instance, script);
        launch.resources.pids_max = Some(pids);
        let (log, exit) = host.run(launch).await;
        assert_eq!(exit, Exit::Code(3), "{pids} processes: {log}");
    }
    host.close().await;
}

#[tokio::test]
async fn a_stop_asks_first_and_kills_after_the_grace() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let polite = host
        .start(host.launch(1, "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"))
        .await;
    until("the trap is set", || host.log("test/web.1").contains("up")).await;
    assert_eq!(within(polite.stop(None, Some(Duration::from_secs(25)))).await, Exit::Code(5));
    assert!(host.log("test/web.1").contains("bye"));
    let deaf = host.start(host.launch(2, "trap '' TERM; sleep 100 & sleep 100")).await;
    let exit = within(deaf.stop(None, Some(Duration::from_millis(50)))).await;
    assert_eq!(exit, Exit::Signal { number: 9 });
    for container in [polite, deaf] {
        container.remove().await.expect("removed");
    }
    host.close().await;
}

#[tokio::test]
async fn a_later_node_adopts_what_runs_and_hears_of_what_ended() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let running = host.start(host.launch(1, "sleep 100")).await;
    let ended = host.start(host.launch(2, "exit 9")).await;
    assert_eq!(within(ended.wait()).await, Exit::Code(9));
    // What a node leaves that was killed while making a container.
    std::fs::create_dir(host.config.run_dir.join("3.1")).expect("half made");
    let scratch = host.config.data_dir.join("scratch/3.1/upper");
    std::fs::create_dir_all(&scratch).expect("half made");

    let later = Runtime::open(host.config.clone()).await.expect("opens");
    let adopted = within(later.adopt()).await;
    let mut found: Vec<_> = adopted.iter().map(|c| (c.key().to_owned(), c.state())).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, [("1.1".into(), State::Running), ("2.1".into(), State::Exited(Exit::Code(9)))]);
    assert!(!scratch.exists(), "what was half made is removed");
    let same = adopted.iter().find(|c| c.key() == "1.1").expect("found");
    assert_eq!((same.pid(), same.start_time()), (running.pid(), running.start_time()));
    assert_eq!(within(same.stop(None, Some(Duration::ZERO))).await, Exit::Signal { number: 9 });
    assert_eq!(within(running.wait()).await, Exit::Signal { number: 9 }, "both nodes hear of it");
    for container in &adopted {
        container.remove().await.expect("removed");
    }
    later.close().await;
    host.close().await;
}

#[tokio::test]
async fn the_environment_user_and_folder_are_the_images_overlaid_by_the_launch() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut launch = host.launch(
        1,
        "echo $A $B $HOME $HOSTNAME; id; pwd; cat /etc/hosts; touch here; ls -l here; ls -d /data/*",
    );
    launch.image = oci_spec::image::ConfigBuilder::default()
        .env(vec!["A=image".to_owned(), "B=image".to_owned()])
        .user("app")
        .working_dir("/tmp")
        .volumes(vec!["/data/mine".to_owned()])
        .build()
        .expect("config");
    launch.env = vec![("B".into(), "launch".into())];
    std::os::unix::fs::chown(host.layer().join("tmp"), Some(1000), Some(1000)).expect("chown");
    let (log, exit) = host.run(launch).await;
    assert_eq!(exit, Exit::Code(0), "{log}");
    for expected in [
        "image launch /home/app web-1",
        "uid=1000(app) gid=1000(app) groups=33(web),1000(app)",
        "/tmp",
        "127.0.0.1\tlocalhost",
        "app      app",
        "/data/mine",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in\n{log}");
    }
    host.close().await;
}

#[tokio::test]
async fn a_container_is_confined() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let script = "grep -E 'CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/uid_map; \
        mount -t tmpfs x /tmp || echo no mount; echo x > /proc/sys/kernel/hostname || echo no sysctl; \
        cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; ls /proc/self/fd; ls /dev; \
        for d in null zero full random urandom tty; do test -c /dev/$d || echo missing $d; done; \
        mknod /tmp/sda b 8 0 || echo no mknod; touch /root/written && echo written; cat /proc/1/mountinfo | wc -l";
    let (log, exit) = host.run(host.launch(1, script)).await;
    assert_eq!(exit, Exit::Code(0), "{log}");
    for expected in [
        "CapBnd:\t00000000a00425fb",
        "CapEff:\t00000000a00425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "65536",
        "no mount",
        "no sysctl",
        "no mknod",
        "written",
    ] {
        assert!(log.contains(expected), "{expected:?} is not in\n{log}");
    }
    assert!(!log.contains("missing"), "{log}");

    let mut launch = host.launch(2, "touch /x || echo read only; cat /proc/self/uid_map");
    launch.read_only_root = true;
    launch.user_namespace = UserNamespace::Host;
    let (log, _) = host.run(launch).await;
    assert!(log.contains("read only") && log.contains("4294967295"), "{log}");
    host.close().await;
}

#[tokio::test]
async fn exec_runs_inside_confined_alike() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let container = host.start(host.launch(1, "sleep 100")).await;
    let inside = |command: &str| ExecSpec {
        command: ["sh", "-c", command].map(str::to_owned).to_vec(),
        env: vec![("E".into(), "exec".into())],
        ..ExecSpec::default()
    };
    let mut session =
        within(container.exec(inside("cat; echo $E; id -u; hostname; exit 4"))).await.expect("runs");
    let mut stdin = session.take_stdin().expect("stdin");
    stdin.write_all(b"typed\n").await.expect("written");
    drop(stdin);
    let mut output = String::new();
    let mut stdout = session.take_stdout().expect("stdout");
    within(stdout.read_to_string(&mut output)).await.expect("read");
    assert_eq!((output.as_str(), within(session.wait()).await), ("typed\nexec\n0\nweb-1\n", 4));

    let status = "grep -E 'Cap|NoNewPrivs|Seccomp:|NSpid' /proc/self/status; cat /proc/self/uid_map; ls -l /proc/self/fd | wc -l; \
        for n in user pid mnt net ipc uts cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup";
    let mut seen = Vec::new();
    for spec in [inside(status)] {
        let mut session = within(container.exec(spec)).await.expect("runs");
        let mut output = String::new();
        within(session.take_stdout().expect("stdout").read_to_string(&mut output)).await.expect("read");
        seen.push(output);
    }
    for expected in
        ["CapBnd:\t00000000a00425fb", "CapEff:\t00000000a00425fb", "NoNewPrivs:\t1", "Seccomp:\t2", "65536"]
    {
        assert!(seen[0].contains(expected), "{expected:?} is not in\n{}", seen[0]);
    }
    for namespace in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
        let of_init = std::fs::read_link(format!("/proc/{}/ns/{namespace}", container.pid())).expect("link");
        assert!(seen[0].contains(&*of_init.to_string_lossy()), "another {namespace} namespace:\n{}", seen[0]);
    }

    let as_user = ExecSpec { user: Some("app".into()), ..inside("id; grep CapEff /proc/self/status") };
    let mut session = within(container.exec(as_user)).await.expect("runs");
    let mut output = String::new();
    within(session.take_stdout().expect("stdout").read_to_string(&mut output)).await.expect("read");
    assert!(output.contains("uid=1000(app)") && output.contains("CapEff:\t0000000000000000"), "{output}");

    let missing = ExecSpec { command: vec!["nope".into()], ..ExecSpec::default() };
    let error = within(container.exec(missing)).await.err().expect("a missing command runs");
    assert!(error.to_string().contains("has no command `nope`"), "{error}");

    let mut session = within(container.exec(inside("kill -TERM $$"))).await.expect("runs");
    assert_eq!(within(session.wait()).await, 128 + 15);

    let session = within(container.exec(inside("exec sleep 1000"))).await.expect("runs");
    // The helper is in the container's group too: it counts, and dies, with it.
    until("it is counted", || container.stats().pids == 3).await;
    drop(session);
    until("a dropped session is killed", || container.stats().pids == 1).await;
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let container = host.start(host.launch(1, "sleep 100")).await;
    let spec = ExecSpec { command: vec!["sh".into()], terminal: Some((33, 77)), ..ExecSpec::default() };
    let mut session = within(container.exec(spec)).await.expect("runs");
    let mut stdin = session.take_stdin().expect("stdin");
    let mut stdout = session.take_stdout().expect("stdout");
    assert!(session.take_stderr().is_none());
    stdin.write_all(b"tty; stty size; sh -c 'echo rea\"\"dy; exec sleep 1000'\n").await.expect("written");
    let mut seen = String::new();
    async fn read_until(stdout: &mut nodectl::runtime::exec::client::Output, seen: &mut String, what: &str) {
        let mut chunk = [0u8; 1024];
        while !seen.contains(what) {
            let n = within(stdout.read(&mut chunk)).await.expect("read");
            assert!(n > 0, "ended before {what:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    }
    read_until(&mut stdout, &mut seen, "33 77").await;
    assert!(seen.contains("/dev/pts/0"), "{seen}");
    // Ctrl-C reaches what runs in the foreground, not the shell. That it runs there is told by
    // itself: a Ctrl-C that comes before goes to the shell, which ignores it.
    read_until(&mut stdout, &mut seen, "ready").await;
    stdin.write_all(b"\x03").await.expect("written");
    session.resize(50, 120).expect("resized");
    stdin.write_all(b"stty size; exit 6\n").await.expect("written");
    read_until(&mut stdout, &mut seen, "50 120").await;
    assert_eq!(within(session.wait()).await, 6);
    let mut rest = Vec::new();
    within(stdout.read_to_end(&mut rest)).await.expect("a closed terminal is its end");
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn a_dead_shim_is_noticed_and_takes_its_container_along() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let container = host.start(host.launch(1, "sleep 100 & sleep 100")).await;
    kill_9(shim_pid(&host, &container));
    assert_eq!(within(container.wait()).await, Exit::ShimLost);
    assert_eq!(container.stats().pids, 0);
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn a_container_that_cannot_start_says_why_and_leaves_nothing() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let missing = nodectl::runtime::Launch { command: Some(vec!["nope".into()]), ..host.launch(1, "") };
    let error = host.runtime.start(missing).await.expect_err("a missing command started");
    assert!(error.to_string().contains("nope"), "{error}");
    std::fs::write(host.layer().join("bin/broken"), "#!/nope\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(host.layer().join("bin/broken"), mode).expect("mode");
    let broken = nodectl::runtime::Launch { command: Some(vec!["broken".into()]), ..host.launch(2, "") };
    let error = host.runtime.start(broken).await.expect_err("a script without interpreter started");
    assert!(error.to_string().contains("could not execute broken"), "{error}");
    let mut stranger = host.launch(3, "true");
    stranger.image = oci_spec::image::ConfigBuilder::default().user("nobody").build().expect("config");
    let error = host.runtime.start(stranger).await.expect_err("an unknown user started");
    assert!(error.to_string().contains("nobody"), "{error}");
    host.close().await;
}

#[tokio::test]
async fn a_signal_of_the_launch_wins_over_the_images() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let script =
        "trap 'echo usr1; exit 0' USR1; trap 'echo quit; exit 0' QUIT; echo up; while :; do sleep 0.05; done";
    let mut launch = host.launch(1, script);
    launch.image = oci_spec::image::ConfigBuilder::default().stop_signal("SIGQUIT").build().expect("config");
    let by_image = host.start(launch.clone()).await;
    until("up", || host.log("test/web.1").contains("up")).await;
    within(by_image.stop(None, None)).await;
    assert!(host.log("test/web.1").ends_with("quit\n"));
    launch.attempt = 2;
    launch.stop = Stop { signal: Some(libc::SIGUSR1), ..Stop::default() };
    let by_launch = host.start(launch).await;
    until("up again", || host.log("test/web.1").matches("up").count() == 2).await;
    within(by_launch.stop(None, None)).await;
    assert!(host.log("test/web.1").ends_with("usr1\n"));
    for container in [by_image, by_launch] {
        container.remove().await.expect("removed");
    }
    host.close().await;
}

/// Run by the test below, in a mount namespace where the v2 tree is not mounted.
#[tokio::test]
#[ignore = "run by the test below, in a process that does not see the v2 tree"]
async fn what_libcontainer_cannot_do_is_told() {
    let host = Host::new().await;
    let mut launch = host.launch(1, "true");
    let nowhere = oci_spec::image::ConfigBuilder::default().working_dir("/proc/nowhere").build();
    launch.image = nowhere.expect("config");
    let error = host.runtime.start(launch).await.expect_err("a folder that cannot be").to_string();
    assert!(error.contains("could not create the container"), "{error}");
    let (log, exit) = host.run(host.launch(2, "echo fine")).await;
    assert_eq!((log.as_str(), exit), ("fine\n", Exit::Code(0)));
    host.close().await;
}

#[tokio::test]
async fn a_host_with_v1_groups_alone_tells_why_a_container_was_not_made() {
    if cannot_run() {
        return;
    }
    if !std::path::Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists() {
        return; // nothing is left out on a host that is not hybrid
    }
    let script = "umount /sys/fs/cgroup/unified && exec \"$0\" --ignored --exact lifecycle::what_libcontainer_cannot_do_is_told";
    let mut command = tokio::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    let output =
        within(command.arg(std::env::current_exe().expect("this test")).output()).await.expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
