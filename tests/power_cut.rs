//! Cuts the power of a machine that writes to the store, again and again: what it acknowledged
//! is there after the next boot, without holes.
//!
//! The machine is Debian's kernel under QEMU's software emulation, with an ext4 disk. Killing
//! QEMU alone loses what the kernel held in memory; a real cut also loses what the drive's
//! cache held, in no order. So QEMU logs each write and each flush, and after the cut the disk
//! is made again from that log: everything up to the last flush, and of what came after it all,
//! none, or sectors by lot.
//!
//! Needs qemu-system-x86, busybox-static, cpio, e2fsprogs, and a kernel in target/vm/kernel
//! (see tests/vm/fetch-kernel.sh); skips without. NODECTL_POWER_CUTS=n for more than four.

mod store_writer;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use store_writer::Witness;

const DIR: &str = "NODECTL_TEST_STORE_DIR";
const DISK_BYTES: u64 = 1 << 30;
const SECTOR: u64 = 512;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// Not a test of its own: what the machine runs, by this name.
#[test]
fn writer_whose_power_is_cut() {
    if let Some(dir) = std::env::var_os(DIR) {
        store_writer::run(Path::new(&dir), 16);
    }
}

/// xorshift64: cuts must be spread, and a run must be repeatable.
struct Lot(u64);

impl Lot {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What the test needs of this machine.
struct Tools {
    kernel: PathBuf,
    modules: PathBuf,
}

fn tools() -> Result<Tools, String> {
    for program in ["qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4", "strip", "xz"] {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("needs {program}"));
        }
    }
    let vm = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm/kernel");
    let first = |dir: PathBuf, prefix: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix))).max()
    };
    let kernel = first(vm.join("boot"), "vmlinuz-");
    let modules = first(vm.join("lib/modules"), "");
    match (kernel, modules) {
        (Some(kernel), Some(modules)) => Ok(Tools { kernel, modules }),
        _ => Err("needs a kernel: run tests/vm/fetch-kernel.sh".into()),
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command:?}: {status:?}");
}

/// A running machine; its power is cut when this is dropped.
struct Machine {
    qemu: Child,
    heard: Receiver<String>,
}

impl Machine {
    fn boot(tools: &Tools, initramfs: &Path, disk: &Path, log: &Path) -> Machine {
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={},cache.direct=off", path.display())
        };
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "768",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=1"])
            .arg("-kernel")
            .arg(&tools.kernel)
            .arg("-initrd")
            .arg(initramfs)
            // One worker: the log's order is the order in which the disk got its writes.
            .args(["-object", "iothread,id=worker,thread-pool-max=1"])
            .args(["-blockdev", &file("disk-file", disk), "-blockdev", &file("log-file", log)])
            .args(["-blockdev", "driver=raw,node-name=disk-raw,file=disk-file"])
            .args(["-blockdev", "driver=raw,node-name=log-raw,file=log-file"])
            .args([
                "-blockdev",
                "driver=blklogwrites,node-name=logged,file=disk-raw,log=log-raw,log-sector-size=512",
            ])
            .args(["-device", "virtio-blk-pci,drive=logged,iothread=worker,write-cache=on"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("qemu starts");
        let out = qemu.stdout.take().expect("a pipe");
        let (lines, heard) = channel();
        std::thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                // A line that the cut left without its end was not said.
                if line.ends_with(b"\n") && lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Machine { qemu, heard }
    }

    fn listen(&self, witness: &mut Witness, until: impl Fn(&Witness) -> bool, deadline: Instant) {
        while !until(witness) && witness.trouble.is_empty() {
            match self.heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if std::env::var_os("NODECTL_VM_CONSOLE").is_some() {
                        eprint!("{line}");
                    }
                    witness.hears(&line);
                }
                Err(_) => return,
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Of the writes since the last flush, what the drive kept.
#[derive(Clone, Copy, Debug)]
enum Kept {
    All,
    Nothing,
    Lot,
}

/// Writes what survived the cut to `disk`. The log's layout is that of dm-log-writes
/// (Linux, Documentation/admin-guide/device-mapper/log-writes.rst).
fn replay(log: &Path, disk: &Path, kept: Kept, lot: &mut Lot) -> (usize, usize) {
    const FLUSH: u64 = 1;
    const DISCARD: u64 = 4;
    let log = File::open(log).expect("the log");
    let length = log.metadata().expect("its length").len();
    let disk = File::options().write(true).open(disk).expect("the disk");
    let mut writes: Vec<(u64, u64, u64)> = Vec::new();
    let mut flushed = 0;
    let mut at = SECTOR;
    while at + SECTOR <= length {
        let mut header = [0; 32];
        log.read_exact_at(&mut header, at).expect("an entry");
        let word = |n: usize| u64::from_le_bytes(header[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
        let (sector, sectors, flags) = (word(0), word(1), word(2));
        if sectors == 0 && flags == 0 {
            break;
        }
        at += SECTOR;
        // Discards carry no data, and what was discarded may hold anything: it keeps what it held.
        if sectors > 0 && flags & DISCARD == 0 {
            if at + sectors * SECTOR > length {
                break;
            }
            writes.push((sector * SECTOR, at, sectors));
            at += sectors * SECTOR;
        }
        if flags & FLUSH != 0 {
            flushed = writes.len();
        }
    }
    for (n, (to, from, sectors)) in writes.iter().enumerate() {
        for sector in 0..*sectors {
            let keep = n < flushed
                || match kept {
                    Kept::All => true,
                    Kept::Nothing => false,
                    Kept::Lot => lot.draw(2) == 0,
                };
            if keep {
                let mut data = [0; SECTOR as usize];
                log.read_exact_at(&mut data, from + sector * SECTOR).expect("data");
                disk.write_all_at(&data, to + sector * SECTOR).expect("written");
            }
        }
    }
    (flushed, writes.len())
}

#[test]
fn acknowledged_writes_survive_power_cuts() {
    if std::env::var_os(DIR).is_some() {
        return;
    }
    let tools = match tools() {
        Ok(tools) => tools,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let cuts = number("NODECTL_POWER_CUTS", 4);
    let seed = number("NODECTL_SEED", 0x1234_5678_9abc_def1);
    let mut lot = Lot(seed);
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (initramfs, disk, running, log) = (path("initramfs"), path("disk"), path("running"), path("log"));
    run(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power-cut/initramfs.sh"))
        .arg(&initramfs)
        .arg(&tools.modules)
        .arg(std::env::current_exe().expect("this program")));
    File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).expect("a disk");
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk));
    let mut witness = Witness::default();
    for cut in 0..=cuts {
        run(Command::new("cp").arg("--sparse=always").arg(&disk).arg(&running));
        // Sparse, and longer than any log gets: QEMU does not make it grow.
        File::create(&log).and_then(|file| file.set_len(8 * DISK_BYTES)).expect("a log");
        witness.new_life();
        let machine = Machine::boot(&tools, &initramfs, &running, &log);
        // It comes up within ten seconds on an idle machine, and this one may be anything but.
        machine.listen(&mut witness, |w| w.writing, Instant::now() + Duration::from_secs(300));
        if !(witness.writing && witness.trouble.is_empty()) {
            let kept = dir.keep();
            panic!(
                "after cut {cut} (seed {seed:#x}): {:#?}; last heard: {:#?}; the disk is in {}",
                witness.trouble,
                witness.tail,
                kept.display()
            );
        }
        if cut == cuts {
            break;
        }
        let life = Duration::from_millis(200 + lot.draw(3000));
        machine.listen(&mut witness, |_| false, Instant::now() + life);
        let Machine { heard, .. } = &machine;
        let rest = heard.try_iter().collect::<Vec<_>>();
        drop(machine);
        rest.iter().for_each(|line| witness.hears(line));
        let kept = [Kept::Nothing, Kept::Lot, Kept::All][lot.draw(3) as usize];
        let (flushed, written) = replay(&log, &disk, kept, &mut lot);
        eprintln!(
            "cut {}: {} acknowledged; {flushed} writes flushed, {} not: kept {kept:?}",
            cut + 1,
            witness.acknowledged(),
            written - flushed
        );
    }
    assert!(witness.acknowledged() > cuts, "hardly anything was written");
}
