#!/usr/bin/env python3
"""Create + start + exit + removal of one static `true`: nodectl's runtime beside crun and runc.

All three in turns, in one run; the peers both as a supervisor calls them (create, start, the end,
delete: ours too makes, plugs the network in and starts in steps) and as one `run`: pid, mount, ipc, uts, network, cgroup and user namespace, the
same mounts, masked paths, capabilities, limits and no_new_privs, no network but loopback. From
the order until the last process is gone, by the clock and in processor time (of all processes
that take part, the node's side included). What differs is in the peers' favour: we also map the
image's layers, mount an overlay of them and remove its writable layer, install the system call
filter, hold the output in pipes for the log, and leave a process (the shim) to watch; the peers
have a plain folder as root. Debian: crun runc gcc.

  cargo build --profile dist --bins --examples && bench/runtime.py [ROUNDS]
  bench/runtime.py --profile     what one container's time goes to: strace, once"""

import json, os, pathlib, subprocess, sys, tempfile
from common import *

BASE = 1_879_048_192  # as nodectl's first range

MASKED = ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
          "/sys/devices/virtual/powercap", "/sys/firmware"]
CAPABILITIES = ["CAP_" + c for c in
                "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
                "SETUID SYS_CHROOT".split()]


def layer(folder):
    """A root with nothing but /bin/true."""
    (folder / "bin").mkdir(parents=True)
    source = folder / "true.c"
    source.write_text("int main(void) { return 0; }\n")
    run("gcc", "-Os", "-static", "-o", str(folder / "bin/true"), str(source))
    source.unlink()
    return folder


def mount(destination, kind, source, *options):
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def bundle(folder, name):
    """The spec that nodectl's shim builds, but for the overlay."""
    root = folder / "rootfs"
    layer(root)
    for path in ("etc", "proc", "sys", "dev"):
        (root / path).mkdir()
    mounts = [
        mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    ]
    for file in ("hosts", "resolv.conf", "hostname"):
        (folder / file).write_text("")
        (root / "etc" / file).write_text("")
        mounts.append(mount(f"/etc/{file}", "bind", str(folder / file), "bind", "ro", "nosuid", "noexec", "nodev"))
    run("chown", "-R", f"{BASE}:{BASE}", str(root))
    sets = {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")}
    ids = [{"containerID": 0, "hostID": BASE, "size": 65536}]
    (folder / "config.json").write_text(json.dumps({
        "ociVersion": "1.0.2", "hostname": "bench", "root": {"path": "rootfs", "readonly": False},
        "process": {"terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/",
                    "env": ["PATH=/bin", "HOME=/", "HOSTNAME=bench"], "capabilities": sets, "noNewPrivileges": True,
                    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}], "oomScoreAdj": 0},
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")],
            "uidMappings": ids, "gidMappings": ids, "cgroupsPath": f"/nodectl-bench-{name}",
            "resources": {"memory": {"limit": 256 << 20}, "pids": {"limit": 512}},
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
            "maskedPaths": MASKED,
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        }}))
    return folder


def main():
    if os.geteuid() != 0:
        sys.exit("skipped: needs root")
    driver = os.environ.get("RUNTIME_BENCH", str(pathlib.Path(NODECTL).parent / "examples/runtime_bench"))
    for program in (NODECTL, driver):
        if not os.path.exists(program):
            sys.exit(f"{program} is not there: cargo build --profile dist --bins --examples")
    profile = sys.argv[1:] == ["--profile"]
    need("gcc", *(["strace"] if profile else ["crun", "runc"]))
    with tempfile.TemporaryDirectory(prefix="bench-runtime-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        ours = layer(folder / "layer")
        if profile:
            trace = folder / "trace"
            run("strace", "-f", "-c", "-w", "-U", "name,calls,errors,total-time,avg-time", "-o", str(trace),
                driver, NODECTL, str(ours), "1")
            print(trace.read_text())
            return
        rounds = sys.argv[1] if len(sys.argv) > 1 else "200"
        peers = [f"{p}={bundle(folder / p, p)}" for p in ("crun", "runc")]
        # crun refuses a hybrid host whose v2 tree has controllers left: where it does, the peers
        # get a mount namespace without that tree. We use it.
        out = run(driver, NODECTL, str(ours), rounds, *peers, env={**os.environ, "PEERS_WITHOUT": "/sys/fs/cgroup/unified"})
    lines = {line.split()[0]: [int(n) / 1000 for n in line.split()[1:]] for line in out.splitlines()}
    print(machine())
    print(f"{rounds} rounds of each in turns, load {os.getloadavg()[0]:.1f}; median (quartiles) in ms")
    print(f"  {'':16} {'by the clock':24} processor time")
    for name, (median, low, high, *cpu) in lines.items():
        cpu = f"{cpu[0]:6.2f} ({cpu[1]:.2f}..{cpu[2]:.2f})" if cpu[0] else ""
        print(f"  {name:16} {f'{median:6.2f} ({low:.2f}..{high:.2f})':24} {cpu}")
    for what, column in (("by the clock", 0), ("processor time", 3)):
        of = {name: values[column] for name, values in lines.items()}
        for how, suffix in (("create, start, end, delete", "-calls"), ("run, in one call", "")):
            print(f"{what}, {how}: to crun {of['nodectl'] / of['crun' + suffix]:.2f} (wanted: at most 1.3), "
                  f"to runc {of['nodectl'] / of['runc' + suffix]:.2f} (wanted: at most 0.6)")


main()
