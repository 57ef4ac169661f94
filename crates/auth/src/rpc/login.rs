//! Login, session tokens, passwords, user certificates.

use std::time::Duration;

use mezite_core::audit::EventType;
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_proto::v1::*;
use mezite_ssh::key::PublicKey;
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::hub::Hub;
use crate::{issue, login};

pub(super) async fn ping(hub: &Hub, _: &Caller, _: PingRequest) -> Result<PingReply, Fault> {
    Ok(PingReply { cluster_name: hub.cluster().to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn authenticate_local(
    hub: &Hub,
    caller: &Caller,
    request: AuthenticateLocalRequest,
) -> Result<AuthenticateLocalReply, Fault> {
    let AuthenticateLocalRequest { username, password, otp } = request;
    let credentials = login::Credentials { username: &username, password: Zeroizing::new(password), otp: &otp };
    let session = login::by_password(hub, credentials, caller.client_ip).await?;
    Ok(AuthenticateLocalReply {
        session_id: session.token.to_string(),
        username,
        expires_unix: session.expires_at.unix_timestamp(),
    })
}

pub(super) async fn redeem_invite(
    hub: &Hub,
    caller: &Caller,
    request: RedeemInviteRequest,
) -> Result<RedeemInviteReply, Fault> {
    let password = Zeroizing::new(request.password);
    let username = login::redeem_invite(hub, caller, &request.token, password).await?;
    Ok(RedeemInviteReply { username })
}

pub(super) async fn logout(hub: &Hub, caller: &Caller, _: LogoutRequest) -> Result<LogoutReply, Fault> {
    let user = caller.user()?;
    let mut tx = hub.store.begin(clock::now()).await?;
    tx.revoke_login(&user.token).await?;
    tx.end_mfa_proofs(&user.name).await?;
    tx.audit(&caller.sign(hub.event(EventType::UserLogout))).await?;
    tx.commit().await?;
    Ok(LogoutReply {})
}

pub(super) async fn who_am_i(_: &Hub, caller: &Caller, _: WhoAmIRequest) -> Result<WhoAmIReply, Fault> {
    let user = caller.user()?;
    Ok(WhoAmIReply {
        username: user.name.clone(),
        roles: user.roles.clone(),
        expires_unix: user.expires_unix,
        admin: user.is_admin(),
        auditor: user.is_auditor(),
    })
}

pub(super) async fn issue_user_certs(
    hub: &Hub,
    caller: &Caller,
    request: IssueUserCertsRequest,
) -> Result<IssueUserCertsReply, Fault> {
    let key =
        PublicKey::from_wire(&request.ssh_public_key).map_err(|e| Invalid::new("ssh_public_key", e.to_string()))?;
    let ttl = (request.ttl_seconds > 0).then(|| Duration::from_secs(request.ttl_seconds.into()));
    let user = caller.user()?;
    let issued = issue::user::issue(hub, user, &caller.client_ip.to_string(), key, ttl).await?;
    let trust = hub.authorities.trust();
    Ok(IssueUserCertsReply {
        ssh_certificate: issued.certificate.to_openssh(&user.name),
        host_authorities: trust.host_authorities,
        user_authorities: trust.user_authorities,
        tls_ca_pem: trust.tls_ca_pem,
        cluster_name: hub.cluster().to_owned(),
        valid_before_unix: issued.certificate.valid_before.cast_signed(),
        logins: issued.logins,
    })
}

pub(super) async fn change_password(
    hub: &Hub,
    caller: &Caller,
    request: ChangePasswordRequest,
) -> Result<ChangePasswordReply, Fault> {
    let ChangePasswordRequest { old_password, new_password, otp } = request;
    let username = &caller.user()?.name;
    let credentials = login::Credentials { username, password: Zeroizing::new(old_password), otp: &otp };
    login::change_password(hub, caller, credentials, Zeroizing::new(new_password)).await?;
    Ok(ChangePasswordReply {})
}
