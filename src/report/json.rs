//! JSON, indented, with a newline at the end. Fields come in the order of the schema.

use super::{Inspection, Report, WriteError};

/// Reports, as an array if there are `many` of them.
pub(super) fn reports(reports: &[Report], many: bool) -> Result<String, WriteError> {
    if many { whole(reports) } else { reports.iter().map(whole).collect() }
}

/// What `inspect` saw.
pub(super) fn inspection(inspection: &Inspection) -> Result<String, WriteError> {
    whole(inspection)
}

fn whole(value: &(impl serde::Serialize + ?Sized)) -> Result<String, WriteError> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
