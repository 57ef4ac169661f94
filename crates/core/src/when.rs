//! Points in time as text: RFC 3339 in UTC, to the second for people and to the millisecond for audit records.

use std::time::Duration;

use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, UtcOffset};

use crate::duration;
use crate::error::Invalid;

/// `2026-03-24T15:00:00Z`.
pub fn seconds(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// `2026-03-24T15:00:00.123Z`, the form of audit records (F449).
pub fn millis(at: OffsetDateTime) -> String {
    let mut text = seconds(at);
    text.pop();
    format!("{text}.{:03}Z", at.to_offset(UtcOffset::UTC).millisecond())
}

/// Reads RFC 3339 with any offset; the answer is in UTC.
///
/// # Errors
/// [`Invalid`] when the text is something else.
pub fn parse(text: &str) -> Result<OffsetDateTime, Invalid> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|at| at.to_offset(UtcOffset::UTC))
        .map_err(|_| Invalid::new("", "is not a time such as 2026-03-24T15:00:00Z"))
}

/// Reads the start of a span: a duration back from `now` (`10m`, `24h`), RFC 3339, or a date, which is its first moment in
/// UTC (`--since`, `from=`).
///
/// # Errors
/// [`Invalid`] when the text is none of the three.
pub fn parse_since(text: &str, now: OffsetDateTime) -> Result<OffsetDateTime, Invalid> {
    let date = time::macros::format_description!("[year]-[month]-[day]");
    if let Ok(span) = duration::parse(text) {
        return Ok(before(now, span));
    }
    if let Ok(date) = Date::parse(text, date) {
        return Ok(date.midnight().assume_utc());
    }
    parse(text)
        .map_err(|_| Invalid::new("", "is not a duration (24h), a time (2026-03-24T15:00:00Z) or a date (2026-03-24)"))
}

fn before(now: OffsetDateTime, span: Duration) -> OffsetDateTime {
    time::Duration::try_from(span).ok().and_then(|span| now.checked_sub(span)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Serde form of a required time: RFC 3339 to the second.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    /// Writes [`super::seconds`].
    ///
    /// # Errors
    /// Whatever the format reports.
    pub fn serialize<S: Serializer>(at: &OffsetDateTime, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::seconds(*at))
    }

    /// Reads [`super::parse`].
    ///
    /// # Errors
    /// When the text is not RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        let text = String::deserialize(d)?;
        super::parse(&text).map_err(|e| D::Error::custom(e.message))
    }
}

/// Serde form of times by name.
pub mod map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use time::OffsetDateTime;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Text(#[serde(with = "super::text")] OffsetDateTime);

    /// Writes [`super::seconds`] of each.
    ///
    /// # Errors
    /// Whatever the format reports.
    pub fn serialize<S: Serializer>(times: &BTreeMap<String, OffsetDateTime>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(times.iter().map(|(name, at)| (name, Text(*at))))
    }

    /// Reads [`super::parse`] of each.
    ///
    /// # Errors
    /// When a text is not RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, OffsetDateTime>, D::Error> {
        let times = BTreeMap::<String, Text>::deserialize(d)?;
        Ok(times.into_iter().map(|(name, Text(at))| (name, at)).collect())
    }
}

/// Serde form of a time that may be absent.
pub mod option {
    use serde::{Deserializer, Serializer};
    use time::OffsetDateTime;

    /// Writes [`super::seconds`], or nothing.
    ///
    /// # Errors
    /// Whatever the format reports.
    pub fn serialize<S: Serializer>(at: &Option<OffsetDateTime>, s: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => super::text::serialize(at, s),
            None => s.serialize_none(),
        }
    }

    /// Reads [`super::parse`].
    ///
    /// # Errors
    /// When the text is not RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<OffsetDateTime>, D::Error> {
        super::text::deserialize(d).map(Some)
    }
}
