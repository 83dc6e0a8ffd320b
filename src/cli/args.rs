//! The raw arguments.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use weightprint::report::{ClassCode, Writer};

/// Tells whether an LLM checkpoint is a wrapped copy of a known open model.
///
/// Three questions are answered apart: whose architecture it is, whose weights, and whether that was declared.
#[derive(Parser)]
#[command(version, about, max_term_width = 100, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: Global,
}

const EXIT_CODES: &str = "Exit codes:
  0  nothing at or above --fail-on
  1  something at or above --fail-on
  2  wrong usage
  3  unreadable or malformed input
  4  nothing to scan
  5  inconclusive";

#[derive(Args)]
pub(crate) struct Global {
    /// Threads to use; by default one for each core. Results do not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Read files with positioned reads instead of mapping them into memory
    #[arg(long, global = true)]
    pub(crate) no_mmap: bool,
    /// Follow links that lead out of a checkpoint's folder, as DVC and git-annex make them. A checkpoint that someone
    /// else made can have this read any file of this machine
    #[arg(long, global = true)]
    pub(crate) follow_links: bool,
    /// Memory for the sums over tensors that are read at a time, like 512M or 2G: more lets more threads work on large
    /// tensors. Results do not depend on it
    #[arg(long, global = true, value_name = "SIZE", value_parser = size, default_value = "512M")]
    pub(crate) memory: u64,
    /// Where large matrix products are taken. On a GPU what they come to is rounded differently
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) device: Device,
    /// Neither use nor keep fingerprints of checkpoints that were read before
    #[arg(long, global = true, env = "WEIGHTPRINT_NO_CACHE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_cache: bool,
    /// Folder of fingerprints of checkpoints that were read before [default: weightprint in the user's cache folder]
    #[arg(long, global = true, value_name = "DIR", env = "WEIGHTPRINT_CACHE")]
    pub(crate) cache: Option<PathBuf>,
    /// No progress bar, and no word of the cache
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU if this build can use one and it opens, otherwise the processor
    #[default]
    Auto,
    /// The processor
    Cpu,
    /// The processor, by the library that drives GPUs: slower
    CandleCpu,
    /// An NVIDIA GPU; needs a build with the feature `cuda`
    Cuda,
    /// An Apple GPU; needs a build with the feature `metal`
    Metal,
}

impl Device {
    pub(crate) fn open(self) -> weightprint::Result<weightprint::Device> {
        Ok(match self {
            Self::Auto => weightprint::Device::auto(),
            Self::Cpu => weightprint::Device::cpu(),
            Self::CandleCpu => weightprint::Device::candle_cpu(),
            Self::Cuda => weightprint::Device::cuda()?,
            Self::Metal => weightprint::Device::metal()?,
        })
    }
}

/// A number of bytes with an optional K, M or G, in powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes, like 512M or 2G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Scan checkpoints against catalogs and everything compiled in
    Scan {
        /// Files, sharded folders, Hugging Face snapshot or cache folders, or fingerprint files
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Folder of reference fingerprints; may be given several times [default: the user's data folder]
        #[arg(long, value_name = "DIR", env = "WEIGHTPRINT_CATALOG", value_delimiter = ':')]
        catalog: Vec<PathBuf>,
        /// Scan every model at and below each path, in hidden folders too, and report on each
        #[arg(long)]
        recursive: bool,
        /// Let a model pass although a known one of its shapes has no weights in the catalogs
        #[arg(long)]
        allow_untested: bool,
        #[command(flatten)]
        base: Base,
        #[command(flatten)]
        output: Output,
    },
    /// Compare a checkpoint or fingerprint with another
    Compare {
        /// The checkpoint or fingerprint file in question
        suspect: PathBuf,
        /// The checkpoint or fingerprint file to hold it against
        reference: PathBuf,
        #[command(flatten)]
        base: Base,
        #[command(flatten)]
        output: Output,
    },
    /// Take the fingerprint of a checkpoint
    Fingerprint {
        /// The checkpoint
        path: PathBuf,
        #[command(flatten)]
        base: Base,
        /// The file to write
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
    },
    /// Show what the headers of a checkpoint say, without reading its weights
    Inspect {
        /// The checkpoint
        path: PathBuf,
        #[command(flatten)]
        base: Base,
        /// How to write the result
        #[arg(long, value_name = "FORMAT", value_parser = writers(), default_value = Writer::default().as_str())]
        format: Writer,
        /// Write to a file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace an existing output file
        #[arg(long)]
        force: bool,
    },
    /// Manage folders of reference fingerprints
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Explain a code that reports use; without one, list all codes
    Explain {
        /// The code
        code: Option<String>,
    },
    /// Print the JSON Schema of the report
    Schema,
}

#[derive(Args)]
pub(crate) struct Base {
    /// The base of a LoRA adapter: the two are read as the merged model, and none is written
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum CatalogCommand {
    /// Take the fingerprint of a checkpoint and add it
    Add {
        /// The checkpoint, or its fingerprint file
        path: PathBuf,
        /// Identifier: `name` or `organisation/name`
        #[arg(long)]
        id: String,
        #[command(flatten)]
        folder: CatalogFolder,
        /// Replace the reference if it is there already, and take a model whose shapes are not those known of the
        /// identifier
        #[arg(long)]
        force: bool,
    },
    /// List the references of a folder, or with --embedded what is compiled in
    List {
        #[command(flatten)]
        folder: CatalogFolder,
        /// List the known architectures that are compiled in
        #[arg(long)]
        embedded: bool,
    },
    /// Show one reference, of the folder or compiled in
    Show {
        /// Its identifier
        id: String,
        #[command(flatten)]
        folder: CatalogFolder,
    },
    /// Check every reference of a folder
    Verify {
        #[command(flatten)]
        folder: CatalogFolder,
    },
}

#[derive(Args)]
pub(crate) struct CatalogFolder {
    /// The folder; of several, `add` takes the first [default: weightprint/catalog in the user's data folder]
    #[arg(long, value_name = "DIR", env = "WEIGHTPRINT_CATALOG", value_delimiter = ':')]
    pub(crate) catalog: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Output {
    /// How to write the report
    #[arg(long, value_name = "FORMAT", value_parser = writers(), default_value = Writer::default().as_str())]
    pub(crate) format: Writer,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an existing output file
    #[arg(long)]
    pub(crate) force: bool,
    /// Weakest class that makes the exit code 1
    #[arg(long, value_name = "CLASS", value_parser = failing(), default_value = ClassCode::SharesComponents.as_str())]
    pub(crate) fail_on: FailOn,
}

/// The writers by their names.
fn writers() -> impl TypedValueParser<Value = Writer> {
    let names = Writer::ALL.iter().map(|writer| PossibleValue::new(writer.as_str()).help(writer.about()));
    PossibleValuesParser::new(names).try_map(|name| Writer::parse(&name).ok_or("no such form"))
}

/// The weakest class that fails, if any does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailOn(pub(crate) Option<ClassCode>);

/// What stands for no class.
const NEVER: &str = "never";

/// The classes that can fail, strongest first: all that say something of weights or structure.
fn failing() -> impl TypedValueParser<Value = FailOn> {
    let class = || ClassCode::ALL.iter().rev().filter(|class| **class >= ClassCode::SameArchitecture);
    PossibleValuesParser::new(class().map(|class| class.as_str()).chain([NEVER]))
        .map(move |name| FailOn(class().copied().find(|class| class.as_str() == name)))
}
