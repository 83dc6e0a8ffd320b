//! `weightprint inspect`: what the headers say, without a byte of weights being read.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use weightprint::anatomy::{self, Anatomy, Assignment, Logical};
use weightprint::catalog::architectures::{self, Nearest};
use weightprint::checkpoint::Checkpoint;
use weightprint::finding::Finding;
use weightprint::report::text::{WIDTH, clean, thousands, wrap};
use weightprint::tensor::{DType, Layout, TensorMeta};

use super::args::Format;

/// Name and version of the JSON form.
const SCHEMA: &str = "weightprint/inspect/1";

#[derive(Serialize)]
struct Inspection<'a> {
    schema: &'static str,
    path: String,
    format: &'static str,
    files: Vec<File<'a>>,
    parameters: u64,
    anatomy: Summary<'a>,
    nearest: Vec<Nearest>,
    findings: Vec<Finding>,
    tensors: Vec<TensorRow<'a>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    architecture: &'a anatomy::Architecture,
    naming: &'a Option<anatomy::NamingMatch>,
    renamed: &'a [anatomy::Renamed],
    by: &'a anatomy::Source,
    notes: &'a [String],
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorRow<'a> {
    name: &'a str,
    dtype: &'a DType,
    shape: &'a [u64],
    file: &'a str,
    offset: u64,
    bytes: u64,
    #[serde(flatten)]
    assignment: &'a Assignment,
    /// What it is read as, where that is not what is stored.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    parts: Vec<PartRow<'a>>,
}

#[derive(Serialize)]
struct PartRow<'a> {
    name: &'a str,
    shape: &'a [u64],
    #[serde(flatten)]
    assignment: &'a Assignment,
}

/// The logical tensors of each stored one, in order; none where it is read as it is.
fn parts<'a>(tensors: &[TensorMeta], logical: &'a Logical) -> Vec<Vec<PartRow<'a>>> {
    let mut parts: Vec<Vec<PartRow<'a>>> = tensors.iter().map(|_| Vec::new()).collect();
    let seen = logical.tensors.iter().zip(&logical.anatomy.assignments).zip(&logical.stored);
    for ((part, assignment), &stored) in seen {
        // A gain with the one added is the same tensor, in the same place; a note tells it.
        let is_gain = matches!(part.layout, Layout::PlusOne(_));
        if *part != tensors[stored] && !is_gain {
            parts[stored].push(PartRow { name: &part.name, shape: &part.shape, assignment });
        }
    }
    parts
}

pub(super) fn inspect(path: &Path, checkpoint: &Checkpoint, format: Format) -> Result<String> {
    let config = checkpoint.sidecar.config.as_ref();
    let claims = anatomy::Claims { config, in_gguf: checkpoint.sidecar.in_gguf };
    let anatomy = anatomy::dissect_with(&checkpoint.tensors, claims);
    let logical = anatomy::logical(&checkpoint.tensors, &anatomy);
    let parts = logical.as_ref().map(|logical| parts(&checkpoint.tensors, logical));
    let parts = parts.unwrap_or_else(|| checkpoint.tensors.iter().map(|_| Vec::new()).collect());
    let nearest = architectures::nearest(&anatomy.architecture, 3);
    let mut findings = checkpoint.findings.clone();
    findings.extend(config.into_iter().flat_map(|config| {
        anatomy::config_findings(config, &anatomy.architecture, checkpoint.sidecar.config_source())
    }));
    match format {
        Format::Json => json(path, checkpoint, &anatomy, parts, nearest, findings),
        Format::Human => Ok(human(path, checkpoint, &anatomy, &parts, &nearest, &findings)),
    }
}

fn json(
    path: &Path,
    checkpoint: &Checkpoint,
    anatomy: &Anatomy,
    parts: Vec<Vec<PartRow<'_>>>,
    nearest: Vec<Nearest>,
    findings: Vec<Finding>,
) -> Result<String> {
    let stored = checkpoint.tensors.iter().zip(&anatomy.assignments).zip(parts);
    let tensors = stored.map(|((tensor, assignment), parts)| TensorRow {
        name: &tensor.name,
        dtype: &tensor.dtype,
        shape: &tensor.shape,
        file: &checkpoint.shards[tensor.shard].name,
        offset: tensor.offset,
        bytes: tensor.len,
        assignment,
        parts,
    });
    let inspection = Inspection {
        schema: SCHEMA,
        path: path.display().to_string(),
        format: checkpoint.format.as_str(),
        files: checkpoint.shards.iter().map(|shard| File { path: &shard.name, bytes: shard.bytes }).collect(),
        parameters: checkpoint.parameters(),
        anatomy: Summary {
            architecture: &anatomy.architecture,
            naming: &anatomy.naming,
            renamed: &anatomy.renamed,
            by: &anatomy.by,
            notes: &anatomy.notes,
        },
        nearest,
        findings,
        tensors: tensors.collect(),
    };
    Ok(serde_json::to_string_pretty(&inspection)? + "\n")
}

fn human(
    path: &Path,
    checkpoint: &Checkpoint,
    anatomy: &Anatomy,
    parts: &[Vec<PartRow<'_>>],
    nearest: &[Nearest],
    findings: &[Finding],
) -> String {
    let mut out = String::new();
    let bold = anstyle::Style::new().bold();
    let _ = writeln!(out, "{bold}{}{bold:#}", clean(&path.display().to_string()));
    let files = checkpoint.shards.len();
    let _ = writeln!(
        out,
        "  {}, {} in {}, {} parameters, {} bytes",
        checkpoint.format.as_str(),
        count(checkpoint.tensors.len(), "tensor"),
        count(files, "file"),
        thousands(checkpoint.parameters()),
        thousands(checkpoint.total_bytes())
    );
    architecture(&mut out, anatomy, nearest);
    let _ = writeln!(out, "\n{bold}TENSORS{bold:#}");
    let mut groups: BTreeMap<(String, String, String), (usize, usize)> = BTreeMap::new();
    for (index, (tensor, assignment)) in checkpoint.tensors.iter().zip(&anatomy.assignments).enumerate() {
        let roles: Vec<&str> = assignment.roles.iter().map(|role| role.as_str()).collect();
        let roles = if roles.is_empty() { "-".to_owned() } else { roles.join("|") };
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let group = groups.entry((roles, shape.join(" x "), tensor.dtype.to_string())).or_insert((0, index));
        group.0 += 1;
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by_key(|(_, (_, first))| *first);
    for ((roles, shape, dtype), (number, first)) in rows {
        let example = clean(&checkpoint.tensors[first].name);
        for (index, line) in wrap(&format!("{number:>5} x {roles}  [{shape}] {dtype}"), WIDTH - 2).iter().enumerate() {
            let _ = writeln!(out, "  {}{line}", if index == 0 { "" } else { "    " });
        }
        let _ = writeln!(out, "      {}", wrap(&example, WIDTH - 6).join("\n      "));
        if !parts[first].is_empty() {
            let text = format!("read as {}", read_as(&parts[first]));
            let _ = writeln!(out, "      {}", wrap(&text, WIDTH - 6).join("\n      "));
        }
    }
    if !findings.is_empty() {
        let _ = writeln!(out, "\n{bold}FINDINGS{bold:#}");
        for finding in findings {
            let place = finding.location.as_deref().map(|place| format!(" [{place}]")).unwrap_or_default();
            let text = format!("{}: {}{place}", finding.code.as_str(), finding.message);
            let _ = writeln!(out, "  {}", wrap(&text, WIDTH - 2).join("\n  "));
        }
    }
    out
}

/// The first few parts by role and shape, and how many there are besides.
fn read_as(parts: &[PartRow<'_>]) -> String {
    const MOST: usize = 6;
    let shown = parts.iter().take(MOST).map(|part| {
        let roles: Vec<&str> = part.assignment.roles.iter().map(|role| role.as_str()).collect();
        let shape: Vec<String> = part.shape.iter().map(u64::to_string).collect();
        let expert = part.assignment.expert.map(|expert| format!(" of expert {expert}")).unwrap_or_default();
        format!("{}{expert} [{}]", roles.join("|"), shape.join(" x "))
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if parts.len() > MOST {
        let _ = write!(text, " and {} more", parts.len() - MOST);
    }
    text
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn architecture(out: &mut String, anatomy: &Anatomy, nearest: &[Nearest]) {
    let bold = anstyle::Style::new().bold();
    let _ = writeln!(out, "\n{bold}ARCHITECTURE{bold:#}  {}", anatomy.architecture.family);
    let by = format!("roles from {}", anatomy.by.as_str());
    let naming = anatomy.naming.as_ref().map(|naming| {
        format!("{by}; {} of {} names follow {} ({})", naming.matched, naming.of, naming.scheme, naming.title)
    });
    let _ = writeln!(out, "  {}", wrap(&naming.unwrap_or(by), WIDTH - 2).join("\n  "));
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&anatomy.architecture) {
        let fields = fields.iter().filter(|(name, value)| *name != "family" && !value.is_null());
        let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={}", plain(value))).collect();
        let _ = writeln!(out, "  {}", wrap(&fields.join(", "), WIDTH - 2).join("\n  "));
    }
    for nearest in nearest {
        let differs: Vec<String> = nearest
            .differs
            .iter()
            .map(|d| format!("{} {} (not {})", d.field, plain(&d.found), plain(&d.expected)))
            .collect();
        let what = if nearest.equal { "equal".to_owned() } else { format!("differs in {}", differs.join(", ")) };
        let group = nearest.group.iter().filter(|id| **id != nearest.id).count();
        let others = if group > 0 { format!(", as {group} more of the same shapes") } else { String::new() };
        let text = format!("{}{others}: {what}", nearest.id);
        let _ = writeln!(out, "  nearest: {}", wrap(&text, WIDTH - 11).join("\n           "));
    }
    for note in &anatomy.notes {
        let _ = writeln!(out, "  note: {}", wrap(note, WIDTH - 8).join("\n        "));
    }
    for row in anatomy.renamed.iter().take(20) {
        let text = format!("{} = {} (x{})", row.found, row.canonical, row.count);
        let _ = writeln!(out, "  renamed: {}", wrap(&text, WIDTH - 11).join("\n           "));
    }
    if anatomy.renamed.len() > 20 {
        let _ = writeln!(out, "  ... and {} more renamed: see --format json", anatomy.renamed.len() - 20);
    }
}

/// A JSON value without quotes around text.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
