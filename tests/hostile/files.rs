//! Files that are broken, cut off or crafted: each is refused with the file, the tensor and the byte it is about, or
//! read with a finding, and none of them panics, hangs or takes memory by the size that it states.

#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::support::{ErrorClass, error_class, prepare};
use weightprint::Error;
use weightprint::ErrorKind;
use weightprint::internals::checkpoint::{Checkpoint, OpenOptions};
use weightprint::internals::finding::{Code, Finding, Level};

const FILE: &str = "model.safetensors";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

fn put(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    path.to_path_buf()
}

/// A file of the length field, `header` and `data` zero bytes.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn good() -> Vec<u8> {
    file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1)
}

fn refuse(path: impl AsRef<Path>, class: ErrorClass, parts: &[&str]) -> Error {
    check(Checkpoint::open(path.as_ref(), OpenOptions::default()).unwrap_err(), class, parts)
}

fn check(error: Error, class: ErrorClass, parts: &[&str]) -> Error {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(error_class(&error), class, "{text}");
    assert!(text.len() < 2000, "{} bytes of message", text.len());
    error
}

/// Opens a lone file of these bytes, which must be refused as malformed with `parts` in the message.
fn malformed(bytes: impl AsRef<[u8]>, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join(FILE), bytes);
    for path in [folder.path().to_path_buf(), folder.path().join(FILE)] {
        refuse(path, ErrorClass::Malformed, &[&[FILE], parts].concat());
    }
}

/// The same for a header text and data, with the byte of the file that the message must name.
fn malformed_at(header: &str, data: usize, offset: usize, parts: &[&str]) {
    malformed(file(header, data), &[&[format!("at byte {offset}").as_str()], parts].concat());
}

/// A header of one entry `t` with the given value.
fn entry(value: &str) -> String {
    format!(r#"{{"t":{value}}}"#)
}

#[test]
fn files_too_short_for_a_header() {
    malformed(b"", &["file ends at byte 0, inside the header length"]);
    malformed([1, 2, 3], &["file ends at byte 3, inside the header length"]);
    malformed([0; 8], &["header: ", "at byte 8"]);
    malformed(100u64.to_le_bytes(), &["header of 100 bytes is longer than the file (8 bytes)"]);
    malformed([&50u64.to_le_bytes()[..], b"{}"].concat(), &["header of 50 bytes is longer than the file (10 bytes)"]);
}

#[test]
fn a_header_over_the_ceiling_is_refused_unread() {
    for length in [100_000_001, u64::MAX, u64::MAX - 7, 1 << 63] {
        let bytes = [&u64::to_le_bytes(length)[..], b"{}"].concat();
        malformed(bytes, &["header length in bytes", &length.to_string(), "over the limit of 100000000"]);
    }
}

#[test]
fn a_header_at_the_ceiling_is_refused_in_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join(FILE), [&100_000_000u64.to_le_bytes()[..], b"{"].concat());
    fs::File::options().write(true).open(&path).unwrap().set_len(100_000_008).unwrap();
    refuse(&path, ErrorClass::Malformed, &[FILE, "header: ", "at byte 9"]);

    let spaces = [&100_000_000u64.to_le_bytes()[..], b"{", &vec![b' '; 99_999_998], b"}"].concat();
    put(&path, spaces);
    assert!(Checkpoint::open(&path, OpenOptions::default()).unwrap().tensors.is_empty());
}

#[test]
fn more_tensors_than_the_ceiling() {
    let mut header = String::from("{");
    for i in 0..=1_000_000 {
        header.push_str(&format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#));
    }
    header.pop();
    header.push('}');
    let folder = tempfile::tempdir().unwrap();
    let path = put(folder.path().join(FILE), file(&header, 0));
    refuse(path, ErrorClass::Malformed, &[FILE, "number of tensors 1000001 is over the limit of 1000000"]);
}

#[test]
fn names_and_metadata_over_their_ceilings() {
    let value = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let long = "x".repeat(1025);
    malformed(file(&format!(r#"{{"{long}":{value}}}"#), 0), &["tensor's name in bytes 1025 is over the limit of 1024"]);
    let dtype = entry(&format!(r#"{{"dtype":"{long}","shape":[0],"data_offsets":[0,0]}}"#));
    malformed(file(&dtype, 0), &["dtype's name in bytes 1025 is over the limit of 1024"]);
    let entries: Vec<String> = (0..100_001).map(|i| format!(r#""{i}":"""#)).collect();
    let header = format!(r#"{{"__metadata__":{{{}}}}}"#, entries.join(","));
    malformed(file(&header, 0), &["`__metadata__` entries 100001 is over the limit of 100000"]);
}

#[test]
fn files_that_are_something_else() {
    malformed("<!DOCTYPE html>\n<html>", &["not a safetensors file", "`<!DOCTYPE html>`"]);
    malformed("\n\n  Entry not found, sorry", &["not a safetensors file", "Entry not found"]);
    malformed([&2u64.to_le_bytes()[..], b"[]"].concat(), &["does not begin with `{`", "at byte 8"]);
    malformed([&4u64.to_le_bytes()[..], b" {} "].concat(), &["does not begin with `{`", "at byte 8"]);
}

#[test]
fn headers_that_are_not_json() {
    malformed_at("{\"a\":x}", 0, 13, &["header: expected value"]);
    malformed_at("{}{}", 0, 10, &["header: trailing characters"]);
    malformed_at("{\n\"a\":\n}", 0, 15, &["header: ", "tensor `a`"]);
    malformed_at("{\"a\"", 0, 11, &["header: EOF"]);
    malformed([&4u64.to_le_bytes()[..], b"{\"\xff\""].concat(), &["not UTF-8", "at byte 10"]);
    malformed([&3u64.to_le_bytes()[..], b"{}\0"].concat(), &["header: trailing characters", "at byte 10"]);
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = "[".repeat(1_000_000);
    malformed(file(&entry(&deep), 0), &["header: ", "tensor `t`"]);
    malformed(file(&entry(&format!(r#"{{"shape":{deep}"#)), 0), &["header: ", "tensor `t`"]);
    malformed(file(&format!(r#"{{"__metadata__":{{"a":{deep}"#), 0), &["header: "]);
    let nested = r#"{"x":"#.repeat(1_000_000);
    malformed(file(&nested, 0), &["header: ", "tensor `x`"]);
}

#[test]
fn anything_stated_twice() {
    let t = r#""t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    malformed_at(&format!("{{{t},{t}}}"), 1, 63, &["stated twice", "tensor `t`"]);
    // The same name, once with an escape.
    let escaped = t.replace("\"t\"", r#""\u0074""#);
    malformed(file(&format!("{{{t},{escaped}}}"), 1), &["stated twice", "tensor `t`"]);
    for key in [r#""dtype":"U8""#, r#""shape":[1]"#, r#""data_offsets":[0,1]"#] {
        let twice = entry(&format!(r#"{{"dtype":"U8","shape":[1],"data_offsets":[0,1],{key}}}"#));
        malformed(file(&twice, 1), &["duplicate field", "tensor `t`", "at byte "]);
    }
    malformed(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), &["`__metadata__` is stated twice"]);
    malformed(file(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), &["`__metadata__` states `k` twice"]);
}

#[test]
fn entries_of_an_unknown_structure() {
    let cases = [
        ("[]", "expected an object with `dtype`"),
        ("null", "expected an object with `dtype`"),
        (r#"["U8",[1],[0,1]]"#, "expected an object with `dtype`"),
        ("{}", "missing field `dtype`"),
        (r#"{"dtype":"U8","shape":[1]}"#, "missing field `data_offsets`"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":1}"#, "unknown field `extra`"),
        (r#"{"dtype":1,"shape":[1],"data_offsets":[0,1]}"#, "expected a string"),
        (r#"{"dtype":"U8","shape":1,"data_offsets":[0,1]}"#, "expected `shape` as an array"),
        (r#"{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}"#, "expected u64"),
        (r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}"#, "expected u64"),
        (r#"{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}"#, "expected u64"),
        (r#"{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}"#, "expected u64"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#, "invalid length 1"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}"#, "header: "),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":{}}"#, "header: "),
        (r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}"#, "more than 8 dimensions"),
    ];
    for (value, part) in cases {
        malformed(file(&entry(value), 1), &[part, "tensor `t`", "at byte "]);
    }
    malformed(file(r#"{"__metadata__":{"k":1}}"#, 0), &["expected a string"]);
    malformed(file(r#"{"__metadata__":[]}"#, 0), &["`__metadata__` as an object of strings"]);
    malformed(file(&entry(&format!("\"{}\"", "y".repeat(1 << 20))), 0), &["invalid type: string", "tensor `t`"]);
}

#[test]
fn sizes_that_contradict_each_other_or_overflow() {
    let cases = [
        ("F32", "[3]", 0, 11, "needs 12 bytes, data_offsets [0, 11] span 11"),
        ("F32", "[3]", 0, 13, "needs 12 bytes, data_offsets [0, 13] span 13"),
        ("U8", "[]", 0, 0, "needs 1 bytes"),
        ("U8", "[3]", 3, 0, "data_offsets [3, 0] run backwards"),
        ("U8", "[4294967296,4294967296]", 0, 0, "overflows 64 bits"),
        ("U8", "[9223372036854775808,2]", 0, 0, "overflows 64 bits"),
        ("F64", "[2305843009213693952]", 0, 0, "number of bytes of shape [2305843009213693952] of F64 overflows"),
        ("X9", "[4294967296,4294967296]", 0, 0, "overflows 64 bits"),
        ("U8", "[18446744073709551615]", 0, u64::MAX, "the tensor is cut off"),
    ];
    for (dtype, shape, from, to, part) in cases {
        let header = entry(&format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#));
        malformed_at(&header, 64, 8 + header.len() + from as usize, &[part, "tensor `t`"]);
    }
}

#[test]
fn a_truncated_file_names_the_first_tensor_that_is_cut_off() {
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"c":{"dtype":"U8","shape":[4],"data_offsets":[8,12]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
    let start = 8 + header.len();
    for (data, cut) in [(11, ("c", 8)), (7, ("b", 4)), (4, ("b", 4)), (0, ("a", 0))] {
        let tensor = format!("tensor `{}`", cut.0);
        malformed_at(header, data, start + cut.1, &[&tensor, &format!("file ends at byte {}", start + data)]);
    }
}

#[test]
fn overlapping_tensors_are_named_both() {
    let pair = |one: &str, other: &str| {
        let entry = |name: &str, offsets: &str| {
            let (from, to) = offsets.split_once(',').unwrap();
            let len = to.parse::<u64>().unwrap() - from.parse::<u64>().unwrap();
            format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{offsets}]}}"#)
        };
        format!("{{{},{}}}", entry("one", one), entry("two", other))
    };
    for (one, other, at) in [("0,4", "3,6", 3), ("0,6", "2,3", 2), ("0,4", "0,4", 0), ("0,6", "3,3", 3)] {
        let header = pair(one, other);
        malformed_at(&header, 6, 8 + header.len() + at, &["overlap", "of tensor `one`", "tensor `two`"]);
    }
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let header = "{\"\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}";
    malformed(file(header, 1), &[r"tensor `\u{1b}[2J`"]);
}

#[test]
fn git_lfs_pointers_are_no_weights() {
    let refuse = |path: &Path, class, parts: &[&str]| check(prepare(path, &[]).unwrap_err(), class, parts);
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join(FILE), POINTER);
    let parts = [FILE, "Git-LFS pointer", "sha256:4d7a2146", "12345 bytes", "not downloaded", "git lfs pull"];
    refuse(folder.path(), ErrorClass::Nothing, &parts);
    refuse(&folder.path().join(FILE), ErrorClass::Nothing, &parts);

    let folder = tempfile::tempdir().unwrap();
    let shard = |number| folder.path().join(format!("model-0000{number}-of-00002.safetensors"));
    put(shard(1), POINTER);
    put(shard(2), POINTER);
    refuse(folder.path(), ErrorClass::Nothing, &["all 2 weight files", "git lfs pull"]);
    put(shard(1), good());
    refuse(folder.path(), ErrorClass::Malformed, &["1 of 2 files are Git-LFS pointers", "model-00002-of-00002"]);

    let index = put(folder.path().join("model.safetensors.index.json"), POINTER);
    refuse(&index, ErrorClass::Nothing, &["the index is a Git-LFS pointer"]);
}

#[test]
fn a_pointer_in_place_of_a_sidecar_is_told() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join(FILE), good());
    put(folder.path().join("tokenizer.json"), POINTER);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.tokenizer, None);
    assert_eq!(checkpoint.findings.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::LfsPointer]);
}

#[test]
fn formats_of_a_later_version_are_nothing_to_scan() {
    let tar = |first: &[u8]| {
        let mut head = first.to_vec();
        head.resize(257, 0);
        [&head[..], b"ustar  \0"].concat()
    };
    let (old, other) = (tar(b"sys_info"), tar(b"./model_config.yaml"));
    let contents: [(&[u8], &str); 12] = [
        (b"\x89HDF\r\n\x1a\n0000", "HDF5"),
        (b"\x93NUMPY\x01\x00v\x00", "NumPy"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"ftrt\0\0\0\0", "TensorRT"),
        (&0x6767_6d6c_u32.to_le_bytes(), "older than GGUF"),
        (&0x6767_6d66_u32.to_le_bytes(), "older than GGUF"),
        (&[0x6767_6a74_u32, 3].map(u32::to_le_bytes).concat(), "older than GGUF"),
        (&0x6767_6c61_u32.to_le_bytes(), "adapter older than GGUF"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0", "zstd"),
        (&old, "before 0.1.10"),
        (&other, "tar archive: unpack"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (content, part) in contents {
        for name in ["weights.bin", FILE] {
            refuse(put(folder.path().join(name), content), ErrorClass::Nothing, &[name, part]);
        }
    }
    for (name, part) in [
        ("flax_model.msgpack", "Flax"),
        ("model.mlmodel", "Core ML"),
        ("saved_model.pb", "TensorFlow graph"),
        ("model.ckpt.data-00000-of-00001", "part of a TensorFlow checkpoint"),
        ("model.ckpt.index", "part of a TensorFlow checkpoint"),
        ("tf_model.h5", "HDF5"),
        ("model.keras", "Keras"),
        ("weights.npz", "NumPy"),
        ("model.tflite", "TensorFlow Lite"),
        ("rank0.engine", "TensorRT"),
        ("model.nemo", "NeMo"),
        ("__0_0.distcp", "part of a distributed checkpoint"),
    ] {
        // Bytes that say nothing, and a pickle: both are known by their names alone.
        refuse(put(folder.path().join(name), b"\x08\x01\x12\x00"), ErrorClass::Nothing, &[name, part]);
        if name.ends_with("distcp") {
            refuse(put(folder.path().join(name), b"PK\x03\x04"), ErrorClass::Nothing, &[name, part]);
        }
        let alone = tempfile::tempdir().unwrap();
        put(alone.path().join(name), "x");
        refuse(alone.path(), ErrorClass::Nothing, &["files in formats that are not read", name]);
    }
    refuse(
        put(folder.path().join("empty.onnx"), "\x08\x07\x12\x07pytorch"),
        ErrorClass::Malformed,
        &["ONNX", "no graph"],
    );

    let folder = tempfile::tempdir().unwrap();
    refuse(
        folder.path(),
        ErrorClass::Nothing,
        &["no weight files (*.safetensors, *.bin, *.pt, *.pth, *.gguf, *.onnx)"],
    );
    put(folder.path().join("optimizer.pt"), "x");
    refuse(folder.path(), ErrorClass::Nothing, &["training state (`optimizer.pt`)"]);
    put(folder.path().join("f.onnx"), "x");
    refuse(folder.path(), ErrorClass::Malformed, &["f.onnx", "ONNX"]);
    fs::remove_file(folder.path().join("f.onnx")).unwrap();
    for name in ["a.bin", "b.pt", "c.pth", "d.ckpt"] {
        put(folder.path().join(name), "x");
    }
    refuse(folder.path(), ErrorClass::Usage, &["more than one model", "`a.bin`, `b.pt`, `c.pth`, `d.ckpt`"]);
}

#[test]
fn a_shard_of_another_format_is_malformed() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-1-of-2.safetensors"), good());
    put(folder.path().join("model-2-of-2.safetensors"), "PK\x03\x04\x00\x00\x08\x08");
    refuse(
        folder.path(),
        ErrorClass::Malformed,
        &["`model-2-of-2.safetensors` is not in the format of `model-1-of-2.safetensors`"],
    );
}

#[test]
fn paths_that_are_not_there_or_not_readable() {
    let folder = tempfile::tempdir().unwrap();
    let error = refuse(folder.path().join("nowhere"), ErrorClass::Malformed, &["nowhere", "cannot open"]);
    assert!(error.kind() == ErrorKind::Io);
    let path = put(folder.path().join(FILE), good());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_err() {
        let error = refuse(&path, ErrorClass::Malformed, &[FILE, "cannot open"]);
        assert!(error.kind() == ErrorKind::Io);
    }
}

#[test]
fn pipes_sockets_devices_and_folders_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let socket = UnixListener::bind(&path).unwrap();
    refuse(&path, ErrorClass::Malformed, &[FILE, "not a regular file"]);
    refuse(folder.path(), ErrorClass::Malformed, &[FILE, "not a regular file"]);
    drop(socket);
    fs::remove_file(&path).unwrap();

    if std::process::Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()) {
        refuse(&path, ErrorClass::Malformed, &[FILE, "not a regular file"]);
        refuse(folder.path(), ErrorClass::Malformed, &[FILE, "not a regular file"]);
        fs::rename(&path, folder.path().join("config.json")).unwrap();
        put(&path, good());
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        assert_eq!(checkpoint.findings[0].code, Code::SidecarUnreadable);
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    refuse(folder.path(), ErrorClass::Malformed, &[FILE, "not a regular file"]);
    let index = folder.path().join("model.safetensors.index.json");
    let socket = UnixListener::bind(&index).unwrap();
    refuse(folder.path(), ErrorClass::Malformed, &["index.json", "not a regular file"]);
    drop(socket);
    refuse("/dev/null", ErrorClass::Malformed, &["not a regular file"]);
}

#[test]
fn links_that_leave_the_folder_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = put(outside.path().join("secret.safetensors"), good());
    let target = fs::canonicalize(target).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join(FILE);
    symlink(&target, &link).unwrap();
    refuse(folder.path(), ErrorClass::Malformed, &[FILE, target.to_str().unwrap(), "outside"]);
    fs::remove_file(&link).unwrap();
    symlink("gone", &link).unwrap();
    refuse(folder.path(), ErrorClass::Malformed, &[FILE, "`gone`, which does not exist"]);
    fs::remove_file(&link).unwrap();
    symlink(FILE, &link).unwrap();
    refuse(folder.path(), ErrorClass::Malformed, &[FILE]);
    fs::remove_file(&link).unwrap();

    put(&link, good());
    symlink(outside.path(), folder.path().join("sub")).unwrap();
    symlink(&target, folder.path().join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    assert_eq!(checkpoint.claims.config, None);
    assert_eq!(checkpoint.findings[0].code, Code::SidecarUnreadable);
    assert!(checkpoint.findings[0].message.contains("outside"));

    fs::remove_file(&link).unwrap();
    let map = r#"{"weight_map":{"a":"sub/secret.safetensors"}}"#;
    put(folder.path().join("model.safetensors.index.json"), map);
    refuse(folder.path(), ErrorClass::Malformed, &["sub/secret.safetensors", "outside"]);
}

#[test]
fn links_of_a_cache_must_stay_in_their_repository() {
    let hub = tempfile::tempdir().unwrap();
    let other = put(hub.path().join("models--org--other/blobs/b10b"), good());
    let repository = hub.path().join("models--org--name");
    let snapshot = repository.join("snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    symlink("../../../models--org--other/blobs/b10b", snapshot.join(FILE)).unwrap();
    refuse(&repository, ErrorClass::Malformed, &[FILE, fs::canonicalize(other).unwrap().to_str().unwrap(), "outside"]);

    fs::remove_file(snapshot.join(FILE)).unwrap();
    put(repository.join("blobs/c0de"), "<!DOCTYPE html>");
    symlink("../../blobs/c0de", snapshot.join(FILE)).unwrap();
    refuse(&repository, ErrorClass::Malformed, &["snapshots/abc/model.safetensors: malformed", "<!DOCTYPE html>"]);

    fs::remove_dir_all(&snapshot).unwrap();
    let stray = hub.path().join("stray");
    put(stray.join(FILE), good());
    symlink(&stray, &snapshot).unwrap();
    refuse(&repository, ErrorClass::Malformed, &["snapshots/abc", "stray", "outside"]);
}

#[test]
fn indexes_that_lead_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["/etc/passwd", "../x", "a/../../x", "./x", "..\\\\x", "C:\\\\x", "C:x", "", "a//b", "x\\u0000"] {
        let text = format!(r#"{{"weight_map":{{"a":"{file}"}}}}"#);
        let index = put(folder.path().join("model.safetensors.index.json"), text);
        refuse(folder.path(), ErrorClass::Malformed, &["index.json", "not a plain path"]);
        refuse(index, ErrorClass::Malformed, &["index.json", "not a plain path"]);
    }
}

#[test]
fn indexes_that_are_malformed() {
    let cases = [
        ("", "EOF"),
        ("[]", "expected an object with `weight_map`"),
        ("{}", "missing field `weight_map`"),
        (r#"{"weight_map":{}}"#, "names no tensor"),
        (r#"{"weight_map":["a"]}"#, "expected `weight_map` as an object"),
        (r#"{"weight_map":{"a":1}}"#, "expected a string"),
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, "states tensor `a` twice"),
        (r#"{"weight_map":{"a":"x"},"weight_map":{"a":"y"}}"#, "stated twice"),
        (r#"{"metadata":{"total_size":"x"},"weight_map":{"a":"x"}}"#, "expected a JSON number"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (text, part) in cases {
        put(folder.path().join("model.safetensors.index.json"), text);
        refuse(folder.path(), ErrorClass::Malformed, &["model.safetensors.index.json", "index of shards", part]);
    }
    let deep = format!(r#"{{"x":{},"weight_map""#, "[".repeat(1_000_000));
    put(folder.path().join("model.safetensors.index.json"), deep);
    refuse(folder.path(), ErrorClass::Malformed, &["at byte "]);
    let names: Vec<String> = (0..10_001).map(|i| format!(r#""{i}":"{i}.safetensors""#)).collect();
    put(folder.path().join("model.safetensors.index.json"), format!(r#"{{"weight_map":{{{}}}}}"#, names.join(",")));
    refuse(folder.path(), ErrorClass::Malformed, &["number of shards 10001 is over the limit of 10000"]);
}

#[test]
fn an_index_of_broken_pickles_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("a.bin"), "PK\x03\x04\x00\x00\x08\x08");
    let index = put(folder.path().join("pytorch_model.bin.index.json"), r#"{"weight_map":{"a":"a.bin"}}"#);
    refuse(index, ErrorClass::Malformed, &["a.bin", "the archive is cut off"]);
}

#[test]
fn missing_shards_are_all_named_up_to_ten() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("s00.safetensors"), good());
    let map: Vec<String> = (0..15).map(|i| format!(r#""t{i}":"s{i:02}.safetensors""#)).collect();
    let index =
        put(folder.path().join("model.safetensors.index.json"), format!(r#"{{"weight_map":{{{}}}}}"#, map.join(",")));
    for path in [folder.path(), &index] {
        let parts = ["14 of 15 shards are missing", "`s01.safetensors`", "`s10.safetensors` and 4 more"];
        refuse(path, ErrorClass::Malformed, &parts);
    }
}

#[test]
fn incomplete_sets_of_numbered_files() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-00002-of-00003.safetensors"), good());
    let parts = ["2 of 3 shards are missing", "`model-00001-of-00003.safetensors`, `model-00003-of-00003.safetensors`"];
    refuse(folder.path(), ErrorClass::Malformed, &parts);
    put(folder.path().join("model-2-of-3.safetensors"), good());
    refuse(folder.path(), ErrorClass::Malformed, &["shard 2 of", "more than once"]);

    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-1-of-999999999.safetensors"), good());
    refuse(folder.path(), ErrorClass::Malformed, &["number of shards 999999999 is over the limit of 10000"]);
}

#[test]
fn one_name_in_two_shards() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-1-of-2.safetensors"), good());
    put(folder.path().join("model-2-of-2.safetensors"), good());
    let at = format!("at byte {}", good().len() - 1);
    let parts = ["`model-1-of-2.safetensors` and in `model-2-of-2.safetensors`", "tensor `a`", &at];
    refuse(folder.path(), ErrorClass::Malformed, &parts);
}

#[test]
fn broken_sidecars_are_told_and_never_fatal() {
    let deep = "[".repeat(100_000);
    let cases = [
        ("config.json", "[]".to_owned()),
        ("config.json", "{".to_owned()),
        ("config.json", format!(r#"{{"a":{deep}"#)),
        ("config.json", format!(r#"{{"a":"{}"}}"#, "x".repeat(4 << 20))),
        ("README.md", "---\nbase_model: [a\n---\n".to_owned()),
        ("README.md", format!("---\n{}---\n", "a: b\n".repeat(20_000))),
        ("README.md", format!("---\na: {deep}\n---\n")),
        ("tokenizer.json", "{".to_owned()),
        ("tokenizer.json", format!(r#"{{"model":{{"vocab":{deep}"#)),
    ];
    for (name, content) in cases {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path().join(FILE), good());
        put(folder.path().join(name), content);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        let unreadable = |finding: &&Finding| finding.code == Code::SidecarUnreadable;
        let told: Vec<&Finding> = checkpoint.findings.iter().filter(unreadable).collect();
        let [finding] = told[..] else { panic!("{name}: {:?}", checkpoint.findings) };
        assert_eq!((finding.code, finding.level), (Code::SidecarUnreadable, Level::Warning));
        assert_eq!(finding.location.as_deref(), Some(name));
        assert!(finding.message.starts_with(name) && finding.message.len() < 1000, "{}", finding.message);
        assert!(checkpoint.claims.config.is_none() && checkpoint.claims.card.is_none());
    }
}

#[test]
fn sidecars_are_read_as_python_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path().join("model-1-of-1.safetensors"), good());
    let index = "\u{feff}{\"metadata\":{\"total_size\":NaN},\"weight_map\":{\"a\":\"model-1-of-1.safetensors\"}}";
    put(folder.path().join("model.safetensors.index.json"), index);
    let config =
        "\u{feff}{\"hidden_size\":8,\"limit\":[0.0,Infinity],\"x\":-Infinity,\"hidden_size\":16,\"n\":\"NaN\"}";
    put(folder.path().join("config.json"), config);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let config = checkpoint.claims.config.unwrap();
    assert_eq!((&config["hidden_size"], &config["n"]), (&16.into(), &"NaN".into()));
    assert!(config["limit"][1].is_null() && config["x"].is_null());
    let codes: Vec<Code> = checkpoint.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::StatedTwice], "{:?}", checkpoint.findings);
}

#[test]
fn a_card_that_cannot_be_read_is_told_from_one_that_is_not_there() {
    for (card, is_unreadable, mentions) in [
        ("---\nbase_model: [a\n---\n", true, 0),
        ("# M\nFine-tuned from [org/base-a](https://hf.co/org/base-a).\n", false, 2),
        ("---\nlicense: mit\n---\nNothing of an origin in x/A.\n", false, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path().join(FILE), good());
        put(folder.path().join("README.md"), card);
        let claims = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap().claims;
        assert_eq!((claims.card_unreadable, claims.mentions.len()), (is_unreadable, mentions), "{card}");
    }
}
