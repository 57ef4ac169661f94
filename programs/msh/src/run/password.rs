//! `passwd` and `signup`.

use mezite_client::api::{InviteRequest, Invited, PasswordRequest};
use mezite_client::cli::{self, new_password, password};
use mezite_client::login::Hub;
use mezite_client::terminal::ask_secret;
use mezite_client::{Error, Result, error::invalid};
use mezite_core::Fault;
use mezite_core::text::escape_control;

use super::Context;
use super::login::CODE;
use crate::args::{Passwd, Signup};

const PATH: &str = "/v1/webapi/password";

pub(super) async fn change(context: &Context, args: &Passwd) -> Result<()> {
    let profile = context.profile()?;
    let old = password(None, args.password_stdin, "Old password: ").await?;
    let new = new_password(args.password_stdin).await?;
    let mut hub = context.session(&profile)?;
    let given = args.otp.as_deref().unwrap_or_default().trim();
    let request = PasswordRequest { old_password: &old, new_password: &new, otp: given };
    match hub.web.post_only(PATH, &request).await {
        Err(Error::Fault(Fault::MfaNeeded(_))) if given.is_empty() => {
            let otp = match args.password_stdin {
                true => cli::code(None, true, "").await?,
                false => ask_secret(CODE).await?,
            };
            hub.web.post_only(PATH, &PasswordRequest { otp: otp.trim(), ..request }).await?;
        }
        changed => changed?,
    }
    cli::print("Password changed; certificates of before are no longer good: run `msh login`\n")
}

pub(super) async fn signup(context: &Context, args: &Signup) -> Result<()> {
    let proxy = context.hub.proxy.clone();
    let proxy = proxy.ok_or_else(|| invalid("--proxy", "is missing; give the hub's address, as --proxy=HOST:3080"))?;
    let password = new_password(args.password_stdin).await?;
    let request = InviteRequest { token: &args.token, password: &password };
    let invited: Invited =
        Hub::stranger(proxy.clone(), context.trust()?)?.web.post("/v1/webapi/invite", &request).await?;
    let user = escape_control(&invited.username);
    cli::print(&format!("Password set; run `msh login --proxy={proxy} --user={user}`\n"))
}
