//! The command line of `mezctl`. The reference page, completions and the manual are made from this tree.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mezite_client::cli::{Format, Shell, Ttl};

mod locks;
mod users;

pub(crate) use locks::{CreateLock, DeleteLock, Locks};
pub(crate) use users::{CreateUser, ResetPassword, UpdateUser, Users};

/// Heading of what every command takes, so that its own options stand together.
const GLOBAL: &str = "Global options";

/// Administer a Mezite cluster.
///
/// Every command but `login` needs a session token, from --token or MEZITE_AUTH_TOKEN.
#[derive(Debug, Parser)]
#[command(name = "mezctl", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Mezctl {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Address of the Auth service
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "MEZITE_AUTH_SERVER",
        hide_env_values = true,
        default_value = "localhost:3025",
        value_name = "HOST[:PORT]"
    )]
    pub(crate) auth_server: String,
    /// Session token, as `mezctl login` prints it
    #[arg(long, global = true, help_heading = GLOBAL, env = "MEZITE_AUTH_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Trust the certificate authorities in this PEM file besides the system's
    #[arg(long, global = true, help_heading = GLOBAL, env = "MEZITE_CA_FILE", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Do not verify the server's certificate; for trials only
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) insecure: bool,
    /// Form of the output: text, json or yaml
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t, hide_possible_values = true)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Login(Login),
    /// End the session of the token
    Logout,
    /// Users and their roles
    #[command(subcommand)]
    Users(Users),
    /// Roles: who may reach what
    #[command(subcommand)]
    Roles(Roles),
    /// Who may reach what, and by which rule
    #[command(subcommand)]
    Access(Access),
    /// Join tokens
    #[command(subcommand)]
    Tokens(Tokens),
    /// Nodes of the cluster
    #[command(subcommand)]
    Nodes(Nodes),
    /// Sessions that are running
    #[command(subcommand)]
    Sessions(Sessions),
    /// Recordings of sessions
    #[command(subcommand)]
    Recordings(Recordings),
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Certificate authorities
    #[command(subcommand)]
    Ca(Ca),
    /// Settings of the cluster
    #[command(subcommand)]
    Config(Config),
    /// Locks: stop a user, a role, a machine or a login at once
    #[command(subcommand)]
    Locks(Locks),
    /// Print the completion script of a shell
    Completion {
        /// Name of the shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// Log in and print the session token, and nothing else.
///
/// The password is taken from --password, from --password-stdin, or asked for, in this order.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Mezite user
    #[arg(long, visible_alias = "user", value_name = "NAME")]
    pub(crate) username: String,
    /// Password; visible to other users of this machine, so rather use --password-stdin
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Code of your authenticator, if you enrolled one; without it the terminal is asked, or the line after the password
    #[arg(long, alias = "mfa-code", value_name = "CODE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) otp: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Roles {
    /// Create a role, or update the one of that name
    Create {
        /// YAML or JSON document of the role; `-` for standard input
        #[arg(long, short, value_name = "FILE")]
        from_file: PathBuf,
        /// Write nothing; show who would gain and who would lose
        #[arg(long)]
        dry_run: bool,
    },
    /// List roles
    #[command(visible_alias = "list")]
    Ls,
    /// Show the rules of a role
    Get {
        /// Name of the role
        name: String,
    },
    /// Delete a role that no user has
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the role
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Access {
    /// Say whether a user may log in to a node, and which rules of which roles decide that
    Explain {
        /// The user
        #[arg(long, value_name = "NAME")]
        user: String,
        /// Name or id of the node
        #[arg(long)]
        node: String,
        /// The OS login; without it, any
        #[arg(long, default_value = "", hide_default_value = true)]
        login: String,
        /// Decide as of this moment, such as 2026-03-24T15:00:00Z
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// List the users who may log in to a node
    WhoCan {
        /// Name or id of the node
        #[arg(long)]
        node: String,
        /// The OS login; without it, any
        #[arg(long, default_value = "", hide_default_value = true)]
        login: String,
        /// Decide as of this moment, such as 2026-03-24T15:00:00Z
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Create a token with which one agent or proxy joins
    Create {
        /// What may join with it
        #[arg(long, value_delimiter = ',', default_value = "node", value_name = "ROLE,…")]
        roles: Vec<String>,
        /// How long it is valid
        #[arg(long, default_value = "1h", value_name = "DURATION")]
        ttl: Ttl,
        /// Name to find it by; without it, one is made
        #[arg(long)]
        name: Option<String>,
        /// Labels that the node gets
        #[arg(long, default_value = "", hide_default_value = true, value_name = "KEY=VALUE,…")]
        labels: String,
    },
    /// List tokens that can still be used
    #[command(visible_alias = "ls")]
    List,
    /// Delete a token
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id of the token, or the token itself
        // Another name than the global --token, whose value it would take.
        #[arg(value_name = "TOKEN")]
        doomed: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls {
        /// Show more columns
        #[arg(long)]
        wide: bool,
    },
    /// Show the full record of a node
    Get {
        /// Name or id of the node
        node: String,
    },
    /// Replace the labels of a node
    Update {
        /// Name or id of the node
        node: String,
        /// All labels the node is to have
        #[arg(long, value_name = "KEY=VALUE,…")]
        labels: String,
    },
    /// Remove a node; its identity is revoked
    #[command(visible_alias = "delete")]
    Rm {
        /// Name or id of the node
        node: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List running sessions
    #[command(visible_alias = "list")]
    Ls,
    /// End a session at once
    Terminate {
        /// Id of the session
        session: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recordings {
    /// List recordings, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only recordings of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// At most this many; all without it
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Write a recording to a file, as asciicast v2
    Download {
        /// Id of the session
        session: String,
        /// The file; `-` for standard output; without it, SESSION.cast here, unless that exists
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check that a recording is whole and unchanged
    Verify {
        /// Id of the session
        session: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List events, newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only events of this type; repeatable
        #[arg(long = "type", value_delimiter = ',', value_name = "TYPE")]
        types: Vec<String>,
        /// Only events of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only events since then: 24h, 2026-03-24, or 2026-03-24T15:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only events until then, in the same forms
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Only events of this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// The event that a refused user was given as a reference
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// At most this many; all without it
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Write the log, or a part of it, to a file that anybody can verify
    ///
    /// The file is JSON, one object a line: the records in the order of the chain, and signed checkpoints over them.
    Export {
        /// The file; it appears under this name once it is whole
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// From here on: a duration (1h), a date or a time
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Up to here: a duration (1h), a date or a time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
    },
    /// Check the chain of the whole log, or of an export
    ///
    /// Without an option the hub checks its log. With --file an export is checked here: no hub, login or secret is needed.
    Verify {
        /// Check this export
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Believe only the keys in this file, which `mezctl ca export --type=audit` printed; repeatable
        #[arg(long = "key", value_name = "FILE", requires = "file")]
        keys: Vec<PathBuf>,
        /// Check that the hub's log still agrees with the checkpoints in this export
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        checkpoint: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Show phase and key fingerprints of each authority
    Status,
    /// Print the public keys of an authority
    Export {
        /// Which authority
        #[arg(long = "type", value_enum, value_name = "TYPE")]
        kind: Authority,
    },
}

/// A certificate authority of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Authority {
    /// Signs user certificates
    User,
    /// Signs host certificates
    Host,
    /// Signs workload identities
    Spiffe,
    /// Signs checkpoints of the audit log
    Audit,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a setting
    Get {
        /// Name of the setting
        key: String,
    },
    /// Change a setting
    Set {
        /// Name of the setting
        key: String,
        /// Its value
        value: String,
    },
    /// List settings
    #[command(visible_alias = "list")]
    Ls,
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
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/mezctl.md");
        let page = mezite_client::cli::reference(Mezctl::command());
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &page).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == page, "docs/reference/mezctl.md is stale; run UPDATE_REFERENCE=1 cargo test -p mezctl");
    }

    fn parse(line: &str) -> Result<Mezctl, clap::Error> {
        Mezctl::try_parse_from(line.split(' '))
    }

    #[test]
    fn documented_lines_are_understood() {
        Mezctl::command().debug_assert();
        for line in [
            "mezctl login --auth-server=h:3025 --username=admin --password=x",
            "mezctl users create alice --roles=developer,viewer",
            "mezctl users create --username=alice --roles=a --logins=x,y --trait team=a,b --trait b=c --password-stdin",
            "mezctl users list",
            "mezctl users ls",
            "mezctl users update alice --roles=developer --logins= --trait team=a,b",
            "mezctl users reset-password alice",
            "mezctl users reset-password --username=alice --password-stdin",
            "mezctl users delete --username=alice",
            "mezctl users rm alice",
            "mezctl roles create --from-file=role.yaml",
            "mezctl roles create --from-file=role.yaml --dry-run",
            "mezctl access explain --user=alice --node=web-01 --login=root",
            "mezctl access explain --user alice --node web-01 --login root --at 2026-03-24T15:00:00Z --format=json",
            "mezctl access who-can --node=web-01 --login=root",
            "mezctl roles list",
            "mezctl roles rm x",
            "mezctl tokens create --roles=node --ttl=1h",
            "mezctl tokens ls",
            "mezctl tokens delete x",
            "mezctl nodes ls --wide",
            "mezctl nodes update web-01 --labels env=staging,role=web",
            "mezctl nodes delete web-01",
            "mezctl locks create --user=alice --message=m",
            "mezctl locks create --role=r",
            "mezctl locks create --type=agent_identity --name=ci-bot --message=m --ttl 1h",
            "mezctl locks create --agent=web-01 --ttl=1h",
            "mezctl locks create --node=web-01",
            "mezctl locks create --login=root",
            "mezctl locks create --agent-identity=web-01",
            "mezctl locks create --mfa-device=alice/phone",
            "mezctl users create alice --roles=developer,viewer --expires developer=8h",
            "mezctl users update alice --expires=developer=",
            "mezctl locks delete --node=web-01",
            "mezctl locks delete --target-type=user --target-name=alice",
            "mezctl locks delete --user=alice",
            "mezctl locks delete --role=r",
            "mezctl sessions terminate x",
            "mezctl recordings ls --user=alice",
            "mezctl recordings download x --out=/tmp/x.cast",
            "mezctl recordings download x",
            "mezctl audit ls --type=access.denied --since=1h",
            "mezctl audit ls --user=alice --since=24h --limit 5 --format json",
            "mezctl audit verify",
            "mezctl audit verify --file=log.jsonl --key=audit.pub",
            "mezctl audit verify --checkpoint=log.jsonl",
            "mezctl audit export --out=log.jsonl --since=24h --until 2026-03-24",
            "mezctl ca export --type=audit",
            "mezctl ca export --type=spiffe",
            "mezctl config set user_cert_ttl 8h",
            "mezctl --token t --insecure --ca-file f nodes ls --format=yaml",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).err().map(|e| e.to_string()).unwrap_or_default());
        }
    }

    #[test]
    fn a_token_to_delete_is_not_the_token_to_log_in_with() {
        let args = parse("mezctl --token secret tokens delete t1").unwrap();
        assert_eq!(args.global.token.as_deref(), Some("secret"));
        assert!(matches!(args.command, Command::Tokens(Tokens::Delete { doomed }) if doomed == "t1"));
    }

    #[test]
    fn half_a_command_is_a_usage_error() {
        for line in [
            "mezctl users create --roles=a",
            "mezctl users create a --username=b --roles=a",
            "mezctl users update alice",
            "mezctl users update --roles=a",
            "mezctl users delete",
            "mezctl access explain --user=alice",
            "mezctl access who-can --login=root",
            "mezctl locks create --message=m",
            "mezctl locks create --user=a --role=b",
            "mezctl locks create --type=user",
            "mezctl locks create --node=a --login=b",
            "mezctl locks create --type=user --name=a --role=b",
            "mezctl locks delete --target-type=user",
            "mezctl locks delete --user=a --role=b",
            "mezctl locks delete",
            "mezctl tokens create --ttl=0s",
            "mezctl ca export --type=other",
            "mezctl audit export",
            "mezctl audit verify --file=a --checkpoint=b",
            "mezctl audit verify --key=a",
        ] {
            assert_eq!(parse(line).err().map(|e| e.exit_code()), Some(2), "{line}");
        }
    }
}
