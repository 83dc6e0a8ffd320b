//! An adapter and its base seen as the one model that they make, which is never written.
//!
//! Only the view is made here: which tensor of the base each factor changes, and whether they fit. The base is the one
//! that is named; what the adapter declares is never followed to another folder.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

mod parts;

use self::parts::{Factors, Parts};
use crate::checkpoint::adapter::Merged;
use crate::checkpoint::adapter::config::Scales;
use crate::checkpoint::{Checkpoint, Format, OpenOptions, Shard};
use crate::finding::{Code, Finding, Level};
use crate::format::Claims;
use crate::model::Role;
use crate::model::naming::{self, is_adapter_part, lacks_base};
use crate::tensor::low_rank::{LowRank, Magnitude};
use crate::tensor::{Storage, TensorMeta};
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "adapter";

/// Highest rank of a change, and most out features whose lengths are kept at once.
const MAX_RANK: u64 = 1 << 16;
const MAX_LENGTHS: u64 = 1 << 24;

/// Opens an adapter together with the base that it changes: every tensor of the base, with the changes added when
/// values are read. Nothing is written, and nothing that the adapter names is looked for.
///
/// Values are those that PEFT's `merge_and_unload` writes, rounded to the base's type if that is `F32`, `BF16` or
/// `F16`; of any other type of the base the result is `F32`.
///
/// # Errors
/// As [`Checkpoint::open`] for either path; [`ErrorKind::Usage`](crate::ErrorKind::Usage) if `adapter` holds no
/// adapter; [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) if it is of a method that is not merged, or `base` holds
/// no model; [`ErrorKind::Malformed`](crate::ErrorKind::Malformed), naming file and tensor, if names or shapes do not
/// fit the base.
pub fn open_merged(adapter: &Path, base: &Path, options: OpenOptions) -> Result<Checkpoint> {
    let (mut theirs, mut own) = (Checkpoint::open(adapter, options)?, Checkpoint::open(base, options)?);
    theirs.read_elsewhere(&own.shards);
    own.read_elsewhere(&theirs.shards);
    for part in [&theirs, &own] {
        if let Some(pointers) = &part.pointers {
            return Err(pointers.refusal(&part.shards));
        }
    }
    if !theirs.tensors.iter().any(|tensor| is_adapter_part(&tensor.name)) {
        return Err(Error::usage(format!("{}: is no adapter, so it has no base", adapter.display())));
    }
    let nothing = |path: &Path, why: String| Error::nothing(path, why);
    if own.tensors.is_empty() || lacks_base(own.tensors.iter().map(|tensor| tensor.name.as_str())) {
        return Err(nothing(base, "it holds no model that an adapter could change".to_owned()));
    }
    let Some(config) = theirs.adapter.clone() else {
        let what = "there is none, or it cannot be read: without it the scale of the change is not known";
        return Err(Error::malformed(theirs.root.join("adapter_config.json"), FORMAT, what));
    };
    if let Some(why) = config.refused() {
        return Err(nothing(adapter, why));
    }
    let malformed = |what| Error::malformed(theirs.root.join("adapter_config.json"), FORMAT, what);
    let scales = config.scales().map_err(malformed)?;
    let names = Names::of(&own.tensors);
    let mut merge = Merge { adapter: &theirs, base: own.shards.len(), names, scales, tensors: own.tensors.clone() };
    let parts = Parts::sort(&theirs.tensors).map_err(|(tensor, what)| merge.refuse(tensor, what))?;
    let replaced = parts.whole.len();
    let saved = config.modules_to_save.as_deref().unwrap_or_default();
    for (name, tensor) in parts.whole {
        merge.replace(&name, tensor, saved)?;
    }
    let (mut ranks, mut modules, mut changed) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut unknown = Vec::new();
    for (module, factors) in parts.factors {
        modules.insert(module.rsplit('.').next().unwrap_or_default().to_owned());
        let wants_length = config.use_dora == Some(true);
        let (rank, places) = merge.change(&module, factors, wants_length, config.fan_in_fan_out == Some(true))?;
        ranks.insert(rank);
        changed += places.tensors;
        unknown.extend(places.without_lengths);
    }
    let mut tensors = merge.tensors;
    tensors.sort_by(|a, b| a.place().cmp(&b.place()));
    let merged = Merged {
        adapter: name_of(&theirs),
        base: name_of(&own),
        method: config.peft_type.clone().unwrap_or_default().to_uppercase(),
        ranks: ranks.into_iter().collect(),
        modules: modules.into_iter().collect(),
        changed,
        replaced,
        adapter_files: theirs.shards.len(),
    };
    let mut checkpoint = joined(own, theirs, tensors, merged)?;
    know_lengths(&mut checkpoint, &unknown)?;
    Ok(checkpoint)
}

/// The base with the adapter's files behind its own.
fn joined(base: Checkpoint, adapter: Checkpoint, tensors: Vec<TensorMeta>, merged: Merged) -> Result<Checkpoint> {
    let still_shared = || Error::usage("the checkpoint is in use elsewhere".to_owned());
    let mut shards = Arc::into_inner(base.shards).ok_or_else(still_shared)?;
    shards.extend(Arc::into_inner(adapter.shards).ok_or_else(still_shared)?);
    let Claims { card, card_unreadable, mentions, .. } = adapter.claims;
    let claims = Claims { card, card_unreadable, mentions, ..base.claims };
    let mut findings = base.findings;
    let is_of_it_alone = |finding: &Finding| matches!(finding.code, Code::NeedsBase | Code::AdapterInside);
    findings.extend(adapter.findings.into_iter().filter(|finding| !is_of_it_alone(finding)));
    let declared = adapter.adapter.as_ref().and_then(|config| config.base_model_name_or_path.as_deref());
    findings.push(finding(&merged, declared));
    let unread = [base.unread, adapter.unread].concat();
    let (merged, shards) = (Some(merged), Arc::new(shards));
    Ok(Checkpoint {
        format: Format::Merged,
        shards,
        tensors,
        claims,
        adapter: adapter.adapter,
        findings,
        unread,
        repository: None,
        revision: None,
        merged,
        ..base
    })
}

/// Finds how long the out features are where they do not lie in rows, which takes a pass over those tensors.
fn know_lengths(checkpoint: &mut Checkpoint, names: &[String]) -> Result<()> {
    for name in names {
        let Some(at) = checkpoint.tensors.iter().position(|tensor| tensor.name == *name) else { continue };
        let Storage::LowRank(change) = &checkpoint.tensors[at].storage else { continue };
        let Some(Magnitude::Lengths(stated)) = &change.magnitude else { continue };
        let refuse = || {
            let path = checkpoint.shards.get(change.base.first_extent().shard).map_or(&*checkpoint.root, Shard::path);
            Error::malformed(path, FORMAT, "its values cannot be read").in_tensor(name)
        };
        let known = checkpoint.lengths(change)?.ok_or_else(refuse)?;
        let magnitude = Some(Magnitude::Known(stated.clone(), known));
        checkpoint.tensors[at] = LowRank { magnitude, ..LowRank::clone(change) }.tensor();
    }
    Ok(())
}

/// That an adapter was merged, and into what.
fn finding(merged: &Merged, declared: Option<&str>) -> Finding {
    let declared = declared.map_or_else(|| "none".to_owned(), shown);
    let ranks: Vec<String> = merged.ranks.iter().map(u64::to_string).collect();
    let whole =
        if merged.replaced > 0 { format!(", {} tensors replaced whole", merged.replaced) } else { String::new() };
    let message = format!(
        "{} adapter {} was merged into {} as it was read: rank {} on {}, {} tensors changed{whole}; the base that it \
         declares is {declared}",
        shown(&merged.method),
        shown(&merged.adapter),
        shown(&merged.base),
        ranks.join(", "),
        listed(&merged.modules),
        merged.changed
    );
    Finding::new(Code::AdapterMerged, Level::Note, message, None)
}

/// The repository, or the name of the folder.
fn name_of(checkpoint: &Checkpoint) -> String {
    let Checkpoint { repository, folder, root, .. } = checkpoint;
    repository.clone().or_else(|| folder.clone()).unwrap_or_else(|| root.display().to_string())
}

/// The base's tensors by name, and by what is left of it without the first segments.
struct Names {
    exact: HashMap<String, usize>,
    /// `None` where several have the same rest.
    rests: HashMap<String, Option<usize>>,
    /// By what every scheme that knows the name says it is; `None` where several are the same.
    roles: HashMap<Place, Option<usize>>,
}

/// A role with its layer and expert.
type Place = (Role, Option<u32>, Option<u32>);

/// What a name stands for, if all schemes that know it agree.
fn place(name: &str) -> Option<Place> {
    let naming::Collapsed { key, numbers } = naming::collapse(name);
    let mut places = naming::lookup(&key, &numbers).map(|hit| (hit.row().role, hit.layer, hit.expert));
    let first = places.next()?;
    places.all(|place| place == first).then_some(first)
}

/// Segments that wrap a decoder. What stands in another tower keeps the name of that.
const WRAPPERS: [&str; 5] = ["model", "language_model", "transformer", "gpt_neox", "text_model"];

/// The name without one, two or three wrappers in front.
fn rests(name: &str) -> impl Iterator<Item = &str> {
    let mut left = name;
    std::iter::from_fn(move || {
        let (first, tail) = left.split_once('.')?;
        left = tail;
        WRAPPERS.contains(&first).then_some(tail)
    })
    .take(3)
}

impl Names {
    fn of(tensors: &[TensorMeta]) -> Self {
        let mut names = Self { exact: HashMap::new(), rests: HashMap::new(), roles: HashMap::new() };
        for (at, tensor) in tensors.iter().enumerate() {
            names.exact.insert(tensor.name.clone(), at);
            for rest in rests(&tensor.name) {
                names.rests.entry(rest.to_owned()).and_modify(|found| *found = None).or_insert(Some(at));
            }
            if let Some(place) = place(&tensor.name) {
                names.roles.entry(place).and_modify(|found| *found = None).or_insert(Some(at));
            }
        }
        names
    }

    /// The tensor of this name; where there is none, the only one whose name differs in nothing but what wraps it; or the
    /// only one that has another tool's name for the same, as in GGUF.
    fn find(&self, name: &str) -> Option<usize> {
        let exact = |name: &str| self.exact.get(name).copied();
        let rest = |name: &str| self.rests.get(name).copied().flatten();
        exact(name)
            .or_else(|| rest(name))
            .or_else(|| rests(name).find_map(exact))
            .or_else(|| rests(name).find_map(rest))
            .or_else(|| self.roles.get(&place(name)?).copied().flatten())
    }
}

/// A merge under way.
struct Merge<'a> {
    adapter: &'a Checkpoint,
    /// Number of the base's files.
    base: usize,
    names: Names,
    scales: Scales<'a>,
    tensors: Vec<TensorMeta>,
}

/// What was done to a module.
struct Places {
    tensors: usize,
    /// The tensor of which a pass has to find how long its out features are.
    without_lengths: Option<String>,
}

impl Merge<'_> {
    fn refuse(&self, tensor: &TensorMeta, what: String) -> Error {
        let path = self.adapter.shards.get(tensor.first_extent().shard).map_or(&*self.adapter.root, Shard::path);
        Error::malformed(path, FORMAT, what).in_tensor(&tensor.name)
    }

    /// Puts a tensor of the adapter in the place of the base's.
    fn replace(&mut self, name: &str, tensor: TensorMeta, saved: &[String]) -> Result<()> {
        let own = TensorMeta { name: name.to_owned(), ..tensor.clone().shifted(self.base) };
        if let Some(at) = self.names.find(name) {
            let before = &self.tensors[at];
            // A vocabulary may have grown.
            if before.shape.get(1..) != own.shape.get(1..) || before.shape.len() != own.shape.len() {
                let what =
                    format!("shape {:?} does not fit {:?} of the base's {}", own.shape, before.shape, shown(name));
                return Err(self.refuse(&tensor, what));
            }
            self.tensors[at] = TensorMeta { name: before.name.clone(), ..own };
            return Ok(());
        }
        let (module, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let last = module.rsplit('.').next().unwrap_or(module);
        let is_bias = part == "bias" && self.names.find(&format!("{module}.weight")).is_some();
        if !is_bias && !matches!(last, "lm_head" | "embed_out") && !saved.iter().any(|saved| saved == last) {
            return Err(self.refuse(&tensor, format!("the base has no tensor {} that it could replace", shown(name))));
        }
        self.names.exact.insert(own.name.clone(), self.tensors.len());
        self.tensors.push(own);
        Ok(())
    }

    /// Adds the change of one module; returns its rank.
    fn change(
        &mut self,
        module: &str,
        factors: Factors,
        wants_length: bool,
        transposed: bool,
    ) -> Result<(u64, Places)> {
        let any = [&factors.a, &factors.b, &factors.bias, &factors.magnitude].into_iter().flatten().next().cloned();
        let (a, b) = match (factors.a, factors.b, any) {
            (Some(a), Some(b), _) => (a, b),
            (_, _, Some(other)) => {
                return Err(self.refuse(&other, format!("{} lacks one of its two factors", shown(module))));
            }
            (_, _, None) => return Err(Error::malformed(&self.adapter.root, FORMAT, "a module without factors")),
        };
        for factor in [Some(&a), Some(&b), factors.bias.as_ref(), factors.magnitude.as_ref()].into_iter().flatten() {
            let is_read = factor.dtype.is_decoded() && factor.dtype.bytes().is_some() && factor.dtype.is_float();
            if !is_read || !factor.storage.is_plain() {
                return Err(self.refuse(factor, format!("factors of type {} are not merged", factor.dtype)));
            }
        }
        let ([rank, in_features], [out_features, same]) = (&a.shape[..], &b.shape[..]) else {
            let what = format!(
                "factors of shapes {:?} and {:?} are no matrices: convolutions are not merged",
                a.shape, b.shape
            );
            return Err(self.refuse(&a, what));
        };
        let (rank, in_features, out_features) = (*rank, *in_features, *out_features);
        if rank != *same || rank == 0 || rank > MAX_RANK {
            return Err(
                self.refuse(&b, format!("factors of shapes {:?} and {:?} have no common rank", a.shape, b.shape))
            );
        }
        let weight = format!("{module}.weight");
        let at = self.find(&weight, &a)?;
        let base = self.tensors[at].clone();
        let [rows, cols] = base.shape[..] else {
            return Err(self.refuse(&a, format!("the base's {} has shape {:?}", shown(&base.name), base.shape)));
        };
        let (upright, across) =
            ((rows, cols) == (out_features, in_features), (rows, cols) == (in_features, out_features));
        let fits = if factors.embedding { across } else { upright || across };
        if !fits || !base.dtype.is_decoded() || !base.dtype.is_float() {
            let what = format!(
                "a change of {out_features} outs and {in_features} ins does not fit the base's {} of {} and shape {:?}",
                shown(&base.name),
                base.dtype,
                base.shape
            );
            return Err(self.refuse(&b, what));
        }
        let transposed = factors.embedding || across && (transposed || !upright);
        let scale = self.scales.of(module, rank).map_err(|what| self.refuse(&b, what))?;
        let magnitude = self.magnitude(module, factors.magnitude, wants_length, out_features, &b)?;
        let without_lengths = (transposed && magnitude.is_some()).then(|| base.name.clone());
        let (a, b) = (Some(a.shifted(self.base)), b.shifted(self.base));
        self.tensors[at] = LowRank { base, b, a, runs: None, transposed, scale, magnitude }.tensor();
        let mut tensors = 1;
        if let Some(added) = factors.bias {
            self.add_to_bias(module, added, scale)?;
            tensors += 1;
        }
        Ok((rank, Places { tensors, without_lengths }))
    }

    fn find(&self, name: &str, tensor: &TensorMeta) -> Result<usize> {
        let none = || self.refuse(tensor, format!("the base has no tensor {} that it could change", shown(name)));
        let at = self.names.find(name).ok_or_else(none)?;
        if matches!(self.tensors[at].storage, Storage::LowRank(_)) {
            return Err(self.refuse(tensor, format!("the base's {} is changed twice", shown(&self.tensors[at].name))));
        }
        Ok(at)
    }

    /// The stated lengths, if there are to be any.
    fn magnitude(
        &self,
        module: &str,
        stated: Option<TensorMeta>,
        wanted: bool,
        out_features: u64,
        factor: &TensorMeta,
    ) -> Result<Option<Magnitude>> {
        match (stated, wanted) {
            (None, false) => Ok(None),
            (Some(stated), true) if stated.elements() == out_features && out_features <= MAX_LENGTHS => {
                // Some versions keep it as a matrix of one row or column.
                let vector = TensorMeta { shape: vec![out_features], ..stated.shifted(self.base) };
                Ok(Some(Magnitude::Lengths(vector)))
            }
            (Some(stated), true) => {
                let what = format!("{} lengths do not fit {out_features} outs of {}", stated.elements(), shown(module));
                Err(self.refuse(&stated, what))
            }
            (None, true) => {
                Err(self.refuse(factor, format!("{} lacks the lengths that use_dora asks for", shown(module))))
            }
            (Some(stated), false) => {
                Err(self.refuse(&stated, "it has lengths, and the configuration does not state use_dora".to_owned()))
            }
        }
    }

    fn add_to_bias(&mut self, module: &str, added: TensorMeta, scale: f32) -> Result<()> {
        let at = self.find(&format!("{module}.bias"), &added)?;
        let base = self.tensors[at].clone();
        if base.shape.len() != 1 || base.shape != added.shape || !base.dtype.is_decoded() || !base.dtype.is_float() {
            let what = format!("shape {:?} does not fit {:?} of the base's bias", added.shape, base.shape);
            return Err(self.refuse(&added, what));
        }
        let b = TensorMeta { shape: vec![base.elements(), 1], ..added.shifted(self.base) };
        let change = LowRank { base, b, a: None, runs: None, transposed: true, scale, magnitude: None };
        self.tensors[at] = change.tensor();
        Ok(())
    }
}
