//! The default system call filter, compiled to BPF once and handed to every shim.
//!
//! Two stacked programs, since seccompiler has one action for each filter: the first answers
//! clone3 with ENOSYS (its flags lie in memory where no filter can look; libcs fall back to
//! clone), the second is the allow-list and answers the rest with EPERM. 32-bit system calls
//! on a 64-bit kernel kill the process: seccompiler filters one architecture.

use crate::runtime::seccomp_table::{
    ALLOWED, ALLOWED_HERE, CLONE_NAMESPACES, PERSONALITIES, REFUSED_SOCKET_FAMILIES, WITH_CAPABILITY,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A compiled filter that can be written down: in JSON one string, 16 hex digits (code, jt,
/// jf, k) for each instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Program(Vec<(u16, u8, u8, u32)>);

impl From<Program> for String {
    fn from(program: Program) -> Self {
        let mut bytes = Vec::with_capacity(program.0.len() * 8);
        for (code, jt, jf, k) in program.0 {
            bytes.extend(code.to_be_bytes());
            bytes.extend([jt, jf]);
            bytes.extend(k.to_be_bytes());
        }
        hex::encode(bytes)
    }
}

impl TryFrom<String> for Program {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = hex::decode(text).map_err(|_| "a filter is not hexadecimal")?;
        let (instructions, []) = bytes.as_chunks::<8>() else { return Err("a filter is cut short") };
        let read = |i: &[u8; 8]| {
            (u16::from_be_bytes([i[0], i[1]]), i[2], i[3], u32::from_be_bytes([i[4], i[5], i[6], i[7]]))
        };
        Ok(Self(instructions.iter().map(read).collect()))
    }
}

/// Why no filter could be made or installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not compile the system call filter")]
    Compile(#[from] seccompiler::BackendError),
    #[error("could not install the system call filter")]
    Install(#[from] seccompiler::Error),
}

/// The default filters for processes that hold these capabilities (by number).
///
/// # Errors
/// This architecture has no filter.
pub fn default_programs(capabilities: &[u8]) -> Result<Vec<Program>, Error> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let errno = |number: i32| SeccompAction::Errno(number as u32);
    let no_clone3 = SeccompFilter::new(clone3, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    let allow = SeccompFilter::new(rules(capabilities)?, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    // Installed in this order; the kernel runs all of them and the strictest answer wins,
    // and among errors that of the last one installed: the allow-list has to pass clone3.
    [allow, no_clone3]
        .into_iter()
        .map(|filter| {
            let program: BpfProgram = filter.try_into()?;
            Ok(Program(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()))
        })
        .collect()
}

fn rules(capabilities: &[u8]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let always = ALLOWED.iter().copied().flatten().chain(ALLOWED_HERE);
    let held = WITH_CAPABILITY.iter().filter(|(capability, _)| capabilities.contains(capability));
    for call in always.chain(held.flat_map(|(_, calls)| calls.iter())) {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(libc::SYS_clone, vec![rule(&[(0, SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)])?]);
    let personalities = PERSONALITIES.iter().map(|value| rule(&[(0, SeccompCmpOp::Eq, *value)]));
    rules.insert(libc::SYS_personality, personalities.collect::<Result<_, _>>()?);
    let families = REFUSED_SOCKET_FAMILIES.map(|family| (0, SeccompCmpOp::Ne, family));
    rules.insert(libc::SYS_socket, vec![rule(&families)?]);
    Ok(rules)
}

/// All conditions must hold: (argument, comparison, value), on the lower 32 bits as the
/// kernel reads these arguments.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, Error> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

/// Puts this process, and all that it will execute, under the filters; for good.
///
/// # Errors
/// The kernel refuses: no_new_privs is not set, or it has no seccomp.
pub fn install(programs: &[Program]) -> Result<(), Error> {
    for program in programs {
        let program: Vec<sock_filter> =
            program.0.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect();
        seccompiler::apply_filter(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CAP_SYS_CHROOT
    const CHROOT: u8 = 18;

    #[test]
    fn capabilities_decide_about_the_calls_that_need_them() {
        let with = rules(&[CHROOT]).expect("rules");
        let without = rules(&[]).expect("rules");
        assert!(with.contains_key(&libc::SYS_chroot) && !without.contains_key(&libc::SYS_chroot));
        for call in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_init_module,
            libc::SYS_kexec_load,
            libc::SYS_pivot_root,
            libc::SYS_move_mount,
            libc::SYS_open_by_handle_at,
            libc::SYS_perf_event_open,
            libc::SYS_reboot,
        ] {
            assert!(!with.contains_key(&call), "call {call} is allowed");
        }
    }

    #[test]
    fn programs_survive_being_written_down() {
        for program in default_programs(&[]).expect("compiled") {
            let text = serde_json::to_string(&program).expect("json");
            assert_eq!(serde_json::from_str::<Program>(&text).expect("reads"), program);
        }
        serde_json::from_str::<Program>("\"00\"").expect_err("a cut filter was accepted");
    }

    #[test]
    fn programs_fit_the_kernel() {
        for program in default_programs(&[CHROOT]).expect("compiled") {
            assert!(program.0.len() < 4096, "{} instructions", program.0.len());
        }
    }

    /// What a child under the filters answers with; it runs nothing but raw calls.
    fn errno_under_filter(call: impl Fn() -> libc::c_long) -> i32 {
        let programs = default_programs(&[CHROOT]).expect("compiled");
        let programs: Vec<Vec<sock_filter>> = programs
            .iter()
            .map(|p| p.0.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect())
            .collect();
        // SAFETY: the child allocates nothing: it makes system calls and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            for program in &programs {
                if seccompiler::apply_filter(program).is_err() {
                    // SAFETY: ends the child without running anything of the parent's.
                    unsafe { libc::_exit(255) };
                }
            }
            let result = call();
            let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
            // SAFETY: as above.
            unsafe { libc::_exit(if result < 0 { errno } else { 0 }) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made, into a local.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status), "the child was killed: status {status:#x}");
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn the_kernel_answers_as_the_profile_says() {
        // SAFETY: each is a system call with plain integers; failing is the point.
        let call = |number: libc::c_long, args: [libc::c_long; 3]| {
            errno_under_filter(|| unsafe { libc::syscall(number, args[0], args[1], args[2]) })
        };
        assert_eq!(call(libc::SYS_getpid, [0; 3]), 0);
        assert_eq!(call(libc::SYS_clone3, [0; 3]), libc::ENOSYS, "libcs fall back to clone on ENOSYS only");
        assert_eq!(call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0]), libc::EPERM);
        let new_user = libc::c_long::from(libc::CLONE_NEWUSER);
        assert_eq!(call(libc::SYS_clone, [new_user, 0, 0]), libc::EPERM);
        assert_eq!(call(libc::SYS_keyctl, [0; 3]), libc::EPERM);
        assert_eq!(call(libc::SYS_socket, [40, 1, 0]), libc::EPERM, "AF_VSOCK");
        assert_eq!(call(libc::SYS_socket, [libc::AF_INET.into(), 1, 0]), 0);
        assert_eq!(call(libc::SYS_personality, [0xffff_ffff, 0, 0]), 0);
        assert_eq!(call(libc::SYS_personality, [0x0400_0000, 0, 0]), libc::EPERM);
    }
}
