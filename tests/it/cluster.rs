//! A whole cluster of real programs on free loopback ports in a scratch directory. Dropping it ends every program it
//! started, by its id.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::{Output, Program, run, wait_for};
use crate::user::User;

pub(crate) const ADMIN_PASSWORD: &str = "correct horse battery";
pub(crate) const USER_PASSWORD: &str = "a fine password for tests";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directory of the programs under test: `MEZITE_BIN_DIR`, else where cargo put them.
pub(crate) fn bin_dir() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    if let Ok(dir) = std::env::var("MEZITE_BIN_DIR") {
        return dir.into();
    }
    let dir = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    assert!(dir.join("mezhub").is_file(), "no mezhub in {}: run `cargo build --workspace` first", dir.display());
    dir
}

/// A program of ours with nothing of the test's own environment.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(bin_dir().join(name));
    command.env_clear().env("PATH", format!("{}:{PATH}", bin_dir().display())).env("TERM", "xterm");
    command
}

pub(crate) struct Cluster {
    pub(crate) agents: BTreeMap<String, Program>,
    pub(crate) hub: Program,
    pub(crate) addr: BTreeMap<String, String>,
    pub(crate) admin_token: String,
    hub_env: Vec<(String, String)>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A hub on SQLite with user `admin`.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self::start_in(dir, &[])
    }

    /// The same in a directory that may hold things, with more environment for the hub.
    pub(crate) fn start_in(dir: tempfile::TempDir, env: &[(&str, &str)]) -> Self {
        fs::write(dir.path().join("mezhub.yaml"), config(dir.path(), &BTreeMap::new())).unwrap();
        let mut hub_env = vec![
            ("MEZITE_ADMIN_PASSWORD".to_owned(), ADMIN_PASSWORD.to_owned()),
            ("MEZITE_CA_KEY_PASSPHRASE".to_owned(), "passphrase of the test".to_owned()),
        ];
        hub_env.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        let (hub, addr) = start_hub(dir.path(), &hub_env);
        // The ports stay the same when the hub is started again.
        fs::write(dir.path().join("mezhub.yaml"), config(dir.path(), &addr)).unwrap();
        let mut cluster = Self { agents: BTreeMap::new(), hub, addr, admin_token: String::new(), hub_env, dir };
        let login = cluster.mezctl(&["login", "--username=admin", &format!("--password={ADMIN_PASSWORD}")]).ok();
        cluster.admin_token = login.trim().to_owned();
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn stop_hub(&mut self, signal: Signal) -> i32 {
        self.hub.signal(signal);
        self.hub.wait()
    }

    /// Starts the hub again, on the same ports.
    pub(crate) fn start_hub(&mut self) {
        (self.hub, self.addr) = start_hub(self.dir.path(), &self.hub_env);
    }

    /// The command that starts the hub, with its environment.
    pub(crate) fn hub_command(&self) -> Command {
        hub_command(&self.path("mezhub.yaml"), &self.hub_env)
    }

    pub(crate) fn mezctl_command(&self) -> Command {
        let mut command = program("mezctl");
        command.env("HOME", self.path("admin")).env("MEZITE_CA_FILE", self.path("hub/tls/ca.pem"));
        command.env("MEZITE_AUTH_SERVER", &self.addr["auth"]);
        if !self.admin_token.is_empty() {
            command.env("MEZITE_AUTH_TOKEN", &self.admin_token);
        }
        command
    }

    pub(crate) fn mezctl(&self, args: &[&str]) -> Output {
        self.mezctl_with(args, b"")
    }

    pub(crate) fn mezctl_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.mezctl_command();
        command.args(args);
        run(command, input)
    }

    #[track_caller]
    pub(crate) fn mezctl_json(&self, args: &[&str]) -> Vec<Value> {
        let mut all = args.to_vec();
        all.push("--format=json");
        let text = self.mezctl(&all).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    pub(crate) fn add_user(&self, name: &str, roles: &str, logins: &str) {
        let (roles, logins) = (format!("--roles={roles}"), format!("--logins={logins}"));
        let args = ["users", "create", name, &roles, &logins, "--password-stdin"];
        self.mezctl_with(&args, format!("{USER_PASSWORD}\n").as_bytes()).ok();
    }

    /// A new user, logged in.
    pub(crate) fn user(&self, name: &str, roles: &str, logins: &str) -> User {
        self.add_user(name, roles, logins);
        let user = self.nobody(name);
        user.login();
        user
    }

    /// A client's place that is not logged in.
    pub(crate) fn nobody(&self, name: &str) -> User {
        User::new(name, &self.path(""), &self.addr)
    }

    #[track_caller]
    pub(crate) fn add_role(&self, yaml: &str) -> Output {
        self.mezctl_with(&["roles", "create", "--from-file=-"], yaml.as_bytes())
    }

    pub(crate) fn join_token(&self, ttl: &str) -> String {
        let line = self.mezctl(&["tokens", "create", "--roles=node", &format!("--ttl={ttl}")]).ok();
        line.split_whitespace().nth(2).unwrap_or_else(|| panic!("no token in {line:?}")).to_owned()
    }

    pub(crate) fn agent_command(&self, name: &str, token: &str) -> Command {
        let mut command = program("mezd");
        command.arg("start");
        command.env("MEZITE_AUTH_ADDR", &self.addr["auth"]).env("MEZITE_PROXY_ADDR", &self.addr["tunnel"]);
        command.env("MEZITE_JOIN_TOKEN", token).env("MEZITE_NODE_NAME", name);
        command.env("MEZITE_DATA_DIR", self.path(&format!("agent-{name}")));
        command
    }

    /// Starts an agent and waits until it is online.
    pub(crate) fn add_agent(&mut self, name: &str, env: &[(&str, &str)]) {
        let mut command = self.agent_command(name, &self.join_token("1h"));
        command.envs(env.iter().copied());
        self.start_agent(name, command);
        self.wait_status(name, "online");
    }

    pub(crate) fn start_agent(&mut self, name: &str, command: Command) {
        let log = self.path(&format!("{name}.log"));
        self.agents.insert(name.to_owned(), Program::start(command, log));
    }

    pub(crate) fn status(&self, node: &str) -> String {
        let listing = self.mezctl(&["nodes", "ls"]).stdout;
        let row = listing.lines().find(|line| line.split_whitespace().next() == Some(node)).unwrap_or_default();
        row.split_whitespace().nth(2).unwrap_or_default().to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_status(&self, node: &str, status: &str) {
        wait_for(&format!("{node} to be {status}"), || self.status(node) == status);
    }

    /// Audit events of one type, newest first.
    #[track_caller]
    pub(crate) fn audit(&self, event_type: &str) -> Vec<Value> {
        self.mezctl_json(&["audit", "ls", &format!("--type={event_type}")])
    }

    /// Audit events of one type about one user, newest first.
    #[track_caller]
    pub(crate) fn audit_of(&self, event_type: &str, user: &str) -> Vec<Value> {
        self.mezctl_json(&["audit", "ls", &format!("--type={event_type}"), &format!("--user={user}")])
    }

    /// Sessions that run now, of one user.
    #[track_caller]
    pub(crate) fn live(&self, user: &str) -> Vec<Value> {
        let mut all = self.mezctl_json(&["sessions", "ls"]);
        all.retain(|session| session["user"] == user);
        all
    }

    /// The recording of the one session of `user`, once it is uploaded.
    #[track_caller]
    pub(crate) fn recording(&self, user: &str) -> Value {
        let mut found = Value::Null;
        wait_for(&format!("a recording of {user}"), || {
            let sealed = self.audit_of("session.recording.uploaded", user).len();
            let all = self.mezctl_json(&["recordings", "ls", &format!("--user={user}")]);
            found = all.first().cloned().unwrap_or_default();
            sealed > 0 && !found.is_null()
        });
        found
    }
}

/// The hub's configuration in `dir`, on the given addresses or free ones.
fn config(dir: &Path, addr: &BTreeMap<String, String>) -> String {
    let at = |name: &str| addr.get(name).map_or("127.0.0.1:0", String::as_str);
    format!(
        "cluster_name: test\ndata_dir: {}/hub\nlog: {{level: info, format: text}}\nauth: {{listen_addr: \"{}\"}}\n\
         proxy:\n  listen_addr: \"{}\"\n  ssh_listen_addr: \"{}\"\n  tunnel_listen_addr: \"{}\"\n  public_addr: localhost\n\
         diag: {{listen_addr: \"{}\"}}\n",
        dir.display(),
        at("auth"),
        at("https"),
        at("ssh"),
        at("tunnel"),
        at("diag"),
    )
}

fn hub_command(config: &Path, env: &[(String, String)]) -> Command {
    let mut command = program("mezhub");
    command.envs(env.iter().map(|(k, v)| (k, v))).arg(format!("--config={}", config.display()));
    command
}

fn start_hub(dir: &Path, env: &[(String, String)]) -> (Program, BTreeMap<String, String>) {
    let log = dir.join("hub.log");
    let text = || fs::read_to_string(&log).unwrap_or_default();
    let before = text().len();
    let mut hub = Program::start(hub_command(&dir.join("mezhub.yaml"), env), log.clone());
    let mut addr = BTreeMap::new();
    wait_for("the hub's ready line", || {
        assert!(hub.running(), "the hub ended: {}", hub.log());
        let text = text();
        let mut lines = text[before..].split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let Some(ready) = lines.find_map(|line| line.strip_prefix("ready ")) else { return false };
        let words = ready.split_whitespace().filter_map(|word| word.split_once('='));
        addr = words.map(|(name, address)| (name.to_owned(), address.to_owned())).collect();
        let diag = text[before..].lines().find_map(|line| line.split_once("diagnostics address=")).unwrap().1;
        addr.insert("diag".to_owned(), diag.to_owned());
        true
    });
    (hub, addr)
}
