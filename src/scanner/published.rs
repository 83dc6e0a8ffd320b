//! Candidates that need no fingerprint: models with published embedding norms or published file digests.

use crate::evidence::norms::{self, NormsEvidence};
use crate::evidence::{Test, TestCode};
use crate::fingerprint::{FileRecord, Fingerprint};
use crate::math::tails;
use crate::model::Part;
use crate::report::Candidate;
use crate::verdict::{self, Class};

#[derive(Default)]
pub(crate) struct Norms {
    /// Models whose published norms were held against the subject.
    pub(crate) tested: usize,
    /// Those whose norms it carries.
    pub(crate) accepted: Vec<Candidate>,
}

/// Holds every embedding of the subject against every list of published norms.
pub(crate) fn norms(print: &Fingerprint) -> Norms {
    let embeddings: Vec<_> = print
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.values.as_ref()?.row_norms.as_ref()?)))
        .filter_map(|(tensor, norms)| Some((tensor, norms::Suspect::embedding(norms).ok()?)))
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
        accepted.extend(best.map(|(tensor, evidence)| norms_candidate(&record.model, &tensor.name, &evidence, tries)));
    }
    Norms { tested: published.len(), accepted }
}

fn norms_candidate(model: &str, tensor: &str, evidence: &NormsEvidence, tries: u64) -> Candidate {
    let log10_p = tails::log10_corrected(evidence.log10_p, tries);
    let effect = evidence.on_ratio as f64 / evidence.usable as f64;
    let says = format!(
        "{} of {} rare-token rows of `{tensor}` have {model}'s published norms times {:.4}, over a span of {:.1}",
        evidence.on_ratio, evidence.usable, evidence.ratio, evidence.span
    );
    let strong = log10_p <= verdict::MAX_LOG10_P && effect >= verdict::MIN_EFFECT;
    let test = Test {
        code: TestCode::PublishedNorms,
        applicable: true,
        why_not: None,
        statistic: evidence.on_ratio as f64,
        n: evidence.usable as u64,
        log10_p: Some(evidence.log10_p),
        effect,
        says: says.clone(),
    };
    let because = if strong { says } else { format!("{says}; too few rows for a verdict by themselves") };
    Candidate {
        id: model.to_owned(),
        class: if strong { Class::SharesComponents } else { Class::Inconclusive },
        log10_p: Some(log10_p),
        effect,
        because,
        tests: vec![test],
        changes: Vec::new(),
        layers: Vec::new(),
        parts: Vec::new(),
        components: if strong { vec![Part::Embedding] } else { Vec::new() },
        counterparts: Vec::new(),
    }
}

/// Models all of whose weight files have a published digest that the subject's files have.
pub(crate) fn digests(print: &Fingerprint) -> Vec<Candidate> {
    // The files are not what an adapter and its base make together.
    if print.subject.merged.is_some() {
        return Vec::new();
    }
    let files = &print.subject.files;
    let models = |file: &FileRecord| {
        let published = file.sha256.as_deref().map(crate::published::digests::lookup_sha256).unwrap_or_default();
        published.into_iter().filter(|published| published.kind.is_weights()).collect::<Vec<_>>()
    };
    let Some((first, rest)) = files.split_first() else { return Vec::new() };
    let mut candidates: Vec<Candidate> = Vec::new();
    for published in models(first) {
        let everywhere = rest.iter().all(|file| models(file).iter().any(|other| other.model == published.model));
        if !everywhere || candidates.iter().any(|candidate| candidate.id == published.model) {
            continue;
        }
        let says = format!("every weight file has a SHA-256 published for {} ({})", published.model, published.source);
        let test = Test {
            code: TestCode::Bits,
            applicable: true,
            why_not: None,
            statistic: files.len() as f64,
            n: files.len() as u64,
            log10_p: None,
            effect: 1.0,
            says: says.clone(),
        };
        candidates.push(Candidate {
            id: published.model.clone(),
            class: Class::Identical,
            log10_p: None,
            effect: 1.0,
            because: says,
            tests: vec![test],
            changes: Vec::new(),
            layers: Vec::new(),
            parts: Vec::new(),
            components: Vec::new(),
            counterparts: Vec::new(),
        });
    }
    candidates
}
