//! What lies beside a model, in its folder or below it: counted by content, whatever it is called; and which of several
//! forms of a model is read.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::gguf::{Kind, Meta, from_llama};
use crate::support::{ErrorClass, Random, error_class, load, write_file, write_sharded, zoo};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::{Code, Level};

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, OpenOptions::default()).unwrap()
}

/// A model in a folder of its own.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(zoo("base-a").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn put(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Places and kinds of what was not read, largest first.
fn unread(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let kind = |what| serde_json::to_value(what).unwrap().as_str().unwrap().to_owned();
    checkpoint.unread.iter().map(|entry| (entry.place.clone(), kind(entry.what))).collect()
}

fn codes(checkpoint: &Checkpoint) -> Vec<Code> {
    checkpoint.findings.iter().map(|finding| finding.code).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut random = Random(5);
    (0..len).map(|_| random.next() as u8).collect()
}

#[test]
fn weights_count_whatever_they_are_called_and_wherever_they_lie() {
    let weights = fs::read(zoo("base-b").join("model.safetensors")).unwrap();
    for place in [
        "model.safetensors.bak",
        "weights.dat",
        "weights",
        "x.sft",
        "tokenizer.model",
        "old/model.safetensors",
        ".cache/deep/down/x",
        ".git/lfs/objects/ab/cd/abcd",
        "README.md",
    ] {
        let folder = model();
        put(folder.path().join(place), &weights);
        let checkpoint = open(folder.path());
        assert_eq!(unread(&checkpoint), [(place.to_owned(), "weight-file".to_owned())]);
        assert_eq!(checkpoint.unread[0].bytes, weights.len() as u64);
        let told = checkpoint.findings.iter().find(|finding| finding.code == Code::ShardExtra).unwrap();
        assert_eq!((told.code, told.level, told.location.as_deref()), (Code::ShardExtra, Level::Warning, Some(place)));
    }
}

#[test]
fn what_is_no_weights_does_not_count() {
    let folder = model();
    let text = "All of these come out the same, whatever they are called.\n".repeat(2000);
    put(folder.path().join("README.md"), &text);
    put(folder.path().join("tokenizer.json"), format!("{{\"a\": [{}\"b\"]}}", "\"Ġthe\", 12, ".repeat(8000)));
    put(folder.path().join("tokens.tiktoken"), "IHRoZQ== 262\n".repeat(8000));
    put(
        folder.path().join("figure.png"),
        [b"\x89PNG\r\n\x1a\n", &noise(100_000)[..], b"IEND\xae\x42\x60\x82"].concat(),
    );
    put(folder.path().join("tokenizer.model"), vocabulary(8000));
    put(folder.path().join(".DS_Store"), noise(6000));
    let checkpoint = open(folder.path());
    assert_eq!(unread(&checkpoint), []);
    assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
}

/// Pieces as SentencePiece writes them.
fn vocabulary(pieces: usize) -> Vec<u8> {
    let piece = |number: usize| {
        let text = format!("▁w{number}");
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text.bytes());
        piece.extend([0x15, 0, 0, 0x80, 0xbf]);
        [&[0x0a, piece.len() as u8][..], &piece].concat()
    };
    (0..pieces).flat_map(piece).chain([0x12, 2, 0x18, 1]).collect()
}

#[test]
fn what_is_of_no_known_kind_counts_once_there_is_enough_of_it() {
    let fake = [b"\x89PNG\r\n\x1a\n", &noise(100_000)[..]].concat();
    let behind = [vocabulary(10), noise(100_000)].concat();
    for (place, content) in [("blob", noise(100_000)), ("figure.png", fake), ("tokenizer.model", behind)] {
        let folder = model();
        put(folder.path().join(place), &content);
        let checkpoint = open(folder.path());
        assert_eq!(unread(&checkpoint), [(place.to_owned(), "unknown-file".to_owned())]);
        assert_eq!(checkpoint.unread[0].bytes, content.len() as u64);
    }
    // In pieces it is as much.
    let folder = model();
    for (number, piece) in noise(200_000).chunks(2000).enumerate() {
        put(folder.path().join(format!("cache/{number}")), piece);
    }
    let checkpoint = open(folder.path());
    assert_eq!((checkpoint.unread.len(), checkpoint.unread[0].bytes), (1, 200_000), "{:?}", checkpoint.unread);
    assert!(checkpoint.unread[0].place.ends_with("and 99 more small files"), "{:?}", checkpoint.unread);
}

#[test]
fn data_in_texts_and_code_are_told() {
    let folder = model();
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let map = "{\"auto_map\": {\"AutoModel\": \"modeling.X\"}, \"hidden\": \"";
    let config = config.trim_start().strip_prefix('{').map(|rest| format!("{map}{}\", {rest}", "QUJD".repeat(50_000)));
    put(folder.path().join("config.json"), config.unwrap());
    put(folder.path().join("modeling.py"), "import torch\n");
    put(folder.path().join("weights.py"), format!("W = '{}'\n", "QUJD".repeat(40_000)));
    let checkpoint = open(folder.path());
    let expected = [
        ("config.json", "embedded-data"),
        ("weights.py", "embedded-data"),
        ("modeling.py", "remote-code"),
        ("config.json: auto_map", "remote-code"),
    ];
    assert_eq!(unread(&checkpoint), expected.map(|(place, kind)| (place.to_owned(), kind.to_owned())));
    assert_eq!(checkpoint.unread[0].bytes, 200_000);
    assert!(codes(&checkpoint).ends_with(&[Code::EmbeddedData, Code::RemoteCode]));
}

#[test]
fn a_flood_of_small_files_does_not_hide_the_large_one() {
    let folder = model();
    for number in 0..40 {
        write_file(&folder.path().join(format!("a{number:02}.safetensors")), &load("base-b")[..1]);
    }
    fs::copy(zoo("base-b").join("model.safetensors"), folder.path().join("z.safetensors")).unwrap();
    let checkpoint = open(folder.path());
    assert_eq!((checkpoint.unread.len(), checkpoint.unread[0].place.as_str()), (41, "z.safetensors"));
    let told = checkpoint.findings.iter().find(|finding| finding.code == Code::ShardExtra).unwrap();
    assert!(told.message.contains("`z.safetensors`") && told.message.contains("36 more"), "{}", told.message);
}

#[test]
fn a_named_file_is_all_that_is_looked_at_but_for_its_set() {
    let folder = model();
    put(folder.path().join("blob"), noise(100_000));
    assert_eq!(unread(&open(&folder.path().join("model.safetensors"))), []);
    let folder = tempfile::tempdir().unwrap();
    write_sharded(folder.path(), &load("base-a"), 3);
    let one = open(&folder.path().join("model-00002-of-00003.safetensors"));
    let others = ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    let mut found: Vec<String> = one.unread.iter().map(|entry| entry.place.clone()).collect();
    found.sort();
    assert_eq!(found, others);
    assert!(one.unread.iter().all(|entry| entry.bytes > 100_000), "{:?}", one.unread);
}

#[test]
fn pipes_are_not_opened_and_links_out_are_followed_only_when_asked() {
    let folder = model();
    let elsewhere = tempfile::tempdir().unwrap();
    put(elsewhere.path().join("data"), noise(100_000));
    symlink(elsewhere.path().join("data"), folder.path().join("link")).unwrap();
    symlink(elsewhere.path(), folder.path().join("linked")).unwrap();
    symlink(folder.path(), folder.path().join("circle")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let expected = |place: &str, kind: &str| vec![(place.to_owned(), kind.to_owned())];
    assert_eq!(unread(&open(folder.path())), expected("link", "outside-link"));
    let followed = OpenOptions { follow_links: true, ..OpenOptions::default() };
    let followed = Checkpoint::open(folder.path(), followed).unwrap();
    assert_eq!(unread(&followed), expected("link", "unknown-file"), "once, under one of its names");
}

#[test]
fn what_lies_too_deep_is_an_error_level_finding() {
    let folder = model();
    let deep: std::path::PathBuf = (0..40).map(|_| "d").collect();
    put(folder.path().join(deep).join("x"), "x");
    let checkpoint = open(folder.path());
    let told = checkpoint.findings.iter().find(|finding| finding.code == Code::NotListed).unwrap();
    assert_eq!(told.level, Level::Error);
    assert_eq!(unread(&checkpoint)[0].1, "unlisted-folder");
}

#[test]
fn names_that_are_no_unicode_are_read_like_others() {
    use std::os::unix::ffi::OsStrExt;
    let folder = model();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd\xff.dat"));
    fs::copy(zoo("base-b").join("model.safetensors"), odd).unwrap();
    let found = unread(&open(folder.path()));
    assert_eq!(found, [("odd\u{fffd}.dat".to_owned(), "weight-file".to_owned())]);
}

#[test]
fn of_several_forms_the_one_that_loaders_take_is_read() {
    let sharded = |folder: &Path| write_sharded(folder, &load("base-a"), 2);
    let single = |folder: &Path, name: &str| write_file(&folder.join(name), &load("base-b"));
    let index = |folder: &Path| folder.join("model.safetensors.index.json");
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Make<'_>, &str, usize); 4] = [
        (
            "variant",
            &|folder| {
                single(folder, "model.safetensors");
                single(folder, "model.fp16.safetensors");
            },
            "model.safetensors",
            1,
        ),
        (
            "a file beside an index",
            &|folder| {
                sharded(folder);
                single(folder, "model.safetensors");
            },
            "model-00001-of-00002.safetensors",
            1,
        ),
        (
            "a stale index",
            &|folder| {
                sharded(folder);
                fs::remove_file(folder.join("model-00001-of-00002.safetensors")).unwrap();
                single(folder, "model.safetensors");
            },
            "model.safetensors",
            1,
        ),
        (
            "two splits",
            &|folder| {
                sharded(folder);
                write_sharded(folder, &load("base-a"), 3);
                fs::remove_file(index(folder)).unwrap();
            },
            "model-00001-of-00002.safetensors",
            3,
        ),
    ];
    for (what, make, first, left) in cases {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let checkpoint = open(folder.path());
        assert_eq!((checkpoint.shards[0].name.as_str(), checkpoint.unread.len()), (first, left), "{what}");
        let told = codes(&checkpoint);
        assert!(told.contains(&Code::ModelChosen) || told.contains(&Code::IndexMismatch), "{what}: {told:?}");
    }
}

#[test]
fn an_index_says_which_of_two_tensors_is_read_and_leaves_out_no_shard_of_its_set() {
    let folder = tempfile::tempdir().unwrap();
    write_sharded(folder.path(), &load("base-a"), 2);
    let second = folder.path().join("model-00002-of-00002.safetensors");
    let mut tensors = crate::support::load_file(&second);
    let twice = load("base-b").into_iter().find(|tensor| tensor.name == load("base-a")[0].name).unwrap();
    tensors.push(twice);
    write_file(&second, &tensors);
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.tensors.len(), load("base-a").len());
    assert_eq!(unread(&checkpoint)[0].1, "gap");
    assert!(checkpoint.findings.iter().any(|told| (told.code, told.level) == (Code::IndexMismatch, Level::Error)));
    // The same shards, of which the index names one alone.
    let one: serde_json::Map<_, _> = load("base-a")
        .iter()
        .step_by(2)
        .map(|tensor| (tensor.name.clone(), "model-00001-of-00002.safetensors".into()))
        .collect();
    let index = serde_json::json!({ "weight_map": one });
    put(folder.path().join("model.safetensors.index.json"), index.to_string());
    write_file(&second, &crate::support::load_file(&second)[1..]);
    assert_eq!(open(folder.path()).shards.len(), 2);
}

#[test]
fn gguf_files_are_what_they_say_they_are() {
    let gguf = |meta: &[(&str, &str)]| {
        let mut gguf = from_llama(&load("base-a"), (4, 2), Kind::F16);
        gguf.meta.retain(|(key, _)| meta.iter().all(|(other, _)| key != other));
        gguf.meta.extend(meta.iter().map(|(key, value)| ((*key).to_owned(), Meta::Text((*value).into()))));
        gguf
    };
    for side in [("general.type", "imatrix"), ("general.architecture", "controlvector")] {
        let folder = tempfile::tempdir().unwrap();
        gguf(&[side]).write(&folder.path().join("a.gguf"));
        let error = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap_err();
        assert_eq!(error_class(&error), ErrorClass::Nothing, "{error}");
        gguf(&[]).write(&folder.path().join("model.gguf"));
        let checkpoint = open(folder.path());
        assert_eq!(checkpoint.shards[0].name, "model.gguf");
        assert_eq!(unread(&checkpoint), [("a.gguf".to_owned(), "weight-file".to_owned())]);
    }
}

#[test]
fn pictures_and_texts_count_where_other_weights_could_lie_in_them() {
    let png = |len: usize| [b"\x89PNG\r\n\x1a\n".to_vec(), noise(len), b"IEND\xae\x42\x60\x82".to_vec()].concat();
    let prose = |words: usize| {
        let mut random = Random(6);
        (0..words).map(|_| format!("{:04x} and ", random.next() as u16)).collect::<String>()
    };
    let folder = model();
    let read = fs::metadata(folder.path().join("model.safetensors")).unwrap().len() as usize;
    put(folder.path().join("logo.png"), png(read / 20));
    put(folder.path().join("notes.md"), prose(read / 40));
    assert_eq!(unread(&open(folder.path())), []);
    put(folder.path().join("photo.png"), png(read / 10));
    put(folder.path().join("docs/appendix.md"), prose(read / 10));
    let kinds: Vec<String> =
        unread(&open(folder.path())).into_iter().map(|(place, kind)| place + " " + &kind).collect();
    let expected = ["docs/appendix.md texts", "notes.md texts", "photo.png media", "logo.png media"];
    // The configuration is a text as well.
    assert_eq!(kinds.iter().filter(|kind| !kind.starts_with("config.json")).collect::<Vec<_>>(), expected.each_ref());
}

#[test]
fn code_that_a_configuration_names_is_told_however_python_writes_it() {
    let folder = model();
    put(folder.path().join("config.json"), "\u{feff}{\"rope\": NaN, \"auto_map\": {\"AutoModel\": \"modeling.X\"}}");
    assert!(unread(&open(folder.path())).contains(&("config.json: auto_map".to_owned(), "remote-code".to_owned())));
}
