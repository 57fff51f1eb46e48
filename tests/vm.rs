//! What must also hold on Debian's kernel, whose features are modules and whose cgroups are v2:
//! tests of this crate, run once more inside a virtual machine.

#[path = "support/vm.rs"]
mod vm;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vm::{Output, Vm};

/// A machine, or `None` after saying what it would need.
fn machine() -> Option<Vm> {
    Vm::new().map_err(|missing| eprintln!("skipped: {missing}")).ok()
}

fn run(vm: Vm, command: &str) -> Output {
    vm.run(command).expect("the machine runs")
}

/// A program of this crate's tests: cargo knows where it has put it, and builds it if it is not
/// there. `which` is what chooses it (`--lib`, `--test runtime`) and its target's name.
fn tests(which: &[&str], name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo told this test about its package would look to build scripts like a change.
    let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if told.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .arg("test")
        .args(which)
        .args(["--no-run", "--message-format=json", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let mut found = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_ours = message["target"]["name"] == name && message["profile"]["test"] == true;
        is_ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
    });
    found.next_back().unwrap_or_else(|| panic!("no program: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_machine_runs_a_command_and_returns_its_output_and_status() {
    let Some(vm) = machine() else { return };
    let output =
        run(vm.file("word", b"hello"), "cat /word; uname -r; cat /sys/fs/cgroup/cgroup.controllers; exit 7");
    assert_eq!(output.status, Some(7), "{output}");
    assert_eq!(output.lines[0].split_once("6.").map(|parts| parts.0), Some("hello"), "{output}");
    for controller in ["cpu", "memory", "pids"] {
        assert!(output.lines[1].split(' ').any(|word| word == controller), "{output}");
    }
}

#[test]
fn a_disk_keeps_what_was_synced_when_the_power_is_cut() -> io::Result<()> {
    let Some(vm) = machine() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    let mut running = vm
        .disk(&disk, 64 << 20)?
        .start("echo kept >/disk/synced; sync; echo lost >/disk/not-synced; echo written; sleep 1000")?;
    while running.next_line()?.expect("the command goes on") != "written" {}
    let cut = running.cut_power()?;
    assert_eq!(cut.status, None);
    let vm = machine().expect("there was one").disk(&disk, 0)?;
    let output = run(vm, "cat /disk/synced; cat /disk/not-synced 2>/dev/null");
    assert_eq!(output.lines, ["kept"], "{output}");
    Ok(())
}

#[test]
fn the_container_network_holds_on_debians_kernel() -> io::Result<()> {
    let Some(vm) = machine() else { return Ok(()) };
    let vm = vm
        .program_as(&tests(&["--lib"], "nodectl"), "unit-tests")?
        .programs_in_path(&["nft", "iptables", "iptables-nft", "iptables-legacy"])?
        .folder(Path::new("/usr/lib/x86_64-linux-gnu/xtables"))?
        // Two minutes on idle cores; the emulation may have to share them.
        .time_limit(Duration::from_secs(900));
    // One at first, while the kernel loads the modules it is asked for: busybox's modprobe
    // takes a module for loaded that another is still loading.
    let output =
        run(vm, "unit-tests the_host_reaches_a_container && unit-tests runtime::network --test-threads 2");
    assert_eq!(output.status, Some(0), "{output}");
    let passed = output.lines.iter().filter(|line| line.ends_with(" ... ok")).count();
    assert!(passed > 30, "{output}");
    Ok(())
}

/// Without its symbols: the machine has to take it apart with an emulated processor.
fn stripped(program: &Path, folder: &Path) -> PathBuf {
    let to = folder.join(program.file_name().expect("a program has a name"));
    let done = Command::new("strip").arg("-o").arg(&to).arg(program).status();
    if done.is_ok_and(|status| status.success()) { to } else { program.to_owned() }
}

/// Runs tests that need the whole binary, from the disk (Linux 6.1 maps ids on ext4, not on
/// tmpfs), and wants at least `least` of them to pass and none to be skipped.
fn run_on_disk(program: &str, choice: &str, least: usize) -> io::Result<()> {
    let Some(vm) = machine() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let nodectl = Path::new(env!("CARGO_BIN_EXE_nodectl"));
    let vm = vm
        .program_as(&stripped(nodectl, folder.path()), "nodectl")?
        .program_as(&stripped(&tests(&["--test", program], program), folder.path()), "chosen-tests")?
        .folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/site"))?
        .disk(&folder.path().join("disk"), 2 << 30)?
        .memory_mb(3072)
        .time_limit(Duration::from_secs(900));
    // The tests know the binary by the path that it was built at.
    let place = nodectl.parent().expect("it is in a folder").display();
    let output = run(
        vm,
        &format!(
            "modprobe overlay; mkdir -p {place} && ln -s /bin/nodectl {} && \
             TMPDIR=/disk chosen-tests --test-threads 1 {choice}",
            nodectl.display()
        ),
    );
    assert_eq!(output.status, Some(0), "{output}");
    // The closing line, since what the tests start writes to the same terminal in between.
    let closing = output.lines.iter().find_map(|line| line.strip_prefix("test result: ok. "));
    let passed: usize = closing.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0);
    assert!(passed >= least, "{passed} passed: {output}");
    assert!(!output.lines.iter().any(|line| line.contains("skipped")), "nothing is left out: {output}");
    Ok(())
}

#[test]
fn containers_hold_on_pure_cgroup_v2() -> io::Result<()> {
    run_on_disk("runtime", "", 20)
}

#[test]
fn the_whole_holds_on_pure_cgroup_v2() -> io::Result<()> {
    run_on_disk("cluster", "a_folder_is_served a_container_is_confined", 2)
}
