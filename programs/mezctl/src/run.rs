//! From a parsed command line to calls and output.

mod access;
mod audit;
mod audit_file;
mod ca;
mod config;
mod explain;
mod force;
mod locks;
mod nodes;
mod recordings;
mod roles;
mod sessions;
mod tokens;
mod users;

use std::path::PathBuf;

use clap::CommandFactory;
use mezite_client::address::{AUTH_PORT, Address};
use mezite_client::admin::Admin;
use mezite_client::cli::{self, Format};
use mezite_client::error::invalid;
use mezite_client::home;
use mezite_client::profile::Store;
use mezite_client::trust::Trust;
use mezite_client::{Error, Result};
use mezite_core::kind::Kind;
use mezite_core::when;
use mezite_proto::v1::Object;
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::args::{Audit, Command, Mezctl};

/// What the environment says.
pub(crate) struct Places {
    /// Where a hub on this machine keeps its data.
    pub(crate) data_dir: PathBuf,
    /// The directory of `msh`, whose logins pin authorities.
    pub(crate) home: Option<PathBuf>,
}

/// What every command gets.
struct Context {
    admin: Admin,
    address: Address,
    format: Format,
}

pub(crate) async fn run(args: Mezctl, places: &Places) -> Result<()> {
    let global = args.global;
    match args.command {
        Command::Completion { shell } => return cli::completion(shell, Mezctl::command()),
        Command::Man => return cli::man(Mezctl::command()),
        Command::Audit(Audit::Verify { file: Some(ref file), ref keys, .. }) => {
            return audit_file::verify(file, keys, global.format);
        }
        _ => {}
    }
    let address = Address::parse(&global.auth_server, AUTH_PORT).map_err(|error| error.within("--auth-server"))?;
    let mut trust = Trust { insecure: global.insecure, ..Trust::default() };
    if let Some(file) = &global.ca_file {
        trust.add_file(file)?;
    }
    add_local_authorities(&mut trust, &address, places);
    if trust.insecure {
        eprintln!("mezctl: warning: --insecure, the server's certificate is not verified");
    }
    let token = global.token.map(Zeroizing::new);
    if token.is_none() && !matches!(args.command, Command::Login(_)) {
        return Err(mezite_client::admin::no_token());
    }
    let admin = Admin::connect(&address, &trust, token).await?;
    let context = Context { admin, address, format: global.format };
    match args.command {
        Command::Login(login) => access::login(context, login).await,
        Command::Logout => access::logout(context).await,
        Command::Users(command) => users::run(context, command).await,
        Command::Roles(command) => roles::run(context, command).await,
        Command::Access(command) => explain::run(context, command).await,
        Command::Tokens(command) => tokens::run(context, command).await,
        Command::Nodes(command) => nodes::run(context, command).await,
        Command::Sessions(command) => sessions::run(context, command).await,
        Command::Recordings(command) => recordings::run(context, command).await,
        Command::Audit(command) => audit::run(context, command).await,
        Command::Ca(command) => ca::run(context, command).await,
        Command::Config(command) => config::run(context, command).await,
        Command::Locks(command) => locks::run(context, command).await,
        Command::Completion { .. } | Command::Man => Ok(()),
    }
}

/// The hub's own bundle when this is its machine and we may read it, and what a login by `msh` to that host pinned.
fn add_local_authorities(trust: &mut Trust, address: &Address, places: &Places) {
    if let Ok(Some(pem)) = home::read(&places.data_dir.join("tls/ca.pem")) {
        trust.add(&pem);
    }
    let store = places.home.as_ref().map(Store::new);
    if let Some(profile) = store.and_then(|store| store.of_host(&address.host).ok().flatten()) {
        trust.add(&profile.tls_ca_pem);
    }
}

/// The value given as an argument or by a flag; clap has made sure that one is there.
fn either(positional: Option<String>, flag: Option<String>) -> Result<String> {
    positional.or(flag).ok_or_else(|| invalid("name", "is missing"))
}

/// The spec of an object, or why it cannot be read: a list shows such a row instead of failing.
fn spec<K: Kind>(object: &Object) -> Result<K::Spec, String> {
    if !object.error.is_empty() {
        return Err(object.error.clone());
    }
    serde_json::from_slice(&object.spec).map_err(|error| error.to_string())
}

fn encode(spec: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(spec).map_err(|error| Error::Local(format!("cannot encode the {error}")))
}

/// The machine columns of an object; null when it has none.
fn status(object: &Object) -> Value {
    serde_json::from_slice(&object.status).unwrap_or_default()
}

/// An object for `--format=json|yaml`.
fn record(object: &Object) -> Value {
    let mut record = json!({
        "kind": object.kind,
        "name": object.name,
        "revision": object.revision,
        "created": moment(object.created_unix),
        "updated": moment(object.updated_unix),
        "spec": serde_json::from_slice::<Value>(&object.spec).unwrap_or_default(),
    });
    if let Some(fields) = record.as_object_mut() {
        if !object.status.is_empty() {
            fields.insert("status".into(), status(object));
        }
        if !object.error.is_empty() {
            fields.insert("error".into(), object.error.clone().into());
        }
    }
    record
}

fn records(objects: &[Object]) -> Vec<Value> {
    objects.iter().map(record).collect()
}

/// `1 chunk`, `2 chunks`.
fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// RFC 3339 UTC of unix seconds.
fn moment(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix).map(when::seconds).unwrap_or_default()
}

/// RFC 3339 UTC of unix milliseconds; empty for 0.
fn moment_ms(unix_ms: i64) -> String {
    if unix_ms == 0 { String::new() } else { moment(unix_ms.div_euclid(1000)) }
}
