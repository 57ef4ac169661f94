//! `mezd`: the agent of a node.
//!
//! `mezd start` reads its configuration from the environment (`/etc/mezite/agent.env` under systemd). As `mezd session-starter`
//! the same program starts one session; the agent runs it so, nobody else.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mezite_agent::AgentConfig;
use mezite_net::shutdown::{self, Notice};
use tracing_subscriber::EnvFilter;

/// The Mezite node agent: it dials the proxy, and it is the node's sshd.
#[derive(Debug, Parser)]
#[command(name = "mezd", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join the cluster, if not done before, and serve until stopped.
    ///
    /// Reads MEZITE_AUTH_ADDR, MEZITE_PROXY_ADDR, MEZITE_JOIN_TOKEN, MEZITE_CA_PIN, MEZITE_NODE_NAME, MEZITE_NODE_LABELS,
    /// MEZITE_RECORDING_MODE (node, node-sync), MEZITE_DATA_DIR, MEZITE_TLS_WRAP, MEZITE_CA_FILE, and MEZD_LOG for the log
    /// level (MEZITE_LOG_LEVEL is the hub's).
    Start,
}

fn main() -> ExitCode {
    // Before anything else: the starter does nothing of the agent's start-up.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == mezite_session::STARTER_ARGUMENT) {
        return ExitCode::from(u8::try_from(mezite_session::run_starter()).unwrap_or(1));
    }
    mezite_net::nss::pin_nss();
    let Cli { command: Command::Start } = Cli::parse();
    log_to_stderr();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For a person at a terminal as well as for the journal.
            eprintln!("mezd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let hostname = hostname();
    let config = AgentConfig::from_env(&variable, &hostname)?;
    mezite_net::tls::install_provider();
    let (starter, which) = mezite_session::choose_starter();
    tracing::info!("{which}");
    // Two threads carry many sessions, and the node's memory is its users'. While bulk data keeps tasks busy, sockets are
    // looked at often: a window that is seen late stops a transfer.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).event_interval(4).enable_all().build()?;
    runtime.block_on(async {
        let stop = shutdown::on_signals()?;
        let socket = variable("NOTIFY_SOCKET");
        let notify = |notice| {
            if let Some(socket) = &socket
                && let Err(error) = shutdown::notify(socket.as_ref(), notice)
            {
                tracing::warn!(%error, "the service manager could not be told");
            }
        };
        mezite_agent::run(config, starter, stop, || notify(Notice::Ready)).await?;
        notify(Notice::Stopping);
        Ok(())
    })
}

/// Reads one variable of the environment; the only place of this program that does.
#[expect(clippy::disallowed_methods, reason = "the program's main")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// JSON lines at level info unless MEZD_LOG says otherwise; plain text on a terminal.
fn log_to_stderr() {
    let filter = EnvFilter::try_new(variable("MEZD_LOG").unwrap_or_default())
        .ok()
        .filter(|_| variable("MEZD_LOG").is_some_and(|level| !level.is_empty()))
        .unwrap_or_else(|| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { builder.init() } else { builder.json().init() }
}
