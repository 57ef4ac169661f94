//! `ssh` and `proxy ssh`.

use std::io::IsTerminal;

use mezite_client::mfa_prompt::Codes;
use mezite_client::session::{self, Request};
use mezite_client::ssh_dial::{self, Dialer, Target};
use mezite_client::{Result, stdio};

use super::Context;
use crate::args::Ssh;

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
