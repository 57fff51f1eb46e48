//! The small process that stays with one container: makes it, watches it, ends with it.
//!
//! `nodectl shim FOLDER`, executed by the node from the sealed memfd, with one end of a
//! socket as standard input. One thread, no async runtime: it forks, and joins namespaces.
//! It outlives the node: own session, own control group, deaf to SIGHUP and SIGPIPE.
//!
//! ```text
//!  main ─ daemonise ─ create (in a maker of its own: rootdir, spec, libcontainer)
//!       └ "created" on standard input
//!       └ serve: poll { signals, connections, the container's output } until it ends
//!       └ exit record, empty control group, gone; its mounts went with its last process
//! ```

mod create;
mod maker;
mod probe;
mod serve;

use crate::runtime::exit::Exit;
use crate::runtime::launch::Order;
use crate::runtime::protocol::{self, Answer, Reply};
use crate::runtime::sys;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The names in a container's run folder.
pub(crate) const ORDER: &str = "order";
pub(crate) const SOCKET: &str = "socket";
pub(crate) const EXIT_RECORD: &str = "exit";
pub(crate) const SHIM_LOG: &str = "shim.log";

/// The hidden verb. Returns when the container is gone; `argv` is what follows the verb.
pub fn main(argv: &[std::ffi::OsString]) -> ExitCode {
    let folder = match argv {
        [verb, folder] if verb == "--probe" => return probe::main(Path::new(folder)),
        [folder] => folder,
        _ => {
            eprintln!("this verb is for nodectl itself");
            return ExitCode::from(2);
        }
    };
    match run(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        cause = source.source();
    }
    text
}

fn run(folder: &Path) -> io::Result<()> {
    assert_eq!(sys::thread_count(), 1, "a shim forks and joins namespaces: it must have one thread");
    let mut node = daemonise()?;
    let result = start_up(folder);
    let mut shim = match result {
        Ok(shim) => shim,
        Err(why) => {
            // Whoever ordered this hears why, and removes the folder.
            return protocol::send(&mut node, &Reply { id: 0, answer: Some(Answer::Failed(why)) });
        }
    };
    shim.announce(node);
    shim.serve()
}

/// What a shim needs from its folder, open whatever becomes of the path.
struct Home {
    /// As `/proc/self/fd/N`, which no mount hides.
    path: PathBuf,
    _dir: OwnedFd,
}

impl Home {
    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file so that readers see all of it or nothing. The folder is on a tmpfs:
    /// a sync would gain nothing.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.file(&format!("{name}.new"));
        fs::write(&temporary, bytes)?;
        fs::rename(temporary, self.file(name))
    }

    fn record(&self, exit: &Exit) -> io::Result<()> {
        self.write(EXIT_RECORD, &protocol::frame(&protocol::Ended::from(exit)))
    }
}

/// Leaves the node's session and everything else that would end this process with it.
/// Returns the connection to the node.
fn daemonise() -> io::Result<UnixStream> {
    let node = take_stdin()?;
    // Descriptors of the node that slipped through its fork: none of our business.
    close_others(node.as_raw_fd());
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for signal in [libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: SIG_IGN is valid for both.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(UnixStream::from(node))
}

/// The socket that the node passed as standard input, on a descriptor of its own.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: at a process's start nothing else owns descriptor 0.
    let stdin = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(0) });
    let socket = rustix::io::fcntl_dupfd_cloexec(&*stdin, 3)?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

/// Closes everything above standard error but `keep`.
fn close_others(keep: i32) {
    // SAFETY: at a process's start nothing else owns descriptors; `keep` is left alone.
    unsafe {
        if keep > 3 {
            libc::syscall(libc::SYS_close_range, 3, keep - 1, 0);
        }
    }
    sys::close_from(keep + 1);
}

/// From an order on disk to a created container; the text of a failure is for people.
fn start_up(folder: &Path) -> Result<serve::Shim, String> {
    let at_home = |what: &str| {
        let what = format!("could not {what} in {}", folder.display());
        move |error: io::Error| format!("{what}: {error}")
    };
    let dir: OwnedFd = File::open(folder).map_err(at_home("open the run folder"))?.into();
    let home = Home { path: sys::fd_path(&dir), _dir: dir };
    let order = fs::read(home.file(ORDER)).map_err(at_home("read the order"))?;
    let order: Order =
        serde_json::from_slice(&order).map_err(|error| format!("could not read the order: {error}"))?;
    // First of all, so that a node that comes back sees that this container has a shim.
    let listener = UnixListener::bind(home.file(SOCKET)).map_err(at_home("listen"))?;
    if order.cgroup.layout == crate::runtime::cgroup::Layout::V2 {
        let shims = order.cgroup.parent().child("shims");
        shims
            .enter()
            .map_err(|error| format!("could not enter the control group {}: {error}", shims.path))?;
    }
    let created = create::create(&order).map_err(|error| {
        let text = chain(&error);
        let _ = order.cgroup.destroy(std::time::Duration::from_secs(2));
        text
    })?;
    serve::Shim::new(home, order, listener, created).map_err(|error| format!("could not watch: {error}"))
}
