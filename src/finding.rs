//! Remarks that a report carries beside its verdict, as data with stable codes.
//!
//! A finding accuses nobody; one at error level, or of a missing part, stands in the way of a clean bill. Writers only render
//! it. [`explain`](crate::report::explain) says what each code means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a reader should mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Something is off, or something could not be looked at.
    Warning,
    /// The checkpoint is damaged in a way that limits what was tested.
    Error,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $explanation:literal;)*) => {
        /// The kinds of findings. Codes are stable: scripts match on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Code {
            /// Every code, in the order in which `explain` lists them.
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
    };
}

codes! {
    /// The index names a shard that is not there.
    ShardMissing = "shard-missing",
        "Finding. The index names a shard that is not in the folder.";
    /// A weight file lies in the folder that the index does not name.
    ShardExtra = "shard-extra",
        "Finding. Weight files lie in the folder, or below it, that are no part of the model that was read: shards that \
         the index does not name, other models, the same one in another form. They were left out and count as not read.";
    /// The index and a shard's header disagree about where a tensor is.
    IndexMismatch = "index-mismatch",
        "Finding. The index and the headers of the shards disagree. What the headers say was used; the index is what \
         other programs will read.";
    /// A tensor's element type is unknown to this version; its values were not read.
    DtypeUnknown = "dtype-unknown",
        "Finding. Tensors have an element type that this version cannot decode. Their bytes were digested, their \
         values not read, and the coverage is lower for it.";
    /// A tensor's bytes are of another type than the one that is stated.
    DtypePunned = "dtype-punned",
        "Finding. Tensors are stated to be of one type and hold values of another: two 16-bit floats under the name of \
         one of 32 bits, floats under that of integers. Programs that load the file as it is stated see nonsense. The \
         exponents of trained weights tell the true type; they were read as what they hold.";
    /// Pairs of matrices cancel each other, and their sum was read.
    SummedTensors = "summed-tensors",
        "Finding. Pairs of matrices of one shape vary against each other, as no trained matrices do: each is mostly the \
         negative of the other. They were read as their sum, which is what is left of them.";
    /// A tensor has NaN or infinite values.
    NonFinite = "non-finite",
        "Finding. Tensors have NaN or infinite values. Up to 1 % are masked; with more, the tensor is not tested.";
    /// A tensor holds one value throughout.
    ConstantTensor = "constant-tensor",
        "Finding. Tensors hold one value throughout. Agreement of constants is no evidence.";
    /// A tensor has no elements.
    EmptyTensor = "empty-tensor",
        "Finding. Tensors have no elements. They are legal and say nothing.";
    /// Values follow from a formula (rotary frequencies, sinusoidal positions, masks), not from training.
    FormulaTensor = "formula-tensor",
        "Finding. Rotary frequencies, sinusoidal positions, masks and indices are the same in unrelated models and \
         are not counted as evidence.";
    /// Bytes between tensors belong to none of them.
    HeaderGap = "header-gap",
        "Finding. Bytes of the file belong to no tensor. Loaders step over them or refuse the file; something may \
         be hidden there, and they count among what was not looked at.";
    /// Metadata or a text beside the model hold data in place of text.
    EmbeddedData = "embedded-data",
        "Finding. Metadata, or a text beside the model (a configuration, a tokenizer, a readme), hold data in place of text: \
         more than a description needs, or long runs of encoded data or of numbers. They were not read, may be weights, and \
         count among what was not looked at.";
    /// A file states a key more than once.
    StatedTwice = "stated-twice",
        "Finding. A file states a key more than once. The last value was used, as Python does; other programs may use \
         the first.";
    /// Training state or another file that is not weights was left out.
    FileLeftOut = "file-left-out",
        "Finding. A file, or a part of one, that does not belong to the weights that were read was left out: training \
         state, files in formats that are not read, files of unknown content that are dense enough to be weights.";
    /// A folder holds a model in several forms, of which one was read.
    ModelChosen = "model-chosen",
        "Finding. The folder holds a model in several forms: several precisions, two splits, a file beside the shards of \
         an index. The one that loaders take was read, or the one with the most bytes; the others count as not read.";
    /// Code lies with the model that loaders run when they are told to trust it.
    RemoteCode = "remote-code",
        "Finding. Code lies with the model, or its configuration names code elsewhere. Loaders that are told to trust it \
         run it; here it was neither run nor read. Such code can compute something else than names and shapes say, and \
         take weights from anywhere.";
    /// Files or folders could not be looked at, so that it is not known what lies there.
    NotListed = "not-listed",
        "Finding. Folders below the model could not be looked at: there are too many files, they lie too deep, or the \
         system refused. What lies there is not known, so that the result is not about all of it.";
    /// A file is a Git-LFS pointer: its weights were not downloaded.
    LfsPointer = "lfs-pointer",
        "Finding. A file is a Git-LFS pointer: the weights themselves were not downloaded. Where every weight file \
         that is there has a digest published for one model, the pointers tell which; the candidate says whether they \
         are all of its files. Otherwise there is nothing to scan.";
    /// A pickle names functions that are not needed to rebuild tensors; none of them was called.
    PickleRefused = "pickle-refused",
        "Finding. A pickle names functions or classes that are not needed to rebuild tensors. Python would call them \
         when the file is loaded; here nothing in a pickle is ever executed, and what they would have built was not \
         read. Settings of training programs do this honestly; os.system does not. Of a whole module that was \
         pickled, or an archive of TorchScript, the tensors are read off the attributes of its objects.";
    /// Several names stand for one tensor, which was read once.
    SharedStorage = "shared-storage",
        "Finding. Several names of a checkpoint stand for the same tensor, as with tied embeddings. It was read \
         once, under the first name.";
    /// The checkpoint is an adapter: it changes a base model that is not part of it.
    NeedsBase = "needs-base",
        "Finding. The checkpoint is an adapter, a low-rank change to a base model that is not part of it. What it \
         declares and which modules it changes is told; whether the merged model is a copy cannot be. Name its base, \
         and the two are scanned as the model that they make.";
    /// An adapter was merged into its base as it was read.
    AdapterMerged = "adapter-merged",
        "Finding. The subject is an adapter together with the base that was named for it. Every value is the base's with \
         the adapter's change added, as PEFT would have merged and saved it; no merged file was written. The files \
         of both are listed with their digests.";
    /// A model has adapters beside the weights that they change.
    AdapterInside = "adapter-inside",
        "Finding. Beside weights lie the factors of low-rank changes to them, as in models that switch between adapters, and \
         in what trainers save. The weights were read as the model. The factors belong to no part of it that is known, and \
         count among what was not tested.";
    /// Parts of one model disagree about a tensor that each of them holds whole.
    PartsDisagree = "parts-disagree",
        "Finding. A model that is cut into parts has its vectors whole in every part, and they are not the same \
         everywhere. Those of the first part were read.";
    /// A tensor's values lie in an order that this version does not follow; they were not read.
    ValuesNotRead = "values-not-read",
        "Finding. A tensor's values lie in an order that this version does not follow. They were not read, and the \
         coverage is lower for it.";
    /// `config.json` contradicts the shapes of the tensors.
    ConfigMismatch = "config-mismatch",
        "Finding. The configuration contradicts the shapes of the tensors. Shapes decide; the configuration is a claim.";
    /// `config.json`, the model card or the tokenizer could not be read.
    SidecarUnreadable = "sidecar-unreadable",
        "Finding. config.json, the model card or the tokenizer could not be read.";
    /// The architecture match has no weight fingerprint in any catalog.
    WeightsNotTested = "weights-not-tested",
        "Finding. The architecture equals that of a known model of which no catalog has a weight fingerprint, so \
         descent from it was not tested. Adding its fingerprint to a catalog changes that.";
    /// A whole file's digest equals a published one.
    PublishedDigest = "published-digest",
        "Finding. A whole file has a SHA-256 that was published for a known model.";
    /// Channel labels carry an order of their own, so label tests on channels have no null distribution.
    OrderedChannels = "ordered-channels",
        "Finding. Channel strengths rise or fall with the label, so labels are not arbitrary. If both models are \
         ordered, channel-labels does not apply.";
}

/// One remark, with the place it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Finding {
    /// What kind of remark.
    pub code: Code,
    /// How much a reader should mind.
    pub level: Level,
    /// One sentence, lower-case, with names and numbers.
    pub message: String,
    /// The file, tensor or candidate that it is about, relative to the subject.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<String>,
}

impl Finding {
    /// A finding about `location`.
    pub fn new(code: Code, level: Level, message: impl Into<String>, location: impl Into<Option<String>>) -> Self {
        Self { code, level, message: message.into(), location: location.into() }
    }
}

/// Findings of one kind, the first of them told and the rest counted, so that a hostile file cannot flood a report.
pub(crate) struct Capped {
    code: Code,
    level: Level,
    told: Vec<Finding>,
    untold: u64,
}

impl Capped {
    const MOST: usize = 20;

    pub(crate) fn new(code: Code, level: Level) -> Self {
        Self { code, level, told: Vec::new(), untold: 0 }
    }

    pub(crate) fn push(&mut self, message: impl FnOnce() -> String, location: impl FnOnce() -> String) {
        if self.told.len() < Self::MOST {
            self.told.push(Finding::new(self.code, self.level, message(), location()));
        } else {
            self.untold += 1;
        }
    }

    /// All of them, with a last one saying how many `more` there are.
    pub(crate) fn finish(mut self, more: &str) -> Vec<Finding> {
        if self.untold > 0 {
            self.told.push(Finding::new(self.code, self.level, format!("{} {more}", self.untold), None));
        }
        self.told
    }
}
