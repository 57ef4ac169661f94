//! Cluster config: settings that all parts of a cluster share, one object per key (F363, F364).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Kind, MAX_TEXT};
use crate::decode::nearest;
use crate::duration;
use crate::error::Invalid;

/// Marker of the kind `config`.
#[derive(Clone, Copy, Debug)]
pub enum Config {}

/// The value of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigSpec {
    /// The value as it was written.
    pub value: String,
}

/// A key that is known, with what it means.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the key.
    pub key: &'static str,
    /// Value when the key is not set.
    pub default: &'static str,
    /// Meaning, for the reference page.
    pub meaning: &'static str,
    /// Shortest and longest span accepted.
    bounds: (Duration, Duration),
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// All settings. Each is a duration.
pub const SETTINGS: [Setting; 3] = [
    Setting {
        key: "user_cert_ttl",
        default: "12h",
        meaning: "validity of a user certificate when the login asks for none; roles can only shorten it",
        bounds: (MINUTE, Duration::from_secs(24 * 3600)),
    },
    Setting {
        key: "host_cert_ttl",
        default: "24h",
        meaning: "validity of host certificates; agents renew at two thirds of it",
        bounds: (Duration::from_secs(600), Duration::from_secs(30 * 86_400)),
    },
    Setting {
        key: "session_ttl",
        default: "12h",
        meaning: "how long a login session token is accepted",
        bounds: (MINUTE, Duration::from_secs(24 * 3600)),
    },
];

impl Setting {
    /// The setting of this name.
    ///
    /// # Errors
    /// [`Invalid`] naming the nearest known key.
    pub fn named(key: &str) -> Result<&'static Self, Invalid> {
        SETTINGS.iter().find(|setting| setting.key == key).ok_or_else(|| {
            let known = SETTINGS.map(|setting| setting.key);
            let hint = match nearest(key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known: {}", known.join(", ")),
            };
            Invalid::new("key", format!("unknown setting; {hint}"))
        })
    }

    /// Reads a value of this setting.
    ///
    /// # Errors
    /// [`Invalid`] when it is no duration or out of bounds.
    pub fn read(&self, value: &str) -> Result<Duration, Invalid> {
        let span = duration::parse(value).map_err(|e| e.within("value"))?;
        let (least, most) = self.bounds;
        if (least..=most).contains(&span) {
            return Ok(span);
        }
        let range = format!("must be between {} and {}", duration::print(least), duration::print(most));
        Err(Invalid::new("value", range))
    }

    /// The value in force: the stored one when it can be read, else the default.
    pub fn effective(&self, stored: Option<&str>) -> Duration {
        stored.into_iter().chain([self.default]).find_map(|value| self.read(value).ok()).unwrap_or(HOUR)
    }
}

impl Kind for Config {
    const KIND: &'static str = "config";
    const PLURAL: &'static str = "configs";
    const COLUMNS: &'static [&'static str] = &["value"];
    type Spec = ConfigSpec;

    fn validate(name: &str, spec: &ConfigSpec) -> Result<(), Invalid> {
        if spec.value.len() > MAX_TEXT {
            return Err(Invalid::new("value", format!("is longer than {MAX_TEXT} bytes")));
        }
        Setting::named(name)?.read(&spec.value).map(drop)
    }

    fn columns(_: &str, spec: &ConfigSpec) -> Vec<Value> {
        vec![json!(spec.value)]
    }
}
