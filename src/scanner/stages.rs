//! A subject against many references: all at equal labels, then those in full that could match.
//!
//! Up to [`IN_FULL`] references are compared in full. Of more, every one is compared by digests, channels and sampled
//! values first, and screened by a few of their neurons. Those that match and those that come nearest are compared in full,
//! and the next nearest as long as any of those does match. Probabilities are corrected for all references in either case.

use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Prepared, compare_one};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::evidence::screen::{Probe, nearness};
use crate::evidence::{Depth, Suspect};
use crate::verdict::Assessment;

/// Up to so many references are all compared in full.
const IN_FULL: usize = 8;

/// Of more, so many of those that come nearest at a time.
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
    let again = |&index: &usize| -> Result<(usize, Assessment)> {
        let (catalog, file) = files[index];
        Ok((index, compare_one(&suspect, &catalog.load(file)?.fingerprint, tries, Depth::Full)))
    };
    // What is found at equal labels says nothing of the others: a copy that was planted among the references must not
    // hide the one from which both come.
    let found = |&index: &usize| compared[index].judgement.class.shares_weights();
    let (mut next, mut others): (Vec<usize>, Vec<usize>) = (0..files.len()).partition(found);
    let scores = nearness(&subject.fingerprint, &probes);
    others.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut others = others.into_iter();
    next.extend(others.by_ref().take(NEAREST));
    let mut in_full = 0;
    while !next.is_empty() {
        in_full += next.len();
        let looked_at = next.par_iter().map(again).collect::<Result<Vec<_>>>()?;
        // Kin may stand behind kin: the search ends with the first few among which there is none.
        let searched = &looked_at[looked_at.len().saturating_sub(NEAREST)..];
        let goes_on = searched.iter().any(|(_, one)| one.judgement.class.shares_weights());
        for (index, one) in looked_at {
            compared[index] = one;
        }
        next = others.by_ref().take(if goes_on { NEAREST } else { 0 }).collect();
    }
    Ok(Stages { compared, in_full, digest })
}
