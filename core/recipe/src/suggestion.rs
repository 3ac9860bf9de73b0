//! Names that were probably meant.

/// Most names that a suggestion lists, and most among which a near one is looked for.
const MAX_LISTED: usize = 40;
const MAX_SEARCHED: usize = 1000;

/// Words of other programs for one thing.
const SYNONYMS: &[&[&str]] = &[
    &["float32", "fp32", "f32", "float", "single", "32"],
    &["float64", "fp64", "f64", "double", "64"],
    &["fp16", "float16", "f16", "half", "16"],
    &["bf16", "bfloat16"],
    &["cuda", "gpu"],
    &["steps", "iterations", "max_steps"],
    &["batch_size", "batch", "bs"],
    &["lr", "learning_rate", "base_lr"],
    &["weight_decay", "wd"],
    &["eval", "test", "evaluate", "validate", "val"],
    &["embed", "extract", "features", "infer", "predict"],
    &["scale", "s"],
    &["margin", "m"],
];

/// The names nearest to `found`, best first: other words for it, close in spelling, or one a prefix of the other. Small
/// and large letters count the same.
pub fn nearest<'a>(found: &str, valid: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = found.to_lowercase();
    let alike: Vec<&str> = SYNONYMS
        .iter()
        .filter(|words| words.contains(&wanted.as_str()))
        .flat_map(|words| words.iter().copied())
        .collect();
    let found = wanted.as_str();
    let mut scored: Vec<(usize, &str)> = valid
        .into_iter()
        .filter_map(|original| {
            let name = original.to_lowercase();
            if name == found || alike.contains(&name.as_str()) {
                return Some((0, original));
            }
            let name = name.as_str();
            let distance = strsim::damerau_levenshtein(found, name);
            let close = distance <= 2.max(name.len() / 3) && distance < name.len().max(found.len());
            let prefix = found.len() >= 3 && (name.starts_with(found) || found.starts_with(name));
            (close || prefix).then_some((distance + 1, original))
        })
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, name)| name).take(3).collect()
}

/// `did you mean …?` for a wrong name, or the list of valid ones.
pub fn suggestion<'a>(found: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.into_iter().collect();
    let near = if valid.len() > MAX_SEARCHED { Vec::new() } else { nearest(found, valid.iter().copied()) };
    let more = if valid.len() > MAX_LISTED { format!(", … ({} in all)", valid.len()) } else { String::new() };
    let list = match valid.as_slice() {
        [] => "none".to_owned(),
        names => names[..names.len().min(MAX_LISTED)].join(", ") + &more,
    };
    match near.first() {
        Some(best) => format!("did you mean `{best}`? valid: {list}"),
        None => format!("valid: {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_programs_are_understood() {
        let precisions = ["float32", "bf16", "fp16", "float64"];
        for (found, meant) in [("fp32", "float32"), ("half", "fp16"), ("bfloat16", "bf16"), ("FLOAT32", "float32")] {
            assert_eq!(nearest(found, precisions).first(), Some(&meant), "{found}");
        }
        assert_eq!(nearest("ArcFace", ["cosface", "arcface"]).first(), Some(&"arcface"));
        assert_eq!(nearest("stepps", ["steps", "seed"]), ["steps"]);
        assert!(nearest("nothing", ["steps", "seed"]).is_empty());
    }
}
