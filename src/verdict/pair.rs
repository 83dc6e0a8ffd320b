//! What one comparison amounts to.

use super::VerdictClass;
use super::thresholds::{
    MAX_LOG10_P, MIN_CONTENT, MIN_CORRELATION, MIN_COVERAGE, MIN_EFFECT, MIN_LAYERS_MATCHED, MIN_PART_MATCHED,
};
use crate::evidence::counterparts::Counterparts;
use crate::evidence::{
    Change, Compared, Comparison, Depth, Evidence, Facts, LayerShare, Measure, PartShare, TestKind, matched_share,
};
use crate::math::tails;
use crate::model::Part;

/// A reference, the evidence about it, and what that amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// The reference.
    pub id: String,
    /// What the evidence amounts to for this reference alone.
    pub judgement: Judgement,
    /// Each test's evidence.
    pub evidence: Vec<Evidence>,
    /// What was done to the reference; only where weights are shared.
    pub changes: Vec<Change>,
    /// Layers of the subject with the reference's layer that holds most of their counterparts.
    pub layers: Vec<LayerShare>,
    /// Parts of the subject with the share that has a counterpart; none where only published figures are known.
    pub parts: Vec<PartShare>,
    /// Counterparts by name; only where weights are shared.
    pub counterparts: Counterparts,
    /// Tensors of the subject that were compared with the reference.
    pub compared: Compared,
}

impl Assessment {
    /// Of a reference of which only published figures are known.
    pub fn of_published(id: String, evidence: Evidence, judgement: Judgement) -> Self {
        Self {
            id,
            judgement,
            evidence: vec![evidence],
            changes: Vec::new(),
            layers: Vec::new(),
            parts: Vec::new(),
            counterparts: Counterparts::default(),
            compared: Compared::default(),
        }
    }
}

/// What a comparison amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The class.
    pub class: VerdictClass,
    /// Corrected log10 p of the strongest test that counts; of the strongest tried where none does. Absent where no
    /// test has a null distribution.
    pub log10_p: Option<f64>,
    /// Effect of the same test, 0 to 1.
    pub effect: f64,
    /// Parts that are shared, for `shares-components`.
    pub components: Vec<Part>,
    /// Why this class.
    pub reason: Reason,
}

/// Why a class was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// What one test found.
    Test(Facts),
    /// What one test of labels found, while profiles of channels share little of their variance.
    LabelsAlone {
        /// What the test found.
        labels: Facts,
        /// Share of variance.
        profiles: f64,
    },
    /// What one test found, and how much of the suspect corresponds.
    Extent {
        /// What the test found.
        found: Facts,
        /// How much.
        extent: Extent,
    },
    /// Published norms agree on too few rows for a verdict by themselves.
    FewRows(Facts),
    /// Too small a share of the parameters could be looked at.
    Coverage(f64),
    /// Only a first look was taken.
    Screened,
    /// Blocks have the same shapes, but no test of labels applies.
    NoLabels,
    /// Nothing is equal, and no test of labels applies to two models of one family.
    NoLabelsInFamily,
}

/// How much of a suspect corresponds to a reference.
#[derive(Debug, Clone, PartialEq)]
pub enum Extent {
    /// Tensors have counterparts at equal labels.
    Tensors {
        /// Share of the suspect's parameters.
        share: f64,
        /// Mean correlation with the counterparts.
        correlation: f64,
    },
    /// Neurons have counterparts, no tensor at equal labels.
    Neurons {
        /// Share of sampled neurons.
        share: f64,
    },
    /// Only these parts have.
    Parts(Vec<Part>),
}

/// The evidence of a comparison with probabilities corrected for everything that was tried.
struct Weighed<'a> {
    comparison: &'a Comparison,
    tries: u64,
}

impl<'a> Weighed<'a> {
    fn find(&self, test: TestKind) -> Option<&'a Measure> {
        self.comparison.evidence.iter().find(|evidence| evidence.test == test)?.measure()
    }

    /// Corrected for the references, and for the number of label tests.
    fn log10_p(&self, test: TestKind, measure: &Measure) -> Option<f64> {
        let tests = if test.is_of_labels() { TestKind::of_labels().count() as u64 } else { 1 };
        measure.log10_p.map(|p| tails::log10_corrected(p, self.tries.saturating_mul(tests)))
    }

    /// What a test counts for.
    fn count(&self, test: TestKind, measure: &'a Measure) -> Counted<'a> {
        Counted { measure, log10_p: self.log10_p(test, measure) }
    }

    /// Equality.
    fn exact(&self) -> Option<Counted<'a>> {
        self.find(TestKind::Bits).map(|measure| self.count(TestKind::Bits, measure))
    }

    /// The label test with the smallest p; one whose p counts as zero beyond the largest effect.
    fn strongest(&self) -> Option<Counted<'a>> {
        let labels = TestKind::of_labels().filter_map(|test| Some(self.count(test, self.find(test)?)));
        let p = |counted: &Counted<'_>| counted.log10_p.unwrap_or(0.0);
        labels.min_by(|a, b| p(a).total_cmp(&p(b)))
    }

    fn improbable(&self) -> bool {
        self.strongest().and_then(|counted| counted.log10_p).is_some_and(|p| p <= MAX_LOG10_P)
    }

    fn effect(&self, test: TestKind) -> f64 {
        self.find(test).map_or(0.0, |measure| measure.effect)
    }

    /// Whether trained weights are shared, and not a starting point alone: something is equal, or a part is mostly
    /// explained by its counterpart, or profiles of channels or neurons in the token frame agree, or heads do alike.
    fn carries_weights(&self) -> bool {
        let carried = |part: &PartShare| part.matched >= MIN_PART_MATCHED && part.correlation >= MIN_CORRELATION;
        self.comparison.bits.accounted_share >= MIN_EFFECT
            || self.comparison.parts.iter().any(carried)
            || self.effect(TestKind::ChannelLabels) >= MIN_EFFECT
            || self.effect(TestKind::NeuronAgreement) >= MIN_EFFECT
            || self.effect(TestKind::NeuronShape) >= MIN_EFFECT
            || self.effect(TestKind::HeadLabels) >= MIN_CORRELATION * MIN_CORRELATION
    }
}

/// A measure with its corrected p.
#[derive(Clone, Copy)]
struct Counted<'a> {
    measure: &'a Measure,
    log10_p: Option<f64>,
}

impl Counted<'_> {
    fn facts(&self) -> Facts {
        self.measure.facts.clone()
    }

    fn judged(&self, class: VerdictClass, reason: Reason) -> Judgement {
        Judgement { class, log10_p: self.log10_p, effect: self.measure.effect, components: Vec::new(), reason }
    }
}

/// Judges a comparison; `tries` is the number of references that were tested, for the correction.
pub fn judge(comparison: &Comparison, tries: u64) -> Judgement {
    let weighed = Weighed { comparison, tries };
    let by_tensors = by_tensors(&weighed);
    // Content that lies in other tensors than the reference's says more only where those say less.
    by_content(&weighed).filter(|judgement| judgement.class > by_tensors.class).unwrap_or(by_tensors)
}

/// What runs of values in common amount to, in whatever tensors they lie. Nothing tells which part of the reference they
/// are, so as much of them as can be is taken for its embedding: only the rest speaks for its layers.
fn by_content(weighed: &Weighed<'_>) -> Option<Judgement> {
    let found = weighed.comparison.content?;
    let test = weighed.count(TestKind::Content, weighed.find(TestKind::Content)?);
    let outside = 1.0 - weighed.comparison.reference_embedding;
    let of_layers = (found.of_reference() - weighed.comparison.reference_embedding) / outside;
    if outside > 0.0 && of_layers >= MIN_CONTENT {
        return Some(test.judged(VerdictClass::Derived, Reason::Test(test.facts())));
    }
    let shared = found.of_suspect().max(found.of_reference()) >= MIN_EFFECT;
    shared.then(|| test.judged(VerdictClass::SharesComponents, Reason::Test(test.facts())))
}

fn by_tensors(weighed: &Weighed<'_>) -> Judgement {
    let comparison = weighed.comparison;
    let exact = weighed.exact();
    if let Some((exact, class)) = exact.zip(equality(comparison)) {
        return exact.judged(class, Reason::Test(exact.facts()));
    }
    let strongest = weighed.strongest().filter(|_| weighed.improbable());
    if let Some(test) = strongest.filter(|_| !weighed.carries_weights()) {
        let profiles = weighed.effect(TestKind::ChannelLabels);
        let reason = Reason::LabelsAlone { labels: test.facts(), profiles };
        return test.judged(VerdictClass::SharedInitialisation, reason);
    }
    let equal = exact.filter(|exact| exact.measure.effect >= MIN_EFFECT);
    if let Some(test) = strongest.or(equal) {
        let (class, components, extent) = extent(weighed);
        let reason = Reason::Extent { found: test.facts(), extent };
        return Judgement { components, ..test.judged(class, reason) };
    }
    nothing_found(weighed)
}

/// The class of a suspect whose every tensor is accounted for by equality.
fn equality(comparison: &Comparison) -> Option<VerdictClass> {
    let bits = &comparison.bits;
    if bits.tensors == 0 || !bits.reference_whole {
        None
    } else if bits.equal == bits.tensors {
        Some(VerdictClass::Identical)
    } else {
        (bits.equal + bits.re_encoded == bits.tensors).then_some(VerdictClass::ReEncoded)
    }
}

/// Whether the whole model or only parts have a counterpart.
fn extent(weighed: &Weighed<'_>) -> (VerdictClass, Vec<Part>, Extent) {
    let parts = &weighed.comparison.parts;
    let neurons = [TestKind::NeuronLabels, TestKind::NeuronOrder, TestKind::NeuronAgreement, TestKind::NeuronShape];
    let neurons = neurons.map(|test| weighed.effect(test)).into_iter().fold(0.0, f64::max);
    let in_layers = parts.iter().filter(|share| matches!(share.part, Part::Attention | Part::Mlp));
    let (layers, everything) = (matched_share(in_layers).max(neurons), matched_share(parts));
    if layers >= MIN_LAYERS_MATCHED || weighed.improbable() && everything < MIN_EFFECT {
        return (VerdictClass::Derived, Vec::new(), corresponding(parts, everything, neurons));
    }
    let shared = parts.iter().filter(|share| share.matched >= MIN_EFFECT && share.part != Part::Other);
    let components: Vec<Part> = shared.map(|share| share.part).collect();
    (VerdictClass::SharesComponents, components.clone(), Extent::Parts(components))
}

/// How much corresponds: `everything` of the parameters, `neurons` of those sampled.
fn corresponding(parts: &[PartShare], everything: f64, neurons: f64) -> Extent {
    if everything < MIN_EFFECT {
        return Extent::Neurons { share: neurons };
    }
    let all: f64 = parts.iter().map(PartShare::matched_parameters).sum();
    let correlation = parts.iter().map(|share| share.correlation * share.matched_parameters()).sum::<f64>() / all;
    Extent::Tensors { share: everything, correlation }
}

fn nothing_found(weighed: &Weighed<'_>) -> Judgement {
    let comparison = weighed.comparison;
    let (exact, strongest) = (weighed.exact(), weighed.strongest());
    let told = strongest.or(exact);
    let (class, reason) = match (exact.filter(|_| comparison.coverage >= MIN_COVERAGE), strongest) {
        _ if comparison.depth == Depth::Labels => (VerdictClass::Screened, Reason::Screened),
        (None, _) => (VerdictClass::Inconclusive, Reason::Coverage(comparison.coverage)),
        (Some(_), Some(test)) if comparison.same_blocks => (VerdictClass::SameArchitecture, Reason::Test(test.facts())),
        (Some(_), None) if comparison.same_blocks => (VerdictClass::Inconclusive, Reason::NoLabels),
        (Some(_), None) if comparison.same_family => (VerdictClass::Inconclusive, Reason::NoLabelsInFamily),
        (Some(exact), strongest) => (VerdictClass::NoEvidence, Reason::Test(strongest.unwrap_or(exact).facts())),
    };
    Judgement {
        class,
        log10_p: told.and_then(|told| told.log10_p),
        effect: told.map_or(0.0, |told| told.measure.effect),
        components: Vec::new(),
        reason,
    }
}

/// Judges published embedding norms that a subject carries; `tries` is the number of lists and embeddings that were held
/// against each other. They are about the embedding alone.
pub fn judge_norms(measure: &Measure, tries: u64) -> Judgement {
    let log10_p = measure.log10_p.map(|p| tails::log10_corrected(p, tries));
    let counted = Counted { measure, log10_p };
    if log10_p.is_some_and(|p| p <= MAX_LOG10_P) && measure.effect >= MIN_EFFECT {
        let components = vec![Part::Embedding];
        return Judgement {
            components,
            ..counted.judged(VerdictClass::SharesComponents, Reason::Test(counted.facts()))
        };
    }
    counted.judged(VerdictClass::Inconclusive, Reason::FewRows(counted.facts()))
}

/// Judges published digests that files of a subject have. A cryptographic digest leaves no doubt: all files of a model and
/// nothing else are the model; some of them are so much of it.
pub fn judge_digests(measure: &Measure) -> Judgement {
    let counted = Counted { measure, log10_p: measure.log10_p };
    let is_whole = matches!(&measure.facts, Facts::PublishedDigests(found) if found.is_whole() && found.is_model);
    let class = if is_whole { VerdictClass::Identical } else { VerdictClass::SharesComponents };
    counted.judged(class, Reason::Test(counted.facts()))
}
