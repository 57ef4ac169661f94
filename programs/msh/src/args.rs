//! The command line of `msh`. The reference page and completions are made from this tree.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mezite_client::address::Address;
use mezite_client::cli::{Filter, Format, Shell, Ttl};
use mezite_core::kind::role::JoinMode;

/// Heading of what every command takes, so that its own options stand together.
const GLOBAL: &str = "Global options";

/// Log in to a Mezite cluster and reach its nodes by SSH.
#[derive(Debug, Parser)]
#[command(name = "msh", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Msh {
    #[command(flatten)]
    pub(crate) hub: Hub,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A factor as people write it.
fn factor(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number such as 2 or 0.5"))
}

/// Which hub, and how it is trusted.
#[derive(Debug, Args)]
pub(crate) struct Hub {
    /// Address of the proxy; without it, the one of the last login
    #[arg(long, global = true, help_heading = GLOBAL, env = "MEZITE_PROXY", hide_env_values = true, value_name = "HOST[:PORT]")]
    pub(crate) proxy: Option<Address>,
    /// Trust the certificate authorities in this PEM file besides the system's
    #[arg(long, global = true, help_heading = GLOBAL, env = "MEZITE_CA_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Do not verify the hub's certificate at login; for trials only
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Login(Login),
    /// End the session and remove its key and certificate
    Logout,
    /// Show who is logged in and until when the certificate is valid
    Status(Output),
    /// List the nodes you can see
    #[command(visible_alias = "list")]
    Ls(Ls),
    Ssh(Ssh),
    /// Carry the connection of another program
    #[command(subcommand)]
    Proxy(Proxy),
    Config(Config),
    /// Look at recorded sessions
    #[command(subcommand)]
    Sessions(Sessions),
    Play(Play),
    /// Change your password
    Passwd(Passwd),
    Signup(Signup),
    /// Second factors: codes of an authenticator, asked for at login
    #[command(subcommand)]
    Mfa(Mfa),
    /// Print the completion script of a shell
    Completion {
        /// Name of the shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Log in and store a short-lived key and certificate.
///
/// The password is taken from --password, from --password-stdin, or asked for, in this order.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Mezite user; without it, the one of the last login
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Password; visible to other users of this machine, so rather use --password-stdin
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Code of your authenticator, if you enrolled one; without it the terminal is asked, or the line after the password
    #[arg(long, alias = "mfa-code", value_name = "CODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) otp: Option<String>,
    /// Log in through this SSO connector
    #[arg(long, value_name = "CONNECTOR", conflicts_with_all = ["password", "password_stdin"])]
    pub(crate) auth: Option<String>,
    /// Lifetime of the certificate, at most 24h; without it what the cluster sets, by default 12h
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// Write key and certificate to PATH and PATH-cert.pub, for `ssh -i PATH`, and no profile
    #[arg(long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    /// Keep the private key in a hardware token
    #[arg(long)]
    pub(crate) hardware_key: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only nodes with this label; repeatable, all must match
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<Filter>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Open a shell on a node, or run one command there.
///
/// The exit status is that of the remote command; 255 means that the connection failed. A line that begins with `~.` hangs
/// up. For port forwarding use `msh config` and ssh.
#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// OS user on the node
    #[arg(long, short, value_name = "OSUSER")]
    pub(crate) login: Option<String>,
    /// Ask for a terminal even for a command
    #[arg(short = 't', conflicts_with = "no_terminal")]
    pub(crate) terminal: bool,
    /// Do not ask for a terminal
    #[arg(short = 'T')]
    pub(crate) no_terminal: bool,
    /// Code of your authenticator, for a node that asks for one; without it the terminal is asked
    #[arg(long, alias = "otp", value_name = "CODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) mfa_code: Option<String>,
    /// Name of the node
    #[arg(value_name = "[OSUSER@]NODE")]
    pub(crate) target: String,
    /// Command to run, its words joined by one space
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Proxy {
    /// Join standard input and output to the SSH server of a node; the ProxyCommand of `msh config`
    Ssh {
        /// The node, as ssh writes it with %r@%h:%p
        #[arg(value_name = "[OSUSER@]NODE[:PORT]")]
        target: String,
    },
}

/// Print the OpenSSH configuration for every node you can see.
///
/// It names those nodes and no pattern, so run it again when there are new ones.
#[derive(Debug, Args)]
pub(crate) struct Config {
    /// Put it into ~/.ssh/config, replacing what was put there before
    #[arg(long, conflicts_with = "remove")]
    pub(crate) append: bool,
    /// Take it out of ~/.ssh/config
    #[arg(long)]
    pub(crate) remove: bool,
    /// Use this file in place of ~/.ssh/config
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List recorded sessions, newest first
    #[command(visible_alias = "list")]
    Ls(ListSessions),
    Join(Join),
}

/// Take part in somebody else's session.
///
/// An observer watches. A moderator watches and ends the session by typing t. A peer types into it. Observers and moderators leave
/// with Ctrl-C, peers with ~. at the start of a line.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// How to take part
    #[arg(long, value_enum, default_value = "observer")]
    pub(crate) mode: Mode,
    /// Code of your authenticator, for a node that asks for one; without it the terminal is asked
    #[arg(long, alias = "otp", value_name = "CODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) mfa_code: Option<String>,
    /// Id of the session
    #[arg(value_name = "SESSION")]
    pub(crate) session: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListSessions {
    /// Only sessions of this user
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Only sessions that are running
    #[arg(long)]
    pub(crate) active: bool,
    /// At most this many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Skip this many
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) offset: u32,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How to take part in a session.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Mode {
    Observer,
    Peer,
    Moderator,
}

impl From<Mode> for JoinMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Observer => Self::Observer,
            Mode::Peer => Self::Peer,
            Mode::Moderator => Self::Moderator,
        }
    }
}

/// Replay a session in this terminal.
///
/// Keys: space pauses, the arrows go 5 seconds back and forth, `q` ends. Escape sequences that could change the terminal
/// beyond its picture are left out.
#[derive(Debug, Args)]
pub(crate) struct Play {
    /// Id of a session, or path of a .cast file
    #[arg(value_name = "SESSION|FILE")]
    pub(crate) source: String,
    /// Play this many times as fast
    #[arg(long, default_value = "1", value_name = "FACTOR", value_parser = factor)]
    pub(crate) speed: f64,
    /// Shorten pauses to at most this
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle_limit: Option<Ttl>,
    /// Send the recording to the terminal as it is
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Passwd {
    /// Read the old and the new password from two lines of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Code of your authenticator, if you have one; without it the terminal is asked, or the line after the passwords
    #[arg(long, alias = "mfa-code", value_name = "CODE")]
    pub(crate) otp: Option<String>,
}

/// Redeem an invitation: choose the first password.
#[derive(Debug, Args)]
pub(crate) struct Signup {
    /// Token of the invitation
    #[arg(long, env = "MEZITE_INVITE_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mfa {
    Add(AddFactor),
    /// List your second factors
    #[command(visible_alias = "list")]
    Ls(Output),
    /// Remove a second factor; a code of any of yours is asked for
    #[command(visible_alias = "delete")]
    Rm {
        /// Name of the factor
        name: String,
        /// Code of an authenticator of yours; without it standard input is read, or the terminal asked
        #[arg(long, alias = "mfa-code", value_name = "CODE")]
        otp: Option<String>,
    },
}

/// Enrol an authenticator. It counts once a code of it was given, at the terminal or on standard input.
///
/// The first needs a login that is not older than 10 minutes, further ones a code of one that is there.
#[derive(Debug, Args)]
pub(crate) struct AddFactor {
    /// Kind of the factor
    #[arg(long, default_value = "totp", value_parser = ["totp"])]
    pub(crate) r#type: String,
    /// What the factor is called
    #[arg(long, default_value = "totp")]
    pub(crate) name: String,
    /// Code of a factor that is there already
    #[arg(long, alias = "mfa-code", default_value = "", hide_default_value = true, value_name = "CODE")]
    pub(crate) otp: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    /// `UPDATE_REFERENCE=1 cargo test` writes the page anew.
    #[test]
    fn the_reference_page_is_what_the_program_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/msh.md");
        let page = mezite_client::cli::reference(Msh::command());
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &page).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == page, "docs/reference/msh.md is stale; run UPDATE_REFERENCE=1 cargo test -p msh");
    }

    fn parse(line: &str) -> Result<Msh, clap::Error> {
        Msh::try_parse_from(line.split(' '))
    }

    fn ssh(line: &str) -> Ssh {
        match parse(line).unwrap().command {
            Command::Ssh(ssh) => ssh,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn documented_lines_are_understood() {
        Msh::command().debug_assert();
        for line in [
            "msh login --proxy=mezite.example.com:3080 --user=alice",
            "msh login --ttl=8h --out=/tmp/id --password-stdin",
            "msh login --hardware-key",
            "msh login --auth=okta",
            "msh ls --filter=env=production --filter=team=platform",
            "msh proxy ssh ubuntu@web-server-01:22",
            "msh config --append",
            "msh sessions ls",
            "msh sessions join a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "msh sessions join --mode=moderator a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "msh play --speed=2 a1b2c3d4-e5f6-7890-abcd-ef1234567890",
            "msh status --format json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).err().map(|e| e.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn the_remote_command_is_everything_after_the_node() {
        assert_eq!(ssh("msh ssh --login=ubuntu web -- uptime").command, ["uptime"]);
        assert_eq!(ssh("msh ssh ubuntu@web").target, "ubuntu@web");
        assert_eq!(ssh("msh ssh web ls -l -- x").command, ["ls", "-l", "--", "x"]);
        assert_eq!(ssh("msh ssh web -- ls -- x").command, ["ls", "--", "x"]);
        assert_eq!(ssh("msh ssh -t web -- -x").command, ["-x"]);
        assert_eq!(ssh("msh ssh --mfa-code=123456 web").mfa_code.as_deref(), Some("123456"));
    }

    #[test]
    fn forwarding_flags_are_unknown() {
        for line in ["msh ssh -L 1:h:1 web", "msh ssh web -R 1:h:1", "msh ssh -D 1 web", "msh ssh", "msh ls --filter=x"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
