use mtl_component::{Column, Draw, OpenDataset, Partner, Result, Sampler, SamplerConfig, bail, mistake, register};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Partners for a stream with `pairs_with`: for each sample of the other stream one that shows the same person, and where
/// both know it the same capture, with the age groups that there are drawn equally often. Made faces so have the true
/// picture of every age, and lists of real people another picture of the same person.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Partners {
    /// The labels that partners share; without it `identity`, and `capture` where both streams know it.
    #[serde(default)]
    #[schemars(length(min = 1))]
    same: Option<Vec<String>>,
    /// The label whose values are drawn equally often among the possible partners: `group`, or `age` for whole years.
    #[serde(default = "group")]
    by: String,
    /// Whether a picture may be its own partner; told where both streams have the same data.
    #[serde(default = "yes")]
    itself: bool,
    /// What becomes of a sample without a partner.
    #[serde(default)]
    alone: Alone,
}

/// What becomes of a sample without a partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Alone {
    /// It is a mistake: every sample has one.
    #[default]
    Error,
    /// Any sample of the same part of the data stands there, drawn by the same label, and `paired` is 0.
    Any,
}

fn group() -> String {
    "group".into()
}
fn yes() -> bool {
    true
}

impl SamplerConfig for Partners {
    fn open(&self, _: &OpenDataset, _: u64) -> Result<Box<dyn Sampler>> {
        mistake!(
            "it finds partners for the samples of another stream: name that stream as `pairs_with` beside the sampler"
        )
    }

    fn open_beside(&self, data: &OpenDataset, leader: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        let same = self.shared(data, leader)?;
        let classes = labels(data, &self.by)?;
        let mut partners: HashMap<Vec<i64>, Classes> = HashMap::new();
        for (index, key) in keys(data, &same, None)?.into_iter().enumerate() {
            if let Some(key) = key.filter(|_| classes[index] >= 0) {
                partners.entry(key).or_default().entry(classes[index]).or_default().push(index as u32);
            }
        }
        let others_only = !self.itself && data.fingerprint == leader.fingerprint;
        let keys = keys(leader, &same, Some(data))?;
        if self.alone == Alone::Error {
            let several = |index: usize, classes: &Classes| {
                !others_only || classes.values().flatten().any(|partner| *partner as usize != index)
            };
            let has = |index: usize| {
                keys[index].as_ref().and_then(|key| partners.get(key)).is_some_and(|c| several(index, c))
            };
            if let Some(first) = (0..leader.len).find(|index| !has(*index)) {
                let count = (0..leader.len).filter(|index| !has(*index)).count();
                mistake!(
                    "{count} of {} samples have no partner of the same {}, such as {}: say alone = \"any\" in the sampler to \
                     have other samples stand there",
                    leader.len,
                    same.join(" and "),
                    leader.samples.place(first)?
                );
            }
        }
        let mut any = Vec::new();
        for (range, _) in &data.parts {
            let mut of = Classes::new();
            for index in range.clone().filter(|index| classes[*index] >= 0) {
                of.entry(classes[index]).or_default().push(index as u32);
            }
            any.push(of);
        }
        let parts = leader.parts.iter().map(|(range, _)| range.end).collect();
        Ok(Box::new(Found { keys, partners, any, parts, others_only, seed }))
    }
}

impl Partners {
    /// The labels that partners share.
    fn shared(&self, data: &OpenDataset, leader: &OpenDataset) -> Result<Vec<String>> {
        if let Some(same) = &self.same {
            return Ok(same.clone());
        }
        let mut same = vec!["identity".to_owned()];
        if data.samples.column("capture")?.is_some() && leader.samples.column("capture")?.is_some() {
            same.push("capture".into());
        }
        Ok(same)
    }
}

/// Samples by the value of the label that is drawn equally often.
type Classes = BTreeMap<i64, Vec<u32>>;

/// A label of every sample.
fn labels(data: &OpenDataset, name: &str) -> Result<Vec<i64>> {
    match data.samples.column(name)? {
        Some(Column { labels, .. }) => Ok(labels),
        None => mistake!("the dataset has no label `{name}` to find partners by"),
    }
}

/// What partners share, of every sample; none where a part of it is not known. People are told by their names, where
/// `beside` are the samples that they are compared with.
fn keys(data: &OpenDataset, same: &[String], beside: Option<&OpenDataset>) -> Result<Vec<Option<Vec<i64>>>> {
    let mut columns = Vec::new();
    for name in same {
        let mut column = labels(data, name)?;
        if let Some(others) = beside.filter(|_| name == "identity")
            && let Some((own, theirs)) = people(data).zip(people(others))
        {
            let numbers: HashMap<&str, i64> = theirs.iter().map(String::as_str).zip(0..).collect();
            let number = |label: i64| own.get(label as usize).and_then(|name| numbers.get(name.as_str())).copied();
            column.iter_mut().for_each(|label| *label = number(*label).unwrap_or(-1));
        }
        columns.push(column);
    }
    let key = |index: usize| columns.iter().map(|c| Some(c[index]).filter(|label| *label >= 0)).collect();
    Ok((0..data.len).map(key).collect())
}

/// The names of people, in the order of their numbers.
fn people(data: &OpenDataset) -> Option<Vec<String>> {
    let (_, names) = data.records.iter().find(|(name, _)| *name == "identities.json")?;
    serde_json::from_value(names.clone()).ok()
}

/// The partners of every sample of the leading stream.
struct Found {
    /// What each sample of the leading stream shares with its partners.
    keys: Vec<Option<Vec<i64>>>,
    partners: HashMap<Vec<i64>, Classes>,
    /// For each part of the data, all of it.
    any: Vec<Classes>,
    /// Where the parts of the leading stream end.
    parts: Vec<usize>,
    /// Whether a sample is left out of its own partners.
    others_only: bool,
    seed: u64,
}

impl Sampler for Found {
    fn index(&self, _: usize, position: u64, _: u64) -> Result<usize> {
        bail!("a stream of partners has no order of its own, which was asked for at position {position}")
    }

    fn partner(&self, leader: usize, position: u64) -> Result<Partner> {
        let mut draw = Draw::new(&[self.seed, position]);
        let own = self.others_only.then_some(leader as u32);
        let partners = self.keys[leader].as_ref().and_then(|key| self.partners.get(key));
        if let Some(index) = partners.and_then(|classes| drawn(classes, own, &mut draw)) {
            return Ok(Partner { index, is_paired: true });
        }
        let part = self.parts.iter().position(|end| leader < *end).unwrap_or(0);
        // Data of other parts than the leading stream's is one.
        let any = if self.any.len() == self.parts.len() { self.any.get(part) } else { self.any.first() };
        match any.and_then(|classes| drawn(classes, None, &mut draw)) {
            Some(index) => Ok(Partner { index, is_paired: false }),
            None => mistake!("no sample can stand in the place of a partner: none has a known label to draw by"),
        }
    }
}

/// A sample of a value that is drawn equally often, without one of them.
fn drawn(classes: &Classes, without: Option<u32>, draw: &mut Draw) -> Option<usize> {
    // The samples of a class stand in their order.
    let place = |of: &Vec<u32>| without.and_then(|index| of.binary_search(&index).ok());
    let left = |of: &Vec<u32>| of.len() - usize::from(place(of).is_some());
    let possible: Vec<&Vec<u32>> = classes.values().filter(|of| left(of) > 0).collect();
    let class = possible.get(draw.below(possible.len().max(1) as u64) as usize)?;
    let nth = draw.below(left(class) as u64) as usize;
    let behind = place(class).is_some_and(|place| place <= nth);
    Some(class[nth + usize::from(behind)] as usize)
}

register!(Sampler, "partner", Partners);

#[cfg(test)]
mod tests {
    use super::*;
    use mtl_component::{Dataset, SampleOut};
    use std::sync::Arc;

    /// Samples with an identity, a capture and a group.
    struct Rows(Vec<[i64; 3]>);

    impl Dataset for Rows {
        fn sample(&self, _: usize, _: &mut Draw, _: &mut SampleOut<'_>) -> Result<()> {
            Ok(())
        }

        fn column(&self, name: &str) -> Result<Option<Column>> {
            let at = ["identity", "capture", "group"].iter().position(|known| *known == name);
            Ok(at.map(|at| Column { labels: self.0.iter().map(|row| row[at]).collect(), names: None }))
        }
    }

    fn data(rows: &[[i64; 3]], people: &[&str]) -> OpenDataset {
        let opened = OpenDataset::new(Arc::new(Rows(rows.to_vec())), rows.len(), Vec::new(), format!("{rows:?}"));
        OpenDataset { records: vec![("identities.json", serde_json::json!(people))], ..opened }
    }

    fn config(text: &str) -> Partners {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn partners_share_person_and_capture_and_groups_come_equally_often() {
        // Ann and Bob; of Ann's capture 0 two pictures are of group 1.
        let rows = [[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 2], [1, 0, 0], [1, 0, 3]];
        let faces = data(&rows, &["Ann", "Bob"]);
        // The other stream numbers its people the other way round.
        let swapped: Vec<[i64; 3]> =
            rows.iter().map(|[person, capture, group]| [1 - person, *capture, *group]).collect();
        let others = data(&swapped, &["Bob", "Ann"]);
        for targets in [&faces, &others] {
            let sampler = config("{}").open_beside(targets, &faces, 1).unwrap();
            let found: Vec<usize> = (0..900).map(|position| sampler.partner(0, position).unwrap().index).collect();
            let count = |index| found.iter().filter(|found| **found == index).count();
            assert!((400..500).contains(&count(0)) && count(1) > 180 && count(2) > 180, "{} {}", count(0), count(1));
            assert_eq!(count(0) + count(1) + count(2), 900);
            assert_eq!(sampler.partner(3, 5).unwrap(), Partner { index: 3, is_paired: true });
            assert_eq!(sampler.partner(5, 7).unwrap(), sampler.partner(5, 7).unwrap());
        }
        let other = config(r#"{ "itself": false, "alone": "any" }"#).open_beside(&faces, &faces, 1).unwrap();
        assert!((0..50).all(|position| other.partner(4, position).unwrap().index == 5));
        // Nobody else is of that capture.
        assert!((0..50).all(|position| !other.partner(3, position).unwrap().is_paired));
    }

    #[test]
    fn samples_without_a_partner_are_told_or_replaced() {
        let (faces, targets) =
            (data(&[[0, 0, 0], [1, -1, 0]], &["Ann", "Bob"]), data(&[[0, 0, 0], [1, -1, 2]], &["Ann", "Bob"]));
        let error = config("{}").open_beside(&targets, &faces, 1).err().unwrap().to_string();
        assert!(
            error.contains("1 of 2 samples have no partner of the same identity and capture, such as sample 1"),
            "{error}"
        );
        let sampler = config(r#"{ "alone": "any" }"#).open_beside(&targets, &faces, 1).unwrap();
        assert!((0..9).all(|position| sampler.partner(0, position).unwrap() == Partner { index: 0, is_paired: true }));
        assert!((0..9).all(|position| !sampler.partner(1, position).unwrap().is_paired));
        let by_person = config(r#"{ "same": ["identity"] }"#).open_beside(&targets, &faces, 1).unwrap();
        assert_eq!(by_person.partner(1, 3).unwrap(), Partner { index: 1, is_paired: true });
        let error = config("{}").open(&faces, 1).err().unwrap().to_string();
        assert!(error.contains("name that stream as `pairs_with`"), "{error}");
    }
}
