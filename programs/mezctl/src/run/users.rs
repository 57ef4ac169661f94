//! `users`.

use std::collections::BTreeMap;

use mezite_client::Result;
use mezite_client::address::{Address, WEB_PORT};
use mezite_client::admin::refused;
use mezite_client::cli;
use mezite_client::error::invalid;
use mezite_core::kind::{Kind, User, UserSpec};
use mezite_core::text::{Table, escape_control};
use mezite_proto::v1::{self, Object};
use serde_json::json;

use super::{Context, either, encode, moment, record, records, spec};
use crate::args::{CreateUser, Users};

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
        Users::Delete(args) => {
            let name = either(args.name, args.username)?;
            context.admin.delete(User::KIND, &name).await?;
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
                table.row([user.name.clone(), spec.roles.join(","), logins, others.collect::<Vec<_>>().join(",")]);
            }
            Err(error) => table.row([user.name.clone(), format!("unreadable: {error}")]),
        }
    }
    table
}

async fn create(mut context: Context, args: CreateUser) -> Result<()> {
    let name = either(args.name, args.username)?;
    let mut traits = traits(&args.traits)?;
    if !args.logins.is_empty() {
        traits.insert(LOGINS.to_owned(), args.logins);
    }
    let user = UserSpec { roles: args.roles, traits };
    User::validate(&name, &user)?;
    let password = match (args.password, args.password_stdin) {
        (None, false) => String::new(),
        (flag, stdin) => cli::password(flag, stdin, "").await?.to_string(),
    };
    let request = v1::CreateUserRequest { name: name.clone(), spec: encode(&user)?, password };
    let request = context.admin.request(request)?;
    let reply = context.admin.auth.create_user(request).await.map_err(refused)?.into_inner();
    let mut answer = reply.user.as_ref().map(record).unwrap_or_default();
    if let (Some(fields), false) = (answer.as_object_mut(), reply.invite_token.is_empty()) {
        fields.insert("invite_token".into(), json!(reply.invite_token));
        fields.insert("invite_expires".into(), json!(moment(reply.invite_expires_unix)));
    }
    let proxy = match reply.proxy_addr.as_str() {
        "" => Address { host: context.address.host, port: WEB_PORT }.to_string(),
        given => escape_control(given).into_owned(),
    };
    context.format.print_text(&answer, |_| {
        let mut text = format!("User {name} created (roles: {})\n", user.roles.join(","));
        if !reply.invite_token.is_empty() {
            text.push_str(&format!(
                "Invitation, for one use until {}:\n  msh signup --proxy={proxy} --token={}\n",
                moment(reply.invite_expires_unix),
                reply.invite_token
            ));
        }
        text
    })
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
