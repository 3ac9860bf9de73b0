//! Faces of the project's own making.

use super::columns;
use crate::label::Label;
use crate::made::{Collection, MadeFaces};
use mtl_component::{
    OpenSource, Picture, PictureSource, PictureSourceConfig, Result, SourceColumn, SourceDescription, register,
};
use std::sync::Arc;

impl PictureSourceConfig for MadeFaces {
    fn describe(&self) -> Result<SourceDescription> {
        Ok(SourceDescription { problems: self.problems(), ..SourceDescription::default() })
    }

    fn open(&self) -> Result<OpenSource> {
        let collection = self.collection()?;
        let labels: Vec<Label> = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        let capture = SourceColumn {
            name: "capture".into(),
            values: collection.shots.iter().map(|shot| shot.capture as f64).collect(),
            names: None,
        };
        let people = collection.people.iter().map(|p| p.number.to_string()).collect();
        let opened = OpenSource::new(Arc::new(collection), labels.len(), self.description());
        Ok(OpenSource { columns: columns(&labels, people), ..opened }.with(capture))
    }
}

impl PictureSource for Collection {
    fn picture(&self, index: usize) -> Result<Picture> {
        self.shot(index)
    }

    fn variant(&self, index: usize, column: &str, value: f64) -> Result<Option<Picture>> {
        if column != "age" {
            return Ok(None);
        }
        self.at_age(index, value as f32).map(Some)
    }

    fn place(&self, index: usize) -> Result<String> {
        Ok(format!("made picture {index}"))
    }
}

register!(Source, "made", MadeFaces);
