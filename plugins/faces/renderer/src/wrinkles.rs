//! Wrinkles and folds as a height map over the front of the face at rest.

use crate::draw::{Draw, Purpose};
use crate::head::HEAD;
use crate::identity::Identity;
use crate::maths::smooth;
use glam::Vec2;

/// The part of the face that the map covers, in decimetres.
const LOW: Vec2 = Vec2::new(-1.15, 5.6);
const HIGH: Vec2 = Vec2::new(1.15, 8.3);

/// Heights, negative in a furrow; about -1 is a marked one.
pub struct Wrinkles {
    size: (usize, usize),
    heights: Vec<f32>,
    per_unit: f32,
}

struct Furrow {
    points: Vec<Vec2>,
    /// Deviation of its profile.
    width: f32,
    depth: f32,
    /// Years when it is first seen.
    onset: f32,
}

impl Wrinkles {
    /// The wrinkles of a person at an age, for pictures of `pixels` a side.
    pub fn new(identity: &Identity, age: f32, pixels: usize) -> Self {
        let per_unit = (pixels as f32 * 0.9).clamp(64.0, 400.0);
        let size = ((HIGH.x - LOW.x) * per_unit) as usize + 1;
        let rows = ((HIGH.y - LOW.y) * per_unit) as usize + 1;
        let mut map = Self { size: (size, rows), heights: vec![0.0; size * rows], per_unit };
        if age < 18.0 {
            return map;
        }
        for furrow in furrows(identity) {
            let growth = smooth(furrow.onset - 5.0, furrow.onset + 26.0, age) * identity.wrinkling;
            // Old furrows are wider: neighbouring ones merge into folds.
            let width = furrow.width * (1.0 + 0.5 * smooth(50.0, 85.0, age));
            if growth > 0.01 {
                map.carve(&furrow.points, width, furrow.depth * growth);
            }
        }
        map
    }

    fn carve(&mut self, points: &[Vec2], width: f32, depth: f32) {
        let cells = |low: Vec2, high: Vec2| {
            let margin = Vec2::splat(3.0 * width);
            let (low, high) = ((low - margin - LOW) * self.per_unit, (high + margin - LOW) * self.per_unit);
            let cell = |v: f32, most: usize| (v.max(0.0) as usize).min(most);
            let (columns, rows) = self.size;
            (cell(low.x, columns)..cell(high.x, columns), cell(low.y, rows)..cell(high.y, rows))
        };
        let low = points.iter().copied().fold(Vec2::MAX, Vec2::min);
        let high = points.iter().copied().fold(Vec2::MIN, Vec2::max);
        let (columns, rows) = cells(low, high);
        // Squared distance to the curve and how far along it, for the cells around the curve.
        let stride = columns.len();
        let mut nearest = vec![(f32::MAX, 0.0); stride * rows.len()];
        let segments = (points.len() - 1) as f32;
        for (k, pair) in points.windows(2).enumerate() {
            let (from, step) = (pair[0], pair[1] - pair[0]);
            let scale = 1.0 / (step.length_squared() + 1e-9);
            let (near_columns, near_rows) = cells(from.min(pair[1]), from.max(pair[1]));
            for y in near_rows {
                for x in near_columns.clone() {
                    let p = LOW + Vec2::new(x as f32, y as f32) / self.per_unit - from;
                    let t = (p.dot(step) * scale).clamp(0.0, 1.0);
                    let distance = (p - t * step).length_squared();
                    let cell = &mut nearest[(y - rows.start) * stride + x - columns.start];
                    if distance < cell.0 {
                        *cell = (distance, (k as f32 + t) / segments);
                    }
                }
            }
        }
        for (y, line) in rows.clone().zip(nearest.chunks(stride.max(1))) {
            for (x, (distance, along)) in columns.clone().zip(line) {
                if *distance < 18.0 * width * width {
                    // A bell across, and a furrow that runs out at both ends.
                    let across = crate::maths::bell((distance * 0.5).sqrt() / width);
                    let taper = (4.0 * along * (1.0 - along) + 0.08).sqrt();
                    self.heights[y * self.size.0 + x] -= depth * across * taper;
                }
            }
        }
    }

    /// Height and slope (a unit) at a place.
    pub fn at(&self, p: Vec2) -> (f32, Vec2) {
        let q = (p - LOW) * self.per_unit;
        if q.x < 0.0 || q.y < 0.0 {
            return (0.0, Vec2::ZERO);
        }
        let (x, y) = ((q.x as usize) as f32, (q.y as usize) as f32);
        if x as usize + 1 >= self.size.0 || y as usize + 1 >= self.size.1 {
            return (0.0, Vec2::ZERO);
        }
        let (f, at) = (q - Vec2::new(x, y), y as usize * self.size.0 + x as usize);
        let (a, b) = (self.heights[at], self.heights[at + 1]);
        let (c, d) = (self.heights[at + self.size.0], self.heights[at + self.size.0 + 1]);
        let (low, high) = (a + (b - a) * f.x, c + (d - c) * f.x);
        let slope = Vec2::new((b - a) * (1.0 - f.y) + (d - c) * f.y, high - low) * self.per_unit;
        (low + (high - low) * f.y, slope)
    }
}

/// Where faces fold, and when: forehead, corners of the eyes, below the eyes, beside nose and mouth, between the
/// brows, cheeks, upper lip and neck.
fn furrows(identity: &Identity) -> Vec<Furrow> {
    let mut d = Draw::new(Purpose::Wrinkles, &[identity.seed, identity.number]);
    let [_, eye, nose, _, mouth] = HEAD.points;
    let mut out = Vec::new();
    let mut add = |points: Vec<Vec2>, width: f32, depth: f32, onset: f32| {
        out.push(Furrow { points, width: width * 1.15, depth, onset });
    };
    for k in 0..5 {
        let y = eye.y + 0.42 + 0.115 * k as f32 + d.normal(0.0, 0.015);
        let (phase, half) = (d.range(0.0, 6.0), d.range(0.38, 0.6));
        let points = (0..14).map(|i| {
            let x = half * (i as f32 / 6.5 - 1.0);
            Vec2::new(x, y + 0.022 * libm::sinf(6.0 * x + phase) + 0.03 * libm::cosf(3.0 * x))
        });
        add(points.collect(), 0.02, 1.15, 33.0 + 3.0 * k as f32);
    }
    for side in [-1.0, 1.0] {
        let mut jitter = |points: &[(f32, f32)], by: f32| -> Vec<Vec2> {
            points.iter().map(|(x, y)| Vec2::new(side * x + d.normal(0.0, by), y + d.normal(0.0, by))).collect()
        };
        for k in 0..5 {
            let angle = (-38.0 + 20.0 * k as f32).to_radians();
            let (s, c) = (libm::sinf(angle), libm::cosf(angle));
            let x = eye.x + 0.22;
            let ray = [(x, eye.y), (x + 0.09 * c, eye.y + 0.09 * s), (x + 0.26 * c, eye.y + 0.26 * s)];
            add(jitter(&ray, 0.012), 0.014, 1.0, 34.0);
        }
        for k in 0..3 {
            let drop = 0.058 * k as f32;
            let bow =
                [(eye.x - 0.2, eye.y - 0.17 - drop), (eye.x, eye.y - 0.23 - drop), (eye.x + 0.2, eye.y - 0.16 - drop)];
            add(jitter(&bow, 0.012), 0.016, 0.9, 30.0 + 9.0 * k as f32);
        }
        let fold = [
            (0.17, nose.y + 0.06),
            (0.27, nose.y - 0.12),
            (mouth.x + 0.06, mouth.y + 0.08),
            (mouth.x + 0.12, mouth.y - 0.08),
        ];
        add(jitter(&fold, 0.006), 0.036, 1.7, 26.0);
        let corner =
            [(mouth.x + 0.02, mouth.y - 0.03), (mouth.x + 0.05, mouth.y - 0.18), (mouth.x + 0.02, mouth.y - 0.32)];
        add(jitter(&corner, 0.012), 0.028, 1.2, 42.0);
        let frown = [(0.07, eye.y + 0.10), (0.06, eye.y + 0.22), (0.09, eye.y + 0.33)];
        add(jitter(&frown, 0.012), 0.016, 1.0, 38.0);
        for k in 0..4 {
            let x = mouth.x + 0.14 + 0.085 * k as f32;
            let cheek = [(x, mouth.y + 0.24), (x + 0.045, mouth.y), (x + 0.02, mouth.y - 0.22)];
            add(jitter(&cheek, 0.015), 0.02, 0.8, 54.0 + 4.0 * k as f32);
        }
        let jaw = [(mouth.x + 0.02, mouth.y - 0.38), (mouth.x + 0.2, mouth.y - 0.3), (mouth.x + 0.36, mouth.y - 0.2)];
        add(jitter(&jaw, 0.012), 0.03, 0.9, 52.0);
    }
    for k in 0..7 {
        let x = (k as f32 - 3.0) * 0.055;
        let lip = vec![
            Vec2::new(x + d.normal(0.0, 0.006), mouth.y + 0.10),
            Vec2::new(x * 1.1 + d.normal(0.0, 0.006), mouth.y + 0.2),
        ];
        add(lip, 0.011, 0.7, 52.0);
    }
    for k in 0..3 {
        let points = (0..10).map(|i| {
            let x = 0.5 * (i as f32 / 4.5 - 1.0);
            Vec2::new(x, 6.02 - 0.13 * k as f32 + 0.03 * libm::cosf(3.0 * x))
        });
        add(points.collect(), 0.022, 1.0, 40.0 + 5.0 * k as f32);
    }
    out
}
