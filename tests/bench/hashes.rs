//! How fast near copies are found among many pictures, and a picture is hashed: in one thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mtl_component::{Draw, Picture};
use mtl_faces::perceptual_hash::{FOUND, PerceptualHash, neighbours};
use std::hint::black_box;

/// As many hashes, of which every tenth is near the one before.
fn made(count: usize) -> Vec<PerceptualHash> {
    let mut draw = Draw::new(&[1]);
    let mut all: Vec<PerceptualHash> = Vec::with_capacity(count);
    for i in 0..count {
        let mut hash = PerceptualHash(std::array::from_fn(|_| draw.below(u64::MAX)));
        if i % 10 == 9 {
            hash = all[i - 1];
            for _ in 0..12 {
                let bit = draw.below(256) as usize;
                hash.0[bit / 64] ^= 1 << (bit % 64);
            }
        }
        all.push(hash);
    }
    all
}

fn hashes(c: &mut Criterion) {
    let mut group = c.benchmark_group("copies");
    group.sample_size(10);
    let all = made(500_000);
    group.throughput(Throughput::Elements(500_000));
    group.bench_function("neighbours among 500,000 hashes", |b| {
        b.iter(|| {
            let mut found = 0;
            neighbours(&all, None, FOUND, &mut |_, _, _| found += 1);
            assert_eq!(found, 50_000);
        });
    });
    let picture = Picture::new(112, 112, (0..112 * 112 * 3).map(|i| (i * 7 % 251) as u8).collect()).unwrap();
    group.throughput(Throughput::Elements(1));
    group.bench_function("the hash of a picture of 112 pixels", |b| b.iter(|| black_box(PerceptualHash::of(&picture))));
    group.finish();
}

criterion_group!(benches, hashes);
criterion_main!(benches);
