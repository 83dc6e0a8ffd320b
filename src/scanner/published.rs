//! Candidates that need no fingerprint: models with published embedding norms or published file digests.

use std::collections::BTreeSet;

use crate::evidence::norms::{self, SuspectEmbedding};
use crate::evidence::published::{FileMatch, digests_measure, norms_measure};
use crate::evidence::{Evidence, TestKind};
use crate::fingerprint::{FileRecord, Fingerprint};
use crate::published::digests::{self, Container};
use crate::verdict::Assessment;
use crate::verdict::pair::{judge_digests, judge_norms};

#[derive(Default)]
pub(crate) struct Norms {
    /// Models whose published norms were held against the subject.
    pub(crate) tested: usize,
    /// Those whose norms it carries.
    pub(crate) accepted: Vec<Assessment>,
}

/// Holds every embedding of the subject against every list of published norms.
pub(crate) fn norms(fingerprint: &Fingerprint) -> Norms {
    let embeddings: Vec<_> = fingerprint
        .exact
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.values.as_ref()?.row_norms.as_ref()?)))
        .filter_map(|(tensor, norms)| Some((tensor, SuspectEmbedding::embedding(norms).ok()?)))
        .collect();
    if embeddings.is_empty() {
        return Norms::default();
    }
    let published = crate::published::norms::published();
    let tries = (published.len() * embeddings.len()) as u64;
    let mut accepted = Vec::new();
    for record in published {
        let results = embeddings.iter().filter_map(|(tensor, suspect)| {
            let evidence = norms::published_norms(suspect, &record.rows).ok()?;
            Some((tensor, evidence))
        });
        let best = results.filter(|(_, e)| e.accepted).min_by(|a, b| a.1.log10_p.total_cmp(&b.1.log10_p));
        accepted.extend(best.map(|(tensor, norms)| {
            let measure = norms_measure(&record.model, &tensor.name, &norms);
            let judgement = judge_norms(&measure, tries);
            let evidence = Evidence::measured(TestKind::PublishedNorms, measure);
            Assessment::of_published(record.model.clone(), evidence, judgement)
        }));
    }
    Norms { tested: published.len(), accepted }
}

/// The files that hold the subject as it is; none where an adapter and its base make it together.
fn files(fingerprint: &Fingerprint) -> &[FileRecord] {
    let subject = &fingerprint.exact.subject;
    if subject.merged.is_some() { &[] } else { &subject.files }
}

/// How many published digests of weight files every file of the subject was held against.
pub(crate) fn held_against(fingerprint: &Fingerprint) -> usize {
    let files = files(fingerprint);
    if files.is_empty() {
        return 0;
    }
    let container = Container::of_format(&fingerprint.exact.subject.format);
    digests::held_against(files.iter().all(|file| file.sha256.is_some()), container)
}

/// Models of which the subject has published weight files, byte for byte: all of them, and nothing else, or some.
pub(crate) fn file_matches(fingerprint: &Fingerprint) -> Vec<Assessment> {
    let hashes: Vec<Option<&str>> = files(fingerprint).iter().map(|file| file.sha256.as_deref()).collect();
    let known: BTreeSet<&str> = hashes.iter().flatten().copied().collect();
    let mut best: Vec<FileMatch> = Vec::new();
    for form in digests::forms_with(&known) {
        let found = FileMatch::of(&form, &hashes);
        match best.iter_mut().find(|other| other.model == found.model) {
            Some(other) if found.strength() > other.strength() => *other = found,
            Some(_) => {}
            None => best.push(found),
        }
    }
    let assessed = |found: FileMatch| {
        let (model, measure) = (found.model.clone(), digests_measure(found));
        let judgement = judge_digests(&measure);
        Assessment::of_published(model, Evidence::measured(TestKind::Bits, measure), judgement)
    };
    best.into_iter().map(assessed).collect()
}
