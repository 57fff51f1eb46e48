//! A runtime in a temporary folder, launches of busybox, and the leak counter.

use nodectl::model::ids::InstanceId;
use nodectl::runtime::wiring::{Unplugged, Wiring};
use nodectl::runtime::{Config, Container, Launch, Resources, Runtime, SealedExe, Stop, UserNamespace};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Why this machine can't run the tests; printed, and the test is skipped.
pub fn cannot_run() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "skipped: needs root"
    } else if busybox().is_none() {
        "skipped: needs a static busybox (the package busybox-static)"
    } else {
        return false;
    };
    eprintln!("{reason}");
    true
}

fn busybox() -> Option<PathBuf> {
    let places = ["/bin/busybox", "/usr/bin/busybox", "/sbin/busybox"];
    places.map(PathBuf::from).into_iter().find(|path| path.exists())
}

pub fn sealed() -> SealedExe {
    static SEALED: OnceLock<SealedExe> = OnceLock::new();
    let make = || {
        let mut binary = fs::File::open(env!("CARGO_BIN_EXE_nodectl")).expect("the binary is built");
        SealedExe::copy_of(&mut binary).expect("sealed")
    };
    SEALED.get_or_init(make).clone()
}

/// A host of containers in a folder that goes away with it.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub tag: String,
    pub config: Config,
    pub runtime: Runtime,
    before: Footprint,
}

impl Host {
    pub async fn new() -> Self {
        Self::with(Arc::new(Unplugged)).await
    }

    pub async fn with(wiring: Arc<dyn Wiring>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().expect("tempdir");
        lay_out_busybox(&dir.path().join("layer"));
        let config = Config {
            id_pool_dir: dir.path().join("ids"),
            exe: Some(sealed()),
            ..Config::new(dir.path().join("data"), &tag, wiring)
        };
        let before = Footprint::take(&tag, &config, dir.path());
        let runtime = Runtime::open(config.clone()).await.expect("the host can run containers");
        Self { dir, tag, config, runtime, before }
    }

    pub fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// `sh -c SCRIPT` as instance `instance`.
    pub fn launch(&self, instance: u64, script: &str) -> Launch {
        launch(&self.layer(), instance, script)
    }

    pub async fn start(&self, launch: Launch) -> Container {
        self.runtime.start(launch).await.expect("starts")
    }

    /// Runs a script to its end: (its output, how it exited). The container is removed.
    pub async fn run(&self, launch: Launch) -> (String, nodectl::runtime::Exit) {
        let name = launch.name.clone();
        let container = self.start(launch).await;
        let exit = within(container.wait()).await;
        container.remove().await.expect("removed");
        (self.log(&name), exit)
    }

    pub fn log(&self, name: &str) -> String {
        use nodectl::runtime::logs::reader::{Query, Reader};
        let dir = self.runtime.log_dir(name).expect("a log folder");
        let entries = Reader::new(&dir).begin(Query::default());
        entries.iter().map(|entry| format!("{}\n", entry.text)).collect()
    }

    /// Closes the runtime and expects the host as it was.
    pub async fn close(self) {
        self.runtime.clone().close().await;
        let before = self.before.clone();
        let look = || Footprint::take(&self.tag, &self.config, self.dir.path());
        let mut last = look();
        let deadline = Instant::now() + Duration::from_secs(10);
        while last != before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
            last = look();
        }
        assert_eq!(last, before, "something was left behind");
    }
}

pub fn launch(layer: &Path, instance: u64, script: &str) -> Launch {
    Launch {
        instance: InstanceId(instance),
        attempt: 1,
        name: format!("test/web.{instance}"),
        hostname: format!("web-{instance}"),
        layers: vec![layer.to_owned()],
        image: oci_spec::image::Config::default(),
        command: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
        env: Vec::new(),
        resources: Resources::default(),
        read_only_root: false,
        user_namespace: UserNamespace::Private,
        stop: Stop::default(),
        hosts: Vec::new(),
    }
}

impl Drop for Host {
    /// A failing test leaves nothing either: with their containers, shims end.
    fn drop(&mut self) {
        let Ok(layout) = nodectl::runtime::cgroup::layout() else { return };
        let base = nodectl::runtime::cgroup::Place { layout, path: format!("/nodectl-{}", self.tag) };
        let _ = base.destroy_tree(Duration::from_secs(5));
        let _ = fs::remove_dir_all(&self.config.run_dir);
    }
}

/// What a test must not hang on.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("this hangs")
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The smallest image with a shell: one layer.
pub fn lay_out_busybox(layer: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
        fs::create_dir_all(layer.join(dir)).expect("layer");
    }
    fs::copy(busybox().expect("busybox"), layer.join("bin/busybox")).expect("busybox");
    // Not the copy: a process that another thread is starting may still have it open for writing.
    let list = std::process::Command::new(busybox().expect("busybox")).arg("--list").output().expect("list");
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", layer.join("bin").join(name));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).expect("passwd");
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\nweb:x:33:app\n").expect("group");
}

/// All that containers of one tag leave on a host, so that two looks can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    mounts: Vec<String>,
    links: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    processes: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Footprint {
    fn take(tag: &str, config: &Config, dir: &Path) -> Self {
        let ours = dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mounts = mounts.lines().filter(|line| line.contains(&ours) || line.contains(" nodectl "));
        let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let links = links.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut files = BTreeSet::new();
        walk(&config.run_dir, &mut files);
        walk(&config.id_pool_dir, &mut files);
        files.extend(
            fs::read_dir(config.data_dir.join("scratch")).into_iter().flatten().flatten().map(|e| e.path()),
        );
        Self {
            mounts: mounts.map(str::to_owned).collect(),
            links: links.filter(|name| name.contains(tag)).collect(),
            cgroups: cgroups(&format!("nodectl-{tag}")),
            processes: &processes(&ours, tag) | &processes(&config.run_dir.to_string_lossy(), tag),
            files,
        }
    }
}

fn walk(dir: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), into);
        }
        into.insert(entry.path());
    }
}

fn cgroups(name: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.clone()]) {
        let ours = hierarchy.join(name);
        if ours.is_dir() {
            found.extend(
                fs::read_dir(&ours).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()),
            );
            found.insert(ours);
        }
    }
    found
}

/// Shims (by their folder), and everything in a control group of ours.
fn processes(folder: &str, tag: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let group = String::from_utf8_lossy(&read("cgroup")).into_owned();
        if command.contains(folder) || group.contains(&format!("/nodectl-{tag}")) {
            found.insert(format!("{pid} {command}"));
        }
    }
    found
}

/// The shim of a container, found by its command line.
pub fn shim_pid(host: &Host, container: &Container) -> i32 {
    let folder = host.config.run_dir.join(container.key());
    let folder = folder.to_string_lossy();
    let shims = processes(&folder, "none");
    let found = shims.iter().find(|line| line.contains(" shim ")).expect("a living shim");
    found.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
}

pub fn kill_9(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
