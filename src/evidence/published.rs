//! Evidence about models of which nothing but figures is published: norms of embedding rows, digests of files.

use std::collections::BTreeSet;

use super::norms::NormsEvidence;
use super::{Facts, Measure};
use crate::published::digests::PublishedForm;

/// That the suspect's embedding `tensor` was held against a model's published norms.
pub fn norms_measure(model: &str, tensor: &str, norms: &NormsEvidence) -> Measure {
    let &NormsEvidence { on_ratio, usable, ratio, span, log10_p, .. } = norms;
    Measure {
        statistic: on_ratio as f64,
        n: usable as u64,
        log10_p: Some(log10_p),
        effect: on_ratio as f64 / usable as f64,
        facts: Facts::PublishedNorms {
            model: model.to_owned(),
            tensor: tensor.to_owned(),
            on_ratio,
            usable,
            ratio,
            span,
        },
    }
}

/// One form of a published model, and what of it the suspect has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMatch {
    /// Whose files.
    pub model: String,
    /// Who publishes them.
    pub source: String,
    /// Files of the suspect.
    pub files: usize,
    /// How many of them are files of the form.
    pub ours: usize,
    /// How many files of the form are there.
    pub found: usize,
    /// How many files the form has, where that is known.
    pub form_files: Option<u64>,
    /// How many of them have a published digest.
    pub published: usize,
    /// Whether the files are the model's weights, and not those of an adapter.
    pub is_model: bool,
}

impl FileMatch {
    /// Holds the digests of the suspect's files, as far as they are known, against a form.
    pub fn of(form: &PublishedForm<'_>, hashes: &[Option<&str>]) -> Self {
        let published: BTreeSet<&str> = form.records.iter().map(|record| record.digest.as_str()).collect();
        let ours: Vec<&str> = hashes.iter().flatten().copied().filter(|hash| published.contains(hash)).collect();
        let found = ours.iter().collect::<BTreeSet<_>>().len();
        let first = form.records.first();
        Self {
            model: first.map(|record| record.model.clone()).unwrap_or_default(),
            source: first.map(|record| record.source.clone()).unwrap_or_default(),
            files: hashes.len(),
            ours: ours.len(),
            found,
            form_files: form.files,
            published: form.records.len(),
            is_model: form.is_model(),
        }
    }

    /// Whether the suspect is the whole form and nothing else.
    pub fn is_whole(&self) -> bool {
        self.form_files == Some(self.found as u64) && self.ours == self.files && self.files == self.found
    }

    /// Orders matches with forms of one model: a whole one before others, then by files that are there.
    pub fn strength(&self) -> (bool, usize) {
        (self.is_whole(), self.found)
    }
}

/// That files of the suspect have digests that are published for a model.
pub fn digests_measure(found: FileMatch) -> Measure {
    // Where the number of files is not known, at least those with a digest are there.
    let n = found.form_files.unwrap_or(found.published as u64).max(found.files as u64);
    Measure {
        statistic: found.found as f64,
        n,
        log10_p: None,
        effect: found.found as f64 / n as f64,
        facts: Facts::PublishedDigests(found),
    }
}
