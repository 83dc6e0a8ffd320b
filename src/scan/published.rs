//! Candidates that need no fingerprint: models with published embedding norms or published file digests.

use std::collections::BTreeSet;

use crate::catalog;
use crate::catalog::digests::{self, Container, PublishedForm};
use crate::compare::norms::{self, NormsEvidence};
use crate::compare::{Part, Test, TestCode};
use crate::fingerprint::{FileRecord, Fingerprint};
use crate::report::Candidate;
use crate::stats::tail;
use crate::verdict::{self, Class};

#[derive(Default)]
pub(super) struct Norms {
    /// Models whose published norms were held against the subject.
    pub(super) tested: usize,
    /// Those whose norms it carries.
    pub(super) accepted: Vec<Candidate>,
}

/// Holds every embedding of the subject against every list of published norms.
pub(super) fn norms(print: &Fingerprint) -> Norms {
    let embeddings: Vec<_> = print
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.values.as_ref()?.row_norms.as_ref()?)))
        .filter_map(|(tensor, norms)| Some((tensor, norms::Suspect::embedding(norms).ok()?)))
        .collect();
    if embeddings.is_empty() {
        return Norms::default();
    }
    let published = catalog::norms::published();
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
    let log10_p = tail::log10_corrected(evidence.log10_p, tries);
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

/// How many published digests of weight files every file of the subject was held against.
pub(super) fn held_against(print: &Fingerprint) -> usize {
    // The files are not what an adapter and its base make together.
    if print.subject.merged.is_some() {
        return 0;
    }
    let container = Container::of_format(&print.subject.format);
    let held = |file: &FileRecord| digests::held_against(file.sha256.is_some(), container);
    print.subject.files.iter().map(held).min().unwrap_or(0)
}

/// Models of which the subject has published weight files, byte for byte: all of them, and nothing else, or some.
pub(super) fn file_matches(print: &Fingerprint) -> Vec<Candidate> {
    if print.subject.merged.is_some() {
        return Vec::new();
    }
    let hashes: Vec<Option<&str>> = print.subject.files.iter().map(|file| file.sha256.as_deref()).collect();
    let known: BTreeSet<&str> = hashes.iter().flatten().copied().collect();
    let mut best: Vec<FileMatch<'_>> = Vec::new();
    for form in digests::forms_with(&known) {
        let found = FileMatch::of(form, &hashes);
        match best.iter_mut().find(|other| other.model() == found.model()) {
            Some(other) if found.strength() > other.strength() => *other = found,
            Some(_) => {}
            None => best.push(found),
        }
    }
    best.iter().map(FileMatch::candidate).collect()
}

/// One form of a published model, and what of it the subject has.
struct FileMatch<'a> {
    form: PublishedForm<'a>,
    /// Files of the subject.
    files: usize,
    /// How many of them are files of the form.
    ours: usize,
    /// How many files of the form are there.
    found: usize,
}

impl<'a> FileMatch<'a> {
    fn of(form: PublishedForm<'a>, hashes: &[Option<&str>]) -> Self {
        let published: BTreeSet<&str> = form.records.iter().map(|record| record.digest.as_str()).collect();
        let is_published = |hash: &&&str| published.contains(**hash);
        let ours = hashes.iter().flatten().filter(is_published).count();
        let found = hashes.iter().flatten().filter(is_published).collect::<BTreeSet<_>>().len();
        Self { files: hashes.len(), ours, found, form }
    }

    fn model(&self) -> &'a str {
        &self.form.records[0].model
    }

    /// Whether the subject is the whole form and nothing else.
    fn is_whole(&self) -> bool {
        self.form.files == Some(self.found as u64) && self.ours == self.files && self.files == self.found
    }

    fn strength(&self) -> (bool, usize) {
        (self.is_whole(), self.found)
    }

    fn says(&self) -> String {
        let ours = match (self.ours, self.files) {
            (1, 1) => "its one weight file has the SHA-256 of a file".to_owned(),
            (ours, files) if ours == files => format!("its {files} weight files have the SHA-256 of files"),
            (ours, files) => format!("{ours} of its {files} weight files have the SHA-256 of files"),
        };
        let whole = match self.form.files {
            Some(1) => "the only one in that form".to_owned(),
            Some(files) => format!("{} of the {files} in that form", self.found),
            None => format!("{} of them; how many there are in that form is not known", self.found),
        };
        let kind = if self.form.is_model() { "" } else { ", which is an adapter and not the model" };
        let source = &self.form.records[0].source;
        format!("{ours} published for {}, {whole}{kind} ({source})", self.model())
    }

    fn candidate(&self) -> Candidate {
        let says = self.says();
        // Where the number of files is not known, at least those with a digest are there.
        let n = self.form.files.unwrap_or(self.form.records.len() as u64).max(self.files as u64);
        let effect = self.found as f64 / n as f64;
        let class = if self.is_whole() && self.form.is_model() { Class::Identical } else { Class::SharesComponents };
        let test = Test {
            code: TestCode::Bits,
            applicable: true,
            why_not: None,
            statistic: self.found as f64,
            n,
            log10_p: None,
            effect,
            says: says.clone(),
        };
        Candidate {
            id: self.model().to_owned(),
            class,
            log10_p: None,
            effect,
            because: says,
            tests: vec![test],
            changes: Vec::new(),
            layers: Vec::new(),
            parts: Vec::new(),
            components: Vec::new(),
            counterparts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::digests::{Kind, PublishedDigest};

    fn class(form: &[&str], files: Option<u64>, kind: Kind, ours: &[&str]) -> (Class, String) {
        let record =
            |digest: &&str| PublishedDigest { digest: (*digest).to_owned(), kind, ..digests::all()[0].clone() };
        let records: Vec<PublishedDigest> = form.iter().map(record).collect();
        let form = PublishedForm { records: records.iter().collect(), files };
        let hashes: Vec<Option<&str>> = ours.iter().map(|hash| Some(*hash).filter(|hash| !hash.is_empty())).collect();
        let candidate = FileMatch::of(form, &hashes).candidate();
        (candidate.class, candidate.because)
    }

    #[test]
    fn only_all_files_of_a_form_and_nothing_else_are_the_model() {
        let (weights, shares) = (Kind::Weights, Class::SharesComponents);
        for (form, files, kind, ours, expected, says) in [
            (&["a", "b"][..], Some(2), weights, &["b", "a"][..], Class::Identical, "its 2 weight files have"),
            (&["a"], Some(1), weights, &["a"], Class::Identical, "the only one in that form"),
            (&["a", "b"], Some(2), weights, &["a"], shares, "1 of the 2 in that form"),
            (&["a", "b"], Some(2), weights, &["a", "b", ""], shares, "2 of its 3 weight files have"),
            (&["a", "b"], Some(2), weights, &["a", "a"], shares, "1 of the 2 in that form"),
            (&["a", "b"], Some(2), weights, &["a", "b", "b"], shares, "2 of the 2 in that form"),
            (&["a", "b"], Some(3), weights, &["a", "b"], shares, "2 of the 3 in that form"),
            (&["a", "b"], None, weights, &["a", "b"], shares, "how many there are in that form is not known"),
            (&["a"], Some(1), Kind::Adapter, &["a"], shares, "which is an adapter and not the model"),
        ] {
            let (found, because) = class(form, files, kind, ours);
            assert!(found == expected && because.contains(says), "{form:?} {files:?} {ours:?}: {found}, {because}");
        }
    }
}
