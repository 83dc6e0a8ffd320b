//! Which module uses which, read off the source: arrows point one way, and the drawing in DESIGN.md is the code's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The modules of the library, lowest first: each may use those before it, never one behind it.
const ORDER: [&str; 22] = [
    "text",
    "error",
    "finding",
    "unread",
    "limits",
    "bytes",
    "math",
    "model",
    "published",
    "tensor",
    "format",
    "checkpoint",
    "anatomy",
    "assemble",
    "fingerprint",
    "catalog",
    "cache",
    "evidence",
    "verdict",
    "report",
    "scanner",
    "front",
];

const BEGIN: &str = "<!-- modules: begin -->\n";
const END: &str = "<!-- modules: end -->";

/// A module by its path, `["format", "gguf", "reader"]`.
type Module = Vec<String>;

/// Every module of the library with the modules that it uses outside of tests.
fn uses() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let modules: BTreeMap<Module, String> = files.into_iter().filter_map(|file| module(&root, &file)).collect();
    let names: BTreeSet<Module> = modules.keys().cloned().collect();
    modules
        .iter()
        .map(|(module, source)| {
            let used = paths(source, module).into_iter().filter_map(|path| owner(&path, &names));
            (module.clone(), used.filter(|used| used != module).collect())
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The module in a file, and its text without comments and tests; none for the crate's root and the command line.
fn module(root: &Path, file: &Path) -> Option<(Module, String)> {
    let path = file.strip_prefix(root).unwrap().with_extension("");
    let module: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let outside = ["lib", "main", "cli"].contains(&module[0].as_str());
    let is_test = module.last().is_some_and(|name| name.ends_with("tests"));
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    (!outside && !is_test).then_some((module, code))
}

/// Every path that begins with `crate`, `super` or `self`, from the crate's root.
fn paths(source: &str, module: &Module) -> Vec<Module> {
    let statement = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z: ]+\))? )?use ([^;]+);").unwrap();
    let inline = Regex::new(r"\b(?:crate|super)(?:::[a-zA-Z_]\w*)+").unwrap();
    let mut found: Vec<String> = Vec::new();
    for tree in statement.captures_iter(source) {
        leaves("", &tree[1].split_whitespace().collect::<Vec<_>>().join(" "), &mut found);
    }
    found.extend(inline.find_iter(&statement.replace_all(source, "")).map(|path| path.as_str().to_owned()));
    found.iter().filter_map(|path| absolute(path, module)).collect()
}

/// The leaves of a `use` tree.
fn leaves(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{prefix}{}", tree.split(" as ").next().unwrap_or_default()));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let prefix = format!("{prefix}{head}");
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    leaves(&prefix, &inner[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// A path from the crate's root; `None` where it leads to another crate.
fn absolute(path: &str, module: &Module) -> Option<Module> {
    let mut parts = path.split("::").map(str::trim);
    let mut at: Module = match parts.next()? {
        "crate" => Vec::new(),
        "self" => module.clone(),
        "super" => module[..module.len() - 1].to_vec(),
        _ => return None,
    };
    for part in parts {
        if part == "super" {
            at.pop();
        } else {
            at.push(part.to_owned());
        }
    }
    Some(at)
}

/// The module in which the item at the end of a path lies; an item of the root is taken for its module's.
fn owner(path: &Module, names: &BTreeSet<Module>) -> Option<Module> {
    let own = (1..=path.len()).rev().map(|len| path[..len].to_vec()).find(|path| names.contains(path));
    match path.first().map(String::as_str) {
        Some("Error" | "Result") => Some(vec!["error".to_owned()]),
        _ => own,
    }
}

/// Arrows between top modules.
fn arrows(uses: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, used) in uses {
        let others = used.iter().map(|used| used[0].as_str()).filter(|used| *used != module[0]);
        arrows.entry(&module[0]).or_default().extend(others);
    }
    arrows
}

fn level(module: &str) -> usize {
    let found = ORDER.iter().position(|name| *name == module);
    found.unwrap_or_else(|| panic!("`{module}` has no place in ORDER"))
}

#[test]
fn no_arrow_points_up() {
    let uses = uses();
    assert!(uses.len() > 100, "{} modules were found", uses.len());
    let mut up = Vec::new();
    for (module, used) in &uses {
        for used in used {
            if level(&used[0]) > level(&module[0]) {
                up.push(format!("{} uses {}", module.join("::"), used.join("::")));
            }
        }
    }
    assert!(up.is_empty(), "{}", up.join("\n"));
}

/// The folder that a module belongs to: `format::gguf` and `format::gguf::reader` both lie in `format::gguf`.
fn folder<'a>(module: &'a [String], uses: &BTreeMap<Module, BTreeSet<Module>>) -> &'a [String] {
    let has_children = uses.keys().any(|other| other.len() > module.len() && other.starts_with(module));
    if has_children { module } else { &module[..module.len() - 1] }
}

#[test]
fn no_circle_leads_through_several_folders() {
    let uses = uses();
    let reach = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for used in &uses[&module] {
                if seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = uses.keys().map(|module| (module, reach(module))).collect();
    let mut circles = BTreeSet::new();
    for (module, all) in &reached {
        for other in all.iter().filter(|other| reached[other].contains(*module)) {
            let (one, two) = (folder(module, &uses), folder(other, &uses));
            // A folder's own file holds what the files inside it share.
            if !one.starts_with(two) && !two.starts_with(one) {
                circles.insert(format!("{} <-> {}", one.join("::"), two.join("::")));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The arrows as Mermaid, without those that others imply.
fn drawing() -> String {
    let uses = uses();
    let arrows = arrows(&uses);
    let mut text = "```mermaid\nflowchart BT\n".to_owned();
    for module in ORDER {
        let used = arrows.get(module).cloned().unwrap_or_default();
        let implied = |target: &str| {
            let mut next: Vec<&str> = used.iter().copied().filter(|other| *other != target).collect();
            let mut seen = BTreeSet::new();
            while let Some(other) = next.pop() {
                if other == target {
                    return true;
                }
                if seen.insert(other) {
                    next.extend(arrows.get(other).into_iter().flatten());
                }
            }
            false
        };
        for target in used.iter().filter(|target| !implied(target)) {
            text.push_str(&format!("    {module} --> {target}\n"));
        }
    }
    text + "```\n"
}

#[test]
fn the_drawing_of_the_modules_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("DESIGN.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("DESIGN.md has a place for the drawing");
    let (drawn, tail) = rest.split_once(END).expect("the place for the drawing has an end");
    let now = drawing();
    if std::env::var_os("WEIGHTPRINT_BLESS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{now}{END}{tail}")).unwrap();
    } else {
        assert_eq!(drawn, now, "WEIGHTPRINT_BLESS=1 draws it anew");
    }
}
