//! What `inspect` saw, for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::Style;
use serde_json::Value;

use super::{WIDTH, clean, thousands, wrap};
use crate::report::inspect::{InspectedAnatomy, InspectedPart, InspectedPlace, InspectedTensor, Inspection};
use crate::report::{NearestReport, WriteError};

/// Most renamed tensors that are shown.
const MAX_RENAMED: usize = 20;

/// What the headers of a checkpoint say.
pub(in crate::report) fn inspection(inspection: &Inspection) -> Result<String, WriteError> {
    let mut out = String::new();
    let bold = Style::new().bold();
    let _ = writeln!(out, "{bold}{}{bold:#}", clean(&inspection.path));
    let _ = writeln!(
        out,
        "  {}, {} in {}, {} parameters, {} bytes",
        inspection.format,
        count(inspection.tensors.len(), "tensor"),
        count(inspection.files.len(), "file"),
        thousands(inspection.parameters),
        thousands(inspection.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.bytes)))
    );
    architecture(&mut out, &inspection.anatomy, &inspection.nearest);
    tensors(&mut out, &inspection.tensors);
    if !inspection.findings.is_empty() {
        let _ = writeln!(out, "\n{bold}FINDINGS{bold:#}");
        for finding in &inspection.findings {
            let place = finding.location.as_deref().map(|place| format!(" [{place}]")).unwrap_or_default();
            hanging(&mut out, "  ", &format!("{}: {}{place}", finding.code.as_str(), finding.message));
        }
    }
    Ok(out)
}

/// Text whose first line starts with `label` and whose others are indented as far.
fn hanging(out: &mut String, label: &str, text: &str) {
    let indent = format!("\n{}", " ".repeat(label.len()));
    let _ = writeln!(out, "{label}{}", wrap(text, WIDTH - label.len()).join(&indent));
}

/// Tensors of one role, shape and type together, with the first of them as an example.
fn tensors(out: &mut String, tensors: &[InspectedTensor]) {
    let bold = Style::new().bold();
    let _ = writeln!(out, "\n{bold}TENSORS{bold:#}");
    let mut groups: BTreeMap<(String, String, &str), (usize, usize)> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let key = (roles(&tensor.place), shape(&tensor.shape), tensor.dtype.as_str());
        groups.entry(key).or_insert((0, index)).0 += 1;
    }
    let mut rows: Vec<_> = groups.into_iter().collect();
    rows.sort_by_key(|(_, (_, first))| *first);
    for ((roles, shape, dtype), (number, first)) in rows {
        let roles = if roles.is_empty() { "-" } else { &roles };
        for (index, line) in wrap(&format!("{number:>5} x {roles}  [{shape}] {dtype}"), WIDTH - 2).iter().enumerate() {
            let _ = writeln!(out, "  {}{line}", if index == 0 { "" } else { "    " });
        }
        let example = &tensors[first];
        hanging(out, "      ", &example.name);
        if !example.parts.is_empty() {
            hanging(out, "      ", &format!("read as {}", read_as(&example.parts)));
        }
    }
}

fn roles(place: &InspectedPlace) -> String {
    place.roles.join("|")
}

fn shape(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}

/// The first few parts by role and shape, and how many there are besides.
fn read_as(parts: &[InspectedPart]) -> String {
    const MOST: usize = 6;
    let shown = parts.iter().take(MOST).map(|part| {
        let expert = part.place.expert.map(|expert| format!(" of expert {expert}")).unwrap_or_default();
        format!("{}{expert} [{}]", roles(&part.place), shape(&part.shape))
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

fn architecture(out: &mut String, anatomy: &InspectedAnatomy, nearest: &[NearestReport]) {
    let bold = Style::new().bold();
    let fields = match serde_json::to_value(&anatomy.architecture) {
        Ok(Value::Object(fields)) => fields,
        _ => Default::default(),
    };
    let family = fields.get("family").map(plain).unwrap_or_default();
    let _ = writeln!(out, "\n{bold}ARCHITECTURE{bold:#}  {family}");
    let by = format!("roles from {}", anatomy.by);
    let naming = anatomy.naming.as_ref().map(|naming| {
        format!("{by}; {} of {} names follow {} ({})", naming.matched, naming.of, naming.scheme, naming.title)
    });
    hanging(out, "  ", &naming.unwrap_or(by));
    let fields = fields.iter().filter(|(name, value)| *name != "family" && !value.is_null());
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    hanging(out, "  ", &fields.join(", "));
    for nearest in nearest {
        hanging(out, "  nearest: ", &likeness(nearest));
    }
    for note in &anatomy.notes {
        hanging(out, "  note: ", note);
    }
    for row in anatomy.renamed.iter().take(MAX_RENAMED) {
        hanging(out, "  renamed: ", &format!("{} = {} (x{})", row.found, row.canonical, row.count));
    }
    if anatomy.renamed.len() > MAX_RENAMED {
        let _ = writeln!(out, "  ... and {} more renamed: the JSON form has all", anatomy.renamed.len() - MAX_RENAMED);
    }
}

/// How far a known architecture equals the checkpoint's.
fn likeness(nearest: &NearestReport) -> String {
    let differs: Vec<String> = nearest
        .differs
        .iter()
        .map(|d| format!("{} {} (not {})", d.field, plain(&d.found), plain(&d.expected)))
        .collect();
    let what = if nearest.equal { "equal".to_owned() } else { format!("differs in {}", differs.join(", ")) };
    let group = nearest.group.iter().filter(|id| **id != nearest.id).count();
    let others = if group > 0 { format!(", as {group} more of the same shapes") } else { String::new() };
    format!("{}{others}: {what}", nearest.id)
}

/// A JSON value without quotes around text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
