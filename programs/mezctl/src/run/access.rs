//! `login` and `logout`.

use mezite_client::admin::{refused, refused_login};
use mezite_client::cli;
use mezite_client::terminal::ask_secret;
use mezite_client::{Error, Result};
use mezite_core::Fault;
use mezite_core::text::escape_control;
use mezite_proto::v1;

use super::Context;
use crate::args::Login;

pub(super) async fn login(mut context: Context, args: Login) -> Result<()> {
    let prompt = format!("Password of {}: ", escape_control(&args.username));
    let password = cli::password(args.password, args.password_stdin, &prompt).await?;
    let mut request = v1::AuthenticateLocalRequest {
        username: args.username,
        password: password.to_string(),
        otp: args.otp.clone().unwrap_or_default(),
    };
    let mut reply = context.admin.auth.authenticate_local(request.clone()).await.map_err(refused_login);
    if let (Err(Error::Fault(Fault::MfaNeeded(_))), None) = (&reply, &args.otp) {
        request.otp = match args.password_stdin {
            true => cli::code(None, true, "").await?.to_string(),
            false => ask_secret("Code of your authenticator: ").await?.to_string(),
        };
        reply = context.admin.auth.authenticate_local(request).await.map_err(refused_login);
    }
    let reply = reply?.into_inner();
    cli::print(&format!("{}\n", reply.session_id))
}

pub(super) async fn logout(mut context: Context) -> Result<()> {
    let request = context.admin.request(v1::LogoutRequest {})?;
    context.admin.auth.logout(request).await.map_err(refused)?;
    Ok(())
}
