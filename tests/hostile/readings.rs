//! Files that two programs would read differently are refused; bytes that nobody reads are counted.

use std::fs;

use safetensors::tensor::Dtype;
use weightprint::Error;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::Code;
use weightprint::internals::unread::UnreadKind;

use crate::support::gguf::{Gguf, Meta, Stored};
use crate::support::torch::{archive, legacy, state_pickle, zip};
use crate::support::{ErrorClass, Raw, error_class, onnx};

fn open_as(name: &str, bytes: &[u8]) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    Checkpoint::open(folder.path(), OpenOptions::default())
}

fn refused(name: &str, bytes: &[u8], part: &str) {
    let error = open_as(name, bytes).map(|_| ()).expect_err(part);
    assert_eq!(error_class(&error), ErrorClass::Malformed, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

/// Bytes that are counted, of this kind, and whether a finding tells of them.
fn counted(name: &str, bytes: &[u8], kind: UnreadKind) -> (u64, bool) {
    let checkpoint = open_as(name, bytes).unwrap();
    assert!(checkpoint.unread.iter().all(|unread| unread.place.starts_with(name)), "{:?}", checkpoint.unread);
    let all = checkpoint.unread.iter().filter(|unread| unread.what == kind);
    let told = |code: Code| checkpoint.findings.iter().any(|finding| finding.code == code);
    (all.map(|unread| unread.bytes).sum(), told(Code::HeaderGap) || told(Code::EmbeddedData))
}

fn small() -> Vec<Raw> {
    let values: Vec<f32> = (0..12).map(|i| i as f32 + 0.5).collect();
    vec![Raw::from_f32("a.weight", &[3, 4], &values), Raw::from_f32("b.weight", &[12], &values)]
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[at..at + new.len()].copy_from_slice(new);
    changed
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn a_member_whose_own_header_says_something_else_is_refused() {
    let good = zip(&small());
    let local = good.windows(4).rposition(|bytes| bytes == b"PK\x03\x04").unwrap();
    for (at, bytes) in [(8, &[8u8, 0][..]), (6, &[1, 8]), (18, &[9]), (22, &[9]), (30, b"M")] {
        refused("m.pt", &with(&good, local + at, bytes), "contradicts the directory");
    }
    // Sizes that follow the data are none, and those that follow have to be right.
    let pickle = state_pickle(&[]);
    let mut later = archive(&[("m/data.pkl", &pickle)]);
    later[6] |= 8;
    later[18..26].fill(0);
    assert_eq!(open_as("m.pt", &later).map(|checkpoint| checkpoint.tensors.len()).ok(), Some(0));
}

#[test]
fn members_that_share_bytes_are_refused() {
    let good = zip(&small());
    let entry = |name: &[u8]| {
        let place = good.windows(name.len()).rposition(|window| window == name).unwrap();
        place - 46
    };
    let (one, other) = (entry(b"model/data/0"), entry(b"model/data/1"));
    // The second storage lies inside the first, which has a header and a name for it in its data.
    let start = u32::from_le_bytes(good[one + 42..one + 46].try_into().unwrap());
    let same = with(&good, other + 42, &start.to_le_bytes());
    refused("m.pt", &same, "contradicts the directory");
    let longer = u32::try_from(good.len()).unwrap() - start - 200;
    let sizes = [longer.to_le_bytes(), longer.to_le_bytes()].concat();
    let local = with(&good, start as usize + 18, &sizes);
    refused("m.pt", &with(&local, one + 20, &sizes), "overlap");
}

#[test]
fn two_end_records_have_to_agree() {
    let good = zip(&small());
    let end = good.len() - 22;
    let count = u64::from(good[end + 10]);
    let start = u64::from(u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()));
    let size = end as u64 - start;
    let wide = |count: u64, rest: u64| {
        let record =
            [&b"PK\x06\x06"[..], &rest.to_le_bytes(), &[0; 12], &[count; 2].map(u64::to_le_bytes).concat()].concat();
        let record = [&record[..], &size.to_le_bytes(), &start.to_le_bytes()].concat();
        let locator = [&b"PK\x06\x07\0\0\0\0"[..], &(end as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
        [&good[..end], &record, &locator, &good[end..]].concat()
    };
    assert_eq!(open_as("m.pt", &wide(count, 44)).unwrap().tensors.len(), 2);
    refused("m.pt", &wide(count - 1, 44), "contradict each other");
    refused("m.pt", &wide(count, 45), "64-bit end record");
    // A reader that goes by the end of the directory finds other offsets than one that goes by its beginning.
    refused("m.pt", &[&good[..end], &[0; 8], &good[end..]].concat(), "does not end where its end record begins");
    let fewer = with(&with(&good, end + 8, &[count as u8 - 1]), end + 10, &[count as u8 - 1]);
    refused("m.pt", &fewer, "more in it than the members");
}

#[test]
fn a_file_that_is_two_formats_is_refused() {
    // The length of a header of 67 MB begins like an archive.
    let entry = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let padded = |len: usize| format!("{entry}{}", " ".repeat(len - entry.len()));
    let header = padded(0x0403_4b50);
    refused("m.safetensors", &safetensors(&header, &[1; 4]), "no directory at its end");
    // One of 16 MB can be a version, and a producer that ends within the file.
    let header = padded(0x0112_0a08);
    refused("m.safetensors", &safetensors(&header, &[1; 4]), "those of an ONNX model too");
    assert!(open_as("m.safetensors", &safetensors(&padded(640), &[1; 4])).is_ok());
}

#[test]
fn what_no_tensor_has_is_counted_in_every_format() {
    let hidden = [7u8; 9000];
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    let file = safetensors(header, &[&[0, 0, 1, 2, 3, 4][..], &hidden].concat());
    assert_eq!(counted("m.safetensors", &file, UnreadKind::Gap), (9002, true));
    let pickle = state_pickle(&small());
    let mut members: Vec<(String, Vec<u8>)> = vec![("m/data.pkl".into(), pickle)];
    members.extend(small().into_iter().enumerate().map(|(key, raw)| (format!("m/data/{key}"), raw.bytes)));
    let with_member = |name: &str, data: &[u8]| {
        let mut members = members.clone();
        members.push((name.to_owned(), data.to_vec()));
        archive(&members.iter().map(|(name, data)| (name.as_str(), &data[..])).collect::<Vec<_>>())
    };
    assert_eq!(counted("m.pt", &with_member("m/version", b"3\n"), UnreadKind::Gap), (0, false));
    for name in ["m/extra", "m/version", "m/data/9", "m/byteorder2"] {
        assert_eq!(counted("m.pt", &with_member(name, &hidden), UnreadKind::Gap), (9000, true), "{name}");
    }
    let code = open_as("m.pt", &with_member("m/code/a.py", b"pass")).unwrap();
    assert_eq!(code.unread.iter().map(|unread| unread.what).collect::<Vec<_>>(), [UnreadKind::RemoteCode]);
    let trailing = [&legacy(&small())[..], &hidden].concat();
    assert_eq!(counted("m.pt", &trailing, UnreadKind::Gap), (9000, true));
    // Between the members.
    let good = zip(&small());
    let first = good.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    let end = good.len() - 22;
    let start = (u32::from_le_bytes(good[end + 16..end + 20].try_into().unwrap()) + 9000).to_le_bytes();
    let gap = [&good[..first], &hidden, &good[first..end + 16], &start, &good[end + 20..]].concat();
    assert_eq!(counted("m.pt", &gap, UnreadKind::Gap), (9000, true));
}

#[test]
fn what_a_trainer_keeps_in_the_same_file_is_counted() {
    let mut pickler = crate::support::torch::Pickler::begin();
    pickler.op(b"}(");
    for (key, name) in [("0", "model"), ("1", "optimizer")] {
        pickler.text(name);
        pickler.op(b"}");
        pickler.text("w.weight");
        pickler.tensor(key, Dtype::F32, &[3, 4]);
        pickler.op(b"s");
    }
    pickler.op(b"u.");
    let file = crate::support::torch::zipped(&pickler.bytes, &[("0", &[1; 48]), ("1", &[2; 48])]);
    assert_eq!(counted("m.pt", &file, UnreadKind::TrainingState).0, 48);
}

fn gguf(meta: Vec<(String, Meta)>) -> Gguf {
    let kept = |name: &str, value: u8| Stored { name: name.into(), shape: vec![3], kind: 24, bytes: vec![value; 3] };
    let meta = [vec![("general.architecture".into(), Meta::Text("x".into()))], meta].concat();
    Gguf { version: 3, alignment: 32, meta, tensors: vec![kept("a", 1), kept("b", 2)] }
}

#[test]
fn padding_of_a_gguf_is_zero_and_shorter_than_the_alignment() {
    let good = gguf(Vec::new()).to_bytes();
    assert_eq!(counted("m.gguf", &good, UnreadKind::Gap), (0, false));
    let padding = good.len() - 5;
    assert_eq!(counted("m.gguf", &with(&good, padding, &[1]), UnreadKind::Gap), (29, true));
    assert_eq!(counted("m.gguf", &[&good[..], &[0; 100]].concat(), UnreadKind::Gap), (100, false));
    assert_eq!(counted("m.gguf", &[&good[..], &[9; 9000]].concat(), UnreadKind::Gap), (9000, true));
}

#[test]
fn data_in_metadata_are_counted() {
    let encoded = "QUJD".repeat(3000);
    let header = format!(
        r#"{{"__metadata__":{{"note":"{encoded}","format":"pt"}},"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#
    );
    assert_eq!(counted("m.safetensors", &safetensors(&header, &[1]), UnreadKind::EmbeddedData), (12_000, true));
    let data = |key: &str, value: Meta| {
        counted("m.gguf", &gguf(vec![(key.into(), value)]).to_bytes(), UnreadKind::EmbeddedData)
    };
    assert_eq!(data("general.description", Meta::Text(encoded.clone())), (12_000, true));
    assert_eq!(data("tokenizer.chat_template", Meta::Text("{% if x %}".repeat(10_000))), (0, false));
    assert_eq!(data("general.notes", Meta::Text("a note ".repeat(10_000))), (70_000, true));
    let words: Vec<String> = (0..20_000).map(|word| format!("w {word}")).collect();
    assert_eq!(data("tokenizer.ggml.merges", Meta::Texts(words)), (0, false));
    assert!(data("tokenizer.ggml.merges", Meta::Texts(vec!["x y".repeat(100); 1000])).1);
    let numbers = [&4u32.to_le_bytes()[..], &20_000u64.to_le_bytes(), &[1; 80_000]].concat();
    assert_eq!(data("x.numbers", Meta::Raw(9, numbers)), (80_000, true));
}

#[test]
fn fields_that_no_runtime_reads_are_counted() {
    let values: Vec<f32> = (0..96).map(|i| i as f32).collect();
    let good = onnx::model(&[], &[onnx::raw(&Raw::from_f32("a.weight", &[12, 8], &values))]);
    assert_eq!(counted("m.onnx", &good, UnreadKind::EmbeddedData), (0, false));
    let hidden = vec![7u8; 9000];
    let unknown = [&good[..], &onnx::bytes(99, &hidden)].concat();
    assert_eq!(counted("m.onnx", &unknown, UnreadKind::EmbeddedData), (9000, true));
    let described = [&good[..], &onnx::bytes(6, "a model of ours, ".repeat(500))].concat();
    assert_eq!(counted("m.onnx", &described, UnreadKind::EmbeddedData), (0, false));
    let property = [&good[..], &onnx::entry(14, "note", &"QUJD".repeat(3000))].concat();
    assert_eq!(counted("m.onnx", &property, UnreadKind::EmbeddedData), (12_000, true));
}
