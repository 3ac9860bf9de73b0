//! Looks for modules of a crate that depend on each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// For each top-level module the others that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Checks every crate below `core` and `plugins`.
///
/// # Errors
/// If top-level modules of a crate use each other in a circle; all circles are named.
pub fn check(root: &Path) -> Result<()> {
    let mut crates = Vec::new();
    for folder in ["core", "plugins"] {
        manifests(&root.join(folder), &mut crates)?;
    }
    crates.sort();
    let mut found = Vec::new();
    for folder in &crates {
        if let Some(circle) = circle(&uses(&folder.join("src"))?) {
            found.push(format!("{}: {}", folder.strip_prefix(root).unwrap_or(folder).display(), circle.join(" → ")));
        }
    }
    if !found.is_empty() {
        bail!("modules depend on each other in a circle:\n{}", found.join("\n"));
    }
    println!("no module of {} crates depends on itself by way of others", crates.len());
    Ok(())
}

fn manifests(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("Cargo.toml").exists() {
        out.push(folder.to_owned());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let sources = path.file_name().is_some_and(|name| name == "src" || name == "target");
        if path.is_dir() && !sources {
            manifests(&path, out)?;
        }
    }
    Ok(())
}

/// What the top-level modules of a crate use of each other, outside of tests.
fn uses(src: &Path) -> Result<Uses> {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(src).with_context(|| format!("reading {}", src.display()))? {
        let path = entry?.path();
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            sources(&path, files.entry(name).or_default())?;
        } else if !["lib", "main"].contains(&name.as_str()) {
            files.entry(name).or_default().push(path);
        }
    }
    let mut out = Uses::new();
    for (module, paths) in &files {
        let mut used = BTreeSet::new();
        for path in paths {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            used.extend(paths_of(&text).into_iter().filter(|name| name != module && files.contains_key(name)));
        }
        out.insert(module.clone(), used);
    }
    Ok(out)
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// The first names after `crate::` in a file, without comments and tests.
fn paths_of(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .map(|line| format!("{}\n", line.split("//").next().unwrap_or_default()))
        .collect();
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` in a macro is used by whoever calls it.
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => out.extend(word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            out.extend(word(&list[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    out
}

/// The identifier at the start of a text.
fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// A circle, if there is one, from a module back to itself.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    fn walk<'u>(module: &'u str, uses: &'u Uses, way: &mut Vec<&'u str>, done: &mut BTreeSet<&'u str>) -> bool {
        if let Some(at) = way.iter().position(|m| *m == module) {
            way.drain(..at);
            way.push(module);
            return true;
        }
        if !done.insert(module) {
            return false;
        }
        way.push(module);
        if uses[module].iter().any(|next| walk(next, uses, way, done)) {
            return true;
        }
        way.pop();
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(module, uses, &mut way, &mut done).then(|| way.into_iter().map(str::to_owned).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_lists_and_alone() {
        let text = "use crate::{a::{x, y}, b, c as d};\n// crate::comment\nfn f() { crate::e::g(); $crate::macros!(); }\n\
                    #[cfg(test)]\nmod tests { use crate::h; }\n";
        assert_eq!(paths_of(text), ["a", "b", "c", "e"].map(str::to_owned).into());
    }

    #[test]
    fn a_circle_is_found_wherever_it_begins() {
        let uses = |pairs: &[(&str, &[&str])]| -> Uses {
            let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
            pairs.iter().map(|(name, used)| ((*name).to_owned(), set(used))).collect()
        };
        assert_eq!(circle(&uses(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])), None);
        let found = circle(&uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["d"]), ("d", &["b"])])).unwrap();
        assert_eq!(found, ["b", "c", "d", "b"]);
    }
}
