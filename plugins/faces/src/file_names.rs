//! What the file names of published age sets tell.
//!
//! | set | name | tells |
//! |---|---|---|
//! | FG-NET | `001A02.JPG`, `001A43a.JPG` | person, age |
//! | MORPH | `040198_0F49.JPG` | person, sex, age |
//! | CACD | `14_Ben_Corvin_0001.jpg` | age, person |
//! | CACD-VS | `0012_1.jpg` | pair and side |
//! | AgeDB | `0_AdaMarlow_35_f.jpg` | person, age, sex |
//! | UTKFace | `26_1_3_20170117175041574.jpg.chip.jpg` | age, sex (0 male) |
//! | IMDB-WIKI | `nm0000001_rm124825600_1899-5-10_1968.jpg` | person, birth, year of the picture |
//! | LFW | `Ada_Marlow_0001.jpg` | person |
//! | ECAF | `Karl_Lindt_adult_001.png` | person, stage of life |

use regex::Regex;
use std::sync::LazyLock;

/// A published set, by what its file names look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameForm {
    /// FG-NET.
    Fgnet,
    /// MORPH, album 2.
    Morph,
    /// UTKFace.
    Utkface,
    /// CACD.
    Cacd,
    /// CACD-VS.
    CacdVs,
    /// AgeDB.
    Agedb,
    /// IMDB-WIKI.
    ImdbWiki,
    /// LFW.
    Lfw,
    /// ECAF.
    Ecaf,
}

/// What a name tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// The person; of CACD-VS the pair.
    pub person: Option<String>,
    /// The age in years.
    pub age: Option<f32>,
    /// 1 male, 0 female.
    pub sex: Option<i64>,
    /// The year in which the picture was taken.
    pub year: Option<i32>,
    /// The side of a pair.
    pub side: Option<usize>,
    /// Whether the name is one of the few that lack a field, which are read all the same.
    pub is_odd: bool,
}

static GRAMMARS: LazyLock<Vec<(NameForm, Result<Regex, regex::Error>)>> = LazyLock::new(|| {
    let grammar = |form, text: &str| (form, Regex::new(text));
    vec![
        grammar(NameForm::Fgnet, r"^(?P<person>\d{3})[Aa](?P<age>\d{2})(?P<shot>[a-z]?)\.(?:jpg|JPG|jpeg|png)$"),
        grammar(
            NameForm::Morph,
            r"^(?P<person>\d{5,6})_(?P<shot>\d{1,2})(?P<sex>[MF])(?P<age>\d{2})\.(?:JPG|jpg|png)$",
        ),
        grammar(
            NameForm::Utkface,
            r"^(?P<age>\d{1,3})_(?P<sex>[01])_(?:(?P<race>[0-4])_)?(?P<stamp>\d{17})(?P<odd> )?(?P<dot>\.)?jpg(?:\.chip\.jpg)?$",
        ),
        grammar(NameForm::Cacd, r"^(?P<age>\d{2})_(?P<person>.+)_(?P<shot>\d{4})\.jpg$"),
        grammar(NameForm::CacdVs, r"^(?P<person>\d{4})_(?P<side>[01])\.jpg$"),
        grammar(NameForm::Agedb, r"^(?P<number>\d+)_(?P<person>.+)_(?P<age>\d{1,3})_(?P<sex>[mf])\.jpg$"),
        grammar(
            NameForm::ImdbWiki,
            r"^(?P<person>nm\d{7}|\d+)_(?:rm\d+_)?(?P<born>\d{4})-(?P<month>\d{1,2})-\d{1,2}_(?P<year>\d{4})\.jpg$",
        ),
        grammar(NameForm::Lfw, r"^(?P<person>.+)_(?P<shot>\d{4})\.(?:jpg|png)$"),
        grammar(NameForm::Ecaf, r"^(?P<person>.+)_(?P<stage>child|adult)_(?P<shot>\d{3})\.(?:png|jpg)$"),
    ]
});

impl NameForm {
    /// What a file name tells; none if it is not of this form.
    pub fn read(self, name: &str) -> Option<Told> {
        let grammar = GRAMMARS.iter().find(|(form, _)| *form == self)?.1.as_ref().ok()?;
        let found = grammar.captures(name)?;
        let text = |part: &str| found.name(part).map(|found| found.as_str());
        let number = |part: &str| text(part)?.parse::<f32>().ok();
        let sex = text("sex").and_then(|sex| match (self, sex) {
            // UTKFace writes it the other way round.
            (Self::Utkface, "0") | (_, "M" | "m") => Some(1),
            (Self::Utkface, "1") | (_, "F" | "f") => Some(0),
            _ => None,
        });
        let age = match self {
            Self::ImdbWiki => age_at(number("born")?, number("month")?, number("year")?),
            _ => number("age"),
        };
        Some(Told {
            person: text("person").map(str::to_owned),
            age,
            sex,
            year: text("year").and_then(|year| year.parse().ok()),
            side: number("side").map(|side| side as usize),
            is_odd: self == Self::Utkface && (text("race").is_none() || text("odd").is_some() || text("dot").is_none()),
        })
    }

    /// A name of this form.
    pub fn example(self) -> &'static str {
        match self {
            Self::Fgnet => "001A43a.JPG",
            Self::Morph => "040198_0F49.JPG",
            Self::Utkface => "26_1_3_20170117175041574.jpg.chip.jpg",
            Self::Cacd => "14_Ben_Corvin_0001.jpg",
            Self::CacdVs => "0012_1.jpg",
            Self::Agedb => "0_AdaMarlow_35_f.jpg",
            Self::ImdbWiki => "nm0000001_rm124825600_1899-5-10_1968.jpg",
            Self::Lfw => "Ada_Marlow_0001.jpg",
            Self::Ecaf => "Karl_Lindt_adult_001.png",
        }
    }
}

/// The age in a picture of which only the year is known, taken as its middle: a year less for who was born from July on.
pub fn age_at(born: f32, month: f32, year: f32) -> Option<f32> {
    let age = year - born - if month >= 7.0 { 1.0 } else { 0.0 };
    (age >= 0.0).then_some(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_or_not_as_listed() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/names.json"));
        let cases: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            let (set, name) = (case["set"].as_str().unwrap(), case["name"].as_str().unwrap());
            let form = match set {
                "fgnet" => NameForm::Fgnet,
                "morph" => NameForm::Morph,
                "utkface" => NameForm::Utkface,
                "cacd" => NameForm::Cacd,
                "cacd_vs" => NameForm::CacdVs,
                "agedb" => NameForm::Agedb,
                "imdb_wiki" => NameForm::ImdbWiki,
                "lfw" => NameForm::Lfw,
                _ => NameForm::Ecaf,
            };
            let told = form.read(name);
            let Some(fields) = case["fields"].as_object() else {
                // A name that lacks a field is no name of the strict form, and may be read as an odd one.
                assert!(told.is_none_or(|told| told.is_odd), "{set} {name}");
                continue;
            };
            let told = told.unwrap_or_else(|| panic!("{set} {name}"));
            assert_eq!(told.person.as_deref(), fields.get("person").and_then(|p| p.as_str()), "{name}");
            if let Some(age) = fields.get("age") {
                assert_eq!(told.age.unwrap(), age.as_str().unwrap().parse::<f32>().unwrap(), "{name}");
            }
            assert_eq!(form.read(form.example()).map(|told| told.is_odd), Some(false), "{set}");
        }
    }

    #[test]
    fn sexes_and_dates_are_those_of_each_set() {
        let read = |form: NameForm, name| form.read(name).unwrap();
        assert_eq!(read(NameForm::Utkface, "26_1_3_20170117175041574.jpg").sex, Some(0));
        assert_eq!(read(NameForm::Morph, "040198_0F49.JPG").sex, Some(0));
        assert_eq!(read(NameForm::Agedb, "0_Ada_Marlow_35_m.jpg").sex, Some(1));
        assert_eq!(read(NameForm::ImdbWiki, "nm0000001_rm124825600_1899-5-10_1968.jpg").age, Some(69.0));
        assert_eq!(read(NameForm::ImdbWiki, "10000217_1981-07-05_2009.jpg").age, Some(27.0));
        assert!(read(NameForm::Utkface, "61_1_20170109142408075.jpg.chip.jpg").is_odd);
        assert!(read(NameForm::Utkface, "39_1_0_20170116174525125 .jpg").is_odd);
    }
}
