//! The shape of a person's head at an age.

use crate::head::HEAD;
use crate::identity::{Identity, Sex};
use crate::maths::smooth;
use glam::Vec3;

/// Ages that the head model calls baby, child, young and old.
const KEYS: [(&str, f32); 4] = [("baby", 1.0), ("child", 11.0), ("young", 24.0), ("old", 82.0)];

/// How much of a small child a face still is: 1 up to three years, 0 from fifteen on.
pub fn childhood(age: f32) -> f32 {
    smooth(15.0, 3.0, age)
}

/// Positions of all vertices, without expression and pose.
pub fn shape(identity: &Identity, age: f32) -> Vec<Vec3> {
    let head = &*HEAD;
    let mut vertices = head.rest.clone();
    let add = |name: &str, weight: f32, vertices: &mut Vec<Vec3>| {
        if weight != 0.0 {
            head.morph(name).add(weight, vertices);
        }
    };
    let sex = if identity.sex == Sex::Female { "female" } else { "male" };
    let fat = identity.fat + 0.15 * smooth(25.0, 55.0, age) - 0.3 * smooth(60.0, 85.0, age);
    let fat = fat.clamp(-1.0, 1.0);
    for (key, weight) in keys(age) {
        for (origin, share) in ["caucasian", "asian", "african"].iter().zip(identity.origin.to_array()) {
            add(&format!("macro/{origin}-{sex}-{key}"), weight * share, &mut vertices);
        }
        let extreme = if fat > 0.0 { "maxweight" } else { "minweight" };
        let body = format!("macro/universal-{sex}-{key}-averagemuscle");
        add(&format!("{body}-{extreme}"), weight * fat.abs(), &mut vertices);
        let average = format!("{body}-averageweight");
        if head.morphs.contains_key(&average) {
            add(&average, weight * (1.0 - fat.abs()), &mut vertices);
        }
    }
    // Bones grow into what makes an adult's face their own.
    let grown = 0.5 + 0.5 * smooth(3.0, 18.0, age);
    for ((modifier, weight), lean) in head.modifiers.iter().zip(&identity.shape).zip(&identity.asymmetry) {
        for (negative, positive, right) in &modifier.sides {
            let weight = weight * grown + if *right { *lean } else { 0.0 };
            match negative {
                _ if weight > 0.0 => add(positive, weight, &mut vertices),
                Some(negative) => add(negative, -weight, &mut vertices),
                None => {}
            }
        }
    }
    let child = childhood(age);
    let both = |name: &str, weight: f32, vertices: &mut Vec<Vec3>| {
        add(&name.replace('*', "l"), weight, vertices);
        add(&name.replace('*', "r"), weight, vertices);
    };
    // Large eyes, a small raised nose, a small chin, full cheeks and a high forehead.
    both("eyes/*-eye-scale-incr", 0.75 * child, &mut vertices);
    both("cheek/*-cheek-volume-incr", 0.55 * child, &mut vertices);
    add("nose/nose-scale-vert-decr", 0.5 * child, &mut vertices);
    add("nose/nose-scale-horiz-decr", 0.35 * child, &mut vertices);
    add("nose/nose-hump-decr", 0.5 * child, &mut vertices);
    add("nose/nose-point-up", 0.5 * child, &mut vertices);
    add("nose/nose-scale-depth-decr", 0.4 * child, &mut vertices);
    add("chin/chin-height-decr", 0.5 * child, &mut vertices);
    add("chin/chin-prominent-decr", 0.3 * child, &mut vertices);
    add("chin/chin-width-decr", 0.3 * child, &mut vertices);
    add("mouth/mouth-scale-horiz-decr", 0.45 * child, &mut vertices);
    add("head/head-round", 0.5 * child, &mut vertices);
    add("forehead/forehead-scale-vert-incr", 0.5 * child, &mut vertices);
    add("forehead/forehead-nubian-incr", 0.3 * child, &mut vertices);

    // Sagging skin, thinning lips, and a nose and ears that grow all one's life (Albert, Ricanek and Patterson 2007,
    // "A review of the literature on the aging adult skull and face").
    let w = identity.wrinkling;
    let old = smooth(28.0, 88.0, age);
    add("head/head-age-incr", 1.15 * w * old, &mut vertices);
    both("eyes/*-eye-bag-incr", 1.1 * w * smooth(35.0, 75.0, age), &mut vertices);
    both("eyes/*-eye-eyefold-down", 0.75 * old, &mut vertices);
    both("eyes/*-eye-corner2-down", 0.5 * old, &mut vertices);
    both("eyes/*-eye-height2-decr", 0.35 * old, &mut vertices);
    both("cheek/*-cheek-volume-decr", 0.7 * smooth(45.0, 85.0, age), &mut vertices);
    both("cheek/*-cheek-inner-decr", 0.4 * old, &mut vertices);
    both("cheek/*-cheek-trans-down", 0.7 * old, &mut vertices);
    both("ears/*-ear-lobe-incr", 0.8 * smooth(20.0, 80.0, age), &mut vertices);
    both("ears/*-ear-scale-incr", 0.35 * old, &mut vertices);
    add("mouth/mouth-laugh-lines-in", 1.1 * w * smooth(32.0, 75.0, age), &mut vertices);
    add("neck/neck-double-incr", 0.7 * smooth(40.0, 80.0, age), &mut vertices);
    add("mouth/mouth-upperlip-volume-decr", 0.8 * old, &mut vertices);
    add("mouth/mouth-upperlip-height-decr", 0.35 * old, &mut vertices);
    add("mouth/mouth-lowerlip-volume-decr", 0.65 * old, &mut vertices);
    add("nose/nose-point-down", 0.6 * old, &mut vertices);
    add("nose/nose-scale-vert-incr", 0.4 * old, &mut vertices);
    add("nose/nose-volume-incr", 0.25 * old, &mut vertices);
    add("mouth/mouth-angles-down", 0.6 * old, &mut vertices);
    head.hair.hang(&mut vertices);
    vertices
}

/// Weights of the two neighbouring key ages.
fn keys(age: f32) -> Vec<(&'static str, f32)> {
    let last = KEYS.len() - 1;
    if age <= KEYS[0].1 {
        return vec![(KEYS[0].0, 1.0)];
    }
    match KEYS.windows(2).find(|pair| age < pair[1].1) {
        Some(pair) => {
            let t = (age - pair[0].1) / (pair[1].1 - pair[0].1);
            vec![(pair[0].0, 1.0 - t), (pair[1].0, t)]
        }
        None => vec![(KEYS[last].0, 1.0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A misspelled target would trip the assertion in `Head::morph`.
    #[test]
    fn every_morph_target_that_an_age_asks_for_exists() {
        for (number, age) in [(0, 0.0), (1, 5.0), (2, 17.0), (3, 40.0), (4, 70.0), (5, 95.0)] {
            let vertices = shape(&Identity::new(1, number), age);
            assert!(vertices.iter().all(|v| v.is_finite()), "person {number} at {age}");
        }
    }

    #[test]
    fn key_ages_blend_to_one() {
        for age in [0.0, 1.0, 6.0, 11.0, 30.0, 82.0, 99.0] {
            assert!((keys(age).iter().map(|k| k.1).sum::<f32>() - 1.0).abs() < 1e-6);
        }
        assert_eq!(keys(24.0), [("young", 1.0), ("old", 0.0)]);
    }
}
