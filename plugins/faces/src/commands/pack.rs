//! Pictures as a record file or a verification set that mxnet, insightface and this program read.

use super::render::{Progress, is_free};
use crate::card::{Card, Step};
use crate::facts::Facts;
use crate::list;
use crate::pair_forms;
use crate::source::{self, Pictures};
use mtl_component::files::read_bounded;
use mtl_component::{Draw, ErrorContext as _, Result, mistake};
use mtl_recipe::files::{stream_atomically, write_atomically};
use mtl_standard::codec;
use mtl_standard::picture_header::Format;
use mtl_standard::records::{Header, RecordWriter};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The largest picture that is packed.
const MAX_BYTES: u64 = 64 << 20;
/// Labels are floats, which tell whole numbers apart below this.
const MAX_PEOPLE: usize = 1 << 24;

/// What is packed, and where.
#[derive(Debug, clap::Args)]
pub struct Pack {
    /// The list, lines of `id filename age gender`, or a folder of people
    #[arg(required_unless_present = "pairs")]
    list: Option<PathBuf>,
    /// A list of pairs, which becomes a verification set
    #[arg(long, value_name = "LIST", conflicts_with_all = ["list", "layout"])]
    pairs: Option<PathBuf>,
    /// The folder that file names start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The folder to make, which must be empty or not be there; of pairs the file, such as own.bin
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// How the records are ordered
    #[arg(long, value_enum, default_value_t)]
    layout: Layout,
    /// Seed of the shuffled layout
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Encode the pictures anew, as JPEG of this quality; without it their bytes stay as they are
    #[arg(long, value_name = "1..100", value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: Option<u8>,
    /// Print what was made as JSON
    #[arg(long)]
    json: bool,
}

/// How records are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Layout {
    /// Person by person, with a block of identities
    #[default]
    Insightface,
    /// In a random order, to be read from slow disks, with labels alone
    Shuffled,
}

impl Pack {
    /// Writes `train.rec`, `train.idx`, `train.lst` and `property` in a layout of insightface, and `list.txt`, which keeps ages
    /// and genders; or a verification set. Returns what was made.
    ///
    /// # Errors
    /// A mistake if the list or a picture cannot be used.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        let told = match (&self.pairs, &self.list) {
            (Some(pairs), _) => self.verification_set(pairs, progress)?,
            (None, Some(list)) => self.records(list, progress)?,
            (None, None) => mistake!("name a list or folder of pictures, or --pairs"),
        };
        Ok(if self.json { serde_json::to_string_pretty(&told.0)? } else { told.1 })
    }

    /// The bytes of a picture as they are packed.
    fn bytes(&self, pictures: &Pictures, index: usize) -> Result<Vec<u8>> {
        let place = || pictures.source.pictures.place(index).unwrap_or_default();
        let bytes = match pictures.source.pictures.encoded(index).with_context(place)? {
            Some(bytes) => bytes,
            None => codec::png(&pictures.read(index)?)?,
        };
        self.ready(bytes, &place())
    }

    fn ready(&self, bytes: Vec<u8>, place: &str) -> Result<Vec<u8>> {
        if bytes.len() as u64 > MAX_BYTES {
            mistake!("{place}: the picture has {} bytes, expected at most {MAX_BYTES}", bytes.len());
        }
        if let Some(quality) = self.quality {
            let picture = codec::decode(&bytes).with_context(|| format!("{place} is no picture"))?;
            return codec::jpeg(&picture, quality);
        }
        if !matches!(Format::of(&bytes), Some(Format::Jpeg | Format::Png)) {
            mistake!("{place} is neither JPEG nor PNG, which are what readers of records expect: say --quality 95");
        }
        Ok(bytes)
    }

    fn records(&self, path: &Path, progress: Progress<'_>) -> Result<(serde_json::Value, String)> {
        let pictures = source::at(path, self.root.as_deref(), None)?.complete()?;
        let people = &pictures.people;
        if people.len() > MAX_PEOPLE {
            mistake!("{} people do not fit: labels of records are floats, which tell {MAX_PEOPLE} apart", people.len());
        }
        if let Some(i) = pictures.labels.iter().position(|label| label.identity >= people.len() as i64) {
            mistake!("it is not known whom {} shows: records have an identity each", pictures.name(i));
        }
        is_free(&self.out)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("making the folder {}", self.out.display()))?;
        let mut order: Vec<usize> = (0..pictures.len()).collect();
        let blocked = self.layout == Layout::Insightface;
        if blocked {
            order.sort_by_key(|i| pictures.labels[*i].identity);
        } else {
            let mut draw = Draw::new(&[self.seed, 0x5ff1]);
            (1..order.len()).rev().for_each(|i| order.swap(i, draw.below(i as u64 + 1) as usize));
        }
        let mut records = RecordWriter::create(&self.out.join("train.rec"))?;
        let (mut text, mut lst) = (String::new(), String::new());
        let mut starts = vec![0i64; people.len() + 1];
        let mut size = None;
        // insightface looks for a record 0, which is that of the block or a picture.
        let first_key = i64::from(blocked);
        for (n, i) in order.iter().enumerate() {
            let (label, key) = (pictures.labels[*i], n as i64 + first_key);
            let bytes = self.bytes(&pictures, *i)?;
            if size.is_none() {
                let first = codec::decode(&bytes).with_context(|| format!("{} is no picture", pictures.name(*i)))?;
                size = Some((first.height, first.width));
            }
            let header = Header { labels: vec![label.identity as f32], is_list: false, id: key as u64, id2: 0 };
            records.write(key, &header.joined(&bytes))?;
            starts[label.identity as usize + 1] = key + 1;
            let person = &people[label.identity as usize];
            let name = format!("{:06}/{key:08}.jpg", label.identity);
            text.push_str(&list::line(person, &name, &label));
            let _ = writeln!(lst, "1\t{}\t{}", pictures.source.pictures.name(*i)?, label.identity);
            progress(n as u64 + 1, order.len() as u64);
        }
        if blocked {
            self.block(&mut records, &mut starts, order.len())?;
        }
        let (height, width) = size.unwrap_or_default();
        let shuffled = if blocked { String::new() } else { format!("{}\nshuffled\n", order.len()) };
        let property = format!("{},{height},{width}\n{shuffled}", people.len());
        write_atomically(&self.out.join("property"), property.as_bytes())?;
        write_atomically(&self.out.join("train.lst"), lst.as_bytes())?;
        write_atomically(&self.out.join("list.txt"), text.as_bytes())?;
        records.finish()?;
        let facts = Facts::of(&pictures)?;
        let step = Step::new(format!("mtlrun data pack {}", path.display())).read(path)?.found("pictures", order.len());
        Card::grow(&self.out, step, |card| card.facts = Some(facts))?;
        let told = format!(
            "{}: {} pictures of {} people in train.rec; train with list = \"list.txt\" and records = \"train.rec\"",
            self.out.display(),
            order.len(),
            people.len()
        );
        Ok((serde_json::json!({ "out": self.out, "pictures": order.len(), "people": people.len() }), told))
    }

    /// The records of identities, and record 0, which says where they are.
    fn block(&self, records: &mut RecordWriter, starts: &mut [i64], pictures: usize) -> Result<()> {
        starts[0] = 1;
        let first = pictures as i64 + 1;
        for (person, range) in starts.windows(2).enumerate() {
            let key = first + person as i64;
            let header =
                Header { labels: vec![range[0] as f32, range[1] as f32], is_list: true, id: key as u64, id2: 0 };
            records.write(key, &header.joined(&[]))?;
        }
        let last = first + starts.len() as i64 - 1;
        let block = Header { labels: vec![first as f32, last as f32], is_list: true, id: 0, id2: 1 };
        records.write(0, &block.joined(&[]))
    }

    /// A pickle of two lists, of bytes and of flags, in Python's protocol 3.
    fn verification_set(&self, path: &Path, progress: Progress<'_>) -> Result<(serde_json::Value, String)> {
        let entries = pair_forms::entries(path)?;
        if self.out.is_dir() {
            mistake!("{} is a folder: --out names the file of a verification set", self.out.display());
        }
        let root = list::root(path, self.root.as_deref());
        let count = entries.len() as u64 * 2;
        stream_atomically(&self.out, |out| {
            out.write_all(b"\x80\x03](")?;
            for (n, entry) in entries.iter().enumerate() {
                for (side, name) in [&entry.a, &entry.b].into_iter().enumerate() {
                    let file = root.join(name);
                    let bytes =
                        read_bounded(&file, MAX_BYTES).with_context(|| format!("{}:{}", path.display(), entry.line))?;
                    let bytes = self.ready(bytes, &file.display().to_string())?;
                    out.write_all(b"B")?;
                    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
                    out.write_all(&bytes)?;
                    progress((2 * n + side) as u64 + 1, count);
                }
            }
            out.write_all(b"e](")?;
            for entry in &entries {
                out.write_all(&[if entry.same { 0x88 } else { 0x89 }])?;
            }
            Ok(out.write_all(b"e\x86.")?)
        })?;
        let told = format!("{}: {} pairs; measure with bin = \"{0}\"", self.out.display(), entries.len());
        Ok((serde_json::json!({ "out": self.out, "pairs": entries.len() }), told))
    }
}
