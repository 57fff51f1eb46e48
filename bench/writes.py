#!/usr/bin/env python3
"""Durable writes through the API beside etcd, on the same disk, in turns: 1 and 64 clients, each
on its own connection, each waiting for its answer. Ours is `Scale` of an app of the client's own
(stopped, so that nothing is to be done but the write; it reads first, checks the app and the
process, and answers when the change is applied); etcd's is a Put of 64 bytes under a key of the
client's own. One member each, the same program makes the load. Debian: etcd-server.

  cargo build --profile dist --bins --examples && bench/writes.py [SECONDS] [ROUNDS]"""

import contextlib, os, pathlib, shutil, signal, subprocess, sys, tempfile
from common import *

SECONDS = sys.argv[1] if len(sys.argv) > 1 else "5"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
CLIENTS = (1, 64)
driver = os.environ.get("API_LOAD", str(pathlib.Path(NODECTL).parent / "examples/api_load"))

own_network()
need("etcd")
if not os.path.exists(driver):
    sys.exit(f"{driver} is not there: cargo build --profile dist --bins --examples")


@contextlib.contextmanager
def etcd():
    folder = tempfile.mkdtemp(prefix="bench-etcd-")
    log = open(f"{folder}/log", "w")
    url = "http://127.0.0.1:2379"
    process = subprocess.Popen(
        ["etcd", "--data-dir", f"{folder}/data", "--listen-client-urls", url, "--advertise-client-urls", url,
         "--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
         "--initial-cluster", "default=http://127.0.0.1:2380", "--log-level", "error"], stdout=log, stderr=log)
    try:
        import urllib.request

        def healthy():
            if process.poll() is not None:
                sys.exit("etcd ended: " + open(f"{folder}/log").read()[-2000:])
            try:
                return b"true" in urllib.request.urlopen(f"{url}/health", timeout=1).read()
            except OSError:
                return False

        until("etcd is healthy", healthy, 30)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def load(kind, address, clients):
    rate, median, p99 = run(driver, kind, address, SECONDS, str(clients)).split()
    return float(rate), int(median), int(p99)


archive = busybox_archive("/tmp/bench-shop.tar")
with nodectl() as (client, _, data), etcd() as url:
    client("image", "load", archive)
    manifest = pathlib.Path(data).parent / "nodectl.toml"
    for n in range(max(CLIENTS)):
        manifest.write_text(f'app = "load{n}"\nimage = "shop:1"\n\n[process.web]\ncount = 0\nport = 8080\n')
        client("deploy", "-f", str(manifest), "--detach")
        client("stop", f"load{n}")
    results = {}
    for _ in range(ROUNDS):
        for clients in CLIENTS:
            for kind, address in (("nodectl", f"{data}/api.sock"), ("etcd", url)):
                results.setdefault((clients, kind), []).append(load(kind, address, clients))

print(machine())
print(f"{ROUNDS} rounds of {SECONDS} s in turns, load {os.getloadavg()[0]:.1f}; medians of the rounds")
for clients in CLIENTS:
    rates = {}
    for kind in ("nodectl", "etcd"):
        rate, middle, p99 = (median([r[i] for r in results[clients, kind]]) for i in range(3))
        rates[kind] = rate
        print(f"  {clients:2} clients, {kind:8} {rate:7.0f} writes/s, median {middle / 1000:6.2f} ms, p99 {p99 / 1000:6.2f} ms")
    wanted = " (wanted: at least 1.0)" if clients == 64 else ""
    print(f"  {clients:2} clients: {rates['nodectl'] / rates['etcd']:.2f} of etcd{wanted}")
