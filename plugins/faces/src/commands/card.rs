//! The data card of a folder: what is said of it, and what its pictures are.

use crate::card::{Card, Step};
use crate::facts::Facts;
use crate::source;
use mtl_component::{Result, mistake};
use std::path::PathBuf;

/// The card, and what is added to it.
#[derive(Debug, clap::Args)]
pub struct DescribeCard {
    /// The folder of the data, with list.txt or records
    folder: PathBuf,
    /// The folder that the file names of its list start from
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Its name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Where it is from
    #[arg(long, value_name = "TEXT")]
    origin: Option<String>,
    /// The licence and terms
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    /// What is to be cited
    #[arg(long, value_name = "TEXT")]
    citation: Option<String>,
    /// How ages are known
    #[arg(long, value_name = "TEXT")]
    ages_known_by: Option<String>,
    /// How sex and other attributes are known
    #[arg(long, value_name = "TEXT")]
    attributes_known_by: Option<String>,
    /// On consent, and on how people are removed
    #[arg(long, value_name = "TEXT")]
    consent: Option<String>,
    /// Something that is wrong with it; may be given again
    #[arg(long, value_name = "TEXT")]
    fault: Vec<String>,
    /// Something that it must not be used for; may be given again
    #[arg(long, value_name = "TEXT")]
    not_for: Vec<String>,
    /// Print the card as JSON
    #[arg(long)]
    json: bool,
}

impl DescribeCard {
    /// Adds to the card and gives it, to be read.
    ///
    /// # Errors
    /// A mistake if the folder holds no data, or another text stands there already.
    pub fn run(&self) -> Result<String> {
        if !self.folder.is_dir() {
            mistake!("there is no folder {}", self.folder.display());
        }
        let mut card = Card::in_folder(&self.folder)?;
        for (what, given, there) in [
            ("name", &self.name, &mut card.name),
            ("origin", &self.origin, &mut card.origin),
            ("licence", &self.licence, &mut card.licence),
            ("citation", &self.citation, &mut card.citation),
            ("ages-known-by", &self.ages_known_by, &mut card.ages_known_by),
            ("attributes-known-by", &self.attributes_known_by, &mut card.attributes_known_by),
            ("consent", &self.consent, &mut card.consent),
        ] {
            match (given, &there) {
                // What was said before may be the set's own word: whoever knows better changes it there.
                (Some(given), Some(before)) if given != before => mistake!(
                    "the card says `{before}` for {what}, which is not written over: change it in {}",
                    self.folder.join("card.json").display()
                ),
                (Some(given), _) => *there = Some(given.clone()),
                (None, _) => {}
            }
        }
        let add = |to: &mut Vec<String>, more: &[String]| {
            more.iter().for_each(|text| {
                if !to.contains(text) {
                    to.push(text.clone())
                }
            });
        };
        add(&mut card.faults, &self.fault);
        add(&mut card.not_for, &self.not_for);
        let list = self.folder.join("list.txt");
        let facts = if list.is_file() {
            Some(Facts::of(&source::at(&list, self.root.as_deref(), None)?)?)
        } else {
            source::at(&self.folder, None, None).ok().map(|pictures| Facts::of(&pictures)).transpose()?
        };
        card.facts = facts.or(card.facts.take());
        if card.steps.is_empty() {
            card.steps.push(Step::new("mtlrun data card").read(&list)?);
        }
        card.write(&self.folder)?;
        Ok(if self.json { serde_json::to_string_pretty(&card)? } else { card.text() })
    }
}
