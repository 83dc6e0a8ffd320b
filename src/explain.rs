//! What each code in a report means, for `weightprint explain`.

use crate::compare::TestCode;
use crate::finding::Code;
use crate::verdict::Class;

/// Every code that can be explained, with its explanation: classes, tests, findings.
pub fn entries() -> impl Iterator<Item = (&'static str, &'static str)> {
    let classes = Class::ALL.into_iter().map(|class| (class.as_str(), class_text(class)));
    let tests = TestCode::ALL.into_iter().map(|test| (test.as_str(), test_text(test)));
    let findings = Code::ALL.into_iter().map(|code| (code.as_str(), finding_text(code)));
    classes.chain(tests).chain(findings)
}

/// The explanation of one code.
pub fn explain(code: &str) -> Option<&'static str> {
    entries().find(|(name, _)| *name == code).map(|(_, text)| text)
}

fn class_text(class: Class) -> &'static str {
    match class {
        Class::Identical => {
            "Verdict. Every tensor of the subject that could say anything equals a tensor of the reference bit for bit, \
             and none of the reference's is missing, once names, order, sharding and lossless changes of type are undone."
        }
        Class::ReEncoded => {
            "Verdict. As `identical`, but some tensors are equal only within the rounding of a coarser type: for f16 \
             and bf16 every value was checked, for other types the sampled ones."
        }
        Class::Derived => {
            "Verdict. The weights of subject and reference have a common origin: labels agree with a corrected p of at \
             most 10^-10 and explain at least 5 % of what was looked at, or a large part is equal outright. The tests \
             are symmetric and do not tell which of the two came first."
        }
        Class::Merged => {
            "Verdict. Several references together explain the subject. This version does not attribute merges yet and \
             never gives this class."
        }
        Class::SharesComponents => {
            "Verdict. Only the parts that are named match the reference, for example its embedding."
        }
        Class::SharedInitialisation => {
            "Verdict. Labels agree beyond chance, but the weights hardly do: both models may have been started from the \
             same random numbers. That is a fact about their origin, not copying of trained weights."
        }
        Class::SameArchitecture => {
            "Verdict. The blocks have the same shapes; the weights were tested and nothing speaks for a common origin. \
             Distillation from a model's outputs leaves weights of its own and cannot be seen in weights."
        }
        Class::NoEvidence => {
            "Verdict. The structure differs from every reference tested and no test found anything. That is not proof \
             of independence: a reference that is not in the catalog was not tested."
        }
        Class::Inconclusive => {
            "Verdict. Too little could be tested: no reference, unreadable or constant values, or no test that applies. \
             The report says what is missing. Exit code 5; never a pass."
        }
    }
}

fn test_text(test: TestCode) -> &'static str {
    match test {
        TestCode::Bits => {
            "Test. Tensors whose values have the same SHA-256, over names and order; tensors equal after rounding to f16 \
             or bf16; rows equal to a row of the reference. Constants, masks, indices and formulas do not count. log10 p \
             is that of n distinct labels falling into the same order by chance, 1/n!."
        }
        TestCode::ChannelLabels => {
            "Test. Each residual channel's strength, averaged over all tensors that touch it, is correlated between the \
             models at equal labels. Under independent training labels are arbitrary, so a large correlation is a \
             coincidence whose probability is known: Student's t tail with n-2 degrees of freedom. Blind to a \
             permutation or rotation of the channels. Effect: r squared."
        }
        TestCode::NeuronLabels => {
            "Test. Sampled MLP neurons of the reference are matched with all neurons of the suspect's layer by their \
             gate, up and down vectors, along fixed directions or along the embedding rows of anchor tokens. Under \
             independent training the labels of neurons are arbitrary: K equal labels have a probability of at most \
             lambda^K/K!, exactly. Effect: share of sampled neurons with an equal label."
        }
        TestCode::NeuronOrder => {
            "Test. Correlation of the labels of matched neurons within their layers: sees neurons that were dropped or \
             inserted in order. Effect: r squared times the share of sampled neurons that are matched."
        }
        TestCode::NeuronAgreement => {
            "Test. Along the embedding rows of anchor tokens, neurons are matched by gate, by up and by down apart; the \
             share for which two of the three name the same partner is the effect. It survives a change of basis, of \
             neuron order and of scales together. Unrelated models agree in less than 1 % of neurons; 5 % is demanded. \
             It has no exact p."
        }
        TestCode::AlignedWeights => {
            "Effect, no test by itself. Neurons are matched by one of their matrices alone, in a frame found from the \
             embedding alone; the variance that their other matrices then share was not used to find either. R squared \
             with its jackknife standard error over layers."
        }
        TestCode::NeuronShape => {
            "Test. The strongest neurons of each gated MLP are described by their sorted cosines with one another, which \
             no change of basis, order, scale or embedding touches, and matched by gate, up and down apart. The share \
             for which two of the three name the same partner is the effect. Fades with long continued training. It has \
             no exact p."
        }
        TestCode::HeadLabels => {
            "Test. Attention heads are described by how they score and copy anchor tokens: sampled entries of the \
             query-key and value-output forms along the tokens' embeddings, which no change of basis nor any mixing \
             inside a head touches. Heads of the reference are matched with heads of the suspect's layer. Under \
             independent training the order of a layer's key-value groups, and of the heads within each, is arbitrary: \
             the probability of as many equal labels is exact. Effect: share of heads with an equal label times the mean cosine of their forms. Sees \
             attention that was kept where MLPs were replaced. Layers whose queries, keys and values are one matrix \
             are not looked at."
        }
        TestCode::PublishedNorms => {
            "Test. L2 norms of the embedding rows of rare tokens, published for 64 models, against the subject's: rows \
             that training hardly touches keep their norms up to one common factor. At least 8 rows within 0.5 % of one \
             ratio, spanning a factor of 3, are demanded. Effect: share of usable rows on the ratio."
        }
        TestCode::Architecture => {
            "Test. Fields of the architecture record that are equal. Structure says nothing of weights, so it has no p."
        }
    }
}

fn finding_text(code: Code) -> &'static str {
    match code {
        Code::ShardMissing => "Finding. The index names a shard that is not in the folder.",
        Code::ShardExtra => "Finding. A weight file lies in the folder that the index does not name; it was left out.",
        Code::IndexMismatch => {
            "Finding. The index and the headers of the shards disagree. What the headers say was used; the index is what \
             other programs will read."
        }
        Code::DtypeUnknown => {
            "Finding. Tensors have an element type that this version cannot decode. Their bytes were digested, their \
             values not read, and the coverage is lower for it."
        }
        Code::NonFinite => {
            "Finding. Tensors have NaN or infinite values. Up to 1 % are masked; with more, the tensor is not tested."
        }
        Code::ConstantTensor => "Finding. Tensors hold one value throughout. Agreement of constants is no evidence.",
        Code::EmptyTensor => "Finding. Tensors have no elements. They are legal and say nothing.",
        Code::FormulaTensor => {
            "Finding. Rotary frequencies, sinusoidal positions, masks and indices are the same in unrelated models and \
             are not counted as evidence."
        }
        Code::HeaderGap => {
            "Finding. Bytes of the file belong to no tensor. The reference implementation refuses such files; something \
             may be hidden there."
        }
        Code::FileLeftOut => {
            "Finding. A file, or a part of one, that does not belong to the weights that were read was left out: training \
             state, or the same model in a second form."
        }
        Code::LfsPointer => {
            "Finding. A file is a Git-LFS pointer: the weights themselves were not downloaded. Where every weight file \
             that is there has a digest published for one model, the pointers tell which; the candidate says whether they \
             are all of its files. Otherwise there is nothing to scan."
        }
        Code::PickleRefused => {
            "Finding. A pickle names functions or classes that are not needed to rebuild tensors. Python would call \
             them when the file is loaded; here nothing in a pickle is ever executed, and what they would have built was \
             not read. Settings of training programs do this honestly; os.system does not. Of a whole module that was \
             pickled, or an archive of TorchScript, the tensors are read off the attributes of its objects."
        }
        Code::SharedStorage => {
            "Finding. Several names of a checkpoint stand for the same tensor, as with tied embeddings. It was read once, \
             under the first name."
        }
        Code::NeedsBase => {
            "Finding. The checkpoint is an adapter, a low-rank change to a base model that is not part of it. What it \
             declares and which modules it changes is told; whether the merged model is a copy cannot be. Name \
             its base with --base, and the two are scanned as the model that they make."
        }
        Code::AdapterMerged => {
            "Finding. The subject is an adapter together with the base that --base named. Every value is the base's with \
             the adapter's change added, as PEFT would have merged and saved it; no merged file was written. The files \
             of both are listed with their digests."
        }
        Code::PartsDisagree => {
            "Finding. A model that is cut into parts has its vectors whole in every part, and they are not the same \
             everywhere. Those of the first part were read."
        }
        Code::ValuesNotRead => {
            "Finding. A tensor's values lie in an order that this version does not follow. They were not read, and the \
             coverage is lower for it."
        }
        Code::ConfigMismatch => {
            "Finding. config.json contradicts the shapes of the tensors. Shapes decide; the configuration is a claim."
        }
        Code::SidecarUnreadable => "Finding. config.json, the model card or the tokenizer could not be read.",
        Code::WeightsNotTested => {
            "Finding. The architecture equals that of a known model of which no catalog has a weight fingerprint, so \
             descent from it was not tested. `weightprint catalog add PATH --id ID` adds one."
        }
        Code::PublishedDigest => "Finding. A whole file has a SHA-256 that was published for a known model.",
        Code::OrderedChannels => {
            "Finding. Channel strengths rise or fall with the label, so labels are not arbitrary. If both models are \
             ordered, channel-labels does not apply."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_under_a_name_of_its_own() {
        let mut names: Vec<&str> = entries().map(|(name, _)| name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(explain("channel-labels").is_some() && explain("nonsense").is_none());
    }
}
