//! From a JSON value to a typed value, with errors a person can act on.
//!
//! `serde_json` names an unknown field without saying where it stands. This deserializer keeps the path and proposes the
//! nearest known name: `spec.options.port_fowarding: unknown field, did you mean port_forwarding?`.
//! A null is refused wherever a value is expected: it is usually a line whose content was commented out.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

use crate::error::Invalid;

/// Longest message, in characters.
const MAX_MESSAGE: usize = 512;

/// Decodes `value`, naming the field at fault.
///
/// # Errors
/// [`Invalid`] with the path of the first field that does not fit.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Invalid> {
    T::deserialize(At(value))
}

/// Reads JSON of at most 128 levels. A field that is given twice is refused: one of the two would be lost in silence.
///
/// # Errors
/// With line and column.
pub fn parse_json(json: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(json).map(|Once(value)| value)
}

/// A JSON value without a field given twice.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Once(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                let shown: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format!("{shown} is given twice")));
            }
            let Once(value) = map.next_value()?;
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

/// The entry of `known` that is nearest to `word`, when it is near enough to be a slip of the hand.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance: insertions, deletions and replacements of bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
    }
    row.last().copied().unwrap_or(0)
}

impl Error for Invalid {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // The message may quote what was written.
        Self::new("", message.to_string().chars().take(MAX_MESSAGE).collect::<String>())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = match nearest(field, expected.iter().copied()) {
            Some(known) => format!("unknown field, did you mean {known}?"),
            None => format!("unknown field; known here: {}", expected.join(", ")),
        };
        Self::new(field.chars().take(64).collect::<String>(), message)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let shown: String = variant.chars().take(64).collect();
        let known: Vec<&str> = expected.iter().copied().filter(|word| !word.is_empty()).collect();
        let hint = nearest(variant, known.iter().copied()).map(|near| format!("; did you mean {near}?"));
        Self::new("", format!("{shown:?} is not one of {}{}", known.join(", "), hint.unwrap_or_default()))
    }
}

struct At<'a>(&'a Value);

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Invalid;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Invalid> {
        match self.0 {
            Value::Null => Err(Invalid::new("", "is empty; give it a value or leave it out")),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => number.deserialize_any(visitor).map_err(Invalid::custom),
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Object(fields) => visitor.visit_map(Fields { fields: fields.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Invalid> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Invalid> {
        visitor.visit_newtype_struct(self)
    }

    /// Only a map is a struct; serde would also take a list by position.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Invalid> {
        match self.0 {
            Value::Object(_) | Value::Null => self.deserialize_any(visitor),
            _ => Err(Invalid::new("", "must be a map")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Invalid> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(Word(text)),
            _ => Err(Invalid::new("", "must be a word")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Value>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Invalid;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Invalid> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(At(item)).map(Some).map_err(|e| e.within(&format!("[{index}]")))
    }
}

struct Fields<'a> {
    fields: serde_json::map::Iter<'a>,
    value: Option<(&'a String, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Invalid;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Invalid> {
        self.value = self.fields.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Invalid> {
        let Some((key, value)) = self.value.take() else { return Err(Invalid::new("", "value without a field")) };
        seed.deserialize(At(value)).map_err(|e| e.within(key))
    }
}

struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Invalid;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), Invalid> {
        Ok((seed.deserialize(StrDeserializer::new(self.0))?, Unit))
    }
}

/// Our enums in documents are words; variants with content are refused.
struct Unit;

impl<'de> serde::de::VariantAccess<'de> for Unit {
    type Error = Invalid;

    fn unit_variant(self) -> Result<(), Invalid> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Invalid> {
        Err(Invalid::new("", "must be a word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Invalid> {
        Err(Invalid::new("", "must be a word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Invalid> {
        Err(Invalid::new("", "must be a word"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_given_twice_is_named_at_any_depth() {
        for (json, key) in [
            (r#"{"a": 1, "a": 1}"#, "a is given twice"),
            (r#"{"x": [{"deny": {"logins": ["root"], "logins": []}}]}"#, "logins is given twice"),
            ("{\"k\": 1, \"\\u006b\": 2}", "k is given twice"),
        ] {
            let error = parse_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("line 1 column"), "{error}");
        }
        let json = r#"{"a": [null, true, -1, 1.5, "x"], "b": {"a": 18446744073709551615}}"#;
        assert_eq!(parse_json(json.as_bytes()).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        assert!(parse_json(&b"[".repeat(1000)).is_err());
    }
}
