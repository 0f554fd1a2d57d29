//! The shape of the source tree: file and folder sizes, type names, closures, and no circles between
//! files.

use super::sources::{CRATES, code_of, files, root, rust_files, without_tests};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// Lines that a Rust file may have, tests included.
const FILE_LINES: usize = 700;
/// Files that a folder may have.
const FOLDER_FILES: usize = 12;
/// Named local closures that 1000 lines of code may have.
const CLOSURES: f64 = 3.0;
/// Files that are tables of data.
const TABLES: [&str; 1] = ["scenarios/src/household/catalog.rs"];

/// A module of a crate, as the parts of its path. The crate root has none.
type ModulePath = Vec<String>;

#[test]
fn a_file_has_at_most_700_lines() {
    let long: Vec<String> = rust_files(".")
        .into_iter()
        .filter(|(path, text)| {
            text.lines().count() > FILE_LINES && !TABLES.contains(&path.as_str())
        })
        .map(|(path, text)| format!("{path}: {}", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "split these files: {long:#?}");
}

#[test]
fn a_folder_has_at_most_12_files() {
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for file in files(".") {
        let folder = file.parent().unwrap().to_string_lossy().into_owned();
        *folders.entry(folder).or_default() += 1;
    }
    folders.retain(|_, count| *count > FOLDER_FILES);
    assert!(folders.is_empty(), "split these folders: {folders:#?}");
}

#[test]
fn a_type_name_is_defined_once() {
    let definition = Regex::new(concat!(
        r"(?m)^[ \t]*(?:pub(?:\([a-z ]+\))?\s+)?(?:unsafe\s+)?(?:struct|enum|trait|union)\s+(\w+)",
        r"|^(?:pub(?:\([a-z ]+\))?\s+)?type\s+(\w+)"
    ))
    .unwrap();
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in rust_files(".") {
        let code = code_of(&text);
        for found in definition.captures_iter(&code) {
            let name = found.get(1).or(found.get(2)).unwrap().as_str();
            places.entry(name.into()).or_default().push(path.clone());
        }
    }
    assert!(places.len() > 300, "only {} types were found", places.len());
    places.retain(|_, paths| paths.len() > 1);
    assert!(
        places.is_empty(),
        "give these types names of their own: {places:#?}"
    );
}

#[test]
fn named_closures_are_rare() {
    let closure =
        Regex::new(r"\blet\s+(?:mut\s+)?\w+(?:\s*:[^=;]+)?\s*=\s*(?:move\s+)?\|").unwrap();
    let mut lines = 0;
    let mut closures = Vec::new();
    for (_, folder) in CRATES {
        for (path, text) in rust_files(folder) {
            let code = code_of(&text);
            let code = without_tests(&code);
            lines += code.lines().filter(|line| !line.trim().is_empty()).count();
            closures.extend(closure.find_iter(code).map(|_| path.clone()));
        }
    }
    assert!(lines > 10_000, "only {lines} lines of code were found");
    let share = 1000.0 * closures.len() as f64 / lines as f64;
    assert!(
        share < CLOSURES,
        "{share:.1} named closures per 1000 lines; inline them or make them functions: {closures:#?}"
    );
}

#[test]
fn files_of_a_crate_do_not_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    for (name, folder) in CRATES {
        let modules = modules(folder);
        assert!(
            modules.contains_key(&ModulePath::new()),
            "{name} has no root"
        );
        let imports = imports(&modules);
        circles.extend(circle(&imports).map(|path| format!("{name}: {}", path.join(" -> "))));
    }
    assert!(circles.is_empty(), "files import each other: {circles:#?}");
}

#[test]
fn a_circle_is_found_where_there_is_one() {
    let modules = |files: &[(&str, &str)]| -> BTreeMap<ModulePath, String> {
        files
            .iter()
            .map(|(path, code)| (parts(path), (*code).to_string()))
            .collect()
    };
    let child_uses_parent = modules(&[
        ("", "mod a;"),
        (
            "a",
            "mod b; pub use b::Shared; struct Own; fn f() { b::g() }",
        ),
        ("a::b", "use super::Own; pub struct Shared;"),
    ]);
    assert!(circle(&imports(&child_uses_parent)).is_some());
    let only_re_exported = modules(&[
        ("", "mod a; mod c;"),
        ("a", "pub mod b; pub use b::Shared;"),
        ("a::b", "pub struct Shared;"),
        ("c", "use crate::a::{Shared, b::{self, Other}};"),
    ]);
    assert!(circle(&imports(&only_re_exported)).is_none());
    let by_a_path = modules(&[
        ("", ""),
        ("a", "fn f() { crate::b::g() }"),
        ("b", "fn g() { super::a::f() }"),
    ]);
    assert!(circle(&imports(&by_a_path)).is_some());
}

fn parts(path: &str) -> ModulePath {
    path.split("::")
        .filter(|part| !part.is_empty())
        .map(Into::into)
        .collect()
}

/// The code of every module of a crate, without its tests.
fn modules(folder: &str) -> BTreeMap<ModulePath, String> {
    let mut modules = BTreeMap::new();
    for (path, text) in rust_files(folder) {
        let inner = path.strip_prefix(folder).unwrap().trim_start_matches('/');
        let mut module = parts(&inner.trim_end_matches(".rs").replace('/', "::"));
        if module
            .last()
            .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
        {
            module.pop();
        }
        if module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        modules.insert(module, without_tests(&code_of(&text)).to_string());
    }
    assert!(root().join(folder).is_dir());
    modules
}

/// For each module, the modules of other files whose items it names. If a module re-exports its own
/// child, that does not count.
fn imports(modules: &BTreeMap<ModulePath, String>) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let statement = Regex::new(r"\b(pub(?:\([a-z]+\))?\s+)?use\s+([^;]+);").unwrap();
    let path = Regex::new(r"(^|[^\w:])((?:crate|self|super|[a-z_]\w*)(?:::\w+)+)").unwrap();
    let mut re_exports: BTreeMap<ModulePath, BTreeMap<String, ModulePath>> = BTreeMap::new();
    let mut named: BTreeMap<ModulePath, Vec<(bool, ModulePath)>> = BTreeMap::new();
    for (module, code) in modules {
        let uses = named.entry(module.clone()).or_default();
        for found in statement.captures_iter(code) {
            let is_public = found.get(1).is_some();
            for import in expanded(&found[2].split_whitespace().collect::<Vec<_>>().join(" ")) {
                let (import, alias) = match import.split_once(" as ") {
                    Some((import, alias)) => (import.to_string(), Some(alias.to_string())),
                    None => (import, None),
                };
                let Some(mut target) = absolute(modules, module, &import) else {
                    continue;
                };
                if target.last().is_some_and(|last| last == "self") {
                    target.pop();
                }
                if is_public && let Some(last) = target.last() {
                    let name = alias.unwrap_or_else(|| last.clone());
                    re_exports
                        .entry(module.clone())
                        .or_default()
                        .insert(name, target.clone());
                }
                uses.push((is_public, target));
            }
        }
        let rest = statement.replace_all(code, "");
        for found in path.captures_iter(&rest) {
            if let Some(target) = absolute(modules, module, &found[2]) {
                uses.push((false, target));
            }
        }
    }
    let mut imports: BTreeMap<ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for (module, uses) in named {
        let targets = imports.entry(module.clone()).or_default();
        for (is_public, target) in uses {
            let owner = owner(modules, &re_exports, target, 0);
            let is_own_child = is_public && owner.starts_with(&module);
            if owner != module && !is_own_child {
                targets.insert(owner);
            }
        }
    }
    imports
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn expanded(path: &str) -> Vec<String> {
    let Some(open) = path.find('{') else {
        return vec![path.trim().to_string()];
    };
    let inner = &path[open + 1..path.rfind('}').unwrap()];
    let mut items = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(std::mem::take(&mut item));
                continue;
            }
            _ => {}
        }
        item.push(letter);
    }
    items.push(item);
    items
        .iter()
        .filter(|item| !item.trim().is_empty())
        .flat_map(|item| expanded(&format!("{}{}", &path[..open], item.trim())))
        .collect()
}

/// The path from the crate root; `None` if it leads to another crate or to something local.
fn absolute(
    modules: &BTreeMap<ModulePath, String>,
    module: &ModulePath,
    path: &str,
) -> Option<ModulePath> {
    let mut rest: ModulePath = path
        .split("::")
        .map(|part| part.trim().to_string())
        .collect();
    let mut base = module.clone();
    match rest[0].as_str() {
        "crate" => {
            base.clear();
            rest.remove(0);
        }
        "self" => {
            rest.remove(0);
        }
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest.remove(0);
            }
        }
        first => {
            let mut child = module.clone();
            child.push(first.into());
            if !modules.contains_key(&child) {
                return None;
            }
        }
    }
    base.extend(rest);
    Some(base)
}

/// The module that an item belongs to, by way of re-exports.
fn owner(
    modules: &BTreeMap<ModulePath, String>,
    re_exports: &BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
    path: ModulePath,
    depth: usize,
) -> ModulePath {
    let mut length = path.len();
    while !modules.contains_key(&path[..length]) {
        length -= 1;
    }
    let module = path[..length].to_vec();
    let target = path
        .get(length)
        .and_then(|name| re_exports.get(&module)?.get(name));
    match target {
        Some(target) if depth < 5 => {
            let through = target.iter().chain(&path[length + 1..]).cloned().collect();
            owner(modules, re_exports, through, depth + 1)
        }
        _ => module,
    }
}

/// One circle of the graph, as the names on it; `None` if there is none.
fn circle(imports: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Option<Vec<String>> {
    let mut finished = BTreeSet::new();
    for start in imports.keys() {
        let mut path = Vec::new();
        if let Some(found) = walk(imports, start, &mut path, &mut finished) {
            return Some(found.iter().map(|module| module.join("::")).collect());
        }
    }
    None
}

fn walk(
    imports: &BTreeMap<ModulePath, BTreeSet<ModulePath>>,
    module: &ModulePath,
    path: &mut Vec<ModulePath>,
    finished: &mut BTreeSet<ModulePath>,
) -> Option<Vec<ModulePath>> {
    if let Some(first) = path.iter().position(|earlier| earlier == module) {
        return Some(path[first..].to_vec());
    }
    if finished.contains(module) {
        return None;
    }
    path.push(module.clone());
    for next in imports.get(module).into_iter().flatten() {
        if let Some(found) = walk(imports, next, path, finished) {
            return Some(found);
        }
    }
    path.pop();
    finished.insert(module.clone());
    None
}
