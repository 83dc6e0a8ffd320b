//! What tells one state of a checkpoint from another without reading all of it.

use sha2::{Digest, Sha256};

use super::claims::Tokenizer;
use super::{Checkpoint, Shard, Stated};
use crate::format::Claims;
use crate::tensor::digest::Canonical;
use crate::{Error, Result};

/// Places in a weight file whose bytes take part, and bytes at each.
const SAMPLED_PLACES: u64 = 64;
const SAMPLED_BYTES: u64 = 4096;

impl Checkpoint {
    /// A digest of everything that a pass over the checkpoint can see: each tensor as it will be read, with all of its
    /// storage; the names and states of the files that hold the bytes; the tokenizer; and what names the checkpoint.
    /// Whatever beside the weights changes how they are read (`params.json`, `config.json`, an adapter's scale) has done
    /// so in the storage. Reads a few hundred kilobytes of each weight file.
    ///
    /// A file's state is its place, length, times and inode, and the bytes at some places: enough for all that happens
    /// to files by themselves, and no proof against someone who sets out to deceive.
    ///
    /// # Errors
    /// If a file cannot be examined or read.
    pub fn digest(&self) -> Result<[u8; 32]> {
        // Findings are of how it was opened, what was not read is told of the checkpoint and not of its fingerprint, the folder's name is in its place, the revision names what the bytes already
        // show, and what is known of pointers stands in the shards.
        let Self {
            root,
            folder: _,
            format,
            shards,
            tensors,
            claims,
            tokenizer,
            adapter: _,
            findings: _,
            unread: _,
            repository,
            revision: _,
            merged,
            pointers: _,
        } = self;
        let mut digest = Canonical::default();
        digest.bytes(root.as_os_str().as_encoded_bytes());
        digest.bytes(format.as_str().as_bytes());
        digest.option(repository.as_ref(), |out, repository| out.bytes(repository.as_bytes()));
        let merged = merged.as_ref().map(serde_json::to_vec).transpose();
        let merged = merged.map_err(|error| Error::usage(format!("cannot tell what was merged: {error}")))?;
        digest.option(merged, |out, merged| out.bytes(&merged));
        vocabulary(&mut digest, tokenizer.as_ref(), claims);
        digest.list(tensors, Canonical::tensor);
        digest.number(shards.len() as u64);
        for shard in shards.iter() {
            state(&mut digest, shard)?;
        }
        Ok(digest.finish())
    }
}

/// The tokenizer, and the vocabulary that a weight file has itself.
fn vocabulary(digest: &mut Canonical, tokenizer: Option<&Tokenizer>, claims: &Claims) {
    // The others say what a checkpoint claims to be: what that means for its tensors is in these.
    let Claims { config: _, card: _, card_unreadable: _, mentions: _, tokens, in_weights: _, in_gguf: _ } = claims;
    digest.option(tokenizer, |out, Tokenizer { sha256, bytes: _, vocabulary: _, content: _ }| {
        out.bytes(sha256.as_bytes());
    });
    digest.option(tokens.as_ref(), |out, tokens| out.list(tokens, |out, token| out.bytes(token.as_bytes())));
}

/// Name, place, identity and sampled bytes of a weight file.
fn state(digest: &mut Canonical, shard: &Shard) -> Result<()> {
    digest.bytes(shard.name.as_bytes());
    digest.bytes(shard.location().as_os_str().as_encoded_bytes());
    digest.option(shard.stated.as_ref(), |out, Stated { sha256, bytes }| {
        out.bytes(sha256.as_bytes());
        out.number(*bytes);
    });
    digest.bytes(&shard.identity());
    let (mut sampled, mut buf) = (Sha256::new(), Vec::new());
    if shard.bytes <= SAMPLED_PLACES * SAMPLED_BYTES {
        sampled.update(shard.read(0, shard.bytes as usize, &mut buf)?);
    } else {
        let step = (shard.bytes - SAMPLED_BYTES) / (SAMPLED_PLACES - 1);
        for place in 0..SAMPLED_PLACES {
            sampled.update(shard.read(place * step, SAMPLED_BYTES as usize, &mut buf)?);
        }
    }
    digest.bytes(&sampled.finalize());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::OpenOptions;
    use crate::tensor::TensorMeta;

    #[test]
    fn whatever_a_pass_can_see_moves_the_digest_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let weights = |last: u8| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0, 0, 0, last]].concat();
        let open = || Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        let digest = || open().digest().unwrap();
        put("model.safetensors", &weights(0));
        let bare = digest();
        assert_eq!(digest(), bare);
        put("README.md", b"---\nbase_model: org/name\n---\n");
        assert_eq!(digest(), bare, "what is declared");
        put("tokenizer.json", br#"{"model":{"vocab":{"a":0}}}"#);
        let one = digest();
        put("tokenizer.json", br#"{"model":{"vocab":{"b":0}}}"#);
        let other = digest();
        assert!(one != bare && one != other, "the tokenizer");
        let renamed = open().with_tensors(vec![TensorMeta { name: "v".to_owned(), ..open().tensors[0].clone() }]);
        assert_ne!(renamed.digest().unwrap(), other, "tensors");
        let modified = fs::metadata(folder.path().join("model.safetensors")).unwrap().modified().unwrap();
        put("model.safetensors", &weights(1));
        let file = fs::File::options().append(true).open(folder.path().join("model.safetensors")).unwrap();
        file.set_modified(modified).unwrap();
        assert_ne!(digest(), other, "bytes under the same time");
    }
}
