use crate::label::{self, Label};
use crate::made::{Collection, MadeFaces};
use mtl_component::{
    Column, Dataset, DatasetConfig, Description, Draw, Open, OpenDataset, Result, SampleOut, Transform, mistake,
    register,
};
use std::sync::Arc;

impl DatasetConfig for MadeFaces {
    fn describe(&self) -> Result<Description> {
        Ok(label::description(self.size).problems(self.problems()))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let edges = label::edges(open.dims, "synthetic_faces")?;
        if self.identities < 2 {
            mistake!("synthetic_faces has one identity: recognition needs at least two");
        }
        let collection = self.open()?;
        let labels: Vec<Label> = (0..collection.shots.len()).map(|i| collection.label(i)).collect();
        let count = labels.len();
        let people: Vec<String> = collection.people.iter().map(|p| p.number.to_string()).collect();
        let size = self.size as usize;
        let samples = Made { size, collection, labels, edges, transforms: open.transforms.clone() };
        let opened = OpenDataset::new(Arc::new(samples), count, label::fields(self.size), self.description());
        Ok(OpenDataset {
            sizes: vec![("identities", self.identities as i64)],
            records: vec![("identities.json", serde_json::json!(people))],
            ..opened
        })
    }
}

struct Made {
    size: usize,
    collection: Collection,
    labels: Vec<Label>,
    edges: &'static [f32],
    transforms: Vec<Arc<dyn Transform>>,
}

impl Dataset for Made {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        let mut picture = self.collection.picture(index)?;
        for transform in &self.transforms {
            transform.apply(&mut picture, draw)?;
        }
        self.labels[index].write(picture, self.size, self.edges, out)
    }

    fn column(&self, name: &str) -> Result<Option<Column>> {
        Ok(Label::column(&self.labels, name, self.edges))
    }
}

register!(Dataset, "synthetic_faces", MadeFaces);
