//! From values with origins to typed configuration, through serde; an error knows its place.

use crate::code::Code;
use crate::value::{ConfigValue, Origin, Value};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What a value could not be decoded into, and where it stands.
#[derive(Debug, Clone)]
pub struct DecodeError {
    /// The reason.
    pub message: String,
    /// The innermost value to blame.
    pub origin: Option<Origin>,
    /// Who can mend it: the user, but where a component has failed.
    pub code: Code,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), origin: None, code: Code::Mistake }
    }
}

/// Decodes a value.
pub fn decode<T: DeserializeOwned>(node: &ConfigValue) -> Result<T, DecodeError> {
    T::deserialize(Decoder(node))
}

struct Decoder<'a>(&'a ConfigValue);

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let origin = &self.0.origin;
        match &self.0.value {
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Integer(v) => visitor.visit_i64(*v),
            Value::Float(v) => visitor.visit_f64(*v),
            Value::String(v) => visitor.visit_str(v),
            Value::Array(items) => visitor.visit_seq(Items(items.iter())),
            Value::Table(table) => visitor.visit_map(Fields {
                entries: table.iter().map(|(k, e)| (k.as_str(), &e.node)).collect::<Vec<_>>().into_iter(),
                current: None,
            }),
        }
        .map_err(|e: DecodeError| DecodeError { origin: e.origin.or_else(|| Some(origin.clone())), ..e })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::String(text) => visitor
                .visit_enum(text.as_str().into_deserializer())
                .map_err(|e: DecodeError| DecodeError { origin: Some(self.0.origin.clone()), ..e }),
            other => Err(DecodeError {
                message: format!("expected a name, found {}", other.type_name()),
                origin: Some(self.0.origin.clone()),
                code: Code::Mistake,
            }),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, ConfigValue>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        self.0.next().map(|node| seed.deserialize(Decoder(node))).transpose()
    }
}

struct Fields<'a> {
    entries: std::vec::IntoIter<(&'a str, &'a ConfigValue)>,
    current: Option<&'a ConfigValue>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.current = Some(node);
        let key: de::value::StrDeserializer<'_, DecodeError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        match self.current.take() {
            Some(node) => seed.deserialize(Decoder(node)),
            None => Err(de::Error::custom("a value before its key")),
        }
    }
}
