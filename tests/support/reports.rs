//! Reports of the program as JSON, and what tests read off them.

use std::path::Path;

use serde_json::Value;

use super::{weightprint, zoo};

/// The report of `compare`, which must not end in an error.
pub fn report(suspect: &Path, reference: &Path) -> Value {
    let run = weightprint([Path::new("compare"), suspect, reference, Path::new("--format"), Path::new("json")]);
    assert!([0, 1, 5].contains(&run.code), "{}", run.stderr);
    run.json()
}

/// The class of its verdict.
pub fn class(report: &Value) -> &str {
    report["verdict"]["class"].as_str().unwrap()
}

/// What a test says of its strongest candidate.
pub fn test<'a>(report: &'a Value, code: &str) -> &'a Value {
    let tests = report["candidates"][0]["tests"].as_array().unwrap();
    tests.iter().find(|test| test["code"] == code).unwrap()
}

/// The class of a suspect against base-a, and how much of it was read.
pub fn verdict(suspect: &Path) -> (String, f64) {
    let report = report(suspect, &zoo("base-a"));
    (class(&report).to_owned(), report["subject"]["coverage"].as_f64().unwrap())
}

#[allow(clippy::disallowed_macros, reason = "what was measured should be seen when a test is read")]
pub fn say(text: &str) {
    eprintln!("{text}");
}
