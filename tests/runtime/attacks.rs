//! What a hostile image or app tries against the host, each defence once.

use super::support::{Host, cannot_run, kill_9, shim_pid, until, within};
use nodectl::runtime::{ExecSpec, Exit};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use tokio::io::AsyncReadExt;

/// CVE-2019-5736: the app waits for a process of ours to enter, and writes to its executable.
#[tokio::test]
async fn the_binary_cannot_be_overwritten_from_a_container() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    // As root of the host's own user namespace: the worst case.
    let mut launch = host.launch(
        1,
        "echo up; while :; do for p in /proc/[0-9]*; do \
         (echo evil > $p/exe) 2>/dev/null && echo wrote to $p; done; done",
    );
    launch.user_namespace = nodectl::runtime::UserNamespace::Host;
    let container = host.start(launch).await;
    until("the attacker runs", || host.log("test/web.1").contains("up")).await;
    // Executing /proc/self/exe makes the helper's own binary the container's process.
    let command = ["/proc/self/exe", "shim"].map(str::to_owned).to_vec();
    let _ = within(container.exec(ExecSpec { command, ..ExecSpec::default() })).await;
    for _ in 0..20 {
        let spec = ExecSpec { command: vec!["true".into()], ..ExecSpec::default() };
        let mut session = within(container.exec(spec)).await.expect("runs");
        assert_eq!(within(session.wait()).await, 0);
    }
    assert!(!host.log("test/web.1").contains("wrote"), "{}", host.log("test/web.1"));
    let exe = host.config.exe.clone().expect("sealed").path();
    assert_eq!(fs::read(exe).expect("read"), fs::read(env!("CARGO_BIN_EXE_nodectl")).expect("read"));
    container.remove().await.expect("removed");
    host.close().await;
}

/// The class of CVE-2026-41579: mount points that lead to the host.
#[tokio::test]
async fn an_image_whose_mount_points_are_links_is_refused() {
    if cannot_run() {
        return;
    }
    for path in ["dev", "proc", "sys", "dev/pts", "dev/shm", "dev/mqueue", "sys/fs/cgroup", "etc"] {
        let host = Host::new().await;
        let victim = host.dir.path().join("victim");
        fs::create_dir(&victim).expect("victim");
        fs::write(victim.join("null"), "mine").expect("victim");
        fs::write(victim.join("hosts"), "mine").expect("victim");
        let link = host.layer().join(path);
        let _ = fs::remove_dir_all(&link);
        fs::create_dir_all(link.parent().expect("parent")).expect("parents");
        symlink(&victim, &link).expect("link");
        let error = host.runtime.start(host.launch(1, "true")).await.expect_err(path);
        assert!(error.to_string().contains("is refused"), "{path}: {error}");
        let left: Vec<_> = fs::read_dir(&victim).expect("victim").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "{path}: {left:?}");
        assert_eq!(fs::read_to_string(victim.join("null")).expect("read"), "mine");
        host.close().await;
    }
}

#[tokio::test]
async fn our_files_in_etc_never_follow_the_images_links() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let victim = host.dir.path().join("victim");
    fs::write(&victim, "mine").expect("victim");
    for name in ["hosts", "resolv.conf"] {
        symlink(&victim, host.layer().join("etc").join(name)).expect("link");
    }
    symlink(
        "../../../../../../../..".to_owned() + &victim.to_string_lossy(),
        host.layer().join("etc/hostname"),
    )
    .expect("link");
    let (log, exit) = host.run(host.launch(1, "cat /etc/hosts /etc/hostname; echo x >> /etc/hosts")).await;
    assert!(log.contains("localhost") && log.contains("web-1"), "{log}");
    assert_ne!(exit, Exit::Code(0), "/etc/hosts is ours and read-only");
    assert_eq!(fs::read_to_string(&victim).expect("read"), "mine");
    host.close().await;
}

/// CVE-2024-21626: a working directory that is a descriptor of the runtime's.
#[tokio::test]
async fn a_working_directory_never_leads_outside() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    for fd in 3..24u64 {
        let mut launch =
            host.launch(fd, "cat /proc/self/mountinfo | head -1; ls ../../../../../../../..; pwd");
        let cwd = format!("/proc/self/fd/{fd}");
        launch.image = oci_spec::image::ConfigBuilder::default().working_dir(&cwd).build().expect("config");
        match host.runtime.start(launch).await {
            Err(_) => {}
            Ok(container) => {
                within(container.wait()).await;
                let log = host.log(&format!("test/web.{fd}"));
                assert!(!log.contains("home") && !log.contains("usr"), "fd {fd} leads to the host:\n{log}");
                container.remove().await.expect("removed");
            }
        }
    }
    let container = host.start(host.launch(1, "sleep 100")).await;
    for fd in 0..24 {
        let spec = ExecSpec {
            command: ["sh", "-c", "ls ../../../../../../.."].map(str::to_owned).to_vec(),
            cwd: Some(format!("/proc/self/fd/{fd}")),
            ..ExecSpec::default()
        };
        if let Ok(mut session) = within(container.exec(spec)).await {
            let mut output = String::new();
            within(session.take_stdout().expect("stdout").read_to_string(&mut output)).await.expect("read");
            assert!(!output.contains("usr"), "fd {fd} leads to the host:\n{output}");
        }
    }
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn no_descriptor_of_ours_is_inherited() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    // One that the node opened without close-on-exec, as a library of it might.
    let leaky = fs::File::open("/bin/busybox").expect("open");
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).expect("flags");
    let list =
        "ls -l /proc/self/fd | sed 's/.* \\([0-9]* -> \\)/fd \\1/'; tr '\\0' '\\n' < /proc/self/environ";
    let container = host.start(host.launch(1, &format!("{list}; sleep 100"))).await;
    until("it has listed", || host.log("test/web.1").contains("PATH=")).await;
    let mut logs = vec![host.log("test/web.1")];
    let spec = ExecSpec { command: ["sh", "-c", list].map(str::to_owned).to_vec(), ..ExecSpec::default() };
    let mut session = within(container.exec(spec)).await.expect("runs");
    let mut output = String::new();
    within(session.take_stdout().expect("stdout").read_to_string(&mut output)).await.expect("read");
    logs.push(output);
    for log in logs {
        assert!(log.contains("fd 2 -> "), "{log}");
        for line in log.lines().filter_map(|line| line.strip_prefix("fd ")) {
            let (number, target) = line.split_once(" -> ").expect("a listing");
            // Above the three streams: the folder that ls itself reads.
            let fine = number.parse::<u32>().expect("a number") < 3 || target.starts_with("/proc/");
            assert!(fine, "descriptor {line}\n{log}");
        }
        assert!(!log.contains("CARGO"), "the node's environment leaks:\n{log}");
    }
    drop(leaky);
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn containers_do_not_share_ids_and_their_files_stay_theirs() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let a = host.start(host.launch(1, "echo mine > /root/file; chown app /root/file; sleep 100")).await;
    let b = host.start(host.launch(2, "sleep 100")).await;
    assert_ne!(a.id_base().expect("private"), b.id_base().expect("private"));
    use std::os::unix::fs::MetadataExt;
    let on_disk = host.config.data_dir.join("scratch/1.1/upper/root/file");
    let owner = a.id_base().expect("private") + 1000;
    until("the file is there", || fs::metadata(&on_disk).is_ok_and(|meta| meta.uid() == owner)).await;
    // The layer itself is neither shifted nor written to.
    assert_eq!(fs::metadata(host.layer().join("bin/busybox")).expect("layer").uid(), 0);
    assert!(!host.layer().join("root/file").exists());
    let proc_owner = fs::metadata(format!("/proc/{}", a.pid())).expect("proc").uid();
    assert!(proc_owner == a.id_base().expect("private") || proc_owner == 0, "{proc_owner}");
    for container in [a, b] {
        container.remove().await.expect("removed");
    }
    host.close().await;
}

#[tokio::test]
async fn a_container_cannot_keep_its_shim_or_its_log_writer_busy_for_ever() {
    if cannot_run() {
        return;
    }
    let mut host = Host::new().await;
    host.config.log_limits = nodectl::runtime::LogLimits { file_bytes: 1 << 20, files: 3 };
    let runtime = nodectl::runtime::Runtime::open(host.config.clone()).await.expect("opens");
    let container = runtime.start(host.launch(1, "yes flood")).await.expect("starts");
    let dir = host.runtime.log_dir("test/web.1").expect("dir");
    let size = || {
        fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.metadata().map_or(0, |m| m.len()))
            .sum::<u64>()
    };
    until("it has rotated", || size() > 2 << 20).await;
    assert_eq!(
        within(container.stop(None, Some(std::time::Duration::ZERO))).await,
        Exit::Signal { number: 9 }
    );
    assert!(size() <= 3 << 20, "{}", size());
    container.remove().await.expect("removed");
    host.close().await;
}

#[tokio::test]
async fn the_order_with_its_environment_is_roots_alone() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let container = host.start(host.launch(1, "sleep 100")).await;
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&host.config.run_dir), 0o700);
    assert_eq!(mode(&host.config.run_dir.join(container.key())), 0o700);
    // With the shim gone there is no bundle, mounted or not, on the host.
    kill_9(shim_pid(&host, &container));
    within(container.wait()).await;
    container.remove().await.expect("removed");
    host.close().await;
}

/// Asked for a user's home, libc would do as the image's nsswitch.conf says: load libraries of
/// the image into a process that has no filters yet and descriptors of the host. (A pipe in
/// place of that file would hold it for ever.)
#[tokio::test]
async fn no_image_has_a_library_of_its_own_loaded_while_it_is_started() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let path = host.layer().join("etc/nsswitch.conf");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    for (instance, image) in (1..).zip(["HOME=", "HOME", "OTHER=x"]) {
        let mut launch = host.launch(instance, "echo home is $HOME");
        let env = vec![image.to_owned()];
        launch.image = oci_spec::image::ConfigBuilder::default().env(env).build().expect("config");
        let container = within(host.runtime.start(launch)).await.expect("starts");
        assert_eq!(within(container.wait()).await, Exit::Code(0));
        container.remove().await.expect("removed");
        let log = host.log(&format!("test/web.{instance}"));
        assert_eq!(log, "home is /root\n");
    }
    host.close().await;
}

/// An exec'd process comes in with fewer rights than the container's root has left to it, and
/// without the filters for a moment: who traces it then has no filters either.
#[tokio::test]
async fn a_command_on_its_way_into_a_container_cannot_be_looked_into() {
    if cannot_run() {
        return;
    }
    let host = Host::new().await;
    let mut launch = host.launch(
        1,
        "echo up; while :; do for p in /proc/[0-9]*; do \
         case $(readlink $p/exe) in *memfd:*) echo looked into $p; ls -l $p/fd;; esac; done; done",
    );
    // With a user namespace of its own it lacks the right over a process of the host's.
    launch.user_namespace = nodectl::runtime::UserNamespace::Host;
    let container = host.start(launch).await;
    until("the attacker runs", || host.log("test/web.1").contains("up")).await;
    // Many places to look for the command make the moment long.
    let path = "/a:".repeat(5_000) + "/bin";
    for _ in 0..3 {
        let env = vec![("PATH".into(), path.clone())];
        let spec = ExecSpec { command: vec!["true".into()], env, ..ExecSpec::default() };
        let mut session = within(container.exec(spec)).await.expect("runs");
        assert_eq!(within(session.wait()).await, 0);
    }
    assert!(!host.log("test/web.1").contains("looked"), "{}", host.log("test/web.1"));
    container.remove().await.expect("removed");
    host.close().await;
}

/// The shim knows the container's environment, secrets and all.
#[tokio::test]
async fn a_shim_leaves_no_core_file() {
    if cannot_run() {
        return;
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    if pattern.trim() != "core" {
        eprintln!("skipped: core files of this host go elsewhere");
        return;
    }
    let host = Host::new().await;
    let container = host.start(host.launch(1, "sleep 100")).await;
    let shim = shim_pid(&host, &container);
    let some = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    let pid = rustix::process::Pid::from_raw(shim).expect("a pid");
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Core, some).expect("may dump");
    let cores = [std::path::PathBuf::from("/core"), format!("/core.{shim}").into()];
    let before = cores.each_ref().map(|core| core.exists());
    // Not SIGQUIT: a shell that starts the tests in the background has it ignored.
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).expect("killed");
    within(container.wait()).await;
    let after = cores.each_ref().map(|core| core.exists());
    for (core, _) in cores.iter().zip(before).filter(|(core, before)| core.exists() && !before) {
        fs::remove_file(core).expect("removed");
    }
    container.remove().await.expect("removed");
    host.close().await;
    assert_eq!(before, after, "a core file of the shim");
}
