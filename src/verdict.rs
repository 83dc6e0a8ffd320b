//! From evidence to a verdict: the classes, the thresholds, and the sentence.
//!
//! A class above `shared-initialisation` needs exact equality, or a probability of at most 10⁻¹⁰ after correction for
//! every reference tried together with an effect of at least 5 % of what was looked at. The verdict names both.

pub mod declared;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::{Comparison, PartShare, Test, TestCode};
use crate::math::tails;
use crate::model::Part;

/// What the evidence amounts to, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Too little could be tested.
    Inconclusive,
    /// Structure differs, and no test found anything.
    NoEvidence,
    /// Structure matches; weights were tested and no evidence was found.
    SameArchitecture,
    /// Labels agree, but the weights hardly do: a common starting point.
    SharedInitialisation,
    /// Only named parts match.
    SharesComponents,
    /// Several references explain it together.
    Merged,
    /// Fine-tuned, continued, pruned, extended.
    Derived,
    /// Equal within what a type's grid explains.
    ReEncoded,
    /// Bit for bit after undoing names, order, sharding and lossless changes of type.
    Identical,
}

impl Class {
    /// Every class, strongest first.
    pub const ALL: [Self; 9] = [
        Self::Identical,
        Self::ReEncoded,
        Self::Derived,
        Self::Merged,
        Self::SharesComponents,
        Self::SharedInitialisation,
        Self::SameArchitecture,
        Self::NoEvidence,
        Self::Inconclusive,
    ];

    /// The class as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::ReEncoded => "re-encoded",
            Self::Derived => "derived",
            Self::Merged => "merged",
            Self::SharesComponents => "shares-components",
            Self::SharedInitialisation => "shared-initialisation",
            Self::SameArchitecture => "same-architecture",
            Self::NoEvidence => "no-evidence",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Whether the class says that weights are shared.
    pub fn shares_weights(self) -> bool {
        self >= Self::SharedInitialisation
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Largest log10 p, after correction, with which a label test counts.
pub const MAX_LOG10_P: f64 = -10.0;

/// Smallest effect with which any test counts.
pub const MIN_EFFECT: f64 = 0.05;

/// Below this coverage nothing found is not a finding.
pub const MIN_COVERAGE: f64 = 0.5;

/// Smallest share of the layers' parameters with a counterpart for a whole model to count as derived, not components.
const MIN_LAYERS_MATCHED: f64 = 0.2;

/// Correlation with the counterpart above which weights count as carried over rather than as a common start: a quarter
/// of their variance is explained.
const MIN_CORRELATION: f64 = 0.5;

/// What a comparison amounts to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// The class.
    pub class: Class,
    /// Corrected log10 p of the strongest test that counts; of the strongest tried where none does. Absent where no
    /// test has a null distribution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Effect of the same test, 0 to 1.
    pub effect: f64,
    /// Parts that are shared, for `shares-components`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub components: Vec<Part>,
    /// Why this class, in words.
    pub because: String,
}

/// Tests of labels: each can show common descent by itself.
const LABEL_TESTS: [TestCode; 6] = [
    TestCode::ChannelLabels,
    TestCode::NeuronLabels,
    TestCode::NeuronOrder,
    TestCode::NeuronAgreement,
    TestCode::NeuronShape,
    TestCode::HeadLabels,
];

/// The evidence of a comparison with probabilities corrected for everything that was tried.
struct Evidence<'a> {
    comparison: &'a Comparison,
    tries: u64,
}

impl<'a> Evidence<'a> {
    fn find(&self, code: TestCode) -> Option<&'a Test> {
        self.comparison.tests.iter().find(|test| test.code == code && test.applicable)
    }

    /// Corrected for the references, and for the number of label tests.
    fn log10_p(&self, test: &Test) -> Option<f64> {
        let tests = if LABEL_TESTS.contains(&test.code) { LABEL_TESTS.len() as u64 } else { 1 };
        test.log10_p.map(|p| tails::log10_corrected(p, self.tries.saturating_mul(tests)))
    }

    fn labels(&self) -> impl Iterator<Item = &'a Test> {
        LABEL_TESTS.into_iter().filter_map(|code| self.find(code))
    }

    /// The label test with the smallest p; one whose p counts as zero beyond the largest effect.
    fn strongest(&self) -> Option<&'a Test> {
        let p = |test: &&Test| self.log10_p(test).unwrap_or(0.0);
        self.labels().min_by(|a, b| p(a).total_cmp(&p(b)))
    }

    fn improbable(&self) -> bool {
        self.strongest().and_then(|test| self.log10_p(test)).is_some_and(|p| p <= MAX_LOG10_P)
    }

    fn effect(&self, code: TestCode) -> f64 {
        self.find(code).map_or(0.0, |test| test.effect)
    }

    /// Whether trained weights are shared, and not a starting point alone: something is equal, or a part is mostly
    /// explained by its counterpart, or profiles of channels or neurons in the token frame agree, or heads do alike.
    fn carries_weights(&self) -> bool {
        self.comparison.bits.accounted_share >= MIN_EFFECT
            || self.comparison.parts.iter().any(|share| share.matched >= 0.5 && share.correlation >= MIN_CORRELATION)
            || self.effect(TestCode::ChannelLabels) >= MIN_EFFECT
            || self.effect(TestCode::NeuronAgreement) >= MIN_EFFECT
            || self.effect(TestCode::NeuronShape) >= MIN_EFFECT
            || self.effect(TestCode::HeadLabels) >= MIN_CORRELATION * MIN_CORRELATION
    }
}

/// Judges a comparison; `tries` is the number of references that were tested, for the correction.
pub fn judge(comparison: &Comparison, tries: u64) -> Judgement {
    let evidence = Evidence { comparison, tries };
    let bits = &comparison.bits;
    let exact = evidence.find(TestCode::Bits);
    if let Some(test) = exact.filter(|_| bits.tensors > 0 && bits.reference_whole) {
        let class = match (bits.equal == bits.tensors, bits.equal + bits.re_encoded == bits.tensors) {
            (true, _) => Some(Class::Identical),
            (_, true) => Some(Class::ReEncoded),
            _ => None,
        };
        if let Some(class) = class {
            return judgement(class, test, evidence.log10_p(test), test.says.clone());
        }
    }
    let strongest = evidence.strongest().filter(|_| evidence.improbable());
    if let Some(test) = strongest.filter(|_| !evidence.carries_weights()) {
        let profiles = 100.0 * evidence.effect(TestCode::ChannelLabels);
        let because = format!("{}, but channel profiles share only {profiles:.1} % of their variance", test.says);
        return judgement(Class::SharedInitialisation, test, evidence.log10_p(test), because);
    }
    let equal = exact.filter(|test| test.effect >= MIN_EFFECT);
    if let Some(test) = strongest.or(equal) {
        let (class, components, why) = extent(&evidence);
        let because = if why.is_empty() { test.says.clone() } else { format!("{}; {why}", test.says) };
        return Judgement { components, ..judgement(class, test, evidence.log10_p(test), because) };
    }
    nothing_found(&evidence)
}

fn judgement(class: Class, test: &Test, log10_p: Option<f64>, because: String) -> Judgement {
    Judgement { class, log10_p, effect: test.effect, components: Vec::new(), because }
}

/// Whether the whole model or only parts have a counterpart.
fn extent(evidence: &Evidence<'_>) -> (Class, Vec<Part>, String) {
    let parts = &evidence.comparison.parts;
    let matched = |wanted: &dyn Fn(Part) -> bool| {
        let (mut hit, mut all) = (0.0, 0.0);
        for share in parts.iter().filter(|share| wanted(share.part)) {
            hit += share.matched * share.parameters as f64;
            all += share.parameters as f64;
        }
        if all > 0.0 { hit / all } else { 0.0 }
    };
    let neurons = [TestCode::NeuronLabels, TestCode::NeuronOrder, TestCode::NeuronAgreement, TestCode::NeuronShape];
    let neurons = neurons.map(|code| evidence.effect(code)).into_iter().fold(0.0, f64::max);
    let layers = matched(&|part| matches!(part, Part::Attention | Part::Mlp)).max(neurons);
    let everything = matched(&|_| true);
    if layers >= MIN_LAYERS_MATCHED || evidence.improbable() && everything < MIN_EFFECT {
        return (Class::Derived, Vec::new(), counterparts(parts, everything, neurons));
    }
    let shared = parts.iter().filter(|share| share.matched >= MIN_EFFECT && share.part != Part::Other);
    let components: Vec<Part> = shared.map(|share| share.part).collect();
    let names: Vec<&str> = components.iter().map(|part| part.as_str()).collect();
    let why = format!("a counterpart was found only for: {}", names.join(", "));
    (Class::SharesComponents, components, why)
}

/// How much corresponds, in words.
fn counterparts(parts: &[PartShare], everything: f64, neurons: f64) -> String {
    let weight = |share: &PartShare| share.matched * share.parameters as f64;
    let all: f64 = parts.iter().map(weight).sum();
    if everything >= MIN_EFFECT {
        let correlation = parts.iter().map(|share| share.correlation * weight(share)).sum::<f64>() / all;
        let share = 100.0 * everything;
        return format!(
            "{share:.0} % of its parameters have a counterpart there, with a mean correlation of {correlation:.2} at \
             equal labels"
        );
    }
    format!(
        "no tensor has a counterpart at equal labels, as after a change of basis or of order, but {:.0} % of sampled \
         neurons have",
        100.0 * neurons
    )
}

fn nothing_found(evidence: &Evidence<'_>) -> Judgement {
    let comparison = evidence.comparison;
    let exact = evidence.find(TestCode::Bits);
    let strongest = evidence.strongest();
    let told = strongest.or(exact);
    let covered = comparison.coverage >= MIN_COVERAGE && exact.is_some();
    let (class, because) = match (covered, comparison.same_blocks, strongest) {
        (false, _, _) => {
            let looked = 100.0 * comparison.coverage;
            (Class::Inconclusive, format!("only {looked:.0} % of the parameters could be looked at"))
        }
        (true, true, Some(test)) => (Class::SameArchitecture, test.says.clone()),
        (true, true, None) => {
            (Class::Inconclusive, "blocks have the same shapes, but no test of labels applies".to_owned())
        }
        (true, false, None) if comparison.same_family => {
            let what = "no tensor is equal, and no test of labels applies to these two models of one family";
            (Class::Inconclusive, what.to_owned())
        }
        (true, false, _) => (Class::NoEvidence, told.map(|test| test.says.clone()).unwrap_or_default()),
    };
    let log10_p = told.and_then(|test| evidence.log10_p(test));
    let effect = told.map_or(0.0, |test| test.effect);
    Judgement { class, log10_p, effect, components: Vec::new(), because }
}
