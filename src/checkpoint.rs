//! Opening a checkpoint: which files hold the weights, what their headers say, and what lies beside them.
//!
//! Opening reads headers and small files only, and nothing that it reads is executed. Of a tensor's bytes it reads those
//! few in which a quantisation tool states the shape or the levels of another tensor. What a tensor is for is not known
//! here.

pub mod adapter;
mod card;
pub mod claims;
mod copies;
mod digest;
mod index;
mod inventory;
mod meta;
mod packed;
mod plan;
mod pointers;
mod reader;
mod roots;
mod shard;
mod superseded;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::claims::Sidecars;
pub use self::claims::Tokenizer;
use self::inventory::Inventory;
use self::plan::Plan;
use self::pointers::Pointers;
use self::reader::Reader;
pub use self::reader::Values;
pub(crate) use self::roots::{below as models_below, components};
pub use self::shard::{Shard, Stated};
pub use crate::bytes::Access as OpenOptions;
use crate::bytes::store::head;
use crate::bytes::{Folder, Object, Store};
use crate::finding::{Capped, Code, Finding, Level};
use crate::format::recognise::{self, Content, Kind};
use crate::format::{self, Claims, Header, RowOrder, Split};
use crate::limits::MAX_TENSORS;
use crate::tensor::low_rank::LowRank;
use crate::tensor::{DType, Extent, Storage, TensorMeta};
use crate::text::{listed, shown};
use crate::unread::Unread;
use crate::{Error, Result};

const FORMAT: &str = "checkpoint";

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One file, with the files that hold values for it.
    File(Kind),
    /// Several files, with an index or numbered names.
    Shards(Kind),
    /// Git-LFS pointers in place of weights, of some files or of all. There are no tensors.
    LfsPointers,
    /// An adapter and the base that it changes, each in a format of its own.
    Merged,
}

impl Format {
    /// The name that reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File(kind) => kind.as_str(),
            Self::Shards(kind) => kind.sharded(),
            Self::LfsPointers => "lfs-pointers",
            Self::Merged => "merged",
        }
    }

    /// The format of one file of this kind, or of several.
    fn of(kind: Kind, sharded: bool) -> Self {
        if sharded { Self::Shards(kind) } else { Self::File(kind) }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A model's weights as they lie on disk, opened for reading.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder that holds the files.
    pub root: PathBuf,
    /// The folder's own name, links followed.
    pub(crate) folder: Option<String>,
    /// How the weights are stored.
    pub format: Format,
    /// The weight files; with an index by name, without one by number.
    pub shards: Arc<Vec<Shard>>,
    /// The tensors in file order: by shard, then offset, then name. No name occurs twice.
    pub tensors: Vec<TensorMeta>,
    /// What files in and beside the weights say of the model.
    pub claims: Claims,
    /// The tokenizer that lies beside the weights.
    pub tokenizer: Option<Tokenizer>,
    /// The configuration of an adapter that lies beside the weights.
    pub adapter: Option<adapter::Config>,
    /// What was odd about the files.
    pub findings: Vec<Finding>,
    /// What lies in the files and beside them and is not read as part of the model.
    pub unread: Vec<Unread>,
    /// The repository, `org/name`, if the files lie in a Hugging Face cache.
    pub repository: Option<String>,
    /// The revision of that repository: a commit hash as a rule.
    pub revision: Option<String>,
    /// What was merged, if it is an adapter seen together with its base.
    pub merged: Option<adapter::Merged>,
    /// That there are pointers in place of weights. Who scans it decides whether what they state is enough.
    pub(crate) pointers: Option<Pointers>,
}

impl Checkpoint {
    /// Opens what `path` names: a weight file, an index of shards, a folder with one model, a snapshot in a Hugging
    /// Face cache, or the cache folder of a repository. Reads headers and the small files beside them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) if there are several models and none was named;
    /// [`ErrorKind::Nothing`](crate::ErrorKind::Nothing) if there are no weights that this version reads;
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) and [`ErrorKind::Limit`](crate::ErrorKind::Limit) if a
    /// file is not what its format demands, shards are missing, or a link leads out of the folder;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses; [`ErrorKind::Changed`](crate::ErrorKind::Changed)
    /// if a file shrank meanwhile.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let (folder, named) = Folder::locate(path, options)?;
        Self::open_in(&folder, named.as_deref())
    }

    /// Opens what lies in a store: the weight file or the index of shards that is `named`, or the one model in it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_in(store: &dyn Store, named: Option<&str>) -> Result<Self> {
        let Plan { files, index, mut findings } = plan::plan(store, named)?;
        let contents = sniff_all(store, &files)?;
        refuse_others(store, named, &contents)?;
        let path = store.path(named.unwrap_or_default());
        if let Some(shards) = pointers::shards(store, &files, &contents)? {
            let pointers = Some(Pointers { path, told_at: findings.len() });
            let beside = Sidecars::read(store, &mut findings);
            let unread = left_out(store, named, &files, &shards, &mut findings)?;
            return Ok(Self { findings, unread, pointers, ..Self::with(store, Format::LfsPointers, shards, beside) });
        }
        let kind = check_contents(path, &files, &contents)?;
        let format = Format::of(kind, index.is_some() || files.len() > 1);
        let Headers { shards, mut tensors, claims, splits, row_order, aliases, findings: found, mut unread } =
            Headers::read(store, &files, kind)?;
        findings.extend(found);
        if let Some(what) = shards.first().and_then(|shard| plan::gguf::no_weights(&shard.metadata)) {
            return Err(Error::nothing(shards[0].path(), what));
        }
        let is_parts = meta::is_parts(&files);
        let params = meta::Params::read(store, &mut findings);
        if is_parts {
            tensors = meta::join(store.root(), &shards, tensors, params.as_ref(), &mut findings)?;
        }
        if let Some(index) = &index {
            let (told, left) = superseded::drop(index, &shards, &mut tensors);
            findings.extend(told);
            unread.extend(left);
        }
        refuse_duplicates(&shards, &tensors)?;
        if is_parts || params.is_some() {
            findings.extend(meta::unpair(&mut tensors, params.as_ref()));
        }
        if let Some(index) = index {
            findings.extend(index.compare(&shards, &tensors, &aliases));
        }
        let remarked = findings.len();
        let mut beside = Sidecars::read(store, &mut findings);
        Split::check(store.root(), &splits, tensors.len())?;
        findings.extend(row_order.and_then(|order| order.undo(&mut tensors)));
        beside.claims = claims::together(claims, beside.claims);
        let mut tensors = packed::join(tensors, beside.claims.config.as_ref(), &shards)?;
        findings.extend(adapter::describe(&tensors, beside.adapter.as_ref(), &mut beside.claims));
        findings.extend(adapter::built_in(&mut tensors));
        unread.extend(left_out(store, named, &files, &shards, &mut findings)?);
        inventory::count_once(&mut unread);
        // What was joined is no longer of an unknown type.
        findings.splice(remarked..remarked, remarks(&tensors));
        Ok(Self { tensors, findings, unread, ..Self::with(store, format, shards, beside) })
    }

    fn with(store: &dyn Store, format: Format, shards: Vec<Shard>, beside: Sidecars) -> Self {
        let (repository, revision) = store.origin().cloned().map(|origin| (origin.repository, origin.revision)).unzip();
        let Sidecars { claims, tokenizer, adapter } = beside;
        Self {
            root: store.root().to_path_buf(),
            folder: store.folder(),
            format,
            shards: Arc::new(shards),
            tensors: Vec::new(),
            claims,
            tokenizer,
            adapter,
            findings: Vec::new(),
            unread: Vec::new(),
            repository,
            revision,
            merged: None,
            pointers: None,
        }
    }

    /// Bytes `[start, start + len)` of a plain tensor of this checkpoint: borrowed from the mapping, or read into `buf`,
    /// which grows to `len` bytes at most.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if the range is not within the tensor, or the tensor not
    /// plain or of this checkpoint; [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses.
    pub fn bytes<'a>(&'a self, tensor: &TensorMeta, start: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.reader().bytes(tensor, start, len, buf)
    }

    /// Decodes as many values of `tensor` as `out` has places for, from element `first` on. They have to be whole
    /// rows, or lie within one row; of a type in blocks, whole blocks. A plain tensor is decoded from the mapping in
    /// place, or through `buf`. Returns `None` and leaves `out` alone where the type is not one that is decoded.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if the elements are not the tensor's, or not whole rows or
    /// blocks; [`ErrorKind::Changed`](crate::ErrorKind::Changed) if the file shrank;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses.
    pub fn values<'a>(
        &'a self,
        tensor: &TensorMeta,
        first: u64,
        out: &mut [f32],
        buf: &'a mut Vec<u8>,
    ) -> Result<Option<Values<'a>>> {
        self.reader().values(tensor, first, out, buf)
    }

    /// Like [`Checkpoint::values`], but instead of each value the distance of the levels around it, to which its block
    /// type rounds. `false`, with `out` in an unknown state, where the type has no such levels.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub(crate) fn steps(&self, tensor: &TensorMeta, first: u64, out: &mut [f32], buf: &mut Vec<u8>) -> Result<bool> {
        self.reader().steps(tensor, first, out, buf)
    }

    /// Hands the stored bytes of a tensor to `take`, run by run, in the order in which its stored digest takes them.
    ///
    /// # Errors
    /// As [`Checkpoint::bytes`].
    pub fn stored(&self, tensor: &TensorMeta, buf: &mut Vec<u8>, take: impl FnMut(&[u8])) -> Result<()> {
        self.reader().stored(tensor, buf, take)
    }

    /// How long each out feature of a changed tensor is, in the order of `B`: a pass over a tensor whose out features are
    /// columns. `None` where a part cannot be read.
    ///
    /// # Errors
    /// As [`Checkpoint::values`].
    pub(crate) fn lengths(&self, change: &LowRank) -> Result<Option<Arc<[f32]>>> {
        self.reader().lengths(change)
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.root, &self.shards)
    }

    /// The same files seen as other tensors: fused ones taken apart, say. Reads nothing.
    #[must_use]
    pub fn with_tensors(&self, tensors: Vec<TensorMeta>) -> Self {
        Self {
            root: self.root.clone(),
            folder: self.folder.clone(),
            format: self.format,
            shards: Arc::clone(&self.shards),
            tensors,
            claims: self.claims.clone(),
            tokenizer: self.tokenizer.clone(),
            adapter: self.adapter.clone(),
            findings: self.findings.clone(),
            unread: self.unread.clone(),
            repository: self.repository.clone(),
            revision: self.revision.clone(),
            merged: self.merged.clone(),
            pointers: self.pointers.clone(),
        }
    }

    /// Says that a tensor's bytes are not needed any more for now, so that a scan of a large checkpoint does not push
    /// everything else out of memory. A hint: they can be read again.
    pub fn release(&self, tensor: &TensorMeta) {
        let release = |Extent { shard, offset, len }| {
            if let Some(shard) = self.shards.get(shard) {
                shard.release(offset, len);
            }
        };
        match &tensor.storage {
            Storage::Plain(extent) => release(*extent),
            Storage::Packed(packed) => packed.stored().for_each(|stored| release(stored.extent)),
            // Its pages may be those of other parts.
            Storage::View(_) => {}
            Storage::LowRank(change) => self.release(&change.base),
            Storage::PlusOne(gain) => self.release(gain),
            Storage::Sum(parts) => parts.iter().for_each(|part| self.release(part)),
        }
    }

    /// Checks that every file still has the length and modification time with which it was opened, so that a result
    /// is about one state of the checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`](crate::ErrorKind::Changed) naming the first file that is different or gone;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if one cannot be examined.
    pub fn check_unchanged(&self) -> Result<()> {
        for shard in self.shards.iter() {
            if !shard.is_unchanged()? {
                return Err(Error::changed(shard.path()));
            }
        }
        Ok(())
    }

    /// Number of elements of the floating-point tensors; saturates.
    pub fn parameters(&self) -> u64 {
        let floats = self.tensors.iter().filter(|tensor| tensor.dtype.is_float());
        floats.fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }

    /// Bytes of all tensors, headers and gaps not included; saturates.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.stored_bytes()))
    }
}

/// What lies beside the files of a model and was not read. Of a file that was named only the rest of its set: what else
/// lies there is not what the user asked about.
fn left_out(
    store: &dyn Store,
    named: Option<&str>,
    files: &[String],
    shards: &[Shard],
    findings: &mut Vec<Finding>,
) -> Result<Vec<Unread>> {
    if named.is_some() {
        return Ok(inventory::of_siblings(store, plan::siblings(store, files)?));
    }
    let Inventory { unread, findings: found } = inventory::of_folder(store, shards);
    findings.extend(found);
    Ok(unread)
}

/// Refuses a file that was named and is a weight file neither by its content nor by its name.
fn refuse_others(store: &dyn Store, named: Option<&str>, contents: &[Content]) -> Result<()> {
    let Some(name) = named.filter(|_| contents.len() == 1) else { return Ok(()) };
    let is_other = matches!(contents[0], Content::Weights(_))
        && Kind::of_name(&name.to_lowercase()).is_none()
        && !name.to_lowercase().ends_with(".json")
        && !inventory::is_weights(store, name);
    if is_other {
        return Err(Error::nothing(store.path(name), "it is not a weight file, by its content or by its name"));
    }
    Ok(())
}

fn sniff_all(store: &dyn Store, files: &[String]) -> Result<Vec<Content>> {
    files.iter().map(|name| recognise::sniff(name, &*store.open(name)?)).collect()
}

/// What all the files are by their first bytes. Refuses those that are not read, before any header is; `path` is what
/// was to be opened.
fn check_contents(path: PathBuf, files: &[String], contents: &[Content]) -> Result<Kind> {
    let (mut kinds, mut pointers, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for (name, content) in files.iter().zip(contents) {
        match content {
            Content::Weights(kind) => kinds.push((name, *kind)),
            Content::Pointer(pointer) => pointers.push((name.as_str(), pointer.clone())),
            Content::Foreign(what) => foreign.push((name, *what)),
        }
    }
    if !pointers.is_empty() {
        return Err(pointers::refusal(path, &pointers, files.len()));
    }
    if let Some((name, what)) = foreign.first() {
        let why = format!("{} is {what}", shown(name));
        if foreign.len() == files.len() {
            return Err(Error::nothing(path, why));
        }
        return Err(Error::malformed(path, FORMAT, why));
    }
    let Some(((first, kind), rest)) = kinds.split_first() else { return Ok(Kind::Safetensors) };
    if let Some((other, _)) = rest.iter().find(|(_, other)| other != kind) {
        let what = format!("{} is not in the format of {}", shown(other), shown(first));
        return Err(Error::malformed(path, FORMAT, what));
    }
    Ok(*kind)
}

/// What the headers of all files of a model state together.
#[derive(Default)]
struct Headers {
    shards: Vec<Shard>,
    tensors: Vec<TensorMeta>,
    /// Of the first file, as is the order of rows: the others may leave them out.
    claims: Claims,
    row_order: Option<RowOrder>,
    splits: Vec<Split>,
    aliases: BTreeSet<String>,
    findings: Vec<Finding>,
    unread: Vec<Unread>,
}

impl Headers {
    fn read(store: &dyn Store, files: &[String], kind: Kind) -> Result<Self> {
        let mut all = Self::default();
        for (index, name) in files.iter().enumerate() {
            let object = store.open(name)?;
            let header = format::read(kind, &*object, name, &|name| open_beside(store, name))?;
            all.add(index == 0, name, object, header);
            if all.tensors.len() > MAX_TENSORS {
                let (path, found, limit) = (store.path(name), all.tensors.len() as u64, MAX_TENSORS as u64);
                return Err(Error::limit(path, "number of tensors", found, limit));
            }
        }
        Ok(all)
    }

    fn add(&mut self, is_first: bool, name: &str, object: Box<dyn Object>, header: Header) {
        let Header { tensors, metadata, claims, aliases, beside, split, row_order, findings, unread } = header;
        let position = self.shards.len();
        self.tensors.extend(tensors.into_iter().map(|tensor| tensor.shifted(position)));
        self.shards.push(Shard::new(name.to_owned(), metadata, object));
        self.shards.extend(beside.into_iter().map(|(name, object)| Shard::new(name, BTreeMap::new(), object)));
        if is_first {
            (self.claims, self.row_order) = (claims, row_order);
        }
        self.splits.push(split);
        self.aliases.extend(aliases);
        self.findings.extend(findings);
        self.unread.extend(unread);
    }
}

/// Opens a file that a weight file names; `None` where there is none.
fn open_beside(store: &dyn Store, name: &str) -> Result<Option<Box<dyn Object>>> {
    if !store.contains(name) {
        return Ok(None);
    }
    let object = store.open(name)?;
    match recognise::pointer(&head(&*object, recognise::MAX_POINTER_BYTES)?, object.len()) {
        Some(pointer) => Err(Error::nothing(store.path(name), pointer.advice(&shown(name)))),
        None => Ok(Some(object)),
    }
}

fn refuse_duplicates(shards: &[Shard], tensors: &[TensorMeta]) -> Result<()> {
    if shards.len() < 2 {
        return Ok(());
    }
    let mut seen = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        let Extent { shard, offset, .. } = tensor.first_extent();
        if let Some(before) = seen.insert(tensor.name.as_str(), shard) {
            let (one, other) = (shown(&shards[before].name), &shards[shard]);
            let what = format!("the tensor is in {one} and in {}", shown(&other.name));
            return Err(Error::malformed(other.path(), FORMAT, what).in_tensor(&tensor.name).at(offset));
        }
    }
    Ok(())
}

/// Element types that are unknown, and tensors without elements.
fn remarks(tensors: &[TensorMeta]) -> Vec<Finding> {
    let mut unknown: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for TensorMeta { name, dtype, .. } in tensors {
        // Tensors whose known type lies in an order that is not followed are told where they are found.
        if !dtype.is_decoded() && !matches!(dtype, DType::Strided(_)) {
            unknown.entry(dtype.as_str()).or_insert((0, name)).0 += 1;
        }
    }
    let mut found = Capped::new(Code::DtypeUnknown, Level::Warning);
    for (dtype, (count, first)) in unknown {
        let what =
            || format!("element type {} of {count} tensors is unknown, the first is {}", shown(dtype), shown(first));
        found.push(what, || first.to_owned());
    }
    let mut findings = found.finish("more unknown element types");
    let empty: Vec<&str> =
        tensors.iter().filter(|tensor| tensor.elements() == 0).map(|tensor| tensor.name.as_str()).collect();
    if let Some(first) = empty.first() {
        let message = format!("{} tensors have no elements: {}", empty.len(), listed(&empty));
        findings.push(Finding::new(Code::EmptyTensor, Level::Note, message, (*first).to_owned()));
    }
    findings
}
