//! Pictures a second of the loader alone: decode, mirror, normalise, two threads.

use mtl_core::data::Loader;
use mtl_core::recipe::{Override, Recipe};
use mtl_core::session;
use std::time::Instant;

// The dataset registers itself when its crate is linked.
use mtl_recognition as _;

fn main() -> anyhow::Result<()> {
    mtl_torch::keep_large_buffers();
    let mut args = std::env::args().skip(1);
    let list = args.next().unwrap_or_else(|| "dataset/scaf.txt".into());
    let seconds: f64 = args.next().and_then(|s| s.parse().ok()).unwrap_or(5.0);
    let recipe = Recipe::read(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/bench/ir50_112.toml").as_ref(),
        &[Override::Set(format!("data.faces.list={list}")), Override::Set("data.faces.batch_size=64".into())],
    )?;
    let mut dims = recipe.dims.clone();
    let data = session::open_data(&recipe, &mut dims)?;
    let plans = session::plans(&recipe, &data)?;
    let mut loader = Loader::start(plans["faces"].clone(), 2, 8, 0)?;
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
