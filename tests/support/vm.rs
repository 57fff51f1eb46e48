//! A virtual machine for a test: Debian's kernel under QEMU's software emulation, pure cgroup v2,
//! nothing in it but busybox and what the test puts there. It boots in a few seconds.
//!
//! ```text
//! let vm = match Vm::new() { Ok(vm) => vm, Err(missing) => return eprintln!("skipped: {missing}") };
//! let output = vm.program(&path)?.run("NAME --flag")?;
//! assert_eq!(output.status, Some(0), "{output}");
//! ```
//!
//! The machine's second serial port carries the command's output, ending in `VM-EXIT n`; the
//! first is the kernel's own. The kernel comes from `tests/vm/fetch-kernel.sh`.

#![allow(dead_code)] // each test uses its part

#[path = "initramfs.rs"]
mod initramfs;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use initramfs::Initramfs;
use tempfile::TempDir;

/// What is loaded from Debian's package: as files, for the kernel to ask for when it needs them.
const AVAILABLE_MODULES: [&str; 30] = [
    "overlay",
    "fuse",
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_chain_nat",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_bridge",
    "nft_meta_bridge",
    "nft_limit",
    "nft_log",
    "nft_compat",
    "xt_comment",
    "xt_conntrack",
    "xt_tcpudp",
    "ip_tables",
    "iptable_filter",
    "ext4",
    "loop",
    "virtio_blk",
    "virtio_pci",
];
/// Loaded at start: nobody asks for a disk's driver by name where there is no udev.
const DISK_MODULES: &str = "virtio_pci virtio_blk";

/// Five minutes: emulation is some twenty times slower than the machine, and shares its cores.
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(300);

pub struct Vm {
    kernel: PathBuf,
    root: Initramfs,
    modules: Vec<String>,
    disk: Option<PathBuf>,
    memory_mb: u32,
    time_limit: Duration,
}

/// What a command in a machine said, and its exit status: `None` if the machine ended before it.
#[derive(Debug)]
pub struct Output {
    pub status: Option<i32>,
    pub lines: Vec<String>,
    /// The kernel's words, for when something went wrong.
    pub console: String,
}

impl Vm {
    /// A machine without programs yet; or, as text, what this machine lacks for having one.
    pub fn new() -> Result<Vm, String> {
        let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm/kernel");
        if find_kernel(&kernel).is_none() {
            return Err("needs Debian's kernel: run tests/vm/fetch-kernel.sh".to_owned());
        }
        which("qemu-system-x86_64").ok_or("needs qemu-system-x86_64 (package qemu-system-x86)")?;
        let busybox = which("busybox").ok_or("needs busybox (package busybox-static)")?;
        let mut vm = Vm {
            kernel,
            root: Initramfs::new(),
            modules: vec!["br_netfilter".to_owned()],
            disk: None,
            memory_mb: 1024,
            time_limit: DEFAULT_TIME_LIMIT,
        };
        vm.fill(&busybox)
            .map_err(|error| format!("needs a whole kernel package in target/vm/kernel: {error}"))?;
        Ok(vm)
    }

    fn fill(&mut self, busybox: &Path) -> io::Result<()> {
        let (_, version) = find_kernel(&self.kernel).ok_or(io::ErrorKind::NotFound)?;
        self.root.program(busybox, "busybox")?;
        self.root.file("init", 0o755, include_bytes!("../vm/init.sh").to_vec());
        self.root.modules(&self.kernel, &version, &AVAILABLE_MODULES)?;
        // Where the kernel looks for it when it wants a module.
        self.root.copy(busybox, "sbin/modprobe")
    }

    /// Puts a program of this machine into the other one's PATH, under its file name.
    pub fn program(self, path: &Path) -> io::Result<Vm> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        self.program_as(path, name)
    }

    pub fn program_as(mut self, path: &Path, name: &str) -> io::Result<Vm> {
        self.root.program(path, name)?;
        Ok(self)
    }

    /// Puts programs of this machine's PATH into the other one, those that there are: a test that
    /// misses one skips there as it would here.
    pub fn programs_in_path(self, names: &[&str]) -> io::Result<Vm> {
        let mut found = names.iter().filter_map(|name| Some((*name, which(name)?)));
        found.try_fold(self, |vm, (name, path)| vm.program_as(&path, name))
    }

    pub fn file(mut self, path: &str, contents: &[u8]) -> Vm {
        self.root.file(path, 0o644, contents.to_vec());
        self
    }

    /// Copies a whole folder of this machine to the same path there, if it exists here.
    pub fn folder(mut self, path: &Path) -> io::Result<Vm> {
        if path.is_dir() {
            self.root.copy_tree(path)?;
        }
        Ok(self)
    }

    /// An ext4 disk, mounted at /disk. If there is no such file one of `bytes` is made; what is
    /// on it stays from one run to the next, and what was not synced is lost with the power.
    pub fn disk(mut self, path: &Path, bytes: u64) -> io::Result<Vm> {
        if !path.exists() {
            File::create(path)?.set_len(bytes)?;
            let made = Command::new(which("mkfs.ext4").ok_or(io::ErrorKind::NotFound)?)
                .args(["-q", "-F"])
                .arg(path)
                .status()?;
            if !made.success() {
                return Err(io::Error::other("mkfs.ext4 failed"));
            }
        }
        self.modules.extend(DISK_MODULES.split(' ').map(str::to_owned));
        self.disk = Some(path.to_owned());
        Ok(self)
    }

    pub fn memory_mb(mut self, memory_mb: u32) -> Vm {
        self.memory_mb = memory_mb;
        self
    }

    pub fn time_limit(mut self, time_limit: Duration) -> Vm {
        self.time_limit = time_limit;
        self
    }

    /// Boots, runs a line of shell, switches off. Each line of its output is passed on to this
    /// test's standard error as it comes.
    pub fn run(self, command: &str) -> io::Result<Output> {
        let mut running = self.start(command)?;
        while let Some(line) = running.next_line()? {
            eprintln!("vm| {line}");
        }
        running.finish()
    }

    /// Boots and leaves the reading to the caller, who may also cut the power.
    pub fn start(mut self, command: &str) -> io::Result<Running> {
        let (image, _) = find_kernel(&self.kernel).ok_or(io::ErrorKind::NotFound)?;
        self.root.file("command", 0o755, command.as_bytes().to_vec());
        self.root.file("modules", 0o644, self.modules.join("\n").into_bytes());
        let folder = tempfile::tempdir()?;
        let initramfs = folder.path().join("initramfs");
        self.root.write(&initramfs)?;
        let console = folder.path().join("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-display", "none", "-monitor", "none"])
            .args(["-nic", "none", "-no-user-config", "-no-reboot"])
            .args(["-m", &self.memory_mb.to_string()])
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .args(["-serial", &format!("file:{}", console.display()), "-serial", "stdio"]);
        if let Some(disk) = &self.disk {
            let drive = format!("file={},format=raw,if=virtio,cache=writeback", disk.display());
            qemu.args(["-drive", &drive]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            // A test that is killed takes its machine along.
            qemu.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL)?));
        }
        let mut child = qemu.spawn()?;
        let lines = read_lines(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let deadline = Instant::now() + self.time_limit;
        Ok(Running { child, lines, deadline, console, _folder: folder, output: Vec::new(), status: None })
    }
}

/// A machine that is on. Dropping it cuts the power.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    deadline: Instant,
    console: PathBuf,
    _folder: TempDir,
    output: Vec<String>,
    status: Option<i32>,
}

impl Running {
    /// The next line of output; `None` when the command has ended or the machine is off.
    ///
    /// # Errors
    /// When the time limit has passed.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        if self.status.is_some() {
            return Ok(None);
        }
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let said = self.output.join("\n");
                let message =
                    format!("the machine passed its time limit; so far it said:\n{said}\n{}", self.console());
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            }
            Ok(line) => match line.strip_prefix("VM-EXIT ").map(str::parse) {
                Some(Ok(status)) => {
                    self.status = Some(status);
                    Ok(None)
                }
                _ => {
                    self.output.push(line.clone());
                    Ok(Some(line))
                }
            },
        }
    }

    /// Pulls the plug: whatever the machine had not written to its disk is gone.
    pub fn cut_power(mut self) -> io::Result<Output> {
        self.child.kill()?;
        self.finish()
    }

    fn finish(mut self) -> io::Result<Output> {
        while self.child.try_wait()?.is_none() {
            if Instant::now() > self.deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the machine does not switch off"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut lines = std::mem::take(&mut self.output);
        // The init ends the last line, whether or not the command did.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Ok(Output { status: self.status, lines, console: self.console() })
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit status {:?}; output:\n{}", self.status, self.lines.join("\n"))?;
        write!(f, "console:\n{}", self.console)
    }
}

fn read_lines(from: impl io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The image and the version of an unpacked kernel package.
fn find_kernel(unpacked: &Path) -> Option<(PathBuf, String)> {
    let version =
        fs::read_dir(unpacked.join("lib/modules")).ok()?.next()?.ok()?.file_name().into_string().ok()?;
    let image = unpacked.join("boot").join(format!("vmlinuz-{version}"));
    image.exists().then_some((image, version))
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}
