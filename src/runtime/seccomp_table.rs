//! Which system calls a container may make: the semantics of Docker's default profile.
//!
//! The choice of calls follows the default profile of Moby (github.com/moby/profiles,
//! Copyright The Moby Authors, Apache License 2.0), regrouped by purpose and reduced to the
//! two architectures that we run on. Two deliberate differences: io_uring stays out, as in
//! Moby since version 25, and sockets of families that reach around network namespaces or
//! into kernel crypto (AF_VSOCK, AF_ALG) are refused.

use libc::c_long;

// Calls since Linux 5.1 have one number on every architecture. libc lacks names for these.
#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: c_long = 333;
#[cfg(not(target_arch = "x86_64"))]
const IO_PGETEVENTS: c_long = 292;
const CACHESTAT: c_long = 451;
const FCHMODAT2: c_long = 452;
const MAP_SHADOW_STACK: c_long = 453;
const FUTEX_WAKE: c_long = 454;
const FUTEX_WAIT: c_long = 455;
const FUTEX_REQUEUE: c_long = 456;
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const MSEAL: c_long = 462;
const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Allowed with any arguments, on every architecture.
pub const ALLOWED: &[&[c_long]] = &[
    // Processes, threads, identity
    calls!(SYS_capget SYS_capset SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_getegid SYS_geteuid
        SYS_getgid SYS_getgroups SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getresgid
        SYS_getresuid SYS_getrusage SYS_getsid SYS_gettid SYS_getuid SYS_kill SYS_landlock_add_rule
        SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_pidfd_open SYS_pidfd_send_signal SYS_prctl
        SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace SYS_seccomp
        SYS_set_robust_list SYS_get_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid
        SYS_setgroups SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid
        SYS_setsid SYS_setuid SYS_tgkill SYS_tkill SYS_umask SYS_wait4 SYS_waitid SYS_getrlimit SYS_setrlimit
        SYS_rseq SYS_restart_syscall SYS_membarrier),
    // Scheduling and time
    calls!(SYS_adjtimex SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_getcpu
        SYS_getitimer SYS_gettimeofday SYS_ioprio_get SYS_ioprio_set SYS_nanosleep SYS_sched_get_priority_max
        SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam
        SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr
        SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_setitimer SYS_sysinfo SYS_timer_create
        SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create
        SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_uname),
    // Signals
    calls!(SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn
        SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_signalfd4),
    // Memory
    calls!(SYS_brk SYS_madvise SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mlock SYS_mlock2 SYS_mlockall
        SYS_mmap SYS_mprotect SYS_mremap SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_pkey_alloc
        SYS_pkey_free SYS_pkey_mprotect SYS_remap_file_pages SYS_getrandom),
    &[MAP_SHADOW_STACK, MSEAL, CACHESTAT],
    // Waiting for each other
    calls!(SYS_futex SYS_futex_waitv SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
        SYS_eventfd2 SYS_ppoll SYS_pselect6 SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch
        SYS_fanotify_mark SYS_io_cancel SYS_io_destroy SYS_io_getevents SYS_io_setup
        SYS_io_submit),
    &[FUTEX_WAKE, FUTEX_WAIT, FUTEX_REQUEUE, IO_PGETEVENTS],
    // System V and POSIX messages, semaphores, shared memory
    calls!(SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink
        SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_shmat
        SYS_shmctl SYS_shmdt SYS_shmget),
    // Open files
    calls!(SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_dup3 SYS_fadvise64 SYS_fallocate SYS_fcntl
        SYS_fdatasync SYS_flock SYS_fsync SYS_ftruncate SYS_getdents64 SYS_ioctl SYS_lseek SYS_pipe2 SYS_pread64
        SYS_preadv SYS_preadv2 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readv
        SYS_sendfile SYS_splice SYS_sync SYS_sync_file_range SYS_syncfs SYS_tee SYS_vmsplice SYS_write
        SYS_writev),
    // Paths
    calls!(SYS_chdir SYS_faccessat SYS_faccessat2 SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat
        SYS_fgetxattr SYS_flistxattr SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_getcwd
        SYS_getxattr SYS_lgetxattr SYS_linkat SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lsetxattr
        SYS_mkdirat SYS_mknodat SYS_name_to_handle_at SYS_newfstatat SYS_openat SYS_openat2 SYS_readlinkat
        SYS_removexattr SYS_renameat SYS_renameat2 SYS_setxattr SYS_statfs SYS_statx SYS_symlinkat SYS_truncate
        SYS_unlinkat SYS_utimensat),
    &[FCHMODAT2, STATMOUNT, LISTMOUNT, SETXATTRAT, GETXATTRAT, LISTXATTRAT, REMOVEXATTRAT],
    // Sockets (making one is a rule with arguments)
    calls!(SYS_accept SYS_accept4 SYS_bind SYS_connect SYS_getpeername SYS_getsockname SYS_getsockopt SYS_listen
        SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setsockopt SYS_shutdown
        SYS_socketpair),
];

/// The calls that newer architectures have dropped.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_HERE: &[c_long] = calls!(SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat
    SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork
    SYS_futimesat SYS_get_thread_area SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir
    SYS_select SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes
    SYS_vfork);
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_HERE: &[c_long] = &[];

/// Allowed to those who hold the capability; its number is that of linux/capability.h.
pub const WITH_CAPABILITY: &[(u8, &[c_long])] = &[
    (2, calls!(SYS_open_by_handle_at)), // CAP_DAC_READ_SEARCH
    (18, calls!(SYS_chroot)),           // CAP_SYS_CHROOT
    (19, calls!(SYS_kcmp SYS_pidfd_getfd SYS_process_madvise)), // CAP_SYS_PTRACE
    (20, calls!(SYS_acct)),             // CAP_SYS_PACCT
    (22, calls!(SYS_reboot)),           // CAP_SYS_BOOT
    (23, calls!(SYS_get_mempolicy SYS_mbind SYS_set_mempolicy)), // CAP_SYS_NICE
    (25, calls!(SYS_clock_settime SYS_settimeofday)), // CAP_SYS_TIME
    (26, calls!(SYS_vhangup)),          // CAP_SYS_TTY_CONFIG
    (34, calls!(SYS_syslog)),           // CAP_SYSLOG
];

/// Namespaces that `clone` may not make: all CLONE_NEW* but CLONE_NEWTIME, which clone's
/// flags can't carry.
pub const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Execution domains that change nothing dangerous: Linux, UNAME26 and 32-bit names of
/// both, and the question "which is it?".
pub const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// AF_ALG and AF_VSOCK.
pub const REFUSED_SOCKET_FAMILIES: [u64; 2] = [38, 40];
