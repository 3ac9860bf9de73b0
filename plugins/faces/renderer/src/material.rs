//! Colour, normal and gloss of a point of the head at an age.

use crate::capture::Capture;
use crate::head::{HEAD, Place};
use crate::identity::{Identity, Sex};
use crate::maths::{bell, mix, noise, smooth};
use crate::mesh::Part;
use crate::shape::childhood;
use crate::wrinkles::Wrinkles;
use glam::{Vec2, Vec3};
use libm::hypotf;

/// A point that is seen.
pub struct Point {
    /// What it is of.
    pub part: Part,
    /// Its place on the head at rest.
    pub rest: Vec3,
    /// Its normal before the head is turned.
    pub normal: Vec3,
    /// What is painted there.
    pub place: Place,
}

/// What the light meets.
pub struct Surface {
    /// Colour in sRGB, 0..1.
    pub colour: Vec3,
    /// Normal before the head is turned.
    pub normal: Vec3,
    /// Strength of the highlight.
    pub gloss: f32,
    /// How much of the surface is hair.
    pub hair: f32,
}

/// All that depends on person and age but not on the point.
pub struct Material<'a> {
    identity: &'a Identity,
    wrinkles: &'a Wrinkles,
    clothes: Vec3,
    age: f32,
    old: f32,
    child: f32,
    hair: Vec3,
    lips: Vec3,
    fair: f32,
    recede: f32,
    beard: f32,
}

impl<'a> Material<'a> {
    /// The looks of a person at an age.
    pub fn new(identity: &'a Identity, age: f32, capture: &Capture, wrinkles: &'a Wrinkles) -> Self {
        let old = smooth(40.0, 85.0, age);
        let child = childhood(age);
        let grey = smooth(identity.grey_at - 14.0, identity.grey_at + 16.0, age);
        let white = Vec3::splat(0.66 + 0.14 * smooth(60.0, 80.0, age));
        // The fine hair of children is lighter.
        let young = identity.hair * (1.0 + 0.5 * child);
        // Colour comes to the lips with the years, and fades with more.
        let natural = identity.skin * Vec3::new(0.96, 0.74, 0.74);
        let adult = identity.lips * (0.55 + 0.5 * identity.skin.x);
        let lips = mix(natural, adult, smooth(11.0, 20.0, age) * (1.0 - 0.45 * old));
        let beard = match identity.sex {
            Sex::Female => 0.0,
            Sex::Male => (0.16 + 0.74 * identity.beard) * smooth(15.0, 24.0, age),
        };
        Self {
            identity,
            wrinkles,
            clothes: capture.clothes,
            age,
            old,
            child,
            hair: mix(young, white * Vec3::new(1.0, 0.99, 0.975), grey),
            lips,
            fair: smooth(0.35, 0.75, identity.skin.x),
            recede: identity.balding * smooth(24.0, 66.0, age),
            beard,
        }
    }

    /// How much hair covers a place of the skin; the long hair is a mesh of its own.
    pub fn cover(&self, p: Vec3, place: &Place) -> f32 {
        let (style, eye) = (&self.identity.style, HEAD.points[1].y);
        let x = p.x.abs();
        let temples = bell((x - 0.42) / 0.16);
        let mut line = eye + 0.76 + style.line + 0.1 * self.child - 0.10 * libm::cosf((p.x * 3.2).clamp(-3.1, 3.1));
        line += self.recede * (0.34 + 0.25 * temples);
        // A fringe hangs over the line, to one side of the parting more than to the other.
        let hang = style.fringe * (1.0 - self.recede) * smooth(0.75, 0.5, x);
        let lean = 0.8 + 0.2 * (p.x * style.parting).clamp(-1.0, 1.0);
        line -= hang * lean * 0.36;
        let ragged = 0.035 * noise(Vec3::new(p.x * 9.0, 0.0, 3.0) + self.identity.grain);
        let front = smooth(line - 0.04, line + 0.06, p.y + ragged * (0.4 + hang));
        let low = eye - 0.3 - 0.5 * style.sides;
        let side = smooth(0.86, 0.7, p.z) * smooth(low - 0.08, low + 0.1, p.y) * smooth(1.0, 0.9, p.z);
        let bald = smooth(0.5, 0.85, self.recede) * smooth(eye + 0.6, eye + 0.78, p.y) * smooth(0.98, 0.6, x);
        front.max(side) * (1.0 - bald) * (1.0 - smooth(0.1, 0.35, place.ears)) * smooth(0.0, 0.3, self.age)
    }

    /// How thick the hair lies on the scalp where it covers it.
    pub fn thickness(&self) -> f32 {
        self.identity.style.volume * smooth(0.5, 5.0, self.age) * (1.0 - 0.5 * self.recede) * (1.0 - 0.35 * self.old)
    }

    /// What is seen at a point.
    pub fn at(&self, point: &Point) -> Surface {
        match point.part {
            Part::Skin => self.skin(point),
            Part::Hair => Surface { colour: self.strands(point.rest), normal: point.normal, gloss: 0.08, hair: 1.0 },
            Part::Teeth => Surface {
                colour: Vec3::new(0.86, 0.83, 0.76) * (1.0 - 0.2 * self.old) * point.place.open.max(0.5),
                normal: point.normal,
                gloss: 0.1,
                hair: 0.0,
            },
            Part::Eye => self.eye(point),
        }
    }

    fn strands(&self, p: Vec3) -> Vec3 {
        let grain = self.identity.grain;
        let curl = self.identity.style.curl;
        let along = 1.0 + 4.0 * curl;
        let coarse = noise(Vec3::new(p.x * 22.0, p.y * 3.0 * along, p.z * 22.0) + grain);
        let fine = noise(Vec3::new(p.x * 48.0, p.y * 6.0 * along, p.z * 48.0) - grain);
        self.hair * (0.82 + 0.2 * coarse + 0.12 * fine).clamp(0.3, 1.35)
    }

    fn skin(&self, point: &Point) -> Surface {
        let (id, p, place) = (self.identity, point.rest, &point.place);
        let eye = HEAD.points[1].y;
        let x = p.x.abs();
        let fine = noise(p * 26.0 + id.grain);
        let blotch = noise(p * 7.0 - id.grain);
        let cover = self.cover(p, place);

        let mut c = id.skin * (1.0 + 0.02 * blotch + 0.012 * fine);
        // Children's skin is clear and light; old skin is sallow and uneven.
        c *= Vec3::ONE + self.child * Vec3::new(0.04, 0.03, 0.03) * self.fair;
        let red = place.cheeks * (0.7 + 0.35 * self.child) + 0.7 * place.nose * (0.7 + 0.5 * self.old);
        c *= Vec3::ONE + Vec3::new(0.05, -0.09, -0.09) * (red * (0.35 + 0.65 * self.fair));
        c *= Vec3::ONE - self.old * (0.9 + 0.5 * blotch) * Vec3::new(0.05, 0.075, 0.05);
        let spots = smooth(1.1, 1.7, noise(p * 12.0 + 2.0 * id.grain)) * smooth(50.0, 82.0, self.age);
        let freckles = if id.freckles > 0.0 {
            smooth(0.9, 1.6, noise(p * 30.0 - 2.0 * id.grain)) * id.freckles * smooth(3.0, 8.0, self.age)
        } else {
            0.0
        };
        c *= Vec3::ONE - Vec3::new(0.18, 0.27, 0.30) * (spots + 0.9 * freckles).min(1.0);
        for (centre, radius) in &id.moles {
            let distance = (Vec2::new(p.x, p.y) - *centre).length();
            if distance < 3.0 * radius && p.z > 0.3 {
                c *= 1.0 - 0.6 * bell(distance / radius) * smooth(6.0, 18.0, self.age);
            }
        }
        let tired = 0.12 + 1.0 * smooth(28.0, 72.0, self.age);
        c *= Vec3::ONE - Vec3::new(0.11, 0.15, 0.11) * (place.hollow * tired);
        c = mix(c, self.lips, 0.75 * place.lips);
        c = mix(c, Vec3::new(0.25, 0.08, 0.08), place.mouth);

        // Around the eye: lashes, and make-up.
        let made_up = id.makeup * smooth(14.0, 20.0, self.age);
        let across = x - 0.308;
        if across.abs() < 0.35 && (p.y - eye).abs() < 0.35 && p.z > 0.9 {
            let rim = hypotf(across / 1.25, (p.y - eye + 0.01) / 0.62) - 0.155;
            let lashes = bell(rim / 0.028) * smooth(eye - 0.03, eye + 0.03, p.y);
            c *= 1.0 - (0.4 + 0.15 * (1.0 - self.child) + 0.35 * made_up) * lashes;
            let shadow = bell(hypotf(across / 0.24, (p.y - eye - 0.12) / 0.07)) * made_up * 0.28;
            c *= Vec3::ONE - shadow * Vec3::new(0.6, 0.8, 0.7);
        }
        // Brows.
        let [thickness, height, tilt, density] = id.brow;
        let along = x - 0.31;
        if p.z > 0.8 && (p.y - eye - 0.235).abs() < 0.25 && (-0.3..0.36).contains(&along) {
            let ridge = eye + 0.235 + height - 0.4 * (along + 0.02) * (along + 0.02) + tilt * along * 0.6;
            // Thin in children, bushy and sparse in old men.
            let bushy = if id.sex == Sex::Male { 0.25 * self.old } else { -0.2 * self.old };
            let half = thickness * (1.0 - 0.45 * smooth(0.0, 0.3, along)) * (1.0 - 0.4 * self.child + bushy);
            let profile = ((p.y - ridge) / half).powi(2);
            let hairs = 0.75 + 0.3 * noise(Vec3::new(p.x * 32.0 + p.y * 16.0, p.y * 48.0, p.z * 16.0) + id.grain);
            let brow = bell(profile)
                * smooth(-0.27, -0.2, along)
                * smooth(0.34, 0.2, along)
                * (hairs * density * (1.0 - 0.3 * self.old) * (1.0 - 0.45 * self.child)).clamp(0.0, 1.0);
            c = mix(c, self.hair * 0.78, brow);
        }
        if self.beard > 0.0 {
            let amount = place.beard * self.beard * (0.85 + 0.3 * fine);
            c = mix(c, self.hair * 0.8 + 0.04, amount.clamp(0.0, 0.93));
        }
        c = mix(c, self.clothes, smooth(5.82, 5.72, p.y));
        let hair = cover * (0.55 + 0.42 * smooth(0.5, 4.0, self.age)) * (1.0 - 0.25 * self.old);
        if hair > 0.0 {
            c = mix(c, self.strands(p), hair);
        }

        // Furrows: a dent in the normal, and less light at the bottom.
        let mut normal = point.normal;
        let smoothness = (1.0 - cover) * smooth(0.2, 0.35, p.z);
        if smoothness > 0.0 && self.age > 18.0 {
            let (height, slope) = self.wrinkles.at(Vec2::new(p.x, p.y));
            let tangent = |axis: Vec3| axis - normal * normal.dot(axis);
            let dent = tangent(Vec3::X) * slope.x + tangent(Vec3::Y) * slope.y;
            normal -= dent * (0.034 * smoothness);
            c *= Vec3::ONE + Vec3::new(0.17, 0.22, 0.21) * (height.clamp(-2.2, 0.0) * smoothness);
            let coarse = 0.06 * self.old * smoothness;
            normal += coarse * (0.6 * fine + 0.4 * blotch) * Vec3::new(0.5, 1.0, 0.0);
        }
        let gloss = if hair > 0.5 { 0.09 } else { 0.13 * (1.0 - 0.45 * self.old) + 0.1 * place.lips * made_up };
        Surface { colour: c, normal: normal.normalize_or_zero(), gloss, hair }
    }

    fn eye(&self, point: &Point) -> Surface {
        let p = point.rest;
        let centre = HEAD.points[usize::from(p.x > 0.0)];
        let (dx, dy) = (p.x - centre.x, p.y - centre.y);
        let radius = hypotf(dx, dy);
        let iris = smooth(0.074, 0.067, radius);
        let pupil = smooth(0.031, 0.025, radius);
        let ring = smooth(0.05, 0.068, radius) * iris;
        let white = Vec3::new(0.91, 0.89, 0.87) * (Vec3::ONE - self.old * Vec3::new(0.07, 0.11, 0.17));
        let fibre = noise(Vec3::new(dx * 90.0, dy * 90.0, 5.0) + self.identity.grain);
        let mut c = mix(white, self.identity.iris * (1.0 + 0.15 * fibre) * (1.0 - 0.55 * ring), iris);
        c = mix(c, Vec3::splat(0.02), pupil);
        // The upper lid shades the ball.
        c *= 0.6 + 0.4 * smooth(0.11, 0.02, dy);
        Surface { colour: c, normal: point.normal, gloss: 0.2, hair: 0.0 }
    }
}
