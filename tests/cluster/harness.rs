//! A real node for a test: the binary that users run, in a network namespace of its own, on
//! a data folder of its own. Everything it made is ended and counted when it is dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_nodectl");
pub const HTTP: &str = "127.0.0.1:8080";

/// Why a test that needs containers cannot run here, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        && !Path::new("/sys/fs/cgroup/memory").exists()
    {
        return Some("needs cgroups");
    }
    None
}

/// Runs a test on a thread whose network is its own: ports, bridges and firewalls of tests
/// never meet, nor touch the machine's.
pub fn on_own_network(test: impl FnOnce() + Send + 'static) {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
        bring_up_loopback();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn bring_up_loopback() {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq; `request` is one and lives through the call.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request) };
    assert_eq!(done, 0, "loopback comes up");
}

pub struct Node {
    child: Option<Child>,
    pub data: PathBuf,
    _folder: tempfile::TempDir,
    pub ready: String,
}

impl Node {
    pub fn start() -> Node {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let mut node = Node { child: None, data, _folder: folder, ready: String::new() };
        node.start_again(&[]);
        node
    }

    /// On a data folder of the caller's.
    pub fn start_at(data: PathBuf) -> Node {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut node = Node { child: None, data, _folder: folder, ready: String::new() };
        node.start_again(&[]);
        node
    }

    pub fn start_with(site: &Path) -> Node {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let mut node = Node { child: None, data, _folder: folder, ready: String::new() };
        node.start_again(&[site.to_str().expect("UTF-8")]);
        node
    }

    /// Starts the node on the same data folder, and waits for its `ready` line.
    pub fn start_again(&mut self, extra: &[&str]) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = Command::new(BINARY)
            .arg("dev")
            .args(extra)
            .args(["--data-dir", self.data.to_str().expect("UTF-8"), "--http", HTTP])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        loop {
            line.clear();
            let read = lines.read_line(&mut line).expect("a line");
            assert!(read > 0, "the node ended before it was ready: {:?}", child.wait());
            if line.starts_with("ready") {
                break;
            }
        }
        self.ready = line.trim().to_owned();
        std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = lines.read_to_string(&mut rest);
        });
        self.child = Some(child);
    }

    /// kill -9 of the node process alone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Ctrl-C.
    pub fn interrupt(&mut self) -> std::process::ExitStatus {
        self.end(libc::SIGINT)
    }

    /// Sends a signal to the node process, and waits for its end.
    pub fn end(&mut self, number: i32) -> std::process::ExitStatus {
        signal(self.child.as_ref().expect("it runs").id() as i32, number);
        self.wait_for_end()
    }

    /// Its end, that comes by itself.
    pub fn ends(&mut self) -> std::process::ExitStatus {
        self.wait_for_end()
    }

    /// Ctrl-C, and again once it has begun to stop.
    pub fn interrupt_twice(&mut self) -> std::process::ExitStatus {
        let pid = self.child.as_ref().expect("it runs").id() as i32;
        signal(pid, libc::SIGINT);
        let socket = self.data.join("api.sock");
        wait_for("the stop", 20, || if socket.exists() { Err("it goes on".into()) } else { Ok(()) });
        signal(pid, libc::SIGINT);
        self.wait_for_end()
    }

    fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the node did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).env("NODECTL_ADDR", format!("unix://{}/api.sock", self.data.display()));
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("the client runs")
    }

    /// The output of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "nodectl {args:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let out = self.ok(&args);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// Processes whose environment or command line names this node's folders: shims, the
    /// proxy, and the node itself.
    pub fn processes(&self) -> BTreeMap<i32, String> {
        let tag = self.tag();
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = line.contains(&format!("nodectl/{tag}"))
                || line.contains(self.data.to_str().expect("UTF-8"))
                || std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|cgroup| cgroup.contains(&format!("nodectl-{tag}")));
            if ours && pid != std::process::id() as i32 {
                found.insert(pid, line);
            }
        }
        found
    }

    /// The six characters that name this node's things on the host.
    pub fn tag(&self) -> String {
        let identity = std::fs::read_to_string(self.data.join("identity")).expect("an identity");
        let id = identity.lines().find_map(|line| line.strip_prefix("node ")).expect("a node id");
        id[..6].to_owned()
    }

    /// What this node has on the host beside files in its data folder, each a line.
    pub fn traces(&self) -> Vec<String> {
        let tag = self.tag();
        let mut traces: Vec<String> =
            self.processes().into_iter().map(|(pid, line)| format!("process {pid} {line}")).collect();
        for mount in std::fs::read_to_string("/proc/mounts").expect("mounts").lines() {
            if mount.contains(&tag) || mount.contains(self.data.to_str().expect("UTF-8")) {
                traces.push(format!("mount {mount}"));
            }
        }
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").expect("net/dev");
        for device in devices.lines().filter_map(|line| line.split(':').next()).map(str::trim) {
            if device.contains(&tag[..4]) {
                traces.push(format!("link {device}"));
            }
        }
        find_cgroups(Path::new("/sys/fs/cgroup"), &format!("nodectl-{tag}"), 3, &mut traces);
        let run = PathBuf::from("/run/nodectl").join(&tag);
        if let Ok(entries) = std::fs::read_dir(&run) {
            traces.extend(entries.flatten().map(|entry| format!("file {}", entry.path().display())));
        }
        traces
    }
}

/// A small disk that only this thread, and what it starts, sees. Declared before what is on it,
/// it goes after that.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn of_bytes(size: u64) -> Disk {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may make a mount namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .expect("what is mounted here stays here");
        let disk = Disk(tempfile::tempdir().expect("a temporary folder"));
        let options = format!("size={size}");
        mount(Some("none"), disk.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .expect("mounts");
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn read_only(&self) {
        use nix::mount::{MsFlags, mount};
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, self.path(), None::<&str>, flags, None::<&str>).expect("remounts");
    }

    /// Writes until nothing fits; the returned file is the ballast.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file");
        for piece in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn find_cgroups(dir: &Path, name: &str, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name().to_string_lossy().contains(name) {
            found.push(format!("cgroup {}", entry.path().display()));
        } else if depth > 0 {
            find_cgroups(&entry.path(), name, depth - 1, found);
        }
    }
}

impl Drop for Node {
    /// Whatever a failed test left is ended here: the node, then what outlived it.
    fn drop(&mut self) {
        if self.child.is_some() && !std::thread::panicking() {
            self.interrupt();
            return;
        }
        if let Some(mut child) = self.child.take() {
            signal(child.id() as i32, libc::SIGINT);
            let deadline = Instant::now() + Duration::from_secs(15);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.data.join("identity").exists() {
            for pid in self.processes().into_keys() {
                signal(pid, libc::SIGKILL);
            }
        }
    }
}

pub fn signal(pid: i32, number: i32) {
    // SAFETY: kill takes numbers only.
    unsafe { libc::kill(pid, number) };
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `check` gives a value; its last refusal is the failure's text.
pub fn wait_for<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match check() {
            Ok(value) => return value,
            Err(why) if Instant::now() >= deadline => panic!("{what} did not come within {seconds} s: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn body_text(&self) -> String {
        text(&self.body)
    }
}

/// One request on a connection of its own.
pub fn get(host: &str, path: &str) -> std::io::Result<Response> {
    request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

pub fn request(raw: &str) -> std::io::Result<Response> {
    let address: SocketAddr = HTTP.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(raw.as_bytes())?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let invalid = || std::io::Error::other(format!("no response: {:?}", text(&all)));
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(invalid)?;
    let head = text(&all[..end]);
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
    let mut body = all[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Ok(Response { status, head, body })
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(text(&rest[..end]).trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    body
}
