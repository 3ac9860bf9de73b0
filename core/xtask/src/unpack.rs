//! Takes from a wheel what belongs to the layout.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use zip::ZipArchive;

use crate::layout;

/// Unpacks the parts of `wheel` that the layout needs. Every entry's checksum is compared on the way.
pub fn wheel(wheel: &Path, layout: &Path) -> Result<()> {
    told(wheel, unpack(wheel, layout, &place_of))
}

/// Unpacks the headers of CUDA and NCCL that a wheel holds into `folder`.
pub fn cuda_headers(wheel: &Path, folder: &Path) -> Result<()> {
    told(wheel, unpack(wheel, folder, &header_place))
}

fn told(wheel: &Path, unpacked: Result<()>) -> Result<()> {
    unpacked.with_context(|| {
        format!(
            "cannot unpack the wheel {}; if it is damaged, remove it where pip found it \
             (`python3 -m pip cache purge` empties pip's own store) and run the set-up again",
            wheel.file_name().unwrap_or_default().display()
        )
    })
}

fn unpack(wheel: &Path, layout: &Path, place_of: &dyn Fn(&str) -> Option<PathBuf>) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).context("it is no complete zip archive")?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).with_context(|| format!("entry {index} cannot be read"))?;
        let name = entry.name().to_string();
        if name == "torch/version.py" {
            let mut text = String::new();
            entry.read_to_string(&mut text).context("entry torch/version.py cannot be read")?;
            let version = version_in(&text).context("torch/version.py names no __version__")?;
            layout::write_build_version(layout, version)?;
        } else if entry.is_file()
            && let Some(place) = place_of(&name)
        {
            let path = layout.join(place);
            let parent = path.parent().context("an entry has no folder")?;
            fs::create_dir_all(parent).with_context(|| format!("cannot create the folder {}", parent.display()))?;
            let mut copy = || io::copy(&mut entry, &mut File::create(&path)?);
            copy().with_context(|| format!("entry {name} cannot be unpacked to {}", path.display()))?;
        }
    }
    Ok(())
}

/// The path of an entry, unless it would reach out of the folder, as torch/include/../../x does.
fn path_of(entry: &str) -> Option<&Path> {
    let path = Path::new(entry);
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}

/// Where a header of CUDA or NCCL goes, all into one folder.
fn header_place(entry: &str) -> Option<PathBuf> {
    let path = path_of(entry)?;
    let folders = ["nvidia/cu13/include", "nvidia/nccl/include"];
    folders.iter().find_map(|folder| path.strip_prefix(folder).ok()).map(Path::to_owned)
}

/// Where an entry goes in the layout, if it belongs there at all.
fn place_of(entry: &str) -> Option<PathBuf> {
    let path = path_of(entry)?;
    if let Ok(header) = path.strip_prefix("torch/include") {
        return Some(Path::new("include").join(header));
    }
    let (folder, name) = entry.rsplit_once('/')?;
    let wanted: &[&str] = match folder {
        "torch/lib" => &layout::TORCH_LIBS,
        "nvidia/cu13/lib" => &layout::CUDA_LIBS,
        _ => return None,
    };
    wanted.contains(&name).then(|| Path::new("lib").join(name))
}

fn version_in(text: &str) -> Option<&str> {
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim().trim_matches(['\'', '"']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_and_the_named_libraries_are_taken() {
        let place = |entry| place_of(entry).map(|path| path.to_str().unwrap().to_string());
        assert_eq!(place("torch/include/ATen/a.h").as_deref(), Some("include/ATen/a.h"));
        assert_eq!(place("torch/lib/libc10.so").as_deref(), Some("lib/libc10.so"));
        assert_eq!(place("nvidia/cu13/lib/libcudart.so.13").as_deref(), Some("lib/libcudart.so.13"));
        for other in [
            "torch/lib/libtorch_cuda.so",
            "torch/lib/sub/libc10.so",
            "nvidia/cu13/include/cupti.h",
            "torch/includes/a.h",
            "torch/include/../../../a.h",
            "/torch/include/a.h",
        ] {
            assert_eq!(place(other), None, "{other}");
        }
        let header = |entry| header_place(entry).map(|path| path.to_str().unwrap().to_string());
        assert_eq!(header("nvidia/nccl/include/nccl.h").as_deref(), Some("nccl.h"));
        assert_eq!(header("nvidia/cu13/include/crt/host_defines.h").as_deref(), Some("crt/host_defines.h"));
        assert_eq!((header("nvidia/nccl/include/../../x"), header("nvidia/nccl/lib/libnccl.so.2")), (None, None));
    }

    #[test]
    fn the_version_is_read_from_the_python_text() {
        let text = "from typing import Optional\n\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(version_in(text), Some("2.11.0+cu130"));
        assert_eq!(version_in("debug = False\n"), None);
    }
}
