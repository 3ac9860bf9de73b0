//! Rules of recipes that measure faces.

use mtl_component::{Diagnostic, RecipeView, ids, rule};

ids! {
    CONVENTION_WITH_FLIP "convention-with-flip" "An evaluator follows FaceX-Zoo's convention with a flip test, which FaceX-Zoo does not make."
    MADE_SMALLER "made-smaller" "An evaluator looks at made faces that are smaller than the pictures of the stream it feeds."
}

rule!("conventions", [&CONVENTION_WITH_FLIP], flip_fits_the_convention);
rule!("sizes of made faces", [&MADE_SMALLER], made_faces_are_not_blown_up);

/// FaceX-Zoo embeds pictures as they are.
fn flip_fits_the_convention(recipe: &RecipeView<'_>, found: &mut Vec<Diagnostic>) {
    for name in recipe.section("evaluate").map(|placed| placed.name) {
        let text = |key: &str| recipe.at(&format!("evaluate.{name}.{key}")).and_then(|value| value.str());
        if text("convention") == Some("facexzoo") && text("flip").unwrap_or("sum_raw") != "none" {
            let message =
                format!("`evaluate.{name}` follows FaceX-Zoo, which makes no flip test, and makes one itself");
            found.push(
                Diagnostic::warning(&CONVENTION_WITH_FLIP, message)
                    .at(&recipe.place(&format!("evaluate.{name}")), "its numbers are not those of FaceX-Zoo")
                    .help("say flip = \"none\""),
            );
        }
    }
}

/// Made faces of fewer pixels than the network takes would be stretched.
fn made_faces_are_not_blown_up(recipe: &RecipeView<'_>, found: &mut Vec<Diagnostic>) {
    for name in recipe.section("evaluate").map(|placed| placed.name) {
        let path = format!("evaluate.{name}");
        let port = recipe.at(&format!("{path}.image")).and_then(|value| value.str()).unwrap_or("faces.image");
        let stream = port.split('.').next().unwrap_or_default();
        let size = |path: String| recipe.integer(&path);
        let Some((made, wanted)) = size(format!("{path}.made.size")).zip(size(format!("data.{stream}.size"))) else {
            continue;
        };
        if made < wanted {
            let message = format!(
                "`{path}` looks at made faces of {made} pixels, which are stretched to the {wanted} of `data.{stream}`"
            );
            found.push(
                Diagnostic::warning(&MADE_SMALLER, message)
                    .at(&recipe.place(&format!("{path}.made")), format!("{made} pixels"))
                    .also(&recipe.place(&format!("data.{stream}")), format!("{wanted} pixels"))
                    .help(format!("say size = \"${{data.{stream}.size}}\"")),
            );
        }
    }
}
