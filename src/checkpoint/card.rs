//! The model card: its front matter, and the models that its text speaks of.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::DuplicateKeyPolicy;

use crate::format::Card;
use crate::limits::MAX_FRONT_MATTER_BYTES;
use crate::text::shown;

/// The YAML between the `---` lines at the top, if the text begins with such, and the text behind it. Without a line that
/// ends it there is no front matter, as hubs have it.
///
/// # Errors
/// In words, if it is too long.
pub(super) fn split(text: &str) -> Result<(Option<&str>, &str), String> {
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
    let Some((_, body)) = text.split_once('\n').filter(|(first, _)| first.trim_end() == "---") else {
        return Ok((None, text));
    };
    let mut end = 0;
    for line in body.split_inclusive('\n') {
        if matches!(line.trim_end(), "---" | "...") {
            return Ok((Some(&body[..end]), &body[end + line.len()..]));
        }
        end += line.len();
        if end > MAX_FRONT_MATTER_BYTES {
            return Err(format!("its front matter is longer than the limit of {MAX_FRONT_MATTER_BYTES} bytes"));
        }
    }
    Ok((None, text))
}

/// What front matter states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) card: Card,
    /// Whether it states a key twice, so that other readers may see another value.
    pub(super) stated_twice: bool,
}

/// Reads front matter. Of a key that is stated twice the last value counts, as it does in Python.
///
/// # Errors
/// In words, if it is no YAML, or not what a card has.
pub(super) fn parse(yaml: &str) -> Result<Parsed, String> {
    #[derive(Deserialize)]
    struct Declared {
        #[serde(default)]
        base_model: Names,
        #[serde(default)]
        base_model_relation: Names,
        #[serde(default)]
        license: Names,
    }

    if yaml.trim().is_empty() {
        return Ok(Parsed::default());
    }
    let read = |duplicate_keys| {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_documents: 1, max_depth: 32, max_nodes: 20_000, max_aliases: 100 },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 10_000 },
            with_snippet: false,
            duplicate_keys: duplicate_keys,
        };
        serde_saphyr::from_str_with_options::<Declared>(yaml, options)
    };
    let strict = read(DuplicateKeyPolicy::Error);
    let stated_twice = strict.is_err();
    let declared = strict
        .or_else(|_| read(DuplicateKeyPolicy::LastWins))
        .map_err(|error| format!("its front matter is not what a card has: {}", shown(&error.to_string())))?;
    let joined = |names: Names| (!names.0.is_empty()).then(|| names.0.join(", "));
    let card = Card {
        base_models: declared.base_model.0,
        relation: joined(declared.base_model_relation),
        license: joined(declared.license),
    };
    Ok(Parsed { card, stated_twice })
}

/// A string, a list of strings, or nothing; blank ones are dropped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names(Vec<String>);

impl Names {
    fn push(&mut self, name: &str) {
        let name = name.trim();
        if !name.is_empty() {
            self.0.push(name.to_owned());
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a list of names")
            }

            fn visit_unit<E>(self) -> Result<Names, E> {
                Ok(Names::default())
            }

            fn visit_str<E>(self, name: &str) -> Result<Names, E> {
                let mut names = Names::default();
                names.push(name);
                Ok(names)
            }

            /// Some write the name and more beside it.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" | "id" | "model" => names.push(&map.next_value::<Option<String>>()?.unwrap_or_default()),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                if names.0.is_empty() { Err(A::Error::custom("names no model")) } else { Ok(names) }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(name) = seq.next_element::<Option<String>>()? {
                    names.push(&name.unwrap_or_default());
                }
                Ok(names)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

/// Most names that are taken from the text of a card.
const MAX_MENTIONS: usize = 100;

/// Names of models in lines of a text that speak of an origin, each once and in order.
pub(super) fn mentions(text: &str) -> Vec<String> {
    const ORIGIN: [&str; 8] =
        ["tuned", "based on", "base model", "derived from", "quanti", "merge of", "initialized from", "trained from"];
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let lower = line.to_lowercase();
        if !ORIGIN.iter().any(|words| lower.contains(words)) {
            continue;
        }
        let ends = |c: char| c.is_whitespace() || "()[]<>{}\"'`*,;|!".contains(c);
        for word in line.split(ends).map(|word| word.trim_matches(['.', ':'])) {
            let (parts, is_address) = (word.split('/').count(), word.contains("://"));
            let is_plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c));
            let is_name =
                parts == 2 && word.contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-');
            let is_labelled = parts == 1 && word.contains('-') && lower.trim_start().starts_with("base model:");
            if is_plain && (is_name || is_address || is_labelled) && found.len() < MAX_MENTIONS {
                found.insert(word.to_owned());
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn card(text: &str) -> Result<Option<Card>, String> {
        split(text).and_then(|(yaml, _)| Ok(yaml.map(parse).transpose()?.map(|parsed| parsed.card)))
    }

    #[test]
    fn base_models_are_a_name_or_a_list() {
        let one = card("---\nlicense: mit\nbase_model: org/name\ntags: [a, {b: c}]\n---\n# text\n").unwrap().unwrap();
        assert_eq!(one.base_models, ["org/name"]);
        assert_eq!(one.license.as_deref(), Some("mit"));
        let two = card("\u{feff}\n---\r\nbase_model:\r\n- a\r\n- b\r\nbase_model_relation: merge\r\n---\r\n");
        let two = two.unwrap().unwrap();
        assert_eq!(two.base_models, ["a", "b"]);
        assert_eq!(two.relation.as_deref(), Some("merge"));
        for none in ["---\nbase_model:\n---\n", "---\nbase_model: []\n---\n", "---\n---\n", "---\ntags: x\n---"] {
            assert_eq!(card(none).unwrap().unwrap().base_models, [""; 0], "{none:?}");
        }
        let licenses = card("---\nlicense:\n- mit\n- apache-2.0\n---\n").unwrap().unwrap();
        assert_eq!(licenses.license.as_deref(), Some("mit, apache-2.0"));
    }

    #[test]
    fn text_without_front_matter_declares_nothing() {
        for text in
            ["", "# title\n---\nbase_model: x\n---\n", "----\nbase_model: x\n---\n", "---", "---\nbase_model: x\n"]
        {
            assert_eq!(card(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn broken_front_matter_is_an_error_not_a_panic() {
        let endless = format!("---\n{}\n---\n", "a: b\n".repeat(MAX_FRONT_MATTER_BYTES));
        assert!(card(&endless).unwrap_err().contains("longer than the limit"));
        let deep = format!("---\nx: {}\n---\n", "[".repeat(20_000));
        let bomb = "---\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
                    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nbase_model: [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n---\n";
        for text in ["---\nbase_model: [x\n---\n", "---\nbase_model: {a: b}\n---\n", "---\n\tx\n---\n", &deep, bomb] {
            assert!(card(text).is_err(), "{}", &text[..40.min(text.len())]);
        }
    }

    #[test]
    fn the_last_of_two_values_counts_and_is_told() {
        let parsed = parse("base_model: a\nbase_model: b\n").unwrap();
        assert_eq!((parsed.card.base_models, parsed.stated_twice), (vec!["b".to_owned()], true));
        assert!(!parse("base_model: {name: a, relation: finetune}\n").unwrap().stated_twice);
    }

    #[test]
    fn models_are_mentioned_where_a_line_speaks_of_origin() {
        let text = "# M\nFine-tuned from [x/A](https://huggingface.co/x/A).\n\n| x/B | 0.5 |\nBase model: **y/C**, and/or d.\n\
                    This is based on `z/D-7B`!\nbase model: E-1\n";
        assert_eq!(mentions(text), ["E-1", "https://huggingface.co/x/A", "x/A", "y/C", "z/D-7B"]);
        assert_eq!(mentions("Results of x/A and of x/B.\n"), [""; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_card_makes_the_parser_panic(text in "(---\n)?([a-z_*&\\[\\]{}:,\"'|>!%@#\n -]|base_model: ){0,80}(\n---\n)?") {
            let _ = card(&text);
        }
    }
}
