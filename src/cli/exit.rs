//! Exit codes: documented, stable, and never 0 when nothing was scanned.

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

/// The code of an error.
pub(crate) fn of_error(error: &anyhow::Error) -> u8 {
    use weightprint::error::Class;
    match error.downcast_ref::<weightprint::Error>().map(weightprint::Error::class) {
        Some(Class::Usage) => USAGE,
        Some(Class::Nothing) => NOTHING,
        Some(Class::Malformed) | None => MALFORMED,
    }
}

/// The code of several results together: the gravest, in the order 2, 3, 4, 1, 5, 0.
pub(crate) fn gravest(codes: impl IntoIterator<Item = u8>) -> u8 {
    const ORDER: [u8; 6] = [USAGE, MALFORMED, NOTHING, FOUND, INCONCLUSIVE, CLEAN];
    let rank = |code: &u8| ORDER.iter().position(|other| other == code).unwrap_or(0);
    codes.into_iter().min_by_key(rank).unwrap_or(NOTHING)
}
