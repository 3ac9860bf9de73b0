//! What is promised of every picture.

use mtl_made_faces::{Identity, Picture, VERSION, render, render_neutral};
use sha2::{Digest, Sha256};

fn hash(picture: &Picture) -> String {
    Sha256::digest(&picture.rgb).iter().map(|b| format!("{b:02x}")).collect()
}

/// The same bytes on every machine: a change here is a change of all collections, and of `VERSION`.
#[test]
fn pictures_have_the_same_bytes_everywhere() {
    assert_eq!(VERSION, 1);
    let found: Vec<String> = [(0, 5.0, 0), (7, 33.5, 2), (13, 78.0, 5)]
        .into_iter()
        .map(|(number, age, capture)| hash(&render(&Identity::new(1, number), age, capture, 112))[..16].to_owned())
        .collect();
    assert_eq!(found, HASHES);
}

#[test]
fn threads_change_nothing() {
    let alone = hash(&render(&Identity::new(3, 4), 40.0, 1, 48));
    let threads: Vec<_> =
        (0..4).map(|_| std::thread::spawn(|| hash(&render(&Identity::new(3, 4), 40.0, 1, 48)))).collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), alone);
    }
}

/// Background, noise and light of a capture are the same at every age: where neither picture shows the head, the
/// pixels are equal, and between captures they are not.
#[test]
fn a_capture_does_not_know_the_age() {
    let size = 64;
    let corners =
        |p: &Picture| -> Vec<u8> { [0, size - 1].iter().flat_map(|x| p.rgb[3 * x..3 * x + 3].to_vec()).collect() };
    let mut compared = 0;
    for number in 0..12 {
        let person = Identity::new(1, number);
        let at = |age: f32, capture: u64| corners(&render(&person, age, capture, size));
        let (young, older) = (at(30.0, 3), at(34.0, 3));
        if young == older {
            compared += 1;
            assert_ne!(young, at(30.0, 4), "person {number}: two captures with one background");
        }
    }
    assert!(compared >= 6, "{compared} of 12 people leave the corners of the picture free");
}

/// A fixed descriptor, the means of 8x8 blocks of a frontal picture made even, is closer between ages of one person
/// than between people of one age.
#[test]
fn people_keep_their_identity_over_the_years() {
    let descriptor = |number: u64, age: f32| -> Vec<f32> {
        let picture = render_neutral(&Identity::new(1, number), age, 64);
        let mut blocks = vec![0.0f32; 8 * 8 * 3];
        for (i, value) in picture.rgb.iter().enumerate() {
            let (pixel, colour) = (i / 3, i % 3);
            blocks[((pixel / 64 / 8) * 8 + pixel % 64 / 8) * 3 + colour] += f32::from(*value) / 64.0;
        }
        blocks
    };
    let people = 16;
    let young: Vec<_> = (0..people).map(|n| descriptor(n, 25.0)).collect();
    let older: Vec<_> = (0..people).map(|n| descriptor(n, 40.0)).collect();
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
    let first: usize = (0..people as usize)
        .filter(|i| {
            let own = distance(&young[*i], &older[*i]);
            (0..people as usize).all(|j| j == *i || distance(&young[*i], &older[j]) > own)
        })
        .count();
    assert!(first >= 14, "{first} of {people} people are nearest to themselves 15 years later");
}

/// Faces change with every decade, and more over many years than over few.
#[test]
fn ages_are_plain_to_see() {
    let person = Identity::new(1, 5);
    let at = |age: f32| render_neutral(&person, age, 48);
    let apart = |a: f32, b: f32| -> f64 {
        let (a, b) = (at(a), at(b));
        let sum: f64 = a.rgb.iter().zip(&b.rgb).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs()).sum();
        sum / a.rgb.len() as f64
    };
    assert_eq!(apart(30.0, 30.0), 0.0);
    assert!(apart(5.0, 15.0) > 3.0 && apart(60.0, 75.0) > 3.0);
    assert!(apart(20.0, 80.0) > apart(20.0, 45.0));
}

const HASHES: [&str; 3] = ["f244218a8a0074f7", "fe31b334fc65675f", "45ccdb6824dc4fc9"];
