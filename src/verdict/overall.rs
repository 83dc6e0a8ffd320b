//! The verdict over all references: the one function that concludes.

use std::cmp::Reverse;

use super::thresholds::{MAX_UNREAD, MIN_COVERAGE};
use super::{Assessment, VerdictClass};
use crate::evidence::{Coverage, PartShare, matched_share};
use crate::finding::{Code, Finding, Level};

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
    /// What stands in the way of a clean bill. Where there is anything, that nothing was found is not a result.
    pub obstacles: Vec<Obstacle>,
}

/// What stands in the way of a clean bill, whatever the references say.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// Too small a share of the weights was compared with anything.
    Coverage(f64),
    /// So many bytes that may be weights were not read, for each byte that was.
    Unread(f64),
    /// The checkpoint is damaged, or a part of it is missing or was refused.
    Damaged(Code),
    /// A known model of the subject's shapes has no weights in any catalog.
    KnownModel(String),
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

impl Obstacle {
    /// Those that a subject itself puts up: what of it was not compared, and what was found wrong with it.
    pub fn of(coverage: &Coverage, findings: &[Finding]) -> Vec<Self> {
        let little = Some(Self::Coverage(coverage.share)).filter(|_| coverage.share < MIN_COVERAGE);
        let unread = Some(Self::Unread(coverage.unread)).filter(|_| coverage.unread > MAX_UNREAD);
        let mut damaged: Vec<Code> =
            findings.iter().filter(|finding| is_damage(finding)).map(|finding| finding.code).collect();
        damaged.sort_unstable();
        damaged.dedup();
        little.into_iter().chain(unread).chain(damaged.into_iter().map(Self::Damaged)).collect()
    }
}

/// Whether a finding says that something of the model was damaged, missing or refused, so that it was not looked at.
fn is_damage(finding: &Finding) -> bool {
    finding.level == Level::Error || finding.code == Code::ShardMissing
}

/// Concludes from all references, strongest first. Where anything stands in the way of a clean bill, what was found
/// counts, and that nothing was found does not.
pub fn conclude(assessments: &[Assessment], obstacles: Vec<Obstacle>) -> Conclusion {
    let best = assessments.first().map(|best| &best.judgement);
    let class = match best {
        Some(best) if best.class.shares_weights() || obstacles.is_empty() => best.class,
        _ => VerdictClass::Inconclusive,
    };
    let sharing = assessments.iter().filter(|assessment| assessment.judgement.class.shares_weights());
    let share = |parts: &[PartShare]| (!parts.is_empty()).then(|| matched_share(parts));
    let references = sharing.map(|one| ReferenceWeight { id: one.id.clone(), share: share(&one.parts) }).collect();
    let (log10_p, effect) = best.map_or((None, 0.0), |best| (best.log10_p, best.effect));
    // A reference of which only a first look was taken is no negative result.
    let class = if class == VerdictClass::Screened { VerdictClass::Inconclusive } else { class };
    Conclusion { class, references, log10_p, effect, obstacles }
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
    use crate::evidence::Compared;
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
            compared: Compared::default(),
        }
    }

    #[test]
    fn little_coverage_leaves_what_was_found_and_takes_what_was_not() {
        let found = [assessment("a", VerdictClass::Derived, Some(-50.0))];
        let with = |share, unread, findings: &[Finding]| {
            Obstacle::of(&Coverage { share, unread, untested: Vec::new() }, findings)
        };
        assert_eq!(conclude(&found, with(0.1, 0.0, &[])).class, VerdictClass::Derived);
        let nothing = [assessment("a", VerdictClass::SameArchitecture, Some(-1.0))];
        let class = |obstacles| conclude(&nothing, obstacles).class;
        assert_eq!(class(with(0.1, 0.0, &[])), VerdictClass::Inconclusive);
        assert_eq!(class(with(MIN_COVERAGE, MAX_UNREAD, &[])), VerdictClass::SameArchitecture);
        assert_eq!(class(with(0.9, 0.02, &[])), VerdictClass::Inconclusive);
        let finding = |level| Finding::new(Code::IndexMismatch, level, "", None);
        assert_eq!(class(with(1.0, 0.0, &[finding(Level::Warning)])), VerdictClass::SameArchitecture);
        assert_eq!(class(with(1.0, 0.0, &[finding(Level::Error)])), VerdictClass::Inconclusive);
        assert_eq!(class(vec![Obstacle::KnownModel("x/y".to_owned())]), VerdictClass::Inconclusive);
        assert_eq!(conclude(&[], with(1.0, 0.0, &[])).class, VerdictClass::Inconclusive);
        let screened = [assessment("a", VerdictClass::Screened, None)];
        assert_eq!(conclude(&screened, Vec::new()).class, VerdictClass::Inconclusive);
    }

    #[test]
    fn references_that_share_weights_are_named_with_what_they_account_for() {
        let mut all = [
            assessment("c", VerdictClass::NoEvidence, Some(-2.0)),
            assessment("b", VerdictClass::Derived, None),
            assessment("a", VerdictClass::Derived, Some(-20.0)),
        ];
        strongest_first(&mut all);
        let conclusion = conclude(&all, Vec::new());
        let ids: Vec<&str> = conclusion.references.iter().map(|reference| reference.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(conclusion.references[0].share, Some(0.75));
        assert_eq!((conclusion.log10_p, conclusion.effect), (Some(-20.0), 0.5));
    }
}
