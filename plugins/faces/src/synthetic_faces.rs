use crate::faces::Samples;
use crate::label;
use crate::made::MadeFaces;
use crate::source::Pictures;
use mtl_component::{DatasetConfig, Description, Open, OpenDataset, PictureSourceConfig, Result, mistake, register};

impl DatasetConfig for MadeFaces {
    fn describe(&self) -> Result<Description> {
        Ok(label::description(self.size).problems(self.problems()))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let edges = label::edges(open.dims, "synthetic_faces")?;
        if self.identities < 2 {
            mistake!("synthetic_faces has one identity: recognition needs at least two");
        }
        let pictures = Pictures::of(PictureSourceConfig::open(self)?)?;
        let samples = Samples::joined(vec![(pictures, 1.0)], false)?.with(edges, self.size, open);
        let opened = samples.opened(self.description())?;
        Ok(OpenDataset { summary: String::new(), ..opened })
    }
}

register!(Dataset, "synthetic_faces", MadeFaces);
