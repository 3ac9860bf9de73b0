//! Data cards: what a data set is, how it was made, and what it must not be used for. A card lies beside the data as
//! `card.json` and, to be read, `card.md`; every step that works on the data adds to it.

use crate::facts::Facts;
use mtl_component::files::read_text;
use mtl_component::{ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// The largest card that is read.
const MAX_BYTES: u64 = 16 << 20;
/// What stands where nobody has said under which terms data may be used.
const NO_LICENCE: &str = "not stated: do not redistribute";

/// What is said of a data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    /// Its name.
    pub name: Option<String>,
    /// Where it is from, as the user says it.
    pub origin: Option<String>,
    /// The licence and terms.
    pub licence: Option<String>,
    /// What is to be cited.
    pub citation: Option<String>,
    /// How ages are known: by dates of birth, file names, annotators, or an estimator.
    pub ages_known_by: Option<String>,
    /// How sex and other attributes are known.
    pub attributes_known_by: Option<String>,
    /// On consent, and on how people are removed.
    pub consent: Option<String>,
    /// What is known to be wrong with it.
    pub faults: Vec<String>,
    /// What it must not be used for.
    pub not_for: Vec<String>,
    /// What the pictures are.
    pub facts: Option<Facts>,
    /// How it was made, step by step.
    pub steps: Vec<Step>,
}

/// A step that made the data, or looked at it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// The command.
    pub command: String,
    /// The version of the program.
    pub version: String,
    /// What it read: paths, each with the SHA-256 of the file.
    pub inputs: BTreeMap<String, String>,
    /// What it found, by name.
    pub found: BTreeMap<String, String>,
}

impl Step {
    /// A step of a command with its arguments.
    pub fn new(command: impl Into<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { command: command.into(), version, ..Self::default() }
    }

    /// Adds a file that it read.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(mut self, path: &Path) -> Result<Self> {
        if path.is_file() {
            self.inputs.insert(path.display().to_string(), sha256(path)?);
        }
        Ok(self)
    }

    /// Adds something that it found.
    pub fn found(mut self, name: &str, value: impl ToString) -> Self {
        self.found.insert(name.to_owned(), value.to_string());
        self
    }
}

/// The SHA-256 of a file, read part by part.
fn sha256(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part).with_context(|| format!("reading {}", path.display()))? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&part[..n]),
        }
    }
}

impl Card {
    /// The card in a folder, or an empty one.
    ///
    /// # Errors
    /// A mistake if there is one that cannot be read.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("card.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = match read_text(&path, MAX_BYTES) {
            Ok(text) => text,
            Err(e) => mistake!("cannot read the data card {}: {e}", path.display()),
        };
        match serde_json::from_str(&text) {
            Ok(card) => Ok(card),
            Err(e) => mistake!("{} is no data card: {e}. Mend it, or move it away", path.display()),
        }
    }

    /// Adds a step to the card in a folder, with what the pictures are where that has changed. What was said before stays.
    ///
    /// # Errors
    /// A mistake if the card there cannot be read.
    pub fn grow(folder: &Path, step: Step, change: impl FnOnce(&mut Self)) -> Result<Self> {
        let mut card = Self::in_folder(folder)?;
        change(&mut card);
        // The same step again, as in a run that is repeated, is one step.
        if card.steps.last() != Some(&step) {
            card.steps.push(step);
        }
        card.write(folder)?;
        Ok(card)
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        write_atomically(&folder.join("card.json"), json.as_bytes())?;
        write_atomically(&folder.join("card.md"), self.text().as_bytes())
    }

    /// The card to be read.
    pub fn text(&self) -> String {
        let mut out = format!("# {}\n", self.name.as_deref().unwrap_or("A data set without a name"));
        let mut section = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                let _ = write!(out, "\n## {title}\n\n{}\n", lines.join("\n"));
            }
        };
        let said = |name: &str, what: &Option<String>, otherwise: &str| {
            format!("- {name}: {}", what.as_deref().unwrap_or(otherwise))
        };
        section(
            "What it is",
            vec![
                said("origin", &self.origin, "not stated"),
                said("licence and terms", &self.licence, NO_LICENCE),
                said("citation", &self.citation, "not stated"),
                said("ages are known by", &self.ages_known_by, "not stated"),
                said("sex and other attributes are known by", &self.attributes_known_by, "not stated"),
                said("consent, and how people are removed", &self.consent, "not stated"),
            ],
        );
        let facts = self.facts.as_ref();
        section(
            "Pictures",
            facts.iter().flat_map(|f| f.lines()).map(|(name, text)| format!("- {name}: {text}")).collect(),
        );
        let decades = facts.iter().flat_map(|facts| &facts.ages_by_decade);
        section("Pictures by age", decades.map(|(decade, count)| format!("- {decade}: {count}")).collect());
        section("Known faults", self.faults.iter().map(|fault| format!("- {fault}")).collect());
        section("What it must not be used for", self.not_for.iter().map(|what| format!("- {what}")).collect());
        let steps = self.steps.iter().enumerate().map(|(i, step)| {
            let mut text = format!("{}. `{}` (version {})", i + 1, step.command, step.version);
            for (path, hash) in &step.inputs {
                let _ = write!(text, "\n   - read {path}, SHA-256 {hash}");
            }
            for (name, value) in &step.found {
                let _ = write!(text, "\n   - {name}: {value}");
            }
            text
        });
        section("How it was made", steps.collect());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_grows_and_keeps_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        std::fs::write(&list, "1 a.jpg 3 1\n").unwrap();
        let step = || Step::new("mtlrun data convert fgnet").read(&list).unwrap().found("accepted", 1002);
        Card::grow(dir.path(), step(), |card| card.name = Some("FG-NET".into())).unwrap();
        let first = std::fs::read(dir.path().join("card.md")).unwrap();
        Card::grow(dir.path(), step(), |_| {}).unwrap();
        assert_eq!(first, std::fs::read(dir.path().join("card.md")).unwrap());
        let card = Card::grow(dir.path(), Step::new("mtlrun data align"), |_| {}).unwrap();
        assert_eq!((card.name.as_deref(), card.steps.len()), (Some("FG-NET"), 2));
        let text = std::fs::read_to_string(dir.path().join("card.md")).unwrap();
        for words in ["# FG-NET", NO_LICENCE, "accepted: 1002", "2. `mtlrun data align`", "SHA-256"] {
            assert!(text.contains(words), "{words} in {text}");
        }
        std::fs::write(dir.path().join("card.json"), "{").unwrap();
        let error = Card::in_folder(dir.path()).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("is no data card"), "{error}");
    }
}
