//! Blocks of released architectures that features of a transformer do not tell: recurrences, convolutions, gates and norms
//! of other kinds, by the names and the ranks of a layer's tensors.
//!
//! The sizes of a model are no part of its block. A block is known by all that lies in its layers: one name more or less,
//! and it is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::Family;

/// The embedded data, as JSON.
pub(crate) const DATA: &str = include_str!("../data/blocks.json");

/// A released architecture, as the header of one of its checkpoints shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// `model_type` of its configuration.
    pub name: String,
    /// The family that is told.
    pub family: String,
    /// The family whose shapes it has in the same numbers, though it is another one: where norms stand, or in which order
    /// projections work, is no matter of shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looks_like: Option<String>,
    /// What lies in its layers: a name behind the number of the layer, the rank, and `d` if an axis has the width of the
    /// residual stream.
    pub layer: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
struct Data {
    about: String,
    records: Vec<Record>,
}

/// What lies in the layers of a checkpoint: the shapes under each name behind the number of the layer.
pub type Kinds<'a> = BTreeMap<String, BTreeSet<&'a [u64]>>;

/// Every record, by name.
pub fn records() -> &'static [Record] {
    static CELL: OnceLock<Vec<Record>> = OnceLock::new();
    CELL.get_or_init(|| {
        #[expect(clippy::expect_used, reason = "the data are part of the program, and a test parses them")]
        serde_json::from_str::<Data>(DATA).expect("embedded blocks parse").records
    })
}

/// The name of a family that only records have.
pub(super) fn family_named(name: &str) -> Option<&'static str> {
    records().iter().map(|record| record.family.as_str()).find(|family| *family == name)
}

/// The family whose block these tensors make; none where several families have blocks that look like it.
pub fn told(kinds: &Kinds<'_>) -> Option<Family> {
    let mut families = records().iter().filter(|record| record.fits(kinds)).map(|record| record.family.as_str());
    let first = families.next()?;
    families.all(|family| family == first).then(|| Family::named(first)).flatten()
}

/// Whether shapes alone cannot tell this family from another one.
pub fn has_look_alike(family: Family) -> bool {
    records().iter().any(|record| record.looks_like.as_deref() == Some(family.as_str()))
}

/// How a kind of tensor is recorded.
fn describe(rank: usize, of_width: bool) -> String {
    format!("{rank}{}", if of_width { "d" } else { "" })
}

impl Record {
    /// Whether these tensors, all of them and no others, make the block. Its ranks must be theirs, and there must be a
    /// width that all tensors have which touch the stream. A matrix that does not may have it by chance; a vector of it
    /// would be a norm or a bias that the block lacks.
    pub fn fits(&self, kinds: &Kinds<'_>) -> bool {
        if self.layer.is_empty() || !self.layer.keys().eq(kinds.keys()) {
            return false;
        }
        let mut widths: Option<BTreeSet<u64>> = None;
        for (kind, shapes) in self.layer.values().zip(kinds.values()).filter(|(kind, _)| kind.ends_with('d')) {
            for shape in shapes {
                let axes: BTreeSet<u64> = shape.iter().copied().collect();
                widths =
                    Some(widths.map_or_else(|| axes.clone(), |known| known.intersection(&axes).copied().collect()));
            }
            if !shapes.iter().all(|shape| describe(shape.len(), true) == *kind) {
                return false;
            }
        }
        let other = |width: u64| {
            self.layer.values().zip(kinds.values()).filter(|(kind, _)| !kind.ends_with('d')).all(|(kind, shapes)| {
                shapes.iter().all(|shape| describe(shape.len(), false) == *kind && **shape != [width])
            })
        };
        widths.is_some_and(|widths| widths.into_iter().any(other))
    }
}

/// Records from headers, which the tests write.
#[cfg(any(test, feature = "_internals"))]
mod learn {
    use super::{BTreeSet, Kinds, Record, describe};

    impl Record {
        /// The record of a checkpoint whose residual stream has this width.
        pub fn learn(name: &str, family: &str, kinds: &Kinds<'_>, width: u64) -> Self {
            let kind = |shapes: &BTreeSet<&[u64]>| {
                let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
                describe(rank, shapes.iter().all(|shape| shape.contains(&width)))
            };
            let layer = kinds.iter().map(|(name, shapes)| (name.clone(), kind(shapes))).collect();
            Self { name: name.to_owned(), family: family.to_owned(), looks_like: None, layer }
        }
    }

    /// The data file that holds these records.
    pub fn to_json(records: &[Record]) -> serde_json::Result<String> {
        const ABOUT: &str = "What lies in the layers of released architectures: name behind the layer's number, rank, d for an \
                             axis of the residual stream's width. Learned from fixtures/headers; README.md has the sources.";
        let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let about = serde_json::to_string(ABOUT)?;
        Ok(format!("{{\"about\":{about},\n\"records\":[\n{}\n]}}\n", lines.join(",\n")))
    }
}

#[cfg(feature = "_internals")]
pub use learn::to_json;

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds<'a>(rows: &[(&str, &'a [u64])]) -> Kinds<'a> {
        let mut kinds = Kinds::new();
        for (name, shape) in rows {
            kinds.entry((*name).to_owned()).or_default().insert(*shape);
        }
        kinds
    }

    #[test]
    fn a_block_is_known_at_another_size_and_not_with_one_name_more_or_less() {
        let small = [("norm", &[8][..]), ("mix.in", &[32, 8]), ("mix.decay", &[16, 4]), ("mix.out", &[8, 16])];
        let record = Record::learn("mixer", "mixer", &kinds(&small), 8);
        assert!(record.fits(&kinds(&small)));
        let large = [("norm", &[16][..]), ("mix.in", &[96, 16]), ("mix.decay", &[48, 4]), ("mix.out", &[16, 48])];
        assert!(record.fits(&kinds(&large)));
        assert!(!record.fits(&kinds(&large[..3])));
        let with_bias: Vec<_> = large.into_iter().chain([("mix.bias", &[48][..])]).collect();
        assert!(!record.fits(&kinds(&with_bias)));
    }

    #[test]
    fn names_do_not_make_a_block_of_tensors_that_share_no_width() {
        let own = [("norm", &[8][..]), ("mix.in", &[32, 8]), ("mix.decay", &[16, 4]), ("mix.gain", &[16])];
        let record = Record::learn("mixer", "mixer", &kinds(&own), 8);
        for wrong in [
            [("norm", &[8][..]), ("mix.in", &[32, 16]), ("mix.decay", &[16, 4]), ("mix.gain", &[16])],
            [("norm", &[8][..]), ("mix.in", &[32, 8]), ("mix.decay", &[16, 4, 1]), ("mix.gain", &[16])],
            [("norm", &[8][..]), ("mix.in", &[32, 8]), ("mix.decay", &[16, 4]), ("mix.gain", &[8])],
        ] {
            assert!(!record.fits(&kinds(&wrong)), "{wrong:?}");
        }
    }

    #[test]
    fn every_record_names_a_family_and_what_it_looks_like_is_one() {
        for record in records() {
            assert!(Family::named(&record.family).is_some(), "{}", record.name);
            assert!(record.looks_like.iter().all(|family| Family::named(family).is_some()), "{}", record.name);
            assert!(!record.layer.is_empty(), "{}", record.name);
        }
    }
}
