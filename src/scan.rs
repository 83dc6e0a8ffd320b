//! The whole way from a path to a report: open, dissect, fingerprint, compare, judge.

mod published;
mod stages;

use std::path::Path;

use sha2::{Digest, Sha256};

use self::stages::Stages;
use crate::anatomy::{self, Anatomy};
use crate::cache::{Cache, Lookup};
use crate::catalog::{Catalog, architectures, digests, norms};
use crate::checkpoint::sidecar::Sidecar;
use crate::checkpoint::{Checkpoint, Format, OpenOptions, hex};
use crate::compare::{self, Comparison, Depth};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding, Level};
use crate::fingerprint::{Anchor, Fingerprint, Progress, SAMPLE_GRID, Settings};
use crate::report::{
    ArchitectureReport, Candidate, Counterpart, ReferenceShare, Renamed, RenamedBy, Report, SCHEMA, Subject, Tested,
    Tool, Verdict,
};
use crate::verdict::{self, Class, Judgement, declared};

/// A checkpoint or a fingerprint file, ready to be compared.
#[derive(Debug)]
pub struct Input {
    path: String,
    print: Fingerprint,
    anatomy: Option<Anatomy>,
    sidecar: Sidecar,
    findings: Vec<Finding>,
}

impl Input {
    /// Reads a fingerprint file, or opens a checkpoint and takes its fingerprint. `lists` are the anchors of the
    /// references with which it will be compared ([`Fingerprint::anchors`], [`Catalog::anchors`]).
    ///
    /// # Errors
    /// If it cannot be read, is malformed, or holds nothing to scan.
    pub fn read(path: &Path, options: OpenOptions, lists: &[Vec<Anchor>], progress: Progress<'_>) -> Result<Self> {
        let shown = path.display().to_string();
        if Fingerprint::is_fingerprint(path) {
            return Ok(Self::of(Fingerprint::read(path)?, shown));
        }
        let checkpoint = Checkpoint::open(path, options)?;
        Self::take(&checkpoint, shown, lists, progress)
    }

    /// A fingerprint that is at hand; `shown` is the path that the report names.
    pub fn of(print: Fingerprint, shown: String) -> Self {
        let findings = print.findings.clone();
        Self { path: shown, print, anatomy: None, sidecar: Sidecar::default(), findings }
    }

    /// Takes the fingerprint of an open checkpoint; `shown` is the path that the report names.
    ///
    /// # Errors
    /// If a read fails, or a file changed meanwhile.
    pub fn take(checkpoint: &Checkpoint, shown: String, lists: &[Vec<Anchor>], progress: Progress<'_>) -> Result<Self> {
        let settings = Settings { lists, ..Settings::default() };
        Ok(Self::take_with(checkpoint, shown, &settings, None, progress)?.0)
    }

    /// As [`Input::take`], with settings, and with a cache if one is given: a fingerprint that is there is not taken
    /// again, and one that is not is put there. What is wrong with the cache never fails a scan; it is told.
    ///
    /// # Errors
    /// As for [`Input::take`].
    pub fn take_with(
        checkpoint: &Checkpoint,
        shown: String,
        settings: &Settings<'_>,
        cache: Option<&Cache>,
        progress: Progress<'_>,
    ) -> Result<(Self, Cached)> {
        // Pointers have no values that a cache could spare.
        let cache = cache.filter(|_| checkpoint.format != Format::LfsPointers);
        let is_empty = checkpoint.tensors.iter().all(|tensor| tensor.elements() == 0);
        if is_empty && checkpoint.format != Format::LfsPointers {
            let why = format!("{} tensors and not one value", checkpoint.tensors.len());
            return Err(Error::Nothing { path: checkpoint.root.clone(), why });
        }
        let config = checkpoint.sidecar.config.as_ref();
        let anatomy = anatomy::dissect(&checkpoint.tensors, config);
        let logical = anatomy::logical(&checkpoint.tensors, &anatomy);
        let (seen, anatomy) = match logical {
            Some(anatomy::Logical { tensors, anatomy }) => (Some(checkpoint.with_tensors(tensors)), anatomy),
            None => (None, anatomy),
        };
        let (print, cached) =
            cached_or_taken(seen.as_ref().unwrap_or(checkpoint), &anatomy, settings, cache, progress)?;
        let mut findings = checkpoint.findings.clone();
        findings.extend(config.into_iter().flat_map(|config| {
            anatomy::config_findings(config, &anatomy.architecture, checkpoint.sidecar.config_source())
        }));
        findings.extend(print.findings.iter().cloned());
        let sidecar = checkpoint.sidecar.clone();
        Ok((Self { path: shown, print, anatomy: Some(anatomy), sidecar, findings }, cached))
    }

    /// The fingerprint.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.print
    }

    /// The fingerprint, given away.
    pub fn into_fingerprint(self) -> Fingerprint {
        self.print
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
    checkpoint: &Checkpoint,
    anatomy: &Anatomy,
    settings: &Settings<'_>,
    cache: Option<&Cache>,
    progress: Progress<'_>,
) -> Result<(Fingerprint, Cached)> {
    let take = || Fingerprint::take_with(checkpoint, anatomy, settings, progress);
    let Some(cache) = cache else { return Ok((take()?, Cached::Miss)) };
    let key = Cache::key(checkpoint, anatomy, settings)?;
    let mut cached = match cache.get(&key) {
        Lookup::Hit(print) => {
            checkpoint.check_unchanged()?;
            return Ok((*print, Cached::Hit));
        }
        Lookup::Miss => Cached::Miss,
        Lookup::Ignored(why) => Cached::Trouble(why),
    };
    let print = take()?;
    if let Err(error) = cache.put(&key, &print) {
        cached = Cached::Trouble(error.to_string());
    }
    Ok((print, cached))
}

/// A reference with the comparison against it.
struct Compared {
    id: String,
    comparison: Comparison,
    judgement: Judgement,
    counterparts: Vec<Counterpart>,
    renamed: Vec<Renamed>,
}

/// Scans a subject against catalogs of fingerprints and everything compiled in.
///
/// # Errors
/// If a reference cannot be read: a scan that skipped one would say less than it seems to.
pub fn scan(subject: &Input, catalogs: &[Catalog]) -> Result<Report> {
    let Stages { compared, in_full, digest } = stages::run(subject, catalogs, embedded_digest())?;
    Ok(report(subject, compared, in_full, true, hex(&digest.finalize())))
}

/// Compares a subject with one reference, and nothing else.
pub fn compare(subject: &Input, reference: &Input) -> Report {
    let compared = vec![compare_one(&compare::Suspect::new(&subject.print), &reference.print, 1, Depth::Full)];
    report(subject, compared, 1, false, hex(&embedded_digest().finalize()))
}

/// The data compiled into the program; its own version stands for it.
fn embedded_digest() -> Sha256 {
    let mut digest = Sha256::new();
    for data in [architectures::DATA, crate::catalog::naming::DATA, norms::DATA, digests::DATA] {
        digest.update(Sha256::digest(data));
    }
    digest
}

fn compare_one(suspect: &compare::Suspect<'_>, reference: &Fingerprint, tries: u64, depth: Depth) -> Compared {
    let comparison = compare::compare_to(suspect, reference, depth);
    let judgement = verdict::judge(&comparison, tries);
    let id = reference.subject.id.clone().unwrap_or_else(|| reference.subject.name.clone());
    let (mut counterparts, mut renamed) = (Vec::new(), Vec::new());
    if judgement.class.shares_weights() {
        counterparts.extend(comparison.matches.iter().map(|found| Counterpart {
            found: suspect.print().tensors[found.suspect].name.clone(),
            reference: reference.tensors[found.reference].name.clone(),
            how: found.how,
            correlation: rounded(found.correlation),
        }));
        renamed = renamed_by_content(suspect.print(), reference, &comparison);
    }
    Compared { id, comparison, judgement, counterparts, renamed }
}

/// Correlations come from sums whose last digits are noise.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Names that differ from those of the counterparts, with layer and expert numbers folded into patterns.
fn renamed_by_content(subject: &Fingerprint, reference: &Fingerprint, comparison: &Comparison) -> Vec<Renamed> {
    let mut rows: Vec<Renamed> = Vec::new();
    let mut at = std::collections::HashMap::new();
    for found in &comparison.matches {
        let (ours, theirs) = (&subject.tensors[found.suspect], &reference.tensors[found.reference]);
        let (from, to) = (pattern(&ours.name, ours), pattern(&theirs.name, theirs));
        // Equal patterns at unequal layers are a matter of layer alignment, not of names.
        if from == to {
            continue;
        }
        let slot = *at.entry((from.clone(), to.clone())).or_insert_with(|| {
            rows.push(Renamed { found: from, canonical: to, count: 0, by: RenamedBy::Content });
            rows.len() - 1
        });
        rows[slot].count += 1;
    }
    rows
}

/// The name with the segments that are its layer and expert number replaced.
fn pattern(name: &str, tensor: &crate::fingerprint::TensorPrint) -> String {
    let assignment = &tensor.assignment;
    let (mut layer, mut expert) = (assignment.layer, assignment.expert);
    let segments = name.split('.').map(|segment| match segment.parse::<u32>().ok() {
        Some(number) if layer == Some(number) => {
            layer = None;
            "{layer}"
        }
        Some(number) if layer.is_none() && expert == Some(number) => {
            expert = None;
            "{expert}"
        }
        _ => segment,
    });
    segments.collect::<Vec<_>>().join(".")
}

fn report(
    subject: &Input,
    mut compared: Vec<Compared>,
    in_full: usize,
    embedded: bool,
    catalog_digest: String,
) -> Report {
    let strength = |c: &Compared| (c.judgement.class, std::cmp::Reverse(OrderedP(c.judgement.log10_p)));
    compared.sort_by(|a, b| strength(b).cmp(&strength(a)).then_with(|| a.id.cmp(&b.id)));
    let norms = if embedded { published::norms(&subject.print) } else { published::Norms::default() };
    let digest_matches = if embedded { published::file_matches(&subject.print) } else { Vec::new() };
    let published_digests = if embedded { published::held_against(&subject.print) } else { 0 };
    let tested = Tested { weights: compared.len(), in_full, published_norms: norms.tested, published_digests };
    let nearest = architectures::nearest(&subject.print.architecture, 3);
    let mut findings = subject.findings.clone();
    if embedded {
        findings.extend(untested(&nearest, &compared));
    }
    if compare::channels::is_ordered(&subject.print.channels.profile) {
        let message = "residual channels are ordered by strength, so tests of their labels mean less".to_owned();
        findings.push(Finding::new(Code::OrderedChannels, Level::Note, message, None));
    }
    let coverage = if compared.is_empty() { 0.0 } else { compare::coverage(&subject.print) };
    let renamed = renamed(subject, &compared);
    let mut candidates: Vec<Candidate> = digest_matches.into_iter().chain(norms.accepted).collect();
    candidates.extend(shown(compared));
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.class));
    let results: Vec<_> = candidates.iter().map(|c| declared::Tested { id: &c.id, class: c.class }).collect();
    let declared = declared::declared(&subject.sidecar, &subject.print.subject.name, &results);
    let verdict = conclude(subject, &candidates, coverage, &nearest);
    Report {
        schema: SCHEMA.to_owned(),
        subject: Subject {
            path: subject.path.clone(),
            name: subject.print.subject.name.clone(),
            format: subject.print.subject.format.clone(),
            files: subject.print.subject.files.clone(),
            parameters: subject.print.subject.parameters,
            coverage,
            merged: subject.print.subject.merged.clone(),
        },
        architecture: architecture_report(subject, nearest, renamed),
        verdict,
        candidates,
        tested,
        declared,
        findings,
        tool: tool(catalog_digest),
    }
}

/// Orders optional log10 p: smaller is stronger, none is weakest.
#[derive(PartialEq)]
struct OrderedP(Option<f64>);

impl Eq for OrderedP {}

impl PartialOrd for OrderedP {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OrderedP {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.unwrap_or(1.0).total_cmp(&other.0.unwrap_or(1.0))
    }
}

/// How many references without shared weights are shown.
const CONTRASTS: usize = 3;

/// References to show: all that share weights or structure, and the best of the others for contrast.
fn shown(compared: Vec<Compared>) -> impl Iterator<Item = Candidate> {
    let mut contrast = 0;
    compared.into_iter().filter_map(move |c| {
        let related = c.judgement.class.shares_weights();
        contrast += usize::from(!related);
        (related || contrast <= CONTRASTS).then_some(Candidate {
            id: c.id,
            class: c.judgement.class,
            log10_p: c.judgement.log10_p,
            effect: c.judgement.effect,
            because: c.judgement.because,
            tests: c.comparison.tests,
            changes: if related { c.comparison.changes } else { Vec::new() },
            layers: c.comparison.layers,
            parts: c.comparison.parts,
            components: c.judgement.components,
            counterparts: c.counterparts,
        })
    })
}

fn tool(catalog_digest: String) -> Tool {
    let settings = [
        ("max_log10_p", serde_json::json!(verdict::MAX_LOG10_P)),
        ("min_effect", serde_json::json!(verdict::MIN_EFFECT)),
        ("min_coverage", serde_json::json!(verdict::MIN_COVERAGE)),
        ("sample_grid", serde_json::json!([SAMPLE_GRID.0, SAMPLE_GRID.1])),
    ];
    Tool {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        catalog_digest,
    }
}

/// The table of names: from the strongest reference that shares weights, otherwise from names and shapes.
fn renamed(subject: &Input, compared: &[Compared]) -> Vec<Renamed> {
    if let Some(best) = compared.iter().find(|c| c.judgement.class >= Class::Derived) {
        return best.renamed.clone();
    }
    let rows = subject.anatomy.iter().flat_map(|anatomy| &anatomy.renamed);
    rows.map(|row| Renamed {
        found: row.found.clone(),
        canonical: row.canonical.clone(),
        count: row.count,
        by: RenamedBy::Structure,
    })
    .collect()
}

fn architecture_report(
    subject: &Input,
    nearest: Vec<architectures::Nearest>,
    renamed: Vec<Renamed>,
) -> ArchitectureReport {
    let architecture = &subject.print.architecture;
    let fields = match serde_json::to_value(architecture) {
        Ok(serde_json::Value::Object(fields)) => {
            fields.into_iter().filter(|(name, value)| name != "family" && !value.is_null()).collect()
        }
        _ => Default::default(),
    };
    let anatomy = subject.anatomy.as_ref();
    let best = nearest.first();
    ArchitectureReport {
        family: architecture.family.clone(),
        reference: best.map(|nearest| nearest.id.clone()),
        equal: best.is_some_and(|nearest| nearest.equal),
        naming_scheme: anatomy.and_then(|anatomy| anatomy.naming.as_ref()).map(|naming| naming.scheme.clone()),
        by: anatomy.map_or("fingerprint", |anatomy| anatomy.by.as_str()).to_owned(),
        fields,
        renamed,
        notes: anatomy.map(|anatomy| anatomy.notes.clone()).unwrap_or_default(),
        nearest,
    }
}

/// Says which architecture matches cannot be tested for weights, and how to change that.
fn untested(nearest: &[architectures::Nearest], compared: &[Compared]) -> Vec<Finding> {
    let has = |id: &str| compared.iter().any(|c| c.id.eq_ignore_ascii_case(id));
    let Some(best) = nearest.first().filter(|nearest| nearest.equal) else { return Vec::new() };
    let missing: Vec<&str> =
        std::iter::once(&best.id).chain(&best.group).map(String::as_str).filter(|id| !has(id)).collect();
    let mut missing = missing;
    missing.dedup();
    let Some(first) = missing.first() else { return Vec::new() };
    let others = match missing.len() {
        1 => String::new(),
        n => format!(" (nor do {} others of the same shapes)", n - 1),
    };
    let message = format!(
        "weights not tested against {first}: it has no weight fingerprint in the catalog{others}; \
         add one with `weightprint catalog add PATH --id {first}`"
    );
    vec![Finding::new(Code::WeightsNotTested, Level::Warning, message, Some((*first).to_owned()))]
}

/// The verdict over all candidates, which come strongest first.
fn conclude(subject: &Input, candidates: &[Candidate], coverage: f64, nearest: &[architectures::Nearest]) -> Verdict {
    let name = &subject.print.subject.name;
    let best = candidates.first();
    let class = match best {
        Some(best) if best.class.shares_weights() => best.class,
        _ if coverage < verdict::MIN_COVERAGE => Class::Inconclusive,
        Some(best) => best.class,
        None => Class::Inconclusive,
    };
    let sharing = candidates.iter().filter(|candidate| candidate.class.shares_weights());
    let references: Vec<ReferenceShare> = sharing
        .map(|candidate| ReferenceShare {
            id: candidate.id.clone(),
            share: (!candidate.parts.is_empty()).then(|| matched_share(candidate)),
        })
        .collect();
    let summary = match best {
        Some(best) => crate::report::text::summary(name, class, best, nearest),
        None => crate::report::text::untested_summary(name, nearest),
    };
    let (log10_p, effect) = best.map_or((None, 0.0), |best| (best.log10_p, best.effect));
    Verdict { class, references, log10_p, effect, summary }
}

fn matched_share(candidate: &Candidate) -> f64 {
    let all: u64 = candidate.parts.iter().map(|share| share.parameters).sum();
    let matched: f64 = candidate.parts.iter().map(|share| share.matched * share.parameters as f64).sum();
    if all == 0 { 0.0 } else { rounded(matched / all as f64) }
}
