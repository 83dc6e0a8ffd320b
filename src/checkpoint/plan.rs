//! Which files of a folder are the weights of the model.
//!
//! A folder must hold exactly one model: where it holds several, the user has to say which one is meant, because a
//! scan of the wrong one would pass for the other.

use std::collections::BTreeMap;
use std::path::Path;

use super::index::Index;
use super::meta;
use crate::bytes::Store;
use crate::finding::{Capped, Code, Finding, Level};
use crate::format::recognise::{self, GGUF_SUFFIX, Kind, ONNX_SUFFIX, PICKLE_SUFFIXES, SAFETENSORS_SUFFIX as SUFFIX};
use crate::limits::MAX_SHARDS;
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "sharded checkpoint";

/// Endings of the names of indexes.
const INDEX_SUFFIXES: [&str; 2] = [".safetensors.index.json", ".bin.index.json"];

/// Names under which loaders look for weights whether or not there is an index.
const DEFAULT_NAMES: [&str; 6] = [
    "model.safetensors",
    "adapter_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "adapter_model.bin",
    "diffusion_pytorch_model.bin",
];

/// The weight files of one model, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Relative to the root, `/`-separated.
    pub(crate) files: Vec<String>,
    pub(crate) index: Option<Index>,
    pub(crate) findings: Vec<Finding>,
}

/// Finds the weight files of the model in a store: that of the file or index that was named, or the only one.
pub(crate) fn plan(store: &dyn Store, named: Option<&str>) -> Result<Plan> {
    match named {
        None => plan_folder(store),
        Some(name) if is_json(name) => plan_index(store, Index::read(store, name)?, Vec::new()),
        Some(name) => plan_file(store, name),
    }
}

fn is_json(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

fn plan_file(store: &dyn Store, name: &str) -> Result<Plan> {
    let name = name.to_owned();
    let mut findings = Vec::new();
    if meta::part(&name).is_some() {
        // One part has a slice of every matrix, so that only all of them are a model.
        let models = Model::sets(&Listing::read(store)?.pickles);
        if let Some(model) = models.into_iter().find(|model| model.files.contains(&name)) {
            return plan_model(store, model, findings);
        }
    }
    if let Some(Numbered { total, suffix, .. }) = Numbered::parse(&name).filter(|numbered| numbered.total > 1) {
        if suffix == GGUF_SUFFIX {
            // As llama.cpp has it, one file of a split model stands for all of them.
            let models = Model::sets(&Listing::read(store)?.ggufs);
            if let Some(model) = models.into_iter().find(|model| model.files.contains(&name)) {
                return plan_model(store, model, findings);
            }
        }
        let what = format!("{} is one shard of {total}, and only it was named: the others were not read", shown(&name));
        findings.push(Finding::new(Code::ShardMissing, Level::Warning, what, name.clone()));
    }
    Ok(Plan { files: vec![name], index: None, findings })
}

fn plan_model(store: &dyn Store, model: Model, findings: Vec<Finding>) -> Result<Plan> {
    model.check_complete(store.root())?;
    Ok(Plan { files: model.files, index: None, findings })
}

fn plan_folder(store: &dyn Store) -> Result<Plan> {
    let mut listing = Listing::read(store)?;
    if listing.weights.is_empty() && listing.indexes.is_empty() && listing.means_pickles() {
        listing.turn_to_pickles();
    }
    let findings = listing.findings();
    match listing.choose_index(store.root())? {
        Some(index) => {
            let index = Index::read(store, index)?;
            let unnamed: Vec<&String> =
                listing.weights.iter().filter(|name| index.files.binary_search(name).is_err()).collect();
            listing.refuse_rivals(store.root(), &unnamed)?;
            let mut findings = findings;
            findings.extend(extras(&unnamed));
            plan_index(store, index, findings)
        }
        None => plan_set(store, &listing, findings),
    }
}

fn plan_index(store: &dyn Store, index: Index, findings: Vec<Finding>) -> Result<Plan> {
    let missing: Vec<&String> = index.files.iter().filter(|name| !store.contains(name)).collect();
    if !missing.is_empty() {
        let what = format!("{} of {} shards are missing: {}", missing.len(), index.files.len(), listed(&missing));
        return Err(Error::malformed(store.root(), FORMAT, what));
    }
    Ok(Plan { files: index.files.clone(), index: Some(index), findings })
}

/// Without an index: one file, or one complete set of numbered ones.
fn plan_set(store: &dyn Store, listing: &Listing, mut findings: Vec<Finding>) -> Result<Plan> {
    let Listing { weights, ggufs, onnx, others, .. } = listing;
    let names = [weights, ggufs, onnx, others].into_iter().find(|names| !names.is_empty()).unwrap_or(weights);
    let mut models = Model::sets(names);
    if models.len() > 1 {
        let (known, own): (Vec<_>, Vec<_>) = models.into_iter().partition(|model| !is_second_layout(&model.files[0]));
        if known.len() != 1 {
            return Err(several(store.root(), known.iter().chain(&own).map(|model| model.label.clone()).collect()));
        }
        let unnamed: Vec<&String> = own.iter().flat_map(|model| &model.files).collect();
        findings.extend(extras(&unnamed));
        models = known;
    }
    let Some(model) = models.pop() else { return Err(listing.nothing(store.root())) };
    plan_model(store, model, findings)
}

fn several(root: &Path, candidates: Vec<String>) -> Error {
    let found = listed(&candidates);
    Error::usage(format!("{}: holds more than one model: {found}; name one of them", root.display()))
}

/// Mistral publishes its models twice in one folder, the second time in its own layout under this name.
fn is_second_layout(name: &str) -> bool {
    name.starts_with("consolidated")
}

fn extras(names: &[&String]) -> Vec<Finding> {
    let mut found = Capped::new(Code::ShardExtra, Level::Warning);
    for name in names {
        let what = || format!("{} is not part of the model that was read, and was left out", shown(name));
        found.push(what, || (*name).clone());
    }
    found.finish("more weight files that were left out")
}

/// Whether a file of this name, in lower case, is what a trainer keeps beside the model: the optimizer's state or its
/// parts, the schedule, random state, arguments. DeepSpeed's `zero_pp_rank` files hold slices of everything at once.
fn is_training(lower: &str) -> bool {
    const BEGINNINGS: [&str; 8] = [
        "optimizer",
        "scheduler",
        "scaler",
        "rng_state",
        "random_states",
        "training_args",
        "zero_pp_rank",
        "bf16_zero_pp_rank",
    ];
    BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning))
        || lower.contains("optim_states")
        || lower.starts_with("distrib_optim")
}

/// A name like `model-00001-of-00003.safetensors`.
struct Numbered<'a> {
    prefix: &'a str,
    number: usize,
    total: usize,
    /// How many digits the number is written with.
    width: usize,
    /// The total as written.
    of: &'a str,
    /// The ending of the name.
    suffix: &'static str,
}

impl<'a> Numbered<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let suffixes = [SUFFIX, GGUF_SUFFIX].into_iter().chain(PICKLE_SUFFIXES);
        let (stem, suffix) = suffixes.into_iter().find_map(|suffix| Some((name.strip_suffix(suffix)?, suffix)))?;
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (prefix, digits) = rest.rsplit_once('-')?;
        let is_number = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(of) || !is_number(digits) {
            return None;
        }
        let (number, total) = (digits.parse().ok()?, of.parse().ok()?);
        (1..=total).contains(&number).then_some(Self { prefix, number, total, width: digits.len(), of, suffix })
    }
}

/// Weight files that belong together by their names.
struct Model {
    /// How the user would recognise it.
    label: String,
    files: Vec<String>,
}

impl Model {
    /// Weight files as models, numbered ones of the same prefix and total together.
    fn sets(names: &[String]) -> Vec<Self> {
        let mut sets: BTreeMap<(&str, usize, &str), Vec<String>> = BTreeMap::new();
        let (mut models, mut parts) = (Vec::new(), Vec::new());
        for name in names {
            match Numbered::parse(name) {
                Some(Numbered { prefix, total, suffix, .. }) => {
                    sets.entry((prefix, total, suffix)).or_default().push(name.clone());
                }
                None if meta::part(name).is_some() => parts.push(name.clone()),
                None => models.push(Self { label: name.clone(), files: vec![name.clone()] }),
            }
        }
        if !parts.is_empty() {
            models.push(Self { label: "consolidated.*.pth".to_owned(), files: parts });
        }
        models.extend(sets.into_iter().map(|((prefix, total, suffix), mut files)| {
            files.sort_by_key(|name| Numbered::parse(name).map(|numbered| numbered.number));
            Self { label: format!("{prefix}-*-of-{total}{suffix}"), files }
        }));
        models
    }

    /// Whether every number of the set is there once.
    fn check_complete(&self, root: &Path) -> Result<()> {
        let gap = |(at, name): (usize, &String)| (meta::part(name)? != at).then(|| format!("consolidated.{at:02}.pth"));
        if let Some(missing) = self.files.iter().enumerate().find_map(gap) {
            return Err(Error::malformed(root, FORMAT, format!("part {} of the model is missing", shown(&missing))));
        }
        let Some(Numbered { prefix, total, width, of, suffix, .. }) = Numbered::parse(&self.files[0]) else {
            return Ok(());
        };
        if total > MAX_SHARDS {
            let (path, found, limit) = (root.to_path_buf(), total as u64, MAX_SHARDS as u64);
            return Err(Error::limit(path, "number of shards", found, limit));
        }
        let mut count = vec![0u32; total];
        for numbered in self.files.iter().filter_map(|name| Numbered::parse(name)) {
            count[numbered.number - 1] += 1;
        }
        if let Some(twice) = count.iter().position(|count| *count > 1) {
            let what = format!("shard {} of {} is there more than once", twice + 1, self.label);
            return Err(Error::malformed(root, FORMAT, what));
        }
        let missing: Vec<String> = (1..=total)
            .filter(|number| count[number - 1] == 0)
            .map(|number| format!("{prefix}-{number:0width$}-of-{of}{suffix}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let what = format!("{} of {total} shards are missing: {}", missing.len(), listed(&missing));
        Err(Error::malformed(root, FORMAT, what))
    }
}

/// The files of a folder by what their names say they are, each sorted.
#[derive(Debug, Default)]
struct Listing {
    weights: Vec<String>,
    indexes: Vec<String>,
    pickles: Vec<String>,
    /// Indexes of shards that are pickles.
    pickle_indexes: Vec<String>,
    /// Optimiser and scheduler state, arguments of the training script.
    training: Vec<String>,
    ggufs: Vec<String>,
    /// Vision and audio towers that llama.cpp keeps in files of their own.
    towers: Vec<String>,
    onnx: Vec<String>,
    /// Weights in formats that have no place of their own among the others.
    others: Vec<String>,
    /// Weights in formats that are not read.
    foreign: Vec<String>,
    /// Weight files that loaders pass over because their names begin with a dot.
    hidden: Vec<String>,
    /// Folders of repositories, as in the root of a Hugging Face cache.
    repositories: Vec<String>,
}

impl Listing {
    fn read(store: &dyn Store) -> Result<Self> {
        let mut names = store.list()?;
        names.sort_unstable();
        let mut listing = Self::default();
        names.into_iter().for_each(|name| listing.sort_in(name));
        Ok(listing)
    }

    fn sort_in(&mut self, name: String) {
        let lower = name.to_lowercase();
        let is_pickle = PICKLE_SUFFIXES.iter().any(|suffix| lower.ends_with(suffix));
        let is_training = is_training(&lower);
        let kind = if name.starts_with("models--") {
            &mut self.repositories
        } else if lower.ends_with(SUFFIX) && name.starts_with('.') {
            &mut self.hidden
        } else if lower.ends_with(SUFFIX) && is_training {
            &mut self.training
        } else if lower.ends_with(SUFFIX) {
            &mut self.weights
        } else if lower.ends_with(INDEX_SUFFIXES[0]) {
            &mut self.indexes
        } else if lower.ends_with(INDEX_SUFFIXES[1]) {
            &mut self.pickle_indexes
        } else if is_pickle && is_training {
            &mut self.training
        } else if is_pickle {
            &mut self.pickles
        } else if lower.ends_with(GGUF_SUFFIX) && name.starts_with('.') {
            &mut self.hidden
        } else if lower.ends_with(GGUF_SUFFIX) && lower.contains("mmproj") {
            &mut self.towers
        } else if lower.ends_with(GGUF_SUFFIX) {
            &mut self.ggufs
        } else if lower.ends_with(ONNX_SUFFIX) && name.starts_with('.') {
            &mut self.hidden
        } else if lower.ends_with(ONNX_SUFFIX) {
            &mut self.onnx
        } else if Kind::of_name(&lower).is_some() {
            &mut self.others
        } else if recognise::foreign_name(&name, &[]).is_some() {
            &mut self.foreign
        } else {
            return;
        };
        kind.push(name);
    }

    /// Whether the pickles of a folder without safetensors are the model: beside GGUF and ONNX files only if they are
    /// called so.
    fn means_pickles(&self) -> bool {
        let is_model = |name: &String| DEFAULT_NAMES.contains(&name.as_str()) || Numbered::parse(name).is_some();
        self.ggufs.is_empty() && self.onnx.is_empty()
            || !self.pickle_indexes.is_empty()
            || self.pickles.iter().any(is_model)
    }

    /// Takes the pickles for the weights of this folder.
    fn turn_to_pickles(&mut self) {
        self.weights = std::mem::take(&mut self.pickles);
        self.indexes = std::mem::take(&mut self.pickle_indexes);
    }

    /// The one index to go by, if there is any.
    fn choose_index(&self, root: &Path) -> Result<Option<&String>> {
        let own: Vec<&String> = self.indexes.iter().filter(|name| !is_second_layout(name)).collect();
        match (own.as_slice(), self.indexes.as_slice()) {
            ([only], _) => Ok(Some(only)),
            ([], [only]) => Ok(Some(only)),
            ([], []) => Ok(None),
            _ => Err(several(root, self.indexes.clone())),
        }
    }

    /// Refuses the folder if, beside the shards of its index, it holds a file that loaders take for the model (or its
    /// adapter) too.
    fn refuse_rivals(&self, root: &Path, unnamed: &[&String]) -> Result<()> {
        let of_index = |name: &str| self.indexes.iter().any(|index| index.strip_suffix(".index.json") == Some(name));
        let mut rivals: Vec<String> = unnamed
            .iter()
            .filter(|name| !is_second_layout(name))
            .filter(|name| DEFAULT_NAMES.contains(&name.as_str()) || of_index(name))
            .map(|name| (*name).clone())
            .collect();
        if rivals.is_empty() {
            return Ok(());
        }
        rivals.extend(self.indexes.iter().cloned());
        Err(several(root, rivals))
    }

    /// What lies beside the weights and was not read.
    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut note = |code, what: &str, names: &[String]| {
            if let Some(first) = names.first() {
                let message = format!("{what}: {}", listed(names));
                findings.push(Finding::new(code, Level::Note, message, first.clone()));
            }
        };
        let is_onnx = self.weights.is_empty() && self.indexes.is_empty() && self.ggufs.is_empty();
        if is_onnx {
            // They may be the values of the ONNX file under any name.
            note(Code::FileLeftOut, "files with names of pickles were not read as pickles", &self.pickles);
        } else {
            note(Code::FileLeftOut, "pickles were left out, because safetensors lie beside them", &self.pickles);
            note(Code::FileLeftOut, "ONNX files beside the model were left out", &self.onnx);
        }
        note(Code::FileLeftOut, "training state was left out", &self.training);
        if !self.weights.is_empty() || !self.indexes.is_empty() {
            note(Code::FileLeftOut, "GGUF files beside the model were left out", &self.ggufs);
        }
        note(Code::FileLeftOut, "towers of other kinds were left out", &self.towers);
        note(Code::FileLeftOut, "files in formats that are not read were left out", &self.foreign);
        note(Code::FileLeftOut, "hidden weight files were left out", &self.hidden);
        findings
    }

    /// Why there is no model in this folder.
    fn nothing(&self, root: &Path) -> Error {
        if !self.repositories.is_empty() {
            let found = listed(&self.repositories);
            return Error::usage(format!("{}: holds several repositories: {found}; name one of them", root.display()));
        }
        let mut found = Vec::new();
        let mut tell = |what: &str, names: &[String]| {
            if !names.is_empty() {
                found.push(format!("{what} ({})", listed(names)));
            }
        };
        tell("towers of other kinds", &self.towers);
        tell("training state", &self.training);
        tell("files in formats that are not read", &self.foreign);
        tell("hidden files", &self.hidden);
        let why = match found.as_slice() {
            [] => "no weight files (*.safetensors, *.bin, *.pt, *.pth, *.gguf, *.onnx) in this folder".to_owned(),
            found => format!("no weight files in this folder, only {}", found.join(" and ")),
        };
        Error::nothing(root, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_names_are_told_from_others() {
        let numbered = |name| Numbered::parse(name).map(|found| (found.prefix, found.number, found.total));
        assert_eq!(numbered("model-00002-of-00003.safetensors"), Some(("model", 2, 3)));
        assert_eq!(numbered("a-b-1-of-1.safetensors"), Some(("a-b", 1, 1)));
        assert_eq!(numbered("pytorch_model-00001-of-00002.bin"), Some(("pytorch_model", 1, 2)));
        for other in [
            "model.safetensors",
            "model-00000-of-00003.safetensors",
            "model-00004-of-00003.safetensors",
            "model-x-of-00003.safetensors",
            "model-1-of-99999999999999999999.safetensors",
            "one-of-many.safetensors",
            "model-00001-of-00003.json",
        ] {
            assert_eq!(numbered(other), None, "{other}");
        }
    }
}
