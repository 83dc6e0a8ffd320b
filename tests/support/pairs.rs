//! Every pair of the accuracy table: what was done to a model of the zoo, and what the truth is.

use std::path::Path;

use safetensors::tensor::Dtype;
use weightprint::internals::scanner::{self, Prepared};
use weightprint::report::Report;

use super::model::Model;
use super::{Random, Raw, disguise, load, obfuscate, prepare, write_file, zoo};

/// What is known of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// Weights descend from the reference's.
    Kin,
    /// Only the initialisation is shared.
    Start,
    /// Trained independently.
    Independent,
}

/// What is done to a checkpoint before it is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Disguise {
    Renamed,
    Half,
    Int(u32),
    Channels,
    Neurons,
    Heads,
    Folded,
    Rotated,
    Everything,
    Noise(f64),
}

impl Disguise {
    /// Those that keep the function, and the roundings.
    pub const ALL: [Self; 10] = [
        Self::Renamed,
        Self::Half,
        Self::Int(8),
        Self::Int(4),
        Self::Channels,
        Self::Neurons,
        Self::Heads,
        Self::Folded,
        Self::Rotated,
        Self::Everything,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Renamed => "renamed, shuffled".into(),
            Self::Half => "f16".into(),
            Self::Int(bits) => format!("int{bits} rounding"),
            Self::Channels => "channels permuted, signs flipped".into(),
            Self::Neurons => "neurons permuted, scaled, signs flipped".into(),
            Self::Heads => "heads permuted and mixed".into(),
            Self::Folded => "norm gains folded".into(),
            Self::Rotated => "residual basis rotated".into(),
            Self::Everything => "all of them, renamed, shuffled".into(),
            Self::Noise(share) => format!("noise of {:.0} % of the std", 100.0 * share),
        }
    }

    /// The disguised tensors.
    pub fn apply(self, name: &str, seed: u64) -> Vec<Raw> {
        let random = &mut Random(seed);
        if matches!(self, Self::Renamed | Self::Half) {
            let mut tensors = load(name);
            if self == Self::Half {
                tensors = tensors.iter().map(|tensor| tensor.cast(Dtype::F16)).collect();
            } else {
                obfuscate(&mut tensors, seed);
            }
            return tensors;
        }
        let mut model = Model::load(name);
        match self {
            Self::Int(bits) => disguise::round_int(&mut model, bits),
            Self::Channels => disguise::permute_channels_with_signs(&mut model, random),
            Self::Neurons => disguise::permute_neurons(&mut model, random),
            Self::Heads => disguise::mix_heads(&mut model, random),
            Self::Folded => disguise::fold_gains(&mut model),
            Self::Rotated => disguise::rotate_residual(&mut model, random),
            Self::Everything => disguise::everything(&mut model, random),
            Self::Noise(share) => disguise::add_noise(&mut model, share, random),
            Self::Renamed | Self::Half => {}
        }
        let mut tensors = model.to_raw(Dtype::BF16);
        if self == Self::Everything {
            obfuscate(&mut tensors, seed);
        }
        tensors
    }
}

/// A row of the table, to be compared with `base-a`.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub model: &'static str,
    /// `None`: as it is.
    pub disguise: Option<Disguise>,
    pub truth: Truth,
}

/// Every pair of the table.
pub fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut add = |model, disguise, truth| pairs.push(Pair { model, disguise, truth });
    for model in ["base-a", "a-sft", "a-lora-merged", "a-cpt", "a-cpt-long"] {
        add(model, None, Truth::Kin);
        Disguise::ALL.into_iter().for_each(|disguise| add(model, Some(disguise), Truth::Kin));
    }
    for share in [0.1, 0.3, 1.0] {
        add("base-a", Some(Disguise::Noise(share)), Truth::Kin);
    }
    for model in
        ["a-sft2", "a-depth-pruned", "a-depth-upscaled", "a-width-pruned", "a-vocab-extended", "a-moe-upcycled"]
    {
        add(model, None, Truth::Kin);
        add(model, Some(Disguise::Everything), Truth::Kin);
    }
    add("a-embeddings-retrained", None, Truth::Kin);
    add("a-embeddings-retrained", Some(Disguise::Everything), Truth::Kin);
    add("a-same-init", None, Truth::Start);
    for model in ["base-b", "base-c", "moe-scratch", "a-distilled"] {
        add(model, None, Truth::Independent);
        Disguise::ALL.into_iter().for_each(|disguise| add(model, Some(disguise), Truth::Independent));
    }
    pairs
}

/// Opens a checkpoint for comparison with `reference`.
pub fn open(path: &Path, reference: Option<&Prepared>) -> Prepared {
    let lists: Vec<_> =
        reference.and_then(|reference| reference.fingerprint().anchors()).cloned().into_iter().collect();
    prepare(path, &lists).unwrap()
}

impl Pair {
    pub fn disguise_name(&self) -> String {
        self.disguise.map_or("as it is".to_owned(), Disguise::name)
    }

    /// The report of the comparison with `reference`.
    pub fn report(&self, reference: &Prepared) -> Report {
        let Some(disguise) = self.disguise else {
            return scanner::compare(&open(&zoo(self.model), Some(reference)), reference);
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_file(&path, &disguise.apply(self.model, 1000 + self.model.len() as u64));
        scanner::compare(&open(&path, Some(reference)), reference)
    }
}
