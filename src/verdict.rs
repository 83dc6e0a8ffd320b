//! From evidence to a verdict: the classes, the thresholds, and the sentence.
//!
//! A class above `shared-initialisation` needs exact equality, or a probability of at most 10⁻¹⁰ after correction for
//! every reference tried together with an effect of at least 5 % of what was looked at. The verdict names both.

pub mod declared;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compare::{Comparison, Part, PartShare, Test, TestCode};
use crate::stats::tail;

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

/// Judges a comparison; `tries` is the number of references that were tested, for the correction.
pub fn judge(comparison: &Comparison, tries: u64) -> Judgement {
    let bits = &comparison.bits;
    let log10_p = |test: &Test| test.log10_p.map(|p| tail::log10_corrected(p, tries));
    let find = |code| comparison.tests.iter().find(|test: &&Test| test.code == code && test.applicable);
    let exact = find(TestCode::Bits);
    if let Some(test) = exact.filter(|_| bits.tensors > 0 && bits.reference_whole) {
        let class = match (bits.equal == bits.tensors, bits.equal + bits.re_encoded == bits.tensors) {
            (true, _) => Some(Class::Identical),
            (_, true) => Some(Class::ReEncoded),
            _ => None,
        };
        if let Some(class) = class {
            let because = test.says.clone();
            return Judgement { class, log10_p: log10_p(test), effect: 1.0, components: Vec::new(), because };
        }
    }
    let channels = find(TestCode::ChannelLabels);
    let improbable = channels.filter(|test| log10_p(test).is_some_and(|p| p <= MAX_LOG10_P));
    if let Some(test) = improbable.filter(|test| test.effect < MIN_EFFECT && !carries_weights(comparison)) {
        let because = format!("{}, but that explains only {:.1} % of their variance", test.says, 100.0 * test.effect);
        return judgement(Class::SharedInitialisation, test, log10_p(test), because);
    }
    let equal = exact
        .filter(|test| test.effect >= MIN_EFFECT && bits.equal + bits.re_encoded + u64::from(bits.row_share > 0.0) > 0);
    if let Some(test) = improbable.or(equal) {
        let (class, components, why) = extent(&comparison.parts, improbable.is_some());
        let because = if why.is_empty() { test.says.clone() } else { format!("{}; {why}", test.says) };
        return Judgement { components, ..judgement(class, test, log10_p(test), because) };
    }
    nothing_found(comparison, channels, exact, &log10_p)
}

/// Whether some part is the reference's in more than its starting point: equal, or mostly explained by its counterpart.
fn carries_weights(comparison: &Comparison) -> bool {
    comparison.bits.accounted_share >= MIN_EFFECT
        || comparison.parts.iter().any(|share| share.matched >= 0.5 && share.correlation >= MIN_CORRELATION)
}

fn judgement(class: Class, test: &Test, log10_p: Option<f64>, because: String) -> Judgement {
    Judgement { class, log10_p, effect: test.effect, components: Vec::new(), because }
}

/// Whether the whole model or only parts have a counterpart.
fn extent(parts: &[PartShare], labels_agree: bool) -> (Class, Vec<Part>, String) {
    let matched = |wanted: &dyn Fn(Part) -> bool| {
        let (mut hit, mut all) = (0.0, 0.0);
        for share in parts.iter().filter(|share| wanted(share.part)) {
            hit += share.matched * share.parameters as f64;
            all += share.parameters as f64;
        }
        if all > 0.0 { hit / all } else { 0.0 }
    };
    let layers = matched(&|part| matches!(part, Part::Attention | Part::Mlp));
    let everything = matched(&|_| true);
    if layers >= MIN_LAYERS_MATCHED || labels_agree && everything < MIN_EFFECT {
        let correlation = parts.iter().map(|s| s.correlation * s.matched * s.parameters as f64).sum::<f64>();
        let weight = parts.iter().map(|s| s.matched * s.parameters as f64).sum::<f64>();
        let why = match weight > 0.0 {
            true => format!(
                "{:.0} % of its parameters have a counterpart there, with a mean correlation of {:.2} at equal labels",
                100.0 * everything,
                correlation / weight
            ),
            false => "single tensors could not be told apart".to_owned(),
        };
        return (Class::Derived, Vec::new(), why);
    }
    let shared = parts.iter().filter(|share| share.matched >= MIN_EFFECT && share.part != Part::Other);
    let components: Vec<Part> = shared.map(|share| share.part).collect();
    let names: Vec<&str> = components.iter().map(|part| part.as_str()).collect();
    let why = format!("a counterpart was found only for: {}", names.join(", "));
    (Class::SharesComponents, components, why)
}

fn nothing_found(
    comparison: &Comparison,
    channels: Option<&Test>,
    exact: Option<&Test>,
    log10_p: &dyn Fn(&Test) -> Option<f64>,
) -> Judgement {
    let weights = channels.or(exact);
    let (p, effect) = weights.map_or((None, 0.0), |test| (log10_p(test), test.effect));
    let covered = comparison.coverage >= MIN_COVERAGE && exact.is_some();
    let (class, because) = match (covered, comparison.same_blocks, channels) {
        (false, _, _) => {
            let looked = 100.0 * comparison.coverage;
            (Class::Inconclusive, format!("only {looked:.0} % of the parameters could be looked at"))
        }
        (true, true, Some(test)) => (Class::SameArchitecture, test.says.clone()),
        (true, true, None) => {
            (Class::Inconclusive, "blocks have the same shapes, but no test of labels applies".to_owned())
        }
        (true, false, None) if comparison.same_family => {
            let what = "no tensor is equal, and no test of labels applies to models of one family but unequal width";
            (Class::Inconclusive, what.to_owned())
        }
        (true, false, _) => (Class::NoEvidence, weights.map(|test| test.says.clone()).unwrap_or_default()),
    };
    Judgement { class, log10_p: p, effect, components: Vec::new(), because }
}
