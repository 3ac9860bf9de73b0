//! Pictures of made faces a second, on one core: `cargo bench -p mtl-made-faces`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mtl_made_faces::{Identity, render};

fn pictures(criterion: &mut Criterion) {
    let people: Vec<Identity> = (0..10).map(|n| Identity::new(1, n)).collect();
    let ages = [5.0, 20.0, 40.0, 60.0, 80.0];
    let mut group = criterion.benchmark_group("render 50 pictures");
    group.throughput(Throughput::Elements(50)).sample_size(10);
    for size in [48, 112, 224] {
        group.bench_function(format!("{size}x{size}"), |bencher| {
            bencher.iter(|| {
                for person in &people {
                    ages.iter().for_each(|age| drop(std::hint::black_box(render(person, *age, 1, size))));
                }
            });
        });
    }
}

criterion_group!(benches, pictures);
criterion_main!(benches);
