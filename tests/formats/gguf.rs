//! GGUF as llama.cpp writes it: the zoo's models in it keep their kinship and their labels.

use std::path::{Path, PathBuf};

use crate::support::gguf::{Gguf, Kind, Meta, from_llama};
use crate::support::reports::{class, report, say, test};
use crate::support::{Raw, load, weightprint, zoo};
use candle_core::quantized::GgmlDType;
use serde_json::Value;
use weightprint::internals::anatomy;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::Code;

/// Heads of the zoo's models.
const HEADS: (usize, usize) = (4, 2);

fn written(folder: &tempfile::TempDir, gguf: &Gguf) -> PathBuf {
    let path = folder.path().join("model.gguf");
    gguf.write(&path);
    path
}

const KINDS: [(&str, Kind); 12] = [
    ("F32", Kind::F32),
    ("F16", Kind::F16),
    ("BF16", Kind::Bf16),
    ("Q8_0", Kind::Quantised(GgmlDType::Q8_0)),
    ("Q6_K", Kind::Quantised(GgmlDType::Q6K)),
    ("Q5_K", Kind::Quantised(GgmlDType::Q5K)),
    ("Q4_K", Kind::Quantised(GgmlDType::Q4K)),
    ("Q5_1", Kind::Quantised(GgmlDType::Q5_1)),
    ("Q4_0", Kind::Quantised(GgmlDType::Q4_0)),
    ("Q4_1", Kind::Quantised(GgmlDType::Q4_1)),
    ("IQ4_NL", Kind::Iq4Nl),
    ("Q3_K", Kind::Quantised(GgmlDType::Q3K)),
];

#[test]
fn the_zoo_in_every_type_keeps_its_kinship_and_labels() {
    let (base, tuned) = (load("base-a"), load("a-sft"));
    for (name, kind) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, &from_llama(&base, HEADS, kind));
        let copy = report(&path, &zoo("base-a"));
        let other = report(&path, &zoo("base-b"));
        let derived = report(&written(&folder, &from_llama(&tuned, HEADS, kind)), &zoo("base-a"));
        say(&format!(
            "{name}: copy {} ({}), other {}, derived {} ({})",
            class(&copy),
            test(&copy, "bits")["says"],
            class(&other),
            class(&derived),
            test(&derived, "bits")["says"],
        ));
        let expected = if matches!(kind, Kind::F32 | Kind::Bf16) { "identical" } else { "re-encoded" };
        assert_eq!(class(&copy), expected, "{name}: {}", copy["verdict"]["summary"]);
        assert_eq!(class(&other), "same-architecture", "{name}: {}", other["verdict"]["summary"]);
        assert_eq!(class(&derived), "derived", "{name}: {}", derived["verdict"]["summary"]);
        for found in [&copy, &derived] {
            assert_eq!(found["subject"]["format"], "gguf");
            assert_eq!(found["subject"]["coverage"], 1.0, "{name}");
            for code in ["neuron-labels", "head-labels"] {
                let test = test(found, code);
                assert!(test["effect"].as_f64().unwrap() > 0.9, "{name}: {test}");
            }
        }
        // Every tensor, query and key among them, lies on its own counterpart.
        let pairs = copy["candidates"][0]["counterparts"].as_array().cloned().unwrap_or_default();
        for pair in &pairs {
            let theirs = crate::support::gguf::name(pair["reference"].as_str().unwrap());
            assert_eq!(pair["found"], theirs, "{name}");
        }
        assert_eq!(pairs.len(), base.len(), "{name}");
    }
}

/// What `general.architecture` and its keys call the model.
fn called(gguf: &Gguf, name: &str) -> Gguf {
    let renamed = |(key, value): &(String, Meta)| match key.strip_prefix("llama.") {
        Some(key) => (format!("{name}.{key}"), value.clone()),
        None if key == "general.architecture" => (key.clone(), Meta::Text(name.to_owned())),
        None => (key.clone(), value.clone()),
    };
    Gguf { meta: gguf.meta.iter().map(renamed).collect(), ..gguf.clone() }
}

/// Every tensor of the file has the values of its counterpart; returns the names of those that do not.
fn differing(path: &Path, plain: &[Raw]) -> Vec<String> {
    let checkpoint = Checkpoint::open(path, OpenOptions::default()).unwrap();
    let other = |raw: &&Raw| {
        let name = crate::support::gguf::name(&raw.name);
        let tensor = checkpoint.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let (mut out, mut buf) = (vec![f32::NAN; tensor.elements() as usize], Vec::new());
        checkpoint.values(tensor, 0, &mut out, &mut buf).unwrap().unwrap();
        out != raw.values()
    };
    plain.iter().filter(other).map(|raw| raw.name.clone()).collect()
}

/// The names are llama.cpp's own, from its `conversion/*.py`; rows are written as those classes write them.
#[test]
fn rows_are_put_back_for_every_architecture_that_permutes_them_and_for_no_other() {
    let base = load("base-a");
    let permuted = from_llama(&base, HEADS, Kind::F32);
    let mut kept = permuted.clone();
    for (tensor, raw) in kept.tensors.iter_mut().zip(&base) {
        tensor.bytes = raw.cast(safetensors::tensor::Dtype::F32).bytes;
    }
    let folder = tempfile::tempdir().unwrap();
    let permuting = "llama arcee arctic baichuan bailingmoe chameleon deci deepseek eagle3 granite granitehybrid \
        granitemoe internlm2 llada llama-embed minicpm mistral3 nanbeige olmo smollm3 xverse";
    for name in permuting.split_whitespace() {
        assert_eq!(differing(&written(&folder, &called(&permuted, name)), &base), [""; 0], "{name}");
        let wrong = differing(&written(&folder, &called(&kept, name)), &base);
        assert_eq!(wrong.len(), 8, "{name}: query and key of four layers would be torn apart");
    }
    let keeping = "afmoe apertus bailingmoe2 command-r deepseek2 ernie4_5 exaone exaone4 falcon gemma2 gemma3 glm4 llama4 \
        llada-moe minicpm3 olmo2 olmoe orion phi3 qwen2 qwen3 qwen3moe seed_oss stablelm";
    for name in keeping.split_whitespace() {
        assert_eq!(differing(&written(&folder, &called(&kept, name)), &base), [""; 0], "{name}");
    }
    // Labels follow.
    let tuned = called(&from_llama(&load("a-sft"), HEADS, Kind::F16), "granite");
    let found = report(&written(&folder, &tuned), &zoo("base-a"));
    assert_eq!(class(&found), "derived", "{}", found["verdict"]["summary"]);
    assert!(test(&found, "head-labels")["effect"].as_f64().unwrap() > 0.9, "{}", test(&found, "head-labels"));
}

#[test]
fn heads_may_differ_from_layer_to_layer() {
    let base = load("base-a");
    let mut gguf = called(&from_llama(&base, HEADS, Kind::F32), "deci");
    let array = |numbers: [u32; 4]| {
        let mut bytes = 5u32.to_le_bytes().to_vec();
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
        Meta::Raw(9, bytes)
    };
    // Layer 2 has as many heads of keys as of queries: rows of half the size each.
    for (key, value) in &mut gguf.meta {
        match key.as_str() {
            "deci.attention.head_count" => *value = array([4; 4]),
            "deci.attention.head_count_kv" => *value = array([2, 2, 4, 2]),
            _ => {}
        }
    }
    let key = base.iter().find(|raw| raw.name == "model.layers.2.self_attn.k_proj.weight").unwrap();
    let stored = gguf.tensors.iter_mut().find(|tensor| tensor.name == "blk.2.attn_k.weight").unwrap();
    stored.bytes = crate::support::gguf::paired(&key.values(), 128, 4).iter().flat_map(|v| v.to_le_bytes()).collect();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(differing(&written(&folder, &gguf), &base), [""; 0]);
    // A layer without heads cannot be put back, and that is told.
    for (key, value) in &mut gguf.meta {
        if key == "deci.attention.head_count_kv" {
            *value = array([2, 2, 0, 2]);
        }
    }
    let path = written(&folder, &gguf);
    assert_eq!(differing(&path, &base), ["model.layers.2.self_attn.k_proj.weight"]);
    let findings = Checkpoint::open(&path, OpenOptions::default()).unwrap().findings;
    assert!(findings.iter().any(|finding| finding.message.contains("1 tensors of query and key")), "{findings:?}");
}

/// The parts of a split model, as llama.cpp's `gguf-split` has them: metadata in the first, counts in all.
fn split(whole: &Gguf, parts: u16) -> Vec<Gguf> {
    let count = whole.tensors.len();
    let part = |index: u16| {
        let mut meta = if index == 0 { whole.meta.clone() } else { Vec::new() };
        meta.push(("split.no".into(), Meta::Raw(2, index.to_le_bytes().to_vec())));
        meta.push(("split.count".into(), Meta::Raw(2, parts.to_le_bytes().to_vec())));
        meta.push(("split.tensors.count".into(), Meta::Raw(5, (count as i32).to_le_bytes().to_vec())));
        let range = count * index as usize / parts as usize..count * (index as usize + 1) / parts as usize;
        Gguf { meta, tensors: whole.tensors[range].to_vec(), ..whole.clone() }
    };
    (0..parts).map(part).collect()
}

fn write_split(folder: &Path, parts: &[Gguf]) -> Vec<PathBuf> {
    let name = |index: usize| folder.join(format!("zoo-{:05}-of-{:05}.gguf", index + 1, parts.len()));
    parts.iter().enumerate().for_each(|(index, part)| part.write(&name(index)));
    (0..parts.len()).map(name).collect()
}

#[test]
fn a_split_model_is_read_whole_by_folder_and_by_its_first_file() {
    let folder = tempfile::tempdir().unwrap();
    let parts = split(&from_llama(&load("base-a"), HEADS, Kind::F32), 3);
    let paths = write_split(folder.path(), &parts);
    for path in [folder.path(), &paths[0], &paths[2]] {
        let found = report(path, &zoo("base-a"));
        assert_eq!(class(&found), "identical", "{}: {}", path.display(), found["verdict"]["summary"]);
        assert_eq!(found["subject"]["format"], "sharded-gguf");
        assert_eq!(found["subject"]["files"].as_array().unwrap().len(), 3);
    }
    let refused = |expected: &str| {
        let run = weightprint(["inspect".as_ref(), folder.path().as_os_str()]);
        assert_eq!(run.code, 3);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    };
    parts[0].write(&paths[1]);
    refused("the tensor is in");
    parts[2].write(&paths[1]);
    parts[1].write(&paths[2]);
    refused("split.no");
    std::fs::remove_file(&paths[1]).unwrap();
    refused("1 of 3 shards are missing");
    let alone = folder.path().join("renamed.gguf");
    parts[0].write(&alone);
    let run = weightprint(["inspect".as_ref(), alone.as_os_str()]);
    assert!(run.code == 3 && run.stderr.contains("split.count"), "{}", run.stderr);
}

#[test]
fn metadata_declare_the_origin_and_name_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = from_llama(&load("a-sft"), HEADS, Kind::Quantised(GgmlDType::Q8_0));
    let mut push = |key: &str, value: Meta| gguf.meta.push((key.to_owned(), value));
    push("general.name", Meta::Text("Wrapped 7B".into()));
    push("general.license", Meta::Text("apache-2.0".into()));
    push("general.base_model.count", Meta::U32(2));
    push("general.base_model.0.name", Meta::Text("Base A".into()));
    push("general.base_model.0.organization", Meta::Text("Zoo".into()));
    push("general.base_model.0.repo_url", Meta::Text("https://huggingface.co/zoo/base-a".into()));
    push("general.base_model.1.name", Meta::Text("Other One".into()));
    push("general.base_model.1.organization", Meta::Text("Else".into()));
    let texts: Vec<String> = (0..1024).map(|id| format!("\u{120}w{id}")).collect();
    push("tokenizer.ggml.tokens", Meta::Texts(texts));
    // The frequencies of the rotary embedding, which follow from a formula.
    let freqs: Vec<u8> = (0..16).flat_map(|i| (1.0 + i as f32 / 7.0).to_le_bytes()).collect();
    gguf.tensors.push(crate::support::gguf::Stored {
        name: "rope_freqs.weight".into(),
        shape: vec![16],
        kind: 0,
        bytes: freqs,
    });
    let path = written(&folder, &gguf);
    let found = report(&path, &zoo("base-a"));
    assert_eq!(class(&found), "derived");
    assert_eq!(found["declared"]["base_models"], serde_json::json!(["zoo/base-a", "Else/Other-One"]));
    assert_eq!(found["declared"]["license"], "apache-2.0");
    // Stretched rotary frequencies are no evidence, and follow no formula that would clear them.
    assert_eq!(found["subject"]["untested"].as_array().unwrap().len(), 1);
    assert!(found["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == "formula-tensor"));
    let run = weightprint(["inspect".as_ref(), path.as_os_str(), "--format".as_ref(), "json".as_ref()]);
    let inspected = run.json();
    assert_eq!(inspected["anatomy"]["naming"]["scheme"], "gguf");
    assert_eq!(inspected["anatomy"]["architecture"]["heads"], 4);
    assert_eq!(inspected["anatomy"]["architecture"]["kv_heads"], 2);
    // Anchors are found by the text of their tokens.
    let print = folder.path().join("print");
    let run = weightprint(["fingerprint".as_ref(), path.as_os_str(), "-o".as_ref(), print.as_os_str()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let bytes = std::fs::read(&print).unwrap();
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 16)]).into_owned();
    assert!(head.contains(r#"\"text\":\" w"#), "anchors have the text of the file's tokens");
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = from_llama(&load("base-a"), HEADS, Kind::F16);
    let stated = gguf.meta.iter_mut().find(|(key, _)| key == "llama.feed_forward_length").unwrap();
    stated.1 = Meta::U32(999);
    let run =
        weightprint(["inspect".as_ref(), written(&folder, &gguf).as_os_str(), "--format".as_ref(), "json".as_ref()]);
    let findings = run.json()["findings"].as_array().unwrap().clone();
    let told =
        |finding: &Value| finding["message"].as_str().unwrap().contains("the metadata states intermediate_size 999");
    assert!(findings.iter().any(told), "{findings:?}");
}

#[test]
fn of_two_precisions_the_larger_is_read_and_two_models_are_not_chosen_between() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = from_llama(&load("base-a"), HEADS, Kind::F16);
    gguf.write(&folder.path().join("model-Q4_K_M.gguf"));
    gguf.write(&folder.path().join("mmproj-model-f16.gguf"));
    let inspect = || weightprint(["inspect".as_ref(), folder.path().as_os_str()]);
    assert_eq!(inspect().code, 0, "a tower is not another model: {}", inspect().stderr);
    from_llama(&load("base-a"), HEADS, Kind::F32).write(&folder.path().join("model-f32.gguf"));
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.shards[0].name, "model-f32.gguf");
    let codes: Vec<Code> = checkpoint.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::ModelChosen, Code::ShardExtra]);
    assert_eq!(checkpoint.unread.len(), 2, "the smaller one and the tower: {:?}", checkpoint.unread);
    let mut other = load("base-a");
    other.retain(|tensor| !tensor.name.contains("layers.3."));
    from_llama(&other, HEADS, Kind::F16).write(&folder.path().join("other.gguf"));
    let run = inspect();
    assert!(run.code == 2 && run.stderr.contains("more than one model"), "{}", run.stderr);
}

/// The real SmolLM2 as it was published, where `fixtures/fetch-real.sh` put it.
fn smollm2(name: &str) -> Option<PathBuf> {
    let target = option_env!("CARGO_TARGET_DIR").unwrap_or("target");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("real").join(name);
    if path.exists() {
        return Some(path);
    }
    say(&format!("SKIPPED: {} is missing; run fixtures/fetch-real.sh", path.display()));
    None
}

#[test]
fn a_real_file_is_recognised_and_its_conversion_is_re_encoded() {
    let Some(file) = smollm2("SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let Some(folder) = smollm2("SmolLM2-135M-Instruct") else { return };
    let run = weightprint(["inspect".as_ref(), file.as_os_str(), "--format".as_ref(), "json".as_ref()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let named = run.json();
    assert_eq!(named["anatomy"]["by"], "names");
    assert_eq!(named["anatomy"]["architecture"]["family"], "llama");
    assert_eq!(named["anatomy"]["architecture"]["heads"], 9);
    assert!(named["nearest"][0]["group"].as_array().unwrap().contains(&"HuggingFaceTB/SmolLM2-135M".into()));
    let mut tensors = Checkpoint::open(&file, OpenOptions::default()).unwrap().tensors;
    for (index, tensor) in tensors.iter_mut().enumerate() {
        tensor.name = format!("t{index:03}");
    }
    let nameless = anatomy::dissect(&tensors, anatomy::Hints::default());
    assert_eq!(nameless.architecture.family, weightprint::internals::model::Family::Llama);
    assert_eq!((nameless.architecture.layers, nameless.architecture.hidden_size), (30, 576));
    let found = report(&folder, &file);
    say(&format!("conversion against the file: {} ({})", class(&found), test(&found, "bits")["says"]));
    assert_eq!(class(&found), "re-encoded", "{}", found["verdict"]["summary"]);
    let found = report(&file, &folder);
    say(&format!("file against the conversion: {} ({})", class(&found), test(&found, "bits")["says"]));
    assert_eq!(class(&found), "re-encoded", "{}", found["verdict"]["summary"]);
    assert_eq!(found["subject"]["coverage"], 1.0);
}
