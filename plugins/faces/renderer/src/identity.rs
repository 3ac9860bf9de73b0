//! What makes a person, and how they age.

use crate::draw::{Draw, Purpose};
use crate::head::HEAD;
use glam::{Vec2, Vec3};

/// The sex whose morph targets and styles are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sex {
    /// Female.
    Female,
    /// Male.
    Male,
}

/// How the hair is worn.
#[derive(Debug, Clone, Copy)]
pub struct HairStyle {
    /// Height of the hairline over its usual place.
    pub line: f32,
    /// Thickness over the scalp.
    pub volume: f32,
    /// How far a fringe hangs down: 0 none, 1 to the brows.
    pub fringe: f32,
    /// Where the hair is parted, from -1 (right) to 1 (left).
    pub parting: f32,
    /// How far the sides come down: 0 above the ear, 1 to the jaw.
    pub sides: f32,
    /// Long hair that hangs behind the face.
    pub long: bool,
    /// How curly.
    pub curl: f32,
}

/// A person: nothing here changes with age, but it says how age changes the rest.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Seed of the collection.
    pub seed: u64,
    /// Number within the collection.
    pub number: u64,
    /// Sex.
    pub sex: Sex,
    /// Weights of the caucasian, asian and african heads; they sum to one.
    pub origin: Vec3,
    /// Weight of each of the head's modifiers, in -1..1.
    pub shape: Vec<f32>,
    /// Difference of the right half from the left, by modifier.
    pub asymmetry: Vec<f32>,
    /// Body fat as an adult, in -1..1.
    pub fat: f32,
    /// Colours in sRGB, 0..1.
    pub skin: Vec3,
    /// Hair before it greys.
    pub hair: Vec3,
    /// Iris.
    pub iris: Vec3,
    /// Lips of an adult.
    pub lips: Vec3,
    /// How the hair is worn.
    pub style: HairStyle,
    /// Years when half the hair is grey.
    pub grey_at: f32,
    /// How far the hair of a man recedes in old age.
    pub balding: f32,
    /// How much of a beard a man wears.
    pub beard: f32,
    /// Brows: half thickness, height over the usual place, tilt, density.
    pub brow: [f32; 4],
    /// Make-up of a woman.
    pub makeup: f32,
    /// Freckles.
    pub freckles: f32,
    /// Moles: place on the face and radius.
    pub moles: Vec<(Vec2, f32)>,
    /// How strongly the skin wrinkles and sags.
    pub wrinkling: f32,
    /// Offset into the noise of skin and hair.
    pub grain: Vec3,
}

impl Identity {
    /// The person of that number in the collection of that seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut d = Draw::new(Purpose::Identity, &[seed, number]);
        let female = d.chance(0.5);
        let mut origin = [0.06, 0.06, 0.06];
        origin[d.choice(&[1.0, 1.0, 1.0])] += d.range(0.6, 1.2);
        let origin = Vec3::from(origin.map(|w: f32| w * d.range(0.6, 1.4)));
        let origin = origin / origin.element_sum();
        let [caucasian, asian, african] = origin.to_array();
        let shape = HEAD.modifiers.iter().map(|_| d.normal(0.0, 0.42).clamp(-1.0, 1.0)).collect();
        let asymmetry = HEAD.modifiers.iter().map(|_| d.normal(0.0, 0.05)).collect();

        let tone = caucasian * Vec3::new(0.87, 0.68, 0.58)
            + asian * Vec3::new(0.85, 0.67, 0.53)
            + african * Vec3::new(0.45, 0.30, 0.215);
        let shade = 1.0 + d.normal(0.0, 0.07);
        let tint = Vec3::new(d.normal(0.0, 0.012), d.normal(0.0, 0.012), d.normal(0.0, 0.012));
        let skin = (tone * shade + tint).clamp(Vec3::splat(0.1), Vec3::splat(0.95));
        // Black, dark brown, brown, dark blond, blond, red.
        const HAIR: [[f32; 3]; 6] = [
            [0.05, 0.04, 0.035],
            [0.12, 0.075, 0.05],
            [0.28, 0.17, 0.09],
            [0.45, 0.30, 0.14],
            [0.66, 0.52, 0.30],
            [0.38, 0.14, 0.06],
        ];
        let share = |light: [f32; 6], dark: [f32; 6]| -> [f32; 6] {
            std::array::from_fn(|i| light[i] * caucasian + dark[i] * (asian + african))
        };
        let hair = HAIR[d.choice(&share([0.05, 0.2, 0.3, 0.2, 0.15, 0.1], [0.8, 0.2, 0.0, 0.0, 0.0, 0.0]))];
        const IRIS: [[f32; 3]; 4] = [[0.18, 0.10, 0.06], [0.30, 0.18, 0.09], [0.35, 0.40, 0.25], [0.35, 0.48, 0.62]];
        let dark = (asian + african) * 0.8;
        let iris = IRIS[d.choice(&[
            0.2 * caucasian + dark,
            0.25 * caucasian + 0.2 * (asian + african),
            0.2 * caucasian,
            0.35 * caucasian,
        ])];
        let hair = Vec3::from(hair) * (1.0 + d.normal(0.0, 0.1));
        let fringed = d.chance(if female { 0.3 } else { 0.15 });
        let style = HairStyle {
            line: d.normal(0.0, 0.05),
            volume: d.range(0.05, 0.16),
            fringe: if fringed { d.range(0.45, 0.95) } else { 0.0 },
            parting: d.range(-0.7, 0.7),
            sides: if female { d.range(0.3, 1.0) } else { d.range(0.0, 0.5) },
            long: d.chance(if female { 0.6 } else { 0.05 }),
            curl: if d.chance(0.25 + 0.5 * african) { d.range(0.5, 1.0) } else { d.range(0.0, 0.3) },
        };
        let lips = if female { Vec3::new(0.70, 0.28, 0.31) } else { Vec3::new(0.62, 0.39, 0.36) } * d.range(0.88, 1.08);
        let grey_at = d.normal(50.0, 7.0);
        let balding = if female { 0.0 } else { d.range(0.0, 1.0) };
        let beard = if !female && d.chance(0.3) { d.range(0.4, 1.0) } else { 0.0 };
        let brow = [
            d.range(0.035, 0.06) * if female { 0.65 } else { 1.15 },
            d.normal(if female { 0.03 } else { -0.02 }, 0.025),
            d.normal(0.0, 0.12),
            d.range(0.55, 0.95),
        ];
        let makeup = if female && d.chance(0.6) { d.range(0.3, 1.0) } else { 0.0 };
        let freckles = if d.chance(0.3) { d.range(0.2, 0.8) * caucasian } else { 0.0 };
        let count = d.range(0.0, 6.0) as usize;
        let moles =
            (0..count).map(|_| (Vec2::new(d.range(-0.75, 0.75), d.range(6.2, 7.9)), d.range(0.014, 0.03))).collect();
        let grain = Vec3::new(d.range(0.0, 32.0), d.range(0.0, 32.0), d.range(0.0, 32.0));
        Self {
            seed,
            number,
            sex: if female { Sex::Female } else { Sex::Male },
            origin,
            shape,
            asymmetry,
            fat: d.normal(0.0, 0.25),
            skin,
            hair,
            iris: Vec3::from(iris),
            lips,
            style,
            grey_at,
            balding,
            beard,
            brow,
            makeup,
            freckles,
            moles,
            wrinkling: d.range(0.85, 1.25),
            grain,
        }
    }
}
