//! Command line of `users`.

use clap::{ArgGroup, Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    Create(CreateUser),
    /// List users with their roles
    #[command(visible_alias = "ls")]
    List,
    /// Show one user
    Get {
        /// Name of the user
        name: String,
    },
    Update(UpdateUser),
    ResetPassword(ResetPassword),
    /// List the second factors of a user
    ListMfa {
        /// Name of the user
        name: String,
    },
    /// Remove the TOTP factors of a user who lost the authenticator
    ResetTotp {
        /// Name of the user
        name: String,
    },
    /// Delete a user; their sessions end
    #[command(visible_alias = "rm")]
    Delete(NamedUser),
}

/// Create a user. Without a password an invitation is printed: single-use, for one hour.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["name", "username"]))]
pub(crate) struct CreateUser {
    /// Name of the user
    pub(crate) name: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Roles of the user
    #[arg(long, value_delimiter = ',', required = true, value_name = "ROLE,…")]
    pub(crate) roles: Vec<String>,
    /// OS logins, kept as the trait `logins`
    #[arg(long, value_delimiter = ',', value_name = "LOGIN,…")]
    pub(crate) logins: Vec<String>,
    /// A trait with its values; repeatable
    #[arg(long = "trait", value_name = "KEY=VALUE,…")]
    pub(crate) traits: Vec<String>,
    /// End of a role for this user, after a time (8h) or at one (2026-03-24T15:00:00Z); repeatable
    #[arg(long, value_name = "ROLE=TIME")]
    pub(crate) expires: Vec<String>,
    /// Password; visible to other users of this machine, so rather use --password-stdin
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// Change roles, logins or traits of a user. What is not named stays.
///
/// What is taken away ends at once, live sessions included. For what is new the user logs in again.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["name", "username"]))]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["roles", "logins", "traits", "expires"]))]
pub(crate) struct UpdateUser {
    /// Name of the user
    pub(crate) name: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// All roles the user is to have
    #[arg(long, value_delimiter = ',', value_name = "ROLE,…")]
    pub(crate) roles: Option<Vec<String>>,
    /// All OS logins the user is to have; `--logins=` for none
    #[arg(long, value_delimiter = ',', value_name = "LOGIN,…")]
    pub(crate) logins: Option<Vec<String>>,
    /// A trait with all its values, `KEY=` to take it away; repeatable
    #[arg(long = "trait", value_name = "KEY=VALUE,…")]
    pub(crate) traits: Vec<String>,
    /// End of a role for this user, after a time (8h) or at one, `ROLE=` for none; repeatable
    #[arg(long, value_name = "ROLE=TIME")]
    pub(crate) expires: Vec<String>,
}

/// End a user's password and print an invitation to choose another, or set one.
///
/// Their logins, certificates and sessions end at once.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["name", "username"]))]
pub(crate) struct ResetPassword {
    /// Name of the user
    pub(crate) name: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password; visible to other users of this machine, so rather use --password-stdin
    #[arg(long, conflicts_with = "password_stdin")]
    pub(crate) password: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true).args(["name", "username"]))]
pub(crate) struct NamedUser {
    /// Name of the user
    pub(crate) name: Option<String>,
    /// The same as NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
}
