//! A person at a machine of their own: `msh`, and stock OpenSSH with the configuration that `msh config` prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::cluster::{USER_PASSWORD, program};
use crate::process::{Output, run};

pub(crate) struct User {
    pub(crate) name: String,
    home: PathBuf,
    ca: PathBuf,
    https: String,
    ssh: String,
    config: OnceLock<PathBuf>,
}

impl User {
    pub(crate) fn new(name: &str, dir: &Path, addr: &BTreeMap<String, String>) -> Self {
        let home = dir.join(format!("home-{name}"));
        fs::create_dir_all(&home).unwrap();
        let localhost = |name: &str| addr[name].replace("127.0.0.1", "localhost");
        let ca = dir.join("hub/tls/ca.pem");
        Self {
            name: name.to_owned(),
            home,
            ca,
            https: localhost("https"),
            ssh: localhost("ssh"),
            config: OnceLock::new(),
        }
    }

    /// The client's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.home.join(".mezite")
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// `host:port` of the proxy's SSH front door.
    pub(crate) fn front_door(&self) -> &str {
        &self.ssh
    }

    fn place(&self, command: &mut Command) {
        command.env("HOME", &self.home).env("MEZITE_HOME", self.store()).env("MEZITE_CA_FILE", &self.ca);
    }

    pub(crate) fn msh_command(&self, args: &[&str]) -> Command {
        let mut command = program("msh");
        self.place(&mut command);
        command.args(args);
        command
    }

    pub(crate) fn msh(&self, args: &[&str]) -> Output {
        self.msh_with(args, b"")
    }

    pub(crate) fn msh_with(&self, args: &[&str], input: &[u8]) -> Output {
        run(self.msh_command(args), input)
    }

    pub(crate) fn try_login(&self, more: &[&str], password: &str) -> Output {
        let (proxy, user) = (format!("--proxy={}", self.https), format!("--user={}", self.name));
        let mut args = vec!["login", &proxy, &user, "--password-stdin"];
        args.extend(more);
        self.msh_with(&args, format!("{password}\n").as_bytes())
    }

    #[track_caller]
    pub(crate) fn login(&self) {
        self.try_login(&[], USER_PASSWORD).ok();
    }

    /// A stock OpenSSH program with the profile's configuration, as `msh config` prints it.
    pub(crate) fn openssh(&self, name: &str) -> Command {
        let file = self.config.get_or_init(|| {
            let file = self.home.join("ssh_config");
            fs::write(&file, self.msh(&["config"]).ok()).unwrap();
            file
        });
        let mut command = stock(name);
        self.place(&mut command);
        command.arg("-F").arg(file);
        command
    }

    /// Stock OpenSSH with the profile's key, certificate and known hosts, and no word about a proxy.
    pub(crate) fn plain_openssh(&self) -> Command {
        let file = self.home.join("plain_config");
        let key = self.store().join("profiles/localhost/keys/ssh_key");
        let text = format!(
            "Host *\n  IdentityFile {0}\n  CertificateFile {0}-cert.pub\n  IdentitiesOnly yes\n  UserKnownHostsFile {1}\n  \
             StrictHostKeyChecking yes\n",
            key.display(),
            self.store().join("known_hosts").display()
        );
        fs::write(&file, text).unwrap();
        let mut command = stock("ssh");
        self.place(&mut command);
        command.arg("-F").arg(file);
        command
    }

    pub(crate) fn ssh_command(&self, args: &[&str]) -> Command {
        let mut command = self.openssh("ssh");
        command.args(args);
        command
    }

    pub(crate) fn ssh(&self, args: &[&str]) -> Output {
        self.ssh_with(args, b"")
    }

    pub(crate) fn ssh_with(&self, args: &[&str], input: &[u8]) -> Output {
        run(self.ssh_command(args), input)
    }
}

fn stock(name: &str) -> Command {
    let ours = program(name);
    let mut command = Command::new(name);
    command.env_clear().envs(ours.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
}
