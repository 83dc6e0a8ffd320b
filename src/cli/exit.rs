//! Exit codes: documented, stable, and never 0 when nothing was scanned.

use std::path::Path;

use weightprint::ErrorKind;

/// Nothing at or above `--fail-on`.
pub(crate) const CLEAN: u8 = 0;
/// Something at or above `--fail-on`.
pub(crate) const FOUND: u8 = 1;
/// The command line, or the request, cannot be met as it was put.
pub(crate) const USAGE: u8 = 2;
/// An input cannot be read or is malformed.
pub(crate) const MALFORMED: u8 = 3;
/// There was nothing to scan.
pub(crate) const NOTHING: u8 = 4;
/// Too little could be tested.
pub(crate) const INCONCLUSIVE: u8 = 5;

const FOLLOW: &str = "; give --follow-links to follow it, if you trust who made it";
const FORCE: &str = "; give --force to replace it";

/// A request of the command line that cannot be met.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An output file that exists and may not be replaced.
pub(crate) fn in_the_way(path: &Path) -> Usage {
    Usage(format!("{} exists{FORCE}", path.display()))
}

/// The code of an error.
pub(crate) fn of_error(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    match error.downcast_ref::<weightprint::Error>().map(weightprint::Error::kind) {
        Some(ErrorKind::Usage | ErrorKind::Exists) => USAGE,
        Some(ErrorKind::Nothing) => NOTHING,
        _ => MALFORMED,
    }
}

/// What an option can do about an error of the library, to be said after it.
pub(crate) fn hint(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<weightprint::Error>().map(weightprint::Error::kind) {
        Some(ErrorKind::Exists) => FORCE,
        Some(ErrorKind::Outside) => FOLLOW,
        _ => "",
    }
}

/// The code of several results together: the gravest, in the order 2, 3, 4, 1, 5, 0.
pub(crate) fn gravest(codes: impl IntoIterator<Item = u8>) -> u8 {
    const ORDER: [u8; 6] = [USAGE, MALFORMED, NOTHING, FOUND, INCONCLUSIVE, CLEAN];
    let rank = |code: &u8| ORDER.iter().position(|other| other == code).unwrap_or(0);
    codes.into_iter().min_by_key(rank).unwrap_or(NOTHING)
}
