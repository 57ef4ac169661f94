//! `passwd` and `signup`.

use mezite_client::api::{InviteRequest, Invited, PasswordRequest};
use mezite_client::cli::{self, new_password, password};
use mezite_client::login::Hub;
use mezite_client::{Result, error::invalid};
use mezite_core::text::escape_control;

use super::Context;
use crate::args::{Passwd, Signup};

pub(super) async fn change(context: &Context, args: &Passwd) -> Result<()> {
    let profile = context.profile()?;
    let old = password(None, args.password_stdin, "Old password: ").await?;
    let new = new_password(args.password_stdin).await?;
    let request = PasswordRequest { old_password: &old, new_password: &new };
    context.session(&profile)?.web.post_only("/v1/webapi/password", &request).await?;
    cli::print("Password changed\n")
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
