//! `tokens`.

use mezite_client::Result;
use mezite_client::admin::refused;
use mezite_client::cli::{self, Format, Ttl};
use mezite_client::error::invalid;
use mezite_core::kind::{Kind, Token};
use mezite_core::text::{Table, escape_control};
use mezite_core::{labels, when};
use mezite_proto::v1::{self, Object};
use serde_json::json;

use super::{Context, moment, records, spec};
use crate::args::Tokens;

pub(super) async fn run(mut context: Context, command: Tokens) -> Result<()> {
    match command {
        Tokens::Create { roles, ttl, name, labels } => create(context, roles, ttl, name, &labels).await,
        Tokens::List => {
            let tokens = context.admin.list(Token::KIND).await?;
            context.format.print(&records(&tokens), |_| table(&tokens))
        }
        Tokens::Delete { doomed } => {
            context.admin.delete(Token::KIND, &doomed).await?;
            cli::print(&format!("Token {} deleted\n", escape_control(&doomed)))
        }
    }
}

fn table(tokens: &[Object]) -> Table {
    let mut table = Table::new(&["NAME", "ROLES", "EXPIRES", "LABELS"]);
    for token in tokens {
        match spec::<Token>(token) {
            Ok(spec) => {
                let roles: Vec<&str> = spec.roles.iter().map(|role| role.as_str()).collect();
                let expires = when::seconds(spec.expires);
                table.row([token.name.clone(), roles.join(","), expires, labels::print(&spec.labels)]);
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
        "token": token.token, "id": token.id, "roles": token.roles, "expires": expires, "ca_pin": token.ca_pin,
    });
    context.format.print_text(&record, |_| {
        format!("Token created: {} (roles: {}, expires: {expires})\n", token.token, token.roles.join(","))
    })?;
    if context.format == Format::Text && !token.ca_pin.is_empty() {
        eprintln!(
            "For the agent to know this hub before it sends the token: MEZITE_CA_PIN={}",
            escape_control(&token.ca_pin)
        );
    }
    Ok(())
}
