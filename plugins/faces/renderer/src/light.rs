//! How much of the light reaches a point: openness to the sky, and shadows of one lamp.

use crate::mesh::{Part, Triangle};
use crate::raster::Canvas;
use glam::{Mat3, Vec3};

/// Nearness from a direction, as a grid over the head.
pub struct Shadows {
    turn: Mat3,
    canvas: Canvas,
    middle: Vec3,
    scale: f32,
}

impl Shadows {
    /// What a lamp at infinity in this direction sees of the vertices, on a grid of `width` samples; `face` is the
    /// middle of the face.
    pub fn new(vertices: &[Vec3], triangles: &[Triangle], hair: bool, face: Vec3, to_lamp: Vec3, width: usize) -> Self {
        let side = if to_lamp.y.abs() > 0.9 { Vec3::X } else { Vec3::Y };
        let right = side.cross(to_lamp).normalize();
        let turn = Mat3::from_cols(right, to_lamp.cross(right), to_lamp).transpose();
        // The head without shoulders and the ends of the hair.
        let (middle, half) = (face - Vec3::Z, 2.0);
        let scale = width as f32 / (2.0 * half);
        let mut shadows = Self { turn, canvas: Canvas::new(width), middle, scale };
        let seen: Vec<Vec3> = vertices.iter().map(|v| shadows.project(*v)).collect();
        for (i, t) in triangles.iter().enumerate() {
            if t.part == Part::Skin || (hair && t.part == Part::Hair) {
                shadows.canvas.draw(i as u32, t.vertices.map(|v| seen[v]), t.part == Part::Hair);
            }
        }
        shadows
    }

    fn project(&self, p: Vec3) -> Vec3 {
        let q = self.turn * (p - self.middle);
        let half = self.canvas.width as f32 / 2.0;
        Vec3::new(q.x * self.scale + half, half - q.y * self.scale, q.z)
    }

    /// From 0 (in the shadow) to 1, softened over the neighbouring samples.
    pub fn lit(&self, p: Vec3, normal: Vec3) -> f32 {
        // A step along the normal and towards the lamp keeps a surface from shading itself.
        let q = self.project(p + normal * 0.03);
        let width = self.canvas.width as i32;
        let (x, y) = ((q.x - 0.5).floor() as i32, (q.y - 0.5).floor() as i32);
        let mut lit = 0.0;
        for dy in -1..=2 {
            for dx in -1..=2 {
                let (i, j) = (x + dx, y + dy);
                let inside = i >= 0 && j >= 0 && i < width && j < width;
                let blocked = inside && self.canvas.near[(j * width + i) as usize] > q.z + 0.04;
                lit += if blocked { 0.0 } else { 1.0 / 16.0 };
            }
        }
        lit
    }
}

/// The share of the directions above a point's surface from which it is seen, a vertex.
pub fn openness(vertices: &[Vec3], triangles: &[Triangle], face: Vec3) -> Vec<f32> {
    const DIRECTIONS: usize = 48;
    let normals = normals(vertices, triangles, |_| true);
    let mut sums = vec![(0.0f32, 0.0f32); vertices.len()];
    for k in 0..DIRECTIONS {
        // Even directions over the sphere by the golden angle (Vogel 1979).
        let z = 1.0 - 2.0 * (k as f32 + 0.5) / DIRECTIONS as f32;
        let (radius, turn) = ((1.0 - z * z).sqrt(), 2.399_963_2 * k as f32);
        let direction = Vec3::new(radius * libm::cosf(turn), z, radius * libm::sinf(turn));
        let shadows = Shadows::new(vertices, triangles, false, face, direction, 96);
        for ((p, n), sum) in vertices.iter().zip(&normals).zip(&mut sums) {
            let weight = n.dot(direction).max(0.0);
            if weight > 0.0 {
                *sum = (sum.0 + weight * shadows.lit(*p, *n), sum.1 + weight);
            }
        }
    }
    sums.iter().map(|(lit, all)| if *all > 0.0 { lit / all } else { 1.0 }).collect()
}

/// Normals a vertex, weighted by area, over the triangles whose part is wanted.
pub fn normals(vertices: &[Vec3], triangles: &[Triangle], wanted: impl Fn(Part) -> bool) -> Vec<Vec3> {
    let mut out = vec![Vec3::ZERO; vertices.len()];
    for t in triangles.iter().filter(|t| wanted(t.part)) {
        let [a, b, c] = t.vertices.map(|v| vertices[v]);
        let normal = (b - a).cross(c - a);
        t.vertices.iter().for_each(|v| out[*v] += normal);
    }
    out.iter().map(|n| n.normalize_or_zero()).collect()
}
