//! Checkpoints as `torch.save` writes them, made without torch. The pickle is held to torch's own, byte for byte, by a
//! test in `tests/torch.rs`.

use std::collections::HashMap;

use safetensors::tensor::Dtype;

use super::Raw;

/// Writes pickles of protocol 2 with the memo used as Python's own pickler does.
#[derive(Default)]
pub struct Pickler {
    pub bytes: Vec<u8>,
    memo: HashMap<String, u32>,
    kept: u32,
}

impl Pickler {
    pub fn begin() -> Self {
        Self { bytes: b"\x80\x02".to_vec(), ..Self::default() }
    }

    /// Goes on after bytes that were written otherwise.
    pub fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub fn op(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn put(&mut self) {
        let index = self.kept;
        self.kept += 1;
        match u8::try_from(index) {
            Ok(index) => self.op(&[b'q', index]),
            Err(_) => self.op(&[&b"r"[..], &index.to_le_bytes()].concat()),
        }
    }

    /// The bytes the first time, later a reference to them.
    fn once(&mut self, key: &str, bytes: &[u8]) {
        if let Some(index) = self.memo.get(key).copied() {
            return match u8::try_from(index) {
                Ok(index) => self.op(&[b'h', index]),
                Err(_) => self.op(&[&b"j"[..], &index.to_le_bytes()].concat()),
            };
        }
        self.op(bytes);
        self.memo.insert(key.to_owned(), self.kept);
        self.put();
    }

    pub fn text(&mut self, text: &str) {
        let bytes = [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        self.once(text, &bytes);
    }

    pub fn global(&mut self, module: &str, name: &str) {
        self.once(&format!("{module} {name}"), format!("c{module}\n{name}\n").as_bytes());
    }

    pub fn number(&mut self, number: u64) {
        match number {
            0..=0xff => self.op(&[b'K', number as u8]),
            0x100..=0xffff => self.op(&[&b"M"[..], &(number as u16).to_le_bytes()].concat()),
            _ => self.op(&[&b"J"[..], &(number as i32).to_le_bytes()].concat()),
        }
    }

    fn numbers(&mut self, numbers: &[u64]) {
        if numbers.len() > 3 {
            self.op(b"(");
        }
        numbers.iter().for_each(|number| self.number(*number));
        match numbers.len() {
            0 => return self.op(b")"),
            few @ 1..=3 => self.op(&[0x84 + few as u8]),
            _ => self.op(b"t"),
        }
        self.put();
    }

    /// A tensor that fills the storage `key`.
    pub fn tensor(&mut self, key: &str, dtype: Dtype, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let size: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        let mut stride = vec![1u64; shape.len()];
        for at in (1..shape.len()).rev() {
            stride[at - 1] = stride[at] * size[at].max(1);
        }
        self.window(key, dtype, count as u64, 0, &size, &stride);
    }

    /// A tensor as a window on the storage `key`.
    pub fn window(&mut self, key: &str, dtype: Dtype, count: u64, offset: u64, size: &[u64], stride: &[u64]) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.op(b"((");
        self.text("storage");
        self.global("torch", storage_class(dtype));
        self.text(key);
        self.text("cpu");
        self.number(count);
        self.op(b"t");
        self.put();
        self.op(b"Q");
        self.number(offset);
        self.numbers(size);
        self.numbers(stride);
        self.op(b"\x89");
        self.global("collections", "OrderedDict");
        self.op(b")R");
        self.put();
        self.op(b"t");
        self.put();
        self.op(b"R");
        self.put();
    }
}

fn storage_class(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::F64 => "DoubleStorage",
        Dtype::I64 => "LongStorage",
        Dtype::U8 => "ByteStorage",
        other => panic!("{other:?} in a fixture"),
    }
}

/// What `pickle.dumps` gives for a dictionary of these tensors, each with a storage of its own: 0, 1, ….
pub fn state_pickle(tensors: &[Raw]) -> Vec<u8> {
    let mut pickler = Pickler::begin();
    pickler.op(b"}");
    pickler.put();
    let mut keys = 0..;
    for batch in tensors.chunks(1000) {
        pickler.op(b"(");
        for tensor in batch {
            pickler.text(&tensor.name);
            let key: usize = keys.next().unwrap();
            pickler.tensor(&key.to_string(), tensor.dtype, &tensor.shape);
        }
        pickler.op(b"u");
    }
    pickler.op(b".");
    pickler.bytes
}

/// A zip archive of members stored as they are, each at a multiple of 64 bytes as torch has it.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let header = file.len() as u32;
        let padding = 64 - (file.len() + 30 + name.len() + 4) % 64;
        let sizes = [crc32(data), data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        let lengths = [name.len() as u16, 4 + padding as u16].map(u16::to_le_bytes).concat();
        file.extend_from_slice(b"PK\x03\x04\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00");
        file.extend_from_slice(
            &[&sizes[..], &lengths, name.as_bytes(), b"FB", &(padding as u16).to_le_bytes()].concat(),
        );
        file.resize(file.len() + padding, b'Z');
        file.extend_from_slice(data);
        directory.extend_from_slice(b"PK\x01\x02\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00");
        directory.extend_from_slice(&[&sizes[..], &(name.len() as u16).to_le_bytes(), &[0; 12]].concat());
        directory.extend_from_slice(&[&header.to_le_bytes()[..], name.as_bytes()].concat());
    }
    let start = file.len() as u32;
    let count = (members.len() as u16).to_le_bytes();
    file.extend_from_slice(&directory);
    let sizes = [directory.len() as u32, start].map(u32::to_le_bytes).concat();
    file.extend_from_slice(&[&b"PK\x05\x06\x00\x00\x00\x00"[..], &count, &count, &sizes, &[0, 0]].concat());
    file
}

/// The checksum of zip archives, bit by bit.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// An archive with this pickle and these storages.
pub fn zipped(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("model/data/{key}")).collect();
    let mut members: Vec<(&str, &[u8])> = vec![("model/data.pkl", pickle), ("model/byteorder", b"little")];
    members.extend(names.iter().map(String::as_str).zip(storages.iter().map(|(_, data)| *data)));
    members.push(("model/version", b"3\n"));
    archive(&members)
}

/// A state dict as the zip form.
pub fn zip(tensors: &[Raw]) -> Vec<u8> {
    let keys: Vec<String> = (0..tensors.len()).map(|key| key.to_string()).collect();
    let storages: Vec<(&str, &[u8])> =
        keys.iter().map(String::as_str).zip(tensors.iter().map(|tensor| &tensor.bytes[..])).collect();
    zipped(&state_pickle(tensors), &storages)
}

/// The pickles in front of the data in the older form: magic number, version, facts about the machine.
pub const LEGACY_HEAD: &[u8] =
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00(X\x10\x00\x00\x00\
    protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}q\x04\
    (X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu.";

/// A state dict as the older form.
pub fn legacy(tensors: &[Raw]) -> Vec<u8> {
    let mut file = LEGACY_HEAD.to_vec();
    file.extend(state_pickle(tensors));
    let mut keys = Pickler::begin();
    keys.op(b"]");
    keys.put();
    keys.op(b"(");
    (0..tensors.len()).for_each(|key| keys.text(&key.to_string()));
    keys.op(b"e.");
    file.extend(keys.bytes);
    for tensor in tensors {
        let count: usize = tensor.shape.iter().product();
        file.extend_from_slice(&(count as u64).to_le_bytes());
        file.extend_from_slice(&tensor.bytes);
    }
    file
}
