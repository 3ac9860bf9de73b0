use crate::label::{self, Label};
use crate::made::{Collection, MadeFaces};
use anyhow::Result;
use mtl_core::component::Ports;
use mtl_core::data::draw::Draw;
use mtl_core::data::{Column, Dataset, DatasetConfig, Field, Open, SampleOut, Transform};
use mtl_core::{mistake, register};
use std::sync::Arc;

impl DatasetConfig for MadeFaces {
    fn ports(&self) -> Ports {
        label::ports(self.size)
    }

    fn declares(&self) -> Vec<&'static str> {
        vec!["identities"]
    }

    fn problems(&self) -> Vec<String> {
        self.problems()
    }

    fn open(&self, context: &Open<'_>) -> Result<Box<dyn Dataset>> {
        let edges = label::edges(context.dims, "synthetic_faces")?;
        if self.identities < 2 {
            mistake!("synthetic_faces has one identity: recognition needs at least two");
        }
        let collection = self.open()?;
        let labels = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        Ok(Box::new(Made { faces: self.clone(), collection, labels, edges, transforms: context.transforms.clone() }))
    }
}

struct Made {
    faces: MadeFaces,
    collection: Collection,
    labels: Vec<Label>,
    edges: &'static [f32],
    transforms: Vec<Arc<dyn Transform>>,
}

impl Dataset for Made {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn fields(&self) -> Vec<Field> {
        label::fields(self.faces.size)
    }

    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        let mut picture = self.collection.picture(index)?;
        for transform in &self.transforms {
            transform.apply(&mut picture, draw)?;
        }
        self.labels[index].write(picture, self.faces.size as usize, self.edges, out)
    }

    fn sizes(&self) -> Vec<(&'static str, i64)> {
        vec![("identities", self.faces.identities as i64)]
    }

    fn column(&self, name: &str) -> Option<Column> {
        Label::column(&self.labels, name, self.edges)
    }

    fn fingerprint(&self) -> String {
        self.faces.description()
    }

    fn records(&self) -> Vec<(&'static str, serde_json::Value)> {
        let people: Vec<String> = self.collection.people.iter().map(|p| p.number.to_string()).collect();
        vec![("identities.json", serde_json::json!(people))]
    }
}

register!(Dataset, "synthetic_faces", MadeFaces);
