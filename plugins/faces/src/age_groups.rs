//! The age groups of MTLFace (section 3.2 and the released code): the upper edge belongs to the group.

use mtl_component::{Inference, Result, bail};

/// The edges between `groups` age groups, in years. The group of an age is the number of edges strictly below it.
///
/// # Errors
/// Only 4 to 8 groups are defined.
pub fn edges(groups: i64) -> Result<&'static [f32]> {
    Ok(match groups {
        4 => &[30.0, 40.0, 50.0],
        5 => &[20.0, 30.0, 40.0, 50.0],
        6 => &[10.0, 20.0, 30.0, 40.0, 50.0],
        7 => &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
        8 => &[12.0, 18.0, 25.0, 35.0, 45.0, 55.0, 65.0],
        other => bail!("age groups are defined for 4 to 8 of them, found age_groups = {other}"),
    })
}

/// The edges between the age groups of a run that is measured; seven groups where its recipe names no number.
///
/// # Errors
/// As [`edges`].
pub fn of_run(model: &dyn Inference) -> Result<&'static [f32]> {
    edges(model.dim("age_groups").unwrap_or(7))
}

/// The group of an age.
pub fn group_of(age: f32, edges: &[f32]) -> i64 {
    edges.iter().filter(|e| age > **e).count() as i64
}

/// The groups in words, such as `11-20` and `61+`.
pub fn names(edges: &[f32]) -> Vec<String> {
    let from = |g: usize| if g == 0 { 0.0 } else { edges[g - 1] + 1.0 };
    let inner = edges.iter().enumerate().map(|(g, edge)| format!("{}-{edge}", from(g)));
    inner.chain(edges.last().map(|edge| format!("{}+", edge + 1.0))).collect()
}

/// The age in the middle of each group, in years. The last group is taken to be as wide as the one before it.
pub fn centres(edges: &[f32]) -> Vec<f32> {
    let last = edges.len() - 1;
    let below = |g: usize| if g == 0 { 0.0 } else { edges[g - 1] };
    let width = edges[last] - below(last);
    (0..=last).map(|g| (below(g) + edges[g]) / 2.0).chain([edges[last] + width / 2.0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_edge_belongs_to_the_group() {
        let seven = edges(7).unwrap();
        let found: Vec<i64> = [0.0, 10.0, 10.5, 60.0, 61.0, 100.0].iter().map(|a| group_of(*a, seven)).collect();
        assert_eq!(found, [0, 0, 1, 5, 6, 6]);
    }

    #[test]
    fn groups_have_names_and_centres() {
        let four = edges(4).unwrap();
        assert_eq!(names(four), ["0-30", "31-40", "41-50", "51+"]);
        assert_eq!(centres(four), [15.0, 35.0, 45.0, 55.0]);
    }

    #[test]
    fn other_numbers_of_groups_are_refused() {
        assert!(edges(3).unwrap_err().to_string().contains("4 to 8"));
    }
}
