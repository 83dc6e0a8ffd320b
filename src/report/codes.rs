//! The closed vocabularies of a report, as it spells them.
//!
//! Codes of tests and classes come from the tables of the evidence and of the verdict, so that each stands once.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::TestKind;
use crate::evidence::kind::tests;
use crate::evidence::matching::How;
use crate::model::Part;
use crate::verdict::class::classes;
use crate::verdict::declared::{DeclarationStatus, statuses};
use crate::verdict::{Obstacle, VerdictClass};

macro_rules! test_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $of:ident, $explanation:literal;)*) => {
        /// The tests, by the codes that reports use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum TestCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl TestCode {
            /// Every test, in the order in which reports list them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as reports spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the test does, for `weightprint explain`.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }

        impl From<TestKind> for TestCode {
            fn from(test: TestKind) -> Self {
                match test { $(TestKind::$variant => Self::$variant,)* }
            }
        }
    };
}

tests!(test_codes);

macro_rules! class_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        /// What the evidence amounts to, weakest first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[schemars(rename = "Class")]
        #[non_exhaustive]
        pub enum ClassCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl ClassCode {
            /// Every class, weakest first.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The class as reports spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the class means, for `weightprint explain`.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }

        impl From<VerdictClass> for ClassCode {
            fn from(class: VerdictClass) -> Self {
                match class { $(VerdictClass::$variant => Self::$variant,)* }
            }
        }

        impl From<ClassCode> for VerdictClass {
            fn from(code: ClassCode) -> Self {
                match code { $(ClassCode::$variant => Self::$variant,)* }
            }
        }
    };
}

classes!(class_codes);

impl ClassCode {
    /// Whether the class says that weights are shared.
    pub fn shares_weights(self) -> bool {
        VerdictClass::from(self).shares_weights()
    }
}

impl fmt::Display for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! published {
    ($(#[$about:meta])* $code:ident, $schema:literal, $inside:ident:
        $($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[schemars(rename = $schema)]
        #[non_exhaustive]
        pub enum $code {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $code {
            /// The code as reports spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl From<$inside> for $code {
            fn from(inside: $inside) -> Self {
                match inside { $($inside::$variant => Self::$variant,)* }
            }
        }
    };
}

published! {
    /// Parts of a model that can be shared one without another.
    PartCode, "Part", Part:
    /// Token, position and type embeddings, and the output head.
    Embedding = "embedding";
    /// Query, key, value and output matrices with their biases and norms.
    Attention = "attention";
    /// Feed-forward matrices, experts and routers.
    Mlp = "mlp";
    /// Norm gains and whatever else has a known role.
    Other = "other";
    /// Tensors without a role.
    Unknown = "unknown";
}

published! {
    /// How a counterpart was found.
    HowCode, "How", How:
    /// The values are equal, all of them.
    Equal = "equal";
    /// The values are equal once both are rounded to a coarser type: all of them where that is `bf16` or `f16`, all
    /// sampled ones otherwise.
    ReEncoded = "re-encoded";
    /// Sampled values correlate at equal labels.
    Close = "close";
}

macro_rules! status_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        /// How the declaration relates to the evidence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[schemars(rename = "Status")]
        #[non_exhaustive]
        pub enum StatusCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl StatusCode {
            /// Every status.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The status as reports spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the status means, for `weightprint explain`.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }

        impl From<DeclarationStatus> for StatusCode {
            fn from(status: DeclarationStatus) -> Self {
                match status { $(DeclarationStatus::$variant => Self::$variant,)* }
            }
        }
    };
}

statuses!(status_codes);

macro_rules! obstacles {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $inside:pat, $explanation:literal;)*) => {
        /// What stands in the way of a clean bill.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum ObstacleCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl ObstacleCode {
            /// Every obstacle.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as reports spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the code means, for `weightprint explain`.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }

        impl From<&Obstacle> for ObstacleCode {
            fn from(obstacle: &Obstacle) -> Self {
                match obstacle { $($inside => Self::$variant,)* }
            }
        }
    };
}

obstacles! {
    /// Too small a share of the weights was compared with anything.
    Coverage = "too-little-compared", Obstacle::Coverage(_),
        "Obstacle to a clean bill. Less than half of the weights was compared with some reference by a test that applies. \
What was not is listed, largest first. Exit code 5 unless something was found.";
    /// Bytes that may be weights were not read.
    Unread = "unread-weights", Obstacle::Unread(_),
        "Obstacle to a clean bill. In the files or beside them lie bytes that may be weights and were not read: more than \
one for each hundred that were. Name them as a model of their own to scan them. Exit code 5 unless something was found.";
    /// The checkpoint is damaged, or a part of it is missing.
    Damaged = "damaged", Obstacle::Damaged(_),
        "Obstacle to a clean bill. A finding says that the checkpoint is damaged or that a part of it is missing, so it was \
not looked at whole. Exit code 5 unless something was found.";
    /// A known model of the subject's shapes has no weights in any catalog.
    KnownModel = "known-model-untested", Obstacle::KnownModel(_),
        "Obstacle to a clean bill. A known model has exactly the subject's shapes, and no catalog has its weights, so the \
likeliest origin was not compared. Add it to a catalog, or allow for it. Exit code 5 unless something was found.";
}

/// What settled a canonical name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RenamedBy {
    /// The tensor's counterpart in a reference, found by its values.
    Content,
    /// Names and shapes.
    Structure,
}
