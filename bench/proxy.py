#!/usr/bin/env python3
"""CPU time for a proxied request: nodectl's proxy beside nginx and HAProxy.

One worker each on the same core, the same backend and the same load from another core, a
128-byte body, keep-alive on both sides, the same headers set for the backend. CPU time is
the proxy's own (schedstat, user and kernel), so what else the machine does matters little;
the proxies take turns, and the median of the rounds counts.

  cargo build --profile dist && bench/proxy.py [--rounds 5] [--seconds 4] [--program PATH]

Needs root (the proxy drops its privileges), nginx, haproxy and wrk.
"""
import argparse, os, re, shutil, signal, socket, statistics, struct, subprocess, sys, tempfile, time

BODY = "x" * 127 + "\n"
PROXY_CORE, LOAD_CORE = "0", "1"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- the proxy's boot frame, by hand (src/proxy/wire.rs) ---

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def number(tag, n):
    return varint(tag << 3) + varint(n)


def field(tag, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | 2) + varint(len(value)) + value


def boot(listener, backend):
    process = field(1, "default") + field(2, "bench") + field(3, "web")
    rule = field(1, "bench.localhost") + field(2, "/") + field(3, process)
    instance = number(1, 1) + field(3, backend) + number(4, 1)
    service = field(1, process) + field(2, instance)
    table = field(1, number(1, 1) + number(2, 1)) + field(2, rule) + field(3, service)
    limits = b"".join(number(t, 60_000) for t in (1, 2, 3, 5)) + number(4, 1000) + number(7, 100)
    message = (number(1, 1_879_000_001) + number(2, 1) + field(3, listener) + field(4, table)
               + field(6, limits) + number(7, 1))
    frame = field(7, message)
    return b"np\x01\x00" + struct.pack("<I", len(frame)) + frame


def start_ours(program, port, backend, folder):
    control = socket.socket(socket.AF_UNIX)
    control.bind(os.path.join(folder, "control.sock"))
    control.listen()
    http = socket.socket()
    http.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    http.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    http.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    http.bind(("127.0.0.1", port))
    http.listen(4096)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    process = subprocess.Popen(["taskset", "-c", PROXY_CORE, program, "proxy"], stdin=theirs)
    theirs.close()
    frame = boot(f"127.0.0.1:{port}", backend)
    socket.send_fds(ours, [frame], [control.fileno(), http.fileno()])
    if not ours.recv(64):
        sys.exit("nodectl's proxy did not start")
    return process


NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 10000; pid {folder}/{name}.pid; error_log stderr error;
events {{ worker_connections 4000; }}
http {{
  access_log off; keepalive_requests 100000000; tcp_nodelay on;
  client_body_temp_path {folder}/{name}-1; proxy_temp_path {folder}/{name}-2; fastcgi_temp_path {folder}/{name}-3;
  uwsgi_temp_path {folder}/{name}-4; scgi_temp_path {folder}/{name}-5;
  {http}
}}
"""
NGINX_PROXY = """
  upstream app {{ server {backend}; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} reuseport; server_name bench.localhost;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Forwarded "for=$remote_addr;proto=$scheme";
      proxy_set_header X-Request-Id $request_id; }} }}
"""
NGINX_BACKEND = """
  server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "{body}"; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  unique-id-format %[rand(4294967295),hex]%[rand(4294967295),hex]%[rand(4294967295),hex]%[rand(4294967295),hex]
  http-request set-header X-Request-Id %[unique-id]
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Forwarded for=%[src];proto=http
  use_backend app if {{ hdr(host) -i bench.localhost }}
backend app
  server one {backend} pool-max-conn 256
"""


def start_nginx(name, core, http, folder):
    path = os.path.join(folder, name + ".conf")
    with open(path, "w") as f:
        f.write(NGINX.format(name=name, folder=folder, http=http))
    return subprocess.Popen(["taskset", "-c", core, "nginx", "-c", path, "-p", folder])


def start_haproxy(port, backend, folder):
    path = os.path.join(folder, "haproxy.cfg")
    with open(path, "w") as f:
        f.write(HAPROXY.format(port=port, backend=backend))
    return subprocess.Popen(["taskset", "-c", PROXY_CORE, "haproxy", "-db", "-f", path])


def family(pid):
    """The process and its children, for nginx's worker."""
    pids = [pid]
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                    pids.append(int(entry))
        except OSError:
            pass
    return pids


def cpu_ns(pid):
    total = 0
    for p in family(pid):
        for task in os.listdir(f"/proc/{p}/task"):
            with open(f"/proc/{p}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
    return total


def wait_for(port):
    deadline = time.time() + 10
    while time.time() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def measure(pid, port, seconds, clients):
    before = cpu_ns(pid)
    out = subprocess.run(
        ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{clients}", f"-d{seconds}",
         "-H", "Host: bench.localhost", f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True).stdout
    used = cpu_ns(pid) - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    if "Non-2xx" in out or "Socket errors" in out or not requests:
        sys.exit("requests failed:\n" + out)
    return used / 1000 / requests, requests / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--program", default="target/dist/nodectl")
    options = parser.parse_args()
    for tool in ("nginx", "haproxy", "wrk", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"needs {tool}")
    folder = tempfile.mkdtemp(prefix="proxy-bench-")
    os.chmod(folder, 0o755)
    backend_port = free_port()
    backend = f"127.0.0.1:{backend_port}"
    started = []
    try:
        started.append(start_nginx("backend", LOAD_CORE, NGINX_BACKEND.format(port=backend_port, body=BODY.strip() + "."), folder))
        wait_for(backend_port)
        peers = {}
        for name in ("nginx", "haproxy", "nodectl"):
            port = free_port()
            if name == "nginx":
                process = start_nginx("proxy", PROXY_CORE, NGINX_PROXY.format(port=port, backend=backend), folder)
            elif name == "haproxy":
                process = start_haproxy(port, backend, folder)
            else:
                process = start_ours(options.program, port, backend, folder)
            started.append(process)
            wait_for(port)
            peers[name] = (process.pid, port)
        results = {name: [] for name in peers}
        for name, (pid, port) in peers.items():
            measure(pid, port, 1, options.clients)  # warms up
        for _ in range(options.rounds):
            for name, (pid, port) in peers.items():
                results[name].append(measure(pid, port, options.seconds, options.clients))
        base = statistics.median(cpu for cpu, _ in results["nginx"])
        print(f"{'proxy':8} {'CPU µs/request':>15} {'min..max':>14} {'requests/s':>11} {'to nginx':>9}")
        for name, rounds in results.items():
            cpu = [cpu for cpu, _ in rounds]
            rate = statistics.median(rate for _, rate in rounds)
            median = statistics.median(cpu)
            print(f"{name:8} {median:15.2f} {min(cpu):6.2f}..{max(cpu):5.2f} {rate:11.0f} {median / base:8.2f}×")
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
