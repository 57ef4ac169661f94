//! `mezhub`: the Mezite server. Auth and Proxy in one process.

#![forbid(unsafe_code)]

mod config;
mod diag;
mod serve;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use config::Config;

/// Whatever ends the program, for a person to read.
type Failure = Box<dyn std::error::Error>;

/// Where the configuration is looked for when `--config` is not given.
const DEFAULT_FILES: [&str; 2] = ["/etc/mezite/mezite.yaml", "/etc/mezite/mezhub.yaml"];

/// The Mezite server: certificate authorities, users, roles, audit and recordings, and the SSH and web front door.
#[derive(Debug, Parser)]
#[command(name = "mezhub", version, about, disable_help_subcommand = true, args_conflicts_with_subcommands = false)]
struct Cli {
    /// The configuration file; else /etc/mezite/mezite.yaml. MEZITE_* variables win over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default).
    Start,
    /// Validate the configuration and exit.
    Check,
    /// Show or undo schema migrations. Stop the server first.
    Migrate {
        /// Show what a start would apply.
        #[arg(long, conflicts_with = "down", required_unless_present = "down")]
        plan: bool,
        /// Undo the last N migrations.
        #[arg(long, value_name = "N")]
        down: Option<u32>,
    },
    /// Administrators.
    #[command(subcommand)]
    Admin(Admin),
}

#[derive(Debug, Subcommand)]
enum Admin {
    /// Let an administrator in again who cannot log in. Stop the server first.
    ///
    /// The user is made if there is none, becomes an administrator, and gets a random password, shown once on this terminal. Locks
    /// and second factors of the user are removed.
    Recover {
        /// Name of the user.
        #[arg(long, default_value = "admin", value_name = "NAME")]
        user: String,
    },
}

fn main() -> ExitCode {
    mezite_net::nss::pin_nss();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mezhub: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let config = load(cli.config.as_deref())?;
    match cli.command.unwrap_or(Command::Start) {
        Command::Check => {
            for key in config.ignored() {
                println!("warning: {key} has no effect in this release");
            }
            println!("configuration ok: cluster {}", config.cluster_name);
            Ok(())
        }
        Command::Start => serve::run(config),
        Command::Admin(Admin::Recover { user }) => block_on(serve::recover(&config, &user)),
        Command::Migrate { plan: true, .. } => block_on(serve::plan(&config)),
        Command::Migrate { down, .. } => block_on(serve::undo(&config, down.unwrap_or_default())),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    let path = match path {
        Some(path) => Some(path.to_path_buf()),
        None => DEFAULT_FILES.iter().map(PathBuf::from).find(|path| path.is_file()),
    };
    let text = match &path {
        Some(path) => {
            Some(std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?)
        }
        None => None,
    };
    Ok(Config::load(path.as_deref().zip(text.as_deref()), &variable)?)
}

/// Reads one variable of the environment; the only place of this program that does.
#[expect(clippy::disallowed_methods, reason = "the program's main")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
