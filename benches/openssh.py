"""The reference: a bastion and a target run by OpenSSH's sshd, with user and host certificates like ours."""

import os
import pathlib

from lab import free_port, wait_for
from paths import Path

SSHD = "/usr/sbin/sshd"

# What an administrator who cares for speed would set. curve25519 instead of sntrup761 saves an OpenSSH 9.x client most of
# its CPU time; AES-GCM is the fastest cipher where the CPU has AES. Keys are not exchanged again: both ciphers' limits (1 GiB
# and more) lie above what a test sends.
TUNED = """\
    KexAlgorithms curve25519-sha256
    Ciphers aes128-gcm@openssh.com
    Compression no
    IPQoS none
"""

# Everything that would make one client differ from the next: the agent, shared connections, files of the machine.
CLIENT = """\
    IdentitiesOnly yes
    IdentityAgent none
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    CheckHostIP no
    UpdateHostKeys no
    BatchMode yes
    ControlMaster no
    ControlPath none
    LogLevel ERROR
"""


class OpenSsh:
    """Starts both servers. `paths()` are the ways to the target."""

    def __init__(self, lab):
        self.lab, self.dir = lab, lab.dir / "openssh"
        self.dir.mkdir()
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        self._keys()
        ports = {name: self._sshd(name) for name in ("bastion", "target")}
        self._client(ports)

    def _keys(self):
        for name in ("user_ca", "host_ca", "bastion", "target", "client"):
            self.lab.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.dir / name])
        sign = ["ssh-keygen", "-q", "-V", "-5m:+1d"]
        self.lab.run([*sign, "-s", self.dir / "user_ca", "-I", "bench", "-n", self.lab.user, self.dir / "client.pub"])
        for name in ("bastion", "target"):
            self.lab.run([*sign, "-s", self.dir / "host_ca", "-I", name, "-h", "-n", name, self.dir / f"{name}.pub"])

    def _sshd(self, name):
        port = free_port()
        config = self.dir / f"sshd_{name}"
        # MaxStartups: the default drops connections at random from the eleventh on, and nothing could be compared.
        config.write_text(f"""\
ListenAddress 127.0.0.1:{port}
HostKey {self.dir / name}
HostCertificate {self.dir / name}-cert.pub
TrustedUserCAKeys {self.dir / "user_ca.pub"}
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 2000
MaxSessions 1000
LogLevel ERROR
PidFile none
""")
        server = self.lab.serve(name, [SSHD, "-D", "-e", "-f", config])
        wait_for(f"sshd {name}", lambda: server.check() or listening(port))
        return port

    def _client(self, ports):
        (self.dir / "known_hosts").write_text("@cert-authority bastion,target " + (self.dir / "host_ca.pub").read_text())
        common = f"""\
    HostName 127.0.0.1
    User {self.lab.user}
    IdentityFile {self.dir / "client"}
    CertificateFile {self.dir / "client-cert.pub"}
    UserKnownHostsFile {self.dir / "known_hosts"}
{CLIENT}"""
        hosts = f"""\
Host bastion
    HostKeyAlias bastion
    Port {ports["bastion"]}
Host target direct
    HostKeyAlias target
    Port {ports["target"]}
Host target
    ProxyJump bastion
"""
        # -J starts its inner ssh with the same -F, so the tuning holds on both hops.
        (self.dir / "config").write_text(f"{hosts}Host *\n{common}")
        (self.dir / "config_tuned").write_text(f"{hosts}Host *\n{TUNED}{common}")

    def paths(self):
        plain = ["ssh", "-F", str(self.dir / "config")]
        tuned = ["ssh", "-F", str(self.dir / "config_tuned")]
        environment = dict(os.environ)
        return [
            Path("direct", "sshd, no bastion", [*plain, "direct"], environment, ("target",)),
            Path("J", "ssh -J, defaults", [*plain, "target"], environment, ("bastion", "target")),
            Path("Jt", "ssh -J, tuned", [*tuned, "target"], environment, ("bastion", "target")),
        ]


def listening(port):
    """Whether somebody listens on a loopback port. Looks, and does not connect: a connection would count as a failed one."""
    want = f"0100007F:{port:04X}"
    rows = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == want and row.split()[3] == "0A" for row in rows)
