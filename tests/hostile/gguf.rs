//! GGUF files that lie: an error in milliseconds that says what is wrong, never a panic, never much memory.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::gguf::{Gguf, Kind, Meta, Stored, from_llama};
use crate::support::load;
use crate::support::{ErrorClass, error_class};
use proptest::prelude::*;
use weightprint::Error;
use weightprint::ErrorKind;
use weightprint::internals::anatomy::{self, Hints};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::Code;

fn open(path: &Path) -> Result<Checkpoint, Error> {
    let begin = Instant::now();
    let opened = Checkpoint::open(path, OpenOptions::default());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    opened
}

fn open_bytes(bytes: &[u8]) -> Result<(tempfile::TempDir, Checkpoint), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    open(&path).map(|checkpoint| (folder, checkpoint))
}

/// The message of the refusal, which is about the file's content.
fn refused(bytes: &[u8]) -> String {
    let error = open_bytes(bytes).map(|_| ()).expect_err("refused");
    assert_eq!(error_class(&error), ErrorClass::Malformed, "{error}");
    error.to_string()
}

fn small() -> Gguf {
    let stored = |name: &str, shape: &[u64]| {
        let count: u64 = shape.iter().product();
        let bytes = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        Stored { name: name.into(), shape: shape.to_vec(), kind: 0, bytes }
    };
    Gguf {
        version: 3,
        alignment: 32,
        meta: vec![
            ("general.architecture".into(), Meta::Text("llama".into())),
            ("llama.attention.head_count".into(), Meta::U32(2)),
            ("tokenizer.ggml.tokens".into(), Meta::Texts(vec!["a".into(), "b".into()])),
        ],
        tensors: vec![stored("token_embd.weight", &[6, 8]), stored("blk.0.attn_q.weight", &[8, 8])],
    }
}

fn with(change: impl FnOnce(&mut Gguf)) -> Vec<u8> {
    let mut gguf = small();
    change(&mut gguf);
    gguf.to_bytes()
}

#[test]
fn counts_and_lengths_that_wrap_are_refused() {
    for count in [u64::MAX, u64::MAX / 2, 1 << 60, 1 << 32, 100_000] {
        for at in [8, 16] {
            let mut bytes = small().to_bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let message = refused(&bytes);
            assert!(message.contains("more than") || message.contains("over the limit"), "{message}");
        }
        // The length of the first key.
        let mut bytes = small().to_bytes();
        bytes[24..32].copy_from_slice(&count.to_le_bytes());
        assert!(refused(&bytes).contains("at byte 24"));
    }
    for count in [u64::MAX, 1 << 61, 1 << 32] {
        for kind in [0u32, 4, 8, 12] {
            let mut array = kind.to_le_bytes().to_vec();
            array.extend(count.to_le_bytes());
            let message = refused(&with(|gguf| gguf.meta.push(("x".into(), Meta::Raw(9, array)))));
            assert!(message.contains("more than its"), "{message}");
        }
    }
}

#[test]
fn a_sparse_file_does_not_make_its_counts_believable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (at, count) in [(8, 1u64 << 30), (16, 1 << 30), (24, 1 << 38)] {
        let mut bytes = small().to_bytes();
        bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = open(&path).map(|_| ()).expect_err("refused");
        assert!(error.kind() == ErrorKind::Limit, "{error}");
    }
    // An array of empty strings that would go on for a terabyte, and one of numbers.
    for (key, kind, count) in [("x", 8u32, 1u64 << 36), ("x", 4, 1 << 36), ("tokenizer.ggml.tokens", 8, 1 << 36)] {
        let mut array = kind.to_le_bytes().to_vec();
        array.extend(count.to_le_bytes());
        let mut gguf = small();
        gguf.meta.retain(|(key, _)| key != "tokenizer.ggml.tokens");
        gguf.meta.push((key.into(), Meta::Raw(9, array)));
        gguf.tensors.clear();
        std::fs::write(&path, gguf.to_bytes()).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let error = open(&path).map(|_| ()).expect_err("refused");
        assert!(error.kind() == ErrorKind::Limit, "{error}");
    }
}

#[test]
fn alignments_that_are_no_powers_of_two_are_refused() {
    for alignment in [0, 3, 33, u32::MAX] {
        let message = refused(&with(|gguf| gguf.meta.push(("general.alignment".into(), Meta::U32(alignment)))));
        assert!(message.contains("no power of two"), "{message}");
    }
    let text = refused(&with(|gguf| gguf.meta.push(("general.alignment".into(), Meta::Text("32".into())))));
    assert!(text.contains("no power of two"), "{text}");
    let wide = with(|gguf| {
        gguf.alignment = 4096;
        gguf.meta.push(("general.alignment".into(), Meta::U32(4096)));
    });
    let (_folder, checkpoint) = open_bytes(&wide).unwrap();
    assert!(checkpoint.tensors.iter().all(|tensor| tensor.first_extent().offset % 4096 == 0));
    assert!(checkpoint.findings.iter().all(|finding| finding.code != Code::HeaderGap));
    // The largest power of two that the field holds puts the data beyond the end.
    let huge = with(|gguf| gguf.meta.push(("general.alignment".into(), Meta::U32(1 << 31))));
    assert!(refused(&huge).contains("cut off") || refused(&huge).contains("multiple of the alignment"));
}

#[test]
fn versions_and_byte_orders_that_are_not_read_are_named() {
    for (version, expected) in [(1, "version 1 is not read"), (4, "version 4 is unknown"), (0, "version 0 is unknown")]
    {
        assert!(refused(&with(|gguf| gguf.version = version)).contains(expected));
    }
    assert!(refused(&with(|gguf| gguf.version = 3u32.swap_bytes())).contains("big-endian"));
    assert!(open_bytes(&with(|gguf| gguf.version = 2)).is_ok());
}

#[test]
fn names_stated_twice_and_arrays_of_arrays_are_refused() {
    let twice = with(|gguf| {
        let again = gguf.tensors[0].clone();
        gguf.tensors.push(again);
    });
    assert!(refused(&twice).contains("stated twice"));
    let key = with(|gguf| gguf.meta.push(("general.architecture".into(), Meta::U32(1))));
    assert!(refused(&key).contains("twice"));
    let mut nested = 9u32.to_le_bytes().to_vec();
    nested.extend(1u64.to_le_bytes());
    assert!(refused(&with(|gguf| gguf.meta.push(("x".into(), Meta::Raw(9, nested))))).contains("array of arrays"));
    for kind in [13u32, 99] {
        assert!(refused(&with(|gguf| gguf.meta.push(("x".into(), Meta::Raw(kind, vec![0; 8]))))).contains("unknown"));
    }
    assert!(refused(&with(|gguf| gguf.meta.push(("x".into(), Meta::Raw(7, vec![2]))))).contains("truth value"));
    let not_text = Meta::Raw(8, [&1u64.to_le_bytes()[..], &[0xff]].concat());
    assert!(refused(&with(|gguf| gguf.meta.push(("x".into(), not_text)))).contains("UTF-8"));
    assert!(refused(&with(|gguf| gguf.tensors[0].name = "n".repeat(5000))).contains("over the limit"));
}

/// The file with the entry of the second tensor changed: its two sizes, type and offset.
fn entry(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = small().to_bytes();
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len();
    change(&mut bytes[at..at + 4 + 16 + 4 + 8]);
    bytes
}

#[test]
fn sizes_and_offsets_that_do_not_fit_are_refused() {
    let put = |at: usize, value: u64| move |entry: &mut [u8]| entry[at..at + 8].copy_from_slice(&value.to_le_bytes());
    for size in [u64::MAX, 1 << 62, 1 << 40, 9] {
        let message = refused(&entry(put(4, size)));
        assert!(message.contains("overflows") || message.contains("cut off"), "{message}");
        assert!(message.contains("blk.0.attn_q.weight"), "{message}");
    }
    for (offset, expected) in
        [(u64::MAX, "multiple"), (u64::MAX - 31, "multiple"), (1 << 40, "cut off"), (33, "multiple"), (32, "overlap")]
    {
        let message = refused(&entry(put(24, offset)));
        assert!(message.contains(expected), "{offset}: {message}");
    }
    let rank = refused(&entry(|entry| entry[..4].copy_from_slice(&200u32.to_le_bytes())));
    assert!(rank.contains("200 dimensions"), "{rank}");
    // Eight values are no whole block of Q4_K.
    let blocks = refused(&entry(|entry| entry[20..24].copy_from_slice(&12u32.to_le_bytes())));
    assert!(blocks.contains("whole blocks of 256"), "{blocks}");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let bytes = small().to_bytes();
    for len in 0..bytes.len() {
        assert!(open_bytes(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
    }
    assert!(open_bytes(&bytes).is_ok());
}

#[test]
fn an_unknown_type_is_told_and_lowers_the_coverage() {
    let mut gguf = from_llama(&load("base-a"), (4, 2), Kind::F16);
    // Every matrix of a type that no version knows; bytes up to the next tensor are its own.
    gguf.tensors.iter_mut().filter(|tensor| tensor.kind == 1).for_each(|tensor| tensor.kind = 99);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    gguf.write(&path);
    let checkpoint = open(&path).unwrap();
    assert!(checkpoint.findings.iter().any(|finding| finding.code == Code::DtypeUnknown));
    let zoo = crate::support::zoo("base-a");
    let run = crate::support::weightprint([
        "compare".as_ref(),
        path.as_os_str(),
        zoo.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ]);
    let report = run.json();
    assert!(report["subject"]["coverage"].as_f64().unwrap() < 0.1);
    assert!(run.code == 5 || run.code == 1, "never a clean bill of health");
}

#[test]
fn heads_that_do_not_fit_leave_rows_as_stored_and_say_so() {
    for heads in [0, 3, 5, 16, u32::MAX] {
        let bytes = with(|gguf| gguf.meta[1].1 = Meta::U32(heads));
        let (_folder, checkpoint) = open_bytes(&bytes).unwrap();
        assert!(checkpoint.tensors.iter().all(|tensor| tensor.storage.is_plain()), "{heads}");
        assert!(checkpoint.findings.iter().any(|finding| finding.code == Code::ConfigMismatch), "{heads}");
    }
    let (_folder, checkpoint) = open_bytes(&small().to_bytes()).unwrap();
    assert_eq!(checkpoint.tensors.iter().filter(|tensor| !tensor.storage.is_plain()).count(), 1);
    let mut out = vec![0.0; 64];
    let q = checkpoint.tensors.iter().find(|tensor| tensor.name.contains("attn_q")).unwrap();
    checkpoint.values(q, 0, &mut out, &mut Vec::new()).unwrap().unwrap();
    let rows: Vec<usize> = out.chunks(8).map(|row| row[0] as usize / 8).collect();
    assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7], "two heads of four rows, pairs taken apart");
}

/// Everything that a scan would do with the headers, and every value.
fn use_all(checkpoint: &Checkpoint) {
    let anatomy = anatomy::dissect(&checkpoint.tensors, Hints::of(&checkpoint.claims));
    assert_eq!(anatomy.assignments.len(), checkpoint.tensors.len());
    let mut buf = Vec::new();
    // Of an unknown type the sizes cannot be held against the bytes.
    for tensor in checkpoint.tensors.iter().filter(|tensor| tensor.dtype.is_decoded()) {
        let mut out = vec![0.0; tensor.elements() as usize];
        checkpoint.values(tensor, 0, &mut out, &mut buf).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small().to_bytes();
        // Only the header: changed values are no one's fault.
        let header = bytes.len() - 4 * (48 + 64);
        for (at, byte) in changes {
            bytes[at.index(header)] = byte;
        }
        if let Ok((_folder, checkpoint)) = open_bytes(&bytes) {
            use_all(&checkpoint);
        }
    }

    #[test]
    fn no_noise_makes_the_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..400), counts in any::<[u8; 2]>()) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::from(counts[0] % 4).to_le_bytes());
        bytes.extend(u64::from(counts[1] % 4).to_le_bytes());
        bytes.extend(noise);
        if let Ok((_folder, checkpoint)) = open_bytes(&bytes) {
            use_all(&checkpoint);
        }
    }
}
