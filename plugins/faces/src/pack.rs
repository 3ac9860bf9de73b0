//! Pictures of a list as a record file that mxnet, insightface and this program read.

use crate::list;
use crate::render::{Progress, is_free};
use mtl_component::files::read_bounded;
use mtl_component::{ErrorContext as _, Result, mistake};
use mtl_recipe::files::write_atomically;
use mtl_standard::codec;
use mtl_standard::records::{Header, RecordWriter};
use std::fmt::Write;
use std::path::PathBuf;

/// The largest picture that is packed.
const MAX_BYTES: u64 = 64 << 20;
/// Labels are floats, which tell whole numbers apart below this.
const MAX_PEOPLE: usize = 1 << 24;

/// Which list is packed, and where.
#[derive(Debug, clap::Args)]
pub struct Pack {
    /// The list: lines of `id filename age gender`
    list: PathBuf,
    /// The folder that its file names start from; without it the folder of the list
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The folder to make; it must be empty or not be there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Pack {
    /// Writes `train.rec`, `train.idx` and `property` in the layout of insightface, and `list.txt`, which keeps ages and
    /// genders; the bytes of the pictures are those of the files. Returns a line about what was made.
    ///
    /// # Errors
    /// A mistake if the list or a picture cannot be used.
    pub fn run(&self, progress: Progress<'_>) -> Result<String> {
        let root = list::root(&self.list, self.root.as_deref());
        let faces = list::read(&self.list, &root)?;
        list::report(list::missing(&faces, &self.list), "pictures are missing")?;
        let (people, labels) = list::labels(&faces);
        if people.len() > MAX_PEOPLE {
            mistake!("{} people do not fit: labels of records are floats, which tell {MAX_PEOPLE} apart", people.len());
        }
        is_free(&self.out)?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("making the folder {}", self.out.display()))?;
        let mut order: Vec<usize> = (0..faces.len()).collect();
        order.sort_by_key(|i| labels[*i].identity);
        let mut records = RecordWriter::create(&self.out.join("train.rec"))?;
        let mut text = String::new();
        let mut starts = vec![0i64; people.len() + 1];
        let mut size = None;
        for (n, i) in order.iter().enumerate() {
            let (face, label, key) = (&faces[*i], labels[*i].identity, n as i64 + 1);
            let bytes = read_bounded(&face.file, MAX_BYTES)
                .with_context(|| format!("{}:{}", self.list.display(), face.line))?;
            if size.is_none() {
                let first = codec::decode(&bytes).with_context(|| format!("{} is no picture", face.file.display()))?;
                size = Some((first.height, first.width));
            }
            if !(bytes.starts_with(&[0xff, 0xd8]) || bytes.starts_with(b"\x89PNG")) {
                mistake!(
                    "{}:{}: {} is neither JPEG nor PNG, which are what readers of records expect",
                    self.list.display(),
                    face.line,
                    face.file.display()
                );
            }
            let header = Header { labels: vec![label as f32], is_list: false, id: key as u64, id2: 0 };
            records.write(key, &header.joined(&bytes))?;
            starts[label as usize + 1] = key + 1;
            let age = face.age.map_or("-".to_owned(), |age| age.to_string());
            let gender = if face.gender < 0 { "-".to_owned() } else { face.gender.to_string() };
            let identity = &people[label as usize];
            let _ = writeln!(text, "{identity} {label:06}/{key:08}.jpg {age} {gender}");
            progress(n as u64 + 1, order.len() as u64);
        }
        starts[0] = 1;
        let first = order.len() as i64 + 1;
        for (person, range) in starts.windows(2).enumerate() {
            let key = first + person as i64;
            let header =
                Header { labels: vec![range[0] as f32, range[1] as f32], is_list: true, id: key as u64, id2: 0 };
            records.write(key, &header.joined(&[]))?;
        }
        let last = first + people.len() as i64;
        let block = Header { labels: vec![first as f32, last as f32], is_list: true, id: 0, id2: 1 };
        records.write(0, &block.joined(&[]))?;
        let (height, width) = size.unwrap_or_default();
        let property = format!("{},{height},{width}\n", people.len());
        write_atomically(&self.out.join("property"), property.as_bytes())?;
        write_atomically(&self.out.join("list.txt"), text.as_bytes())?;
        records.finish()?;
        Ok(format!(
            "{}: {} pictures of {} people in train.rec; train with list = \"list.txt\" and records = \"train.rec\"",
            self.out.display(),
            faces.len(),
            people.len()
        ))
    }
}
