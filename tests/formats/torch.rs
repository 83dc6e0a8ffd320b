//! Checkpoints that `torch.save` wrote. The files under `fixtures/torch` were made by torch 2.15 itself
//! (`fixtures/torch/make.py`), with their values beside them as safetensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::reports::verdict;
use crate::support::torch::{LEGACY_HEAD, Pickler, legacy, state_pickle, zip, zipped};
use crate::support::{ErrorClass, error_class};
use crate::support::{Raw, load};
use safetensors::tensor::{Dtype, SafeTensors};
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::{Code, Level};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch").join(name)
}

fn open(path: &Path, mmap: bool) -> Checkpoint {
    Checkpoint::open(path, OpenOptions { mmap, ..OpenOptions::default() }).unwrap()
}

/// Name to type, shape and values.
type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<f32>)>;

fn read(checkpoint: &Checkpoint) -> Tensors {
    let tensor = |tensor: &weightprint::internals::tensor::TensorMeta| {
        let (mut out, mut buf) = (vec![f32::NAN; tensor.elements() as usize], Vec::new());
        checkpoint.values(tensor, 0, &mut out, &mut buf).unwrap().expect("a type that is decoded");
        (tensor.name.clone(), (tensor.dtype.to_string(), tensor.shape.clone(), out))
    };
    checkpoint.tensors.iter().map(tensor).collect()
}

/// What the reference implementation reads in the safetensors file of that name.
fn expected(name: &str) -> Tensors {
    let bytes = fs::read(fixture(&format!("{name}.safetensors"))).unwrap();
    SafeTensors::deserialize(&bytes).unwrap();
    read(&open(&fixture(&format!("{name}.safetensors")), true))
}

fn codes(checkpoint: &Checkpoint) -> Vec<(Code, Level)> {
    checkpoint.findings.iter().map(|finding| (finding.code, finding.level)).collect()
}

#[test]
fn every_form_that_torch_writes_reads_as_the_same_tensors() {
    for (file, values) in [
        ("plain.zip.pt", "plain"),
        ("plain.zip.p3.pt", "plain"),
        ("plain.zip.p4.pt", "plain"),
        ("plain.zip.p5.pt", "plain"),
        ("plain.legacy.pt", "plain"),
        ("plain.legacy.p4.pt", "plain"),
        ("dict.zip.pt", "dict"),
        ("dict.legacy.pt", "dict"),
        ("module.zip.pt", "module"),
        ("parameters.zip.pt", "module"),
        ("small.zip.pt", "small"),
    ] {
        for mmap in [true, false] {
            let checkpoint = open(&fixture(file), mmap);
            assert_eq!(read(&checkpoint), expected(values), "{file}");
            assert_eq!(checkpoint.format.as_str(), "torch");
            let wanted = if values == "plain" { vec![(Code::EmptyTensor, Level::Note)] } else { vec![] };
            assert_eq!(codes(&checkpoint), wanted, "{file}");
        }
    }
}

/// To the last bit but one: torch multiplies with scales of 64 bits.
#[test]
fn quantised_tensors_read_as_the_numbers_that_torch_gives_for_them() {
    let wanted = expected("quantised");
    for file in ["quantised.zip.pt", "quantised.legacy.pt"] {
        for mmap in [true, false] {
            let checkpoint = open(&fixture(file), mmap);
            let found = read(&checkpoint);
            assert!(found.keys().eq(wanted.keys()), "{file}");
            for (name, (_, shape, values)) in &wanted {
                let (_, own_shape, own) = &found[name];
                assert_eq!((own_shape, own.len()), (shape, values.len()), "{file}: {name}");
                let is_close = |(own, wanted): (&f32, &f32)| (own - wanted).abs() <= 2.0 * f32::EPSILON * wanted.abs();
                assert!(own.iter().zip(values).all(is_close), "{file}: {name}: {own:?}");
            }
            assert_eq!(codes(&checkpoint), [], "{file}");
        }
    }
}

#[test]
fn windows_on_storages_are_followed() {
    let mut values = expected("windows");
    // One storage under two names is read once; an expanded tensor has one value in many places.
    values.remove("head");
    let expanded = values.remove("expanded").unwrap();
    for file in ["windows.zip.pt", "windows.legacy.pt"] {
        for mmap in [true, false] {
            let mut checkpoint = open(&fixture(file), mmap);
            let position = checkpoint.tensors.iter().position(|tensor| tensor.name == "expanded").unwrap();
            let unread = checkpoint.tensors.remove(position);
            assert_eq!((unread.shape, unread.dtype.is_decoded()), (expanded.1.clone(), false));
            assert_eq!(read(&checkpoint), values, "{file}");
            let told = codes(&checkpoint);
            assert!(told.contains(&(Code::SharedStorage, Level::Note)), "{told:?}");
            assert!(told.contains(&(Code::ValuesNotRead, Level::Warning)), "{told:?}");
        }
    }
}

#[test]
fn a_trainers_checkpoint_gives_the_model_and_names_the_rest() {
    let checkpoint = open(&fixture("trainer.zip.pt"), true);
    assert_eq!(read(&checkpoint), expected("module"));
    assert_eq!(codes(&checkpoint), [(Code::FileLeftOut, Level::Note)]);
    let places: Vec<&str> = checkpoint.unread.iter().map(|unread| unread.place.as_str()).collect();
    assert!(places.contains(&"trainer.zip.pt: optimizer"), "{places:?}");
    assert!(checkpoint.unread.iter().all(|unread| unread.bytes > 0));
    let message = &checkpoint.findings[0].message;
    assert!(message.contains("`optimizer`") && message.contains("`rng_state`"), "{message}");
}

#[test]
fn whole_modules_read_as_their_own_state() {
    let values = expected("whole");
    for (file, level) in [
        ("whole.zip.pt", Level::Warning),
        ("whole.p4.pt", Level::Warning),
        ("whole.legacy.pt", Level::Warning),
        ("whole.trainer.pt", Level::Warning),
        ("script.pt", Level::Note),
        ("traced.pt", Level::Note),
    ] {
        let checkpoint = open(&fixture(file), true);
        assert_eq!(read(&checkpoint), values, "{file}");
        let told = codes(&checkpoint);
        assert_eq!(told[0], (Code::PickleRefused, level), "{file}: {:?}", checkpoint.findings);
        let left_out = if file == "whole.trainer.pt" { &[(Code::FileLeftOut, Level::Note)][..] } else { &[] };
        assert_eq!(&told[1..], left_out, "{file}: {:?}", checkpoint.findings);
    }
    let checkpoint = open(&fixture("whole.zip.pt"), true);
    let message = &checkpoint.findings[0].message;
    assert!(message.contains("`__main__.Outer`") && message.contains("a loader would import"), "{message}");
}

#[test]
fn a_module_in_another_and_buffers_that_are_not_saved() {
    let checkpoint = open(&fixture("whole.parallel.pt"), true);
    let unwrapped: Tensors = read(&checkpoint)
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix("module.").unwrap().to_owned(), tensor))
        .collect();
    assert_eq!(unwrapped, expected("whole"));
    let told = checkpoint.findings.iter().find(|finding| finding.code == Code::FileLeftOut).unwrap();
    assert!(told.message.contains("`module.layers.0.frequencies`"), "{}", told.message);
}

#[test]
fn a_frozen_archive_has_its_weights_among_the_constants() {
    let checkpoint = open(&fixture("frozen.pt"), true);
    let sorted = |tensors: Tensors| {
        let mut values: Vec<String> = tensors.into_values().map(|tensor| format!("{tensor:?}")).collect();
        values.sort();
        values
    };
    assert_eq!(sorted(read(&checkpoint)), sorted(expected("whole")));
    assert_eq!(codes(&checkpoint), [(Code::PickleRefused, Level::Note)]);
}

#[test]
fn training_state_is_left_out_and_named() {
    let checkpoint = open(&fixture("mp_rank_00_model_states.pt"), true);
    assert_eq!(read(&checkpoint), expected("module"));
    assert_eq!(codes(&checkpoint), [(Code::FileLeftOut, Level::Note)]);
    assert!(checkpoint.findings[0].message.contains("`optimizer`"), "{:?}", checkpoint.findings);
    let error = Checkpoint::open(&fixture("optimizer.pt"), OpenOptions::default()).unwrap_err();
    assert!(error_class(&error) == ErrorClass::Nothing && error.to_string().contains("optimizer"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let training = [
        "optimizer.pt",
        "optimizer.bin",
        "optimizer.safetensors",
        "scheduler.pt",
        "scaler.pt",
        "rng_state_0.pth",
        "random_states_0.pkl",
        "training_args.bin",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "mp_rank_00_optim_states.pt",
        "distrib_optim.pt",
    ];
    for name in training {
        fs::copy(fixture("optimizer.pt"), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("__0_0.distcp"), b"PK\x03\x04").unwrap();
    let error = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap_err();
    assert!(error_class(&error) == ErrorClass::Nothing && error.to_string().contains("training state"), "{error}");
    assert!(error.to_string().contains("`__0_0.distcp`"), "{error}");
    for model in ["mp_rank_00_model_states.pt", "pytorch_model.bin", "model.safetensors"] {
        let target = folder.path().join(model);
        let from = if model.ends_with("safetensors") { "module.safetensors" } else { "mp_rank_00_model_states.pt" };
        fs::copy(fixture(from), &target).unwrap();
        let checkpoint = open(folder.path(), true);
        assert_eq!(read(&checkpoint), expected("module"), "{model}");
        let told = |part: &str| checkpoint.findings.iter().any(|finding| finding.message.contains(part));
        assert!(told("training state was left out") && told("`__0_0.distcp`"), "{:?}", checkpoint.findings);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn the_tests_own_writer_gives_torchs_bytes() {
    let bytes = fs::read(fixture("dict.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let layers: Vec<String> = (0..24).map(|i| format!("layers.{i}.norm")).collect();
    let names =
        ["a.weight", "b.weight", "c.weight", "d", "scalar"].into_iter().chain(layers.iter().map(String::as_str));
    let tensors: Vec<Raw> = names
        .map(|name| {
            let view = file.tensor(name).unwrap();
            let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
            Raw { name: name.to_owned(), dtype: view.dtype(), shape, bytes }
        })
        .collect();
    let torchs = fs::read(fixture("dict.zip.pt")).unwrap();
    let pickle = state_pickle(&tensors);
    assert!(torchs.windows(pickle.len()).any(|window| window == pickle));
    assert!(fs::read(fixture("dict.legacy.pt")).unwrap().starts_with(LEGACY_HEAD));
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("zip.pt", zip(&tensors)), ("legacy.pt", legacy(&tensors))] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(&open(&path, true)), expected("dict"), "{name}");
    }
}

fn cast(name: &str, dtype: Dtype) -> Vec<Raw> {
    load(name).iter().map(|tensor| tensor.cast(dtype)).collect()
}

#[test]
fn the_zoo_keeps_its_kinship_in_every_container() {
    type Write = fn(&[Raw]) -> Vec<u8>;
    let (zip, legacy): (Write, Write) = (zip, legacy);
    for (name, dtype, write, class) in [
        ("base-a", Dtype::BF16, zip, "identical"),
        ("base-a", Dtype::F32, legacy, "identical"),
        ("base-a", Dtype::F16, zip, "re-encoded"),
        ("a-sft", Dtype::BF16, legacy, "derived"),
        ("a-sft", Dtype::F16, zip, "derived"),
        ("base-b", Dtype::BF16, zip, "same-architecture"),
        ("base-b", Dtype::F16, legacy, "same-architecture"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("pytorch_model.bin"), write(&cast(name, dtype))).unwrap();
        assert_eq!(verdict(folder.path()), (class.to_owned(), 1.0), "{name} {dtype:?}");
    }
}

#[test]
fn transposed_storages_keep_their_kinship() {
    let base = load("base-a");
    let mut pickler = Pickler::begin();
    pickler.op(b"}");
    pickler.put();
    pickler.op(b"(");
    let mut storages = Vec::new();
    for (key, tensor) in base.iter().enumerate() {
        pickler.text(&tensor.name);
        let key = key.to_string();
        if let [rows, cols] = tensor.shape[..] {
            let step = |at: usize| &tensor.bytes[2 * at..2 * at + 2];
            let turned = (0..rows * cols).flat_map(|at| step(at % rows * cols + at / rows).to_vec()).collect();
            let (rows, cols) = (rows as u64, cols as u64);
            pickler.window(&key, tensor.dtype, rows * cols, 0, &[rows, cols], &[1, rows]);
            storages.push((key, turned));
        } else {
            pickler.tensor(&key, tensor.dtype, &tensor.shape);
            storages.push((key, tensor.bytes.clone()));
        }
    }
    pickler.op(b"u.");
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pytorch_model.bin"), zipped(&pickler.bytes, &storages)).unwrap();
    assert_eq!(verdict(folder.path()), ("identical".to_owned(), 1.0));
}

fn write_shards(folder: &Path, tensors: &[Raw]) {
    let mut weight_map = serde_json::Map::new();
    for shard in 0..3 {
        let file = format!("pytorch_model-{:05}-of-00003.bin", shard + 1);
        let part: Vec<Raw> = tensors.iter().skip(shard).step_by(3).cloned().collect();
        for tensor in &part {
            weight_map.insert(tensor.name.clone(), file.clone().into());
        }
        fs::write(folder.join(file), if shard == 1 { legacy(&part) } else { zip(&part) }).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
    fs::write(folder.join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_one_model_with_an_index_and_without() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &load("a-sft"));
    let index = folder.path().join("pytorch_model.bin.index.json");
    for path in [folder.path(), &index] {
        let checkpoint = open(path, true);
        assert_eq!((checkpoint.format.as_str(), checkpoint.shards.len()), ("sharded-torch", 3));
        assert_eq!(codes(&checkpoint), []);
        assert_eq!(verdict(path), ("derived".to_owned(), 1.0));
    }
    fs::remove_file(&index).unwrap();
    assert_eq!(open(folder.path(), true).tensors.len(), load("a-sft").len());
    fs::remove_file(folder.path().join("pytorch_model-00002-of-00003.bin")).unwrap();
    let error = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("pytorch_model-00002-of-00003.bin"), "{error}");
}

#[test]
fn safetensors_win_over_pickles_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write_shards(folder.path(), &load("base-b"));
    crate::support::write_file(&folder.path().join("model.safetensors"), &load("a-sft"));
    let checkpoint = open(folder.path(), true);
    assert_eq!(checkpoint.format.as_str(), "safetensors");
    assert_eq!(codes(&checkpoint), [(Code::ShardExtra, Level::Warning)]);
    assert!(checkpoint.findings[0].message.contains("pytorch_model-00001-of-00003.bin"));
    assert_eq!(verdict(folder.path()).0, "derived");
}

#[test]
fn a_tied_head_is_read_once_and_the_index_may_name_it() {
    let base = load("base-a");
    let mut pickle = state_pickle(&base[1..]);
    pickle.truncate(pickle.len() - 2);
    let mut pickler = Pickler::after(pickle);
    let embedding = &base[1];
    assert!(embedding.name.contains("embed_tokens"));
    pickler.text("lm_head.weight");
    pickler.tensor("0", embedding.dtype, &embedding.shape);
    pickler.op(b"u.");
    let keys: Vec<String> = (0..base.len()).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> =
        keys.iter().map(String::as_str).zip(base[1..].iter().map(|t| &t.bytes[..])).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = "pytorch_model-00001-of-00001.bin";
    fs::write(folder.path().join(file), zipped(&pickler.bytes, &storages)).unwrap();
    let weight_map: serde_json::Map<_, _> = base.iter().map(|tensor| (tensor.name.clone(), file.into())).collect();
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    let checkpoint = open(folder.path(), true);
    assert_eq!(codes(&checkpoint), [(Code::SharedStorage, Level::Note)]);
    assert_eq!(checkpoint.tensors.len(), base.len() - 1);
}
