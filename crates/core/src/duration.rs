//! Spans of time as people write them: `12h`, `30m`, `1h30m`, `7d`, `250ms`.

use std::time::Duration;

use crate::error::Invalid;

/// Longest span accepted anywhere: ten years.
pub const MAX: Duration = Duration::from_secs(3650 * 86_400);

/// Units from the largest to the smallest, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads whole numbers with units, largest first, each unit at most once.
///
/// # Errors
/// [`Invalid`] for anything else, and for more than [`MAX`].
pub fn parse(text: &str) -> Result<Duration, Invalid> {
    let invalid = || Invalid::new("", format!("{:?} is not a duration such as 12h, 30m or 1h30m", clip(text)));
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = split(rest, |b| b.is_ascii_digit());
        let (unit, tail) = split(tail, |b| b.is_ascii_lowercase());
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let count: u64 = number.parse().map_err(|_| invalid())?;
        total = count.checked_mul(*scale).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        rest = tail;
    }
    let span = Duration::from_millis(total);
    if text.is_empty() || span > MAX { Err(invalid()) } else { Ok(span) }
}

/// Prints the shortest form that [`parse`] reads back; parts below a millisecond are dropped.
pub fn print(span: Duration) -> String {
    let mut rest = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    // Days are read but not written: 48h is plainer than 2d in a list of session lengths.
    for (unit, scale) in UNITS.iter().skip(1) {
        let count = rest / scale;
        rest %= scale;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

fn split(text: &str, of: fn(&u8) -> bool) -> (&str, &str) {
    let end = text.bytes().take_while(of).count();
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}

/// Serde form of a span that may be absent.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes [`super::print`], or nothing.
    ///
    /// # Errors
    /// Whatever the format reports.
    pub fn serialize<S: Serializer>(span: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => s.serialize_str(&super::print(*span)),
            None => s.serialize_none(),
        }
    }

    /// Reads [`super::parse`].
    ///
    /// # Errors
    /// When the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(d)?;
        super::parse(&text).map(Some).map_err(|e| D::Error::custom(e.message))
    }
}
