//! The verdict over all references: the one function that concludes.

use std::cmp::Reverse;

use super::thresholds::MIN_COVERAGE;
use super::{Assessment, VerdictClass};
use crate::evidence::{PartShare, matched_share};

/// Whose weights a subject has.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// The class.
    pub class: VerdictClass,
    /// References that share weights with the subject, strongest first.
    pub references: Vec<ReferenceWeight>,
    /// Corrected log10 p of the strongest reference.
    pub log10_p: Option<f64>,
    /// Its effect, 0 to 1.
    pub effect: f64,
}

/// A reference and how much of the subject it accounts for.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceWeight {
    /// The reference.
    pub id: String,
    /// Share of the subject's comparable parameters with a counterpart in it; absent where only published norms or
    /// digests of the reference are known.
    pub share: Option<f64>,
}

/// Concludes from all references, strongest first. `coverage` is the share of the subject's parameters that could be
/// looked at: where little was, that nothing was found says nothing.
pub fn conclude(assessments: &[Assessment], coverage: f64) -> Conclusion {
    let best = assessments.first().map(|best| &best.judgement);
    let class = match best {
        Some(best) if best.class.shares_weights() => best.class,
        Some(best) if coverage >= MIN_COVERAGE => best.class,
        _ => VerdictClass::Inconclusive,
    };
    let sharing = assessments.iter().filter(|assessment| assessment.judgement.class.shares_weights());
    let share = |parts: &[PartShare]| (!parts.is_empty()).then(|| matched_share(parts));
    let references = sharing.map(|one| ReferenceWeight { id: one.id.clone(), share: share(&one.parts) }).collect();
    let (log10_p, effect) = best.map_or((None, 0.0), |best| (best.log10_p, best.effect));
    Conclusion { class, references, log10_p, effect }
}

/// Orders references strongest first: by class, then by p, where none is weakest, then by name.
pub fn strongest_first(assessments: &mut [Assessment]) {
    let p = |assessment: &Assessment| assessment.judgement.log10_p.unwrap_or(1.0);
    assessments.sort_by(|a, b| {
        let classes = Reverse(a.judgement.class).cmp(&Reverse(b.judgement.class));
        classes.then_with(|| p(a).total_cmp(&p(b))).then_with(|| a.id.cmp(&b.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::counterparts::Counterparts;
    use crate::model::Part;
    use crate::verdict::Reason;
    use crate::verdict::pair::Judgement;

    fn assessment(id: &str, class: VerdictClass, log10_p: Option<f64>) -> Assessment {
        let judgement = Judgement { class, log10_p, effect: 0.5, components: Vec::new(), reason: Reason::NoLabels };
        let part = |part, matched| PartShare { part, parameters: 100, matched, correlation: 1.0 };
        Assessment {
            id: id.to_owned(),
            judgement,
            evidence: Vec::new(),
            changes: Vec::new(),
            layers: Vec::new(),
            parts: vec![part(Part::Embedding, 1.0), part(Part::Mlp, 0.5)],
            counterparts: Counterparts::default(),
        }
    }

    #[test]
    fn little_coverage_leaves_what_was_found_and_takes_what_was_not() {
        let found = [assessment("a", VerdictClass::Derived, Some(-50.0))];
        assert_eq!(conclude(&found, 0.1).class, VerdictClass::Derived);
        let nothing = [assessment("a", VerdictClass::SameArchitecture, Some(-1.0))];
        assert_eq!(conclude(&nothing, 0.1).class, VerdictClass::Inconclusive);
        assert_eq!(conclude(&nothing, MIN_COVERAGE).class, VerdictClass::SameArchitecture);
        assert_eq!(conclude(&[], 1.0).class, VerdictClass::Inconclusive);
    }

    #[test]
    fn references_that_share_weights_are_named_with_what_they_account_for() {
        let mut all = [
            assessment("c", VerdictClass::NoEvidence, Some(-2.0)),
            assessment("b", VerdictClass::Derived, None),
            assessment("a", VerdictClass::Derived, Some(-20.0)),
        ];
        strongest_first(&mut all);
        let conclusion = conclude(&all, 1.0);
        let ids: Vec<&str> = conclusion.references.iter().map(|reference| reference.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(conclusion.references[0].share, Some(0.75));
        assert_eq!((conclusion.log10_p, conclusion.effect), (Some(-20.0), 0.5));
    }
}
