//! How fast record files are opened, and records found in them: warm, in one thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mtl_standard::records::{Header, RecordWriter, Records};
use std::hint::black_box;
use std::path::{Path, PathBuf};

/// Records with pictures of so many bytes.
fn written(folder: &Path, name: &str, count: i64, bytes: usize) -> PathBuf {
    let path = folder.join(name);
    let mut writer = RecordWriter::create(&path).unwrap();
    let picture = vec![0xff; bytes];
    for key in 1..=count {
        let header = Header { labels: vec![(key / 50) as f32], is_list: false, id: key as u64, id2: 0 };
        writer.write(key, &header.joined(&picture)).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn records(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("records");
    group.sample_size(10);
    let many = written(folder.path(), "many.rec", 1_000_000, 0);
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("index of a million lines", |b| b.iter(|| Records::open(&many).unwrap().len()));
    let all = Records::open(&many).unwrap();
    group.bench_function("a million headers in order", |b| {
        b.iter(|| all.keys().map(|key| all.header(key).unwrap().0.id).sum::<u64>());
    });
    let pictures = Records::open(&written(folder.path(), "pictures.rec", 50_000, 4200)).unwrap();
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("ten thousand random records of 4.2 kB with their headers", |b| {
        let mut payload = Vec::new();
        let mut key = 1i64;
        b.iter(|| {
            for _ in 0..10_000 {
                key = (key * 7919 + 12_345) % 50_000;
                pictures.read(key + 1, &mut payload).unwrap();
                black_box(Header::split(&payload).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
