"""The scratch directory, the temporary user, and the servers of one run. Leaving the `Lab` ends what it started, by pid."""

import ctypes
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0
PR_SET_CHILD_SUBREAPER = 36


class Failure(Exception):
    """The run cannot go on; the message says what to do."""


def process_table():
    """pid -> (parent, name, CPU seconds of the process and of its ended children), for all processes."""
    table = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = pathlib.Path("/proc", entry, "stat").read_text()
        except OSError:
            continue  # ended meanwhile
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        fields = stat[stat.rindex(")") + 2 :].split()
        table[int(entry)] = (int(fields[1]), name, sum(map(int, fields[11:15])) / TICKS)
    return table


def family(root, table):
    """`root` and its descendants."""
    found, rest = [root], set(table) - {root}
    for pid in found:  # grows while it is walked
        children = {p for p in rest if table[p][0] == pid}
        found.extend(children)
        rest -= children
    return [pid for pid in found if pid in table]


def pss_kib(pid):
    """Proportional set size in KiB; 0 for a process that has ended."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def wait_for(what, condition):
    """Polls until `condition()` is true, and returns its value."""
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.02)


class Server:
    """A server and its descendants: one role in the figures. Their CPU time is exact where a control group could be
    made; otherwise it is summed from /proc, which loses a process that outlives its parent."""

    def __init__(self, name, argv, env, log, group):
        self.name, self.log, self.group = name, log, group

        def enter():
            if group:
                (group / "cgroup.procs").write_text("0")

        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=enter
            )
        self.pid = self.child.pid

    def check(self):
        if self.child.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise Failure(f"{self.name} ended with status {self.child.returncode}; its log ends:\n{tail}")

    def cpu(self):
        """CPU seconds so far."""
        if self.group:
            usage = (self.group / "cpu.stat").read_text().split()
            return int(usage[usage.index("usage_usec") + 1]) / 1e6
        table = process_table()
        return sum(table[pid][2] for pid in family(self.pid, table))

    def stop(self):
        table = process_table()
        pids = family(self.pid, table)
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        names = {pid: table[pid][1] for pid in pids}
        after = process_table()
        for pid in pids:  # what outlived its server and is still the same program
            if pid != self.pid and pid in after and after[pid][1] == names[pid]:
                os.kill(pid, signal.SIGKILL)
        if self.group:
            for directory, _, _ in os.walk(self.group, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass


class Lab:
    """`with Lab() as lab:` — a scratch directory, a login user, servers; all gone afterwards."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Failure("run as root: the sessions belong to a temporary OS user, as real ones do")
        # Clients leave helpers behind (the inner ssh of -J); they become ours, so that their CPU time is counted.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.servers = {}
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="mezite-bench."))
        self.dir.chmod(0o755)
        self.user = f"mezbench{os.getpid()}"
        self._made_user = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stop in (signal.SIGTERM, signal.SIGINT):  # a second one must not leave servers and a user behind
            signal.signal(stop, signal.SIG_IGN)
        for server in reversed(self.servers.values()):
            server.stop()
        self.reap()
        if self._made_user:
            subprocess.run(["userdel", self.user], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def make_user(self):
        """A user without a password, as cloud images have, and with a plain shell."""
        home = self.dir / "user"
        self.run(["useradd", "--create-home", f"--home-dir={home}", "--shell=/bin/sh", "--password=*", self.user])
        self._made_user = True
        return pwd.getpwnam(self.user)

    def run(self, argv, env=None, text_input=None):
        """Runs a program to its end and returns what it printed."""
        done = subprocess.run(
            list(map(str, argv)), env=env, input=text_input, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode != 0:
            raise Failure(f"{argv[0]} {argv[1]} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def serve(self, name, argv, env=None):
        log = self.dir / f"{name}.log"
        server = Server(name, list(map(str, argv)), env, log, make_group(name))
        self.servers[name] = server
        return server

    def reap(self):
        """Waits for clients' helpers that have become our children. Servers are left alone."""
        mine = {server.pid for server in self.servers.values()}
        end = time.monotonic() + 5

        def strays():
            return [pid for pid, row in process_table().items() if row[0] == os.getpid() and pid not in mine]

        while (left := strays()) and time.monotonic() < end:
            for pid in left:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
            time.sleep(0.005)

    def settle(self):
        """Waits (2 s at most) until the servers have done what the last test left them to do."""
        end = time.monotonic() + 2
        before = {name: server.cpu() for name, server in self.servers.items()}
        while time.monotonic() < end:
            time.sleep(0.1)
            after = {name: server.cpu() for name, server in self.servers.items()}
            if all(after[name] - before[name] < 0.001 for name in after):
                return
            before = after


def make_group(name):
    """A control group (v2) of our own, or None where the kernel or the container gives none."""
    for root in (pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/unified")):
        if (root / "cgroup.controllers").exists():
            group = root / f"mezite-bench-{os.getpid()}-{name}"
            try:
                group.mkdir()
            except OSError:
                return None
            if (group / "cpu.stat").exists():
                return group
            group.rmdir()
    return None


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
