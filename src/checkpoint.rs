//! Opening a checkpoint: which files hold the weights, what their headers say, and what lies beside them.
//!
//! Opening reads headers and small files only, and nothing that it reads is executed. Of a tensor's bytes it reads those
//! few in which a quantisation tool states the shape or the levels of another tensor. What a tensor is for is not known
//! here.

pub mod adapter;
mod changed;
pub mod claims;
mod digest;
mod index;
mod meta;
mod packed;
pub(crate) mod place;
pub(crate) mod plan;
mod pointers;
mod unpack;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::claims::Sidecar;
use self::place::{Place, Target};
use self::plan::{File, Plan};
pub use self::values::Values;
use crate::bytes::local::Source;
use crate::finding::{Capped, Code, Finding, Level};
use crate::format::recognise::{self, Content};
use crate::format::{gguf, onnx, safetensors, torch};
use crate::limits::MAX_TENSORS;
use crate::tensor::layout::Extent;
use crate::tensor::{DType, Layout, TensorMeta};
pub(crate) use crate::text::hex;
use crate::text::{listed, shown};
use crate::{Error, Result};

const FORMAT: &str = "checkpoint";

/// How a checkpoint is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Map the files instead of reading them. Where the system refuses a mapping, they are read all the same. Files
    /// that are mapped must not be truncated while the [`Checkpoint`] lives: the system would end the process.
    pub mmap: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { mmap: true }
    }
}

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One safetensors file.
    Safetensors,
    /// Several safetensors files, with an index or numbered names.
    ShardedSafetensors,
    /// One file that `torch.save` wrote, in either of its forms.
    Torch,
    /// Several such files, with an index or numbered names.
    ShardedTorch,
    /// Git-LFS pointers in place of weights, recognised by the digests that they state. There are no tensors.
    LfsPointers,
    /// One GGUF file.
    Gguf,
    /// Several GGUF files with numbered names.
    ShardedGguf,
    /// One ONNX file, with the files that hold values for it.
    Onnx,
    /// An adapter and the base that it changes, each in a format of its own.
    Merged,
}

impl Format {
    /// The name that reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::ShardedSafetensors => "sharded-safetensors",
            Self::Torch => "torch",
            Self::ShardedTorch => "sharded-torch",
            Self::LfsPointers => "lfs-pointers",
            Self::Gguf => "gguf",
            Self::ShardedGguf => "sharded-gguf",
            Self::Onnx => "onnx",
            Self::Merged => "merged",
        }
    }

    /// The format of one file of this content, or of several.
    fn of(content: &Content, sharded: bool) -> Self {
        match (content, sharded) {
            (Content::Torch, false) => Self::Torch,
            (Content::Torch, true) => Self::ShardedTorch,
            (Content::Gguf, false) => Self::Gguf,
            (Content::Gguf, true) => Self::ShardedGguf,
            (Content::Onnx, _) => Self::Onnx,
            (_, false) => Self::Safetensors,
            (_, true) => Self::ShardedSafetensors,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    /// The path relative to the root, `/`-separated.
    pub name: String,
    /// The real path, links followed.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The free-form strings that the header keeps under `__metadata__`; of GGUF, the texts under `general.`;
    /// of ONNX, the producer and the properties.
    pub metadata: BTreeMap<String, String>,
    /// What is known of the file that this one stands for, if it is a Git-LFS pointer.
    pub stated: Option<Stated>,
    source: Source,
}

/// Digest and length of a whole weight file whose content was not downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// SHA-256 in lowercase hexadecimal.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

impl Shard {
    fn new(
        File { name, path }: File,
        metadata: BTreeMap<String, String>,
        source: Source,
        options: OpenOptions,
    ) -> Self {
        let source = if options.mmap { source.mapped() } else { source.read_once() };
        Self { name, path, bytes: source.len(), metadata, stated: None, source }
    }

    /// Bytes `[offset, offset + len)` of the file, header included: borrowed from the mapping, or read into `buf`.
    ///
    /// # Errors
    /// [`Error::Changed`] if the file ends before that; [`Error::Io`] if the system refuses.
    pub fn read<'a>(&'a self, offset: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        self.source.read(&self.path, offset, len, buf)
    }

    #[cfg(test)]
    pub(crate) fn tally(&self) -> &crate::bytes::local::Tally {
        &self.source.tally
    }

    /// SHA-256 of the whole file, header included, in lowercase hexadecimal: what hubs publish. Reads all of it.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub fn sha256(&self) -> Result<String> {
        const CHUNK: u64 = 1 << 20;
        let mut digest = Sha256::new();
        let mut buf = Vec::new();
        let mut offset = 0;
        while offset < self.bytes {
            let len = CHUNK.min(self.bytes - offset);
            digest.update(self.read(offset, len as usize, &mut buf)?);
            offset += len;
        }
        Ok(hex(&digest.finalize()))
    }
}

/// A model's weights as they lie on disk, opened for reading.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder that holds the files.
    pub root: PathBuf,
    /// How the weights are stored.
    pub format: Format,
    /// The weight files; with an index by name, without one by number.
    pub shards: Arc<Vec<Shard>>,
    /// The tensors in file order: by shard, then offset, then name. No name occurs twice.
    pub tensors: Vec<TensorMeta>,
    /// What lies beside the weights.
    pub sidecar: Sidecar,
    /// What was odd about the files.
    pub findings: Vec<Finding>,
    /// The repository, `org/name`, if the files lie in a Hugging Face cache.
    pub repository: Option<String>,
    /// The revision of that repository: a commit hash as a rule.
    pub revision: Option<String>,
    /// What was merged, if it is an adapter seen together with its base.
    pub merged: Option<adapter::Merged>,
}

impl Checkpoint {
    /// Opens what `path` names: a weight file, an index of shards, a folder with one model, a snapshot in a Hugging
    /// Face cache, or the cache folder of a repository. Reads headers and the small files beside them.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are several models and none was named; [`Error::Nothing`] if there are no weights
    /// that this version reads; [`Error::Malformed`] and [`Error::Limit`] if a file is not what its format demands,
    /// shards are missing, or a link leads out of the folder; [`Error::Io`] if the system refuses;
    /// [`Error::Changed`] if a file shrank meanwhile.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self> {
        let place = Place::locate(path)?;
        let Plan { files, index, mut findings } = plan::plan(&place)?;
        let contents = sniff_all(&place, &files)?;
        if contents.iter().any(|content| matches!(content, Content::Pointer(_)))
            && let Some((shards, finding)) = pointers::recognise(&place, &files, &contents)?
        {
            findings.push(finding);
            let sidecar = Sidecar::read(&place, &mut findings);
            let (format, tensors) = (Format::LfsPointers, Vec::new());
            let (Place { root, repository, revision, .. }, shards) = (place, Arc::new(shards));
            return Ok(Self { root, format, shards, tensors, sidecar, findings, repository, revision, merged: None });
        }
        let content = check_contents(&place, &files, contents)?;
        let format = Format::of(&content, index.is_some() || files.len() > 1);
        let mut shards = Vec::with_capacity(files.len());
        let mut tensors = Vec::new();
        let (mut stated, mut aliases) = (Vec::new(), BTreeSet::new());
        let is_parts = meta::is_parts(&files);
        for file in files {
            let (shard, header) = open_shard(&place, file, options, &content)?;
            let position = shards.len();
            tensors.extend(header.tensors.into_iter().map(|tensor| tensor.shifted(position)));
            let beside = header.beside;
            findings.extend(header.findings);
            stated.extend(header.gguf);
            aliases.extend(header.aliases);
            if tensors.len() > MAX_TENSORS {
                let (found, limit) = (tensors.len() as u64, MAX_TENSORS as u64);
                let path = place.root.join(&shard.name);
                return Err(Error::Limit { path, what: "number of tensors", found, limit });
            }
            shards.push(shard);
            shards.extend(beside);
        }
        let params = meta::Params::read(&place, &mut findings);
        if is_parts {
            tensors = meta::join(&place, &shards, tensors, params.as_ref(), &mut findings)?;
        }
        refuse_duplicates(&place, &shards, &tensors)?;
        if is_parts || params.is_some() {
            findings.extend(meta::unpair(&mut tensors, params.as_ref()));
        }
        if let Some(index) = index {
            findings.extend(index.compare(&shards, &tensors, &aliases));
        }
        let remarked = findings.len();
        let mut sidecar = Sidecar::read(&place, &mut findings);
        if let Some(metadata) = stated.first() {
            gguf::check_split(&place.root, &stated, tensors.len())?;
            findings.extend(gguf::undo(metadata, &mut tensors));
            sidecar = sidecar.with_metadata(metadata);
        }
        findings.extend(adapter::describe(&tensors, &mut sidecar));
        let tensors = packed::join(tensors, sidecar.config.as_ref(), &shards)?;
        // What was joined is no longer of an unknown type.
        findings.splice(remarked..remarked, remarks(&tensors));
        let Place { root, repository, revision, .. } = place;
        let shards = Arc::new(shards);
        Ok(Self { root, format, shards, tensors, sidecar, findings, repository, revision, merged: None })
    }

    /// Bytes `[start, start + len)` of a plain tensor of this checkpoint: borrowed from the mapping, or read into `buf`,
    /// which grows to `len` bytes at most.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the range is not within the tensor, or the tensor not plain or of this checkpoint;
    /// [`Error::Changed`] if the file shrank; [`Error::Io`] if the system refuses.
    pub fn bytes<'a>(&'a self, tensor: &TensorMeta, start: u64, len: usize, buf: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let refuse = |path: &Path| {
            let what = format!("bytes [{start}, {start} + {len}) are not within its {} bytes", tensor.len);
            Error::malformed(path, FORMAT, what).in_tensor(&tensor.name).at(tensor.offset)
        };
        let shard = self.shards.get(tensor.shard).ok_or_else(|| refuse(&self.root))?;
        let within = tensor.layout.is_plain() && start.checked_add(len as u64).is_some_and(|end| end <= tensor.len);
        let offset = tensor.offset.checked_add(start).filter(|_| within).ok_or_else(|| refuse(&shard.path))?;
        if offset.checked_add(len as u64).is_none_or(|end| end > shard.bytes) {
            return Err(refuse(&shard.path));
        }
        shard.read(offset, len, buf)
    }

    /// The same files seen as other tensors: fused ones taken apart, say. Reads nothing.
    #[must_use]
    pub fn with_tensors(&self, tensors: Vec<TensorMeta>) -> Self {
        Self {
            root: self.root.clone(),
            format: self.format,
            shards: Arc::clone(&self.shards),
            tensors,
            sidecar: self.sidecar.clone(),
            findings: self.findings.clone(),
            repository: self.repository.clone(),
            revision: self.revision.clone(),
            merged: self.merged.clone(),
        }
    }

    /// Says that a tensor's bytes are not needed any more for now, so that a scan of a large checkpoint does not push
    /// everything else out of memory. A hint: they can be read again.
    pub fn release(&self, tensor: &TensorMeta) {
        let release = |Extent { shard, offset, len }| {
            if let Some(shard) = self.shards.get(shard) {
                shard.source.release(offset, len);
            }
        };
        match &tensor.layout {
            Layout::Plain => release(Extent { shard: tensor.shard, offset: tensor.offset, len: tensor.len }),
            Layout::Packed(packed) => packed.stored().for_each(|stored| release(stored.extent)),
            // Its pages may be those of other parts.
            Layout::View(_) => {}
            Layout::Changed(changed) => self.release(&changed.base),
            Layout::PlusOne(gain) => self.release(gain),
        }
    }

    /// Checks that every file still has the length and modification time with which it was opened, so that a result
    /// is about one state of the checkpoint.
    ///
    /// # Errors
    /// [`Error::Changed`] naming the first file that is different or gone; [`Error::Io`] if one cannot be examined.
    pub fn check_unchanged(&self) -> Result<()> {
        for Shard { path, source, .. } in self.shards.iter() {
            if !source.is_unchanged(path)? {
                return Err(Error::Changed { path: path.clone() });
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
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.len))
    }
}

fn sniff_all(place: &Place, files: &[File]) -> Result<Vec<Content>> {
    files.iter().map(|file| recognise::sniff(&place.root.join(&file.name), &Source::open(&file.path)?)).collect()
}

/// What all the files are by their first bytes. Refuses those that are not read, before any header is.
fn check_contents(place: &Place, files: &[File], mut contents: Vec<Content>) -> Result<Content> {
    let (mut pointers, mut foreign) = (Vec::new(), Vec::new());
    for (File { name, .. }, content) in files.iter().zip(&contents) {
        match content {
            Content::Weights | Content::Torch | Content::Gguf | Content::Onnx => {}
            Content::Pointer(pointer) => pointers.push((name.as_str(), pointer)),
            Content::Foreign(what) => foreign.push((name.as_str(), *what)),
        }
    }
    let path = match &place.target {
        Target::Folder => place.root.clone(),
        Target::Index(path) | Target::File(path) => path.clone(),
    };
    let names = |found: &[&str]| listed(found);
    if let Some((name, pointer)) = pointers.first() {
        if pointers.len() == files.len() {
            let all =
                if files.len() > 1 { format!(" (and so are all {} weight files)", files.len()) } else { String::new() };
            return Err(Error::Nothing { path, why: pointer.advice(&shown(name)) + &all });
        }
        let found: Vec<&str> = pointers.iter().map(|(name, _)| *name).collect();
        let what = format!("{} of {} files are Git-LFS pointers", found.len(), files.len());
        let what = format!("{what}, not weights: {}; run `git lfs pull`", names(&found));
        return Err(Error::malformed(path, FORMAT, what));
    }
    if let Some((name, what)) = foreign.first() {
        let why = format!("{} is {what}", shown(name));
        if foreign.len() == files.len() {
            return Err(Error::Nothing { path, why });
        }
        return Err(Error::malformed(path, FORMAT, why));
    }
    if let Some(other) = contents.iter().position(|content| Some(content) != contents.first()) {
        let what = format!("{} is not in the format of {}", shown(&files[other].name), shown(&files[0].name));
        return Err(Error::malformed(path, FORMAT, what));
    }
    Ok(contents.pop().unwrap_or(Content::Weights))
}

/// What the header of a weight file states, whatever its format.
struct Header {
    tensors: Vec<TensorMeta>,
    findings: Vec<Finding>,
    gguf: Option<gguf::metadata::Metadata>,
    /// Names that stand for tensors which were read under another name.
    aliases: Vec<String>,
    /// Files beside this one that hold values of its tensors.
    beside: Vec<Shard>,
}

fn open_shard(
    place: &Place,
    File { name, path }: File,
    options: OpenOptions,
    content: &Content,
) -> Result<(Shard, Header)> {
    let source = Source::open(&path)?;
    // Errors name the file as it lies in the folder: behind a link there may be a blob called by its digest.
    let shown = place.root.join(&name);
    let plain = |tensors, findings| Header { tensors, findings, gguf: None, aliases: Vec::new(), beside: Vec::new() };
    let (metadata, header) = match content {
        Content::Gguf => {
            let gguf::Header { metadata, tensors, findings } = gguf::read_header(&shown, &name, &source)?;
            (metadata.texts(), Header { gguf: Some(metadata), ..plain(tensors, findings) })
        }
        Content::Torch => {
            let torch::Header { tensors, findings, aliases } = torch::read_header(&shown, &name, &source)?;
            (BTreeMap::new(), Header { aliases, ..plain(tensors, findings) })
        }
        Content::Onnx => {
            let header = onnx::read_header(place, &shown, &name, &source)?;
            let beside =
                header.files.into_iter().map(|(file, source)| Shard::new(file, BTreeMap::new(), source, options));
            let (beside, aliases) = (beside.collect(), header.aliases);
            (header.metadata, Header { aliases, beside, ..plain(header.tensors, header.findings) })
        }
        _ => {
            let safetensors::Header { metadata, tensors, findings } = safetensors::read_header(&shown, &name, &source)?;
            (metadata, plain(tensors, findings))
        }
    };
    Ok((Shard::new(File { name, path }, metadata, source, options), header))
}

fn refuse_duplicates(place: &Place, shards: &[Shard], tensors: &[TensorMeta]) -> Result<()> {
    if shards.len() < 2 {
        return Ok(());
    }
    let mut seen = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        if let Some(before) = seen.insert(tensor.name.as_str(), tensor.shard) {
            let (one, other) = (shown(&shards[before].name), &shards[tensor.shard]);
            let what = format!("the tensor is in {one} and in {}", shown(&other.name));
            return Err(Error::malformed(place.root.join(&other.name), FORMAT, what)
                .in_tensor(&tensor.name)
                .at(tensor.offset));
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
