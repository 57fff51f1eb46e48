"""What the measurements share: peers and nodectl started in a network namespace of their own,
polled the same way, ended again. Needs root; Debian's packages named by each script."""

import contextlib, http.client, json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NODECTL = os.environ.get("NODECTL", str(ROOT / "target/dist/nodectl"))


def own_network():
    """Runs the calling script again inside a fresh network namespace with loopback up."""
    if os.environ.get("BENCH_NETNS") == "1":
        return
    if os.geteuid() != 0:
        sys.exit("skipped: needs root")
    if not os.path.exists(NODECTL):
        sys.exit(f"{NODECTL} is not there: cargo build --profile dist")
    os.environ["BENCH_NETNS"] = "1"
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", sys.executable, *sys.argv])


def need(*programs):
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        sys.exit(f"skipped: {', '.join(missing)} not installed")


def run(*args, **kw):
    done = subprocess.run(args, text=True, capture_output=True, **kw)
    if done.returncode != 0:
        raise Failed(f"{' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


class Failed(Exception):
    pass


@contextlib.contextmanager
def nodectl(http="127.0.0.1:8080", extra=()):
    """A node on a folder of its own; yields (client, process, folder)."""
    folder = tempfile.mkdtemp(prefix="bench-")
    data = f"{folder}/data"
    node = subprocess.Popen([NODECTL, "dev", *extra, "--data-dir", data, "--http", http], stdout=subprocess.PIPE, text=True)
    for line in node.stdout:
        if line.startswith("ready"):
            break
    else:
        sys.exit("the node did not come up")
    env = {**os.environ, "NODECTL_ADDR": f"unix://{data}/api.sock"}

    def client(*args):
        return run(NODECTL, *args, env=env)

    try:
        yield client, node, data
    finally:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(60)
        except subprocess.TimeoutExpired:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def docker(swarm=True):
    """A dockerd on folders of its own; yields a client function and the daemon's process."""
    need("dockerd", "docker", "containerd")
    folder = tempfile.mkdtemp(prefix="bench-docker-")
    sock = f"unix://{folder}/docker.sock"
    log = open(f"{folder}/log", "w")
    daemon = subprocess.Popen(
        ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "-H", sock],
        stdout=log, stderr=log)

    def client(*args):
        return run("docker", "-H", sock, *args)

    try:
        for _ in range(300):
            try:
                client("version")
                break
            except Failed:
                time.sleep(0.1)
        else:
            sys.exit(f"dockerd did not come up: {open(f'{folder}/log').read()[-2000:]}")
        if swarm:
            client("swarm", "init", "--advertise-addr", "127.0.0.1")
        yield client, daemon
    finally:
        if swarm:
            subprocess.run(["docker", "-H", sock, "swarm", "leave", "--force"], capture_output=True)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


def busybox_archive(path, name="shop:1", command=("httpd", "-f", "-p", "8080", "-h", "/www")):
    """A docker-save archive of Debian's busybox-static."""
    import hashlib, io, tarfile

    def entry(tar, name, data=b"", mode=0o644, kind=None, link=""):
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        if kind:
            info.type, info.linkname, info.size = kind, link, 0
        tar.addfile(info, io.BytesIO(data))

    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as layer:
        entry(layer, "bin/busybox", open("/bin/busybox", "rb").read(), 0o755)
        for applet in ("sh", "httpd", "sleep", "true"):
            entry(layer, f"bin/{applet}", mode=0o777, kind=tarfile.SYMTYPE, link="busybox")
        entry(layer, "www/index.html", b"x" * 127 + b"\n")
        entry(layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    layer = raw.getvalue()
    config = json.dumps({
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as tar:
        entry(tar, config_name, config)
        entry(tar, "layer.tar", layer)
        entry(tar, "manifest.json", manifest)
    return path


def answers(address, host=None, timeout=1.0):
    """Whether one GET / is answered 200."""
    ip, port = address.rsplit(":", 1)
    try:
        connection = http.client.HTTPConnection(ip, int(port), timeout=timeout)
        connection.request("GET", "/", headers={"Host": host} if host else {})
        ok = connection.getresponse().status == 200
        connection.close()
        return ok
    except (OSError, http.client.HTTPException):
        return False


def until(what, check, seconds=120):
    """Seconds until `check()` is true, asked every 2 ms."""
    start = time.monotonic()
    while not check():
        if time.monotonic() - start > seconds:
            sys.exit(f"in vain: {what}")
        time.sleep(0.002)
    return time.monotonic() - start


def median(values):
    values = sorted(values)
    return values[len(values) // 2]


def machine():
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    return f"{os.cpu_count()} × {model}, Linux {os.uname().release}"
