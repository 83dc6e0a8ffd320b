//! The forms in which checkpoints lie on disk, and what opening them tells.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{ErrorClass, error_class};
use weightprint::Error;
use weightprint::ErrorKind;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::{Code, Level};
use weightprint::internals::tensor::{Extent, Storage};

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref(), OpenOptions::default()).unwrap()
}

fn refuse(path: impl AsRef<Path>, class: ErrorClass, parts: &[&str]) -> Error {
    let error = Checkpoint::open(path.as_ref(), OpenOptions::default()).unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(error_class(&error), class, "{text}");
    error
}

/// A file with U8 tensors of the given lengths, every byte its position in the data.
fn bytes(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, len) in tensors {
        let entry = serde_json::json!({"dtype": "U8", "shape": [len], "data_offsets": [end, end + len]});
        assert!(header.insert((*name).to_owned(), entry).is_none());
        end += len;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend((0..end).map(|position| position as u8));
    file
}

fn put(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    path.to_path_buf()
}

fn put_index(path: impl AsRef<Path>, map: &[(&str, &str)], total: u64) -> PathBuf {
    let map: BTreeMap<_, _> = map.iter().copied().collect();
    put(path, serde_json::json!({"metadata": {"total_size": total}, "weight_map": map}).to_string())
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

fn shards(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.shards.iter().map(|shard| shard.name.as_str()).collect()
}

fn codes(checkpoint: &Checkpoint) -> Vec<(Code, Level)> {
    checkpoint.findings.iter().map(|finding| (finding.code, finding.level)).collect()
}

#[test]
fn a_single_file_is_opened_by_its_path_by_its_folder_and_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join("model.safetensors"), bytes(&[("a", 3), ("b", 4)]));
    put(folder.path().join("config.json"), r#"{"model_type": "llama"}"#);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.safetensors");
    symlink(&path, &link).unwrap();
    for target in [path.as_path(), folder.path(), &link] {
        let checkpoint = open(target);
        assert_eq!(checkpoint.format.as_str(), "safetensors");
        assert_eq!(names(&checkpoint), ["a", "b"]);
        assert_eq!(checkpoint.total_bytes(), 7);
        assert_eq!(checkpoint.parameters(), 0, "U8 is no floating-point type");
        assert_eq!(checkpoint.shards[0].bytes, fs::metadata(&path).unwrap().len());
        assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
        assert_eq!(checkpoint.claims.config.is_some(), target != link, "the sidecar lies beside the path given");
        checkpoint.check_unchanged().unwrap();
    }
}

#[test]
fn a_file_is_taken_by_its_content_whatever_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["weights", "pytorch_model.bin", "model.onnx", "model.gguf"] {
        let path = put(folder.path().join(name), bytes(&[("a", 3)]));
        assert_eq!(names(&open(path)), ["a"]);
    }
}

#[test]
fn a_header_length_that_looks_like_a_pickle_is_safetensors_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for wanted in [0x0280, 0x0380, 0x0480, 0x0580] {
        let mut header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_owned();
        header.extend(std::iter::repeat_n(' ', wanted - header.len()));
        let file = [&(wanted as u64).to_le_bytes()[..], header.as_bytes(), &[7]].concat();
        assert_eq!(names(&open(put(folder.path().join("model.safetensors"), file))), ["a"]);
    }
}

#[test]
fn mapped_and_read_files_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join("model.safetensors"), bytes(&[("a", 3), ("b", 200), ("c", 0)]));
    let mapped = open(&path);
    let read = Checkpoint::open(&path, OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for tensor in &mapped.tensors {
        for start in 0..=tensor.stored_bytes() {
            let len = (tensor.stored_bytes() - start) as usize;
            let expected: Vec<u8> =
                (0..len).map(|at| (at as u64 + start + u64::from(tensor.name == "b") * 3) as u8).collect();
            assert_eq!(mapped.bytes(tensor, start, len, &mut one).unwrap(), expected);
            assert_eq!(read.bytes(tensor, start, len, &mut other).unwrap(), expected);
        }
    }
    assert!(one.is_empty(), "a mapping needs no buffer");
    let whole = fs::read(&path).unwrap();
    for checkpoint in [&mapped, &read] {
        assert_eq!(checkpoint.shards[0].read(0, whole.len(), &mut one).unwrap(), whole);
    }
}

#[test]
fn bytes_outside_a_tensor_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = open(put(folder.path().join("model.safetensors"), bytes(&[("a", 3), ("b", 4)])));
    let mut buf = Vec::new();
    let tensor = checkpoint.tensors[0].clone();
    for (start, len) in [(0, 4), (3, 1), (u64::MAX, 2), (1, usize::MAX)] {
        let error = checkpoint.bytes(&tensor, start, len, &mut buf).unwrap_err();
        assert!(error.to_string().contains("tensor `a`"), "{error}");
    }
    let mut stranger = tensor.clone();
    stranger.storage = Storage::Plain(Extent { shard: 1, ..tensor.first_extent() });
    checkpoint.bytes(&stranger, 0, 1, &mut buf).unwrap_err();
    stranger.storage = Storage::Plain(Extent { shard: 0, offset: u64::MAX - 1, len: u64::MAX });
    checkpoint.bytes(&stranger, 0, 4, &mut buf).unwrap_err();
}

#[test]
fn a_file_that_grew_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join("model.safetensors"), bytes(&[("a", 3)]));
    let checkpoint = open(&path);
    put(&path, bytes(&[("a", 4)]));
    let error = checkpoint.check_unchanged().unwrap_err();
    assert!(error.kind() == ErrorKind::Changed && error.to_string().contains("model.safetensors"), "{error}");
    assert_eq!(error_class(&error), ErrorClass::Malformed);
}

#[test]
fn a_file_that_shrank_under_positioned_reads_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join("model.safetensors"), bytes(&[("a", 3)]));
    let checkpoint = Checkpoint::open(&path, OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(20).unwrap();
    let error = checkpoint.bytes(&checkpoint.tensors[0], 0, 3, &mut Vec::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Changed, "{error}");
}

#[test]
fn an_indexed_folder_is_read_in_the_order_of_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-00002-of-00002.safetensors"), bytes(&[("a", 3)]));
    put(folder.path().join("model-00001-of-00002.safetensors"), bytes(&[("c", 2), ("b", 1)]));
    let map = [
        ("a", "model-00002-of-00002.safetensors"),
        ("b", "model-00001-of-00002.safetensors"),
        ("c", "model-00001-of-00002.safetensors"),
    ];
    let index = put_index(folder.path().join("model.safetensors.index.json"), &map, 6);
    for path in [folder.path(), index.as_path()] {
        let checkpoint = open(path);
        assert_eq!(checkpoint.format.as_str(), "sharded-safetensors");
        assert_eq!(shards(&checkpoint), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        assert_eq!(names(&checkpoint), ["c", "b", "a"]);
        assert_eq!(checkpoint.tensors[2].first_extent().shard, 1);
        assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
    }
}

#[test]
fn shards_may_lie_in_folders_below() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("part/one.safetensors"), bytes(&[("a", 3)]));
    put_index(folder.path().join("model.safetensors.index.json"), &[("a", "part/one.safetensors")], 3);
    assert_eq!(shards(&open(folder.path())), ["part/one.safetensors"]);
}

#[test]
fn a_complete_set_of_numbered_files_needs_no_index() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=11 {
        let name = format!("model-{number}-of-11.safetensors");
        put(folder.path().join(name), bytes(&[(&format!("t{number}"), number)]));
    }
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.format.as_str(), "sharded-safetensors");
    assert_eq!(names(&checkpoint)[8..], ["t9", "t10", "t11"], "by number, not by spelling");
    assert!(checkpoint.findings.is_empty());

    let alone = open(folder.path().join("model-2-of-11.safetensors"));
    assert_eq!(names(&alone), ["t2"]);
    assert_eq!(codes(&alone), [(Code::ShardMissing, Level::Warning)]);
}

#[test]
fn one_of_one_is_a_single_file() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-00001-of-00001.safetensors"), bytes(&[("a", 3)]));
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.format.to_string(), "safetensors");
    assert!(checkpoint.findings.is_empty());
}

#[test]
fn two_models_in_one_folder_are_not_chosen_between() {
    let set = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let cases: [(&[&str], &[&str]); 2] = [
        (&["a.safetensors", "b.safetensors"], &["`a.safetensors`", "`b.safetensors`"]),
        (&[set[0], set[1], "other-00001-of-00001.safetensors"], &["`other-*-of-1.safetensors`"]),
    ];
    for (files, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            put(folder.path().join(name), bytes(&[(name, 1)]));
        }
        refuse(folder.path(), ErrorClass::Usage, &[&["more than one model", "name one"], parts].concat());
        open(folder.path().join(files[0]));
    }
}

#[test]
fn two_indexes_are_not_chosen_between() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("part.safetensors"), bytes(&[("a", 3)]));
    for index in ["one.safetensors.index.json", "two.safetensors.index.json"] {
        put_index(folder.path().join(index), &[("a", "part.safetensors")], 3);
    }
    refuse(folder.path(), ErrorClass::Usage, &["one.safetensors.index.json", "two.safetensors.index.json"]);
}

#[test]
fn an_extra_shard_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-00001-of-00001.safetensors"), bytes(&[("a", 3)]));
    put(folder.path().join("model-00002-of-00002.safetensors"), bytes(&[("b", 3)]));
    put_index(folder.path().join("model.safetensors.index.json"), &[("a", "model-00001-of-00001.safetensors")], 3);
    let checkpoint = open(folder.path());
    assert_eq!(names(&checkpoint), ["a"]);
    assert_eq!(codes(&checkpoint), [(Code::ShardExtra, Level::Warning)]);
    assert_eq!(checkpoint.findings[0].location.as_deref(), Some("model-00002-of-00002.safetensors"));
}

#[test]
fn mistrals_second_layout_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-00001-of-00001.safetensors"), bytes(&[("a", 3)]));
    put(folder.path().join("consolidated.safetensors"), bytes(&[("b", 3)]));
    let without_index = open(folder.path());
    assert_eq!((names(&without_index), codes(&without_index)), (vec!["a"], vec![(Code::ShardExtra, Level::Warning)]));

    put_index(folder.path().join("model.safetensors.index.json"), &[("a", "model-00001-of-00001.safetensors")], 3);
    put_index(folder.path().join("consolidated.safetensors.index.json"), &[("b", "consolidated.safetensors")], 3);
    let with_index = open(folder.path());
    assert_eq!((names(&with_index), codes(&with_index)), (vec!["a"], vec![(Code::ShardExtra, Level::Warning)]));

    let own = open(folder.path().join("consolidated.safetensors.index.json"));
    assert_eq!(names(&own), ["b"]);
}

#[test]
fn an_index_that_disagrees_with_the_headers_is_told() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("x.safetensors"), bytes(&[("a", 3), ("moved", 1), ("unlisted", 1)]));
    put(folder.path().join("y.safetensors"), bytes(&[("b", 3)]));
    let map = [("a", "x.safetensors"), ("b", "y.safetensors"), ("moved", "y.safetensors"), ("absent", "x.safetensors")];
    put_index(folder.path().join("model.safetensors.index.json"), &map, 99);
    let checkpoint = open(folder.path());
    assert_eq!(names(&checkpoint), ["a", "moved", "unlisted", "b"], "what the headers have is used");
    let found: Vec<_> = checkpoint.findings.iter().map(|f| (f.code, f.level, f.message.as_str())).collect();
    assert_eq!(
        found,
        [
            (Code::IndexMismatch, Level::Error, "tensor `moved` is in `x.safetensors`, the index says `y.safetensors`"),
            (Code::IndexMismatch, Level::Error, "tensor `unlisted` of `x.safetensors` is not in the index"),
            (
                Code::IndexMismatch,
                Level::Error,
                "the index puts tensor `absent` in `x.safetensors`, whose header does not have it"
            ),
            (Code::IndexMismatch, Level::Warning, "the index states 99 bytes of tensors, the headers 8"),
        ]
    );
}

#[test]
fn a_flood_of_disagreements_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<String> = (0..50).map(|i| format!("t{i:02}")).collect();
    let all: Vec<(&str, usize)> = tensors.iter().map(|name| (name.as_str(), 1)).collect();
    put(folder.path().join("x.safetensors"), bytes(&all));
    put_index(folder.path().join("model.safetensors.index.json"), &[("t00", "x.safetensors")], 50);
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.findings.len(), 21);
    assert!(checkpoint.findings[20].message.starts_with("29 more"), "{:?}", checkpoint.findings[20]);
}

/// A cache folder as the hub's client lays it out: blobs, and links to them in a snapshot.
fn cache(folder: &Path, revisions: &[&str]) -> PathBuf {
    let repository = folder.join("models--org--name");
    put(repository.join("blobs/b10b"), bytes(&[("a", 3)]));
    put(repository.join("blobs/c0f1"), r#"{"model_type": "llama"}"#);
    for revision in revisions {
        let snapshot = repository.join("snapshots").join(revision);
        fs::create_dir_all(&snapshot).unwrap();
        symlink("../../blobs/b10b", snapshot.join("model.safetensors")).unwrap();
        symlink("../../blobs/c0f1", snapshot.join("config.json")).unwrap();
    }
    repository
}

#[test]
fn a_snapshot_of_a_cache_is_followed_to_its_blobs() {
    let folder = tempfile::tempdir().unwrap();
    let repository = cache(folder.path(), &["abc"]);
    let snapshot = repository.join("snapshots/abc");
    for path in [&repository, &snapshot, &snapshot.join("model.safetensors")] {
        let checkpoint = open(path);
        assert_eq!(checkpoint.repository.as_deref(), Some("org/name"), "{}", path.display());
        assert_eq!(checkpoint.revision.as_deref(), Some("abc"));
        assert_eq!(checkpoint.root, snapshot);
        assert_eq!(shards(&checkpoint), ["model.safetensors"]);
        assert_eq!(checkpoint.shards[0].location(), fs::canonicalize(repository.join("blobs/b10b")).unwrap());
        assert!(checkpoint.claims.config.is_some());
        assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
    }
}

#[test]
fn a_cache_with_several_snapshots_goes_by_refs_main() {
    let folder = tempfile::tempdir().unwrap();
    let repository = cache(folder.path(), &["abc", "def"]);
    refuse(&repository, ErrorClass::Usage, &["2 snapshots", "`abc`", "`def`", "name one"]);
    put(repository.join("refs/main"), "def\n");
    assert_eq!(open(&repository).revision.as_deref(), Some("def"));
    put(repository.join("refs/main"), "fff");
    refuse(&repository, ErrorClass::Malformed, &["refs/main", "`fff`", "not there"]);
    put(repository.join("refs/main"), "../../elsewhere");
    refuse(&repository, ErrorClass::Malformed, &["refs/main", "elsewhere"]);
}

#[test]
fn a_cache_without_a_snapshot_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("models--org--name/snapshots")).unwrap();
    refuse(folder.path().join("models--org--name"), ErrorClass::Nothing, &["no snapshot"]);
    refuse(folder.path(), ErrorClass::Nothing, &["no snapshot"]);
    fs::create_dir_all(folder.path().join("models--org--other/snapshots")).unwrap();
    refuse(folder.path(), ErrorClass::Usage, &["`models--org--name`", "name one"]);
}

#[test]
fn what_lies_beside_the_weights_is_read() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model.safetensors"), bytes(&[("a", 3)]));
    put(folder.path().join("config.json"), r#"{"hidden_size": 128}"#);
    put(folder.path().join("README.md"), "---\nbase_model: org/base\nlicense: mit\n---\n# card\n");
    put(folder.path().join("tokenizer.json"), r#"{"model":{"vocab":{"a":0,"b":1}}}"#);
    let checkpoint = open(folder.path());
    assert_eq!(checkpoint.claims.config.unwrap()["hidden_size"], 128);
    let card = checkpoint.claims.card.unwrap();
    assert_eq!((card.base_models, card.relation, card.license), (vec!["org/base".into()], None, Some("mit".into())));
    let tokenizer = checkpoint.tokenizer.unwrap();
    assert_eq!((tokenizer.bytes, tokenizer.vocabulary), (33, Some(2)));
    assert_eq!(tokenizer.sha256, "41538a2251761d8e9ea8c8e137fe6edfd8baa57ab45e3a4829b8dc0a1f2be7ed");
}

#[test]
fn files_beside_the_weights_that_were_not_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model.safetensors"), bytes(&[("a", 3)]));
    for name in ["pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth", "m.gguf"]
    {
        put(folder.path().join(name), "x");
    }
    put(folder.path().join("._model.safetensors"), "x");
    let checkpoint = open(folder.path());
    assert_eq!(codes(&checkpoint), [(Code::ShardExtra, Level::Warning), (Code::FileLeftOut, Level::Warning)]);
    for name in ["pytorch_model.bin", "m.gguf", "._model.safetensors"] {
        assert!(checkpoint.findings[0].message.contains(name), "{name}");
    }
    for name in ["optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth"] {
        assert!(checkpoint.findings[1].message.contains(name), "{name}");
    }
}

#[test]
fn metadata_is_kept_with_its_shard() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"__metadata__":{"format":"pt"}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let checkpoint = open(put(folder.path().join("model.safetensors"), file));
    assert_eq!(checkpoint.shards[0].metadata["format"], "pt");
    assert!(checkpoint.tensors.is_empty());
}

#[test]
fn unknown_types_and_empty_tensors_are_kept_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]},"b":{"dtype":"F4","shape":[2],"data_offsets":[4,5]},
        "none":{"dtype":"F32","shape":[3,0],"data_offsets":[5,5]},"w":{"dtype":"F16","shape":[2],"data_offsets":[5,9]}}"#;
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 9]].concat();
    let checkpoint = open(put(folder.path().join("model.safetensors"), file));
    assert_eq!(names(&checkpoint), ["a", "b", "none", "w"]);
    assert_eq!(checkpoint.parameters(), 2);
    assert_eq!(codes(&checkpoint), [(Code::DtypeUnknown, Level::Warning), (Code::EmptyTensor, Level::Note)]);
    assert_eq!(checkpoint.findings[0].message, "element type `F4` of 2 tensors is unknown, the first is `a`");
    assert_eq!(checkpoint.findings[1].message, "1 tensors have no elements: `none`");
}

/// LLaMA-3.1-405B as it is published: 126 layers in 191 shards, bf16. The files are sparse.
#[test]
fn a_405b_is_opened_without_touching_its_weights() {
    let (d, f, kv, vocabulary) = (16_384u64, 53_248u64, 1_024u64, 128_256u64);
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, d])];
    for layer in 0..126 {
        let parts: [(&str, Vec<u64>); 9] = [
            ("self_attn.q_proj", vec![d, d]),
            ("self_attn.k_proj", vec![kv, d]),
            ("self_attn.v_proj", vec![kv, d]),
            ("self_attn.o_proj", vec![d, d]),
            ("mlp.gate_proj", vec![f, d]),
            ("mlp.up_proj", vec![f, d]),
            ("mlp.down_proj", vec![d, f]),
            ("input_layernorm", vec![d]),
            ("post_attention_layernorm", vec![d]),
        ];
        tensors.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
    }
    tensors.push(("model.norm.weight".to_owned(), vec![d]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, d]));

    let folder = tempfile::tempdir().unwrap();
    let mut map = BTreeMap::new();
    for (number, tensors) in tensors.chunks(6).enumerate() {
        // 1,137 tensors by six are 190 shards; the last one is empty, as a shard may be.
        let name = format!("model-{:05}-of-00191.safetensors", number + 1);
        sparse(&folder.path().join(&name), tensors);
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.clone())));
    }
    sparse(&folder.path().join("model-00191-of-00191.safetensors"), &[("spare".to_owned(), vec![0])]);
    map.insert("spare".to_owned(), "model-00191-of-00191.safetensors".to_owned());
    let index = serde_json::json!({"metadata": {"total_size": 811_706_777_600u64}, "weight_map": map});
    put(folder.path().join("model.safetensors.index.json"), index.to_string());

    for mmap in [true, false] {
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
        assert_eq!(checkpoint.shards.len(), 191);
        assert_eq!(checkpoint.tensors.len(), 1_138);
        assert_eq!(checkpoint.parameters(), 405_853_388_800);
        assert_eq!(checkpoint.total_bytes(), 811_706_777_600);
        assert_eq!(codes(&checkpoint), [(Code::EmptyTensor, Level::Note)]);
    }
}

/// A bf16 file whose data is a hole.
fn sparse(path: &Path, tensors: &[(String, Vec<u64>)]) {
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let start = (header.len() as u64).to_le_bytes();
    put(path, [&start[..], &header].concat());
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}

#[test]
fn the_trained_models_of_the_fixtures_open_without_findings() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo");
    let mut opened = 0;
    for entry in fs::read_dir(zoo).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let checkpoint = open(&path);
        assert!(checkpoint.findings.is_empty(), "{}: {:?}", path.display(), checkpoint.findings);
        assert_eq!(2 * checkpoint.parameters(), checkpoint.total_bytes(), "bf16 throughout");
        assert!(checkpoint.claims.config.unwrap()["hidden_size"].is_u64());
        if path.ends_with("a-sft") {
            assert_eq!(checkpoint.claims.card.unwrap().base_models, ["base-a"]);
        }
        opened += 1;
    }
    assert!(opened >= 16, "only {opened} models");
}

#[test]
fn the_digest_of_a_file_is_that_of_all_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join("model.safetensors"), file_of_known_digest());
    for mmap in [true, false] {
        let checkpoint = Checkpoint::open(&path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
        // From coreutils' sha256sum.
        assert_eq!(
            checkpoint.shards[0].sha256().unwrap(),
            "32454c8d874c7deb5fb8c6278b202aa1ebf8aa7ddb469c021ed410f67ed4c3e8"
        );
    }
}

/// Longer than a chunk and no multiple of one: a header, then 2,500,000 bytes `x`.
fn file_of_known_digest() -> Vec<u8> {
    let header = r#"{"x":{"dtype":"U8","shape":[2500000],"data_offsets":[0,2500000]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![b'x'; 2_500_000]].concat()
}
