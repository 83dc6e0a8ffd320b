//! The forms in which reports are written: one table, one signature. A writer is a module with a function for reports and
//! one for inspections, and a line here.

use super::{Inspection, Report, json, text};

macro_rules! writers {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $about:literal, $module:ident;)*) => {
        /// A form in which reports are written.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Writer {
            $($(#[$doc])* $variant,)*
        }

        impl Writer {
            /// Every writer.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name by which it is asked for.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it writes, in a few words.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// Writes reports; `many` says whether several were asked for, however many there are.
            ///
            /// # Errors
            /// If the form cannot hold a value.
            pub fn write(self, reports: &[Report], many: bool) -> Result<String, WriteError> {
                match self { $(Self::$variant => $module::reports(reports, many),)* }
            }

            /// Writes what `inspect` saw.
            ///
            /// # Errors
            /// If the form cannot hold a value.
            pub fn write_inspection(self, inspection: &Inspection) -> Result<String, WriteError> {
                match self { $(Self::$variant => $module::inspection(inspection),)* }
            }
        }
    };
}

writers! {
    /// A table in 80 columns, with ANSI styles: whoever prints it strips them where there is no terminal.
    #[default]
    Text = "human", "A table in 80 columns", text;
    /// The schema's own form.
    Json = "json", "`weightprint/report/1`; an array if several paths are scanned", json;
}

impl Writer {
    /// The writer that `name` asks for.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|writer| writer.as_str() == name)
    }
}

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It has no form in JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}
