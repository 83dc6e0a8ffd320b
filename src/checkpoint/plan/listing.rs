//! The files of a folder by what their names say they are.

use crate::bytes::Store;
use crate::checkpoint::inventory;
use crate::format::recognise::{self, GGUF_SUFFIX, Kind, ONNX_SUFFIX, PICKLE_SUFFIXES, SAFETENSORS_SUFFIX as SUFFIX};
use crate::text::listed;
use crate::{Error, Result};

use super::DEFAULT_NAMES;
use super::sets::Numbered;

/// Endings of the names of indexes.
const INDEX_SUFFIXES: [&str; 2] = [".safetensors.index.json", ".bin.index.json"];

/// The files of a folder by what their names say they are, each sorted.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) weights: Vec<String>,
    pub(super) indexes: Vec<String>,
    pub(super) pickles: Vec<String>,
    /// Indexes of shards that are pickles.
    pickle_indexes: Vec<String>,
    /// Optimiser and scheduler state, arguments of the training script.
    training: Vec<String>,
    pub(super) ggufs: Vec<String>,
    /// Vision and audio towers that llama.cpp keeps in files of their own.
    towers: Vec<String>,
    pub(super) onnx: Vec<String>,
    /// Weights in formats that have no place of their own among the others.
    pub(super) others: Vec<String>,
    /// Weights in formats that are not read.
    foreign: Vec<String>,
    /// Weight files that loaders pass over because their names begin with a dot.
    hidden: Vec<String>,
    /// Folders of repositories, as in the root of a Hugging Face cache.
    repositories: Vec<String>,
}

impl Listing {
    pub(super) fn read(store: &dyn Store) -> Result<Self> {
        let mut names = store.list()?;
        names.sort_unstable();
        let mut listing = Self::default();
        names.into_iter().for_each(|name| listing.sort_in(name));
        Ok(listing)
    }

    fn sort_in(&mut self, name: String) {
        let lower = name.to_lowercase();
        let is_pickle = PICKLE_SUFFIXES.iter().any(|suffix| lower.ends_with(suffix));
        let is_training = inventory::is_training(&lower);
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
    pub(super) fn means_pickles(&self) -> bool {
        let is_model = |name: &String| DEFAULT_NAMES.contains(&name.as_str()) || Numbered::parse(name).is_some();
        self.ggufs.is_empty() && self.onnx.is_empty()
            || !self.pickle_indexes.is_empty()
            || self.pickles.iter().any(is_model)
    }

    /// Takes the pickles for the weights of this folder.
    pub(super) fn turn_to_pickles(&mut self) {
        self.weights = std::mem::take(&mut self.pickles);
        self.indexes = std::mem::take(&mut self.pickle_indexes);
    }

    /// Why there is no model in this folder.
    pub(super) fn nothing(&self, store: &dyn Store) -> Error {
        let root = store.root();
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
        // What names do not tell, content may.
        let unnamed = inventory::weights_below(store);
        tell("weights under other names or in folders of their own", &unnamed);
        let why = match found.as_slice() {
            [] => "no weight files (*.safetensors, *.bin, *.pt, *.pth, *.gguf, *.onnx) in this folder".to_owned(),
            found => {
                format!("no weight files in this folder, only {}", found.join(" and "))
                    + if unnamed.is_empty() { "" } else { "; name one of them" }
            }
        };
        Error::nothing(root, why)
    }
}
