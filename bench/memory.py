#!/usr/bin/env python3
"""Idle memory beside dockerd + containerd: proportional set size (which shares what is shared)
plus shared memory, with ten instances of the same image on both sides. Debian: docker.io."""

import glob, json, os, pathlib, re, time
from common import *

COUNT = 10
own_network()
need("docker", "dockerd")
archive = busybox_archive("/tmp/bench-shop.tar")


def rollup(pid):
    """(PSS, private, shared memory) of one process, in kB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    field = lambda name: int(re.search(rf"^{name}:\s+(\d+)", text, re.M)[1])
    return field("Pss"), field("Private_Clean") + field("Private_Dirty"), field("Pss_Shmem")


def processes(match, parent=None):
    """Pids whose arguments match; with `parent`, only its children."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            args = pathlib.Path(path).read_bytes().split(b"\0")
            stat = pathlib.Path(path).with_name("stat").read_text()
        except OSError:
            continue
        ours = parent is None or int(stat.rsplit(")", 1)[1].split()[1]) == parent
        if ours and match([a.decode(errors="replace") for a in args]):
            found.append(int(path.split("/")[2]))
    return found


def total(pids):
    """PSS and shared memory in MB: what several share counts once in all, and the memfd that
    shims are executed from counts whole, whether its pages are mapped or not."""
    pss = shmem = files = 0
    for pid in pids:
        sizes = rollup(pid)
        pss, shmem = pss + sizes[0], shmem + sizes[2]
        for link in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                if os.readlink(link).startswith("/memfd:"):
                    files += os.stat(link).st_blocks * 512 // 1024
            except OSError:
                pass
    return (pss - shmem + max(shmem, files)) / 1000


with nodectl() as (client, node, data):
    client("image", "load", archive)
    manifest = pathlib.Path(data).parent / "nodectl.toml"
    manifest.write_text(f'app = "shop"\nimage = "shop:1"\n\n[process.web]\ncount = {COUNT}\ncpu = "10m"\nmemory = "32MB"\nport = 8080\n')
    client("deploy", "-f", str(manifest))
    until("all are ready", lambda: sum(i["ready"] for i in json.loads(client("status", "shop", "-o", "json"))["apps"][0]["instances"]) == COUNT)
    time.sleep(10)
    proxies = processes(lambda a: a[1:2] == ["proxy"], node.pid)
    shims = processes(lambda a: a[1:2] == ["shim"], node.pid)
    ours = total([node.pid, *proxies])
    shim = sum(rollup(p)[1] for p in shims) / len(shims) / 1000
    print(f"nodectl: node {total([node.pid]):.1f} MB and proxy {total(proxies):.1f} MB, together {ours:.1f} MB; "
          f"{len(shims)} shims, each {shim:.2f} MB of its own")

with docker() as (client, daemon):
    client("load", "-i", archive)
    client("service", "create", "--detach", "--no-resolve-image", "--replicas", str(COUNT), "--name", "shop", "shop:1")
    until("all run", lambda: len(client("ps", "-q").split()) == COUNT)
    time.sleep(10)
    daemons = [daemon.pid, *processes(lambda a: a[0].endswith("containerd"), daemon.pid)]
    shims = processes(lambda a: "containerd-shim" in a[0])
    theirs = total(daemons)
    their_shim = sum(rollup(p)[1] for p in shims) / len(shims) / 1000
    print(f"docker: dockerd + containerd {theirs:.1f} MB; {len(shims)} shims, each {their_shim:.2f} MB of its own")

print(machine())
print(f"node and proxy {ours:.1f} MB (wanted: at most 50), {ours/theirs:.2f} of dockerd + containerd; "
      f"a shim {shim:.2f} MB (wanted: at most 2), {shim/their_shim:.2f} of containerd's")
