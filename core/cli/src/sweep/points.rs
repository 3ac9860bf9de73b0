//! The points of a sweep: variants, grid and rows, from the recipe and the command line.

use crate::arguments::Sweep;
use indexmap::IndexMap;
use mtl_component::{Registry, Result, mistake};
use mtl_engine::recipe::{NAMES, Recipe, SECTIONS, is_name, is_path};
use mtl_recipe::{ConfigValue, Context, Value};
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// More points than this are a slip of the hand.
const MAX_POINTS: usize = 10_000;
/// Longest name of a point in bytes; file systems take 255, and its log has an ending.
const MAX_NAME: usize = 250;

/// A value of a path in the points of a sweep.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    /// As it is written, for the name of the point.
    written: String,
    /// As it is set.
    set: String,
}

impl From<String> for Choice {
    fn from(text: String) -> Self {
        Self { written: text.clone(), set: text }
    }
}

/// One run of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    /// What differs; the name of its run folder.
    pub(super) name: String,
    pub(super) recipe: PathBuf,
    pub(super) set: Vec<String>,
    pub(super) unset: Vec<String>,
}

/// All points: variants times the grid times the rows of the zip.
pub(super) fn points(registry: &Arc<Registry>, args: &Sweep) -> Result<Vec<Point>> {
    let own = Recipe::read(registry, &args.recipe, &args.overrides.list())?;
    let section = own.sweep.clone().unwrap_or_default();
    // As everywhere in a recipe, a path starts from the file that says it.
    let choice = |of: &Recipe, path: &str, value: &serde_json::Value, place: Option<&ConfigValue>| -> Result<Choice> {
        let written = inline(value)?;
        let folder = place.map(|node| own.sources.folder(&node.origin));
        let set = match folder {
            Some(folder) => inline(&from_folder(of, path, value, folder))?,
            None => written.clone(),
        };
        Ok(Choice { written, set })
    };
    let node = |keys: &[&str]| keys.iter().try_fold(&own.root, |node, key| node.get(key));
    let listed = |of: &IndexMap<String, Vec<serde_json::Value>>, key: &str| -> Result<IndexMap<String, Vec<Choice>>> {
        let each = |(path, values): (&String, &Vec<serde_json::Value>)| {
            let places = match node(&["sweep", key, path]).map(|n| &n.value) {
                Some(Value::Array(items)) => items.as_slice(),
                _ => &[],
            };
            let path = full(path);
            let choices = values.iter().enumerate().map(|(i, value)| choice(&own, &path, value, places.get(i)));
            let choices = choices.collect::<Result<_>>()?;
            Ok((path, choices))
        };
        of.iter().map(each).collect()
    };
    let (mut grid, mut zip) = (listed(&section.grid, "grid")?, listed(&section.zip, "zip")?);
    let mut given = HashSet::new();
    for (texts, into, flag) in [(&args.grid, &mut grid, "--grid"), (&args.zip, &mut zip, "--zip")] {
        for one in texts {
            let Some((path, values)) = one.split_once('=') else {
                mistake!("{flag} is PATH=VALUE,VALUE,…, found `{one}`");
            };
            let values = split(values);
            if values.iter().any(String::is_empty) {
                mistake!("{flag} {one}: a value is empty");
            }
            if path.trim().is_empty() {
                mistake!("{flag} {one}: there is no path before the `=`");
            }
            let path = full(path);
            if into.insert(path.clone(), values.into_iter().map(Choice::from).collect()).is_some()
                && given.contains(&path)
            {
                mistake!("`{path}` is given twice");
            }
            given.insert(path);
        }
    }
    if let Some((path, _)) = grid.iter().chain(&zip).find(|(_, values)| values.is_empty()) {
        mistake!("`{path}` has no values in the sweep");
    }
    if let Some(path) = grid.keys().find(|path| zip.contains_key(*path)) {
        mistake!("`{path}` stands in the grid and in the zip: in one of them");
    }
    let rows = zip.values().next().map_or(1, Vec::len);
    if let Some((path, values)) = zip.iter().find(|(_, v)| v.len() != rows) {
        let first = zip.keys().next().cloned().unwrap_or_default();
        mistake!("the lists of a zip go together: `{first}` has {rows} values and `{path}` has {}", values.len());
    }
    let unset = if own.root.get("sweep").is_some() { vec!["sweep".to_owned()] } else { Vec::new() };
    let root = vec![Point { name: String::new(), recipe: args.recipe.clone(), set: Vec::new(), unset }];
    let mut points: Vec<Point> = if section.variants.is_empty() {
        root
    } else {
        let made = section.variants.iter().map(|(name, variant)| {
            let other = variant
                .recipe
                .as_ref()
                .map(|recipe| Recipe::read(registry, recipe, &args.overrides.list()))
                .transpose()?;
            let of = other.as_ref().unwrap_or(&own);
            let set = variant.set.iter().map(|(path, value)| {
                let place = node(&["sweep", "variants", name, "set", path]);
                Ok(format!("{path}={}", choice(of, path, value, place)?.set))
            });
            let mut unset = variant.unset.clone();
            if of.root.get("sweep").is_some() {
                unset.push("sweep".into());
            }
            Ok(Point {
                name: name.clone(),
                recipe: variant.recipe.as_ref().map_or_else(|| args.recipe.clone(), |r| r.0.clone()),
                set: set.collect::<Result<_>>()?,
                unset,
            })
        });
        made.collect::<Result<_>>()?
    };
    for (path, values) in &grid {
        too_many(points.len().saturating_mul(values.len()))?;
        points = points.iter().flat_map(|p| values.iter().map(|v| with(p, &[(path, v)]))).collect();
    }
    if !zip.is_empty() {
        let row = |i: usize| zip.iter().map(|(path, values)| (path, &values[i])).collect::<Vec<_>>();
        too_many(points.len().saturating_mul(rows))?;
        points = points.iter().flat_map(|p| (0..rows).map(|i| with(p, &row(i)))).collect();
    }
    if points.len() == 1 && points[0].name.is_empty() {
        mistake!(
            "a sweep needs points: --grid PATH=VALUE,…, --zip PATH=VALUE,…, or [sweep] in {}",
            args.recipe.display()
        );
    }
    if let Some(name) = section.variants.keys().find(|name| !is_name(name)) {
        mistake!("`{name}` cannot be the name of a variant: {NAMES}");
    }
    let mut names = HashSet::new();
    for point in &points {
        let folder = Path::new(&point.name).components().map(|c| matches!(c, Component::Normal(_)));
        if folder.collect::<Vec<_>>() != [true] || point.name.len() > MAX_NAME {
            mistake!(
                "`{}` cannot be the name of a folder of at most {MAX_NAME} bytes: give the variant another name",
                point.name
            );
        }
        if !names.insert(&point.name) {
            mistake!(
                "two points would be called `{}` and share a run folder: their values differ only in what a name leaves \
                 out. Give them as [sweep.variants] with names of their own",
                point.name
            );
        }
    }
    Ok(points)
}

/// The value with its relative paths made to start from a folder; what waits for a reference is left to the run.
fn from_folder(of: &Recipe, path: &str, value: &serde_json::Value, folder: &Path) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) if !text.contains("${") && is_path(of, path) => {
            folder.join(text).display().to_string().into()
        }
        serde_json::Value::Object(table) => {
            let each = table.iter().map(|(key, v)| (key.clone(), from_folder(of, &format!("{path}.{key}"), v, folder)));
            each.collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// A value as TOML writes it in one line.
fn inline(value: &serde_json::Value) -> Result<String> {
    Ok(match value {
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
            toml::Value::try_from(value).context("a value of the sweep")?.to_string()
        }
        serde_json::Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    })
}

fn too_many(count: usize) -> Result<()> {
    if count > MAX_POINTS {
        mistake!("{count} points are more than {MAX_POINTS}: a sweep of fewer values");
    }
    Ok(())
}

/// The point with more values set.
fn with(point: &Point, values: &[(&String, &Choice)]) -> Point {
    let mut point = point.clone();
    for (path, value) in values {
        point.set.push(format!("{path}={}", value.set));
        let short = path.strip_prefix("run.").unwrap_or(path);
        let safe = |c: char| if c.is_alphanumeric() || "._-+".contains(c) { c } else { '_' };
        let value: String = value.written.trim_matches('"').chars().take(40).map(safe).collect();
        let part = format!("{short}={value}");
        point.name = if point.name.is_empty() { part } else { format!("{},{part}", point.name) };
    }
    point
}

/// A path that begins with no section is meant in the section `run`.
fn full(path: &str) -> String {
    let path = path.trim();
    let first = path.split('.').next().unwrap_or_default();
    if SECTIONS.contains(&first) { path.to_owned() } else { format!("run.{path}") }
}

/// Values between commas that stand in no brackets and no quotes.
fn split(text: &str) -> Vec<String> {
    let (mut out, mut depth, mut quote) = (vec![String::new()], 0i32, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.into_iter().map(|v| v.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_outside_of_brackets_and_quotes() {
        assert_eq!(split("0,0.002"), ["0", "0.002"]);
        assert_eq!(split("[1, 2], [3]"), ["[1, 2]", "[3]"]);
        assert_eq!(split("\"a,b\",'c,d',{ x = 1, y = 2 }"), ["\"a,b\"", "'c,d'", "{ x = 1, y = 2 }"]);
    }

    #[test]
    fn a_point_is_named_by_what_differs() {
        let point = Point { name: "plain".into(), recipe: "r.toml".into(), set: Vec::new(), unset: Vec::new() };
        let (a, b) = ("loss.domain.weight".to_owned(), full("seed"));
        let made = with(&point, &[(&a, &"0.002".to_owned().into()), (&b, &"3".to_owned().into())]);
        assert_eq!(made.name, "plain,loss.domain.weight=0.002,seed=3");
        assert_eq!(made.set, ["loss.domain.weight=0.002", "run.seed=3"]);
    }
}
