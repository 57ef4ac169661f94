//! The Mezite user CLI: one file per command in [`run`].
//!
//! Invariants: the terminal is put back whatever happens; `ssh` and `proxy ssh` end with the remote status or 255, every
//! other command with the code of its kind of failure. Deliberately absent: any decision about access.
#![forbid(unsafe_code)]

mod args;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use mezite_client::{cli, passwd, terminal};

use args::{Command, Msh};
use run::Places;

/// What ssh(1) answers when the failure is its own.
const SSH_FAILED: u8 = 255;

/// What to do in place of `msh ssh -L`, which there is not (F072 to F074).
const FORWARDING: &str = "
msh ssh forwards no ports. Plain ssh does, through the same proxy and with the same certificate:
  msh config --append
  ssh -L 5432:db.internal:5432 LOGIN@NODE.mezite";

fn main() -> ExitCode {
    mezite_net::nss::pin_nss();
    let args = match cli::parse::<Msh>(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            if is_forwarding(&error) {
                eprintln!("{FORWARDING}");
            }
            return usage_exit(error.kind());
        }
    };
    terminal::restore_on_panic();
    mezite_net::tls::install_provider();
    let is_ssh = matches!(args.command, Command::Ssh(_) | Command::Proxy(_));
    // While bulk data keeps tasks busy, sockets are looked at often: a window that is seen late stops a transfer.
    let runtime = match tokio::runtime::Builder::new_current_thread().event_interval(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("msh: cannot start: {error}");
            return ExitCode::from(if is_ssh { SSH_FAILED } else { 1 });
        }
    };
    let code = runtime.block_on(run::run(args, places())).unwrap_or_else(|error| {
        if !error.is_silent() {
            eprintln!("msh: {error}");
        }
        if is_ssh { SSH_FAILED } else { error.exit_code() }
    });
    // A thread may still wait for a key: nobody waits for it.
    runtime.shutdown_background();
    std::process::exit(code.into())
}

/// Whether somebody tried a flag of ssh(1) that forwards.
fn is_forwarding(error: &clap::Error) -> bool {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return false };
    error.kind() == ErrorKind::UnknownArgument && ["-L", "-R", "-D"].contains(&flag.as_str())
}

/// A wrong `msh ssh` must not look like a command that ended with 2.
fn usage_exit(kind: ErrorKind) -> ExitCode {
    let is_ssh = std::env::args_os().skip(1).find(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if is_ssh.is_some_and(|command| command == "ssh" || command == "proxy") => ExitCode::from(SSH_FAILED),
        _ => ExitCode::from(2),
    }
}

/// The only reading of the environment besides clap's.
fn places() -> Places {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let passwd_home = passwd::home();
    let home = var("HOME").map(PathBuf::from).or_else(|| passwd_home.clone()).unwrap_or_else(|| "/".into());
    Places {
        store: var("MEZITE_HOME").map_or_else(|| home.join(".mezite"), PathBuf::from),
        ssh_config: home.join(".ssh/config"),
        passwd_home,
        term: var("TERM").and_then(|term| term.into_string().ok()).unwrap_or_default(),
        locale: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name == "LANG" || name.starts_with("LC_"))
            .collect(),
    }
}
