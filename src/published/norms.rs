//! Published L2 norms of embedding rows, compiled in: what is known of the weights of models that are not at hand.
//!
//! The rows are those that the reports of *Fishing for Magikarp* (Land and Bartolo, arXiv 2405.05417;
//! github.com/cohere-ai/magikarp) print on their first pages: rare tokens, with norms to six digits. They were
//! transcribed by hand, a part of them twice without a difference; a single row is still fallible.

use std::sync::LazyLock;

use serde::Deserialize;

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/norms.json");

/// The published norms of one model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedNorms {
    /// The model, as its hub names it.
    pub model: String,
    /// The repository and report that print the norms.
    pub source: String,
    /// The commit of that repository.
    pub commit: String,
    /// The vocabulary's size as printed; the embedding may have more rows.
    #[serde(rename = "vocab_size")]
    pub vocab_size_as_printed: u32,
    /// The mean norm of all rows, as printed to three decimals.
    pub mean: f64,
    /// The standard deviation of the norms of all rows, as printed to three decimals.
    pub std: f64,
    /// Token id and L2 norm of the input embedding's row, in the order of the report. Ids do not repeat.
    pub rows: Vec<(u32, f64)>,
}

#[derive(Default, Deserialize)]
struct Embedded {
    records: Vec<PublishedNorms>,
}

/// A test holds that the embedded file parses, so the empty fall-back never shows.
static EMBEDDED: LazyLock<Embedded> = LazyLock::new(|| serde_json::from_str(DATA).unwrap_or_default());

/// Every model with published norms, sorted by name.
pub fn published() -> &'static [PublishedNorms] {
    &EMBEDDED.records
}

/// Pairs of those models that are related by public knowledge: the test is held to all others.
#[cfg(feature = "_internals")]
pub fn known_kin() -> &'static [(String, String)] {
    static PAIRS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let data: serde_json::Value = serde_json::from_str(DATA).unwrap_or_default();
        Vec::deserialize(&data["known_kin"]["pairs"]).unwrap_or_default()
    });
    &PAIRS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_embedded_file_parses_whole() {
        let embedded: Embedded = serde_json::from_str(DATA).unwrap();
        assert_eq!(embedded.records.len(), 64);
        assert_eq!(embedded.records.iter().map(|record| record.rows.len()).sum::<usize>(), 2568);
        assert_eq!(known_kin().len(), 24);
        assert_eq!(published(), embedded.records);
    }

    #[test]
    fn every_record_has_a_source_and_plausible_rows() {
        let models: BTreeSet<_> = published().iter().map(|record| &record.model).collect();
        assert_eq!(models.len(), published().len(), "a model twice");
        for record in published() {
            assert!(record.source.starts_with("github.com/cohere-ai/magikarp"), "{}", record.model);
            assert_eq!(record.commit.len(), 40, "{}", record.model);
            let ids: BTreeSet<u32> = record.rows.iter().map(|row| row.0).collect();
            assert_eq!(ids.len(), record.rows.len(), "{}: an id twice", record.model);
            let largest = ids.last().copied().unwrap_or_default();
            assert!(largest < record.vocab_size_as_printed + 1024, "{}: id {largest}", record.model);
            let norms = record.rows.iter().map(|row| row.1);
            assert!(norms.clone().all(|norm| norm.is_finite() && norm >= 0.0), "{}", record.model);
            assert!(norms.fold(0.0, f64::max) < record.mean, "{}: rare rows are short ones", record.model);
        }
    }

    #[test]
    fn kin_are_models_of_the_list() {
        for (one, other) in known_kin() {
            assert_ne!(one, other);
            for model in [one, other] {
                assert!(published().iter().any(|record| &record.model == model), "{model}");
            }
        }
    }
}
