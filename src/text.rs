//! How messages and reports show what a file says: its names, its digest, and where in its JSON an error lies; and JSON
//! objects in the order in which they were written.

pub(crate) mod json;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// The entries of an object in their own order, which JSON values of themselves do not keep. Errors call it `what`.
pub(crate) fn in_order<'de, D, V>(deserializer: D, what: &'static str) -> Result<Vec<(String, V)>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Entries<V>(&'static str, PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
        type Value = Vec<(String, V)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Entries(what, PhantomData))
}

/// The byte of `text` at which `error` was raised.
pub(crate) fn byte_of(text: &[u8], error: &serde_json::Error) -> u64 {
    let line_start = match error.line() {
        0 | 1 => 0,
        line => text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(line - 2)
            .map_or(0, |(newline, _)| newline + 1),
    };
    (line_start + error.column().saturating_sub(1)) as u64
}

/// What `error` says, shortened, without line and column.
pub(crate) fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    shorten(text.strip_suffix(&place).unwrap_or(&text)).into_owned()
}

/// A name out of a file as messages show it: in backticks, control characters escaped, shortened.
pub(crate) fn shown(name: &str) -> String {
    format!("`{}`", shorten(name).escape_debug())
}

/// The first ten names as messages show them, and how many there are besides.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 10;
    let mut text = names.iter().take(MOST).map(|name| shown(name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text.push_str(&format!(" and {} more", names.len() - MOST));
    }
    text
}

/// A digest in lowercase hexadecimal.
pub(crate) fn hex(digest: &[u8]) -> String {
    HEXLOWER.encode(digest)
}

/// The bytes that hexadecimal digits of either case stand for, if it is nothing but pairs of them.
pub(crate) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()
}

fn shorten(text: &str) -> Cow<'_, str> {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => Cow::Owned(format!("{}…", &text[..cut])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_of_an_error_is_counted_over_lines() {
        for (text, at) in [("{\"a\":x}", 5), ("{\n\n \"a\":x}", 8)] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            assert_eq!(byte_of(text.as_bytes(), &error), at, "{text}: {error}");
            assert_eq!(message(&error), "expected value");
        }
    }

    #[test]
    fn hexadecimal_is_pairs_of_digits_and_nothing_else() {
        assert_eq!(hex(&[0, 0x7f, 0xab]), "007fab");
        assert_eq!(from_hex("007fAB"), Some(vec![0, 0x7f, 0xab]));
        assert!(["0x7f", "7f0", "7g", " 7f", "7f\n"].iter().all(|digits| from_hex(digits).is_none()));
    }

    #[test]
    fn names_are_escaped_shortened_and_counted() {
        assert_eq!(shown("a\u{1b}[2J"), "`a\\u{1b}[2J`");
        assert_eq!(shown(&"ä".repeat(5000)).chars().count(), 203);
        let names: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(listed(&names), "`0`, `1`, `2`, `3`, `4`, `5`, `6`, `7`, `8`, `9` and 2 more");
    }
}
