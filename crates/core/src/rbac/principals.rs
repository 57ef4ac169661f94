//! What a certificate may say: logins, validity, flags.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::Roles;
use super::outcome::{Denied, Reason};
use super::template::{Template, Variables};
use crate::error::Invalid;
use crate::identity::Flags;
use crate::kind::RoleSpec;
use crate::kind::user::Traits;
use crate::name;

/// Longest validity of a user certificate (F487).
pub const MAX_CERT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Most principals in a certificate (OpenSSH `SSHKEY_CERT_MAX_PRINCIPALS`).
pub const MAX_PRINCIPALS: usize = 256;

/// The logins a certificate may name: what the roles allow less what they deny, sorted. Empty for a user whose roles reach
/// no node; such a certificate opens no session anywhere.
///
/// # Errors
/// [`Denied`] when a role is missing, a deny rule cannot be evaluated, or there are more than [`MAX_PRINCIPALS`].
pub fn logins_for(user: &str, traits: &Traits, held: &[String], roles: &Roles) -> Result<Vec<String>, Denied> {
    let variables = Variables { user, traits };
    let mut allowed = BTreeSet::new();
    let mut denied = Vec::new();
    for (role, spec) in definitions(held, roles)? {
        allowed.extend(expand_logins(&spec.allow.logins, variables).unwrap_or_default());
        let deny = DeniedLogins::new(&spec.deny.logins, variables)
            .map_err(|e| refuse(Reason::DenyFailed { role: role.to_owned(), error: e.to_string() }))?;
        denied.push(deny);
    }
    allowed.retain(|login| !denied.iter().any(|deny| deny.hold(login)));
    if allowed.len() > MAX_PRINCIPALS {
        return Err(refuse(Reason::TooManyLogins));
    }
    Ok(allowed.into_iter().collect())
}

/// Validity of a certificate: `requested`, or `default` when the login asks for none, cut to the shortest
/// `max_session_ttl` that a role sets and to [`MAX_CERT_TTL`] (F429, F487).
///
/// # Errors
/// [`Denied`] when a role is missing.
pub fn certificate_ttl(
    held: &[String],
    roles: &Roles,
    requested: Option<Duration>,
    default: Duration,
) -> Result<Duration, Denied> {
    let caps = definitions(held, roles)?.into_iter().filter_map(|(_, spec)| spec.options.max_session_ttl);
    Ok(caps.chain([MAX_CERT_TTL, requested.unwrap_or(default)]).min().unwrap_or(default))
}

/// The standard flags of a certificate: a terminal always, forwarding when a role grants it (F516). They matter to the sshd
/// of agentless nodes; on agent nodes the permit decides.
///
/// # Errors
/// [`Denied`] when a role is missing.
pub fn certificate_flags(held: &[String], roles: &Roles) -> Result<Flags, Denied> {
    let mut flags = Flags { pty: true, ..Flags::default() };
    for (_, RoleSpec { options, .. }) in definitions(held, roles)? {
        flags.port_forwarding |= options.port_forwarding == Some(true);
        flags.agent_forwarding |= options.agent_forwarding == Some(true);
    }
    Ok(flags)
}

/// Whether a certificate is to be pinned to the address of the login: any role held may ask for it.
///
/// # Errors
/// [`Denied`] when a role is missing.
pub fn pins_certificates(held: &[String], roles: &Roles) -> Result<bool, Denied> {
    Ok(definitions(held, roles)?.into_iter().any(|(_, spec)| spec.options.pin_source_ip == Some(true)))
}

/// The definitions of all roles held: one that is missing denies, as its deny rules cannot be known.
fn definitions<'a>(held: &'a [String], roles: &'a Roles) -> Result<Vec<(&'a str, &'a RoleSpec)>, Denied> {
    let find = |role: &'a String| match roles.get(role) {
        Some(spec) => Ok((role.as_str(), spec)),
        None => Err(refuse(Reason::RoleMissing { role: role.clone() })),
    };
    held.iter().map(find).collect()
}

fn refuse(reason: Reason) -> Denied {
    Denied { reasons: vec![reason] }
}

/// Fills in the variables of allowed logins. What comes out of a trait and is no valid login is dropped.
pub(super) fn expand_logins(logins: &[String], variables: Variables<'_>) -> Result<BTreeSet<String>, Invalid> {
    let mut expanded = BTreeSet::new();
    for login in logins {
        let values = Template::parse(login)?.expand(variables);
        expanded.extend(values.into_iter().filter(|value| name::login(value).is_ok()));
    }
    Ok(expanded)
}

/// Denied logins: some, or all of them.
#[derive(Debug)]
pub(super) struct DeniedLogins {
    everyone: bool,
    names: BTreeSet<String>,
}

impl DeniedLogins {
    pub(super) fn new(logins: &[String], variables: Variables<'_>) -> Result<Self, Invalid> {
        let everyone = logins.iter().any(|login| login == "*");
        Ok(Self { everyone, names: expand_logins(logins, variables)? })
    }

    pub(super) fn hold(&self, login: &str) -> bool {
        self.everyone || self.names.contains(login)
    }
}
