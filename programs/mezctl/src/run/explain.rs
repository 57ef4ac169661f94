//! `access`, and `roles create --dry-run`.

use std::fmt::Write;
use std::time::Duration;

use mezite_client::Result;
use mezite_client::admin::refused;
use mezite_core::text::{Table, escape_control};
use mezite_core::{duration, when};
use mezite_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::args::Access;

pub(super) async fn run(context: Context, command: Access) -> Result<()> {
    match command {
        Access::Explain { user, node, login, at } => {
            explain(context, v1::ExplainAccessRequest { user, node, login, at_unix: unix(at)? }).await
        }
        Access::WhoCan { node, login, at } => {
            who_can(context, v1::WhoCanRequest { node, login, at_unix: unix(at)? }).await
        }
    }
}

/// Unix seconds; none for the present moment.
fn unix(at: Option<String>) -> Result<Option<i64>> {
    let Some(at) = at else { return Ok(None) };
    Ok(Some(when::parse(&at).map_err(|error| error.within("--at"))?.unix_timestamp()))
}

async fn explain(mut context: Context, asked: v1::ExplainAccessRequest) -> Result<()> {
    let request = context.admin.request(asked.clone())?;
    let answer = context.admin.auth.explain_access(request).await.map_err(refused)?.into_inner();
    let findings = answer.findings.iter();
    let findings: Vec<Value> =
        findings.map(|f| json!({ "role": f.role, "rule": f.rule, "outcome": f.outcome })).collect();
    let mut record = json!({
        "user": asked.user, "node": answer.node_name, "login": asked.login, "allowed": answer.allowed,
        "reasons": answer.reasons, "needs": answer.needs, "findings": findings,
    });
    if let (Some(fields), true) = (record.as_object_mut(), answer.allowed) {
        fields.insert("roles".into(), json!(answer.roles));
        fields.insert("max_session_ttl".into(), json!(ttl(&answer)));
        fields.insert("port_forwarding".into(), json!(answer.port_forwarding));
        fields.insert("file_copy".into(), json!(answer.file_copy));
        fields.insert("recorded".into(), json!(answer.recorded));
    }
    context.format.print_text(&record, |_| explanation(&asked, &answer))
}

fn ttl(answer: &v1::ExplainAccessReply) -> String {
    duration::print(Duration::from_secs(answer.max_session_seconds))
}

fn explanation(asked: &v1::ExplainAccessRequest, answer: &v1::ExplainAccessReply) -> String {
    let verb = if answer.allowed { "may" } else { "may not" };
    let login = if asked.login.is_empty() { String::new() } else { format!(" as {}", escape_control(&asked.login)) };
    let (user, node) = (escape_control(&asked.user), escape_control(&answer.node_name));
    let mut text = format!("{user} {verb} log in to {node}{login}\n");
    for reason in &answer.reasons {
        let _ = writeln!(text, "  {}", escape_control(reason));
    }
    if answer.allowed {
        let yes = |flag: bool, what: &str| format!("{}{what}", if flag { "" } else { "no " });
        let session = [
            format!("at most {}", ttl(answer)),
            if answer.recorded { "recorded".to_owned() } else { "not recorded".to_owned() },
            yes(answer.port_forwarding, "port forwarding"),
            yes(answer.file_copy, "file copy"),
        ];
        let _ = writeln!(text, "  granted by: {}\n  session: {}", answer.roles.join(", "), session.join(", "));
    }
    if !answer.needs.is_empty() {
        let _ = writeln!(text, "  asked for: {}", escape_control(&answer.needs));
    }
    let mut table = Table::new(&["ROLE", "RULE", "OUTCOME"]);
    for finding in &answer.findings {
        table.row([&finding.role, &finding.rule, &finding.outcome]);
    }
    let _ = write!(text, "\n{table}");
    text
}

async fn who_can(mut context: Context, asked: v1::WhoCanRequest) -> Result<()> {
    let request = context.admin.request(asked)?;
    let users = context.admin.auth.who_can(request).await.map_err(refused)?.into_inner().users;
    let record = |user: &v1::UserAccess| json!({ "user": user.user, "logins": user.logins, "roles": user.roles, "needs": user.needs });
    let records: Vec<Value> = users.iter().map(record).collect();
    context.format.print(&records, |_| {
        let mut table = Table::new(&["USER", "LOGINS", "GRANTED BY", "ASKED FOR"]);
        for user in &users {
            table.row([user.user.clone(), user.logins.join(","), user.roles.join(","), user.needs.clone()]);
        }
        table
    })
}

/// Shows what writing the role would change.
pub(super) async fn preview(mut context: Context, name: String, spec: Vec<u8>) -> Result<()> {
    let request = context.admin.request(v1::PreviewRoleRequest { name: name.clone(), spec })?;
    let answer = context.admin.auth.preview_role(request).await.map_err(refused)?.into_inner();
    let records = |changes: &[v1::AccessChange]| -> Vec<Value> {
        changes.iter().map(|c| json!({ "user": c.user, "node": c.node, "login": c.login })).collect()
    };
    let record = json!({
        "role": name, "exists": answer.exists, "holders": answer.holders,
        "gained": records(&answer.gained), "lost": records(&answer.lost), "truncated": answer.truncated,
    });
    context.format.print_text(&record, |_| preview_text(&name, &answer))
}

fn preview_text(name: &str, answer: &v1::PreviewRoleReply) -> String {
    let verb = if answer.exists { "updated" } else { "created" };
    let mut text = format!("Role {name} would be {verb}; held by {} users\n", answer.holders.len());
    let mut table = Table::new(&["CHANGE", "USER", "NODE", "LOGIN"]);
    for (change, accesses) in [("gains", &answer.gained), ("loses", &answer.lost)] {
        for access in accesses {
            table.row([change, &access.user, &access.node, &access.login]);
        }
    }
    if answer.gained.is_empty() && answer.lost.is_empty() {
        text.push_str("Nobody gains or loses access to a node of today\n");
    } else {
        let _ = write!(text, "{table}");
    }
    if answer.truncated {
        text.push_str("The answer is cut: there is more than is shown\n");
    }
    text
}
