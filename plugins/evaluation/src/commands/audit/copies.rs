//! Pictures that are copies of each other.

use super::people::Seen;
use super::{Place, Set};
use mtl_component::{Picture, Result};
use mtl_faces::perceptual_hash::{PerceptualHash, luma, neighbours};
use std::collections::{HashMap, HashSet};

/// Hashes of so many different bits, or fewer, are of copies: those of different people differ in 48 and more.
const COPY: u32 = 24;
/// Hashes of so many different bits may be of copies: the pixels decide.
const MAYBE: u32 = 48;
/// The correlation of brightness from which such pictures are copies. Made faces of one capture at two ages reach 0.984, and
/// moved copies 0.99.
const ALIKE: f64 = 0.985;
/// The cosine of a run's embeddings from which such pictures are copies.
const SEEN_ALIKE: f64 = 0.95;
/// How far, in pixels of 112, a copy may be moved.
const SHIFT: isize = 3;

/// How two pictures are copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Their files have the same bytes.
    Bytes,
    /// They have the same pixels.
    Pixels,
    /// They differ little.
    Near,
    /// One differs little from the mirror image of the other.
    Mirrored,
}

/// Two copies.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The first picture.
    pub a: Place,
    /// The other one.
    pub b: Place,
    /// How they are copies.
    pub kind: Kind,
    /// The bits in which their hashes differ.
    pub distance: u32,
}

impl Pair {
    /// How they are copies, in words.
    pub fn told(&self) -> String {
        match self.kind {
            Kind::Bytes => "the same bytes".into(),
            Kind::Pixels => "the same pixels".into(),
            Kind::Near => format!("{} of 256 bits differ", self.distance),
            Kind::Mirrored => format!("mirrored, {} of 256 bits differ", self.distance),
        }
    }
}

/// All copies among some sets.
pub struct Copies {
    /// In the order of the pictures; a pair stands here once, by the strictest kind.
    pub pairs: Vec<Pair>,
}

impl Copies {
    /// Finds them; a run that has seen the pictures decides on those whose brightness does not tell.
    ///
    /// # Errors
    /// If a picture that was read before cannot be read again.
    pub fn among(sets: &[Set], seen: Option<&Seen>) -> Result<Self> {
        let mut places: Vec<Place> = Vec::new();
        for (s, set) in sets.iter().enumerate() {
            // What has one colour looks like everything else that has.
            let counts = |i: &usize| set.scanned[*i].hash.is_some() && !set.scanned[*i].is_constant;
            places.extend((0..set.scanned.len()).filter(counts).map(|i| (s, i)));
        }
        let scanned = |n: usize| {
            let (s, i) = places[n];
            &sets[s].scanned[i]
        };
        let mut known: HashSet<(usize, usize)> = HashSet::new();
        let mut pairs = Vec::new();
        let mut add = |a: usize, b: usize, kind: Kind, distance: u32| {
            let (a, b) = (a.min(b), a.max(b));
            if a != b && known.insert((a, b)) {
                pairs.push(Pair { a: places[a], b: places[b], kind, distance });
            }
        };
        // Of many equal ones each is paired with the first.
        let mut by_bytes: HashMap<[u8; 32], usize> = HashMap::new();
        let mut by_pixels: HashMap<[u8; 32], usize> = HashMap::new();
        for n in 0..places.len() {
            if let Some(bytes) = scanned(n).bytes {
                let first = *by_bytes.entry(bytes).or_insert(n);
                add(first, n, Kind::Bytes, 0);
            }
        }
        let mut same: Vec<usize> = Vec::with_capacity(places.len());
        for n in 0..places.len() {
            let first = *by_pixels.entry(scanned(n).pixels).or_insert(n);
            same.push(first);
            let of_bytes = scanned(n).bytes.is_some() && scanned(n).bytes == scanned(first).bytes;
            if !of_bytes {
                add(first, n, Kind::Pixels, 0);
            }
        }
        // Equal pictures have been told: near ones are looked for among those that are left.
        let left: Vec<usize> = (0..places.len()).filter(|n| same[*n] == *n).collect();
        let hashes = |of: &dyn Fn(usize) -> Option<PerceptualHash>| -> Vec<PerceptualHash> {
            left.iter().filter_map(|n| of(*n)).collect()
        };
        let plain = hashes(&|n| scanned(n).hash);
        let mirrored = hashes(&|n| scanned(n).mirrored);
        let mut maybe = Vec::new();
        neighbours(&plain, None, MAYBE, &mut |a, b, distance| {
            if distance <= COPY {
                add(left[a], left[b], Kind::Near, distance)
            } else {
                maybe.push((left[a], left[b], distance))
            }
        });
        let mut looks = Looks { sets, kept: HashMap::new() };
        for (a, b, distance) in maybe {
            // What recognises people at every age does not tell a copy from the same person years later.
            let age = |n: usize| sets[places[n].0].pictures.labels[places[n].1].age;
            let years_apart = age(a).zip(age(b)).is_some_and(|(a, b)| (a - b).abs() >= 1.0);
            let seen = seen.filter(|_| !years_apart).and_then(|seen| seen.cosine(places[a], places[b]));
            let seen_alike = seen.is_some_and(|cosine| cosine >= SEEN_ALIKE);
            if seen_alike || looks.correlation(places[a], places[b])? >= ALIKE {
                add(a, b, Kind::Near, distance);
            }
        }
        neighbours(&plain, Some(&mirrored), COPY, &mut |a, b, distance| {
            add(left[a], left[b], Kind::Mirrored, distance)
        });
        pairs.sort_by_key(|pair| (pair.a, pair.b));
        Ok(Self { pairs })
    }
}

/// Brightness of pictures at 112 pixels a side, kept while they are compared.
struct Looks<'s> {
    sets: &'s [Set],
    kept: HashMap<Place, Vec<f64>>,
}

/// Side of the pictures that are compared, and most that are kept.
const SIDE: usize = 112;
const MOST_KEPT: usize = 4096;

impl Looks<'_> {
    fn of(&mut self, place: Place) -> Result<Vec<f64>> {
        if let Some(found) = self.kept.get(&place) {
            return Ok(found.clone());
        }
        let mut picture: Picture = self.sets[place.0].pictures.read(place.1)?;
        picture.resize(SIDE, SIDE)?;
        let found = luma(&picture);
        if self.kept.len() >= MOST_KEPT {
            self.kept.clear();
        }
        self.kept.insert(place, found.clone());
        Ok(found)
    }

    /// The largest correlation of brightness when one is moved by a few pixels.
    fn correlation(&mut self, a: Place, b: Place) -> Result<f64> {
        let (a, b) = (self.of(a)?, self.of(b)?);
        let mut best = f64::NEG_INFINITY;
        for dy in -SHIFT..=SHIFT {
            for dx in -SHIFT..=SHIFT {
                best = best.max(moved(&a, &b, dx, dy));
            }
        }
        Ok(best)
    }
}

/// The correlation of the parts that both pictures have when one is moved.
fn moved(a: &[f64], b: &[f64], dx: isize, dy: isize) -> f64 {
    let side = SIDE as isize;
    let (mut n, mut sa, mut sb, mut saa, mut sbb, mut sab) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for y in dy.max(0)..(side + dy).min(side) {
        for x in dx.max(0)..(side + dx).min(side) {
            let (u, v) = (a[(y * side + x) as usize], b[((y - dy) * side + x - dx) as usize]);
            n += 1.0;
            sa += u;
            sb += v;
            saa += u * u;
            sbb += v * v;
            sab += u * v;
        }
    }
    let (va, vb) = (saa - sa * sa / n, sbb - sb * sb / n);
    if va <= 0.0 || vb <= 0.0 { 0.0 } else { (sab - sa * sb / n) / (va * vb).sqrt() }
}
