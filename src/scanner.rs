//! The whole way from a path to a report: open, dissect, fingerprint, compare, judge.

mod pointers;
mod published;
mod stages;

use std::path::Path;

use sha2::{Digest, Sha256};

use self::stages::Stages;
use crate::anatomy::{self, Anatomy, Hints};
use crate::assemble::{self, Subject};
use crate::cache::{Cache, Lookup};
use crate::catalog::Catalog;
use crate::checkpoint::{Checkpoint, Format};
use crate::error::{Error, Result};
use crate::evidence::counterparts::Counterparts;
use crate::evidence::{self, Coverage, Depth};
use crate::finding::{Code, Finding, Level};
use crate::fingerprint::{Exact, Fingerprint, Progress, Settings, TensorFingerprint};
use crate::format::Claims;
use crate::model::known;
use crate::published::{digests, norms};
use crate::report::inspect::Seen;
use crate::report::{Inspection, Report, Results, Tested, words};
use crate::tensor::DType;
use crate::text::hex;
use crate::verdict::declared::{self, Declaration, Declaring, TestedReference};
use crate::verdict::overall::strongest_first;
use crate::verdict::{self, Assessment, Obstacle, VerdictClass};

/// A checkpoint or a fingerprint file, ready to be compared.
#[derive(Debug)]
pub struct Prepared {
    path: String,
    fingerprint: Fingerprint,
    anatomy: Option<Anatomy>,
    claims: Claims,
    findings: Vec<Finding>,
}

impl Prepared {
    /// A fingerprint that is at hand; `shown` is the path that the report names.
    pub fn of(fingerprint: Fingerprint, shown: String) -> Self {
        let findings = fingerprint.exact.findings.clone();
        Self { path: shown, fingerprint, anatomy: None, claims: Claims::default(), findings }
    }

    /// Takes the fingerprint of an open checkpoint; `shown` is the path that the report names. With a cache, a
    /// fingerprint that is there is not taken again, and one that is not is put there. What is wrong with the cache
    /// never fails a scan; it is told.
    ///
    /// # Errors
    /// If a read fails, or a file changed meanwhile.
    pub fn take(
        checkpoint: &Checkpoint,
        shown: String,
        settings: &Settings<'_>,
        cache: Option<&Cache>,
        progress: Progress<'_>,
    ) -> Result<(Self, Cached)> {
        let mut findings = pointers::findings(checkpoint)?;
        // Pointers have no values that a cache could spare.
        let cache = cache.filter(|_| checkpoint.format != Format::LfsPointers);
        let is_empty = checkpoint.tensors.iter().all(|tensor| tensor.elements() == 0);
        if is_empty && checkpoint.format != Format::LfsPointers {
            let why = format!("{} tensors and not one value", checkpoint.tensors.len());
            return Err(Error::nothing(&checkpoint.root, why));
        }
        let subject = Subject::of(checkpoint);
        let (mut fingerprint, cached) = cached_or_taken(&subject, settings, cache, progress)?;
        // What lies beside the weights may have changed since a fingerprint was kept of them.
        fingerprint.exact.subject.unread = checkpoint.unread_but_copies()?;
        findings.extend(config_findings(checkpoint, subject.anatomy()));
        findings.extend(subject.findings().iter().cloned());
        findings.extend(fingerprint.exact.findings.iter().cloned());
        let claims = checkpoint.claims.clone();
        Ok((Self { path: shown, fingerprint, anatomy: Some(subject.into_anatomy()), claims, findings }, cached))
    }

    /// The fingerprint.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The fingerprint, given away.
    pub fn into_fingerprint(self) -> Fingerprint {
        self.fingerprint
    }
}

/// What a cache had to do with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cached {
    /// The fingerprint comes from it: the weights were not read.
    Hit,
    /// The weights were read.
    Miss,
    /// The weights were read, and something is wrong with the cache.
    Trouble(String),
}

fn cached_or_taken(
    subject: &Subject,
    settings: &Settings<'_>,
    cache: Option<&Cache>,
    progress: Progress<'_>,
) -> Result<(Fingerprint, Cached)> {
    let take = || Fingerprint::take(subject, settings, progress);
    let Some(cache) = cache else { return Ok((take()?, Cached::Miss)) };
    let key = Cache::key(subject, settings)?;
    let mut cached = match cache.get(&key) {
        Lookup::Hit(fingerprint) => {
            subject.checkpoint().check_unchanged()?;
            return Ok((*fingerprint, Cached::Hit));
        }
        Lookup::Miss => Cached::Miss,
        Lookup::Ignored(why) => Cached::Trouble(why),
    };
    let fingerprint = take()?;
    if let Err(error) = cache.put(&key, &fingerprint) {
        cached = Cached::Trouble(error.to_string());
    }
    Ok((fingerprint, cached))
}

/// Scans a subject against catalogs of fingerprints and everything compiled in. `untested_allowed` says that there may be a
/// clean bill although a known model of the subject's shapes has no weights in the catalogs.
///
/// # Errors
/// If a reference cannot be read: a scan that skipped one would say less than it seems to.
pub fn scan(subject: &Prepared, catalogs: &[Catalog], untested_allowed: bool) -> Result<Report> {
    let Stages { compared, in_full, digest } = stages::run(subject, catalogs, embedded_digest())?;
    let catalog_digest = hex(&digest.finalize());
    Ok(report(subject, Run { compared, in_full, embedded: true, untested_allowed, catalog_digest }))
}

/// Compares a subject with one reference, and nothing else.
pub fn compare(subject: &Prepared, reference: &Prepared) -> Report {
    let suspect = evidence::Suspect::new(&subject.fingerprint);
    let compared = vec![compare_one(&suspect, &reference.fingerprint, 1, Depth::Full)];
    let catalog_digest = hex(&embedded_digest().finalize());
    report(subject, Run { compared, in_full: 1, embedded: false, untested_allowed: true, catalog_digest })
}

/// What the headers of a checkpoint say, without a byte of its weights being read; `path` is the one that is shown.
///
/// # Errors
/// If its files are Git-LFS pointers to no known model.
pub fn inspect(path: &Path, checkpoint: &Checkpoint) -> Result<Inspection> {
    let mut findings = pointers::findings(checkpoint)?;
    let anatomy = anatomy::dissect(&checkpoint.tensors, Hints::of(&checkpoint.claims));
    findings.extend(config_findings(checkpoint, &anatomy));
    let logical = assemble::logical(&checkpoint.tensors, &anatomy);
    let nearest = known::nearest(&anatomy.architecture, SHOWN_ARCHITECTURES);
    let seen = Seen { path, checkpoint, anatomy: &anatomy, logical: logical.as_ref(), nearest, findings };
    seen.try_into().map_err(|error: serde_json::Error| Error::usage(format!("cannot describe it: {error}")))
}

/// Where the configuration contradicts the shapes.
fn config_findings(checkpoint: &Checkpoint, anatomy: &Anatomy) -> Vec<Finding> {
    let claims = &checkpoint.claims;
    let contradicted = |config| anatomy::config_findings(config, &anatomy.architecture, claims.config_source());
    claims.config.as_ref().map(contradicted).unwrap_or_default()
}

/// How many of the nearest known architectures are told.
const SHOWN_ARCHITECTURES: usize = 3;

/// The data compiled into the program; its own version stands for it.
fn embedded_digest() -> Sha256 {
    let mut digest = Sha256::new();
    for data in [known::DATA, crate::model::naming::DATA, norms::DATA, digests::DATA] {
        digest.update(Sha256::digest(data));
    }
    digest
}

fn compare_one(suspect: &evidence::Suspect<'_>, reference: &Fingerprint, tries: u64, depth: Depth) -> Assessment {
    let comparison = evidence::compare(suspect, reference, depth);
    let judgement = verdict::judge(&comparison, tries);
    let related = judgement.class.shares_weights();
    let counterparts = related.then(|| Counterparts::of(suspect.fingerprint(), reference, &comparison));
    Assessment {
        id: reference.exact.subject.id.clone().unwrap_or_else(|| reference.exact.subject.name.clone()),
        judgement,
        evidence: comparison.evidence,
        changes: if related { comparison.changes } else { Vec::new() },
        layers: comparison.layers,
        parts: comparison.parts,
        counterparts: counterparts.unwrap_or_default(),
        compared: comparison.compared,
    }
}

/// What a subject was held against.
struct Run {
    compared: Vec<Assessment>,
    in_full: usize,
    /// Whether what is compiled in took part.
    embedded: bool,
    /// Whether a known model of the subject's shapes may be missing from the catalogs.
    untested_allowed: bool,
    catalog_digest: String,
}

fn report(subject: &Prepared, run: Run) -> Report {
    let Run { mut compared, in_full, embedded, untested_allowed, catalog_digest } = run;
    let fingerprint = &subject.fingerprint;
    strongest_first(&mut compared);
    let norms = if embedded { published::norms(fingerprint) } else { published::Norms::default() };
    let digest_matches = if embedded { published::file_matches(fingerprint) } else { Vec::new() };
    let published_digests = if embedded { published::held_against(fingerprint) } else { 0 };
    let tested = Tested { weights: compared.len(), in_full, published_norms: norms.tested, published_digests };
    let nearest = known::nearest(&fingerprint.exact.architecture, SHOWN_ARCHITECTURES);
    let mut findings = subject.findings.clone();
    let known_untested = untested(&nearest, &compared).filter(|_| embedded);
    findings.extend(known_untested.clone().map(|(id, others)| {
        Finding::new(Code::WeightsNotTested, Level::Warning, words::untested(&id, others), Some(id))
    }));
    findings.extend(ordered(fingerprint));
    let coverage = Coverage::of(fingerprint, compared.iter().map(|reference| &reference.compared));
    let mut obstacles = Obstacle::of(&coverage, &findings);
    obstacles.extend(known_untested.filter(|_| !untested_allowed).map(|(id, _)| Obstacle::KnownModel(id)));
    let kin = compared.iter().find(|reference| reference.judgement.class >= VerdictClass::Derived);
    let renamed = kin.map(|reference| reference.counterparts.renamed.clone());
    let mut candidates: Vec<Assessment> = digest_matches.into_iter().chain(norms.accepted).collect();
    // Those that are not shown may be declared.
    let declaration = declaration(subject, candidates.iter().chain(&compared));
    candidates.extend(shown(compared));
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.judgement.class));
    Results {
        path: &subject.path,
        fingerprint,
        anatomy: subject.anatomy.as_ref(),
        coverage,
        nearest,
        renamed,
        conclusion: verdict::conclude(&candidates, obstacles),
        candidates,
        tested,
        declaration,
        findings,
        catalog_digest,
    }
    .into()
}

/// What the subject declares, held against all that was tested.
fn declaration<'a>(subject: &Prepared, tested: impl Iterator<Item = &'a Assessment>) -> Declaration {
    let tested: Vec<_> = tested.map(TestedReference::from).collect();
    let Exact { subject: origin, architecture, tensors, .. } = &subject.fingerprint.exact;
    // A fingerprint has no card.
    let claims = subject.anatomy.is_some().then_some(&subject.claims);
    let is_plain = |tensor: &TensorFingerprint| !matches!(tensor.dtype, DType::Block(_)) && !is_rounded(tensor);
    let is_plain = tensors.iter().all(is_plain);
    declared::declared(Declaring { claims, name: &origin.name, architecture, is_plain }, &tested)
}

/// Whether a tensor's values were rounded to levels of their own.
fn is_rounded(tensor: &TensorFingerprint) -> bool {
    tensor.values.as_ref().is_some_and(|values| !values.steps.is_empty())
}

/// How many references without shared weights are shown.
const CONTRASTS: usize = 3;

/// References to show, strongest first: all that share weights, and the best of the others for contrast.
fn shown(compared: Vec<Assessment>) -> impl Iterator<Item = Assessment> {
    let mut contrast = 0;
    compared.into_iter().filter(move |reference| {
        let related = reference.judgement.class.shares_weights();
        contrast += usize::from(!related);
        related || contrast <= CONTRASTS
    })
}

/// The first known model of the subject's shapes of which no weights were there to compare with, and how many others.
fn untested(nearest: &[known::Nearest], compared: &[Assessment]) -> Option<(String, usize)> {
    let best = nearest.first().filter(|nearest| nearest.equal)?;
    let has = |id: &str| compared.iter().any(|reference| reference.id.eq_ignore_ascii_case(id));
    let mut missing: Vec<&String> = std::iter::once(&best.id).chain(&best.group).filter(|id| !has(id)).collect();
    missing.dedup();
    let (first, others) = missing.split_first()?;
    Some(((*first).clone(), others.len()))
}

/// Says that labels of channels mean less, where they do.
fn ordered(fingerprint: &Fingerprint) -> Option<Finding> {
    evidence::channels::is_ordered(&fingerprint.exact.channels.profile)
        .then(|| Finding::new(Code::OrderedChannels, Level::Note, words::ordered_channels(), None))
}
