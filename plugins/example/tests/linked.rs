//! The same source without a dynamic library, and the guide that shows it.

use example_plugin as _;
use mtl_component::{ComponentKind, Provider, Registry};

#[test]
fn a_plugin_can_be_linked_in() {
    let registry = Registry::built_in().unwrap();
    let found = registry.find(ComponentKind::Loss, "log_cosh").unwrap();
    assert_eq!(registry.provider(found), Some(&Provider::BuiltIn { krate: "example-plugin".into() }));
    assert_eq!(registry.all().len(), 13);
    assert!(registry.plugins().is_empty());
}

#[test]
fn the_guide_shows_these_files() {
    let guide = include_str!("../../README.md");
    for source in [
        include_str!("../src/decomposition.rs"),
        include_str!("../src/loss.rs"),
        include_str!("../src/dataset.rs"),
        include_str!("../src/source.rs"),
        include_str!("../src/hook.rs"),
    ] {
        let (shown, _) = source.split_once("\n#[cfg(test)]").unwrap();
        assert!(guide.contains(shown.trim_end()), "plugins/README.md has another text than:\n{shown}");
    }
}
