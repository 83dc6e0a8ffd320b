//! Evidence about models of which nothing but figures is published: norms of embedding rows, digests of files.

use super::norms::NormsEvidence;
use super::{Facts, Measure};

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

/// That each of the suspect's `files` has a digest that `source` publishes for a model.
pub fn digests_measure(model: &str, source: &str, files: usize) -> Measure {
    Measure {
        statistic: files as f64,
        n: files as u64,
        log10_p: None,
        effect: 1.0,
        facts: Facts::PublishedDigests { model: model.to_owned(), source: source.to_owned() },
    }
}
