//! The helper process: joins a container and executes one command there.
//!
//! `nodectl exec-helper FOLDER PID START_TIME`, with a socket as standard input. One thread.
//! Everything that the container's own processes are held by is put on again, in the order
//! that each step still has the rights for: groups, namespaces, session and terminal,
//! bounding set, ids, capabilities, no_new_privs, working directory, filters.

use super::client::{receive, send_order};
use super::{Order, Refused, Say, Word, pty};
use crate::runtime::launch;
use crate::runtime::protocol;
use crate::runtime::rootdir::Root;
use crate::runtime::shim::{ORDER, chain, take_stdin};
use crate::runtime::users::Identity;
use crate::runtime::{seccomp, spec, sys, users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{WaitOptions, WaitStatus};
use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// The hidden verb; `argv` is what follows it.
pub fn main(argv: &[OsString]) -> ExitCode {
    let parsed = match argv {
        [folder, pid, start] => {
            number(pid).zip(number(start)).map(|(pid, start)| (Path::new(folder), pid, start))
        }
        _ => None,
    };
    let Some((folder, pid, start_time)) = parsed else {
        eprintln!("this verb is for nodectl itself");
        return ExitCode::from(2);
    };
    assert_eq!(sys::thread_count(), 1, "this forks and joins namespaces: it must have one thread");
    // Not the node's part: a static binary that is to be spawned in a folder is forked.
    let away = std::env::set_current_dir("/").and_then(|()| take_stdin());
    let Ok(socket) = away else { return ExitCode::FAILURE };
    let mut socket = UnixStream::from(socket);
    let last = match run(&mut socket, folder, pid as i32, start_time) {
        Ok(code) => Say::Exited(code),
        Err(Stopped::Refused(refused)) => Say::Refused(refused),
        Err(Stopped::Failed(why)) => Say::Failed(why),
    };
    let _ = protocol::send(&mut socket, &Word { say: Some(last) });
    ExitCode::SUCCESS
}

fn number(text: &OsString) -> Option<u64> {
    text.to_str()?.parse().ok()
}

/// Why nothing was executed.
enum Stopped {
    Refused(Refused),
    Failed(String),
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Stopped::Failed(why)
    }
}

fn run(socket: &mut UnixStream, folder: &Path, pid: i32, start_time: u64) -> Result<i32, Stopped> {
    let (order, mut descriptors) = receive_order(socket).map_err(|e| format!("no order came: {e}"))?;
    let container = fs::read(folder.join(ORDER)).map_err(|_| "the container is gone".to_owned())?;
    let container: launch::Order = serde_json::from_slice(&container)
        .map_err(|e| format!("could not read the container's order: {e}"))?;
    join(&container, pid, start_time)?;

    let private = container.id_base.is_some();
    let root = Root::open(Path::new("/"), 0).map_err(|e| chain(&e))?;
    let user = if order.user.is_empty() { &container.user } else { &order.user };
    let text = |path| root.read(path).map_err(|e| chain(&e));
    let identity = users::resolve(user, &text("etc/passwd")?, &text("etc/group")?, private)
        .map_err(|e| e.to_string())?;
    drop(root);
    let mut master = Vec::new();
    if order.terminal {
        let terminal = |e: io::Error| format!("could not make a terminal: {e}");
        let (ours, slave) = pty::open_pair().map_err(terminal)?;
        let size = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        pty::resize(&ours, size(order.rows), size(order.columns)).map_err(terminal)?;
        let owner = rustix::process::Uid::from_raw(identity.uid);
        rustix::fs::fchown(&slave, Some(owner), None).map_err(|e| terminal(e.into()))?;
        let another = || slave.try_clone().map_err(terminal);
        descriptors = vec![another()?, another()?, another()?];
        master.push(ours);
    }
    let [stdin, stdout, stderr] =
        <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| "no streams came".to_owned())?;
    let command = Command::new(&order, &container, &identity)?;
    let (errors, errors_write) = sys::pipe().map_err(|e| format!("could not make a pipe: {e}"))?;
    // SAFETY: this process has one thread, so its child may do whatever it could.
    let child = match unsafe { libc::fork() } {
        0 => {
            let streams = [&stdin, &stdout, &stderr];
            let error = command.execute(streams, order.terminal, &container);
            let error = match error {
                Stopped::Refused(refused) => Word { say: Some(Say::Refused(refused)) },
                Stopped::Failed(why) => Word { say: Some(Say::Failed(why)) },
            };
            let _ = rustix::io::write(&errors_write, &protocol::frame(&error));
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(127) }
        }
        pid if pid > 0 => pid,
        _ => return Err(format!("could not fork: {}", io::Error::last_os_error()).into()),
    };
    drop((stdin, stdout, stderr, errors_write));
    let mut error = Vec::new();
    let _ = fs::File::from(errors).read_to_end(&mut error);
    if !error.is_empty() {
        wait(child);
        return Err(match protocol::take::<Word>(&mut error) {
            Ok(Some(Word { say: Some(Say::Refused(refused)) })) => Stopped::Refused(refused),
            Ok(Some(Word { say: Some(Say::Failed(why)) })) => Stopped::Failed(why),
            _ => Stopped::Failed("it ended before it was executed".to_owned()),
        });
    }
    send_order(socket, &Word { say: Some(Say::Started(true)) }, &master)
        .map_err(|e| format!("the node is gone: {e}"))?;
    drop(master);
    Ok(watch(socket, child))
}

fn receive_order(socket: &UnixStream) -> io::Result<(Order, Vec<OwnedFd>)> {
    let (mut buffer, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        if let Some(order) = protocol::take::<Order>(&mut buffer)? {
            return Ok((order, descriptors));
        }
        let bytes = receive(socket, &mut descriptors)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&bytes);
    }
}

/// Enters the container's control groups and namespaces.
fn join(container: &launch::Order, pid: i32, start_time: u64) -> Result<(), String> {
    let pidfd = sys::pidfd_open(pid).map_err(|_| "the container has ended".to_owned())?;
    // The descriptor keeps the pid from being used again; this tells that it was not before.
    if sys::start_time(pid) != Some(start_time) {
        return Err("the container has ended".to_owned());
    }
    container.cgroup.join().map_err(|e| format!("could not enter the container's control group: {e}"))?;
    let mut namespaces = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    if container.id_base.is_some() {
        namespaces |= libc::CLONE_NEWUSER;
    }
    // SAFETY: a descriptor and flags; all or none of the namespaces are entered.
    if unsafe { libc::setns(pidfd.as_raw_fd(), namespaces) } < 0 {
        return Err(format!("could not enter the container: {}", io::Error::last_os_error()));
    }
    // From the host's root, which the container's user namespace doesn't know, to its own.
    become_user(0, 0, &[]).map_err(|e| format!("could not become the container's root: {e}"))
}

/// Sets groups, group and user; raw calls, which here mean the whole process.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the list lives through the call and its true length is passed.
    let result = unsafe {
        if libc::setgroups(groups.len(), groups.as_ptr()) < 0 || libc::setresgid(gid, gid, gid) < 0 {
            -1
        } else {
            libc::setresuid(uid, uid, uid)
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Everything that execve takes, made before the fork.
struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    identity: Identity,
}

impl Command {
    fn new(order: &Order, container: &launch::Order, identity: &Identity) -> Result<Self, String> {
        let c = |text: &str| CString::new(text).map_err(|_| "the command contains a NUL byte".to_owned());
        let mut env = container.env.clone();
        let extra = order.env.iter().filter_map(|entry| entry.split_once('='));
        for (name, value) in extra {
            env.retain(|(known, _)| known != name);
            env.push((name.to_owned(), value.to_owned()));
        }
        if order.terminal && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let env = spec::environment(&env, identity, &container.hostname);
        let cwd = if order.cwd.is_empty() { &container.cwd } else { &order.cwd };
        Ok(Self {
            args: order.args.iter().map(|arg| c(arg)).collect::<Result<_, _>>()?,
            env: env.iter().map(|entry| c(entry)).collect::<Result<_, _>>()?,
            cwd: c(cwd)?,
            identity: identity.clone(),
        })
    }

    /// In the child: returns only with the reason why it can't be executed.
    fn execute(&self, streams: [&OwnedFd; 3], terminal: bool, container: &launch::Order) -> Stopped {
        if let Err(why) = self.prepare(streams, terminal, container) {
            return Stopped::Failed(why);
        }
        let (error, is_there) = self.execvpe();
        let name = self.args[0].to_string_lossy();
        // The statuses are POSIX's (XCU 2.8.2).
        let (status, why) = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) if !is_there => (127, format!("has no command `{name}`")),
            Some(libc::ENOENT) => {
                (126, format!("has `{name}`, and not the interpreter or loader that it names"))
            }
            Some(libc::EACCES) => (126, format!("has `{name}`, which is not executable")),
            Some(libc::ENOEXEC) => (
                126,
                format!("has `{name}`, which is no program for this machine and names no interpreter (#!)"),
            ),
            _ => (126, format!("could not execute `{name}`: {error}")),
        };
        Stopped::Refused(Refused { status, why })
    }

    fn prepare(
        &self,
        streams: [&OwnedFd; 3],
        terminal: bool,
        container: &launch::Order,
    ) -> Result<(), String> {
        let step = |what: &'static str| move |error: io::Error| format!("could not {what}: {error}");
        let _ = rustix::process::setsid();
        let [stdin, stdout, stderr] = streams;
        nix::unistd::dup2_stdin(stdin)
            .and_then(|()| nix::unistd::dup2_stdout(stdout))
            .and_then(|()| nix::unistd::dup2_stderr(stderr))
            .map_err(|e| step("connect its streams")(e.into()))?;
        if terminal {
            rustix::process::ioctl_tiocsctty(stdin).map_err(|e| step("give it the terminal")(e.into()))?;
        }
        sys::cloexec_from(3).map_err(step("close files"))?;
        limit_resources();
        bound_capabilities().map_err(step("drop capabilities"))?;
        let Identity { uid, gid, groups, .. } = &self.identity;
        // SAFETY: a NUL-terminated path that lives through the call.
        let entered = unsafe { libc::chdir(self.cwd.as_ptr()) } == 0;
        become_user(*uid, *gid, groups).map_err(step("become its user"))?;
        // From here on an app of the same user has no fewer rights than this process, and in
        // the host's user namespace could trace it: past the filters, with our descriptors.
        // Until execve, and after each change of user, since that may undo it.
        nix::sys::prctl::set_dumpable(false).map_err(|e| step("become undumpable")(e.into()))?;
        // SAFETY: as above; now with the user's own rights.
        if !entered && unsafe { libc::chdir(self.cwd.as_ptr()) } < 0 {
            return Err(step("enter the working directory")(io::Error::last_os_error()));
        }
        // A working directory outside the root has no path inside it (CVE-2024-21626).
        if !std::env::current_dir().is_ok_and(|dir| dir.is_absolute()) {
            return Err("the working directory is not inside the container".to_owned());
        }
        hold_capabilities(*uid == 0).map_err(step("drop capabilities"))?;
        // SAFETY: plain integers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
            return Err(step("forbid new privileges")(io::Error::last_os_error()));
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        sys::die_with_parent().map_err(step("bind it to its helper"))?;
        sys::reset_signals();
        seccomp::install(&container.seccomp).map_err(|error| chain(&error))
    }

    /// Returns with why nothing was executed, and whether something of that name is there.
    fn execvpe(&self) -> (io::Error, bool) {
        let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (args, env) = (list(&self.args), list(&self.env));
        let path =
            self.env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
        let name = self.args[0].to_bytes();
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        let candidates: Vec<Vec<u8>> = if name.contains(&b'/') {
            vec![name.to_vec()]
        } else {
            path.split(|b| *b == b':').map(|dir| [dir, b"/", name].concat()).collect()
        };
        let mut is_there = false;
        for candidate in candidates {
            let Ok(candidate) = CString::new(candidate) else { continue };
            // SAFETY: NUL-terminated strings and null-terminated lists that live through the call.
            unsafe { libc::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr()) };
            let error = io::Error::last_os_error();
            // SAFETY: a NUL-terminated path that lives through the call.
            let there = unsafe { libc::access(candidate.as_ptr(), libc::F_OK) } == 0;
            is_there |= there;
            if there || !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
                last = error;
            }
        }
        (last, is_there)
    }
}

/// No core files, as for the container's own processes.
fn limit_resources() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// Takes from the bounding set what the container doesn't have either.
fn bound_capabilities() -> io::Result<()> {
    for capability in 0..=63u8 {
        if spec::CAPABILITY_NUMBERS.contains(&capability) {
            continue;
        }
        // SAFETY: plain integers; a number that this kernel doesn't know is an error.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Root keeps the container's capabilities, anybody else none.
fn hold_capabilities(is_root: bool) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut data = [Data::default(); 2];
    for capability in spec::CAPABILITY_NUMBERS.iter().filter(|_| is_root) {
        let (word, bit) = (usize::from(capability / 32), 1 << (capability % 32));
        data[word].effective |= bit;
        data[word].permitted |= bit;
    }
    /// _LINUX_CAPABILITY_VERSION_3: two words of each set.
    const VERSION: u32 = 0x2008_0522;
    let header = Header { version: VERSION, pid: 0 };
    // SAFETY: the structures are those of capset(2) for this version, two words of data.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Ok(())
}

/// Passes signals on until the process ends; kills it when the node lets go.
fn watch(socket: &UnixStream, child: i32) -> i32 {
    let Ok(pidfd) = sys::pidfd_open(child) else { return wait(child) };
    let mut buffer = Vec::new();
    let mut open = true;
    loop {
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(open.then(|| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready = |fd: Option<&PollFd<'_>>| fd.and_then(PollFd::any).unwrap_or(false);
        if ready(fds.first()) {
            return wait(child);
        }
        if !ready(fds.get(1)) {
            continue;
        }
        match receive(socket, &mut Vec::new()) {
            Ok(bytes) if !bytes.is_empty() => buffer.extend_from_slice(&bytes),
            _ => {
                open = false;
                send_signal(child, libc::SIGKILL);
            }
        }
        while let Ok(Some(word)) = protocol::take::<Word>(&mut buffer) {
            if let Some(Say::Signal(number)) = word.say {
                send_signal(child, number);
            }
        }
    }
}

fn send_signal(child: i32, number: i32) {
    // SAFETY: plain integers; the child is not yet reaped, so the pid is its.
    unsafe { libc::kill(child, number) };
}

fn wait(child: i32) -> i32 {
    let pid = rustix::process::Pid::from_raw(child);
    loop {
        match rustix::process::waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => return code(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 128 + libc::SIGKILL,
        }
    }
}

fn code(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(libc::SIGKILL))
}
