//! Which triangle is seen where.

use glam::{Vec2, Vec3};

/// Nothing is seen.
pub const NOTHING: u32 = u32::MAX;

/// Distances and hits on a grid.
#[derive(Debug)]
pub struct Canvas {
    /// Samples a row.
    pub width: usize,
    /// Nearness, larger in front; negative infinity where nothing is.
    pub near: Vec<f32>,
    /// The triangle that is seen, or [`NOTHING`].
    pub seen: Vec<u32>,
}

impl Canvas {
    /// An empty square.
    pub fn new(width: usize) -> Self {
        Self { width, near: vec![f32::NEG_INFINITY; width * width], seen: vec![NOTHING; width * width] }
    }

    /// Draws a triangle with corners (x, y, nearness), x to the right and y down, in units of samples.
    ///
    /// `both` draws it from behind as well.
    pub fn draw(&mut self, triangle: u32, [a, b, c]: [Vec3; 3], both: bool) {
        let area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
        // With y down, a triangle that is counter-clockwise from outside turns the other way.
        if area.abs() < 1e-9 || (area > 0.0 && !both) {
            return;
        }
        let size = self.width as f32;
        let low = a.min(b).min(c);
        let high = a.max(b).max(c);
        if high.x < 0.0 || high.y < 0.0 || low.x >= size || low.y >= size {
            return;
        }
        let range = |low: f32, high: f32| {
            // Samples are at the middles of their squares. Casts round to zero.
            let (low, high) = ((low - 0.5).max(0.0), (high + 0.5).min(size));
            let first = low as usize;
            (first + usize::from((first as f32) < low), high as usize)
        };
        let ((x0, x1), (y0, y1)) = (range(low.x, high.x), range(low.y, high.y));
        if x0 >= x1 {
            return;
        }
        let (second, third) = gradients([a, b, c], area);
        let slope = (b.z - a.z) * second + (c.z - a.z) * third;
        for y in y0..y1 {
            let start = Vec2::new(x0 as f32 + 0.5 - a.x, y as f32 + 0.5 - a.y);
            let (u, v, near) = (second.dot(start), third.dot(start), a.z + slope.dot(start));
            let row = y * self.width + x0..y * self.width + x1;
            let samples = self.near[row.clone()].iter_mut().zip(&mut self.seen[row]);
            // Choices instead of branches, for the compiler to take several samples at once.
            for (i, (nearest, seen)) in samples.enumerate() {
                let i = i as f32;
                let (u, v, near) = (u + i * second.x, v + i * third.x, near + i * slope.x);
                let hit = (u >= 0.0) & (v >= 0.0) & (u + v <= 1.0) & (near > *nearest);
                *nearest = if hit { near } else { *nearest };
                *seen = if hit { triangle } else { *seen };
            }
        }
    }
}

/// How the weights of the second and third corner grow over the picture.
fn gradients([a, b, c]: [Vec3; 3], area: f32) -> (Vec2, Vec2) {
    (Vec2::new(c.y - a.y, a.x - c.x) / area, Vec2::new(a.y - b.y, b.x - a.x) / area)
}

/// Weights of the three corners at a sample.
pub fn weights([a, b, c]: [Vec3; 3], x: usize, y: usize) -> [f32; 3] {
    let area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
    let (second, third) = gradients([a, b, c], area);
    let at = Vec2::new(x as f32 + 0.5 - a.x, y as f32 + 0.5 - a.y);
    let (u, v) = (second.dot(at), third.dot(at));
    [1.0 - u - v, u, v]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_triangle_is_seen_and_backs_are_not() {
        let mut canvas = Canvas::new(8);
        let corners = |near: f32| [Vec3::new(0.0, 0.0, near), Vec3::new(0.0, 8.0, near), Vec3::new(8.0, 0.0, near)];
        canvas.draw(1, corners(1.0), false);
        canvas.draw(2, corners(3.0), false);
        canvas.draw(3, corners(2.0), false);
        let [a, b, c] = corners(9.0);
        canvas.draw(4, [a, c, b], false);
        assert_eq!(canvas.seen[0], 2);
        assert_eq!(canvas.seen[63], NOTHING);
        let [_, second, third] = weights(corners(3.0), 2, 1);
        assert!((second - 1.5 / 8.0).abs() < 1e-6 && (third - 2.5 / 8.0).abs() < 1e-6);
    }
}
