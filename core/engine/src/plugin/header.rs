//! The header of a plugin, read from its file without running anything of it.

use mtl_component::plugin::{Field, Header, Meaning, SECTION, layout};
use mtl_recipe::{Result, mistake};
use object::{Object, ObjectSection, ReadCache};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// That of this program.
static OWN: Header = Header::new("mtlrun", env!("CARGO_PKG_VERSION"), "mtlrun", None);

/// A file with the header of a plugin.
#[derive(Debug)]
pub struct Headed {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A field in words, as the plugin and the program have it.
#[derive(Debug)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// That of this program.
    pub program: String,
    /// That of the plugin.
    pub plugin: String,
    /// Whether the plugin may be loaded as far as this field goes.
    pub fits: bool,
}

impl Headed {
    /// Reads the header of a file.
    ///
    /// # Errors
    /// A mistake if the file is no library with a header of the known length.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let kind = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(e) => mistake!("there is no plugin {shown}: {e}"),
        };
        if kind.is_dir() {
            mistake!("the plugin {shown} is a folder, expected the file that `mtlrun plugin build` makes");
        }
        if !kind.is_file() {
            mistake!("the plugin {shown} is a pipe or a device, expected a file");
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) => mistake!("cannot read the plugin {shown}: {e}"),
        };
        let mut start = [0; 4];
        if file.read_exact(&mut start).is_err() || start != *b"\x7fELF" {
            let what = if kind.len() == 0 { "it is empty" } else { "it is no ELF file" };
            mistake!("{shown} is not a plugin: {what}, expected what `mtlrun plugin build` makes");
        }
        let cache = ReadCache::new(file);
        let library = match object::File::parse(&cache) {
            Ok(library) => library,
            Err(e) => mistake!("the plugin {shown} is damaged or cut off: {e}"),
        };
        let Some(section) = library.section_by_name(SECTION) else {
            mistake!(
                "{shown} is not a plugin: it has no section {SECTION}. A plugin says mtl_component::export_plugin!(); once, \
                 and is built by `mtlrun plugin build`"
            );
        };
        let bytes = match section.data() {
            Ok(bytes) => bytes.to_vec(),
            Err(e) => mistake!("the plugin {shown} is damaged or cut off: {e}"),
        };
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of its crate.
    pub fn name(&self) -> String {
        self.own("name")
    }

    /// The version of its crate.
    pub fn version(&self) -> String {
        self.own("version")
    }

    /// The name of the function that opens it.
    pub fn entry(&self) -> String {
        format!("mtl_plugin_open_{}", self.own("crate"))
    }

    /// The hash of the sources that it was built from, if it was recorded.
    pub fn sources(&self) -> Option<String> {
        Some(self.own("sources")).filter(|hash| !hash.is_empty())
    }

    /// A short hash of this program's header: what was found of a plugin holds for programs of one header.
    pub(super) fn program() -> String {
        short(OWN.bytes())
    }

    fn own(&self, name: &'static str) -> String {
        said(&self.bytes, Meaning::Own(name))
    }

    /// Checks that the plugin fits this program. The first field that differs decides what is said.
    ///
    /// # Errors
    /// A mistake that says what both have, and what to do.
    pub fn fits(&self) -> Result<()> {
        let shown = self.path.display();
        for field in Header::FIELDS {
            let (plugin, program) = (part(&self.bytes, field), part(OWN.bytes(), field));
            if self.same(field) {
                continue;
            }
            let again = "Build it again: mtlrun plugin build";
            match field.meaning {
                Meaning::Magic => mistake!("{shown} is not a plugin: its section {SECTION} does not begin as a header"),
                Meaning::Size
                    if self.bytes.len() > OWN.bytes().len() && self.bytes.len().is_multiple_of(OWN.bytes().len()) =>
                {
                    mistake!(
                        "the plugin {shown} holds {} headers: a crate that it depends on says \
                         mtl_component::export_plugin!(); as well. Code that several plugins share belongs into a crate \
                         without that line",
                        self.bytes.len() / OWN.bytes().len()
                    )
                }
                Meaning::Size => mistake!(
                    "the header of the plugin {shown} has {} bytes, and that of this program {}. {again}",
                    self.bytes.len(),
                    OWN.bytes().len()
                ),
                Meaning::Api => mistake!(
                    "the plugin {shown} was built for level {} of the boundary, and this program has level {}. {again}, \
                     with the sources of this program",
                    number(plugin),
                    number(program)
                ),
                Meaning::Text("profile") => mistake!(
                    "the plugin {shown} was built in the profile {}, and this program in {}: their types are not the \
                     same. {again}, with this program",
                    text(plugin),
                    text(program)
                ),
                Meaning::Text("panic strategy") => mistake!(
                    "the plugin {shown} was built with panic = \"{}\", and this program with \"{}\": a panic in it could \
                     not be contained. {again}, without that setting",
                    text(plugin),
                    text(program)
                ),
                Meaning::Text("sources of mtlrun") => mistake!(
                    "the plugin {shown} was built against other sources of mtlrun ({}) than this program ({}). {again}, \
                     after building the program itself if its sources have changed",
                    text(plugin),
                    text(program)
                ),
                Meaning::Text(what) => mistake!(
                    "the plugin {shown} was built with another {what}: {}, and this program with {}. {again}, with the \
                     {what} of this program",
                    text(plugin),
                    text(program)
                ),
                Meaning::Layout => {
                    let at = (0..layout().len()).find(|i| entry(plugin, *i) != entry(program, *i));
                    let name = at.map_or("no type", |at| layout()[at].0);
                    let [there, here] =
                        [plugin, program].map(|table| at.map(|at| entry(table, at)).unwrap_or_default());
                    mistake!(
                        "the plugin {shown} lays out {name} in {} bytes by {}, and this program in {} by {}. {again}",
                        there.0,
                        there.1,
                        here.0,
                        here.1
                    )
                }
                Meaning::Identities => mistake!(
                    "the plugin {shown} was built with another crate {} than this program: another version, other features \
                     or settings. {again}. If it was built so, a crate that it depends on asks for other features: cargo \
                     tree -e features -i {} shows which",
                    self.others().join(" and another crate "),
                    self.others().first().unwrap_or(&"")
                ),
                Meaning::Own(_) => {}
                Meaning::Checksum => mistake!("the header of the plugin {shown} is damaged. {again}"),
            }
        }
        Ok(())
    }

    fn same(&self, field: &Field) -> bool {
        let plugin = part(&self.bytes, field);
        match field.meaning {
            Meaning::Own(_) => true,
            Meaning::Size => self.bytes.len() == OWN.bytes().len() && plugin == part(OWN.bytes(), field),
            Meaning::Checksum => plugin == Header::checksum_of(&self.bytes).to_le_bytes(),
            _ => plugin == part(OWN.bytes(), field),
        }
    }

    /// The crates whose types are not the program's.
    fn others(&self) -> Vec<&'static str> {
        let Some(field) = Header::field(Meaning::Identities) else { return Vec::new() };
        let names = Header::IDENTIFIED;
        let each = field.len / names.len();
        let (plugin, program) = (part(&self.bytes, field), part(OWN.bytes(), field));
        let pairs = names.iter().zip(plugin.chunks(each).zip(program.chunks(each)));
        pairs.filter(|(_, (a, b))| a != b).map(|(name, _)| *name).collect()
    }

    /// What this program says of its own build, such as its compiler.
    pub fn program_says(what: &'static str) -> String {
        said(OWN.bytes(), Meaning::Text(what))
    }

    /// All fields side by side.
    pub fn rows(&self) -> Vec<Row> {
        let row = |field: &Field| {
            let [plugin, program] = [&self.bytes[..], OWN.bytes()].map(|bytes| part(bytes, field));
            let both = |show: fn(&[u8]) -> String| (show(program), show(plugin));
            let (name, (program, plugin)) = match field.meaning {
                Meaning::Magic => ("begins with", both(|bytes| bytes.escape_ascii().to_string())),
                Meaning::Size => ("bytes", both(|bytes| number(bytes).to_string())),
                Meaning::Api => ("level", both(|bytes| number(bytes).to_string())),
                Meaning::Text(name) => (name, both(text)),
                Meaning::Layout => ("layout", both(short)),
                Meaning::Identities => ("types of other crates", both(short)),
                Meaning::Own(name) => (name, both(text)),
                Meaning::Checksum => ("checksum", both(|bytes| hex::encode(bytes))),
            };
            Row { name, program, plugin, fits: self.same(field) }
        };
        Header::FIELDS.iter().map(row).collect()
    }
}

fn part<'b>(bytes: &'b [u8], field: &Field) -> &'b [u8] {
    bytes.get(field.at..field.at + field.len).unwrap_or_default()
}

/// The text of a field.
fn said(bytes: &[u8], meaning: Meaning) -> String {
    Header::field(meaning).map(|field| text(part(bytes, field))).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

/// The size and the alignment of a type in a table of layouts.
fn entry(table: &[u8], at: usize) -> (u32, u32) {
    let number = |i: usize| table.get(4 * i..4 * i + 4).map_or(0, number);
    (number(2 * at), number(2 * at + 1))
}

/// Bytes that say nothing to a reader: a short hash tells whether they are the same.
fn short(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(bytes)[..8])
}
