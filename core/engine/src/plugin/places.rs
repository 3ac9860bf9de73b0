//! Where plugins are looked for.

use super::user_folder;
use mtl_recipe::schema::resolved;
use mtl_recipe::{Result, mistake};
use std::path::{Path, PathBuf};

/// The folders where a plugin is looked for by its name, after that of the recipe.
#[derive(Debug, Clone, Default)]
pub struct Places {
    folders: Vec<PathBuf>,
}

impl Places {
    /// The given folders, then those of `MTLRUN_PLUGIN_PATH`, then the user's own, `$XDG_DATA_HOME/mtlrun/plugins`.
    pub fn new(given: &[PathBuf]) -> Self {
        let mut folders = given.to_vec();
        if let Some(list) = std::env::var_os("MTLRUN_PLUGIN_PATH") {
            folders.extend(std::env::split_paths(&list).filter(|folder| !folder.as_os_str().is_empty()));
        }
        folders.extend(user_folder("XDG_DATA_HOME", ".local/share").map(|data| data.join("mtlrun/plugins")));
        Self { folders }
    }

    /// The folders.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The file of a plugin, as a recipe in `folder` names it: by a path, or by a name.
    ///
    /// A plugin `my-idea` is the file `libmy_idea.so` in one of the folders, or in a folder `my-idea` there, which is that
    /// of its crate.
    ///
    /// # Errors
    /// A mistake that says where it was looked for.
    pub fn find(&self, name: &str, folder: &Path) -> Result<PathBuf> {
        if name.contains('/') || name.ends_with(".so") {
            return Ok(resolved(name, folder));
        }
        let file = library_name(name);
        let folders: Vec<&Path> = std::iter::once(folder).chain(self.folders.iter().map(PathBuf::as_path)).collect();
        let crates = [name.to_owned(), name.replace('_', "-"), name.replace('-', "_")];
        for folder in &folders {
            let inside = crates.iter().map(|name| folder.join(name).join(&file));
            if let Some(found) = std::iter::once(folder.join(&file)).chain(inside).find(|path| path.exists()) {
                return Ok(found);
            }
        }
        let named = folders.iter().flat_map(|folder| crates.iter().map(|name| folder.join(name)));
        let own =
            folder.file_name().filter(|own| crates.iter().any(|name| *own == name.as_str())).map(|_| folder.to_owned());
        let named = own.into_iter().chain(named);
        if let Some(unbuilt) = named.into_iter().find(|folder| folder.join("Cargo.toml").exists()) {
            mistake!("the plugin `{name}` is not built: mtlrun plugin build {}", unbuilt.display());
        }
        let folders: Vec<String> = folders.iter().map(|folder| format!("  {}", folder.display())).collect();
        mistake!(
            "there is no plugin `{name}`: no {file} in\n{}\nName its folder with --plugin-path, or its file in the recipe",
            folders.join("\n")
        )
    }

    /// The plugins by name in a folder and in the folders of crates there, as files.
    pub fn in_folder(folder: &Path) -> Vec<PathBuf> {
        let entries = |folder: &Path| {
            let entries = folder.read_dir().into_iter().flatten().flatten();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths
        };
        let is_library = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("lib") && name.ends_with(".so") && path.is_file()
        };
        let (own, others): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(is_library);
        let crates = others.into_iter().filter(|path| path.is_dir()).filter_map(|path| {
            let file = path.join(library_name(&path.file_name()?.to_string_lossy()));
            is_library(&file).then_some(file)
        });
        own.into_iter().chain(crates).collect()
    }
}

/// The name of the file of a plugin.
pub fn library_name(name: &str) -> String {
    format!("lib{}.so", name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_found_by_its_name_in_order_of_the_folders() {
        let folders = tempfile::tempdir().unwrap();
        let (first, second) = (folders.path().join("a"), folders.path().join("b"));
        std::fs::create_dir_all(second.join("my-idea")).unwrap();
        std::fs::create_dir_all(&first).unwrap();
        let places = Places { folders: vec![second.clone()] };
        let error = places.find("my_idea", &first).unwrap_err().to_string();
        assert!(error.contains("no libmy_idea.so in") && error.contains("/a\n"), "{error}");

        std::fs::write(second.join("my-idea/Cargo.toml"), "").unwrap();
        let error = places.find("my_idea", &first).unwrap_err().to_string();
        assert!(error.contains("mtlrun plugin build") && error.ends_with("/b/my-idea"), "{error}");

        let built = second.join("my-idea/libmy_idea.so");
        std::fs::write(&built, "").unwrap();
        assert_eq!(places.find("my-idea", &first).unwrap(), built);
        assert_eq!(Places::in_folder(&second), [built]);
        // That of the recipe comes first.
        std::fs::write(first.join("libmy_idea.so"), "").unwrap();
        assert_eq!(places.find("my_idea", &first).unwrap(), first.join("libmy_idea.so"));
        assert_eq!(places.find("../b/libother.so", &first).unwrap(), second.join("libother.so"));
    }
}
