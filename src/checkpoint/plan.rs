//! Which files of a folder are the weights of the model.
//!
//! A folder that holds a model in several forms is read as loaders read it, and what they do not read is told. Where it
//! holds several models and there is no rule, the user has to say which one is meant, because a scan of the wrong one
//! would pass for the other.

pub(super) mod gguf;
mod listing;
mod sets;

use std::path::Path;

use self::listing::Listing;
use self::sets::{Model, Numbered};
use super::index::Index;
use super::meta;
use crate::bytes::Store;
use crate::finding::{Code, Finding, Level};
use crate::format::recognise::GGUF_SUFFIX;
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "sharded checkpoint";

/// Names under which loaders look for weights whether or not there is an index, in the order in which they do.
const DEFAULT_NAMES: [&str; 7] = [
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.onnx",
];

/// The weight files of one model, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Relative to the root, `/`-separated.
    pub(crate) files: Vec<String>,
    pub(crate) index: Option<Index>,
    pub(crate) findings: Vec<Finding>,
}

/// One of several forms of a model, and why.
struct Chosen {
    model: Option<Model>,
    findings: Vec<Finding>,
}

impl Chosen {
    /// The only one there is, if there is one.
    fn only(mut models: Vec<Model>) -> Self {
        Self { model: models.pop(), findings: Vec::new() }
    }

    fn told(model: Model, why: &str) -> Self {
        let message = format!("the folder holds the model in several forms: {}, {why}, was read", shown(&model.label));
        let told = Finding::new(Code::ModelChosen, Level::Note, message, model.files[0].clone());
        Self { model: Some(model), findings: vec![told] }
    }

    /// Of forms of one model the one with the most bytes: rounding the others again tells nothing that it does not.
    fn most_precise(store: &dyn Store, models: Vec<Model>) -> Result<Self> {
        let mut sized = Vec::with_capacity(models.len());
        for model in models {
            sized.push((std::cmp::Reverse(model.bytes(store)?), model.files.len(), model.label.clone(), model));
        }
        sized.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        let first = sized.into_iter().map(|(.., model)| model).next();
        Ok(first.map_or_else(|| Self::only(Vec::new()), |model| Self::told(model, "which has the most bytes")))
    }
}

/// Finds the weight files of the model in a store: that of the file or index that was named, or the only one.
pub(crate) fn plan(store: &dyn Store, named: Option<&str>) -> Result<Plan> {
    match named {
        None => plan_folder(store),
        Some(name) if is_json(name) => plan_named_index(store, name),
        Some(name) => plan_file(store, name),
    }
}

/// The files of the store itself that belong to the same set as one that was named, and were not read with it.
pub(super) fn siblings(store: &dyn Store, files: &[String]) -> Result<Vec<String>> {
    let sets: Vec<_> = files.iter().filter_map(|name| Numbered::parse(name)).map(|numbered| numbered.set()).collect();
    let is_of_set = |name: &String| Numbered::parse(name).is_some_and(|numbered| sets.contains(&numbered.set()));
    let mut names = if sets.is_empty() { Vec::new() } else { store.list()? };
    names.retain(|name| is_of_set(name) && !files.contains(name));
    names.sort_unstable();
    Ok(names)
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
    match choose_index(store.root(), &listing.indexes)? {
        Some(name) => plan_indexed(store, &listing, name),
        None => plan_set(store, &listing, Vec::new()),
    }
}

/// The one index to go by, if there is any.
fn choose_index<'a>(root: &Path, indexes: &'a [String]) -> Result<Option<&'a String>> {
    let own: Vec<&String> = indexes.iter().filter(|name| !is_second_layout(name)).collect();
    let default = own.iter().find(|index| DEFAULT_NAMES.iter().any(|name| is_index_of(index, name)));
    match (own.as_slice(), default, indexes) {
        ([only], ..) | (_, Some(only), _) => Ok(Some(only)),
        ([], None, [only]) => Ok(Some(only)),
        ([], None, []) => Ok(None),
        _ => Err(several_named(root, indexes)),
    }
}

/// Whether loaders take `index` for that of the shards of the file called `name`.
fn is_index_of(index: &str, name: &str) -> bool {
    index.strip_suffix(".index.json") == Some(name)
}

fn plan_named_index(store: &dyn Store, name: &str) -> Result<Plan> {
    let index = Index::read(store, name)?;
    check_there(store, &index)?;
    with_siblings(store, index, Vec::new())
}

/// Goes by an index whose shards are all there, and leaves one aside that does not fit what is there.
fn plan_indexed(store: &dyn Store, listing: &Listing, name: &str) -> Result<Plan> {
    let index = Index::read(store, name)?;
    let unnamed: Vec<String> =
        listing.weights.iter().filter(|name| index.files.binary_search(name).is_err()).cloned().collect();
    let is_rival = |other: &&String| {
        !is_second_layout(other) && (DEFAULT_NAMES.contains(&other.as_str()) || is_index_of(name, other))
    };
    let rivals: Vec<&String> = unnamed.iter().filter(is_rival).collect();
    if let Err(missing) = check_there(store, &index) {
        let whole = Model::sets(&unnamed).into_iter().find(|model| {
            let is_set = Numbered::parse(&model.files[0]).is_some();
            rivals.contains(&&model.files[0]) || is_set && model.check_complete(store.root()).is_ok()
        });
        let Some(model) = whole else { return Err(missing) };
        let message = format!(
            "{} names shards that are not there, and was left aside: {} was read",
            shown(name),
            shown(&model.label)
        );
        return plan_model(
            store,
            model,
            vec![Finding::new(Code::IndexMismatch, Level::Warning, message, name.to_owned())],
        );
    }
    let mut findings = Vec::new();
    if let Some(first) = rivals.first() {
        let message = format!(
            "{} beside the shards of {}: programs do not agree which of them is the model; the shards were read",
            listed(&rivals),
            shown(name)
        );
        findings.push(Finding::new(Code::ModelChosen, Level::Warning, message, (*first).clone()));
    }
    with_siblings(store, index, findings)
}

/// An index that names only some shards of a numbered set that is there: by their names the others belong to the model
/// too, and leaving out what it does not name would leave out what a cheat wants left out.
fn with_siblings(store: &dyn Store, index: Index, mut findings: Vec<Finding>) -> Result<Plan> {
    let mut files = index.files.clone();
    let siblings = siblings(store, &files)?;
    if let Some(first) = siblings.first() {
        let message =
            format!("shards that the index does not name belong to its set and were read: {}", listed(&siblings));
        findings.push(Finding::new(Code::IndexMismatch, Level::Error, message, first.clone()));
    }
    files.extend(siblings);
    Ok(Plan { files, index: Some(index), findings })
}

fn check_there(store: &dyn Store, index: &Index) -> Result<()> {
    let missing: Vec<&String> = index.files.iter().filter(|name| !store.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("{} of {} shards are missing: {}", missing.len(), index.files.len(), listed(&missing));
    Err(Error::malformed(store.root(), FORMAT, what))
}

/// Without an index: one file, or one complete set of numbered ones.
fn plan_set(store: &dyn Store, listing: &Listing, mut findings: Vec<Finding>) -> Result<Plan> {
    let Listing { weights, ggufs, onnx, others, .. } = listing;
    let names = [weights, ggufs, onnx, others].into_iter().find(|names| !names.is_empty()).unwrap_or(weights);
    let mut models = Model::sets(names);
    if models.iter().any(|model| !is_second_layout(&model.files[0])) {
        models.retain(|model| !is_second_layout(&model.files[0]));
    }
    let chosen = if std::ptr::eq(names, ggufs) { gguf::choose(store, models) } else { choose(store, models) }?;
    findings.extend(chosen.findings);
    let Some(model) = chosen.model else { return Err(listing.nothing(store)) };
    plan_model(store, model, findings)
}

/// Which of several models in one format loaders take; of forms of one model, where they take none, the most precise.
fn choose(store: &dyn Store, mut models: Vec<Model>) -> Result<Chosen> {
    if models.len() < 2 {
        return Ok(Chosen::only(models));
    }
    let default = DEFAULT_NAMES.iter().find_map(|name| models.iter().position(|model| model.files[0] == *name));
    if let Some(default) = default {
        return Ok(Chosen::told(models.swap_remove(default), "which loaders look for first"));
    }
    let stem = models[0].stem().to_owned();
    let is_known = DEFAULT_NAMES.iter().any(|name| name.split('.').next() == Some(&stem));
    let is_set = models.iter().all(|model| Numbered::parse(&model.files[0]).is_some());
    if !(is_known || is_set) || models.iter().any(|model| model.stem() != stem) {
        return Err(several(store.root(), &models));
    }
    if models.iter().any(|model| model.check_complete(store.root()).is_ok()) {
        models.retain(|model| model.check_complete(store.root()).is_ok());
    }
    match models.len() {
        1 => Ok(Chosen::told(models.swap_remove(0), "which is complete")),
        _ => Chosen::most_precise(store, models),
    }
}

fn several(root: &Path, models: &[Model]) -> Error {
    several_named(root, &models.iter().map(|model| model.label.clone()).collect::<Vec<_>>())
}

fn several_named(root: &Path, candidates: &[String]) -> Error {
    let found = listed(candidates);
    Error::usage(format!("{}: holds more than one model: {found}; name one of them", root.display()))
}

/// Mistral publishes its models twice in one folder, the second time in its own layout under this name.
fn is_second_layout(name: &str) -> bool {
    name.starts_with("consolidated")
}
