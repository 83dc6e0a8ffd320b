//! Compares a suspect with a reference: tests that yield evidence, and which tensor corresponds to which.
//!
//! Everything here is a typed fact. What the evidence amounts to is the verdict's work, and its sentences are the report's.

pub mod bits;
pub mod changes;
pub mod channels;
pub mod content;
pub mod counterparts;
pub mod coverage;
pub mod facts;
pub mod heads;
pub(crate) mod kind;
pub mod matching;
pub mod neurons;
pub mod norms;
pub mod published;
pub mod screen;
mod search;
pub mod shape;

pub use self::changes::Change;
pub use self::coverage::{Compared, Coverage};
pub use self::facts::{Evidence, Facts, Measure, WhyNot};
pub use self::kind::TestKind;
use crate::fingerprint::{Fingerprint, TensorFingerprint};
use crate::model::known::{self, Agreement};
use crate::model::{Part, Role};

/// How much of a part of the suspect has a counterpart in the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartShare {
    /// Which part.
    pub part: Part,
    /// Parameters of the suspect in it that could be compared.
    pub parameters: u64,
    /// Share of them in tensors with a counterpart, 0 to 1.
    pub matched: f64,
    /// Correlation of sampled values with the counterpart's at equal labels, averaged over matched parameters.
    pub correlation: f64,
}

impl PartShare {
    /// Parameters with a counterpart.
    pub(crate) fn matched_parameters(&self) -> f64 {
        self.matched * self.parameters as f64
    }
}

/// Share of the parameters of these parts that have a counterpart, 0 to 1.
pub(crate) fn matched_share<'a>(parts: impl IntoIterator<Item = &'a PartShare>) -> f64 {
    let (mut matched, mut all) = (0.0, 0.0);
    for share in parts {
        matched += share.matched_parameters();
        all += share.parameters as f64;
    }
    if all > 0.0 { matched / all } else { 0.0 }
}

/// How much of a layer of the suspect has its counterpart in a layer of the reference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerShare {
    /// Layer of the reference.
    pub reference: u32,
    /// Layer of the suspect.
    pub suspect: u32,
    /// Share of the suspect layer's parameters whose counterpart lies in that layer, 0 to 1.
    pub share: f64,
}

/// All that was found out about one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Each test's evidence.
    pub evidence: Vec<Evidence>,
    /// Tensors of the suspect that have a counterpart.
    pub matches: Vec<matching::Match>,
    /// Totals over digests.
    pub bits: bits::Bits,
    /// Runs of values in common; `None` where the test does not apply.
    pub content: Option<content::Content>,
    /// Parts of the suspect with the share that has a counterpart.
    pub parts: Vec<PartShare>,
    /// Layers of the suspect with the layer of the reference in which most of their counterparts lie.
    pub layers: Vec<LayerShare>,
    /// What was done to the reference, if the suspect descends from it.
    pub changes: Vec<Change>,
    /// Share of the reference's parameters that is its embedding.
    pub reference_embedding: f64,
    /// Whether block shapes agree: everything in the architecture record but the vocabulary and the number of layers.
    pub same_blocks: bool,
    /// Whether the architectures are of one family, whatever their sizes.
    pub same_family: bool,
    /// How far it went.
    pub depth: Depth,
    /// Tensors of the suspect that a test with statistics of its own took in.
    pub compared: Compared,
    /// Share of the suspect's weights that are among them, 0 to 1.
    pub coverage: f64,
}

/// How far a comparison goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Only what compares equal labels: digests, channels, sampled values, architecture. Milliseconds.
    Labels,
    /// Neurons and heads as well, wherever they are.
    Full,
}

/// A suspect with what is computed of it once, however many references it is compared with.
pub struct Suspect<'a> {
    fingerprint: &'a Fingerprint,
    scores: channels::Scores,
    rows: bits::RowFilter,
}

impl<'a> Suspect<'a> {
    /// Prepares a suspect.
    pub fn new(fingerprint: &'a Fingerprint) -> Self {
        Self { fingerprint, scores: channels::Scores::of(fingerprint), rows: bits::RowFilter::of(fingerprint) }
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> &'a Fingerprint {
        self.fingerprint
    }
}

/// Compares two fingerprints as far as asked.
pub fn compare(known: &Suspect<'_>, reference: &Fingerprint, depth: Depth) -> Comparison {
    let suspect = known.fingerprint;
    let matches = matching::matches(suspect, reference);
    let bits = bits::totals(suspect, &known.rows, reference, &matches);
    let agreement = known::compare(&suspect.exact.architecture, &reference.exact.architecture);
    let content = content::Content::of(suspect, reference);
    let mut evidence =
        vec![bits.test(suspect), content::Content::test(content), channels::test(suspect, &known.scores, reference)];
    let neurons = match depth {
        Depth::Full => neurons::look(suspect, reference),
        Depth::Labels => neurons::Neurons::unknown(WhyNot::NotSearched),
    };
    evidence.extend(neurons.tests());
    match depth {
        Depth::Full => evidence.extend([shape::test(suspect, reference), heads::test(suspect, reference)]),
        Depth::Labels => {
            let tests = [TestKind::NeuronShape, TestKind::HeadLabels];
            evidence.extend(tests.map(|test| Evidence::not_applicable(test, WhyNot::NotSearched)));
        }
    }
    let compared = Compared::of(suspect, &evidence, &matches);
    let same_blocks = agreement.differs.iter().all(|field| BESIDE_BLOCKS.contains(field));
    evidence.push(architecture(agreement));
    Comparison {
        parts: parts(suspect, reference, &matches),
        layers: clearer(layers(suspect, reference, &matches), neurons.layers()),
        changes: changes::changes(suspect, reference, &neurons),
        same_blocks,
        same_family: suspect.exact.architecture.family == reference.exact.architecture.family,
        depth,
        coverage: compared.share(suspect),
        compared,
        evidence,
        matches,
        bits,
        content: content.ok(),
        reference_embedding: embedding_share(reference),
    }
}

/// The map of layers that finds more of them: by tensors with a counterpart, or by neurons.
fn clearer(by_tensors: Vec<LayerShare>, by_neurons: &[LayerShare]) -> Vec<LayerShare> {
    let found = |layers: &[LayerShare]| layers.iter().map(|layer| layer.share).sum::<f64>();
    if found(&by_tensors) >= found(by_neurons) && !by_tensors.is_empty() { by_tensors } else { by_neurons.to_vec() }
}

/// Fields in which models of the same blocks may differ.
const BESIDE_BLOCKS: [&str; 5] = ["family", "layers", "vocab_size", "tied", "position_embeddings"];

fn architecture(agreement: Agreement) -> Evidence {
    let Agreement { fields, equal, differs } = agreement;
    let measure = Measure {
        statistic: equal as f64,
        n: fields as u64,
        log10_p: None,
        effect: equal as f64 / (fields as f64).max(1.0),
        facts: Facts::Architecture { fields, equal, differs },
    };
    Evidence::measured(TestKind::Architecture, measure)
}

/// Share of a model's parameters that could be compared in its embedding and output head.
fn embedding_share(fingerprint: &Fingerprint) -> f64 {
    let (mut all, mut embedding) = (0.0, 0.0);
    for tensor in fingerprint.exact.tensors.iter().filter(|tensor| tensor.informative().is_some()) {
        let elements = tensor.elements() as f64;
        all += elements;
        if Part::of(&tensor.assignment.roles) == Part::Embedding {
            embedding += elements;
        }
    }
    if all > 0.0 { embedding / all } else { 0.0 }
}

/// Whether it says how codes become weights, as scales and code books do: how large it is says nothing of a part.
fn is_of_codes(tensor: &TensorFingerprint) -> bool {
    matches!(tensor.assignment.roles[..], [Role::Quant | Role::QuantScale | Role::QuantBias])
}

fn parts(suspect: &Fingerprint, reference: &Fingerprint, matches: &[matching::Match]) -> Vec<PartShare> {
    let mut shares: std::collections::BTreeMap<Part, (u64, u64, f64)> = std::collections::BTreeMap::new();
    let mut counterpart = vec![None; suspect.exact.tensors.len()];
    for found in matches {
        counterpart[found.suspect] = Some(found);
    }
    for (tensor, found) in suspect.exact.tensors.iter().zip(counterpart) {
        if tensor.informative().is_none() || !tensor.dtype.is_float() || is_of_codes(tensor) {
            continue;
        }
        let own = Part::of(&tensor.assignment.roles);
        // The counterpart's role speaks where the suspect's own could not be settled.
        let part =
            found.map_or(own, |found| match Part::of(&reference.exact.tensors[found.reference].assignment.roles) {
                Part::Unknown => own,
                part => part,
            });
        let (all, matched, correlation) = shares.entry(part).or_default();
        *all += tensor.elements();
        if let Some(found) = found {
            *matched += tensor.elements();
            *correlation += tensor.elements() as f64 * found.correlation;
        }
    }
    let share = |(part, (all, matched, correlation)): (Part, (u64, u64, f64))| PartShare {
        part,
        parameters: all,
        matched: matched as f64 / all as f64,
        correlation: if matched == 0 { 0.0 } else { correlation / matched as f64 },
    };
    shares.into_iter().map(share).collect()
}

fn layers(suspect: &Fingerprint, reference: &Fingerprint, matches: &[matching::Match]) -> Vec<LayerShare> {
    let mut pairs: std::collections::BTreeMap<(u32, u32), u64> = std::collections::BTreeMap::new();
    for found in matches {
        let (ours, theirs) = (&suspect.exact.tensors[found.suspect], &reference.exact.tensors[found.reference]);
        if let (Some(ours_layer), Some(theirs_layer)) = (ours.assignment.layer, theirs.assignment.layer) {
            *pairs.entry((ours_layer, theirs_layer)).or_default() += ours.elements();
        }
    }
    let mut totals: std::collections::BTreeMap<u32, u64> = std::collections::BTreeMap::new();
    for tensor in suspect.exact.tensors.iter().filter(|tensor| tensor.informative().is_some()) {
        if let Some(layer) = tensor.assignment.layer {
            *totals.entry(layer).or_default() += tensor.elements();
        }
    }
    totals
        .into_iter()
        .filter_map(|(layer, total)| {
            let of_layer = pairs.range((layer, 0)..=(layer, u32::MAX));
            let (&(_, from), &shared) =
                of_layer.max_by_key(|&(&(_, from), &shared)| (shared, std::cmp::Reverse(from)))?;
            Some(LayerShare { reference: from, suspect: layer, share: shared as f64 / total as f64 })
        })
        .collect()
}
