//! The tests by name: the one table from which their codes, their kind and their explanations come.

/// The table of tests. `$make` is the macro that makes an enum of it: here that of the evidence, in the report that of
/// its published codes.
macro_rules! tests {
    ($make:ident) => {
        $make! {
            /// Equal digests of tensors and rows.
            Bits = "bits", Other,
                "Test. Tensors whose values have the same SHA-256, over names and order; tensors equal after \
rounding to f16 or bf16; rows equal to a row of the reference. Constants, masks, indices and \
formulas do not count. log10 p is that of n distinct labels falling into the same order by chance, \
1/n!.";
            /// Short runs of equal values, wherever they lie.
            Content = "content", Other,
                "Test. Runs of sixteen consecutive values, rounded to bf16, that begin where a value's bits say so, are looked for in the other model, in whatever tensor and shape: flattened, stacked or cut copies are found by them. Runs of few distinct values, constants and formulas do not count. Effect: share of the suspect's runs that the reference holds, estimated from the runs with the smallest digests. It has no p, as whole tensors that are equal have none. One changed value in each run hides it.";
            /// Correlation of the residual channels' profiles, label by label.
            ChannelLabels = "channel-labels", Labels,
                "Test. Each residual channel's strength, averaged over all tensors that touch it, is correlated \
between the models at equal labels. Under independent training labels are arbitrary, so a large \
correlation is a coincidence whose probability is known: Student's t tail with n-2 degrees of \
freedom. Blind to a permutation or rotation of the channels. Effect: r squared.";
            /// MLP neurons matched by descriptor: pairs with equal labels.
            NeuronLabels = "neuron-labels", Labels,
                "Test. Sampled MLP neurons of the reference are matched with all neurons of the suspect's layer by \
their gate, up and down vectors, along fixed directions or along the embedding rows of anchor \
tokens. Under independent training the labels of neurons are arbitrary: K equal labels have a \
probability of at most lambda^K/K!, exactly. Effect: share of sampled neurons with an equal label.";
            /// The order of the matched neurons' labels.
            NeuronOrder = "neuron-order", Labels,
                "Test. Correlation of the labels of matched neurons within their layers: sees neurons that were \
dropped or inserted in order. Effect: r squared times the share of sampled neurons that are \
matched.";
            /// Neurons that are matched alike by gate, by up and by down.
            NeuronAgreement = "neuron-agreement", Labels,
                "Test. Along the embedding rows of anchor tokens, neurons are matched by gate, by up and by down \
apart; the share for which two of the three name the same partner is the effect. It survives a \
change of basis, of neuron order and of scales together. Unrelated models agree in less than 1 % of \
neurons; 5 % is demanded. It has no exact p.";
            /// Variance that matched neurons share in matrices that took no part in matching them.
            AlignedWeights = "aligned-weights", Other,
                "Effect, no test by itself. Neurons are matched by one of their matrices alone, in a frame found \
from the embedding alone; the variance that their other matrices then share was not used to find \
either. R squared with its jackknife standard error over layers.";
            /// Strong neurons matched by what does not depend on any frame.
            NeuronShape = "neuron-shape", Labels,
                "Test. The strongest neurons of each gated MLP are described by their sorted cosines with one \
another, which no change of basis, order, scale or embedding touches, and matched by gate, up and \
down apart. The share for which two of the three name the same partner is the effect. Fades with \
long continued training. It has no exact p.";
            /// Attention heads matched by their forms: pairs with equal labels.
            HeadLabels = "head-labels", Labels,
                "Test. Attention heads are described by how they score and copy anchor tokens: sampled entries of \
the query-key and value-output forms along the tokens' embeddings, which no change of basis nor any \
mixing inside a head touches. Heads of the reference are matched with heads of the suspect's layer. \
Under independent training the order of a layer's key-value groups, and of the heads within each, \
is arbitrary: the probability of as many equal labels is exact. Effect: share of heads with an \
equal label times the mean cosine of their forms. Sees attention that was kept where MLPs were \
replaced. Layers whose queries, keys and values are one matrix are not looked at.";
            /// Embedding norms of rare tokens against published ones.
            PublishedNorms = "published-norms", Other,
                "Test. L2 norms of the embedding rows of rare tokens, published for 64 models, against the \
subject's: rows that training hardly touches keep their norms up to one common factor. At least 8 \
rows within 0.5 % of one ratio, spanning a factor of 3, are demanded. Effect: share of usable rows \
on the ratio.";
            /// Equal fields of the architecture record.
            Architecture = "architecture", Other,
                "Test. Fields of the architecture record that are equal. Structure says nothing of weights, so it \
has no p.";
        }
    };
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $of:ident, $explanation:literal;)*) => {
        /// The tests, in the order in which reports list them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum TestKind {
            $($(#[$doc])* $variant,)*
        }

        impl TestKind {
            /// Every test.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// What it is that the test looks at.
            fn of(self) -> Of {
                match self { $(Self::$variant => Of::$of,)* }
            }
        }
    };
}

/// What a test looks at.
#[derive(PartialEq, Eq)]
enum Of {
    /// Whether labels, which are arbitrary under independent training, agree.
    Labels,
    /// Anything else.
    Other,
}

tests!(kinds);
pub(crate) use tests;

impl TestKind {
    /// The tests of labels: each can show common descent by itself.
    pub fn of_labels() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|kind| kind.is_of_labels())
    }

    /// Whether it is a test of labels.
    pub fn is_of_labels(self) -> bool {
        self.of() == Of::Labels
    }
}
