//! One audit event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::EventType;
use crate::labels::Labels;

/// Longest text of one field, in bytes; longer ones are cut and marked.
const MAX_FIELD: usize = 4096;

/// An event as it is stored and shown (F449, F450). The first eleven fields are always present in JSON; the others only when
/// they say something. Texts are data of strangers: escape them before they reach a terminal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// UUID of the event.
    pub id: String,
    /// [`EventType::name`].
    pub event_type: String,
    /// [`EventType::code`].
    pub event_code: String,
    /// The user who acted, empty for machines.
    #[serde(default)]
    pub user_name: String,
    /// Kind of the thing acted on.
    #[serde(default)]
    pub resource_type: String,
    /// Its name.
    #[serde(default)]
    pub resource_name: String,
    /// Name of the node concerned.
    #[serde(default)]
    pub server_hostname: String,
    /// Address of the client.
    #[serde(default)]
    pub client_ip: String,
    /// When, to the millisecond.
    #[serde(with = "millis")]
    pub timestamp: OffsetDateTime,
    /// Session concerned.
    #[serde(default)]
    pub session_id: String,
    /// Whether it worked.
    pub success: bool,
    /// Cluster it happened in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_name: String,
    /// Roles of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_roles: Vec<String>,
    /// Labels of the thing acted on.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub resource_labels: Labels,
    /// Id of the node concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_id: String,
    /// OS login concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub login: String,
    /// Who acted in the user's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub impersonator: String,
    /// Why it did not work.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_message: String,
    /// Which part of the product saw it: `auth`, `proxy` or `agent`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// What only this type of event has: duration, command, changed fields, reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// What a refused user is told: why, and by which event the administrator finds the rest.
pub fn refusal(reason: &str, event_id: &str) -> String {
    format!("{reason} (reference {event_id})")
}

/// The columns projected from an event, by which it is searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// UUID of the event.
    pub id: String,
    /// Type.
    pub event_type: String,
    /// Code.
    pub event_code: String,
    /// User.
    pub user: String,
    /// `type/name` of the thing acted on.
    pub resource: String,
    /// The type without its first word: `login`, `cert.issued`.
    pub action: String,
    /// `success` or `failure`.
    pub status: &'static str,
    /// Session concerned.
    pub session_id: String,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
}

impl Event {
    /// An event of this type with the fields that every event has; the rest is set by the caller.
    pub fn new(kind: EventType, id: impl Into<String>, timestamp: OffsetDateTime) -> Self {
        let text = String::new;
        Self {
            id: id.into(),
            event_type: kind.name().into(),
            event_code: kind.code().into(),
            user_name: text(),
            resource_type: text(),
            resource_name: text(),
            server_hostname: text(),
            client_ip: text(),
            timestamp,
            session_id: text(),
            success: kind.is_success(),
            cluster_name: text(),
            user_roles: Vec::new(),
            resource_labels: Labels::new(),
            server_id: text(),
            login: text(),
            impersonator: text(),
            error_message: text(),
            component: text(),
            details: BTreeMap::new(),
        }
    }

    /// Sets the thing acted on.
    #[must_use]
    pub fn resource(mut self, kind: &str, name: impl Into<String>) -> Self {
        self.resource_type = kind.into();
        self.resource_name = name.into();
        self
    }

    /// Sets the user who acted.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, roles: &[String]) -> Self {
        self.user_name = name.into();
        self.user_roles = roles.to_vec();
        self
    }

    /// Adds a detail; a value that cannot be written as JSON is left out.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.details.insert(key.into(), value);
        }
        self
    }

    /// The text that is stored and chained: JSON on one line, fields in the order of this struct, over-long texts cut.
    /// Equal events give equal bytes.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(&self.bounded()).unwrap_or_default()
    }

    /// The event with over-long texts cut, as it is stored.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let mut event = self.clone();
        for text in [
            &mut event.user_name,
            &mut event.resource_type,
            &mut event.resource_name,
            &mut event.server_hostname,
            &mut event.client_ip,
            &mut event.session_id,
            &mut event.cluster_name,
            &mut event.server_id,
            &mut event.login,
            &mut event.impersonator,
            &mut event.error_message,
        ] {
            cut(text);
        }
        event.user_roles.iter_mut().for_each(cut);
        event.details.values_mut().for_each(cut_value);
        event
    }

    /// The columns for searching.
    pub fn columns(&self) -> Columns {
        let event = self.bounded();
        let resource = match (event.resource_type.as_str(), event.resource_name.as_str()) {
            ("", name) => name.to_owned(),
            (kind, "") => kind.to_owned(),
            (kind, name) => format!("{kind}/{name}"),
        };
        Columns {
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            event_code: event.event_code.clone(),
            user: event.user_name.clone(),
            resource,
            action: event.event_type.split_once('.').map_or(event.event_type.as_str(), |(_, rest)| rest).to_owned(),
            status: if event.success { "success" } else { "failure" },
            session_id: event.session_id.clone(),
            created_at: i64::try_from(event.timestamp.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX),
        }
    }
}

fn cut(text: &mut String) {
    const MARK: &str = "…[cut]";
    if text.len() > MAX_FIELD {
        // The mark fits within the bound, so that a stored event is not cut a second time.
        text.truncate(text.floor_char_boundary(MAX_FIELD - MARK.len()));
        text.push_str(MARK);
    }
}

fn cut_value(value: &mut Value) {
    match value {
        Value::String(text) => cut(text),
        Value::Array(items) => items.iter_mut().for_each(cut_value),
        Value::Object(fields) => fields.values_mut().for_each(cut_value),
        _ => {}
    }
}

pub(super) mod millis {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    use crate::when;

    pub(in crate::audit) fn serialize<S: Serializer>(at: &OffsetDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&when::millis(*at))
    }

    pub(in crate::audit) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        when::parse(&String::deserialize(d)?).map_err(|e| D::Error::custom(e.message))
    }
}
