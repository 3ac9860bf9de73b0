//! `mtlrun plugin build`: a plugin built as this program was.

use super::registered;
use crate::arguments::BuildPlugin;
use mtl_component::plugin::sources;
use mtl_component::{Error, ErrorContext as _, Result, bail, mistake};
use mtl_engine::plugin::{Headed, own_sources};
use mtl_recipe::files::{read_text, write_atomically};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The largest manifest or lock file that is read.
const MOST: u64 = 16 << 20;

/// The repository of mtlrun.
pub(super) struct Sdk {
    root: PathBuf,
}

impl Sdk {
    /// The given one, or that from which this program was built.
    pub(super) fn find(given: Option<&Path>) -> Result<Self> {
        let root = given.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), Path::to_owned);
        let shown = root.canonicalize().unwrap_or_else(|_| root.clone());
        for part in ["core/component/Cargo.toml", "Cargo.lock"] {
            if !root.join(part).exists() {
                mistake!(
                    "the sources of mtlrun are needed, and are not in {}: there is no {part}. Name a clone of the \
                     repository with --sdk DIR or MTLRUN_SDK",
                    shown.display()
                );
            }
        }
        if !root.join(".libtorch").exists() {
            mistake!("{} is not set up: run `cargo xtask setup` there first", shown.display());
        }
        Ok(Self { root: shown })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn manifest(&self) -> Result<toml::Table> {
        table(&self.root.join("Cargo.toml"))
    }

    /// What cargo is told in the repository.
    pub(super) fn settings(&self) -> Result<toml::Table> {
        table(&self.root.join(".cargo/config.toml"))
    }
}

/// The profiles of a manifest.
pub(super) fn profiles(manifest: &toml::Table) -> toml::Table {
    manifest.get("profile").map(|profile| ("profile".to_owned(), profile.clone())).into_iter().collect()
}

fn table(path: &Path) -> Result<toml::Table> {
    let text = match read_text(path, MOST) {
        Ok(text) => text,
        Err(e) => mistake!("cannot read {}: {e}", path.display()),
    };
    match text.parse() {
        Ok(table) => Ok(table),
        Err(e) => mistake!("{} is not TOML: {e}", path.display()),
    }
}

/// Builds a plugin, puts it beside its crate, and checks it.
pub fn build(args: &BuildPlugin) -> Result<u8> {
    let start = Instant::now();
    let manifest = args.folder.join("Cargo.toml");
    let Ok(manifest) = manifest.canonicalize() else {
        mistake!("there is no crate in {}: mtlrun plugin new NAME begins one", args.folder.display());
    };
    let folder = manifest.parent().map(Path::to_owned).unwrap_or_default();
    let text = table(&manifest)?;
    if text.get("package").is_none() {
        mistake!("{} is not the manifest of a crate: it has no [package]", manifest.display());
    }
    let sdk = Sdk::find(args.sdk.sdk.as_deref())?;
    depends_on(&sdk, &manifest, &text)?;
    same_sources(&sdk)?;
    same_compiler(&sdk)?;
    lock(&manifest, &sdk)?;
    let built = compiled(&manifest, &folder, &sdk, args.features.as_deref())?;
    let out = std::path::absolute(args.out.as_deref().unwrap_or(&folder))?;
    let library = placed(&built, &out)?;
    println!("{}", library.display());
    eprintln!("built in {:.1} s", start.elapsed().as_secs_f64());
    Ok(0)
}

/// The crate has to depend on the component crate of those sources, or others would be checked than are built.
fn depends_on(sdk: &Sdk, manifest: &Path, text: &toml::Table) -> Result<()> {
    let path = text.get("dependencies").and_then(|all| all.get("mtl-component")?.get("path")?.as_str());
    let Some(path) = path.map(|path| manifest.with_file_name(path)) else { return Ok(()) };
    let wanted = sdk.root.join("core/component");
    if path.canonicalize().ok() != wanted.canonicalize().ok() {
        mistake!(
            "{} depends on mtl-component in {}, and the sources of mtlrun are in {}: let it name the latter, or name the former \
             with --sdk",
            manifest.display(),
            path.display(),
            sdk.root.display()
        );
    }
    Ok(())
}

/// A plugin against other sources would be refused after minutes of building.
fn same_sources(sdk: &Sdk) -> Result<()> {
    let core = sdk.root.join("core");
    let hash = sources::hash(&core, sources::BOUNDARY).with_context(|| format!("reading {}", core.display()))?;
    let own = Headed::program_says("sources of mtlrun");
    if !hash.starts_with(&own) {
        mistake!(
            "the sources in {} are not those that this program was built from: build the program there again (cargo build \
             --release), or name others with --sdk DIR or MTLRUN_SDK",
            sdk.root.display()
        );
    }
    Ok(())
}

fn same_compiler(sdk: &Sdk) -> Result<()> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(&compiler).arg("-vV").current_dir(&sdk.root).output();
    let Ok(told) = told else { mistake!("there is no {}: Rust is needed to build a plugin", compiler.display()) };
    let (found, own) = (sources::compiler(&String::from_utf8_lossy(&told.stdout)), Headed::program_says("compiler"));
    if found != own {
        mistake!(
            "the compiler here is rustc {found}, and this program was built by rustc {own}: choose that one (rustup \
             default), or build the program again"
        );
    }
    Ok(())
}

/// Locks the crates of the plugin to the versions of this program's; those that only the plugin has keep theirs.
fn lock(manifest: &Path, sdk: &Sdk) -> Result<()> {
    let mut locate = Command::new(cargo());
    locate.args(["locate-project", "--workspace", "--message-format", "plain", "--manifest-path"]).arg(manifest);
    let found = locate.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !found.status.success() {
        mistake!("cargo cannot read {}, as it says above", manifest.display());
    }
    let root = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()).with_file_name("Cargo.lock");
    let program = sdk.root.join("Cargo.lock");
    if root.canonicalize().is_ok_and(|root| root == program) {
        return Ok(());
    }
    lock_as(&root, sdk)
}

/// Writes a lock file with the versions of this program's; others than those stay.
pub(super) fn lock_as(root: &Path, sdk: &Sdk) -> Result<()> {
    let mut locked = table(&sdk.root.join("Cargo.lock"))?;
    // One of each crate, but for versions that do not stand in for each other.
    let name = |package: &toml::Value| {
        let text = |key: &str| Some(package.get(key)?.as_str()?.to_owned());
        let (name, version) = (text("name")?, text("version")?);
        let numbers: Vec<&str> = version.split('.').collect();
        let decides = numbers.iter().position(|number| *number != "0").unwrap_or(0);
        Some((name, numbers[..=decides].join(".")))
    };
    let packages = |lock: &toml::Table| lock.get("package").and_then(|p| p.as_array()).cloned().unwrap_or_default();
    let mut all = packages(&locked);
    let known: Vec<_> = all.iter().filter_map(name).collect();
    if root.exists() {
        let before = packages(&table(root)?);
        all.extend(before.into_iter().filter(|package| name(package).is_some_and(|name| !known.contains(&name))));
    }
    locked.insert("package".into(), all.into());
    write_atomically(root, toml::to_string(&locked)?.as_bytes())
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Lets cargo build the dynamic library; gives its file.
fn compiled(manifest: &Path, folder: &Path, sdk: &Sdk, features: Option<&str>) -> Result<PathBuf> {
    let settings = tempfile::Builder::new().suffix(".toml").tempfile().context("making a file of settings")?;
    let settings_path = settings.path().to_owned();
    std::fs::write(&settings_path, toml::to_string(&profiles(&sdk.manifest()?))?)?;
    let hash = own_sources(folder).with_context(|| format!("the sources in {} cannot be read", folder.display()))?;
    let mut command = Command::new(cargo());
    // In the repository cargo finds its settings: where libtorch is, and the flags that finished crates were built with.
    command.current_dir(&sdk.root).args(["rustc", "--lib", "--crate-type", "cdylib", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(sdk.root.join("target")).arg("--config").arg(&settings_path);
    command.arg("--message-format=json-render-diagnostics").env("MTLRUN_PLUGIN_SOURCES", hash);
    if Headed::program_says("profile") == "release" {
        command.arg("--release");
    }
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let mut library = None;
    for line in BufReader::new(child.stdout.take().context("reading what cargo says")?).lines() {
        let Ok(Value::Object(message)) = serde_json::from_str(&line?) else { continue };
        let of_plugin = message.get("manifest_path").and_then(Value::as_str) == manifest.to_str();
        let files = message.get("filenames").and_then(Value::as_array).into_iter().flatten();
        let file = files.filter_map(Value::as_str).find(|file| file.ends_with(".so"));
        library = file.filter(|_| of_plugin).map(PathBuf::from).or(library);
    }
    let status = child.wait().context("waiting for cargo")?;
    match library {
        Some(library) if status.success() => Ok(library),
        _ if status.success() => bail!("cargo has made no dynamic library of {}", manifest.display()),
        _ => mistake!(
            "the plugin does not build, as the compiler says above; a library that was built before stays as it was"
        ),
    }
}

/// Puts the library into a folder once it is checked, with its debug information in a file of its own, which makes it a
/// tenth as large. What is in use stays whole: the new file is written beside it and renamed.
fn placed(built: &Path, folder: &Path) -> Result<PathBuf> {
    let name = built.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let aside = tempfile::Builder::new().prefix(".plugin-").tempdir_in(folder);
    let aside = aside.with_context(|| format!("making a folder in {}", folder.display()))?;
    let debug = format!("{name}.debug");
    let (fresh, fresh_debug) = (aside.path().join(&name), aside.path().join(&debug));
    let objcopy = |flags: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new("objcopy");
        command.current_dir(aside.path()).args(flags).arg(from).arg(to).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let link = format!("--add-gnu-debuglink={debug}");
    let split =
        objcopy(&["--only-keep-debug"], built, &fresh_debug) && objcopy(&["--strip-debug", &link], built, &fresh);
    let rename =
        |from: &Path, to: &Path| std::fs::rename(from, to).with_context(|| format!("writing {}", to.display()));
    if !split {
        eprintln!("note: objcopy (of binutils) is missing or failed: the debug information stays in the plugin");
        std::fs::copy(built, &fresh).with_context(|| format!("writing {}", fresh.display()))?;
    }
    let library = folder.join(&name);
    let checked = || {
        let headed = Headed::read(&fresh)?;
        headed.fits()?;
        if registered(&headed)?.is_empty() {
            mistake!(
                "the plugin {} registers nothing: a file of it has register!(…), and its lib.rs names that file (mod …;)",
                headed.name()
            );
        }
        Ok(())
    };
    // The user knows it by the name that it is going to have.
    let [passing, lasting] = [&fresh, &library].map(|path| path.display().to_string());
    checked().map_err(|error: Error| error.rephrase(|text| Some(text.replace(&passing, &lasting))))?;
    if split {
        rename(&fresh_debug, &folder.join(&debug))?;
    }
    rename(&fresh, &library)?;
    Ok(library)
}
