//! `login`, `logout`, `status`.

use std::path::Path;

use mezite_client::cli::password;
use mezite_client::error::invalid;
use mezite_client::login::{Hub, Outcome};
use mezite_client::profile::write_identity;
use mezite_client::{Error, Result, cli};
use mezite_core::text::escape_control;
use mezite_core::{Fault, when};
use mezite_net::clock;
use mezite_ssh::cert::Certificate;
use serde_json::json;
use time::OffsetDateTime;

use super::Context;
use crate::args::{Login, Output};

/// What is asked for at the terminal.
pub(super) const CODE: &str = "Code of your authenticator: ";

pub(super) async fn login(context: &Context, args: Login) -> Result<()> {
    if args.hardware_key {
        return Err(Error::Local(
            "no hardware key implementation available; real PIV support not yet built".to_owned(),
        ));
    }
    if let Some(connector) = &args.auth {
        let name = escape_control(connector);
        return Err(Fault::NotFound(format!("no such connector {name}; log in with --user and a password")).into());
    }
    let last = context.store.load(context.hub.proxy.as_ref()).ok();
    let proxy = context.hub.proxy.clone().or_else(|| last.as_ref().map(|profile| profile.proxy.clone()));
    let proxy = proxy.ok_or_else(|| invalid("--proxy", "is missing; give the hub's address, as --proxy=HOST:3080"))?;
    let mut trust = context.trust()?;
    if let Some(last) = last.as_ref().filter(|last| last.proxy == proxy) {
        trust.add(&last.tls_ca_pem);
    }
    let user = args.user.clone().or_else(|| last.map(|profile| profile.user));
    let user = user.ok_or_else(|| invalid("--user", "is missing; give your Mezite user, as --user=NAME"))?;
    if trust.insecure {
        eprintln!("msh: warning: --insecure, the certificate of {proxy} is not verified");
    }
    let prompt = format!("Password of {} at {proxy}: ", escape_control(&user));
    let password = password(args.password, args.password_stdin, &prompt).await?;
    let ttl = args.ttl.map(|ttl| ttl.0);
    let mut hub = Hub::stranger(proxy, trust)?;
    let outcome = match hub.login(&user, &password, args.otp.as_deref().unwrap_or_default(), ttl).await {
        // Asked for when the hub says so: most users know by then whether they have one.
        Err(Error::Fault(Fault::MfaNeeded(_))) if args.otp.is_none() => {
            let otp = if args.password_stdin {
                cli::code(None, true, "").await?
            } else {
                mezite_client::terminal::ask_secret(CODE).await?
            };
            hub.login(&user, &password, &otp, ttl).await?
        }
        outcome => outcome?,
    };
    match &args.out {
        Some(path) => write_out(path, &outcome),
        None => keep(context, &outcome),
    }
}

fn keep(context: &Context, outcome: &Outcome) -> Result<()> {
    let profile = &outcome.profile;
    context.store.save(profile, &outcome.session, &outcome.identity)?;
    let until = moment(outcome.identity.certificate.valid_before);
    let (user, cluster) = (escape_control(&profile.user), escape_control(&profile.cluster));
    cli::print(&format!("Logged in to {cluster} ({}) as {user} until {until}\n", profile.proxy))
}

fn write_out(path: &Path, outcome: &Outcome) -> Result<()> {
    write_identity(path, &outcome.identity, &outcome.profile.user)?;
    let (until, path) = (moment(outcome.identity.certificate.valid_before), path.display());
    cli::print(&format!("Wrote {path} and {path}-cert.pub, valid until {until}; use them with ssh -i {path}\n"))
}

/// The local files go even when the hub cannot be told; then that is said.
pub(super) async fn logout(context: &Context) -> Result<()> {
    let profile = context.profile()?;
    let told = match context.session(&profile) {
        Ok(mut hub) => hub.logout().await,
        Err(error) => Err(error),
    };
    context.store.remove(&profile)?;
    match told {
        Ok(()) | Err(Error::Fault(Fault::NotLoggedIn(_))) => cli::print(&format!("Logged out of {}\n", profile.proxy)),
        Err(error) => Err(Error::Local(format!(
            "the key and session here are removed, but the hub was not told, so its session ends at {}: {error}",
            seconds(profile.session_expires)
        ))),
    }
}

pub(super) fn status(context: &Context, args: &Output) -> Result<()> {
    let profile = context.profile()?;
    let certificate = context.store.identity(&profile)?.certificate;
    let expired = certificate.valid_before <= clock::now_unix();
    let record = json!({
        "proxy": profile.proxy, "cluster": profile.cluster, "user": profile.user, "logins": certificate.principals,
        "ssh_addr": profile.ssh_addr, "valid_from": moment(certificate.valid_after),
        "valid_until": moment(certificate.valid_before), "valid": !expired,
        "session_until": seconds(profile.session_expires),
    });
    args.format.print_text(&record, |_| {
        let state = if expired { "expired" } else { "valid" };
        let rows = [
            ("Proxy", profile.proxy.to_string()),
            ("Cluster", profile.cluster.clone()),
            ("User", profile.user.clone()),
            ("Logins", certificate.principals.join(", ")),
            (
                "Certificate",
                format!(
                    "{state}, from {} until {}{}",
                    moment(certificate.valid_after),
                    moment(certificate.valid_before),
                    left(&certificate)
                ),
            ),
            ("Session", format!("until {}", seconds(profile.session_expires))),
        ];
        rows.iter().map(|(name, value)| format!("{name:<12} {}\n", escape_control(value))).collect()
    })?;
    if expired {
        Err(Error::Fault(Fault::NotLoggedIn("the certificate has expired; run `msh login`".into())))
    } else {
        Ok(())
    }
}

/// ` (5h12m left)`, or nothing once expired.
fn left(certificate: &Certificate) -> String {
    let minutes = certificate.valid_before.saturating_sub(clock::now_unix()) / 60;
    if minutes == 0 { String::new() } else { format!(" ({}h{:02}m left)", minutes / 60, minutes % 60) }
}

/// RFC 3339 of unix seconds; `forever` for the end that OpenSSH writes as the largest number.
fn moment(unix: u64) -> String {
    i64::try_from(unix).map_or_else(|_| "forever".to_owned(), seconds)
}

pub(super) fn seconds(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix).map_or_else(|_| "forever".to_owned(), when::seconds)
}
