//! What several tests need: the program, a small set of faces, and the reference files.

use mtl_component::Registry;
use mtl_engine::weights::Rename;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

/// The components that are linked in.
pub static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(|| Arc::new(Registry::built_in().unwrap()));

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A file of `tests/reference`.
pub fn reference(name: &str) -> PathBuf {
    root().join("tests/reference").join(name)
}

/// A JSON file of `tests/reference`.
pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(reference(name)).unwrap()).unwrap()
}

/// The program, started in the root of the repository.
pub fn mtlrun<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtlrun"));
    command.args(args).current_dir(root());
    command
}

/// The program where no file may be larger than so many blocks of 512 bytes, which stands for a full disk.
pub fn with_small_files(blocks: u32, args: &[String]) -> Command {
    let mut command = Command::new("sh");
    let limit = format!("ulimit -f {blocks}; exec \"$@\"");
    command.args(["-c", &limit, "sh", env!("CARGO_BIN_EXE_mtlrun")]).args(args).current_dir(root());
    command
}

/// Every recipe of the repository.
pub fn recipes() -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![root().join("recipes"), root().join("tests/recipes")], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
    found
}

/// What the program printed to stderr, and its exit code.
pub fn outcome(output: &Output) -> (i32, String) {
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What a command prints; it must succeed.
#[track_caller]
pub fn told(args: &[&str]) -> String {
    let output = mtlrun(args).output().unwrap();
    let (code, text) = outcome(&output);
    assert_eq!(code, 0, "{text}");
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with `identities` x `pictures` made JPEG files and `list.txt`, `pairs.txt`.
pub struct Faces {
    pub folder: TempDir,
}

impl Faces {
    pub fn new(identities: usize, pictures: usize) -> Self {
        let folder = TempDir::new().unwrap();
        let mut list = String::new();
        for i in 0..identities {
            for k in 0..pictures {
                let name = format!("{i}_{k}.jpg");
                let image = image::RgbImage::from_fn(20, 20, |x, y| {
                    let v = |c: u32| ((x * (i as u32 + 1) * 7 + y * (k as u32 + 2) * 5 + c * 60) % 256) as u8;
                    image::Rgb([v(0), v(1), v(2)])
                });
                image.save(folder.path().join(&name)).unwrap();
                list.push_str(&format!("{i} {name} {} {}\n", 5 + 15 * k + i, i % 2));
            }
        }
        std::fs::write(folder.path().join("list.txt"), list).unwrap();
        let faces = Self { folder };
        faces.pairs(identities, pictures);
        faces
    }

    fn pairs(&self, identities: usize, pictures: usize) {
        let mut text = String::new();
        for fold in 0..2 {
            for i in 0..identities {
                let (a, b) = (fold % pictures, (fold + 1) % pictures);
                text.push_str(&format!("{i}_{a}.jpg {i}_{b}.jpg 1\n"));
                text.push_str(&format!("{i}_{a}.jpg {}_{b}.jpg -1\n", (i + 1) % identities));
            }
        }
        std::fs::write(self.path("pairs.txt"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments that train the tiny recipe on these faces.
    pub fn tiny(&self, out: &Path, more: &[&str]) -> Vec<String> {
        let mut args = vec![
            "tests/recipes/tiny.toml".to_owned(),
            "--set".into(),
            format!("data.faces.list={}", self.path("list.txt").display()),
            "--out".into(),
            out.display().to_string(),
        ];
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }

    /// Trains the tiny recipe; gives its exit status and what it says.
    pub fn run(&self, out: &Path, more: &[&str]) -> (i32, String) {
        outcome(&mtlrun(&self.tiny(out, more)).output().unwrap())
    }

    /// Trains the tiny recipe and expects success.
    pub fn train(&self, out: &Path, more: &[&str]) {
        let (code, text) = self.run(out, more);
        assert_eq!(code, 0, "{text}");
    }
}

/// The fill formula of the reference: uniform in [-1, 1), exact in f32.
pub fn fill(module: u32, position: u32, count: usize) -> impl Iterator<Item = f64> {
    (0..count as u32).map(move |i| {
        let mut x = i
            .wrapping_mul(0x9E37_79B1)
            .wrapping_add(position.wrapping_mul(0x85EB_CA77))
            .wrapping_add(module.wrapping_mul(0xC2B2_AE3D));
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846C_A68B);
        x ^= x >> 16;
        f64::from(x >> 8) * 2f64.powi(-23) - 1.0
    })
}

/// The values of one entry of a state dict by its kind in `arch.json`.
pub fn filled(module: u32, position: u32, shape: &[i64], kind: &str) -> Vec<f32> {
    let count: i64 = shape.iter().product();
    let r = fill(module, position, count as usize);
    let fan_in = count as f64 / *shape.first().unwrap_or(&1) as f64;
    r.map(|r| match kind {
        "weight" => r * (0.7 * (3.0 / fan_in).sqrt()),
        "bias" => 0.05 * r,
        "prelu" => 0.25 + 0.05 * r,
        "bn_weight" | "bn_var" => 1.0 + 0.1 * r,
        "bn_bias" | "bn_mean" => 0.1 * r,
        "bn_count" => 0.0,
        "sn_vec" => r,
        other => panic!("no fill for {other}"),
    } as f32)
        .collect()
}

/// The relative difference of two numbers.
pub fn relative(found: f64, wanted: f64) -> f64 {
    (found - wanted).abs() / wanted.abs().max(1e-300)
}

/// Asserts that two numbers are that close, relative to the second.
pub fn close(what: &str, found: f64, wanted: f64, bound: f64) {
    let error = relative(found, wanted);
    assert!(error <= bound, "{what}: found {found}, expected {wanted}, {error:.1e} apart");
}

/// Compares `[norm, …, first, middle, last]`, where the reference may hold further norms after the first.
pub fn entry(
    what: &str,
    found: &serde_json::Value,
    norm: f64,
    elements: &[f64],
    count: f64,
    bound: f64,
    element_bound: f64,
) {
    let v: Vec<f64> = found.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    close(&format!("{what} norm"), v[0], norm, bound);
    let rms = norm / count.sqrt();
    for (i, (a, b)) in v[1..].iter().zip(elements).enumerate() {
        assert!((a - b).abs() <= element_bound * rms, "{what} element {i}: found {a}, expected {b}, rms {rms}");
    }
}

/// The images of the reference, `[count, 3, size, size]`.
pub fn images(module: u32, count: usize, size: usize) -> Vec<f32> {
    let mut r = fill(module, 0, count * 3 * size * size);
    let mut out = Vec::new();
    for b in 0..count {
        for c in 0..3 {
            for y in 0..size {
                for x in 0..size {
                    let t = ((3 + b) * x + (5 + 2 * c) * y + 17 * b + 11 * c + 29 * module as usize) % 64;
                    let wave = 0.75 * ((t as f64 - 32.0).abs() / 16.0 - 1.0);
                    out.push((wave + 0.25 * r.next().unwrap()) as f32);
                }
            }
        }
    }
    out
}

/// A tensor file: names, shapes and the bytes of f32 or i64 values.
#[derive(Default)]
pub struct TensorFile(Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>);

impl TensorFile {
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.into(), safetensors::Dtype::F32, shape.to_vec(), bytes));
    }

    pub fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.into(), safetensors::Dtype::I64, shape.to_vec(), bytes));
    }

    pub fn write(&self, path: &Path) {
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// The name that a parameter of the published implementation has in our recipes.
pub fn ours(name: &str) -> String {
    Rename::named(&REGISTRY, "mtlface").unwrap().apply(name)
}

/// Networks of `arch.json`: the name of the module, its number in the fill formula, the entry.
pub type Networks = [(&'static str, u32, &'static str)];

/// The shape of an entry of `arch.json` where the features are `side` x `side` instead of 7 x 7.
pub fn shape(entry: &serde_json::Value, side: i64) -> Vec<i64> {
    match entry[1].as_str() {
        Some("age_output_layer.2.weight" | "output_layer.3.weight") => vec![512, 512 * side * side],
        _ => entry[2].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect(),
    }
}

/// All weights of the networks by the fill formula; `masks` are the values of the constant entries.
pub fn filled_networks(networks: &Networks, side: i64, masks: &[f32]) -> TensorFile {
    let arch = json("arch.json");
    let mut weights = TensorFile::default();
    for (module, id, network) in networks {
        for e in arch[network]["entries"].as_array().unwrap() {
            let (k, name, kind) = (e[0].as_u64().unwrap(), e[1].as_str().unwrap(), e[3].as_str().unwrap());
            let shape = shape(e, side);
            let values = if kind == "mask" { masks.to_vec() } else { filled(*id, k as u32, &shape, kind) };
            let shape: Vec<usize> = shape.iter().map(|n| *n as usize).collect();
            weights.floats(&format!("{module}.{name}"), &shape, &values);
        }
    }
    weights
}

/// The number of elements of a published parameter.
pub fn elements(networks: &Networks, side: i64, name: &str) -> f64 {
    static ARCH: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
    let arch = ARCH.get_or_init(|| json("arch.json"));
    for (module, _, network) in networks {
        let Some(rest) = name.strip_prefix(&format!("{module}.")) else { continue };
        let found = arch[network]["entries"].as_array().unwrap().iter().find(|e| e[1] == rest).unwrap();
        return shape(found, side).iter().product::<i64>() as f64;
    }
    panic!("{name} is in no network")
}

/// Asserts that a command was refused as the user's mistake, in words that hold all of these.
#[track_caller]
pub fn refused((code, text): (i32, String), words: &[&str]) {
    assert_eq!(code, 2, "{text}");
    for word in words {
        assert!(text.contains(word), "expected {word:?} in:\n{text}");
    }
}

/// The report of `mtlrun trace` on a recipe, with weights under their published names.
#[track_caller]
pub fn traced(recipe: &str, inputs: &Path, weights: &Path, sets: &[&str], more: &[&str]) -> serde_json::Value {
    let mut command = mtlrun(&["trace", recipe, "--rename", "mtlface"]);
    command.arg("--inputs").arg(inputs).arg("--weights").arg(weights);
    for set in sets {
        command.args(["--set", set]);
    }
    let output = command.args(more).output().unwrap();
    let (code, text) = outcome(&output);
    assert_eq!(code, 0, "{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until something has come about.
#[track_caller]
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < std::time::Duration::from_secs(120), "{what} did not happen");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
