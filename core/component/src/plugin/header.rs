//! The header of a plugin: bytes at fixed places in a section of its file.

use crate::cases::Cases;
use crate::context::{Context, World};
use crate::data::{Column, Field as DataField, Open, OpenDataset, SampleOut, TransformDescription};
use crate::draw::Draw;
use crate::evaluator::{EvaluatorDescription, OpenEvaluator, Report};
use crate::hook::{HookEvent, RunInfo};
use crate::host::Host;
use crate::metric::Metric;
use crate::module::{Call, Module, ModuleConfig};
use crate::optimizer::{OptimizerDescription, Update};
use crate::params::{Entry, Params};
use crate::picture::Picture;
use crate::plugin::Given;
use crate::ports::{Description, Port, Ports, Sizes};
use crate::registration::Registration;
use crate::rename::RenameTable;
use crate::rule::{RecipeView, Rule};
use crate::scheduler::SchedulerDescription;
use crate::source::{OpenSource, SourceColumn, SourceDescription};
use mtl_recipe::{ConfigValue, DecodeError, Diagnostic, Error};
use std::any::TypeId;
use tch::Tensor;

/// The level of the boundary. It rises with every change of what crosses it: a trait, a type, the header.
pub const API_LEVEL: u32 = 5;

/// The section of an ELF file that holds the header.
pub const SECTION: &str = ".mtlplugin";

const MAGIC: [u8; 8] = *b"MTLPLUG\n";

/// Places in the table of layouts, two numbers for each type.
const LAYOUT: usize = 112;

macro_rules! crossing {
    ($($type:ty),* $(,)?) => {
        /// The types that cross the boundary by value or by reference, with their sizes and alignments in bytes.
        pub const fn layout() -> &'static [(&'static str, usize, usize)] {
            &[$((stringify!($type), size_of::<$type>(), align_of::<$type>())),*]
        }
    };
}

crossing! {
    Tensor, tch::Kind, tch::Device, String, anyhow::Error, serde_json::Value, serde_json::Number, indexmap::IndexMap<String, i64>,
    ConfigValue, DecodeError, Diagnostic, Error, Registration, Rule, RenameTable, Given, Host,
    Description, Ports, Port, Sizes, Params, Entry, Context, World, Call<'static>, RecipeView<'static>,
    Open<'static>, OpenDataset, DataField, Column, SampleOut<'static>, Draw, Picture, TransformDescription,
    OptimizerDescription, Update<'static>, SchedulerDescription, EvaluatorDescription, Report, Cases, Metric,
    OpenEvaluator, OpenSource, SourceColumn, SourceDescription, RunInfo<'static>, HookEvent<'static>, Box<dyn Module>, Box<dyn ModuleConfig>,
}

/// Types of other crates that cross. Each identity is the same only for the same version, features, dependencies,
/// compiler and settings of its crate.
///
/// That of a tensor is not among them: it would change with each feature of the sixty crates that tch depends on, so that
/// a plugin could have few dependencies of its own. Its version is fixed by that of torch-sys, which the manifest of
/// `mtl-torch` names.
const IDENTITIES: usize = 3;

/// What a plugin says of itself.
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    size: u32,
    api: u32,
    rustc: [u8; 96],
    target: [u8; 48],
    panic: [u8; 8],
    profile: [u8; 16],
    boundary: [u8; 32],
    layout: [u32; LAYOUT],
    identities: [TypeId; IDENTITIES],
    name: [u8; 64],
    version: [u8; 32],
    krate: [u8; 64],
    sources: [u8; 64],
    checksum: u64,
}

/// What the bytes of a field mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// They mark the header as one, and are the same in all.
    Magic,
    /// Its length, which differs only between levels.
    Size,
    /// The level of the boundary.
    Api,
    /// A text that has to be equal, such as the compiler; it is called so.
    Text(&'static str),
    /// The table of layouts.
    Layout,
    /// The identities of types.
    Identities,
    /// A text of the plugin's own; it is called so.
    Own(&'static str),
    /// The checksum of what stands before it, but for the identities.
    Checksum,
}

/// A field of the header.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// What it means.
    pub meaning: Meaning,
    /// Where it begins.
    pub at: usize,
    /// Its bytes.
    pub len: usize,
}

macro_rules! fields {
    ($($field:ident $type:ty: $meaning:expr;)*) => {
        /// The fields, in the order in which they are compared: the first that differs says why a plugin is refused.
        pub const FIELDS: &[Field] = &[$(Field {
            meaning: $meaning,
            at: std::mem::offset_of!(Header, $field),
            len: size_of::<$type>(),
        }),*];
    };
}

impl Header {
    fields! {
        magic [u8; 8]: Meaning::Magic;
        api u32: Meaning::Api;
        size u32: Meaning::Size;
        rustc [u8; 96]: Meaning::Text("compiler");
        target [u8; 48]: Meaning::Text("target");
        panic [u8; 8]: Meaning::Text("panic strategy");
        profile [u8; 16]: Meaning::Text("profile");
        boundary [u8; 32]: Meaning::Text("sources of mtlrun");
        layout [u32; LAYOUT]: Meaning::Layout;
        identities [TypeId; IDENTITIES]: Meaning::Identities;
        name [u8; 64]: Meaning::Own("name");
        version [u8; 32]: Meaning::Own("version");
        krate [u8; 64]: Meaning::Own("crate");
        sources [u8; 64]: Meaning::Own("sources");
        checksum u64: Meaning::Checksum;
    }

    /// The field of that meaning.
    pub fn field(meaning: Meaning) -> Option<&'static Field> {
        Self::FIELDS.iter().find(|field| field.meaning == meaning)
    }

    /// The crates whose types the identities are of.
    pub const IDENTIFIED: [&str; IDENTITIES] = ["anyhow", "serde_json", "indexmap"];

    /// That of a crate that is compiled against this one.
    pub const fn new(name: &str, version: &str, krate: &str, sources: Option<&str>) -> Self {
        let mut header = Self {
            magic: MAGIC,
            size: size_of::<Self>() as u32,
            api: API_LEVEL,
            rustc: fixed(env!("MTL_RUSTC")),
            target: fixed(env!("MTL_TARGET")),
            panic: fixed(if cfg!(panic = "abort") { "abort" } else { "unwind" }),
            profile: fixed(env!("MTL_PROFILE")),
            boundary: fixed(env!("MTL_BOUNDARY")),
            layout: table(),
            identities: [
                TypeId::of::<anyhow::Error>(),
                TypeId::of::<serde_json::Value>(),
                TypeId::of::<indexmap::IndexMap<String, i64>>(),
            ],
            name: fixed(name),
            version: fixed(version),
            krate: fixed(krate),
            sources: fixed(match sources {
                Some(text) => text,
                None => "",
            }),
            checksum: 0,
        };
        header.checksum = header.sum();
        header
    }

    /// FNV-1a of the fields that a compiler can read as bytes.
    const fn sum(&self) -> u64 {
        let mut hash = start();
        hash = over(hash, &self.magic);
        hash = over(hash, &self.size.to_le_bytes());
        hash = over(hash, &self.api.to_le_bytes());
        hash = over(hash, &self.rustc);
        hash = over(hash, &self.target);
        hash = over(hash, &self.panic);
        hash = over(hash, &self.profile);
        hash = over(hash, &self.boundary);
        let mut i = 0;
        while i < LAYOUT {
            hash = over(hash, &self.layout[i].to_le_bytes());
            i += 1;
        }
        hash = over(hash, &self.name);
        hash = over(hash, &self.version);
        hash = over(hash, &self.krate);
        over(hash, &self.sources)
    }

    /// The checksum that the bytes of a header should have.
    pub fn checksum_of(bytes: &[u8]) -> u64 {
        let skipped = |meaning: Meaning| matches!(meaning, Meaning::Identities | Meaning::Checksum);
        let mut fields: Vec<&Field> = Self::FIELDS.iter().filter(|field| !skipped(field.meaning)).collect();
        fields.sort_by_key(|field| field.at);
        let part = |field: &Field| bytes.get(field.at..field.at + field.len).unwrap_or_default();
        fields.iter().fold(start(), |hash, field| over(hash, part(field)))
    }

    /// Its bytes as they stand in a file.
    pub fn bytes(&'static self) -> &'static [u8] {
        // SAFETY: the header has no padding, as a test shows, and a `TypeId` is plain bytes once it is in memory. The
        // reference is to a static, so that the bytes live as long.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

const fn start() -> u64 {
    0xcbf2_9ce4_8422_2325
}

const fn over(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

/// A text in bytes of a fixed number, filled up with zeros.
const fn fixed<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    assert!(bytes.len() <= N, "the name or the version of the crate is too long for the header of a plugin");
    let mut out = [0; N];
    let mut i = 0;
    while i < bytes.len() {
        out[i] = bytes[i];
        i += 1;
    }
    out
}

const fn table() -> [u32; LAYOUT] {
    let list = layout();
    assert!(2 * list.len() <= LAYOUT);
    let mut out = [0; LAYOUT];
    let mut i = 0;
    while i < list.len() {
        out[2 * i] = list[i].1 as u32;
        out[2 * i + 1] = list[i].2 as u32;
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    static HEADER: Header = Header::new("my-idea", "0.1.0", "my_idea", Some("abc"));

    #[test]
    fn every_byte_belongs_to_a_field() {
        let mut fields = Header::FIELDS.to_vec();
        fields.sort_by_key(|field| field.at);
        let end = fields.iter().fold(0, |end, field| {
            assert_eq!(field.at, end, "{:?}", field.meaning);
            end + field.len
        });
        assert_eq!(end, size_of::<Header>());
    }

    #[test]
    fn the_checksum_is_that_of_its_bytes() {
        assert_eq!(Header::checksum_of(HEADER.bytes()), HEADER.checksum);
        let mut bytes = HEADER.bytes().to_vec();
        let version = Header::field(Meaning::Own("version")).unwrap();
        bytes[version.at] ^= 1;
        assert_ne!(Header::checksum_of(&bytes), HEADER.checksum);
    }

    /// What crosses the boundary is written down, with its level and the methods of the traits. Whoever changes it raises
    /// the level: `UPDATE_BOUNDARY=1 cargo test -p mtl-component boundary` writes the file anew.
    #[test]
    fn a_change_of_the_boundary_raises_its_level() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/boundary.txt");
        let mut text = format!("level {API_LEVEL}\ncompiler {}\n", env!("MTL_RUSTC"));
        layout().iter().for_each(|(name, size, align)| text.push_str(&format!("{name}: {size} bytes by {align}\n")));
        text.push_str(&signatures());
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, at: usize| text.lines().nth(at).unwrap_or_default().to_owned();
        if std::env::var_os("UPDATE_BOUNDARY").is_some() {
            assert!(
                text == kept || line(&text, 0) != line(&kept, 0),
                "the boundary has changed: raise API_LEVEL first"
            );
            std::fs::write(path, text).unwrap();
            return;
        }
        let same = |part: fn(&str) -> Vec<String>| assert_eq!(part(&text), part(&kept), "raise API_LEVEL, see above");
        // Another compiler may lay out its own types in another way.
        if line(&text, 1) == line(&kept, 1) {
            same(|text| text.lines().filter(|l| l.contains(" bytes by ")).map(str::to_owned).collect());
        }
        same(|text| text.lines().filter(|l| l.contains("fn ") || l.starts_with("level ")).map(str::to_owned).collect());
    }

    /// The methods of the traits that cross, from their sources.
    fn signatures() -> String {
        let sources = [
            include_str!("../module.rs"),
            include_str!("../data.rs"),
            include_str!("../optimizer.rs"),
            include_str!("../scheduler.rs"),
            include_str!("../evaluator.rs"),
            include_str!("../metric.rs"),
            include_str!("../hook.rs"),
        ];
        let mut out = String::new();
        for source in sources {
            let mut of = None;
            let mut words = String::new();
            for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
                if let Some(name) = line.strip_prefix("pub trait ") {
                    of = Some(name.trim_end_matches(" {"));
                } else if line == "}" {
                    of = None;
                }
                let Some(name) = of else { continue };
                if line.starts_with("    fn ") || !words.is_empty() {
                    words.push_str(&format!("{} ", line.trim()));
                    if line.ends_with([';', '{']) {
                        let signature = words.trim_end().trim_end_matches([';', '{']).trim_end();
                        out.push_str(&format!("{name}: {signature}\n"));
                        words.clear();
                    }
                }
            }
        }
        out
    }
}
