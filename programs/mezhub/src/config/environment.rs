//! `MEZITE_*`: which variable sets which key, and how its text becomes a value.

use serde_json::{Map, Value};

use super::ConfigError;

/// How a variable's text becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As it is.
    Text,
    /// true, 1, yes; false, 0, no.
    Bool,
    /// Decimal digits.
    Number,
    /// Texts between commas.
    List,
}

use Shape::{Bool, List, Number, Text};

/// Every key that a variable can set; a test compares it with the schema.
pub(super) const KEYS: &[(&str, Shape)] = &[
    ("cluster_name", Text),
    ("data_dir", Text),
    ("log.level", Text),
    ("log.format", Text),
    ("ca_key_passphrase", Text),
    ("ca_key_passphrase_file", Text),
    ("database.driver", Text),
    ("database.path", Text),
    ("database.url", Text),
    ("database.direct_url", Text),
    ("database.host", Text),
    ("database.port", Number),
    ("database.user", Text),
    ("database.password", Text),
    ("database.password_file", Text),
    ("database.name", Text),
    ("database.sslmode", Text),
    ("auth.enabled", Bool),
    ("auth.listen_addr", Text),
    ("auth.grpc_allow_http", Bool),
    ("proxy.enabled", Bool),
    ("proxy.listen_addr", Text),
    ("proxy.ssh_listen_addr", Text),
    ("proxy.tunnel_listen_addr", Text),
    ("proxy.public_addr", Text),
    ("proxy.ssh_public_addr", Text),
    ("proxy.tunnel_public_addr", Text),
    ("proxy.proxy_protocol_from", List),
    ("proxy.auth_addr", Text),
    ("proxy.join_token", Text),
    ("proxy.join_token_file", Text),
    ("proxy.ca_pin", Text),
    ("proxy.keypair.cert_file", Text),
    ("proxy.keypair.key_file", Text),
    ("proxy.tls_mode", Text),
    ("proxy.oidc_issuer_url", Text),
    ("proxy.apps_domain", Text),
    ("proxy.apps_keypair.cert_file", Text),
    ("proxy.apps_keypair.key_file", Text),
    ("proxy.apps_oidc_connector", Text),
    ("ssh.enabled", Bool),
    ("recordings.backend", Text),
    ("recordings.bucket", Text),
    ("recordings.prefix", Text),
    ("recordings.region", Text),
    ("recordings.endpoint", Text),
    ("audit.hmac_key", Text),
    ("audit.hmac_key_file", Text),
    ("audit.previous_hmac_key", Text),
    ("audit.previous_hmac_key_file", Text),
    ("diag.listen_addr", Text),
];

/// Variables with documented names of their own.
const ALIASES: &[(&str, &str)] = &[
    ("MEZITE_DB_", "database."),
    ("MEZITE_S3_BUCKET", "recordings.bucket"),
    ("MEZITE_S3_PREFIX", "recordings.prefix"),
    ("MEZITE_S3_REGION", "recordings.region"),
    ("MEZITE_S3_ENDPOINT", "recordings.endpoint"),
    ("MEZITE_GRPC_ALLOW_HTTP", "auth.grpc_allow_http"),
];

/// Puts the variables over the file.
///
/// # Errors
/// When a variable is neither true nor false, or not a number, where that is expected.
pub(super) fn overlay(value: &mut Value, get: &dyn Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    for (path, shape) in KEYS {
        for variable in variables(path) {
            let Some(text) = get(&variable).filter(|text| !text.is_empty()) else { continue };
            let leaf = match shape {
                Text => Value::String(text),
                List => text.split(',').map(|entry| Value::String(entry.trim().to_owned())).collect(),
                Bool => match text.as_str() {
                    "true" | "1" | "yes" => Value::Bool(true),
                    "false" | "0" | "no" => Value::Bool(false),
                    _ => return Err(ConfigError(format!("{variable}: {text:?} is neither true nor false"))),
                },
                Number => text
                    .parse::<u64>()
                    .map(Value::from)
                    .map_err(|_| ConfigError(format!("{variable}: {text:?} is not a number")))?,
            };
            set(value, path, leaf);
            // A variable wins over the file, also when one gives the secret and the other its file.
            match path.strip_suffix("_file") {
                Some(direct) => unset(value, direct),
                None => unset(value, &format!("{path}_file")),
            }
        }
    }
    Ok(())
}

/// The names of the variables for a key; the later one wins.
pub(super) fn variables(path: &str) -> Vec<String> {
    let plain = format!("MEZITE_{}", path.replace('.', "_").to_ascii_uppercase());
    let alias = ALIASES.iter().find_map(|(variable, key)| match variable.strip_suffix('_') {
        Some(_) => path.strip_prefix(key).map(|rest| format!("{variable}{}", rest.to_ascii_uppercase())),
        None => (*key == path).then(|| (*variable).to_owned()),
    });
    std::iter::once(plain).chain(alias).collect()
}

fn set(value: &mut Value, path: &str, leaf: Value) {
    let mut at = value;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(object) = at.as_object_mut() else { return };
        if parts.peek().is_none() {
            object.insert(part.to_owned(), leaf);
            return;
        }
        at = object.entry(part).or_insert_with(|| Value::Object(Map::new()));
    }
}

fn unset(value: &mut Value, path: &str) {
    let (parent, leaf) = path.rsplit_once('.').map_or((None, path), |(parent, leaf)| (Some(parent), leaf));
    let mut at = value;
    for part in parent.into_iter().flat_map(|parent| parent.split('.')) {
        let Some(next) = at.get_mut(part) else { return };
        at = next;
    }
    if let Some(object) = at.as_object_mut() {
        object.remove(leaf);
    }
}
