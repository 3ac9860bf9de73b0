//! Names that were probably meant.

/// Most names that a suggestion lists, and most among which a near one is looked for.
const MAX_LISTED: usize = 40;
const MAX_SEARCHED: usize = 1000;

/// The names nearest to `found`, best first: close in spelling, or one a prefix of the other.
pub fn nearest<'a>(found: &str, valid: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<(usize, &str)> = valid
        .into_iter()
        .filter_map(|name| {
            let distance = strsim::damerau_levenshtein(found, name);
            let close = distance <= 2.max(name.len() / 3) && distance < name.len().max(found.len());
            let prefix = found.len() >= 3 && (name.starts_with(found) || found.starts_with(name));
            (close || prefix).then_some((distance, name))
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
