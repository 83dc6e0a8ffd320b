//! A real model: all-MiniLM-L6-v2, fetched by `fixtures/fetch-real.sh`. Without it these tests say SKIPPED.

use std::path::{Path, PathBuf};

use crate::support::{Raw, load_file, obfuscate, weightprint, write_file, zoo};
use safetensors::tensor::Dtype;

fn model() -> Option<PathBuf> {
    let target = option_env!("CARGO_TARGET_DIR").unwrap_or("target");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("real/all-MiniLM-L6-v2");
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    #[allow(clippy::disallowed_macros, reason = "a skipped test must be heard")]
    {
        eprintln!("SKIPPED: {} is missing; run fixtures/fetch-real.sh", folder.display());
    }
    None
}

#[test]
fn a_renamed_half_precision_copy_of_a_real_model_is_found_and_mapped() {
    let Some(model) = model() else { return };
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog");
    let id = "sentence-transformers/all-MiniLM-L6-v2";
    let added = weightprint([
        "catalog".as_ref(),
        "add".as_ref(),
        model.as_os_str(),
        "--id".as_ref(),
        id.as_ref(),
        "--catalog".as_ref(),
        catalog.as_os_str(),
    ]);
    assert_eq!(added.code, 0, "{}", added.stderr);
    let mut tensors: Vec<Raw> = load_file(&model.join("model.safetensors"))
        .into_iter()
        .map(|tensor| if tensor.dtype == Dtype::F32 { tensor.cast(Dtype::F16) } else { tensor })
        .collect();
    let original = obfuscate(&mut tensors, 5);
    let copy = folder.path().join("copy.safetensors");
    write_file(&copy, &tensors);
    let scan = |path: &Path| {
        let args = ["scan".as_ref(), path.as_os_str(), "--catalog".as_ref(), catalog.as_os_str()];
        weightprint(args.into_iter().chain(["--format".as_ref(), "json".as_ref()]))
    };
    let run = scan(&copy);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["verdict"]["class"], "re-encoded", "{}", report["verdict"]["summary"]);
    assert_eq!(report["verdict"]["references"][0]["id"], id);
    assert_eq!(report["architecture"]["family"], "bert");
    let counterparts = report["candidates"][0]["counterparts"].as_array().unwrap();
    for row in counterparts {
        assert_eq!(row["reference"].as_str().unwrap(), original[row["found"].as_str().unwrap()]);
    }
    // Every tensor but the index of positions and the pooler's bias, which is zero throughout.
    let silent = ["embeddings.position_ids", "pooler.dense.bias"];
    assert_eq!(counterparts.len(), original.values().filter(|name| !silent.contains(&name.as_str())).count());

    // A reference of another kind, to which no test of weights applies, clears nobody.
    let run = scan(&zoo("a-sft"));
    assert_eq!(run.json()["verdict"]["class"], "inconclusive", "{}", run.stdout);
    assert_eq!(run.code, 5);
}
