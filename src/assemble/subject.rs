//! A checkpoint as a pass reads it: its logical tensors, and what each of them is for.

use super::logical::{Logical, logical};
use super::punned::unpunned;
use super::restored::restored;
use super::summed::summed;
use crate::anatomy::{Anatomy, Hints, dissect};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::finding::Finding;

/// A checkpoint seen as one tensor for each role, with the anatomy of these tensors. The one and the other always
/// belong together: there is no other way to make it.
#[derive(Debug)]
pub struct Subject {
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    findings: Vec<Finding>,
}

impl Subject {
    /// Takes a checkpoint apart. Reads a few kilobytes of each tensor, which tell whether its type is the stated one.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let (mut stored, mut findings) =
            unpunned(checkpoint).unwrap_or_else(|| (checkpoint.tensors.clone(), Vec::new()));
        if let Some((sums, finding)) = summed(checkpoint, &stored) {
            stored = sums;
            findings.push(finding);
        }
        let hints = Hints::of(&checkpoint.claims);
        let anatomy = dissect(&stored, hints);
        let (stored, anatomy) = restored(&stored, &anatomy, hints).unwrap_or((stored, anatomy));
        let (tensors, anatomy) = match logical(&stored, &anatomy) {
            Some(Logical { tensors, anatomy, stored: _ }) => (tensors, anatomy),
            None => (stored, anatomy),
        };
        Self { checkpoint: checkpoint.with_tensors(tensors), anatomy, findings }
    }

    /// What was noticed while it was taken apart.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The checkpoint, seen as its logical tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What is known of each logical tensor, and the architecture that they make.
    pub fn anatomy(&self) -> &Anatomy {
        &self.anatomy
    }

    /// The anatomy, given away.
    pub fn into_anatomy(self) -> Anatomy {
        self.anatomy
    }

    /// As [`Checkpoint::digest`], of the logical tensors.
    ///
    /// # Errors
    /// If a file cannot be examined or read.
    pub fn digest(&self) -> Result<[u8; 32]> {
        self.checkpoint.digest()
    }
}
