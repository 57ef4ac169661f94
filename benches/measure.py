"""The four measurements. Each measures one path once and returns plain numbers; who goes when is decided by `run`."""

import fcntl
import hashlib
import os
import resource
import subprocess
import threading
import time

from lab import Failure, family, process_table, pss_kib

BLOCK = 1 << 18
PIPE = 1 << 20
CLIENT_PATIENCE = 120.0


def calibrate():
    """Milliseconds of a fixed piece of work: how much the machine itself moves during a run."""
    begin = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(64):
        digest.update(bytes(1 << 18))
    return (time.perf_counter() - begin) * 1e3


def client_cpu():
    """CPU seconds of all clients that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Cpu:
    """CPU seconds per role between `with` and its end, the tail of the servers' work included."""

    def __init__(self, lab, path):
        self.lab, self.path, self.seconds = lab, path, {}

    def __enter__(self):
        self.lab.settle()
        self.lab.reap()
        self._client = client_cpu()
        self._count_servers()
        return self

    def restart(self, client):
        """Counts from here on: what `client` and the servers have used to connect is left out."""
        table = process_table()
        self._client += sum(table[pid][2] for pid in family(client.pid, table))
        self._count_servers()

    def _count_servers(self):
        self._servers = {role: self.lab.servers[role].cpu() for role in self.path.roles}

    def __exit__(self, *_):
        self.lab.reap()
        self.seconds["client"] = client_cpu() - self._client
        self.lab.settle()
        for role, before in self._servers.items():
            self.seconds[role] = self.lab.servers[role].cpu() - before


def start(path, remote, terminal=False, **streams):
    return subprocess.Popen(path.command(remote, terminal), env=path.env, stderr=subprocess.PIPE, **streams)


def finish(client, path):
    """Waits for a client and refuses a failed one: a fast error is no fast connection."""
    try:
        _, error = client.communicate(timeout=CLIENT_PATIENCE)
    except subprocess.TimeoutExpired:
        client.kill()
        raise Failure(f"{path.name}: a client did not end within {CLIENT_PATIENCE:.0f} s") from None
    if client.returncode != 0:
        raise Failure(f"{path.name}: a client ended with {client.returncode}: {error.decode(errors='replace').strip()}")


def connect(lab, path, count):
    """Runs `true`, `count` times in turn: milliseconds each, CPU milliseconds per connection and role."""
    times = []
    with Cpu(lab, path) as cpu:
        for _ in range(count):
            begin = time.perf_counter()
            finish(start(path, "true", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL), path)
            times.append((time.perf_counter() - begin) * 1e3)
    return {"ms": times, "cpu_ms": {role: s * 1e3 / count for role, s in cpu.seconds.items()}}


def down(lab, path, size):
    """`size` zero bytes from the node, timed from the first to the last. The reader is a wide pipe spliced to nowhere: what takes
    the bytes from the client must not take the processor from it."""
    with Cpu(lab, path) as cpu, open("/dev/null", "wb", buffering=0) as nowhere:
        client = start(path, f"head -c {size} /dev/zero", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        pipe = client.stdout.fileno()
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        got = len(os.read(pipe, BLOCK))
        cpu.restart(client)
        begin = time.perf_counter()
        while moved := os.splice(pipe, nowhere.fileno(), PIPE):
            got += moved
        seconds = time.perf_counter() - begin
        finish(client, path)
    if got != size:
        raise Failure(f"{path.name}: {got} bytes came instead of {size}")
    return bulk(size, seconds, cpu)


def up(lab, path, size):
    """`size` zero bytes to the node, timed from the moment it reads until it has read them all."""
    with Cpu(lab, path) as cpu:
        client = start(path, "echo begin; cat >/dev/null && echo end", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        client.stdout.readline()
        cpu.restart(client)
        begin = time.perf_counter()
        block, left = bytes(BLOCK), size
        try:
            while left:
                left -= os.write(client.stdin.fileno(), block[:left])
            client.stdin.close()
        except BrokenPipeError:
            finish(client, path)
            raise Failure(f"{path.name}: the client stopped reading") from None
        client.stdin = None
        end = client.stdout.readline()
        seconds = time.perf_counter() - begin
        finish(client, path)
    if end.strip() != b"end":
        raise Failure(f"{path.name}: the upload did not end")
    return bulk(size, seconds, cpu)


def bulk(size, seconds, cpu):
    return {"mb_s": size / seconds / 1e6, "cpu_s_gb": {role: s / (size / 1e9) for role, s in cpu.seconds.items()}}


def concurrent(lab, path, clients):
    """`clients` at once: how many fail, how many are served a second."""
    failures = []

    def one():
        try:
            finish(start(path, "true", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL), path)
        except Failure as failure:
            failures.append(str(failure))

    with Cpu(lab, path) as cpu:
        threads = [threading.Thread(target=one) for _ in range(clients)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
    return {
        "failures": len(failures),
        "first_failure": min(failures, default=None),
        "per_s": (clients - len(failures)) / seconds,
        "cpu_ms": {role: s * 1e3 / clients for role, s in cpu.seconds.items()},
    }


def memory(lab, path):
    """PSS in KiB per role. What an agent starts for its sessions is the role `starter`; both run the same file and share its
    pages, so `node` is their sum. Users' own programs do not count."""
    table, found = process_table(), {}
    for role in path.roles:
        server = lab.servers[role].pid
        for pid in family(server, table):
            if table[pid][1] in ("sh", "cat"):
                continue
            part = "starter" if role == "agent" and pid != server else role
            found[part] = found.get(part, 0) + pss_kib(pid)
    if "agent" in found:
        found["node"] = found["agent"] + found.get("starter", 0)
    return found


def idle(lab, path, count, base):
    """Holds `count` terminal sessions open that do nothing: KiB per session and role above `base`."""
    clients, batch = [], 4
    try:
        for begin in range(0, count, batch):
            fresh = [
                start(path, "echo up; exec cat", terminal=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(min(batch, count - begin))
            ]
            clients += fresh
            for client in fresh:
                if client.stdout.readline().strip() != b"up":
                    client.stdin.close()
                    raise Failure(f"{path.name}: a session did not start: {client.stderr.read().decode().strip()}")
        lab.settle()
        used = memory(lab, path)
    finally:
        for client in clients:
            client.terminate()
        for client in clients:
            client.communicate()
        lab.reap()
    return {"kib": {role: (kib - base.get(role, 0)) / count for role, kib in used.items()}}
