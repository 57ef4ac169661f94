//! `roles`.

use std::io::Read;
use std::path::Path;

use mezite_client::{Error, Result, cli, home};
use mezite_core::document::Document;
use mezite_core::kind::{Kind, Role, parse_role, role_document};
use mezite_core::text::{Table, escape_control};
use mezite_core::{Fault, duration};
use mezite_proto::v1::Object;
use serde_json::Value;

use super::{Context, encode, explain, force, spec};
use crate::args::Roles;

/// Longest role document, in bytes.
const MAX_DOCUMENT: u64 = 1 << 20;

pub(super) async fn run(mut context: Context, command: Roles) -> Result<()> {
    match command {
        Roles::Create { from_file, dry_run } => create(context, &from_file, dry_run).await,
        Roles::Ls => {
            let roles = context.admin.list(Role::KIND).await?;
            let documents: Vec<Value> = roles.iter().map(document).collect();
            context.format.print(&documents, |_| table(&roles))
        }
        Roles::Get { name } => {
            let role = context.admin.get(Role::KIND, &name).await?;
            let document = document(&role);
            context.format.or_yaml().print_text(&document, |_| String::new())
        }
        Roles::Delete { name } => {
            let revision = context.admin.delete(Role::KIND, &name).await?;
            force::wait(&mut context, revision).await;
            cli::print(&format!("Role {} deleted\n", escape_control(&name)))
        }
    }
}

/// As people write it, so that what `get` prints is what `create` reads.
fn document(role: &Object) -> Value {
    match spec::<Role>(role) {
        Ok(spec) => role_document(&role.name, &spec),
        Err(error) => serde_json::json!({ "kind": Role::KIND, "metadata": { "name": role.name }, "error": error }),
    }
}

fn table(roles: &[Object]) -> Table {
    let mut table = Table::new(&["ROLE", "LOGINS", "NODE LABELS", "MAX TTL", "DESCRIPTION"]);
    for role in roles {
        match spec::<Role>(role) {
            Ok(spec) => {
                let labels = serde_json::to_value(&spec.allow.node_labels).unwrap_or_default();
                let ttl = spec.options.max_session_ttl.map(duration::print).unwrap_or_default();
                table.row([role.name.clone(), spec.allow.logins.join(","), selector(&labels), ttl, spec.description]);
            }
            Err(error) => table.row([role.name.clone(), format!("unreadable: {error}")]),
        }
    }
    table
}

/// `k=v,k=a|b` of a label selector.
fn selector(labels: &Value) -> String {
    let value = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"),
        other => other.to_string(),
    };
    let pairs = labels.as_object().into_iter().flatten().map(|(key, wanted)| format!("{key}={}", value(wanted)));
    pairs.collect::<Vec<_>>().join(",")
}

async fn create(mut context: Context, file: &Path, dry_run: bool) -> Result<()> {
    let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let source = Document::parse(&name, &read(file)?)?;
    let (name, role) = parse_role(&source.value).map_err(|error| source.locate(error))?;
    if dry_run {
        return explain::preview(context, name, encode(&role)?).await;
    }
    let expected = match context.admin.get(Role::KIND, &name).await {
        Ok(existing) => existing.revision,
        Err(Error::Fault(Fault::NotFound(_))) => 0,
        Err(error) => return Err(error),
    };
    let stored = context.admin.put(Role::KIND, &name, encode(&role)?, Some(expected)).await?;
    force::wait(&mut context, stored.revision).await;
    let done = if expected == 0 { "created" } else { "updated" };
    context.format.print_text(&document(&stored), |_| format!("Role {name} {done}\n"))
}

fn read(file: &Path) -> Result<String> {
    if file != Path::new("-") {
        return home::read(file)?.ok_or_else(|| Error::Local(format!("{} does not exist", file.display())));
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_DOCUMENT).read_to_string(&mut text);
    read.map(|_| text).map_err(|error| Error::Local(format!("cannot read standard input: {error}")))
}
