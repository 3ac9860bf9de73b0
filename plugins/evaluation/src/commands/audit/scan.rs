//! What is found of each picture by itself.

use mtl_faces::perceptual_hash::PerceptualHash;
use mtl_faces::source::Pictures;
use mtl_standard::picture_header;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

/// A picture.
#[derive(Debug, Clone, Default)]
pub struct Scanned {
    /// Why it cannot be read, if it cannot.
    pub failure: Option<String>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Whether it has no colours.
    pub is_grey: bool,
    /// Whether all its pixels are the same.
    pub is_constant: bool,
    /// A hash of its file, where it has one.
    pub bytes: Option<[u8; 32]>,
    /// A hash of its pixels.
    pub pixels: [u8; 32],
    /// The hash that near copies share.
    pub hash: Option<PerceptualHash>,
    /// That of its mirror image.
    pub mirrored: Option<PerceptualHash>,
}

/// Looks at all pictures, in several threads.
pub fn scanned(pictures: &Pictures, progress: &(dyn Fn(u64) + Sync)) -> Vec<Scanned> {
    let done = AtomicU64::new(0);
    (0..pictures.len())
        .into_par_iter()
        .map(|i| {
            let found = one(pictures, i);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            found
        })
        .collect()
}

fn one(pictures: &Pictures, index: usize) -> Scanned {
    let failed = |e: mtl_component::Error| Scanned { failure: Some(format!("{e:#}")), ..Scanned::default() };
    let encoded = match pictures.source.pictures.encoded(index) {
        Ok(encoded) => encoded,
        Err(e) => return failed(e),
    };
    let decoded = match &encoded {
        Some(bytes) => mtl_standard::codec::decode(bytes),
        None => pictures.source.pictures.picture(index),
    };
    let mut picture = match decoded {
        Ok(picture) => picture,
        Err(e) => return failed(e),
    };
    let header = encoded.as_deref().and_then(picture_header::read);
    let is_grey = header.is_some_and(|header| header.is_grey)
        || picture.data.chunks_exact(3).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
    let first = [picture.data[0], picture.data[1], picture.data[2]];
    let is_constant = picture.data.chunks_exact(3).all(|pixel| pixel == first);
    let mut pixels = Sha256::new();
    pixels.update((picture.width as u64).to_le_bytes());
    pixels.update(&picture.data);
    let (width, height, hash) = (picture.width, picture.height, PerceptualHash::of(&picture));
    picture.flip();
    Scanned {
        failure: None,
        width,
        height,
        is_grey,
        is_constant,
        bytes: encoded.as_deref().map(|bytes| Sha256::digest(bytes).into()),
        pixels: pixels.finalize().into(),
        hash: Some(hash),
        mirrored: Some(PerceptualHash::of(&picture)),
    }
}
