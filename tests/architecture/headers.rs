//! Recorded headers of released architectures: what is told of each with its names and without, and the record of its
//! block that is learned from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::Deserialize;
use serde_json::{Map, Value};
use weightprint::internals::anatomy::{Anatomy, Hints, config_findings, dissect, layer_kinds};
use weightprint::internals::model::Family;
use weightprint::internals::model::block::{self, Record};
use weightprint::internals::tensor::{DType, Extent, Storage, TensorMeta};

/// A header as `fixtures/headers/pack.py` leaves it.
#[derive(Deserialize)]
struct Packed {
    config: Map<String, Value>,
    tensors: Vec<(String, String, Vec<u64>)>,
}

struct Header {
    name: String,
    family: String,
    config: Map<String, Value>,
    tensors: Vec<TensorMeta>,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The headers in the folder that `WEIGHTPRINT_HEADERS` names, by default those of the repository.
fn headers() -> Vec<Header> {
    let folder = env::var_os("WEIGHTPRINT_HEADERS").map_or_else(|| repository("fixtures/headers"), PathBuf::from);
    let text = fs::read_to_string(folder.join("families.json")).unwrap();
    let families: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    families.into_iter().map(|(name, family)| header(&folder, name, family)).collect()
}

fn header(folder: &Path, name: String, family: String) -> Header {
    let text = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let packed: Packed = serde_json::from_str(&text).unwrap();
    let mut tensors = Vec::new();
    for (pattern, dtype, shape) in packed.tensors {
        for name in expand(&pattern) {
            let dtype = if dtype.starts_with('F') || dtype == "BF16" { DType::BF16 } else { DType::I64 };
            tensors.push(TensorMeta { name, dtype, shape: shape.clone(), storage: Storage::Plain(Extent::default()) });
        }
    }
    Header { name, family, config: packed.config, tensors }
}

/// The names that a pattern stands for: `a.{0-2,5}.b` for four of them.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (numbers, after) = rest.split_once('}').unwrap();
    let tails = expand(after);
    let mut names = Vec::new();
    for range in numbers.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for n in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
            names.extend(tails.iter().map(|tail| format!("{before}{n}{tail}")));
        }
    }
    names
}

impl Header {
    fn named(&self) -> Anatomy {
        dissect(&self.tensors, Hints::from(&self.config))
    }

    fn nameless(&self) -> Anatomy {
        let mut tensors = self.tensors.clone();
        for (at, meta) in tensors.iter_mut().enumerate() {
            meta.name = format!("t{at:06}");
        }
        dissect(&tensors, Hints::default())
    }

    /// The number under one of these keys of the configuration or of its part about the language model.
    fn stated(&self, keys: &[&str]) -> Option<u64> {
        let inner = self.config.get("text_config").and_then(Value::as_object);
        let mut parts = inner.into_iter().chain([&self.config]);
        parts.find_map(|part| keys.iter().find_map(|key| part.get(*key).and_then(Value::as_u64)))
    }

    fn layers(&self) -> Option<u64> {
        self.stated(&["num_hidden_layers", "n_layer", "n_layers"])
    }

    /// The record of the block, where features do not tell the family. `block` is whose the shapes would be.
    fn record(&self, block: Option<Family>) -> Option<Record> {
        let is_own = |family: &Family| family.as_str() == self.family;
        if self.named().block.as_ref().is_some_and(is_own) {
            return None;
        }
        let width = self.stated(&["hidden_size", "d_model", "n_embd"]).unwrap_or(self.named().architecture.hidden_size);
        let mut record = Record::learn(&self.name, &self.family, &layer_kinds(&self.tensors), width);
        record.looks_like = block.filter(|family| !is_own(family)).map(|family| family.to_string());
        (!record.layer.is_empty()).then_some(record)
    }
}

/// What is generated: rewritten where `WEIGHTPRINT_BLESS` is set, held to what is committed otherwise.
fn committed(path: &str, generated: &str) {
    let path = repository(path);
    if env::var_os("WEIGHTPRINT_BLESS").is_some() {
        fs::write(path, generated).unwrap();
    } else {
        assert!(fs::read_to_string(&path).unwrap() == generated, "{} is out of date", path.display());
    }
}

#[test]
fn the_embedded_blocks_are_those_of_the_recorded_headers() {
    let headers = headers();
    let mut records: Vec<Record> = headers.iter().filter_map(|header| header.record(header.nameless().block)).collect();
    // Names and ranks that another family has as well tell neither.
    let kinds: Vec<_> = headers.iter().map(|header| (&header.family, layer_kinds(&header.tensors))).collect();
    records.retain(|record| kinds.iter().all(|(family, kinds)| !record.fits(kinds) || **family == record.family));
    committed("src/data/blocks.json", &block::to_json(&records).unwrap());
}

fn of(anatomy: &Anatomy) -> String {
    let a = &anatomy.architecture;
    format!("{}, {}", a.family, a.layers)
}

#[test]
fn the_table_of_architectures_is_what_is_told_of_the_headers() {
    const BEGIN: &str = "<!-- table: begin -->\n";
    const END: &str = "<!-- table: end -->";
    let path = repository("docs/architectures.md");
    let text = fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table =
        String::from("| header | family | layers stated | told by names | told by shapes |\n|---|---|---|---|---|\n");
    for header in headers() {
        let layers = header.layers().map_or_else(|| "–".to_owned(), |n| n.to_string());
        let (named, nameless) = (of(&header.named()), of(&header.nameless()));
        writeln!(table, "| {} | {} | {layers} | {named} | {nameless} |", header.name, header.family).unwrap();
    }
    committed("docs/architectures.md", &format!("{before}{BEGIN}{table}{END}{after}"));
}

#[test]
fn a_recorded_block_fits_no_header_of_another_family() {
    for header in headers() {
        let told = block::told(&layer_kinds(&header.tensors));
        assert!(told.is_none_or(|family| family.as_str() == header.family), "{}: {told:?}", header.name);
    }
}

#[test]
fn a_family_is_the_headers_own_or_none_with_names_and_without() {
    let mut wrong = Vec::new();
    for header in headers() {
        let (named, nameless) = (header.named(), header.nameless());
        for (how, anatomy) in [("named", &named), ("nameless", &nameless)] {
            let family = anatomy.architecture.family;
            if family != Family::Unknown && family.as_str() != header.family {
                wrong.push(format!("{} {how}: {family}", header.name));
            }
        }
        let (family, layers) = (named.architecture.family, named.architecture.layers);
        if family != Family::Unknown && header.layers().is_some_and(|stated| stated != layers) {
            wrong.push(format!("{}: {layers} layers", header.name));
        }
        for renamed in [&named, &nameless].into_iter().filter(|found| !found.architecture.family.is_of_features()) {
            wrong.extend(renamed.renamed.iter().map(|row| format!("{}: renamed {row:?}", header.name)));
        }
        let findings = config_findings(&header.config, &named.architecture, "config.json");
        wrong.extend(findings.iter().map(|finding| format!("{}: {}", header.name, finding.message)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
