//! Candidates that need no fingerprint: models with published embedding norms or published file digests.

use crate::evidence::norms::{self, SuspectEmbedding};
use crate::evidence::published::{digests_measure, norms_measure};
use crate::evidence::{Evidence, TestKind};
use crate::fingerprint::{FileRecord, Fingerprint};
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

/// Models all of whose weight files have a published digest that the subject's files have.
pub(crate) fn digests(fingerprint: &Fingerprint) -> Vec<Assessment> {
    // The files are not what an adapter and its base make together.
    if fingerprint.subject.merged.is_some() {
        return Vec::new();
    }
    let files = &fingerprint.subject.files;
    let models = |file: &FileRecord| {
        let published = file.sha256.as_deref().map(crate::published::digests::lookup_sha256).unwrap_or_default();
        published.into_iter().filter(|published| published.kind.is_weights()).collect::<Vec<_>>()
    };
    let Some((first, rest)) = files.split_first() else { return Vec::new() };
    let mut candidates: Vec<Assessment> = Vec::new();
    for published in models(first) {
        let everywhere = rest.iter().all(|file| models(file).iter().any(|other| other.model == published.model));
        if !everywhere || candidates.iter().any(|candidate| candidate.id == published.model) {
            continue;
        }
        let measure = digests_measure(&published.model, &published.source, files.len());
        let judgement = judge_digests(&measure);
        let evidence = Evidence::measured(TestKind::Bits, measure);
        candidates.push(Assessment::of_published(published.model.clone(), evidence, judgement));
    }
    candidates
}
