//! GGUF files that lie in one folder: what each is, and which of them are one model.
//!
//! llama.cpp's repositories hold a model in many precisions, with importance matrices, adapters, control vectors and towers
//! beside it. Names are free; what a file states and which tensors it has is not.

use std::collections::{BTreeMap, BTreeSet};

use super::sets::Model;
use super::{Chosen, several};
use crate::Result;
use crate::bytes::Store;
use crate::finding::{Code, Finding, Level};
use crate::format::recognise::Kind;
use crate::format::{self, Header};
use crate::text::listed;

/// What a GGUF file is by its metadata, if that is no model.
pub(crate) fn side(metadata: &BTreeMap<String, String>) -> Option<&'static str> {
    let stated = |key: &str| metadata.get(key).map(String::as_str);
    match (stated("general.type"), stated("general.architecture")) {
        (Some("imatrix"), _) | (_, Some("imatrix")) => Some("an importance matrix, which has no weights"),
        (Some("controlvector"), _) | (_, Some("controlvector")) => Some("a control vector, which has no weights"),
        (Some("adapter"), _) => Some("an adapter"),
        (Some("mmproj"), _) | (_, Some("clip")) => Some("a tower of another kind"),
        _ => None,
    }
}

/// Why there is nothing to scan in a file with this metadata, if that is so.
pub(crate) fn no_weights(metadata: &BTreeMap<String, String>) -> Option<&'static str> {
    side(metadata).filter(|what| what.ends_with("no weights"))
}

/// What the headers of a model's files state.
struct Stated {
    model: Model,
    is_side: bool,
    /// `general.name`.
    name: Option<String>,
    /// Which part of a split model it says it is, and of how many.
    place: Option<(u64, u64)>,
    /// Matrices by name, with their shapes. Vectors come and go with versions of the converter.
    matrices: BTreeSet<(String, Vec<u64>)>,
}

impl Stated {
    /// `None` where a header cannot be read.
    fn read(store: &dyn Store, model: &Model) -> Option<Self> {
        let mut stated =
            Self { model: model.clone(), is_side: false, name: None, place: None, matrices: BTreeSet::new() };
        for (number, name) in model.files.iter().enumerate() {
            let object = store.open(name).ok()?;
            let Header { tensors, metadata, split, .. } =
                format::read(Kind::Gguf, &*object, name, &|_| Ok(None)).ok()?;
            if number == 0 {
                stated.is_side = side(&metadata).is_some();
                stated.name = metadata.get("general.name").cloned();
                stated.place = split.place().filter(|(_, count)| *count > 1);
            }
            let matrices = tensors.into_iter().filter(|tensor| tensor.shape.len() > 1);
            stated.matrices.extend(matrices.map(|tensor| (tensor.name, tensor.shape)));
        }
        Some(stated)
    }
}

/// Which of several models is the one of this folder.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if they are different models.
pub(super) fn choose(store: &dyn Store, models: Vec<Model>) -> Result<Chosen> {
    if models.len() < 2 {
        return Ok(Chosen::only(models));
    }
    let mut stated: Vec<Stated> = models.iter().filter_map(|model| Stated::read(store, model)).collect();
    if stated.iter().any(|file| !file.is_side) {
        stated.retain(|file| !file.is_side);
    }
    match &stated[..] {
        [] => return Err(several(store.root(), &models)),
        [only] => return Ok(Chosen::only(vec![only.model.clone()])),
        _ => {}
    }
    if let Some(model) = parts(&stated) {
        let message =
            format!("files say which part of one model each is, and were read in that order: {}", listed(&model.files));
        let told = Finding::new(Code::ModelChosen, Level::Note, message, model.files[0].clone());
        return Ok(Chosen { model: Some(model), findings: vec![told] });
    }
    let names: BTreeSet<&String> = stated.iter().filter_map(|file| file.name.as_ref()).collect();
    let is_one = names.len() < 2 && stated.windows(2).all(|pair| pair[0].matrices == pair[1].matrices);
    let models: Vec<Model> = stated.into_iter().map(|file| file.model).collect();
    if is_one { Chosen::most_precise(store, models) } else { Err(several(store.root(), &models)) }
}

/// The files in the order in which they say that they belong together, whatever they are called.
fn parts(stated: &[Stated]) -> Option<Model> {
    let mut files = vec![None; stated.len()];
    for file in stated {
        let (number, count) = file.place?;
        let place = files.get_mut(usize::try_from(number).ok()?)?;
        if count != stated.len() as u64 || place.is_some() {
            return None;
        }
        *place = file.model.files.first().cloned();
    }
    let files = files.into_iter().collect::<Option<Vec<String>>>()?;
    Some(Model { label: files[0].clone(), files })
}
