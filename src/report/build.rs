//! From what was found to a report: the conversions that make the report's own types of those inside.

use serde_json::json;

use super::{
    ArchitectureReport, Candidate, Counterpart, DeclaredReport, DifferenceReport, FileReport, LayerReport,
    MergedReport, NearestReport, ObstacleReport, PartReport, ReferenceShare, RenamedBy, RenamedReport, Report, SCHEMA,
    SubjectReport, TestReport, Tested, Tool, UntestedReport, Verdict, words,
};
use crate::anatomy::{self, Anatomy};
use crate::checkpoint::adapter::Merged;
use crate::evidence::counterparts::{NamedMatch, RenamedPattern};
use crate::evidence::coverage::Untested;
use crate::evidence::{Coverage, Evidence, LayerShare, PartShare};
use crate::finding::Finding;
use crate::fingerprint::{FileRecord, Fingerprint, SAMPLE_GRID};
use crate::model::known::{FieldDifference, Nearest};
use crate::verdict::declared::Declaration;
use crate::verdict::overall::ReferenceWeight;
use crate::verdict::{Assessment, Conclusion, Obstacle, thresholds};

/// All that a scan or a comparison found out.
pub(crate) struct Results<'a> {
    /// The path as it was given.
    pub(crate) path: &'a str,
    pub(crate) fingerprint: &'a Fingerprint,
    /// Absent where the subject is a fingerprint file.
    pub(crate) anatomy: Option<&'a Anatomy>,
    /// How much was compared, and what was not.
    pub(crate) coverage: Coverage,
    pub(crate) nearest: Vec<Nearest>,
    /// Names that differ from the counterparts' in the strongest reference that is kin; without one, names and shapes
    /// tell.
    pub(crate) renamed: Option<Vec<RenamedPattern>>,
    pub(crate) conclusion: Conclusion,
    /// Strongest first.
    pub(crate) candidates: Vec<Assessment>,
    pub(crate) tested: Tested,
    pub(crate) declaration: Declaration,
    pub(crate) findings: Vec<Finding>,
    pub(crate) catalog_digest: String,
}

impl From<Results<'_>> for Report {
    fn from(results: Results<'_>) -> Self {
        let verdict = verdict(&results);
        Self {
            schema: SCHEMA.to_owned(),
            subject: subject(&results),
            architecture: architecture(results.fingerprint, results.anatomy, results.nearest, results.renamed),
            verdict,
            candidates: results.candidates.into_iter().map(Candidate::from).collect(),
            tested: results.tested,
            declared: results.declaration.into(),
            findings: results.findings,
            tool: tool(results.catalog_digest),
        }
    }
}

fn subject(results: &Results<'_>) -> SubjectReport {
    let subject = &results.fingerprint.exact.subject;
    SubjectReport {
        path: results.path.to_owned(),
        name: subject.name.clone(),
        format: subject.format.clone(),
        files: subject.files.iter().map(FileReport::from).collect(),
        parameters: subject.parameters,
        coverage: rounded(results.coverage.share),
        untested: results.coverage.untested.iter().map(UntestedReport::from).collect(),
        merged: subject.merged.as_ref().map(MergedReport::from),
    }
}

fn verdict(results: &Results<'_>) -> Verdict {
    let Conclusion { class, references, log10_p, effect, obstacles } = &results.conclusion;
    let name = &results.fingerprint.exact.subject.name;
    Verdict {
        class: (*class).into(),
        references: references.iter().map(ReferenceShare::from).collect(),
        log10_p: *log10_p,
        effect: *effect,
        obstacles: obstacles.iter().map(ObstacleReport::from).collect(),
        summary: words::summary(name, &results.conclusion, results.candidates.first(), &results.nearest),
    }
}

fn architecture(
    fingerprint: &Fingerprint,
    anatomy: Option<&Anatomy>,
    nearest: Vec<Nearest>,
    by_content: Option<Vec<RenamedPattern>>,
) -> ArchitectureReport {
    let architecture = &fingerprint.exact.architecture;
    let fields = match serde_json::to_value(architecture) {
        Ok(serde_json::Value::Object(fields)) => {
            fields.into_iter().filter(|(name, value)| name != "family" && !value.is_null()).collect()
        }
        _ => Default::default(),
    };
    let renamed = match by_content {
        Some(patterns) => patterns.into_iter().map(RenamedReport::from).collect(),
        None => anatomy.iter().flat_map(|anatomy| &anatomy.renamed).map(RenamedReport::from).collect(),
    };
    let best = nearest.first();
    ArchitectureReport {
        family: architecture.family.to_string(),
        reference: best.map(|nearest| nearest.id.clone()),
        equal: best.is_some_and(|nearest| nearest.equal),
        naming_scheme: anatomy.and_then(|anatomy| anatomy.naming.as_ref()).map(|naming| naming.scheme.clone()),
        by: anatomy.map_or("fingerprint", |anatomy| anatomy.by.as_str()).to_owned(),
        fields,
        renamed,
        notes: anatomy.map(|anatomy| anatomy.notes.clone()).unwrap_or_default(),
        nearest: nearest.into_iter().map(NearestReport::from).collect(),
    }
}

fn tool(catalog_digest: String) -> Tool {
    let settings = [
        ("max_log10_p", json!(thresholds::MAX_LOG10_P)),
        ("min_effect", json!(thresholds::MIN_EFFECT)),
        ("min_coverage", json!(thresholds::MIN_COVERAGE)),
        ("sample_grid", json!([SAMPLE_GRID.0, SAMPLE_GRID.1])),
    ];
    Tool {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        catalog_digest,
    }
}

/// Shares and correlations come from sums whose last digits are noise.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

impl From<Assessment> for Candidate {
    fn from(assessment: Assessment) -> Self {
        let Assessment { id, judgement, evidence, changes, layers, parts, counterparts, compared: _ } = assessment;
        Self {
            id,
            class: judgement.class.into(),
            log10_p: judgement.log10_p,
            effect: judgement.effect,
            because: words::because(&judgement.reason),
            tests: evidence.iter().map(TestReport::from).collect(),
            changes: changes.iter().map(words::change).collect(),
            layers: layers.into_iter().map(LayerReport::from).collect(),
            parts: parts.into_iter().map(PartReport::from).collect(),
            components: judgement.components.into_iter().map(Into::into).collect(),
            counterparts: counterparts.tensors.into_iter().map(Counterpart::from).collect(),
        }
    }
}

impl From<&Evidence> for TestReport {
    fn from(evidence: &Evidence) -> Self {
        let code = evidence.test.into();
        match &evidence.result {
            Ok(measure) => Self {
                code,
                applicable: true,
                why_not: None,
                statistic: measure.statistic,
                n: measure.n,
                log10_p: measure.log10_p,
                effect: measure.effect,
                says: words::says(&measure.facts),
            },
            Err(why) => {
                let why = words::why_not(*why);
                let says = format!("not applicable: {why}");
                Self {
                    code,
                    applicable: false,
                    why_not: Some(why),
                    statistic: 0.0,
                    n: 0,
                    log10_p: None,
                    effect: 0.0,
                    says,
                }
            }
        }
    }
}

impl From<LayerShare> for LayerReport {
    fn from(LayerShare { reference, suspect, share }: LayerShare) -> Self {
        Self { reference, suspect, share }
    }
}

impl From<PartShare> for PartReport {
    fn from(PartShare { part, parameters, matched, correlation }: PartShare) -> Self {
        Self { part: part.into(), parameters, matched, correlation }
    }
}

impl From<NamedMatch> for Counterpart {
    fn from(NamedMatch { suspect, reference, how, correlation }: NamedMatch) -> Self {
        Self { found: suspect, reference, how: how.into(), correlation: rounded(correlation) }
    }
}

impl From<RenamedPattern> for RenamedReport {
    fn from(RenamedPattern { suspect, reference, count }: RenamedPattern) -> Self {
        Self { found: suspect, canonical: reference, count, by: RenamedBy::Content }
    }
}

impl From<&anatomy::Renamed> for RenamedReport {
    fn from(row: &anatomy::Renamed) -> Self {
        let (found, canonical) = (row.found.clone(), row.canonical.clone());
        Self { found, canonical, count: row.count, by: RenamedBy::Structure }
    }
}

impl From<&ReferenceWeight> for ReferenceShare {
    fn from(reference: &ReferenceWeight) -> Self {
        Self { id: reference.id.clone(), share: reference.share.map(rounded) }
    }
}

impl From<Declaration> for DeclaredReport {
    fn from(declaration: Declaration) -> Self {
        let says = words::declared(&declaration);
        let Declaration { base_models, relation, license, status, .. } = declaration;
        Self { base_models, relation, license, status: status.into(), says }
    }
}

impl From<&Untested> for UntestedReport {
    fn from(untested: &Untested) -> Self {
        let Untested { place, tensors, bytes, why } = untested;
        Self { place: place.clone(), tensors: *tensors, bytes: *bytes, why: words::why_untested(*why).to_owned() }
    }
}

impl From<&Obstacle> for ObstacleReport {
    fn from(obstacle: &Obstacle) -> Self {
        Self { code: obstacle.into(), says: words::obstacle(obstacle) }
    }
}

impl From<&FileRecord> for FileReport {
    fn from(file: &FileRecord) -> Self {
        Self { path: file.path.clone(), bytes: file.bytes, sha256: file.sha256.clone() }
    }
}

impl From<&Merged> for MergedReport {
    fn from(merged: &Merged) -> Self {
        let Merged { adapter, base, method, ranks, modules, changed, replaced, adapter_files } = merged.clone();
        Self { adapter, base, method, ranks, modules, changed, replaced, adapter_files }
    }
}

impl From<Nearest> for NearestReport {
    fn from(nearest: Nearest) -> Self {
        let Nearest { id, name, family, equal, fields_equal, fields, differs, group, source, verification } = nearest;
        let differs = differs.into_iter().map(DifferenceReport::from).collect();
        Self { id, name, family, equal, fields_equal, fields, differs, group, source, verification }
    }
}

impl From<FieldDifference> for DifferenceReport {
    fn from(FieldDifference { field, found, expected }: FieldDifference) -> Self {
        Self { field, found, expected }
    }
}
