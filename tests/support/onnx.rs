//! Writes ONNX files as exporters would: protobuf by hand, with the names and the orientation that each of them gives.

use std::path::Path;

use safetensors::tensor::Dtype;

use super::Raw;

pub fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field that is a number.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3);
    varint(&mut out, value);
    out
}

/// A field with a length.
pub fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, field << 3 | 2);
    varint(&mut out, value.as_ref().len() as u64);
    out.extend_from_slice(value.as_ref());
    out
}

/// A key and a value.
pub fn entry(field: u64, key: &str, value: &str) -> Vec<u8> {
    bytes(field, [bytes(1, key), bytes(2, value)].concat())
}

pub fn kind(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::F32 => 1,
        Dtype::U8 => 2,
        Dtype::I8 => 3,
        Dtype::I64 => 7,
        Dtype::F16 => 10,
        Dtype::F64 => 11,
        Dtype::BF16 => 16,
        other => panic!("{other:?} in a fixture"),
    }
}

/// The head of a tensor: name, sizes, type.
pub fn head(name: &str, shape: &[usize], kind: u64) -> Vec<u8> {
    let mut out: Vec<u8> = shape.iter().flat_map(|size| number(1, *size as u64)).collect();
    out.extend(number(2, kind));
    out.extend(bytes(8, name));
    out
}

/// A tensor with its values inside.
pub fn raw(tensor: &Raw) -> Vec<u8> {
    [head(&tensor.name, &tensor.shape, kind(tensor.dtype)), bytes(9, &tensor.bytes)].concat()
}

/// A tensor with its values in another file.
pub fn external(tensor: &Raw, location: &str, offset: u64) -> Vec<u8> {
    let mut out = head(&tensor.name, &tensor.shape, kind(tensor.dtype));
    out.extend(entry(13, "location", location));
    out.extend(entry(13, "offset", &offset.to_string()));
    out.extend(entry(13, "length", &tensor.bytes.len().to_string()));
    out.extend(number(14, 1));
    out
}

pub fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|input| bytes(1, input)).collect();
    out.extend(bytes(2, output));
    out.extend(bytes(3, name));
    out.extend(bytes(4, op));
    out
}

/// A model of these nodes and tensors.
pub fn model(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut graph: Vec<u8> = nodes.iter().flat_map(|node| bytes(1, node)).collect();
    graph.extend(bytes(2, "main_graph"));
    graph.extend(tensors.iter().flat_map(|tensor| bytes(5, tensor)));
    let mut out = number(1, 8);
    out.extend(bytes(2, "pytorch"));
    out.extend(bytes(3, "2.15.0"));
    out.extend(bytes(7, graph));
    out.extend(bytes(8, number(2, 17)));
    out
}

/// A matrix by (in, out).
pub fn transposed(tensor: &Raw) -> Raw {
    let [rows, cols] = tensor.shape[..] else { panic!("{} is no matrix", tensor.name) };
    let width = tensor.bytes.len() / (rows * cols);
    let at = |row: usize, col: usize| &tensor.bytes[(row * cols + col) * width..][..width];
    let bytes = (0..cols).flat_map(|col| (0..rows).flat_map(move |row| at(row, col).to_vec())).collect();
    Raw { shape: vec![cols, rows], bytes, ..tensor.clone() }
}

pub fn is_linear(tensor: &Raw) -> bool {
    tensor.shape.len() == 2 && !tensor.name.contains("embed_tokens")
}

/// How an exporter writes a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Names as in PyTorch, matrices as they are.
    Plain,
    /// Transposed matrices without names, whose nodes are called by their modules.
    Scoped,
    /// The same, with the modules in a property of the nodes.
    Properties,
    /// Transposed matrices without names, and nodes that say nothing.
    Anonymous,
    /// As ONNX Runtime's model builder has it.
    Built,
}

/// Nodes and tensors of a LLaMA of the zoo.
pub fn parts(tensors: &[Raw], form: Form) -> (Vec<Vec<u8>>, Vec<Raw>) {
    let layers = tensors.iter().filter(|tensor| tensor.name.ends_with("input_layernorm.weight")).count();
    let (mut nodes, mut stored) = (Vec::new(), Vec::new());
    for (at, tensor) in tensors.iter().enumerate() {
        let module = tensor.name.strip_suffix(".weight").unwrap();
        let path = module.replace('.', "/").replace("layers/", "layers.");
        let output = format!("/{path}/output_0");
        if form == Form::Plain {
            if is_linear(tensor) {
                let turned = format!("t{at}");
                nodes.push(node("Transpose", &format!("n{at}"), &[&tensor.name], &turned));
                nodes.push(node("MatMul", &format!("m{at}"), &["x", &turned], &output));
            }
            stored.push(tensor.clone());
            continue;
        }
        let anonymous = format!("onnx::MatMul_{}", 1000 + at);
        let (name, product) = match form {
            Form::Scoped => (anonymous, format!("/{path}/MatMul")),
            Form::Properties => (format!("val_{at}"), format!("node_linear_{at}")),
            Form::Anonymous => (anonymous, format!("MatMul_{at}")),
            _ => {
                let path = path.replace("self_attn", "attn");
                (format!("{}.MatMul.weight", path.replace('/', ".")), format!("/{path}/MatMul"))
            }
        };
        if is_linear(tensor) {
            let mut product = node("MatMul", &product, &["x", &name], &output);
            if form == Form::Properties {
                let scopes = format!("['', 'model', '{module}', 'linear_{at}']");
                product.extend(entry(9, "namespace", "ignored"));
                product.extend(entry(9, "pkg.torch.onnx.name_scopes", &scopes));
            }
            nodes.push(product);
            stored.push(Raw { name, ..transposed(tensor) });
        } else {
            let name = match form {
                Form::Anonymous => format!("onnx::Mul_{at}"),
                Form::Built if tensor.name == "model.norm.weight" => {
                    format!("model.layers.{layers}.final_norm_layernorm.weight")
                }
                _ => tensor.name.clone(),
            };
            let op = if tensor.shape.len() == 2 { "Gather" } else { "Mul" };
            nodes.push(node(op, &format!("/{path}/{op}"), &[&name, "x"], &output));
            stored.push(Raw { name, ..tensor.clone() });
        }
    }
    (nodes, stored)
}

/// Writes one file with everything in it.
pub fn write(path: &Path, tensors: &[Raw], form: Form) {
    let (nodes, stored) = parts(tensors, form);
    let stored: Vec<Vec<u8>> = stored.iter().map(raw).collect();
    std::fs::write(path, model(&nodes, &stored)).unwrap();
}

/// Writes `model.onnx` and its values in `files` other files, each value at a multiple of 64 bytes.
pub fn write_external(folder: &Path, tensors: &[Raw], form: Form, files: &[&str]) {
    let (nodes, stored) = parts(tensors, form);
    let mut data = vec![Vec::new(); files.len()];
    let place = |(at, tensor): (usize, &Raw)| {
        let data: &mut Vec<u8> = &mut data[at % files.len()];
        data.resize(data.len().next_multiple_of(64), 0);
        let offset = data.len() as u64;
        data.extend_from_slice(&tensor.bytes);
        external(tensor, files[at % files.len()], offset)
    };
    let stored: Vec<Vec<u8>> = stored.iter().enumerate().map(place).collect();
    std::fs::write(folder.join("model.onnx"), model(&nodes, &stored)).unwrap();
    for (file, data) in files.iter().zip(data) {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
}
