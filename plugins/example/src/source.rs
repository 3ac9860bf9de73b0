use mtl_component::{
    Draw, OpenSource, Picture, PictureSource, PictureSourceConfig, Result, SourceColumn, SourceDescription, register,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// People as patches of colours: a pattern is the person, its brightness the age. What a network has to find is known.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ColourPeople {
    /// Number of people.
    #[schemars(range(min = 2, max = 10_000))]
    people: usize,
    /// Pictures of each person, of evenly spread ages.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 1000))]
    pictures: usize,
}

fn eight() -> usize {
    8
}

/// Patches a side, and pixels a side of each.
const PATCHES: usize = 4;
const PATCH: usize = 12;

impl PictureSourceConfig for ColourPeople {
    fn describe(&self) -> Result<SourceDescription> {
        Ok(SourceDescription::default())
    }

    fn open(&self) -> Result<OpenSource> {
        let each = |value: &dyn Fn(usize) -> f64| (0..self.people * self.pictures).map(value).collect::<Vec<f64>>();
        let column = |name: &str, values| SourceColumn { name: name.into(), values, names: None };
        let names = (0..self.people).map(|person| format!("person {person}")).collect();
        let identity = column("identity", each(&|i| (i / self.pictures) as f64));
        let source = OpenSource::new(
            Arc::new(self.clone()),
            self.people * self.pictures,
            format!("{} people of colours, {} pictures each", self.people, self.pictures),
        );
        Ok(source
            .with(SourceColumn { names: Some(names), ..identity })
            .with(column("age", each(&|i| self.age(i))))
            .with(column("gender", each(&|i| (i / self.pictures % 2) as f64))))
    }
}

impl ColourPeople {
    /// Years of 0 to 80.
    fn age(&self, index: usize) -> f64 {
        80.0 * (index % self.pictures) as f64 / self.pictures as f64
    }
}

impl PictureSource for ColourPeople {
    fn picture(&self, index: usize) -> Result<Picture> {
        let mut draw = Draw::new(&[0xc0, (index / self.pictures) as u64]);
        let colours: Vec<f64> = (0..PATCHES * PATCHES * 3).map(|_| draw.range(60.0, 180.0)).collect();
        let side = PATCHES * PATCH;
        let mut data = Vec::with_capacity(side * side * 3);
        for at in 0..side * side {
            let patch = at / side / PATCH * PATCHES + at % side / PATCH;
            data.extend((0..3).map(|channel| (colours[patch * 3 + channel] + self.age(index) - 40.0) as u8));
        }
        Picture::new(side, side, data)
    }
}

register!(Source, "colour_people", ColourPeople);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_is_the_person_and_the_brightness_the_age() {
        let config = ColourPeople { people: 3, pictures: 4 };
        let opened = config.open().unwrap();
        let picture = |i: usize| opened.pictures.picture(i).unwrap().data;
        let (young, older) = (picture(4), picture(5));
        // Bytes are cut off and not rounded: they differ by 20 years, or by one less or more.
        assert!(young.iter().zip(&older).all(|(a, b)| (i32::from(*b) - i32::from(*a) - 20).abs() <= 1));
        assert_ne!(young, picture(8));
        assert_eq!(opened.column("identity").unwrap().values[3..6], [0.0, 1.0, 1.0]);
    }
}
