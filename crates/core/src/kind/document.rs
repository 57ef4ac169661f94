//! The role document people write and read: `kind`, `version`, `metadata`, `spec`. Both generations of the schema are
//! accepted; one canonical form is printed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Kind, Role, RoleSpec};
use crate::decode::decode;
use crate::error::Invalid;

const VERSION: &str = "v1";

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default = "role_kind")]
    kind: String,
    #[serde(default = "version")]
    version: String,
    metadata: Metadata,
    spec: RoleSpec,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
}

fn role_kind() -> String {
    Role::KIND.into()
}

fn version() -> String {
    VERSION.into()
}

/// Reads a role document that was decoded from YAML or JSON, and validates it. `kind` and `version` may be left out; the
/// nested `request` and `review_requests` of the older schema are accepted.
///
/// # Errors
/// [`Invalid`] naming the field, with the nearest known name when it is unknown.
pub fn parse_role(value: &Value) -> Result<(String, RoleSpec), Invalid> {
    let mut value = value.clone();
    for side in ["allow", "deny"] {
        if let Some(Value::Object(conditions)) = value.get_mut("spec").and_then(|spec| spec.get_mut(side)) {
            flatten_requests(conditions).map_err(|e| e.within(side).within("spec"))?;
        }
    }
    if value.pointer("/spec/description").is_some() {
        return Err(Invalid::new("spec.description", "unknown field; write metadata.description"));
    }
    let Document { kind, version, metadata, mut spec } = decode(&value)?;
    if kind != Role::KIND {
        return Err(Invalid::new("kind", format!("must be {}", Role::KIND)));
    }
    if version != VERSION {
        return Err(Invalid::new("version", format!("must be {VERSION}")));
    }
    spec.description = metadata.description;
    Role::validate(&metadata.name, &spec).map_err(|e| match e.field.as_str() {
        "name" | "description" => e.within("metadata"),
        _ => e.within("spec"),
    })?;
    Ok((metadata.name, spec))
}

/// The canonical document of a role.
pub fn role_document(name: &str, spec: &RoleSpec) -> Value {
    let mut metadata = json!({ "name": name });
    let mut body = serde_json::to_value(spec).unwrap_or_default();
    if let (Some(body), Some(metadata)) = (body.as_object_mut(), metadata.as_object_mut())
        && let Some(description) = body.remove("description")
    {
        metadata.insert("description".into(), description);
    }
    json!({ "kind": Role::KIND, "version": VERSION, "metadata": metadata, "spec": body })
}

/// Moves `request.roles`, `request.max_duration` and `review_requests.roles` to the flat fields.
fn flatten_requests(conditions: &mut Map<String, Value>) -> Result<(), Invalid> {
    const MOVES: [(&str, &str, &str); 3] = [
        ("request", "roles", "request_roles"),
        ("request", "max_duration", "request_max_duration"),
        ("review_requests", "roles", "review_roles"),
    ];
    for (outer, inner, flat) in MOVES {
        let Some(nested) = conditions.get_mut(outer) else { continue };
        let Some(nested) = nested.as_object_mut() else { return Err(Invalid::new(outer, "must be a map")) };
        let Some(value) = nested.remove(inner) else { continue };
        if conditions.insert(flat.into(), value).is_some() {
            return Err(Invalid::new(flat, format!("is also given as {outer}.{inner}")));
        }
    }
    for outer in ["request", "review_requests"] {
        let Some(Value::Object(nested)) = conditions.remove(outer) else { continue };
        if let Some(unknown) = nested.keys().next() {
            return Err(Invalid::new(format!("{outer}.{unknown}"), "unknown field"));
        }
    }
    Ok(())
}
