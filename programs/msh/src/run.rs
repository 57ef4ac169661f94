//! From a parsed command line to the commands.

mod config;
mod lists;
mod login;
mod mfa;
mod password;
mod play;
mod ssh;

use std::path::PathBuf;

use clap::CommandFactory;
use mezite_client::login::Hub;
use mezite_client::profile::{Profile, Store};
use mezite_client::trust::Trust;
use mezite_client::{Result, cli};

use crate::args::{self, Command, Msh};

/// What the environment says.
pub(crate) struct Places {
    /// The client's directory.
    pub(crate) store: PathBuf,
    /// `~/.ssh/config` of `$HOME`.
    pub(crate) ssh_config: PathBuf,
    /// The home directory as OpenSSH sees it.
    pub(crate) passwd_home: Option<PathBuf>,
    /// `$TERM`; may be empty.
    pub(crate) term: String,
    /// `LANG` and `LC_*`, which a session inherits as with ssh(1).
    pub(crate) locale: Vec<(String, String)>,
}

/// What every command gets.
struct Context {
    store: Store,
    hub: args::Hub,
    places: Places,
}

/// Runs the command; the answer is the exit code.
pub(crate) async fn run(args: Msh, places: Places) -> Result<u8> {
    let context = Context { store: Store::new(&places.store), hub: args.hub, places };
    match args.command {
        Command::Ssh(args) => return ssh::run(&context, args).await,
        Command::Proxy(args::Proxy::Ssh { target }) => ssh::proxy(&context, &target).await,
        Command::Login(args) => login::login(&context, args).await,
        Command::Logout => login::logout(&context).await,
        Command::Status(args) => login::status(&context, &args),
        Command::Ls(args) => lists::nodes(&context, args).await,
        Command::Sessions(args::Sessions::Join(args)) => return ssh::join(&context, args).await,
        Command::Sessions(args::Sessions::Ls(args)) => lists::sessions(&context, args).await,
        Command::Config(args) => config::run(&context, args).await,
        Command::Play(args) => play::run(&context, args).await,
        Command::Passwd(args) => password::change(&context, &args).await,
        Command::Signup(args) => password::signup(&context, &args).await,
        Command::Mfa(command) => mfa::run(&context, command).await,
        Command::Completion { shell } => cli::completion(shell, Msh::command()),
        Command::Man => cli::man(Msh::command()),
    }
    .map(|()| 0)
}

impl Context {
    fn profile(&self) -> Result<Profile> {
        self.store.load(self.hub.proxy.as_ref())
    }

    fn trust(&self) -> Result<Trust> {
        let mut trust = Trust { insecure: self.hub.insecure, ..Trust::default() };
        if let Some(file) = &self.hub.ca_file {
            trust.add_file(file)?;
        }
        Ok(trust)
    }

    /// The hub of the profile, with its session.
    fn session(&self, profile: &Profile) -> Result<Hub> {
        Hub::session(&self.store, profile, self.trust()?)
    }
}
