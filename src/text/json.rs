//! JSON as Python writes and reads it: the files beside a model are made and loaded by Python's `json`, which takes more
//! than the standard has.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// The numbers that only Python's JSON has.
const NOT_FINITE: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// The same JSON as the standard has it: a mark of the byte order becomes blanks, and numbers that are not finite become
/// null. Places stay where they were, but for one byte behind each `NaN`.
pub(crate) fn tolerant(json: &[u8]) -> Cow<'_, [u8]> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let is_odd = json.starts_with(MARK) || NOT_FINITE[1..].iter().any(|word| contains(json, word));
    if !is_odd {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut rest = match json.strip_prefix(MARK) {
        Some(rest) => {
            out.extend_from_slice(b"   ");
            rest
        }
        None => json,
    };
    let mut in_text = false;
    while let Some((&byte, after)) = rest.split_first() {
        if in_text {
            let taken = if byte == b'\\' { rest.len().min(2) } else { 1 };
            in_text = byte != b'"';
            out.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            continue;
        }
        match NOT_FINITE.iter().find(|word| is_word(rest, word, out.last().copied())) {
            Some(word) => {
                out.extend_from_slice(b"null");
                out.resize(out.len() + word.len().saturating_sub(4), b' ');
                rest = &rest[word.len()..];
            }
            None => {
                in_text = byte == b'"';
                out.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Whether `text` begins with this word and nothing that would make it another, given the byte in front of it.
fn is_word(text: &[u8], word: &[u8], before: Option<u8>) -> bool {
    let joins = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.');
    text.starts_with(word) && !text.get(word.len()).is_some_and(joins) && !before.as_ref().is_some_and(joins)
}

/// The first key that an object of this JSON states twice; `None` as well where it is no JSON.
pub(crate) fn stated_twice(json: &[u8]) -> Option<String> {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // What is no JSON is told by whoever reads it.
    let _ = Keys(&mut found).deserialize(&mut deserializer);
    found
}

struct Keys<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Keys(&mut *self.0))?;
            if keys.contains(&key) {
                self.0.get_or_insert_with(|| key.clone());
            }
            keys.insert(key);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Keys(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        String::from_utf8(tolerant(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn what_only_python_takes_is_read_and_texts_stay_as_they_are() {
        assert_eq!(read("\u{feff}{\"a\":1}"), "   {\"a\":1}");
        assert_eq!(read(r#"[NaN, Infinity,-Infinity]"#), "[null, null    ,null     ]");
        for same in [r#"{"NaN":"Infinity \" NaN"}"#, r#"["a\\", 1]"#, "[NaNs]", "[-NaN]", "[1NaN]", "{", ""] {
            assert_eq!(read(same), same);
        }
        assert_eq!(read(r#"["\\",NaN]"#), r#"["\\",null]"#);
    }

    #[test]
    fn keys_that_are_stated_twice_are_found_at_any_depth() {
        assert_eq!(stated_twice(br#"{"a":[{"b":1,"c":2,"b":{}}]}"#).as_deref(), Some("b"));
        assert_eq!(stated_twice(br#"{"a":{"b":null},"b":1.5e300}"#), None);
        assert_eq!(stated_twice(b"{"), None);
    }
}
