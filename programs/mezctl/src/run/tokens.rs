//! `tokens`.

use mezite_client::Result;
use mezite_client::admin::refused;
use mezite_client::cli::{self, Format, Ttl};
use mezite_client::error::invalid;
use mezite_core::kind::{Kind, Token};
use mezite_core::text::{Table, escape_control};
use mezite_core::{labels, when};
use mezite_proto::v1::{self, Object};
use serde_json::{Value, json};

use super::{Context, moment, records, spec, status};
use crate::args::Tokens;

pub(super) async fn run(mut context: Context, command: Tokens) -> Result<()> {
    match command {
        Tokens::Create { roles, ttl, name, labels } => create(context, roles, ttl, name, &labels).await,
        Tokens::List => {
            let tokens = context.admin.list(Token::KIND).await?;
            context.format.print(&records(&tokens), |_| table(&tokens))
        }
        Tokens::Delete { doomed } => {
            let name = listed_as(&doomed);
            context.admin.delete(Token::KIND, name).await?;
            cli::print(&format!("Token {} deleted\n", escape_control(name)))
        }
    }
}

/// The name of a token that was made without one begins it, so the secret itself is never sent where a name belongs.
fn listed_as(given: &str) -> &str {
    let is_secret = given.len() == 64 && given.bytes().all(|b| b.is_ascii_hexdigit());
    given.get(..12).filter(|_| is_secret).unwrap_or(given)
}

fn table(tokens: &[Object]) -> Table {
    let mut table = Table::new(&["NAME", "ROLES", "EXPIRES", "LABELS", "ID"]);
    for token in tokens {
        match spec::<Token>(token) {
            Ok(spec) => {
                let roles: Vec<&str> = spec.roles.iter().map(|role| role.as_str()).collect();
                let expires = when::seconds(spec.expires);
                let id = status(token).get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
                table.row([token.name.clone(), roles.join(","), expires, labels::print(&spec.labels), id]);
            }
            Err(error) => table.row([token.name.clone(), format!("unreadable: {error}")]),
        }
    }
    table
}

/// The documented line stands alone on standard output (F016), so that scripts can cut it.
async fn create(mut context: Context, roles: Vec<String>, ttl: Ttl, name: Option<String>, labels: &str) -> Result<()> {
    let ttl_seconds = u32::try_from(ttl.0.as_secs()).map_err(|_| invalid("--ttl", "is too long"))?;
    let labels = labels::parse(labels)?.into_iter().collect();
    let request = v1::CreateTokenRequest { roles, ttl_seconds, name: name.unwrap_or_default(), labels };
    let request = context.admin.request(request)?;
    let token = context.admin.auth.create_token(request).await.map_err(refused)?.into_inner();
    let expires = moment(token.expires_unix);
    let record = json!({
        "token": token.token, "name": token.name, "id": token.id, "roles": token.roles, "expires": expires, "ca_pin": token.ca_pin,
    });
    context.format.print_text(&record, |_| {
        format!("Token created: {} (roles: {}, expires: {expires})\n", token.token, token.roles.join(","))
    })?;
    if context.format == Format::Text {
        let (name, pin) = (escape_control(&token.name), escape_control(&token.ca_pin));
        eprintln!("Listed by `mezctl tokens ls` as {name}");
        eprintln!("For the agent to know this hub before it sends the token: MEZITE_CA_PIN={pin}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_given_whole_is_deleted_by_its_name() {
        let secret = "13b16d66b335b0843060ce7a648de3da2f1aef8f063e4b4cdabe2b49a4071f1c";
        assert_eq!(listed_as(secret), "13b16d66b335");
        for name in ["web", "13b16d66b335", "00af0270-fbf7-4edd-8868-d6d0622feae2", &"x".repeat(64)] {
            assert_eq!(listed_as(name), name);
        }
    }
}
