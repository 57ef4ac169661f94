"""One hub on SQLite, one agent as root, one user; recording on, as it is by default."""

import json
import secrets

from lab import Failure, wait_for
from openssh import CLIENT, TUNED
from paths import Path

PROGRAMS = ("mezhub", "mezd", "msh", "mezctl")
NODE = "node-1"


class Mezite:
    """Starts the cluster and logs in. `paths()` are the ways to its node."""

    def __init__(self, lab, bin_dir):
        missing = [name for name in PROGRAMS if not (bin_dir / name).is_file()]
        if missing:
            raise Failure(f"no {', '.join(missing)} in {bin_dir}: run `make build`, or name the directory of the programs")
        self.lab, self.bin, self.dir = lab, bin_dir.resolve(), lab.dir / "mezite"
        self.dir.mkdir()
        self.dir.chmod(0o755)
        self.env = {
            "PATH": f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.dir),
            "TERM": "xterm",
            "MEZITE_HOME": str(self.dir / "home"),
            "MEZITE_CA_FILE": str(self.dir / "hub/tls/ca.pem"),
        }
        self._hub()
        self._agent()
        self._login()

    def _hub(self):
        config = self.dir / "mezite.yaml"
        config.write_text(f"""\
cluster_name: bench
data_dir: {self.dir / "hub"}
auth: {{listen_addr: "127.0.0.1:0"}}
proxy:
  listen_addr: "127.0.0.1:0"
  ssh_listen_addr: "127.0.0.1:0"
  tunnel_listen_addr: "127.0.0.1:0"
  public_addr: localhost
diag: {{listen_addr: "127.0.0.1:0"}}
""")
        password = secrets.token_hex(16)
        secret = {"MEZITE_ADMIN_PASSWORD": password, "MEZITE_CA_KEY_PASSPHRASE": secrets.token_hex(16)}
        hub = self.lab.serve("hub", [self.bin / "mezhub", f"--config={config}"], {**self.env, **secret})

        def ready():
            hub.check()
            lines = hub.log.read_text(errors="replace").splitlines()
            return next((line.split()[1:] for line in lines if line.startswith("ready ")), None)

        words = wait_for("the hub", ready)
        self.addr = {name: addr.replace("127.0.0.1", "localhost") for name, addr in (word.split("=", 1) for word in words)}
        token = self.mezctl("login", "--username=admin", f"--password={password}")
        self.env["MEZITE_AUTH_TOKEN"] = token.strip()

    def _agent(self):
        # Token created: TOKEN (roles: node, expires: …)
        token = self.mezctl("tokens", "create", "--roles=node", "--ttl=1h").split()[2]
        env = {
            **self.env, "MEZITE_AUTH_ADDR": self.addr["auth"], "MEZITE_PROXY_ADDR": self.addr["tunnel"],
            "MEZITE_JOIN_TOKEN": token, "MEZITE_NODE_NAME": NODE, "MEZITE_DATA_DIR": str(self.dir / "agent"),
        }
        del env["MEZITE_AUTH_TOKEN"]
        agent = self.lab.serve("agent", [self.bin / "mezd", "start"], env)
        wait_for("the node", lambda: agent.check() or "online" in self.mezctl("nodes", "ls"))

    def _login(self):
        password = secrets.token_hex(16) + "\n"
        self.mezctl("users", "create", "alice", "--roles=access", f"--logins={self.lab.user}", "--password-stdin", text=password)
        login = [self.bin / "msh", "login", f"--proxy={self.addr['https']}", "--user=alice", "--password-stdin"]
        self.lab.run(login, self.env, password)
        # OpenSSH takes the first value it meets, so what the benchmark sets stands before what `msh config` prints.
        block = self.lab.run([self.bin / "msh", "config"], self.env)
        for name, more in (("config", ""), ("config_tuned", TUNED)):
            (self.dir / name).write_text(f"Host *\n    User {self.lab.user}\n{more}{CLIENT}\n{block}")
        self._jump_config()

    def _jump_config(self):
        """Stock `ssh -J` through the proxy, without a program of ours on the client."""
        home = self.dir / "home"
        key = home / "profiles/localhost/keys/ssh_key"
        host, port = self.addr["ssh"].rsplit(":", 1)
        (self.dir / "config_jump").write_text(f"""\
Host hub
    HostName {host}
    Port {port}
    User alice
Host {NODE}
    ProxyJump hub
    User {self.lab.user}
Host *
    IdentityFile {key}
    CertificateFile {key}-cert.pub
    UserKnownHostsFile {home / "known_hosts"}
{CLIENT}""")

    def mezctl(self, *args, text=None):
        return self.lab.run([self.bin / "mezctl", f"--auth-server={self.addr['auth']}", *args], self.env, text)

    def paths(self):
        roles = ("hub", "agent")
        client = {name: value for name, value in self.env.items() if name != "MEZITE_AUTH_TOKEN"}
        config = lambda name, host: ["ssh", "-F", str(self.dir / name), host]  # noqa: E731
        return [
            Path("P", "Mezite, stock `ssh` by `msh config`", config("config", f"{NODE}.mezite"), client, roles),
            Path("Pt", "Mezite, the same, tuned as Jt", config("config_tuned", f"{NODE}.mezite"), client, roles),
            Path("MJ", "Mezite, stock `ssh -J`", config("config_jump", NODE), client, roles),
            Path("M", "Mezite, `msh ssh`", [str(self.bin / "msh"), "ssh", f"{self.lab.user}@{NODE}"], client, roles,
                 separator=("--",), terminal=("-t",)),
        ]

    def recordings(self):
        """How many sessions there were, and how many recordings the hub has: the proof that recording was on."""
        self.lab.settle()
        listed = len(json.loads(self.mezctl("recordings", "ls", "--format=json")))
        sessions = len(json.loads(self.mezctl("audit", "ls", "--type=session.start", "--format=json")))
        return {"listed": listed, "sessions": sessions}
