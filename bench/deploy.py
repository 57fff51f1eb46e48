#!/usr/bin/env python3
"""Deploy of a loaded image to its first 200, and 1 -> 50 instances all answering: nodectl
beside Docker Swarm, in one run, polled the same way. Debian: docker.io busybox-static iproute2.

The first 200 is asked of a port on loopback: nodectl's proxy, Swarm's host-mode port. For the
50, each instance's own address is asked, on both sides."""

import json, pathlib, sys, time
from common import *

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
COUNT = 50

own_network()
need("docker", "dockerd", "busybox")
archive = busybox_archive("/tmp/bench-shop.tar")


def ours():
    first, scaled = [], None
    with nodectl() as (client, _, data):
        client("image", "load", archive)
        for n in range(ROUNDS):
            app = f"shop{n}"
            start = time.monotonic()
            client("deploy", "--image", "shop:1", "--name", app, "--detach")
            until(f"nodectl answers for {app}", lambda: answers("127.0.0.1:8080", f"{app}.localhost"))
            first.append(time.monotonic() - start)
            client("app", "rm", app)
        # By default each instance reserves a tenth of a core, of which this machine may not have
        # enough; Swarm reserves nothing.
        manifest = pathlib.Path(data).parent / "nodectl.toml"
        manifest.write_text('app = "many"\nimage = "shop:1"\n\n[process.web]\ncpu = "10m"\nmemory = "32MB"\nport = 8080\n')
        client("deploy", "-f", str(manifest))
        start = time.monotonic()
        client("scale", f"web={COUNT}", "-a", "many")
        answered = set()

        def all_answer():
            status = json.loads(client("status", "many", "-o", "json"))
            for instance in status["apps"][0]["instances"]:
                address = instance.get("address")
                if address and address not in answered and answers(address):
                    answered.add(address)
            return len(answered) >= COUNT

        until("all of nodectl's instances answer", all_answer)
        scaled = time.monotonic() - start
    return first, scaled


def theirs():
    first, scaled = [], None
    with docker() as (client, _):
        client("load", "-i", archive)
        for n in range(ROUNDS):
            app = f"shop{n}"
            start = time.monotonic()
            client("service", "create", "--detach", "--no-resolve-image", "--name", app,
                   "--publish", f"mode=host,published={18080 + n},target=8080", "shop:1")
            until(f"Swarm answers for {app}", lambda: answers(f"127.0.0.1:{18080 + n}"))
            first.append(time.monotonic() - start)
            client("service", "rm", app)
        client("service", "create", "--detach", "--no-resolve-image", "--name", "many", "shop:1")
        answered = set()

        def all_answer(count):
            ids = client("ps", "-q", "--filter", "name=many.").split()
            if ids:
                try:
                    addresses = client("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", *ids).split()
                except Failed:
                    return False
                for address in addresses:
                    if address not in answered and answers(f"{address}:8080"):
                        answered.add(address)
            return len(answered) >= count

        until("Swarm's one answers", lambda: all_answer(1))
        start = time.monotonic()
        client("service", "scale", "--detach", f"many={COUNT}")
        until("all of Swarm's tasks answer", lambda: all_answer(COUNT))
        scaled = time.monotonic() - start
    return first, scaled


our_first, our_scaled = ours()
their_first, their_scaled = theirs()
print(machine())
print(f"deploy to first 200, median of {ROUNDS}: nodectl {median(our_first)*1000:.0f} ms, Swarm {median(their_first)*1000:.0f} ms, "
      f"ratio {median(our_first)/median(their_first):.2f} (wanted: at most 0.5)")
print(f"1 -> {COUNT} all answering: nodectl {(COUNT-1)/our_scaled:.1f}/s, Swarm {(COUNT-1)/their_scaled:.1f}/s, "
      f"ratio {their_scaled/our_scaled:.1f} (wanted: at least 5)")
