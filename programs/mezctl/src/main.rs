//! The Mezite administrator CLI: one file per group of commands in [`run`], all over the Auth service's gRPC interface.
//!
//! Invariants: the session token is never printed but by `login`; what strangers chose is escaped in text output; the exit
//! code tells what kind of failure it was. Deliberately absent: any decision, which is the Auth service's.
#![forbid(unsafe_code)]

mod args;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use mezite_client::{cli, terminal};

use args::Mezctl;
use run::Places;

fn main() -> ExitCode {
    mezite_net::nss::pin_nss();
    let args = cli::parse::<Mezctl>(std::env::args_os()).unwrap_or_else(|error| error.exit());
    terminal::restore_on_panic();
    mezite_net::tls::install_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mezctl: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run::run(args, &places()));
    // A thread may still wait for a password: nobody waits for it.
    runtime.shutdown_background();
    let Err(error) = done else { return ExitCode::SUCCESS };
    if !error.is_silent() {
        eprintln!("mezctl: {error}");
    }
    ExitCode::from(error.exit_code())
}

/// The only reading of the environment besides clap's.
fn places() -> Places {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data_dir = var("MEZITE_DATA_DIR").unwrap_or_else(|| "/var/lib/mezite".into());
    let home = var("MEZITE_HOME").or_else(|| var("HOME").map(|home| home.join(".mezite")));
    Places { data_dir, home }
}
