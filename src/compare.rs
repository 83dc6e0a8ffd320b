//! Compares a suspect with a reference: tests that yield evidence, and which tensor corresponds to which.
//!
//! Nothing here decides what the evidence amounts to; that is the verdict's work.

pub mod bits;
mod changes;
pub mod channels;
pub mod heads;
mod lanes;
pub mod matching;
pub mod neurons;
pub mod norms;
pub mod screen;
mod search;
pub mod shape;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::anatomy::Role;
use crate::catalog::architectures::{self, Agreement};
use crate::fingerprint::{Fingerprint, TensorPrint};

/// The tests, by the codes that reports use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestCode {
    /// Equal digests of tensors and rows.
    Bits,
    /// Correlation of the residual channels' profiles, label by label.
    ChannelLabels,
    /// MLP neurons matched by descriptor: pairs with equal labels.
    NeuronLabels,
    /// The order of the matched neurons' labels.
    NeuronOrder,
    /// Neurons that are matched alike by gate, by up and by down.
    NeuronAgreement,
    /// Variance that matched neurons share in matrices that took no part in matching them.
    AlignedWeights,
    /// Strong neurons matched by what does not depend on any frame.
    NeuronShape,
    /// Attention heads matched by their forms: pairs with equal labels.
    HeadLabels,
    /// Embedding norms of rare tokens against published ones.
    PublishedNorms,
    /// Equal fields of the architecture record.
    Architecture,
}

impl TestCode {
    /// Every test, in the order in which reports list them.
    pub const ALL: [Self; 10] = [
        Self::Bits,
        Self::ChannelLabels,
        Self::NeuronLabels,
        Self::NeuronOrder,
        Self::NeuronAgreement,
        Self::AlignedWeights,
        Self::NeuronShape,
        Self::HeadLabels,
        Self::PublishedNorms,
        Self::Architecture,
    ];

    /// The code as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bits => "bits",
            Self::ChannelLabels => "channel-labels",
            Self::NeuronLabels => "neuron-labels",
            Self::NeuronOrder => "neuron-order",
            Self::NeuronAgreement => "neuron-agreement",
            Self::AlignedWeights => "aligned-weights",
            Self::NeuronShape => "neuron-shape",
            Self::HeadLabels => "head-labels",
            Self::PublishedNorms => "published-norms",
            Self::Architecture => "architecture",
        }
    }
}

/// What one test says of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Test {
    /// Which test.
    pub code: TestCode,
    /// Whether its conditions hold for this pair.
    pub applicable: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why_not: Option<String>,
    /// The test's own statistic: equal tensors, correlation, rows on the common ratio, equal fields.
    pub statistic: f64,
    /// What the statistic was taken over: tensors, channels, usable rows, fields.
    pub n: u64,
    /// log10 of the probability of a statistic at least this large for independently trained models, before any
    /// correction for several references. Absent where the test has no null distribution.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log10_p: Option<f64>,
    /// Size of the effect, 0 to 1: the share of what was looked at that agrees.
    pub effect: f64,
    /// The result in words.
    pub says: String,
}

impl Test {
    fn not_applicable(code: TestCode, why: impl Into<String>) -> Self {
        let why = why.into();
        let says = format!("not applicable: {why}");
        Self { code, applicable: false, why_not: Some(why), statistic: 0.0, n: 0, log10_p: None, effect: 0.0, says }
    }
}

/// Parts of a model that can be shared one without another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Token, position and type embeddings, and the output head.
    Embedding,
    /// Query, key, value and output matrices with their biases and norms.
    Attention,
    /// Feed-forward matrices, experts and routers.
    Mlp,
    /// Norm gains and whatever else has a known role.
    Other,
    /// Tensors without a role.
    Unknown,
}

impl Part {
    /// The part as reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }

    /// The part to which tensors of these roles belong; of several, which are alternatives, the first speaks.
    pub fn of(roles: &[Role]) -> Self {
        roles.first().map_or(Self::Unknown, |role| Self::of_role(*role))
    }

    fn of_role(role: Role) -> Self {
        match role {
            Role::TokenEmbd | Role::PosEmbd | Role::TokenTypeEmbd | Role::Output | Role::OutputBias => Self::Embedding,
            Role::AttnQ
            | Role::AttnQBias
            | Role::AttnK
            | Role::AttnKBias
            | Role::AttnV
            | Role::AttnVBias
            | Role::AttnQkv
            | Role::AttnQkvBias
            | Role::AttnO
            | Role::AttnOBias
            | Role::AttnQNorm
            | Role::AttnKNorm
            | Role::AttnQA
            | Role::AttnQANorm
            | Role::AttnQB
            | Role::AttnKvA
            | Role::AttnKvANorm
            | Role::AttnKvB
            | Role::AttnSinks => Self::Attention,
            Role::FfnGate
            | Role::FfnGateBias
            | Role::FfnUp
            | Role::FfnUpBias
            | Role::FfnGateUp
            | Role::FfnDown
            | Role::FfnDownBias
            | Role::Router
            | Role::RouterBias
            | Role::ExpertGate
            | Role::ExpertUp
            | Role::ExpertGateUp
            | Role::ExpertGateUpBias
            | Role::ExpertGateUpScale
            | Role::ExpertDown
            | Role::ExpertDownBias
            | Role::ExpertDownScale
            | Role::SharedExpertGate
            | Role::SharedExpertUp
            | Role::SharedExpertDown
            | Role::SharedExpertRouter => Self::Mlp,
            Role::TokenEmbdNorm
            | Role::TokenEmbdNormBias
            | Role::AttnNorm
            | Role::AttnNormBias
            | Role::PostAttnNorm
            | Role::PostAttnNormBias
            | Role::FfnNorm
            | Role::FfnNormBias
            | Role::PostFfnNorm
            | Role::PostFfnNormBias
            | Role::OutputNorm
            | Role::OutputNormBias
            | Role::RopeFreqs
            | Role::Pooler
            | Role::PoolerBias
            | Role::MlmHead
            | Role::Mtp
            | Role::Quant
            | Role::QuantScale
            | Role::QuantBias
            | Role::Buffer => Self::Other,
        }
    }
}

/// How much of a part of the suspect has a counterpart in the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// How much of a layer of the suspect has its counterpart in a layer of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    pub tests: Vec<Test>,
    /// Tensors of the suspect that have a counterpart.
    pub matches: Vec<matching::Match>,
    /// Totals over digests.
    pub bits: bits::Bits,
    /// Parts of the suspect with the share that has a counterpart.
    pub parts: Vec<PartShare>,
    /// Layers of the suspect with the layer of the reference in which most of their counterparts lie.
    pub layers: Vec<LayerShare>,
    /// What was done to the reference, if the suspect descends from it.
    pub changes: Vec<String>,
    /// Whether block shapes agree: everything in the architecture record but the vocabulary and the number of layers.
    pub same_blocks: bool,
    /// Whether the architectures are of one family, whatever their sizes.
    pub same_family: bool,
    /// Share of the suspect's parameters in tensors that at least one applicable test looked at, 0 to 1.
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

/// Why a test that looks for neurons or heads says nothing at [`Depth::Labels`].
const NOT_SEARCHED: &str = "not looked for: other references match or come nearer";

/// A suspect with what is computed of it once, however many references it is compared with.
pub struct Suspect<'a> {
    print: &'a Fingerprint,
    scores: channels::Scores,
    rows: bits::Rows,
}

impl<'a> Suspect<'a> {
    /// Prepares a suspect.
    pub fn new(print: &'a Fingerprint) -> Self {
        Self { print, scores: channels::Scores::of(print), rows: bits::Rows::of(print) }
    }

    /// Its fingerprint.
    pub fn print(&self) -> &'a Fingerprint {
        self.print
    }
}

/// Compares two fingerprints in full.
pub fn compare(suspect: &Fingerprint, reference: &Fingerprint) -> Comparison {
    compare_to(&Suspect::new(suspect), reference, Depth::Full)
}

/// Compares two fingerprints as far as asked.
pub fn compare_to(known: &Suspect<'_>, reference: &Fingerprint, depth: Depth) -> Comparison {
    let suspect = known.print;
    let matches = matching::matches(suspect, reference);
    let bits = bits::totals(suspect, &known.rows, reference, &matches);
    let agreement = architectures::compare(&suspect.architecture, &reference.architecture);
    let mut tests = vec![bits.test(suspect), channels::test_with(suspect, &known.scores, reference)];
    let neurons = match depth {
        Depth::Full => neurons::look(suspect, reference),
        Depth::Labels => neurons::Neurons::unknown(NOT_SEARCHED),
    };
    tests.extend(neurons.tests());
    match depth {
        Depth::Full => tests.extend([shape::test(suspect, reference), heads::test(suspect, reference)]),
        Depth::Labels => {
            let codes = [TestCode::NeuronShape, TestCode::HeadLabels];
            tests.extend(codes.map(|code| Test::not_applicable(code, NOT_SEARCHED)));
        }
    }
    tests.push(architecture(&agreement));
    Comparison {
        tests,
        parts: parts(suspect, reference, &matches),
        layers: clearer(layers(suspect, reference, &matches), neurons.layers()),
        changes: changes::changes(suspect, reference, &neurons),
        same_blocks: agreement.differs.iter().all(|field| BESIDE_BLOCKS.contains(field)),
        same_family: suspect.architecture.family == reference.architecture.family,
        coverage: coverage(suspect),
        matches,
        bits,
    }
}

/// The map of layers that finds more of them: by tensors with a counterpart, or by neurons.
fn clearer(by_tensors: Vec<LayerShare>, by_neurons: &[LayerShare]) -> Vec<LayerShare> {
    let found = |layers: &[LayerShare]| layers.iter().map(|layer| layer.share).sum::<f64>();
    if found(&by_tensors) >= found(by_neurons) && !by_tensors.is_empty() { by_tensors } else { by_neurons.to_vec() }
}

/// Fields in which models of the same blocks may differ.
const BESIDE_BLOCKS: [&str; 5] = ["family", "layers", "vocab_size", "tied", "position_embeddings"];

fn architecture(agreement: &Agreement) -> Test {
    let Agreement { fields, equal, differs } = agreement;
    let says = match differs.as_slice() {
        [] => format!("all {fields} fields of the architecture record equal"),
        differs => format!("{equal} of {fields} fields equal; differs in {}", differs.join(", ")),
    };
    Test {
        code: TestCode::Architecture,
        applicable: true,
        why_not: None,
        statistic: *equal as f64,
        n: *fields as u64,
        log10_p: None,
        effect: *equal as f64 / (*fields as f64).max(1.0),
        says,
    }
}

/// Share of the suspect's parameters in tensors whose values every fingerprint comparison looks at.
pub fn coverage(suspect: &Fingerprint) -> f64 {
    // What an adapter changes is in its base, so nothing of the model was looked at.
    if !suspect.holds_model() {
        return 0.0;
    }
    // Types that are not decoded may state any shape.
    let sum = |sum: u64, tensor: &TensorPrint| sum.saturating_add(tensor.weights());
    let all = suspect.tensors.iter().filter(|tensor| tensor.counts()).fold(0, sum);
    let seen = suspect.tensors.iter().filter(|tensor| tensor.dtype.is_float() && tensor.informative().is_some());
    let seen = seen.fold(0, sum);
    if all == 0 { 0.0 } else { seen as f64 / all as f64 }
}

fn parts(suspect: &Fingerprint, reference: &Fingerprint, matches: &[matching::Match]) -> Vec<PartShare> {
    let mut shares: std::collections::BTreeMap<Part, (u64, u64, f64)> = std::collections::BTreeMap::new();
    let mut counterpart = vec![None; suspect.tensors.len()];
    for found in matches {
        counterpart[found.suspect] = Some(found);
    }
    for (tensor, found) in suspect.tensors.iter().zip(counterpart) {
        if tensor.informative().is_none() || !tensor.dtype.is_float() {
            continue;
        }
        let own = Part::of(&tensor.assignment.roles);
        // The counterpart's role speaks where the suspect's own could not be settled.
        let part = found.map_or(own, |found| match Part::of(&reference.tensors[found.reference].assignment.roles) {
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
        let (ours, theirs) = (&suspect.tensors[found.suspect], &reference.tensors[found.reference]);
        if let (Some(ours_layer), Some(theirs_layer)) = (ours.assignment.layer, theirs.assignment.layer) {
            *pairs.entry((ours_layer, theirs_layer)).or_default() += ours.elements();
        }
    }
    let mut totals: std::collections::BTreeMap<u32, u64> = std::collections::BTreeMap::new();
    for tensor in suspect.tensors.iter().filter(|tensor| tensor.informative().is_some()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts as their documentation has them, by the names of roles.
    const EMBEDDING: &str = "token_embd pos_embd token_type_embd output output_bias";
    const ATTENTION: &str = "attn_q attn_q_bias attn_k attn_k_bias attn_v attn_v_bias attn_qkv attn_qkv_bias attn_o \
        attn_o_bias attn_q_norm attn_k_norm attn_q_a attn_q_a_norm attn_q_b attn_kv_a attn_kv_a_norm attn_kv_b attn_sinks";
    const MLP: &str = "ffn_gate ffn_gate_bias ffn_up ffn_up_bias ffn_gate_up ffn_down ffn_down_bias router router_bias \
        expert_gate expert_up expert_gate_up expert_gate_up_bias expert_gate_up_scale expert_down expert_down_bias \
        expert_down_scale shared_expert_gate shared_expert_up shared_expert_down shared_expert_router";
    const OTHER: &str = "token_embd_norm token_embd_norm_bias attn_norm attn_norm_bias post_attn_norm \
        post_attn_norm_bias ffn_norm ffn_norm_bias post_ffn_norm post_ffn_norm_bias output_norm output_norm_bias \
        rope_freqs pooler pooler_bias mlm_head mtp quant quant_scale quant_bias buffer";

    #[test]
    fn every_role_belongs_to_the_part_that_the_documentation_says() {
        let table =
            [(Part::Embedding, EMBEDDING), (Part::Attention, ATTENTION), (Part::Mlp, MLP), (Part::Other, OTHER)];
        let mut seen = 0;
        for (part, names) in table {
            for name in names.split_whitespace() {
                assert_eq!(Part::of(&[Role::parse(name).unwrap()]), part, "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, Role::ALL.len());
        assert_eq!(Part::of(&[]), Part::Unknown);
    }
}
