//! What a card means by the name of a model: identifiers, addresses, paths and revisions of one model are one name.

/// A model as a card names it, without what says where a copy of it lies, at which revision, or after which step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelName {
    /// In lower case; absent where the name alone is known.
    organisation: Option<String>,
    /// In lower case.
    name: String,
}

/// How two names of models relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Same {
    /// They name the same model.
    Exactly,
    /// They name the same model in forms of which one is a repackaging: another type, another format.
    InAnotherForm,
}

/// What repackagers add to the name of a model, part by part.
const FORMS: [&str; 26] = [
    "awq",
    "bf16",
    "bnb",
    "dynamic",
    "exl2",
    "exl3",
    "fp16",
    "fp8",
    "ggml",
    "gguf",
    "gptq",
    "hqq",
    "i1",
    "imatrix",
    "int4",
    "int8",
    "mlx",
    "mxfp4",
    "nf4",
    "nvfp4",
    "onnx",
    "quantized",
    "w4a16",
    "w8a16",
    "w8a8",
    "unsloth",
];

/// Parts of an address behind the name of a repository.
const VIEWS: [&str; 5] = ["tree", "blob", "resolve", "raw", "snapshots"];

impl ModelName {
    /// What a text names; nothing where it names nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().replace('\\', "/");
        let (address, path) = match text.split_once("://") {
            // A scheme for repositories has no host.
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("hf") => (true, path),
            Some((_, path)) => (true, path.split_once('/').map_or("", |(_, path)| path)),
            None => (false, text.as_str()),
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let is_local = !address && path.starts_with(['/', '.', '~']);
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if let Some(cached) = parts.iter().find_map(|part| part.strip_prefix("models--")) {
            return Self::of(&cached.splitn(2, "--").collect::<Vec<_>>(), false);
        }
        if address && parts.first() == Some(&"models") {
            parts.remove(0);
        }
        if let Some(end) = parts.iter().position(|part| VIEWS.contains(part)).filter(|end| *end > 0) {
            parts.truncate(end);
        }
        while parts.len() > 1 && parts.last().is_some_and(|part| is_step(part)) {
            parts.pop();
        }
        Self::of(&parts, is_local || !address && parts.len() > 2)
    }

    fn of(parts: &[&str], is_local: bool) -> Option<Self> {
        let (organisation, name) = match parts {
            [name] => (None, name),
            [.., name] if is_local => (None, name),
            [organisation, name, ..] => (Some(organisation), name),
            [] => return None,
        };
        let name = name.split(['@', ':']).next().unwrap_or_default().to_lowercase();
        let name = name.strip_suffix(".git").unwrap_or(&name).to_owned();
        (!name.is_empty()).then(|| Self { organisation: organisation.map(|text| text.to_lowercase()), name })
    }

    /// Whether this names the same model as `other`. A bare name stands for any organisation's model of that name; a
    /// repackaging does too, as those who make them publish under names of their own.
    pub(super) fn same(&self, other: &Self) -> Option<Same> {
        let organisations = self.organisation.as_ref().zip(other.organisation.as_ref());
        if self.name == other.name {
            return organisations.is_none_or(|(one, other)| one == other).then_some(Same::Exactly);
        }
        (plain(&self.name) == plain(&other.name)).then_some(Same::InAnotherForm)
    }
}

/// The name without what says in which form the model is.
fn plain(name: &str) -> &str {
    let mut name = name;
    while let Some((rest, last)) = name.rsplit_once(['-', '.']) {
        if rest.is_empty() || !is_form(last) {
            break;
        }
        name = rest;
    }
    name
}

fn is_form(part: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // `4bit`, `q4_k_m`, `iq2_xs`.
    FORMS.contains(&part)
        || part.strip_suffix("bit").is_some_and(digits)
        || part.trim_start_matches('i').strip_prefix('q').is_some_and(|rest| rest.split('_').next().is_some_and(digits))
}

/// Whether the last part of a path is a step of the training and no name.
fn is_step(part: &str) -> bool {
    let number = part.strip_prefix("checkpoint-").or_else(|| part.strip_prefix("global_step"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> Option<Same> {
        ModelName::parse(one)?.same(&ModelName::parse(other)?)
    }

    #[test]
    fn addresses_paths_and_revisions_name_the_model_itself() {
        for text in [
            "org/Base-A",
            "Org/base-a/",
            "org/base-a@main",
            "org/base-a:v1.0",
            "https://huggingface.co/org/base-a",
            "https://huggingface.co/org/base-a/tree/main",
            "https://hf.co/org/base-a/blob/main/README.md?x=1#y",
            "https://modelscope.cn/models/org/base-a",
            "https://github.com/org/base-a.git",
            "hf://org/base-a@abc",
            "org/base-a/checkpoint-500",
            "/root/.cache/huggingface/hub/models--org--base-a/snapshots/abcdef0123",
            "C:\\cache\\models--org--base-a\\snapshots\\abc",
            "/home/user/models/base-a",
            "./base-a/",
            "../x/base-a/checkpoint-1000",
            "base-a",
        ] {
            assert_eq!(same(text, "org/base-a"), Some(Same::Exactly), "{text}");
        }
        for text in
            ["other/base-a", "https://huggingface.co/other/base-a", "org/base-a2", "org/base", "/x/org", "/", ""]
        {
            assert_eq!(same(text, "org/base-a"), None, "{text}");
        }
    }

    #[test]
    fn repackagings_are_the_model_in_another_form() {
        for form in
            ["bnb-4bit", "unsloth-bnb-4bit", "GGUF", "AWQ", "GPTQ-Int4", "fp8", "8bit", "Q4_K_M", "i1-GGUF", "mlx-4bit"]
        {
            assert_eq!(same(&format!("x/base-a-{form}"), "org/base-a"), Some(Same::InAnotherForm), "{form}");
        }
        for other in ["x/base-a-instruct", "x/base-a-7b", "x/base-a-v2-GGUF", "x/quiz-1b"] {
            assert_eq!(same(other, "org/base-a"), None, "{other}");
        }
    }
}
