//! A subject against many references: all at equal labels, then those in full that could match.
//!
//! Up to [`IN_FULL`] references are compared in full. Of more, every one is compared by digests, channels and sampled
//! values first. If one matches there, only those that do are compared in full; otherwise all are screened by a few of
//! their neurons, and those that come nearest are. Probabilities are corrected for all references in either case.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Prepared, compare_one};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::evidence::screen::{Probe, nearness};
use crate::evidence::{Depth, Suspect};
use crate::verdict::{Assessment, VerdictClass};

/// Up to so many references are all compared in full.
const IN_FULL: usize = 8;

/// Of more, so many of those that come nearest.
const NEAREST: usize = 4;

/// All comparisons, how many of them are in full, and a digest of the references.
pub(crate) struct Stages {
    pub(crate) compared: Vec<Assessment>,
    pub(crate) in_full: usize,
    pub(crate) digest: Sha256,
}

/// What the first look at a reference gives.
struct First {
    compared: Assessment,
    digest: [u8; 32],
    probe: Option<Probe>,
}

pub(crate) fn run(subject: &Prepared, catalogs: &[Catalog], mut digest: Sha256) -> Result<Stages> {
    let files: Vec<(&Catalog, &Path)> =
        catalogs.iter().flat_map(|catalog| catalog.files().iter().map(move |file| (catalog, file.as_path()))).collect();
    let tries = files.len() as u64;
    let few = files.len() <= IN_FULL;
    let suspect = Suspect::new(&subject.fingerprint);
    let look = |&(catalog, file): &(&Catalog, &Path)| -> Result<First> {
        let reference = catalog.load(file)?;
        let depth = if few { Depth::Full } else { Depth::Labels };
        let compared = compare_one(&suspect, &reference.fingerprint, tries, depth);
        let probe = (!few).then(|| Probe::new(&reference.fingerprint));
        Ok(First { compared, digest: reference.digest, probe })
    };
    let first: Vec<First> = files.par_iter().map(look).collect::<Result<_>>()?;
    let mut compared = Vec::with_capacity(first.len());
    let mut probes = Vec::new();
    for (First { compared: one, digest: own, probe }, (_, file)) in first.into_iter().zip(&files) {
        digest.update(file.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default());
        digest.update([0]);
        digest.update(own);
        compared.push(one);
        probes.extend(probe);
    }
    if few {
        return Ok(Stages { in_full: compared.len(), compared, digest });
    }
    // A reference that explains the whole subject at equal labels makes a search needless.
    let explains = |&index: &usize| compared[index].judgement.class >= VerdictClass::Derived;
    let mut chosen: Vec<usize> = (0..files.len()).filter(explains).collect();
    if chosen.is_empty() {
        let scores = nearness(&subject.fingerprint, &probes);
        chosen = (0..files.len()).collect();
        chosen.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        chosen.truncate(NEAREST);
        // Parts that are shared at equal labels deserve the whole comparison too.
        chosen.extend((0..files.len()).filter(|&index| compared[index].judgement.class.shares_weights()));
        chosen.sort_unstable();
        chosen.dedup();
    }
    let again = |&index: &usize| -> Result<(usize, Assessment)> {
        let (catalog, file) = files[index];
        Ok((index, compare_one(&suspect, &catalog.load(file)?.fingerprint, tries, Depth::Full)))
    };
    for (index, one) in chosen.par_iter().map(again).collect::<Result<Vec<_>>>()? {
        compared[index] = one;
    }
    Ok(Stages { compared, in_full: chosen.len(), digest })
}
