//! A whole cluster of real programs on free loopback ports in a scratch directory. Dropping it ends every program it
//! started, by its id.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take before a test calls it hung. Generous: machines are small and noisy.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const ADMIN_PASSWORD: &str = "correct horse battery";
pub const USER_PASSWORD: &str = "a fine password for tests";

/// What a finished program left behind.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A running program; ended (SIGKILL) when dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait(&mut self) -> i32 {
        let mut code = None;
        wait_for("the program to end", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls a condition; fails the test when it does not come true in [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end, fed with `input`; fails the test when it hangs.
#[track_caller]
pub fn run(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let pid = i32::try_from(child.id()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let mut out = child.stdout.take().unwrap();
    let mut err = child.stderr.take().unwrap();
    let stdout = thread::spawn(move || read_all(&mut out));
    let stderr = thread::spawn(move || read_all(&mut err));
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait().unwrap()));
    let status = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        panic!("{command:?} did not end within {} s", PATIENCE.as_secs());
    });
    Output {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout.join().unwrap()).into_owned(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
    }
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all);
    all
}

/// The directory of the programs under test: `MEZITE_BIN_DIR`, else where cargo put them.
pub fn bin_dir() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if let Ok(dir) = std::env::var("MEZITE_BIN_DIR") {
        return dir.into();
    }
    let dir = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    assert!(dir.join("mezhub").is_file(), "no mezhub in {}: run `cargo build --workspace` first", dir.display());
    dir
}

pub struct Cluster {
    pub hub: Program,
    pub agents: BTreeMap<String, Program>,
    pub dir: tempfile::TempDir,
    pub addr: BTreeMap<String, String>,
    pub admin_token: String,
    hub_env: Vec<(String, String)>,
}

impl Cluster {
    /// A hub on SQLite with user `admin`.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more environment for the hub.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "cluster_name: test\ndata_dir: {0}/hub\nlog: {{level: info, format: text}}\n\
             auth: {{listen_addr: \"127.0.0.1:0\"}}\n\
             proxy: {{listen_addr: \"127.0.0.1:0\", ssh_listen_addr: \"127.0.0.1:0\", tunnel_listen_addr: \"127.0.0.1:0\", \
             public_addr: \"localhost\"}}\ndiag: {{listen_addr: \"127.0.0.1:0\"}}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("mezhub.yaml"), config).unwrap();
        let mut hub_env = vec![
            ("MEZITE_ADMIN_PASSWORD".to_owned(), ADMIN_PASSWORD.to_owned()),
            ("MEZITE_CA_KEY_PASSPHRASE".to_owned(), "passphrase of the test".to_owned()),
        ];
        hub_env.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let (hub, addr) = start_hub(dir.path(), &hub_env);
        let mut cluster =
            Self { hub, agents: BTreeMap::new(), dir, addr, admin_token: String::new(), hub_env };
        let login = cluster.mezctl(&["login", "--username=admin", &format!("--password={ADMIN_PASSWORD}")]).ok();
        cluster.admin_token = login.trim().to_owned();
        cluster
    }

    /// A hub, one online node `node-1`, and user `alice` (role `access`, logins given) logged in by `msh`.
    pub fn with_node(logins: &str) -> Self {
        let mut cluster = Self::start();
        cluster.add_agent("node-1", &[("MEZITE_NODE_LABELS", "env=test,team=core")]);
        cluster.add_user("alice", "access", logins);
        cluster.login("alice");
        cluster
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Stops the hub with `signal` and starts it again on the same ports.
    pub fn restart_hub(&mut self, signal: Signal) {
        self.hub.signal(signal);
        self.hub.wait();
        let config = fs::read_to_string(self.path("mezhub.yaml")).unwrap();
        let mut fixed = String::new();
        for line in config.lines() {
            let line = match line {
                l if l.starts_with("auth:") => format!("auth: {{listen_addr: \"{}\"}}", self.addr["auth"]),
                l if l.starts_with("proxy:") => format!(
                    "proxy: {{listen_addr: \"{}\", ssh_listen_addr: \"{}\", tunnel_listen_addr: \"{}\", public_addr: \"localhost\"}}",
                    self.addr["https"], self.addr["ssh"], self.addr["tunnel"]
                ),
                l => l.to_owned(),
            };
            fixed.push_str(&line);
            fixed.push('\n');
        }
        fs::write(self.path("mezhub.yaml"), fixed).unwrap();
        let (hub, addr) = start_hub(self.dir.path(), &self.hub_env);
        self.hub = hub;
        self.addr = addr;
    }

    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin_dir().join(program));
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.dir.path()).env("MEZITE_HOME", self.path("home")).env("TERM", "xterm");
        command.env("MEZITE_CA_FILE", self.path("hub/tls/ca.pem"));
        command
    }

    pub fn mezctl(&self, args: &[&str]) -> Output {
        let mut command = self.command("mezctl");
        command.arg(format!("--auth-server={}", self.addr["auth"])).args(args);
        command.env("MEZITE_AUTH_TOKEN", &self.admin_token);
        run(command, b"")
    }

    pub fn mezctl_json(&self, args: &[&str]) -> serde_json::Value {
        let mut all = args.to_vec();
        all.push("--format=json");
        let text = self.mezctl(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    pub fn msh(&self, args: &[&str]) -> Output {
        self.msh_with(args, b"")
    }

    pub fn msh_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command("msh");
        command.args(args);
        run(command, input)
    }

    pub fn add_user(&self, name: &str, roles: &str, logins: &str) {
        let mut command = self.command("mezctl");
        command.arg(format!("--auth-server={}", self.addr["auth"])).env("MEZITE_AUTH_TOKEN", &self.admin_token);
        command.args(["users", "create", name, &format!("--roles={roles}"), &format!("--logins={logins}"), "--password-stdin"]);
        run(command, format!("{USER_PASSWORD}\n").as_bytes()).ok();
    }

    /// `msh login`, with a profile for OpenSSH written too.
    pub fn login(&self, user: &str) {
        let proxy = format!("--proxy={}", self.addr["https"].replace("127.0.0.1", "localhost"));
        self.msh_with(&["login", &proxy, &format!("--user={user}"), "--password-stdin"], format!("{USER_PASSWORD}\n").as_bytes())
            .ok();
    }

    /// The environment of an agent that joins with a fresh token.
    pub fn agent_command(&self, name: &str, env: &[(&str, &str)]) -> Command {
        let line = self.mezctl(&["tokens", "create", "--roles=node", "--ttl=1h"]).ok();
        let token = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("no token in {line:?}")).to_owned();
        let mut command = self.command("mezd");
        command.arg("start");
        command.env("MEZITE_AUTH_ADDR", &self.addr["auth"]).env("MEZITE_PROXY_ADDR", &self.addr["tunnel"]);
        command.env("MEZITE_JOIN_TOKEN", token).env("MEZITE_NODE_NAME", name);
        command.env("MEZITE_DATA_DIR", self.path(&format!("agent-{name}")));
        command.envs(env.iter().copied());
        command
    }

    pub fn add_agent(&mut self, name: &str, env: &[(&str, &str)]) {
        let command = self.agent_command(name, env);
        let log = self.path(&format!("{name}.log"));
        self.agents.insert(name.to_owned(), Program::start(command, log));
        self.wait_status(name, "online");
    }

    pub fn wait_status(&self, node: &str, status: &str) {
        wait_for(&format!("{node} to be {status}"), || {
            let listing = self.mezctl(&["nodes", "ls"]);
            listing.stdout.lines().any(|l| l.starts_with(node) && l.split_whitespace().any(|w| w == status))
        });
    }

    /// The arguments that make stock `ssh` use the profile, as `msh config` prints them.
    pub fn ssh_command(&self, program: &str) -> Command {
        let config = self.msh(&["config"]).ok();
        let file = self.path("ssh_config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", bin_dir().display());
        command.env_clear().env("PATH", path).env("HOME", self.dir.path()).env("MEZITE_HOME", self.path("home"));
        command.env("TERM", "xterm").arg("-F").arg(file);
        command
    }

    pub fn ssh(&self, args: &[&str]) -> Output {
        self.ssh_with(args, b"")
    }

    pub fn ssh_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.ssh_command("ssh");
        command.args(args);
        run(command, input)
    }

    /// Audit events of one type, newest first.
    pub fn audit(&self, event_type: &str) -> Vec<serde_json::Value> {
        let json = self.mezctl_json(&["audit", "ls", &format!("--type={event_type}")]);
        json.as_array().cloned().unwrap_or_default()
    }
}

fn start_hub(dir: &Path, env: &[(String, String)]) -> (Program, BTreeMap<String, String>) {
    let log = dir.join("hub.log");
    let _ = fs::remove_file(&log);
    let mut command = Command::new(bin_dir().join("mezhub"));
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(env.iter().map(|(k, v)| (k, v)));
    command.arg(format!("--config={}", dir.join("mezhub.yaml").display()));
    let mut hub = Program::start(command, log.clone());
    let mut addr = BTreeMap::new();
    wait_for("the hub's ready line", || {
        assert!(hub.running(), "the hub ended: {}", hub.log());
        let Ok(file) = fs::File::open(&log) else { return false };
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if let Some(rest) = line.strip_prefix("ready ") {
                addr = rest.split(' ').filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                return true;
            }
        }
        false
    });
    (hub, addr)
}
