//! What a test yields: numbers, and the facts that a sentence about them needs. No sentence is written here.

use super::TestKind;
use super::channels::ChannelPairs;
use super::published::FileMatch;

/// What one test found out about one pair.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Which test.
    pub test: TestKind,
    /// What it measured, or why its conditions do not hold for this pair.
    pub result: Result<Measure, WhyNot>,
}

impl Evidence {
    pub(crate) fn not_applicable(test: TestKind, why: WhyNot) -> Self {
        Self { test, result: Err(why) }
    }

    pub(crate) fn measured(test: TestKind, measure: Measure) -> Self {
        Self { test, result: Ok(measure) }
    }

    /// What was measured, where the test applies.
    pub fn measure(&self) -> Option<&Measure> {
        self.result.as_ref().ok()
    }
}

/// The numbers of a test that applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// The test's own statistic: equal tensors, correlation, rows on the common ratio, equal fields.
    pub statistic: f64,
    /// What the statistic was taken over: tensors, channels, usable rows, fields.
    pub n: u64,
    /// log10 of the probability of a statistic at least this large for independently trained models, before any
    /// correction for several references. Absent where the test has no null distribution.
    pub log10_p: Option<f64>,
    /// Size of the effect, 0 to 1: the share of what was looked at that agrees.
    pub effect: f64,
    /// What it was made of.
    pub facts: Facts,
}

/// What a measure was made of, test by test.
#[derive(Debug, Clone, PartialEq)]
pub enum Facts {
    /// Equal digests.
    Bits {
        /// Tensors of the suspect that were compared.
        tensors: u64,
        /// Of these, equal bit for bit.
        equal: u64,
        /// Of these, equal within the grid of a coarser type.
        re_encoded: u64,
        /// Share of the suspect's parameters in rows equal to a row of the reference.
        row_share: f64,
    },
    /// Equal runs of values.
    Content {
        /// Share of the suspect's runs that the reference holds.
        of_suspect: f64,
        /// Share of the reference's runs that the suspect holds.
        of_reference: f64,
    },
    /// Profiles of the residual channels.
    ChannelLabels {
        /// Channels of the residual stream.
        channels: u64,
        /// Correlation of their strengths at equal labels.
        correlation: f64,
        /// Channels that pair up by their sampled values, where tensors correspond.
        pairs: Option<ChannelPairs>,
    },
    /// Neurons at equal labels.
    NeuronLabels {
        /// Along which directions.
        along: Directions,
        /// Sampled neurons of the reference.
        sampled: u64,
        /// Of these, with a nearest neighbour.
        matched: u64,
        /// Of these, at the same label.
        equal: u64,
    },
    /// The order of matched neurons.
    NeuronOrder {
        /// Along which directions.
        along: Directions,
        /// Matched pairs.
        matched: u64,
        /// Correlation of their labels.
        correlation: f64,
    },
    /// Neurons with one partner from several matrices, along the tokens.
    NeuronAgreement {
        /// Sampled neurons of the reference.
        sampled: u64,
        /// Of these, with the same partner from two matrices.
        agreeing: u64,
    },
    /// Variance explained along matched neurons.
    AlignedWeights {
        /// Along which directions.
        along: Directions,
        /// Neurons matched by one matrix alone.
        pairs: usize,
        /// Share of the variance of the other matrices.
        explained: f64,
        /// Its standard error.
        standard_error: f64,
    },
    /// Strong neurons with one partner from several matrices, without a frame.
    NeuronShape {
        /// Strong neurons that were looked at.
        looked_at: u64,
        /// Of these, with the same partner from two matrices.
        agreeing: u64,
    },
    /// Attention heads.
    HeadLabels {
        /// Heads of the model that has fewer.
        heads: u64,
        /// Of these, with their nearest neighbour at the same label.
        equal_heads: u64,
        /// Key-value groups of the model that has fewer.
        groups: u64,
        /// Of these, with their nearest neighbour at the same label.
        equal_groups: u64,
        /// Heads with the same partner from both forms.
        agreeing: u64,
    },
    /// Embedding norms of rare tokens that are published.
    PublishedNorms {
        /// Whose norms.
        model: String,
        /// The suspect's embedding.
        tensor: String,
        /// Rows on the common ratio.
        on_ratio: usize,
        /// Rows that could be on it.
        usable: usize,
        /// The ratio.
        ratio: f64,
        /// Largest over smallest norm of the rows on it.
        span: f64,
    },
    /// Digests of weight files that are published.
    PublishedDigests(FileMatch),
    /// Fields of the architecture record.
    Architecture {
        /// Fields that were compared.
        fields: usize,
        /// Of these, equal.
        equal: usize,
        /// Those that differ.
        differs: Vec<&'static str>,
    },
}

/// The directions along which neurons are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Fixed ones: equal labels of channels are held against each other.
    Raw,
    /// The embedding rows of anchor tokens, which a change of basis does not touch.
    Tokens,
}

/// One of the two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The model in question.
    Suspect,
    /// The model that it is held against.
    Reference,
}

/// Why a test says nothing about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// The comparison stopped at equal labels.
    NotSearched,
    /// The suspect has no tensors.
    NoTensors,
    /// No tensor of the suspect has values that could say anything.
    NothingInformative,
    /// A fingerprint was taken before runs of values were kept.
    NoRunsKept,
    /// Too few runs of one model lie where both sketches are complete.
    FewRuns,
    /// Too few tensors of one model touch a residual stream.
    NoResidualStream(Side),
    /// The residual streams are of unequal width.
    UnequalChannels {
        /// The suspect's channels.
        suspect: usize,
        /// The reference's.
        reference: usize,
    },
    /// The channels of both models are ordered by strength.
    OrderedChannels,
    /// No MLP was made out in one model.
    NoMlp(Side),
    /// The models have no frame in common.
    NoCommonFrame,
    /// They have no token frame in common.
    NoCommonTokens,
    /// Not both have a gated MLP with enough neurons.
    NoGatedMlp,
    /// No attention with separate matrices was made out in one model.
    NoAttention(Side),
    /// No token frame and size of head is common to both.
    NoCommonHeads,
}
