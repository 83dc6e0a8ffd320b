//! JSON, indented, with a newline at the end. Fields come in the order of the schema.

use super::{Inspection, Report};

/// Reports, as an array if there are `many` of them.
///
/// # Errors
/// Never for a report that this crate made.
pub fn reports(reports: &[Report], many: bool) -> serde_json::Result<String> {
    if many {
        return whole(reports);
    }
    reports.iter().map(whole).collect()
}

/// What `inspect` saw.
///
/// # Errors
/// Never for an inspection that this crate made.
pub fn inspection(inspection: &Inspection) -> serde_json::Result<String> {
    whole(inspection)
}

fn whole(value: &(impl serde::Serialize + ?Sized)) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|json| json + "\n")
}
