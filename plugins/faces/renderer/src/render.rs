//! From a person, an age and a capture to a picture.

use crate::capture::Capture;
use crate::draw::{Draw, Purpose};
use crate::head::{HEAD, Place, mean};
use crate::identity::Identity;
use crate::light::{Shadows, normals};
use crate::material::{Material, Point};
use crate::maths::{from_linear, noise, smooth, to_linear};
use crate::mesh::Part;
use crate::raster::{Canvas, weights};
use crate::shape::shape;
use crate::wrinkles::Wrinkles;
use glam::{Vec2, Vec3};

/// The five points of face recognition in a picture of 112 x 112: eyes, nose, corners of the mouth, from the left of
/// the picture (Deng et al. 2019, "ArcFace").
pub const TEMPLATE: [[f32; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// Samples a pixel and side for what is in front.
const SUB: usize = 2;
const SAMPLES: [(usize, usize); SUB * SUB] = [(0, 0), (1, 0), (0, 1), (1, 1)];
/// Distance of the camera in decimetres.
const CAMERA: f32 = 11.0;

/// A square picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a side.
    pub size: usize,
    /// Red, green, blue of each pixel, row by row.
    pub rgb: Vec<u8>,
}

/// The picture that the collection of this seed has of a person at an age (years, 0 to 100).
pub fn render(identity: &Identity, age: f32, capture: u64, size: usize) -> Picture {
    draw(identity, age, &Capture::new(identity.seed, identity.number, capture), size)
}

/// The person from the front in even light.
pub fn render_neutral(identity: &Identity, age: f32, size: usize) -> Picture {
    draw(identity, age, &Capture::neutral(), size)
}

fn draw(identity: &Identity, age: f32, capture: &Capture, size: usize) -> Picture {
    let head = &*HEAD;
    let age = age.clamp(0.0, 100.0);
    let wrinkles = Wrinkles::new(identity, age, size);
    let material = Material::new(identity, age, capture, &wrinkles);
    let long = identity.style.long && age > 4.0;

    let mut vertices = shape(identity, age);
    for (name, weight) in &capture.expression {
        head.morph(name).add(*weight, &mut vertices);
    }
    let thickness = material.thickness();
    for (v, vertex) in vertices.iter_mut().enumerate() {
        if head.skin[v] {
            let cover = material.cover(head.rest[v], &head.places[v]);
            if cover > 0.0 {
                let lump = 0.02 * noise(head.rest[v] * 6.0 + identity.grain);
                *vertex += head.outward[v] * (cover * (thickness + lump));
            }
        }
    }

    // The head turns around a point behind the middle of the face; the camera is in front.
    let landmarks = head.landmarks.each_ref().map(|list| mean(list, &vertices));
    let [right, left, _, mouth_right, mouth_left] = landmarks;
    let centre = (right + left + mouth_right + mouth_left) / 4.0 - Vec3::new(0.0, 0.0, 0.8);
    let turn = capture.rotation();
    let project = |p: Vec3| {
        let q = turn * (p - centre);
        let scale = CAMERA / (CAMERA - q.z);
        Vec3::new(q.x * scale, -q.y * scale, q.z)
    };
    let to_picture = align(landmarks.map(|p| project(p).truncate()), capture.shift);
    let samples = (size * SUB) as f32;
    let place = |p: &Vec3| {
        let p = project(*p);
        (to_picture(p.truncate()) * samples).extend(p.z)
    };
    let placed: Vec<Vec3> = vertices.iter().map(place).collect();
    let mut canvas = Canvas::new(size * SUB);
    for (i, t) in head.triangles.iter().enumerate() {
        if t.part != Part::Hair || long {
            canvas.draw(i as u32, t.vertices.map(|v| placed[v]), t.part == Part::Hair);
        }
    }

    let mut normal = normals(&vertices, &head.triangles, |part| part != Part::Hair);
    if long {
        let hair = normals(&vertices, &head.triangles, |part| part == Part::Hair);
        head.hair.vertices.iter().for_each(|v| normal[*v] = hair[*v]);
    }
    // The lamp stands still when the head turns.
    let back = turn.transpose();
    let lamp = back * capture.lamp;
    let shadows = Shadows::new(&vertices, &head.triangles, long, centre + 0.8 * Vec3::Z, lamp, 128);
    let lit: Vec<f32> = vertices.iter().zip(&normal).map(|(p, n)| shadows.lit(*p, *n)).collect();

    let half = (lamp + back * Vec3::Z).normalize();
    let light = Light { lamp, half, up: back * Vec3::Y, capture };
    let mut out = vec![Vec3::ZERO; size * size];
    for y in 0..size {
        for x in 0..size {
            let mut colour = Vec3::ZERO;
            let mut open = 0.0f32;
            // Samples of one part are shaded once, at the first of them.
            let mut parts: [Option<(f32, usize, usize)>; 4] = [None; 4];
            for (i, j) in SAMPLES {
                let (i, j) = (x * SUB + i, y * SUB + j);
                match head.triangles.get(canvas.seen[j * size * SUB + i] as usize) {
                    Some(t) => parts[t.part as usize].get_or_insert((0.0, i, j)).0 += 1.0,
                    None => open += 1.0,
                }
            }
            for (count, i, j) in parts.into_iter().flatten() {
                let t = &head.triangles[canvas.seen[j * size * SUB + i] as usize];
                let weights = weights(t.vertices.map(|v| placed[v]), i, j);
                let mut point = Point { part: t.part, rest: Vec3::ZERO, normal: Vec3::ZERO, place: Place::default() };
                let mut shade = 0.0;
                for (v, w) in t.vertices.iter().zip(weights) {
                    point.rest += w * head.rest[*v];
                    point.normal += w * normal[*v];
                    point.place.add(w, &head.places[*v]);
                    shade += w * lit[*v];
                }
                point.normal = point.normal.normalize_or_zero();
                colour += count * light.shade(&material, &point, shade);
            }
            if open > 0.0 {
                let at = Vec2::new(x as f32 + 0.5, y as f32 + 0.5) / size as f32 - 0.5;
                let back = capture.background + capture.slope.dot(at);
                colour += open * back.map(to_linear);
            }
            out[y * size + x] = colour / (SUB * SUB) as f32;
        }
    }
    develop(out, size, identity, capture)
}

/// The similarity that takes the projected landmarks nearest to the template (Umeyama 1991), as a map to shares of
/// the picture.
fn align(points: [Vec2; 5], shift: Vec2) -> impl Fn(Vec2) -> Vec2 {
    let target = TEMPLATE.map(|p| Vec2::from(p) / 112.0);
    let (from, to) = (points.iter().sum::<Vec2>() / 5.0, target.iter().sum::<Vec2>() / 5.0);
    // In the plane a rotation and a scale are one complex number, fitted by least squares.
    let (mut turn, mut size) = (Vec2::ZERO, 0.0);
    for (p, q) in points.iter().zip(&target) {
        let (a, b) = (*p - from, *q - to);
        turn += Vec2::new(a.dot(b), a.perp_dot(b));
        size += a.length_squared();
    }
    let turn = turn / size;
    move |p| turn.rotate(p - from) + to + shift
}

struct Light<'a> {
    lamp: Vec3,
    half: Vec3,
    up: Vec3,
    capture: &'a Capture,
}

impl Light<'_> {
    /// Linear colour that a point sends to the camera.
    fn shade(&self, material: &Material<'_>, point: &Point, lit: f32) -> Vec3 {
        let surface = material.at(point);
        let n = surface.normal;
        // Light wraps around skin, red the farthest, as it scatters below the surface.
        let wrap = Vec3::new(0.30, 0.16, 0.12) * (1.0 - 0.7 * surface.hair);
        let diffuse = ((n.dot(self.lamp) + wrap) / (1.0 + wrap)).clamp(Vec3::ZERO, Vec3::ONE);
        let through = Vec3::new(0.38, 0.28, 0.25);
        let shadow = through + (1.0 - through) * lit;
        let sky = (0.72 + 0.28 * (0.5 + 0.5 * n.dot(self.up))) * (0.35 + 0.65 * point.place.open);
        let albedo = surface.colour.clamp(Vec3::splat(0.01), Vec3::ONE).map(to_linear);
        let facing = n.dot(self.half).max(0.0);
        let power = facing * facing * facing;
        let power = power * power * power;
        let gloss = power * power * power.sqrt() * surface.gloss * lit;
        let mut out = albedo * (self.capture.ambient * sky + self.capture.lamp_light * diffuse * shadow);
        out += self.capture.lamp_light * gloss;
        if point.part == Part::Eye {
            let centre = HEAD.points[usize::from(point.rest.x > 0.0)];
            let catch = Vec2::new(point.rest.x - centre.x - self.lamp.x * 0.03, point.rest.y - centre.y - 0.024);
            out += Vec3::splat(0.7 * smooth(0.018, 0.008, catch.length()));
        }
        out
    }
}

/// Blur, curve, contrast and noise of the camera.
fn develop(mut linear: Vec<Vec3>, size: usize, identity: &Identity, capture: &Capture) -> Picture {
    let deviation = capture.blur * size as f32 / 112.0;
    if deviation > 0.05 {
        blur(&mut linear, size, deviation);
    }
    let words = [identity.seed, identity.number, capture.noise_seed];
    let mut grain = Draw::new(Purpose::Sensor, &words);
    let mut rgb = Vec::with_capacity(3 * size * size);
    for pixel in linear {
        for value in pixel.to_array() {
            let mut v = from_linear(value.min(1.0));
            v = ((v - 0.5) * capture.contrast + 0.5 + capture.brightness).clamp(0.0, 1.0);
            if capture.noise > 0.0 {
                v += grain.normal(0.0, capture.noise);
            }
            rgb.push((v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
        }
    }
    Picture { size, rgb }
}

/// A Gaussian blur along rows, then along columns.
fn blur(pixels: &mut [Vec3], size: usize, deviation: f32) {
    let radius = (3.0 * deviation).ceil() as i64;
    let mut weights: Vec<f32> =
        (-radius..=radius).map(|i| libm::expf(-0.5 * (i as f32 / deviation) * (i as f32 / deviation))).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    let mut line = vec![Vec3::ZERO; size];
    for (step, jump) in [(1, size), (size, 1)] {
        for k in 0..size {
            for (i, out) in line.iter_mut().enumerate() {
                *out = Vec3::ZERO;
                for (w, d) in weights.iter().zip(-radius..) {
                    let at = (i as i64 + d).clamp(0, size as i64 - 1) as usize;
                    *out += *w * pixels[k * jump + at * step];
                }
            }
            line.iter().enumerate().for_each(|(i, v)| pixels[k * jump + i * step] = *v);
        }
    }
}

impl Place {
    fn add(&mut self, weight: f32, other: &Self) {
        self.lips += weight * other.lips;
        self.mouth += weight * other.mouth;
        self.ears += weight * other.ears;
        self.cheeks += weight * other.cheeks;
        self.nose += weight * other.nose;
        self.hollow += weight * other.hollow;
        self.beard += weight * other.beard;
        self.open += weight * other.open;
    }
}
