//! `users`.

use std::collections::BTreeMap;

use mezite_client::address::{Address, WEB_PORT};
use mezite_client::admin::refused;
use mezite_client::cli;
use mezite_client::error::invalid;
use mezite_client::{Error, Result};
use mezite_core::kind::{Kind, User, UserSpec};
use mezite_core::text::{Table, escape_control};
use mezite_core::{duration, name, when};
use mezite_net::clock;
use mezite_proto::v1::{self, Object};
use serde_json::{Value, json};

use super::{Context, either, encode, force, moment, record, records, spec};
use crate::args::{CreateUser, ResetPassword, UpdateUser, Users};

/// The trait that role templates know as `{{internal.logins}}`.
const LOGINS: &str = "logins";

pub(super) async fn run(mut context: Context, command: Users) -> Result<()> {
    match command {
        Users::Create(args) => create(context, args).await,
        Users::List => {
            let users = context.admin.list(User::KIND).await?;
            context.format.print(&records(&users), |_| table(&users))
        }
        Users::Get { name } => {
            let user = context.admin.get(User::KIND, &name).await?;
            context.format.print(&record(&user), |_| table(std::slice::from_ref(&user)))
        }
        Users::Update(args) => update(context, args).await,
        Users::ResetPassword(args) => reset_password(context, args).await,
        Users::ListMfa { name } => list_mfa(context, name).await,
        Users::ResetTotp { name } => reset_totp(context, name).await,
        Users::Delete(args) => {
            let name = either(args.name, args.username)?;
            let revision = context.admin.delete(User::KIND, &name).await?;
            force::wait(&mut context, revision).await;
            cli::print(&format!("User {} deleted\n", escape_control(&name)))
        }
    }
}

fn table(users: &[Object]) -> Table {
    let mut table = Table::new(&["USER", "ROLES", "LOGINS", "TRAITS"]);
    for user in users {
        match spec::<User>(user) {
            Ok(spec) => {
                let others = spec.traits.iter().filter(|(key, _)| *key != LOGINS);
                let others = others.map(|(key, values)| format!("{key}={}", values.join("|")));
                let logins = spec.traits.get(LOGINS).map(|logins| logins.join(",")).unwrap_or_default();
                let role = |role: &String| match spec.expires.get(role) {
                    Some(end) => format!("{role} (until {})", when::seconds(*end)),
                    None => role.clone(),
                };
                let roles = spec.roles.iter().map(role).collect::<Vec<_>>();
                table.row([user.name.clone(), roles.join(","), logins, others.collect::<Vec<_>>().join(",")]);
            }
            Err(error) => table.row([user.name.clone(), format!("unreadable: {error}")]),
        }
    }
    table
}

async fn create(mut context: Context, args: CreateUser) -> Result<()> {
    let name = either(args.name, args.username)?;
    let mut user = UserSpec { roles: args.roles, ..UserSpec::default() };
    change(&mut user, None, Some(args.logins).filter(|logins| !logins.is_empty()), &args.traits)?;
    expire(&mut user, &args.expires)?;
    User::validate(&name, &user)?;
    let password = given_password(args.password, args.password_stdin).await?;
    let request = v1::CreateUserRequest { name: name.clone(), spec: encode(&user)?, password };
    let request = context.admin.request(request)?;
    let reply = context.admin.auth.create_user(request).await.map_err(refused)?.into_inner();
    let answer = reply.user.as_ref().map(record).unwrap_or_default();
    let done = format!("User {name} created (roles: {})", user.roles.join(","));
    let invite = Invite {
        token: reply.invite_token,
        expires: moment(reply.invite_expires_unix),
        proxy: at(&context, reply.proxy_addr),
    };
    invite.print(&context, answer, &done)
}

/// The spec is written against the revision that was read: a change in between is a conflict, not lost.
async fn update(mut context: Context, args: UpdateUser) -> Result<()> {
    let name = either(args.name, args.username)?;
    let user = context.admin.get(User::KIND, &name).await?;
    let mut changed = spec::<User>(&user).map_err(Error::Local)?;
    change(&mut changed, args.roles, args.logins, &args.traits)?;
    expire(&mut changed, &args.expires)?;
    User::validate(&user.name, &changed)?;
    let stored = context.admin.put(User::KIND, &user.name, encode(&changed)?, Some(user.revision)).await?;
    force::wait(&mut context, stored.revision).await;
    context.format.print(&record(&stored), |_| table(std::slice::from_ref(&stored)))
}

async fn reset_password(mut context: Context, args: ResetPassword) -> Result<()> {
    let name = either(args.name, args.username)?;
    let password = given_password(args.password, args.password_stdin).await?;
    let request = context.admin.request(v1::ResetPasswordRequest { name: name.clone(), password })?;
    let reply = context.admin.auth.reset_password(request).await.map_err(refused)?.into_inner();
    force::wait(&mut context, reply.revision).await;
    let done = format!(
        "Password of {} {}",
        escape_control(&name),
        if reply.invite_token.is_empty() { "set" } else { "ended" }
    );
    let invite = Invite {
        token: reply.invite_token,
        expires: moment(reply.invite_expires_unix),
        proxy: at(&context, reply.proxy_addr),
    };
    invite.print(&context, json!({ "name": name }), &done)
}

async fn list_mfa(mut context: Context, user: String) -> Result<()> {
    let request = context.admin.request(v1::ListMfaRequest { user })?;
    let factors = context.admin.auth.list_mfa(request).await.map_err(refused)?.into_inner().factors;
    let used = |factor: &v1::MfaFactor| match factor.last_used_unix {
        0 => "never".to_owned(),
        at => moment(at),
    };
    let records = factors.iter().map(|factor| {
        let (added, last_used) = (moment(factor.added_unix), used(factor));
        json!({ "name": factor.name, "type": factor.r#type, "added": added, "last_used": last_used })
    });
    context.format.print(&records.collect::<Vec<_>>(), |_| {
        let mut table = Table::new(&["NAME", "TYPE", "ADDED", "LAST USED"]);
        for factor in &factors {
            table.row([factor.name.clone(), factor.r#type.clone(), moment(factor.added_unix), used(factor)]);
        }
        table
    })
}

async fn reset_totp(mut context: Context, name: String) -> Result<()> {
    let request = context.admin.request(v1::ResetMfaRequest { user: name.clone(), r#type: "totp".to_owned() })?;
    let removed = context.admin.auth.reset_mfa(request).await.map_err(refused)?.into_inner().removed;
    let shown = escape_control(&name);
    context.format.print_text(&json!({ "name": name, "removed": removed }), |_| match removed {
        0 => format!("{shown} has no TOTP factor\n"),
        1 => format!("TOTP factor of {shown} removed\n"),
        more => format!("{more} TOTP factors of {shown} removed\n"),
    })
}

/// Empty for none: the hub then makes an invitation.
async fn given_password(flag: Option<String>, stdin: bool) -> Result<String> {
    match (flag, stdin) {
        (None, false) => Ok(String::new()),
        (flag, stdin) => Ok(cli::password(flag, stdin, "").await?.to_string()),
    }
}

/// Where an invitation is redeemed: what the hub says, else the host of Auth.
fn at(context: &Context, told: String) -> String {
    if told.is_empty() { Address { host: context.address.host.clone(), port: WEB_PORT }.to_string() } else { told }
}

/// An invitation; without a token there is none.
struct Invite {
    token: String,
    expires: String,
    proxy: String,
}

impl Invite {
    fn print(&self, context: &Context, mut record: Value, done: &str) -> Result<()> {
        if let (Some(fields), false) = (record.as_object_mut(), self.token.is_empty()) {
            fields.insert("invite_token".into(), json!(self.token));
            fields.insert("invite_expires".into(), json!(self.expires));
        }
        context.format.print_text(&record, |_| match self.token.as_str() {
            "" => format!("{done}\n"),
            token => format!(
                "{done}\nInvitation, for one use until {}:\n  msh signup --proxy={} --token={token}\n",
                self.expires,
                escape_control(&self.proxy)
            ),
        })
    }
}

/// Puts what was named into the spec; an empty word names nothing.
fn change(
    user: &mut UserSpec,
    roles: Option<Vec<String>>,
    logins: Option<Vec<String>>,
    given: &[String],
) -> Result<()> {
    let named = |words: Vec<String>| words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>();
    if let Some(roles) = roles {
        user.roles = named(roles);
    }
    let mut traits = traits(given)?;
    if let Some(logins) = logins {
        traits.insert(LOGINS.to_owned(), named(logins));
    }
    for login in traits.get(LOGINS).into_iter().flatten() {
        name::login(login).map_err(|error| invalid("--logins", format!("{login:?} {}", error.message)))?;
    }
    for (key, values) in traits {
        match values.is_empty() {
            true => user.traits.remove(&key),
            false => user.traits.insert(key, values),
        };
    }
    Ok(())
}

/// `--expires ROLE=8h`, `ROLE=2026-03-24T15:00:00Z`, `ROLE=` for no end. Ends of roles that the user has no more go.
fn expire(user: &mut UserSpec, given: &[String]) -> Result<()> {
    user.expires.retain(|role, _| user.roles.contains(role));
    for text in given {
        let refuse = |why: &str| invalid("--expires", format!("{text:?} {why}"));
        let (role, end) = text.split_once('=').ok_or_else(|| refuse("is not of the form ROLE=TIME"))?;
        if !user.roles.iter().any(|held| held == role) {
            return Err(refuse("names no role of the user"));
        }
        let end = match (end, duration::parse(end)) {
            ("", _) => {
                user.expires.remove(role);
                continue;
            }
            (_, Ok(span)) => clock::now() + span,
            (end, Err(_)) => {
                when::parse(end).map_err(|_| refuse("has neither a duration (8h) nor a time (2026-03-24T15:00:00Z)"))?
            }
        };
        user.expires.insert(role.to_owned(), end);
    }
    Ok(())
}

/// `--trait k=v1,v2`, repeatable.
fn traits(given: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut traits = BTreeMap::new();
    for text in given {
        let (key, values) = text
            .split_once('=')
            .ok_or_else(|| invalid("--trait", format!("{text:?} is not of the form KEY=VALUE,…")))?;
        let values = values.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect();
        if traits.insert(key.to_owned(), values).is_some() {
            return Err(invalid("--trait", format!("{key} is given twice")));
        }
    }
    Ok(traits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split(',').map(str::to_owned).collect())
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut user = UserSpec::default();
        change(&mut user, words("dev"), words("bob,root"), &["team=a,b".into(), "x=1".into()]).unwrap();
        change(&mut user, None, None, &["x=".into()]).unwrap();
        assert_eq!((user.roles.as_slice(), user.traits.len()), (&["dev".to_owned()][..], 2));
        change(&mut user, words(""), words(""), &[]).unwrap();
        assert_eq!((user.roles.len(), user.traits.keys().map(String::as_str).collect::<Vec<_>>()), (0, vec!["team"]));
        expire(&mut user, &[]).unwrap();
        let bad = change(&mut user, None, words("a b"), &[]).unwrap_err().to_string();
        assert!(bad.starts_with("--logins: \"a b\" must not hold ' '"), "{bad}");
    }

    #[test]
    fn a_role_is_given_an_end_and_loses_it() {
        let mut user = UserSpec { roles: vec!["dev".into(), "ops".into()], ..UserSpec::default() };
        let begin = clock::now();
        expire(&mut user, &["dev=8h".into(), "ops=2026-03-24T15:00:00Z".into()]).unwrap();
        assert!((user.expires["dev"] - begin).whole_hours() == 8);
        assert_eq!(when::seconds(user.expires["ops"]), "2026-03-24T15:00:00Z");
        expire(&mut user, &["ops=".into()]).unwrap();
        assert_eq!(user.expires.keys().collect::<Vec<_>>(), ["dev"]);
        for bad in ["dev", "dev=soon", "db=8h"] {
            let error = expire(&mut user, &[bad.into()]).unwrap_err().to_string();
            assert!(error.starts_with("--expires: "), "{error}");
        }
        user.roles.remove(0);
        expire(&mut user, &[]).unwrap();
        assert!(user.expires.is_empty(), "it went with its role");
    }
}
