//! `login` and `logout`.

use mezite_client::Result;
use mezite_client::admin::{refused, refused_login};
use mezite_client::cli;
use mezite_core::text::escape_control;
use mezite_proto::v1;

use super::Context;
use crate::args::Login;

pub(super) async fn login(mut context: Context, args: Login) -> Result<()> {
    let prompt = format!("Password of {}: ", escape_control(&args.username));
    let password = cli::password(args.password, args.password_stdin, &prompt).await?;
    let request = v1::AuthenticateLocalRequest { username: args.username, password: password.to_string() };
    let reply = context.admin.auth.authenticate_local(request).await.map_err(refused_login)?.into_inner();
    cli::print(&format!("{}\n", reply.session_id))
}

pub(super) async fn logout(mut context: Context) -> Result<()> {
    let request = context.admin.request(v1::LogoutRequest {})?;
    context.admin.auth.logout(request).await.map_err(refused)?;
    Ok(())
}
