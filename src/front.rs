//! What users of the library hold in their hands: a [`Scanner`], what it is given and what it tells while it works.

mod references;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::references::{Catalog, Fingerprint};
use crate::assemble;
use crate::cache::{self, Cache};
use crate::checkpoint::{self, Checkpoint, OpenOptions};
use crate::error::{Error, Result};
use crate::fingerprint::{self, Anchor, DEFAULT_MEMORY, Settings};
use crate::report::{Inspection, Report};
use crate::scanner::{self, Cached};

/// A checkpoint to look at: where it lies, and the base that it changes if it is an adapter.
///
/// The path names a weight file, an index of shards, a folder with one model, a snapshot in a Hugging Face cache or the
/// cache folder of a repository, or a fingerprint file. Of a folder, everything in it and below it is listed, and what may
/// be weights and was not read counts against the coverage; of a file, nothing beside it but the rest of its set.
///
/// ```
/// use weightprint::Input;
///
/// let model = Input::from("fixtures/zoo/a-sft");
/// let adapter = Input::new("fixtures/peft/adapter").with_base("fixtures/zoo/base-a");
/// # assert_eq!(model.path(), std::path::Path::new("fixtures/zoo/a-sft"));
/// # assert!(adapter.base().is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    path: PathBuf,
    base: Option<PathBuf>,
}

impl Input {
    /// The checkpoint or fingerprint file at `path`, which is not looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), base: None }
    }

    /// The same, an adapter, seen as the model that it makes of the base at `base`. Nothing that the adapter itself names
    /// is ever followed.
    #[must_use]
    pub fn with_base(self, base: impl Into<PathBuf>) -> Self {
        Self { base: Some(base.into()), ..self }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The base of an adapter.
    pub fn base(&self) -> Option<&Path> {
        self.base.as_deref()
    }
}

impl<P: Into<PathBuf>> From<P> for Input {
    fn from(path: P) -> Self {
        Self::new(path)
    }
}

/// What a scanner tells while it works, from any of its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// So many bytes of this checkpoint's tensors are about to be read.
    Begin {
        /// The path as it was given.
        path: &'a Path,
        /// Bytes of all tensors.
        bytes: u64,
    },
    /// So many bytes more were read.
    Read {
        /// Bytes since the last such event.
        bytes: u64,
    },
    /// Nothing more is read of this checkpoint.
    End {
        /// The path as it was given.
        path: &'a Path,
    },
    /// The fingerprint of this checkpoint, which is unchanged, comes from the cache.
    Cached {
        /// The path as it was given.
        path: &'a Path,
    },
    /// The cache is of no use; the scan goes on without it.
    CacheUnusable {
        /// What is wrong with it.
        why: &'a str,
    },
}

type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Answers three questions about a checkpoint: whose architecture it is, whose weights, and whether that was declared.
///
/// It holds the references and the settings, and no call changes it. Weights are read in parallel on the current rayon
/// pool; what comes out does not depend on the number of threads.
///
/// ```
/// let scanner = weightprint::Scanner::new();
/// let report = scanner.compare("fixtures/zoo/a-sft", "fixtures/zoo/base-a")?;
/// assert_eq!(report.verdict.class.as_str(), "derived");
/// # Ok::<(), weightprint::Error>(())
/// ```
#[derive(Clone)]
pub struct Scanner {
    catalogs: Vec<crate::catalog::Catalog>,
    /// Anchors of all references: neurons of a suspect are described along them too.
    anchors: Vec<Vec<Anchor>>,
    cache: Option<Cache>,
    memory: u64,
    options: OpenOptions,
    untested_allowed: bool,
    observer: Option<Observer>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("catalogs", &self.catalogs)
            .field("cache", &self.cache)
            .field("memory", &self.memory)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// A scanner that knows what is compiled in, keeps nothing on disk and tells nobody of its progress.
    pub fn new() -> Self {
        Self {
            catalogs: Vec::new(),
            anchors: Vec::new(),
            cache: None,
            memory: DEFAULT_MEMORY,
            options: OpenOptions::default(),
            untested_allowed: false,
            observer: None,
        }
    }

    /// Adds the references of a catalog.
    ///
    /// # Errors
    /// If a reference cannot be read: a scan that skipped one would say less than it seems to.
    pub fn with_catalog(mut self, catalog: &Catalog) -> Result<Self> {
        self.anchors.extend(catalog.inner().anchors()?);
        self.anchors.sort_unstable();
        self.anchors.dedup();
        self.catalogs.push(catalog.inner().clone());
        Ok(self)
    }

    /// Keeps fingerprints of checkpoints in `folder`, which is made if need be, and uses those that are there of
    /// checkpoints that did not change. Someone who can write to the folder can make a report say anything.
    #[must_use]
    pub fn with_cache(self, folder: impl AsRef<Path>) -> Self {
        Self { cache: Some(Cache::new(folder.as_ref(), cache::DEFAULT_LIMIT)), ..self }
    }

    /// The folder of cached fingerprints that the user's system has a place for, if it has one.
    pub fn default_cache_folder() -> Option<PathBuf> {
        Cache::default_folder()
    }

    /// Bytes that the sums over tensors being read may hold; 512 MiB unless it is set. Results do not depend on it.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Whether files are mapped rather than read; they are unless it is set. A file that is mapped must not be cut short
    /// while it is read: the system would end the process. Results do not depend on it.
    #[must_use]
    pub fn with_mapped_files(self, mapped: bool) -> Self {
        Self { options: OpenOptions { mmap: mapped, ..self.options }, ..self }
    }

    /// Whether links out of a checkpoint's folder are followed; they are not unless it is set. Stores of data versions
    /// (DVC, git-annex) need it; of a checkpoint from elsewhere it lets links read any file of this machine.
    #[must_use]
    pub fn with_followed_links(self, followed: bool) -> Self {
        Self { options: OpenOptions { follow_links: followed, ..self.options }, ..self }
    }

    /// The checkpoints that stand for `path`: the components of a folder that is put together from several, as the
    /// pipelines of diffusers are; otherwise `path` itself. Reads no weights.
    ///
    /// ```
    /// let found = weightprint::Scanner::new().components_of("fixtures/zoo/base-a")?;
    /// assert_eq!(found, [std::path::Path::new("fixtures/zoo/base-a")]);
    /// # Ok::<(), weightprint::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub fn components_of(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        checkpoint::components(path.as_ref(), self.options)
    }

    /// Every checkpoint at `path` and below it, in hidden folders too, in a fixed order; `path` itself if there is none.
    /// Reads no weights.
    ///
    /// ```
    /// let found = weightprint::Scanner::new().models_below("fixtures/zoo")?;
    /// assert!(found.contains(&"fixtures/zoo/base-a".into()));
    /// # Ok::<(), weightprint::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a folder cannot be listed; of kind [`Limit`](crate::ErrorKind::Limit) if there are too many files.
    pub fn models_below(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        checkpoint::models_below(path.as_ref(), self.options)
    }

    /// Whether there may be a clean bill although a known model of the subject's shapes has no weights in the catalogs. Not
    /// unless it is set: what was not compared is not cleared.
    #[must_use]
    pub fn with_untested_models_allowed(self, allowed: bool) -> Self {
        Self { untested_allowed: allowed, ..self }
    }

    /// Has `observer` told of progress and of the cache.
    #[must_use]
    pub fn with_observer(self, observer: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)), ..self }
    }

    /// What the headers of a checkpoint say; none of its weights are read.
    ///
    /// ```
    /// let inspection = weightprint::Scanner::new().inspect("fixtures/zoo/base-a")?;
    /// assert_eq!(inspection.tensors.len(), 39);
    /// # Ok::<(), weightprint::Error>(())
    /// ```
    ///
    /// # Errors
    /// If it cannot be opened: see [`ErrorKind`](crate::ErrorKind).
    pub fn inspect(&self, input: impl Into<Input>) -> Result<Inspection> {
        let input = input.into();
        let checkpoint = self.open(&input)?;
        scanner::inspect(&input.path, &checkpoint)
    }

    /// Reads all weights of a checkpoint once and takes its fingerprint.
    ///
    /// ```
    /// let fingerprint = weightprint::Scanner::new().fingerprint("fixtures/zoo/base-a")?;
    /// assert_eq!(fingerprint.name(), "base-a");
    /// # Ok::<(), weightprint::Error>(())
    /// ```
    ///
    /// # Errors
    /// If it cannot be read, is malformed, holds nothing to scan, or changes meanwhile.
    pub fn fingerprint(&self, input: impl Into<Input>) -> Result<Fingerprint> {
        self.prepare(&input.into(), &[]).map(|subject| Fingerprint::of(subject.into_fingerprint()))
    }

    /// Compares a checkpoint with one reference and nothing else; what is compiled in and the catalogs take no part.
    ///
    /// ```
    /// let scanner = weightprint::Scanner::new();
    /// let report = scanner.compare("fixtures/zoo/base-b", "fixtures/zoo/base-a")?;
    /// assert!(!report.verdict.class.shares_weights(), "{}", report.verdict.summary);
    /// # Ok::<(), weightprint::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Scanner::fingerprint`], for either; of kind [`Nothing`](crate::ErrorKind::Nothing) if the reference is no
    /// whole model.
    pub fn compare(&self, suspect: impl Into<Input>, reference: impl Into<Input>) -> Result<Report> {
        let reference_input = reference.into();
        let reference = self.prepare(&reference_input, &[])?;
        reference.fingerprint().require_model(&reference_input.path)?;
        let anchors: Vec<_> = reference.fingerprint().anchors().cloned().into_iter().collect();
        let suspect = self.prepare(&suspect.into(), &anchors)?;
        Ok(scanner::compare(&suspect, &reference))
    }

    /// Scans a checkpoint against every reference of the catalogs and everything compiled in.
    ///
    /// ```
    /// use weightprint::{Catalog, Scanner};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let scanner = Scanner::new();
    /// let mut catalog = Catalog::create(folder.path())?;
    /// catalog.add("zoo/base-a", scanner.fingerprint("fixtures/zoo/base-a")?)?;
    /// let report = scanner.with_catalog(&catalog)?.scan("fixtures/zoo/a-cpt")?;
    /// assert_eq!(report.verdict.references[0].id, "zoo/base-a");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Scanner::fingerprint`]; or if a reference cannot be read.
    pub fn scan(&self, suspect: impl Into<Input>) -> Result<Report> {
        let subject = self.prepare(&suspect.into(), &self.anchors)?;
        scanner::scan(&subject, &self.catalogs, self.untested_allowed)
    }

    /// Opens a checkpoint, or an adapter together with its base.
    fn open(&self, input: &Input) -> Result<Checkpoint> {
        match &input.base {
            Some(base) => assemble::open_merged(&input.path, base, self.options),
            None => Checkpoint::open(&input.path, self.options),
        }
    }

    /// Reads a fingerprint file, or opens a checkpoint and takes its fingerprint.
    fn prepare(&self, input: &Input, anchors: &[Vec<Anchor>]) -> Result<scanner::Prepared> {
        let path = &input.path;
        let shown = path.display().to_string();
        if fingerprint::Fingerprint::is_fingerprint(path) {
            if input.base.is_some() {
                return Err(Error::usage(format!("{shown}: is a fingerprint, which has no base")));
            }
            return Ok(scanner::Prepared::of(fingerprint::Fingerprint::read(path)?, shown));
        }
        let checkpoint = self.open(input)?;
        let scratch = self.cache.as_ref().and_then(Cache::folder);
        let settings = Settings { lists: anchors, memory: self.memory, scratch, ..Settings::default() };
        self.tell(Event::Begin { path, bytes: checkpoint.total_bytes() });
        let progress = |bytes| self.tell(Event::Read { bytes });
        let taken = scanner::Prepared::take(&checkpoint, shown, &settings, self.cache.as_ref(), &progress);
        self.tell(Event::End { path });
        let (subject, cached) = taken?;
        match &cached {
            Cached::Hit => self.tell(Event::Cached { path }),
            Cached::Trouble(why) => self.tell(Event::CacheUnusable { why }),
            Cached::Miss => {}
        }
        Ok(subject)
    }

    fn tell(&self, event: Event<'_>) {
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}
