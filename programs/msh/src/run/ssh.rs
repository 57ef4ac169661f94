//! `ssh` and `proxy ssh`.

use std::io::IsTerminal;

use mezite_client::mfa_prompt::Codes;
use mezite_client::session::{self, Request};
use mezite_client::ssh_dial::{self, Dialer, Joined, Target};
use mezite_client::{Result, stdio};
use mezite_core::kind::role::JoinMode;
use mezite_core::text::escape_control;
use mezite_core::{Invalid, name};

use super::Context;
use crate::args::{Join, Ssh};

/// The answer is the remote exit status.
pub(super) async fn run(context: &Context, args: Ssh) -> Result<u8> {
    let profile = context.profile()?;
    let target = Target::parse(&args.target, args.login.as_deref(), &profile)?;
    let dialer = Dialer::new(&context.store, profile, context.trust()?)?;
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let wanted = args.terminal || (command.is_none() && std::io::stdin().is_terminal());
    let request = Request {
        command,
        terminal: wanted && !args.no_terminal,
        term: context.places.term.clone(),
        env: context.places.locale.clone(),
        foreign: false,
    };
    let (node, login) = dialer.node(&target, Codes::new(args.mfa_code)).await?;
    let status = session::run(&node, login, request).await;
    node.close().await;
    status
}

pub(super) async fn proxy(context: &Context, target: &str) -> Result<()> {
    let profile = context.profile()?;
    let target = Target::of_proxy_command(target, &profile)?;
    let dialer = Dialer::new(&context.store, profile, context.trust()?)?;
    // The connection lives as long as the channel is carried.
    let (proxy, channel) = dialer.channel(&target).await?;
    let carried = stdio::join(channel).await;
    // ssh knows only that its pipe broke.
    match ssh_dial::ended(&proxy) {
        Some(reason) => Err(reason),
        None => carried,
    }
}

/// Takes part in somebody else's session. The answer is 0 when it is over or left, 255 when this user was put out of it.
pub(super) async fn join(context: &Context, args: Join) -> Result<u8> {
    let Join { mode, mfa_code, session } = args;
    let mode = JoinMode::from(mode);
    if !name::is_uuid(&session) {
        return Err(Invalid::new("SESSION", "is not the id of a session; see `msh sessions ls --active`").into());
    }
    let profile = context.profile()?;
    let dialer = Dialer::new(&context.store, profile, context.trust()?)?;
    let Joined { outer, stream, owner, target } = dialer.session(&session).await?;
    let keys = match mode {
        JoinMode::Observer => "Ctrl-C leaves",
        JoinMode::Moderator => "Ctrl-C leaves, t ends the session",
        JoinMode::Peer => "what you type goes to the session, and ~. at the start of a line leaves",
    };
    let (owner, node, mode) = (escape_control(&owner), escape_control(&target.node), mode.as_str());
    eprintln!("msh: joining the session of {owner} on {node} as {mode}; {keys}");
    let (node, login) = dialer.through(outer, stream, &target, Codes::new(mfa_code));
    let request = Request {
        command: Some(mode.to_owned()),
        terminal: std::io::stdin().is_terminal(),
        term: context.places.term.clone(),
        env: Vec::new(),
        foreign: true,
    };
    let status = session::run(&node, login, request).await;
    node.close().await;
    status
}
