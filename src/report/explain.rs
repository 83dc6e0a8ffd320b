//! What each code in a report means, for `weightprint explain`; the explanations stand in the tables of the codes.

use super::{ClassCode, ObstacleCode, StatusCode, TestCode};
use crate::finding::Code;

/// Every code that can be explained, with its explanation: classes, strongest first, obstacles, tests, statuses of the
/// declaration, findings.
pub fn entries() -> impl Iterator<Item = (&'static str, &'static str)> {
    let classes = ClassCode::ALL.iter().rev().map(|class| (class.as_str(), class.explanation()));
    let tests = TestCode::ALL.iter().map(|test| (test.as_str(), test.explanation()));
    let findings = Code::ALL.iter().map(|code| (code.as_str(), code.explanation()));
    let obstacles = ObstacleCode::ALL.iter().map(|code| (code.as_str(), code.explanation()));
    let statuses = StatusCode::ALL.iter().map(|status| (status.as_str(), status.explanation()));
    classes.chain(obstacles).chain(tests).chain(statuses).chain(findings)
}

/// The explanation of one code.
pub fn explain(code: &str) -> Option<&'static str> {
    entries().find(|(name, _)| *name == code).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_under_a_name_of_its_own() {
        let mut names: Vec<&str> = entries().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(explain("channel-labels").is_some() && explain("nonsense").is_none());
    }
}
