//! Small functions of shading.

use glam::Vec3;

/// 0 below `a`, 1 above `b`, a smooth step between; with `a > b` it falls.
pub fn smooth(a: f32, b: f32, x: f32) -> f32 {
    let t = ((x - a) / (b - a)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// `(1 - x²/9)^9`, cut off to zero at 3: `exp(-x²)` within 0.02, and cheaper.
pub fn bell(x: f32) -> f32 {
    let t = (1.0 - x * x * (1.0 / 9.0)).max(0.0);
    let cube = t * t * t;
    cube * cube * cube
}

/// A blend, per colour.
pub fn mix(a: Vec3, b: Vec3, t: f32) -> Vec3 {
    a + (b - a) * t
}

/// Lattice points a side of the noise; a power of two.
const SIDE: usize = 32;

/// Smooth noise in space that repeats every 32 units, with a mean of 0 and values around ±1.
///
/// One lattice serves all: different offsets give fields that look independent.
pub fn noise(p: Vec3) -> f32 {
    // An array of known length, so that no index need be checked.
    static LATTICE: std::sync::LazyLock<Box<[f32; SIDE * SIDE * SIDE]>> = std::sync::LazyLock::new(|| {
        let mut draw = crate::draw::Draw::new(crate::draw::Purpose::Sensor, &[7]);
        let mut lattice = Box::new([0.0; SIDE * SIDE * SIDE]);
        lattice.fill_with(|| draw.normal(0.0, 1.0));
        lattice
    });
    let lattice: &[f32; SIDE * SIDE * SIDE] = &LATTICE;
    // Rounding down by a cast: the function of the same name is a slow call where SSE 4.1 is not taken for granted.
    let down = |v: f32| v as i32 - i32::from(v < 0.0);
    let (x, y, z) = (down(p.x), down(p.y), down(p.z));
    let f = p - Vec3::new(x as f32, y as f32, z as f32);
    let w = f * f * (Vec3::splat(3.0) - 2.0 * f);
    let index = |v: i32| v as usize & (SIDE - 1);
    let (x0, y0, z0) = (index(x), index(y), index(z));
    let (x1, y1, z1) = (index(x + 1), index(y + 1), index(z + 1));
    let at = |x: usize, y: usize, z: usize| lattice[(x * SIDE + y) * SIDE + z];
    let along = |a: f32, b: f32, t: f32| a + (b - a) * t;
    let plane =
        |x: usize| along(along(at(x, y0, z0), at(x, y0, z1), w.z), along(at(x, y1, z0), at(x, y1, z1), w.z), w.y);
    along(plane(x0), plane(x1), w.x)
}

/// sRGB's curve as a power of 2.2, by a table.
pub fn to_linear(value: f32) -> f32 {
    static TABLE: std::sync::LazyLock<Vec<f32>> =
        std::sync::LazyLock::new(|| (0..=1024).map(|i| libm::powf(i as f32 / 1024.0, 2.2)).collect());
    lookup(&TABLE, value)
}

/// The inverse of [`to_linear`]. The table is over the square root, where the curve is nearly straight.
pub fn from_linear(value: f32) -> f32 {
    static TABLE: std::sync::LazyLock<Vec<f32>> =
        std::sync::LazyLock::new(|| (0..=1024).map(|i| libm::powf(i as f32 / 1024.0, 2.0 / 2.2)).collect());
    lookup(&TABLE, value.max(0.0).sqrt())
}

fn lookup(table: &[f32], value: f32) -> f32 {
    let at = value.clamp(0.0, 1.0) * 1024.0;
    let i = (at as usize).min(1023);
    table[i] + (table[i + 1] - table[i]) * (at - i as f32)
}
