//! How a picture is taken; nothing here knows the age.

use crate::draw::{Draw, Purpose};
use glam::{Mat3, Vec2, Vec3};

/// Pose, light, expression, background and camera of one picture.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Turns of the head in degrees: to the side, up, and to the shoulder.
    pub pose: Vec3,
    /// Weights of expression targets.
    pub expression: Vec<(&'static str, f32)>,
    /// Direction to the lamp.
    pub lamp: Vec3,
    /// Colour and strength of the lamp.
    pub lamp_light: Vec3,
    /// Light from everywhere.
    pub ambient: Vec3,
    /// Background in the middle, and its slope to the right and down.
    pub background: Vec3,
    /// Change of the background over the picture.
    pub slope: Vec2,
    /// Colour of the clothes.
    pub clothes: Vec3,
    /// Error of the alignment, in shares of the picture's width.
    pub shift: Vec2,
    /// Contrast around middle grey.
    pub contrast: f32,
    /// Brightness added.
    pub brightness: f32,
    /// Deviation of the sensor's noise.
    pub noise: f32,
    /// Deviation of the blur in pixels of a 112-pixel picture.
    pub blur: f32,
    /// Start of the sensor's noise.
    pub noise_seed: u64,
}

impl Capture {
    /// The picture of that number of a person.
    pub fn new(seed: u64, identity: u64, number: u64) -> Self {
        let mut d = Draw::new(Purpose::Capture, &[seed, identity, number]);
        let pose = Vec3::new(d.normal(0.0, 15.0), d.normal(0.0, 6.0), d.normal(0.0, 4.0));
        let smile = d.normal(0.1, 0.35).clamp(0.0, 0.9);
        let open = d.normal(-0.1, 0.2).max(0.0);
        let brows = d.normal(0.0, 0.3).max(0.0);
        let slit = d.normal(0.0, 0.25).max(0.0);
        let expression = vec![
            ("expr/mouth-corner-puller", smile),
            ("expr/mouth-open", open),
            ("expr/eyebrows-left-up", brows),
            ("expr/eyebrows-right-up", brows),
            ("expr/eye-left-slit", slit),
            ("expr/eye-right-slit", slit),
        ];
        let (azimuth, height) = (d.range(-65.0, 65.0).to_radians(), d.range(0.0, 60.0).to_radians());
        let (sa, ca) = (libm::sinf(azimuth), libm::cosf(azimuth));
        let (sh, ch) = (libm::sinf(height), libm::cosf(height));
        let mut warm = || (1.0 + d.normal(0.0, 0.05)).clamp(0.85, 1.15);
        let colour = Vec3::new(warm(), warm(), warm());
        let strength = d.range(0.5, 0.9);
        let ambient = d.range(0.3, 0.6);
        let grey = d.range(0.1, 0.9);
        let background = (Vec3::splat(grey) + Vec3::new(d.normal(0.0, 0.12), d.normal(0.0, 0.12), d.normal(0.0, 0.12)))
            .clamp(Vec3::splat(0.02), Vec3::splat(0.98));
        Self {
            pose,
            expression,
            lamp: Vec3::new(sa * ch, sh, ca * ch),
            lamp_light: colour * strength,
            ambient: colour * ambient,
            background,
            slope: Vec2::new(d.normal(0.0, 0.25), d.normal(0.0, 0.25)),
            clothes: Vec3::new(d.range(0.05, 0.8), d.range(0.05, 0.8), d.range(0.05, 0.8)),
            shift: Vec2::new(d.normal(0.0, 0.008), d.normal(0.0, 0.008)),
            contrast: d.range(0.87, 1.12),
            brightness: d.normal(0.0, 0.03),
            noise: d.range(0.004, 0.018),
            blur: if d.chance(0.4) { d.range(0.2, 0.8) } else { 0.0 },
            noise_seed: number,
        }
    }

    /// A frontal picture in even light, without expression, blur or noise.
    pub fn neutral() -> Self {
        Self {
            pose: Vec3::ZERO,
            expression: Vec::new(),
            lamp: Vec3::new(0.35, 0.45, 0.82).normalize(),
            lamp_light: Vec3::splat(0.68),
            ambient: Vec3::splat(0.45),
            background: Vec3::new(0.60, 0.62, 0.65),
            slope: Vec2::ZERO,
            clothes: Vec3::new(0.25, 0.29, 0.36),
            shift: Vec2::ZERO,
            contrast: 1.0,
            brightness: 0.0,
            noise: 0.0,
            blur: 0.0,
            noise_seed: 0,
        }
    }

    /// The turn of the head: side, then up, then to the shoulder.
    pub fn rotation(&self) -> Mat3 {
        let [side, up, shoulder] = self.pose.to_array().map(|degrees| {
            let angle = degrees.to_radians();
            (libm::sinf(angle), libm::cosf(angle))
        });
        let rows = |a: Vec3, b: Vec3, c: Vec3| Mat3::from_cols(a, b, c).transpose();
        let (s, c) = shoulder;
        let z = rows(Vec3::new(c, -s, 0.0), Vec3::new(s, c, 0.0), Vec3::Z);
        let (s, c) = up;
        let x = rows(Vec3::X, Vec3::new(0.0, c, s), Vec3::new(0.0, -s, c));
        let (s, c) = side;
        let y = rows(Vec3::new(c, 0.0, s), Vec3::Y, Vec3::new(-s, 0.0, c));
        z * x * y
    }
}
