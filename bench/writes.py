#!/usr/bin/env python3
"""Durable writes through the API beside etcd, on the same disk, in turns: 1 and 64 clients, each
on its own connection, each waiting for its answer before it asks again.

The load is h2load's on both sides: gRPC requests over HTTP/2, ours on the Unix socket, etcd's on
loopback. Ours is `Restart` of an app without instances (it reads first, checks that the app is
there, raises its generation, adds an event, and answers when that is applied); etcd's is a Put of
64 bytes under one key. One member each. That each answer stands for one write is checked after
each round: by the index of our state, by etcd's revision. Debian: etcd-server nghttp2-client.

  cargo build --profile dist && bench/writes.py [SECONDS] [ROUNDS]"""

import contextlib, json, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, urllib.request
from common import *

SECONDS = sys.argv[1] if len(sys.argv) > 1 else "5"
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
CLIENTS = (1, 64)

own_network()
need("etcd", "h2load")


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


def field(tag, value):
    return bytes([tag << 3 | 2, len(value)]) + value


def grpc(folder, name, message):
    """A request's body in a file: gRPC's five bytes of frame, then the message."""
    path = pathlib.Path(folder) / name
    path.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return path


def load(clients, url, body, written, *options):
    """(writes a second, mean and greatest latency in ms); `written` tells how many there were ever."""
    before = written()
    out = run("h2load", "-c", str(clients), "-m", "1", "-D", SECONDS, "-H", "content-type: application/grpc",
              "-H", "te: trailers", "-d", str(body), *options, url)
    done, failed = (int(re.search(pattern, out)[1]) for pattern in (r"(\d+) done", r"(\d+) failed"))
    # Each client may have a last one under way when the time is over.
    wrote = written() - before
    if failed or not 0 <= wrote - done <= clients:
        sys.exit(f"{done} answers, {failed} failed, {wrote} writes:\n{out}")
    least, most, mean = re.search(r"time for request:\s+(\S+)\s+(\S+)\s+(\S+)", out).groups()
    unit = lambda text: float(re.match(r"[\d.]+", text)[0]) * {"us": 0.001, "ms": 1, "s": 1000}[text.lstrip("0123456789.")]
    return done / float(SECONDS), unit(mean), unit(most)


archive = busybox_archive("/tmp/bench-shop.tar")
with nodectl() as (client, _, data), etcd() as url:
    folder = pathlib.Path(data).parent
    client("image", "load", archive)
    manifest = folder / "nodectl.toml"
    manifest.write_text('app = "load"\nimage = "shop:1"\n\n[process.web]\ncount = 0\nport = 8080\n')
    client("deploy", "-f", str(manifest))

    def our_index():
        return json.loads(client("status", "-o", "json"))["index"]

    def revision():
        asked = urllib.request.Request(f"{url}/v3/kv/range", data=b'{"key":"bG9hZA=="}')
        return int(json.load(urllib.request.urlopen(asked))["header"]["revision"])

    sides = {
        "nodectl": ("http://localhost/nodectl.v1.Apps/Restart", grpc(folder, "restart", field(2, b"load")), our_index,
                    f"--base-uri=unix:{data}/api.sock"),
        "etcd": (f"{url}/etcdserverpb.KV/Put", grpc(folder, "put", field(1, b"load") + field(2, b"x" * 64)), revision),
    }
    results = {}
    for _ in range(ROUNDS):
        for clients in CLIENTS:
            for side, (target, body, written, *options) in sides.items():
                results.setdefault((clients, side), []).append(load(clients, target, body, written, *options))

print(machine())
print(f"{ROUNDS} rounds of {SECONDS} s in turns, load {os.getloadavg()[0]:.1f}; medians of the rounds")
for clients in CLIENTS:
    rates = {}
    for side in sides:
        rate, mean, most = (median([r[i] for r in results[clients, side]]) for i in range(3))
        rates[side] = rate
        print(f"  {clients:2} clients, {side:8} {rate:7.0f} writes/s, mean {mean:6.2f} ms, greatest {most:6.1f} ms")
    wanted = " (wanted: at least 1.0)" if clients == 64 else ""
    print(f"  {clients:2} clients: {rates['nodectl'] / rates['etcd']:.2f} of etcd{wanted}")
