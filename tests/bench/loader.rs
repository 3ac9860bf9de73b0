//! Pictures a second of the loader alone: decode, mirror, normalise, two threads. With a third argument the pictures of the
//! list lie in that record file.

use mtl_component::{Registry, Result, World};
use mtl_engine::data::{self, Loader};
use mtl_engine::recipe::Recipe;
use mtl_recipe::Override;
use std::sync::Arc;
use std::time::Instant;

// The components register themselves when their crates are linked.
use mtl_recognition as _;
use mtl_standard as _;

fn main() -> Result<()> {
    mtl_torch::tune_malloc();
    let mut args = std::env::args().skip(1);
    let list = args.next().unwrap_or_else(|| "dataset/scaf.txt".into());
    let seconds: f64 = args.next().and_then(|s| s.parse().ok()).unwrap_or(5.0);
    let records = args.next();
    let registry = Arc::new(Registry::built_in()?);
    let recipe = Recipe::read(
        &registry,
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/bench/ir50_112.toml").as_ref(),
        &std::iter::once(format!("data.faces.list={list}"))
            .chain(records.map(|records| format!("data.faces.records={records}")))
            .chain(["data.faces.batch_size=64".to_owned()])
            .map(Override::Set)
            .collect::<Vec<_>>(),
    )?;
    let orders = data::orders(&recipe, &data::open(&recipe)?, World::alone())?;
    let mut loader = Loader::start(orders["faces"].clone(), 2, 8, 0, tch::Device::Cpu)?;
    for _ in 0..32 {
        loader.next_batch()?;
    }
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        loader.next_batch()?;
        n += 64;
    }
    println!("{}", n as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
