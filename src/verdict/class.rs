//! The classes of a verdict: the one table from which their codes and their explanations come.

/// The table of classes. `$make` is the macro that makes an enum of it: here that of the verdict, in the report that of
/// its published codes.
macro_rules! classes {
    ($make:ident) => {
        $make! {
            /// Too little could be tested.
            Inconclusive = "inconclusive",
                "Verdict. Too little could be tested: no reference, unreadable or constant values, or no test that \
applies. The report says what is missing. Exit code 5; never a pass.";
            /// One of many references, of which only a first look was taken.
            Screened = "screened",
                "Verdict on one of many references. It was held against the subject at equal labels and by a few of its \
neurons, others come nearer, and nothing was found. It was not compared in full, so this is no negative \
result.";
            /// Structure differs, and no test found anything.
            NoEvidence = "no-evidence",
                "Verdict. The structure differs from every reference tested and no test found anything. That is not \
proof of independence: a reference that is not in the catalog was not tested.";
            /// Structure matches; weights were tested and no evidence was found.
            SameArchitecture = "same-architecture",
                "Verdict. The blocks have the same shapes; the weights were tested and nothing speaks for a common \
origin. Distillation from a model's outputs leaves weights of its own and cannot be seen in \
weights.";
            /// Labels agree, but the weights hardly do: a common starting point.
            SharedInitialisation = "shared-initialisation",
                "Verdict. Labels agree beyond chance, but the weights hardly do: both models may have been started \
from the same random numbers. That is a fact about their origin, not copying of trained weights.";
            /// Only named parts match.
            SharesComponents = "shares-components",
                "Verdict. Only the parts that are named match the reference, for example its embedding.";
            /// Several references explain it together.
            Merged = "merged",
                "Verdict. Several references together explain the subject. This version does not attribute merges \
yet and never gives this class.";
            /// Fine-tuned, continued, pruned, extended.
            Derived = "derived",
                "Verdict. The weights of subject and reference have a common origin: labels agree with a corrected p \
of at most 10^-10 and explain at least 5 % of what was looked at, or a large part is equal \
outright. The tests are symmetric and do not tell which of the two came first.";
            /// Equal within what a type's grid explains.
            ReEncoded = "re-encoded",
                "Verdict. As `identical`, but some tensors are equal only within the rounding of a coarser type: for \
f16 and bf16 every value was checked, for other types the sampled ones.";
            /// Bit for bit after undoing names, order, sharding and lossless changes of type.
            Identical = "identical",
                "Verdict. Every tensor of the subject that could say anything equals a tensor of the reference bit \
for bit, and none of the reference's is missing, once names, order, sharding and lossless changes \
of type are undone.";
        }
    };
}

macro_rules! verdict_classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        /// What the evidence amounts to, weakest first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum VerdictClass {
            $($(#[$doc])* $variant,)*
        }

        impl VerdictClass {
            /// Every class, weakest first.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

classes!(verdict_classes);
pub(crate) use classes;

impl VerdictClass {
    /// Whether the class says that weights are shared.
    pub fn shares_weights(self) -> bool {
        self >= Self::SharedInitialisation
    }
}
