//! The forms in which reports are written: one closed set, one signature.

use super::{Inspection, Report, json, text};

/// A form in which reports are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Writer {
    /// A table in 80 columns, with ANSI styles: whoever prints it strips them where there is no terminal.
    #[default]
    Text,
    /// The schema's own form.
    Json,
}

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It has no form in JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Writer {
    /// Every writer.
    pub const ALL: &[Self] = &[Self::Text, Self::Json];

    /// The name by which it is asked for.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "human",
            Self::Json => "json",
        }
    }

    /// What it writes, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Text => "A table in 80 columns",
            Self::Json => "`weightprint/report/1`; an array if several paths are scanned",
        }
    }

    /// The writer that `name` asks for.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|writer| writer.as_str() == name)
    }

    /// Writes reports; `many` says whether several were asked for, however many there are.
    ///
    /// # Errors
    /// If the form cannot hold a value.
    pub fn write(self, reports: &[Report], many: bool) -> Result<String, WriteError> {
        match self {
            Self::Text => Ok(text::reports(reports)),
            Self::Json => Ok(json::reports(reports, many)?),
        }
    }

    /// Writes what `inspect` saw.
    ///
    /// # Errors
    /// If the form cannot hold a value.
    pub fn write_inspection(self, inspection: &Inspection) -> Result<String, WriteError> {
        match self {
            Self::Text => Ok(text::inspection(inspection)),
            Self::Json => Ok(json::inspection(inspection)?),
        }
    }
}
