//! A hash of 256 bits by which near copies of a picture are found: re-encoded, rescaled, brightened, slightly cropped.
//!
//! The brightness is averaged to 64 by 64 and transformed (orthonormal DCT-II); of its first 16 by 16 coefficients those
//! above the median of all but the first are ones. Hashes of 64 bits do not tell aligned crops of different people apart.

use mtl_component::Picture;
use std::sync::LazyLock;

/// Side of the averaged picture.
const AVERAGED: usize = 64;
/// Side of the block of coefficients.
const KEPT: usize = 16;
/// Blocks of which one is equal in hashes that differ in fewer bits than there are blocks.
const BLOCKS: usize = 26;
/// Hashes at most so far apart are all found; of those further apart most are.
pub const FOUND: u32 = BLOCKS as u32 - 1;

/// A hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PerceptualHash(pub [u64; 4]);

impl PerceptualHash {
    /// How many bits differ.
    pub fn distance(&self, other: &Self) -> u32 {
        self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    /// The hash of a picture.
    pub fn of(picture: &Picture) -> Self {
        Self::of_luma(&luma(picture), picture.width, picture.height)
    }

    /// The hash of brightness, row by row.
    pub fn of_luma(luma: &[f64], width: usize, height: usize) -> Self {
        let small = averaged(luma, width, height);
        // The first rows of the transform of columns, then its first columns.
        let cosines = &*COSINES;
        let mut rows = [[0f64; AVERAGED]; KEPT];
        for (k, row) in rows.iter_mut().enumerate() {
            for (y, line) in small.chunks_exact(AVERAGED).enumerate() {
                row.iter_mut().zip(line).for_each(|(sum, value)| *sum += cosines[k][y] * value);
            }
        }
        let mut coefficients = [0f64; KEPT * KEPT];
        for (k, row) in rows.iter().enumerate() {
            for l in 0..KEPT {
                coefficients[k * KEPT + l] = row.iter().zip(&cosines[l]).map(|(value, cosine)| value * cosine).sum();
            }
        }
        let mut others = coefficients[1..].to_vec();
        let middle = others.len() / 2;
        let (_, median, _) = others.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        let mut bits = [0u64; 4];
        for (i, coefficient) in coefficients.iter().enumerate() {
            bits[i / 64] |= u64::from(*coefficient > median) << (63 - i % 64);
        }
        Self(bits)
    }

    /// The bits of a block.
    fn block(&self, block: usize) -> usize {
        let (from, to) = (block * 256 / BLOCKS, (block + 1) * 256 / BLOCKS);
        (from..to).fold(0, |all, i| all << 1 | (self.0[i / 64] >> (63 - i % 64) & 1) as usize)
    }
}

impl std::fmt::Display for PerceptualHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "{part:016x}"))
    }
}

/// The brightness of a picture, 0 to 255 (ITU-R BT.601).
pub fn luma(picture: &Picture) -> Vec<f64> {
    let weighted = |p: &[u8]| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    picture.data.chunks_exact(3).map(weighted).collect()
}

/// The orthonormal DCT-II of 64 values: its first rows.
static COSINES: LazyLock<[[f64; AVERAGED]; KEPT]> = LazyLock::new(|| {
    let n = AVERAGED as f64;
    let mut out = [[0f64; AVERAGED]; KEPT];
    for (k, row) in out.iter_mut().enumerate() {
        let scale = (if k == 0 { 1.0 } else { 2.0 } / n).sqrt();
        for (i, value) in row.iter_mut().enumerate() {
            *value = scale * (std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / n).cos();
        }
    }
    out
});

/// The means over 64 by 64 boxes that the picture is cut into; pixels on an edge count by their parts.
fn averaged(luma: &[f64], width: usize, height: usize) -> Vec<f64> {
    let weights = |size: usize| -> Vec<Vec<(usize, f64)>> {
        let step = size as f64 / AVERAGED as f64;
        let of = |box_: usize| {
            let (from, to) = (box_ as f64 * step, (box_ + 1) as f64 * step);
            let pixels = from.floor() as usize..(to.ceil() as usize).min(size);
            let part = |pixel: usize| (to.min(pixel as f64 + 1.0) - from.max(pixel as f64)) / step;
            pixels.map(|pixel| (pixel, part(pixel))).collect()
        };
        (0..AVERAGED).map(of).collect()
    };
    let (columns, lines) = (weights(width), weights(height));
    let narrow: Vec<f64> = luma
        .chunks_exact(width)
        .flat_map(|line| columns.iter().map(|box_| box_.iter().map(|(x, part)| line[*x] * part).sum::<f64>()))
        .collect();
    lines
        .iter()
        .flat_map(|box_| {
            let narrow = &narrow;
            (0..AVERAGED).map(move |x| box_.iter().map(|(y, part)| narrow[y * AVERAGED + x] * part).sum::<f64>())
        })
        .collect()
}

/// Hands on the pairs of hashes, of which `a` and `b` are the numbers in their lists, that are at most `most` bits apart, each
/// once, with their distance. Those at most [`FOUND`] apart are found for sure. With one list, `a < b`.
pub fn neighbours(
    hashes: &[PerceptualHash],
    others: Option<&[PerceptualHash]>,
    most: u32,
    each: &mut dyn FnMut(usize, usize, u32),
) {
    let mut buckets: Vec<Vec<u32>> = Vec::new();
    for block in 0..BLOCKS {
        let size = 1usize << ((block + 1) * 256 / BLOCKS - block * 256 / BLOCKS);
        buckets.iter_mut().for_each(Vec::clear);
        buckets.resize_with(size, Vec::new);
        hashes.iter().enumerate().for_each(|(i, hash)| buckets[hash.block(block)].push(i as u32));
        // A pair is of the first block in which both are equal.
        let first = |a: &PerceptualHash, b: &PerceptualHash| (0..block).all(|k| a.block(k) != b.block(k));
        let mut look = |a: usize, b: usize, other: &PerceptualHash| {
            let distance = hashes[a].distance(other);
            if distance <= most && first(&hashes[a], other) {
                each(a, b, distance);
            }
        };
        match others {
            Some(others) => {
                for (b, other) in others.iter().enumerate() {
                    buckets[other.block(block)].iter().for_each(|a| look(*a as usize, b, other));
                }
            }
            None => {
                for bucket in &buckets {
                    for (n, b) in bucket.iter().enumerate() {
                        bucket[..n].iter().for_each(|a| look(*a as usize, *b as usize, &hashes[*b as usize]));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pictures of `tests/reference/numbers.json`: noise by a formula.
    fn noise(k: u64) -> Vec<f64> {
        let pixel = |x: u64, y: u64| {
            let sum = 1_103_515_245u64
                .wrapping_mul(x)
                .wrapping_add(809_087_729u64.wrapping_mul(y))
                .wrapping_add(2_654_435_761u64.wrapping_mul(x).wrapping_mul(y))
                .wrapping_add(2_246_822_519u64.wrapping_mul(k).wrapping_mul(x).wrapping_mul(x));
            f64::from((sum as u32) >> 24)
        };
        (0..112u64).flat_map(|y| (0..112u64).map(move |x| pixel(x, y))).collect()
    }

    #[test]
    fn hashes_are_those_that_numpy_finds() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/numbers.json"));
        let numbers: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
        let (plain, other) = (noise(0), noise(7));
        let each = |change: &dyn Fn(usize) -> f64| (0..plain.len()).map(change).collect::<Vec<f64>>();
        let pictures = [
            ("noise 0", plain.clone()),
            ("noise 1", other.clone()),
            ("noise 0, brighter by 20", each(&|i| plain[i] + 20.0)),
            ("noise 0, contrast 0.8", each(&|i| 128.0 + 0.8 * (plain[i] - 128.0))),
            ("noise 0, half noise 1", each(&|i| 0.75 * plain[i] + 0.25 * other[i])),
            ("noise 0 mirrored", each(&|i| plain[i / 112 * 112 + 111 - i % 112])),
        ];
        let hash = |luma: &[f64]| PerceptualHash::of_luma(luma, 112, 112);
        for (name, luma) in pictures {
            assert_eq!(hash(&luma).to_string(), numbers["hash"]["hex"][name], "{name}");
            let distance = hash(&luma).distance(&hash(&plain));
            assert_eq!(distance, numbers["hash"]["distance_from_noise_0"][name], "{name}");
        }
    }

    #[test]
    fn near_hashes_are_found_once_each() {
        let mut draw = mtl_component::Draw::new(&[1]);
        let mut hashes: Vec<PerceptualHash> =
            (0..400).map(|_| PerceptualHash(std::array::from_fn(|_| draw.below(u64::MAX)))).collect();
        // Copies of some of them with as many bits changed as are found for sure.
        for i in 0..50 {
            let mut near = hashes[i * 3];
            for _ in 0..FOUND {
                let bit = draw.below(256) as usize;
                near.0[bit / 64] ^= 1 << (bit % 64);
            }
            hashes.push(near);
        }
        let mut wanted = Vec::new();
        for b in 0..hashes.len() {
            wanted.extend((0..b).filter(|a| hashes[*a].distance(&hashes[b]) <= FOUND).map(|a| (a, b)));
        }
        let mut found = Vec::new();
        neighbours(&hashes, None, FOUND, &mut |a, b, _| found.push((a, b)));
        found.sort_unstable_by_key(|(a, b)| (*b, *a));
        assert_eq!(found, wanted);
        let mut across = Vec::new();
        neighbours(&hashes[..400], Some(&hashes[400..]), FOUND, &mut |a, b, _| across.push((a, 400 + b)));
        across.sort_unstable_by_key(|(a, b)| (*b, *a));
        assert_eq!(across, wanted);
    }
}
