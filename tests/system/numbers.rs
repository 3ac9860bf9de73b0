//! Components against single numbers of the published implementation.

use crate::support::{REGISTRY, fill, filled, images, json, reference, root};
use indexmap::IndexMap;
use mtl_component::nn::{Conv, SpectralConv2d, cross_entropy};
use mtl_component::testing::call;
use mtl_component::{
    Column, ComponentKind, ConfigValue, Context, Dataset, Dim, Draw, Made, ModuleConfig, OpenDataset, Params, Picture,
    SampleOut, SamplerConfig, Scheduler, Sizes, World,
};
use mtl_engine::data::BatchOrder;
use mtl_engine::graph::Graph;
use mtl_engine::model::Model;
use mtl_engine::recipe::Recipe;
use mtl_engine::weights::{self, Rename};
use mtl_recipe::{Override, Parsed, Unset};
use mtl_standard::codec;
use serde_json::Value;
use std::sync::Arc;
use tch::{Device, Kind as TensorKind, Tensor};

fn value(toml: &str) -> ConfigValue {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(&path, toml).unwrap();
    Parsed::read(&path).merge(&[], &(), &[], Unset::Refused).unwrap().root
}

/// A registered component with a configuration.
fn component<T: Made + ?Sized>(kind: ComponentKind, name: &str, config: &str) -> Box<T> {
    let registration = REGISTRY.find(kind, name).unwrap();
    T::made(registration, &value(config)).unwrap().unwrap()
}

fn module(name: &str, config: &str) -> Box<dyn ModuleConfig> {
    component(ComponentKind::Module, name, config)
}

fn context(kind: TensorKind) -> Context {
    Context { seed: 1, ..Context::cpu(kind) }
}

fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

fn flat(t: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(&t.detach().to_kind(TensorKind::Double).contiguous().view([-1])).unwrap()
}

fn near(what: &str, found: &[f64], wanted: &[f64], bound: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= bound * b.abs().max(1.0), "{what}[{i}]: found {a}, expected {b}");
    }
}

fn from_fill(module: u32, position: u32, shape: &[i64], factor: f64, kind: TensorKind) -> Tensor {
    let n: i64 = shape.iter().product();
    let values: Vec<f32> = fill(module, position, n as usize).map(|r| (factor * r) as f32).collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

#[test]
fn cosface_values_and_gradients() {
    for (key, kind, bound) in [("cosface_f64", TensorKind::Double, 1e-12), ("cosface_f32", TensorKind::Float, 1e-5)] {
        let wanted = &json("small.json")[key];
        let x = from_fill(300, 0, &[3, 8], 1.0, kind).set_requires_grad(true);
        let labels = Tensor::from_slice(&numbers(&wanted["labels"]).iter().map(|v| *v as i64).collect::<Vec<_>>());
        // The weight is entry 0 of module 2 with fan-in 8.
        let weight = from_fill(2, 0, &[5, 8], 0.7 * (3.0f64 / 8.0).sqrt(), kind);
        let head = module("cosface", "");
        let called = call(&*head).kind(kind).dim("identities", 5).param("weight", weight);
        let done = called.input("embedding", x.shallow_clone()).input("label", labels.shallow_clone()).run().unwrap();
        let logits = done.output("logits");
        near("logits", &flat(&logits), &numbers(&wanted["logits"]), bound);
        let loss = cross_entropy(&logits, &labels, 0.0, World::alone()).unwrap();
        near("loss", &flat(&loss), &numbers(&wanted["loss"]), bound);
        loss.backward();
        near("input's gradient", &flat(&x.grad()), &numbers(&wanted["grad_input"]), bound * 10.0);
        let gradient = done.param("weight").grad();
        near("weight's gradient", &flat(&gradient), &numbers(&wanted["grad_weight"]), bound * 10.0);
    }
}

#[test]
fn age_groups_of_every_age() {
    let small = json("small.json");
    for groups in 4..=8 {
        let edges = mtl_faces::age_groups::edges(groups).unwrap();
        let wanted = numbers(&small["age2group"][groups.to_string()]);
        let found: Vec<f64> = (0..=100).map(|a| mtl_faces::age_groups::group_of(a as f32, edges) as f64).collect();
        assert_eq!(found, wanted);
        let fractions = &small["age2group_fractions"];
        let found: Vec<f64> = numbers(&fractions["ages"])
            .iter()
            .map(|a| mtl_faces::age_groups::group_of(*a as f32, edges) as f64)
            .collect();
        assert_eq!(found, numbers(&fractions[groups.to_string()]));
    }
}

/// The age loss of some logits, group logits and ages.
fn dex_age(config: &str, logits: Tensor, groups: Tensor, target: Tensor) -> f64 {
    let loss = component::<dyn ModuleConfig>(ComponentKind::Loss, "dex_age", config);
    let called = call(&*loss).kind(logits.kind()).dim("age_groups", 7).input("logits", logits);
    flat(&called.input("groups", groups).input("target", target).run().unwrap().output("loss"))[0]
}

#[test]
fn expected_ages() {
    let wanted = &json("small.json")["dex"];
    for (key, kind, bound) in [("f64", TensorKind::Double, 1e-12), ("f32", TensorKind::Float, 1e-6)] {
        let logits = from_fill(300, 1, &[2, 101], 5.0, kind);
        for (row, age) in numbers(&wanted[key]).into_iter().enumerate() {
            let groups = Tensor::zeros([1, 7], (kind, Device::Cpu));
            let target = Tensor::zeros([1], (kind, Device::Cpu));
            // Without the group it is the squared error of the expectation alone.
            let found = dex_age("classification = 0.0", logits.narrow(0, row as i64, 1), groups, target);
            near("age", &[found.sqrt()], &[age], bound);
        }
    }
}

#[test]
fn an_unknown_age_does_not_count() {
    let value = |ages: &[f64], rows: i64| {
        let logits = from_fill(300, 1, &[2, 101], 5.0, TensorKind::Double).narrow(0, 0, rows);
        let groups = from_fill(300, 2, &[2, 7], 1.0, TensorKind::Double).narrow(0, 0, rows);
        dex_age("", logits, groups, Tensor::from_slice(ages))
    };
    near("masked", &[value(&[23.0, -1.0], 2)], &[value(&[23.0], 1)], 1e-12);
    assert_eq!(value(&[-1.0, -1.0], 2), 0.0);
}

#[test]
fn the_learning_rate_of_the_published_run() {
    let small = json("small.json");
    let config = "warmup = 1000\nmilestones = [20000, 23000]\nfloor = 1e-4";
    let published = component::<dyn Scheduler>(ComponentKind::Scheduler, "warmup_multistep", config);
    for (step, lr) in small["lr"].as_object().unwrap() {
        near(step, &[published.lr(0.1, step.parse().unwrap(), 36_000).unwrap()], &[lr.as_f64().unwrap()], 1e-15);
    }
}

#[test]
fn the_decomposition_alone() {
    let wanted = &json("small.json")["fsm_train"];
    let kinds = [(TensorKind::Double, 1e-6), (TensorKind::Float, 1e-5)];
    let arch = json("arch.json");
    for (kind, bound) in kinds {
        let decomposition = module("attention_decomposition", "");
        let fsm = arch["ir50"]["entries"].as_array().unwrap().iter();
        let fsm = fsm.filter(|e| e[1].as_str().unwrap().starts_with("fsm."));
        let mut called =
            call(&*decomposition).kind(kind).input("features", from_fill(300, 5, &[4, 512, 7, 7], 1.0, kind));
        for (k, entry) in fsm.enumerate() {
            let shape: Vec<i64> = entry[2].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            let values = filled(304, k as u32, &shape, entry[3].as_str().unwrap());
            let name = entry[1].as_str().unwrap().trim_start_matches("fsm.");
            called = called.param(name, Tensor::from_slice(&values).view(shape.as_slice()));
        }
        let done = called.run().unwrap();
        let outputs = [done.output("identity"), done.output("age")];
        for (out, key) in outputs.iter().zip(["x_id", "x_age"]) {
            near(key, &flat(out)[..16], &numbers(&wanted[key]["first16"]), bound);
            near(key, &[out.norm().double_value(&[])], &[wanted[key]["norm"].as_f64().unwrap()], bound);
        }
    }
}

/// Samples that are numbers alone; the group of each is its number modulo the groups.
struct Numbered {
    groups: usize,
    len: usize,
}

impl Dataset for Numbered {
    fn sample(&self, _: usize, _: &mut Draw, _: &mut SampleOut<'_>) -> mtl_component::Result<()> {
        Ok(())
    }
    fn column(&self, _: &str) -> mtl_component::Result<Option<Column>> {
        let labels = (0..self.len).map(|i| (i % self.groups) as i64).collect();
        Ok(Some(Column { labels, names: Some((0..self.groups).map(|g| g.to_string()).collect()) }))
    }
}

fn numbered(len: usize, groups: usize) -> OpenDataset {
    OpenDataset::new(Arc::new(Numbered { groups, len }), len, Vec::new(), String::new())
}

fn order(sampler: &str, n: usize, batch: usize, at: (u64, u64)) -> BatchOrder {
    mixed(sampler, vec![(0..n, 1.0)], batch, at)
}

fn mixed(sampler: &str, parts: Vec<(std::ops::Range<usize>, f64)>, batch: usize, at: (u64, u64)) -> BatchOrder {
    let n = parts.last().map_or(0, |(r, _)| r.end);
    let data = OpenDataset { parts, ..numbered(n, 1) };
    let sampler = component::<dyn SamplerConfig>(ComponentKind::Sampler, sampler, "").open(&data, 5).unwrap();
    BatchOrder::new(data, sampler, batch, 5, World::new(at.0, at.1, at.0).unwrap())
}

#[test]
fn the_streams_of_the_published_sampler() {
    for (key, wanted) in json("small.json")["sampler"].as_object().unwrap() {
        let number = |tag: &str| -> u64 {
            let rest = &key[key.find(tag).unwrap() + tag.len()..];
            rest.split('_').next().unwrap().parse().unwrap()
        };
        let (world, rank, restore) = (number("world"), number("rank"), number("restore"));
        let order = order("published", 103, 4, (rank, world));
        let found: Vec<f64> =
            (restore..60).flat_map(|b| order.batch(b).unwrap()).map(|(index, _)| index as f64).collect();
        assert_eq!(found, numbers(&wanted["indices"]), "{key}");
    }
}

#[test]
fn shuffle_draws_every_sample_once_an_epoch_and_drops_no_tail() {
    let order = order("shuffle", 10, 4, (0, 1));
    let stream: Vec<usize> = (0..5).flat_map(|b| order.batch(b).unwrap()).map(|(i, _)| i).collect();
    for epoch in stream.chunks(10) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(stream[..10], stream[10..]);
}

#[test]
fn lists_are_mixed_by_their_shares_and_each_is_used_up_evenly() {
    let order = mixed("shuffle", vec![(0..7, 0.3), (7..30, 0.7)], 8, (0, 1));
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for b in 0..70 {
        let batch: Vec<usize> = order.batch(b).unwrap().into_iter().map(|(i, _)| i).collect();
        let of_small = batch.iter().filter(|i| **i < 7).count();
        assert!((2..=3).contains(&of_small), "batch {b} holds {of_small} of 8 by a share of 0.3");
        small.extend(batch.iter().filter(|i| **i < 7));
        large.extend(batch.iter().filter(|i| **i >= 7));
    }
    assert_eq!((small.len(), large.len()), (168, 392));
    for (stream, n) in [(small, 7), (large, 23)] {
        for epoch in stream.chunks_exact(n) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), n, "every sample once per epoch");
        }
    }
}

#[test]
fn ranks_share_the_stream_of_one() {
    let whole = order("shuffle", 50, 6, (0, 1));
    let parts = [order("shuffle", 50, 3, (0, 2)), order("shuffle", 50, 3, (1, 2))];
    for b in 0..20 {
        let mut merged: Vec<_> = parts.iter().flat_map(|p| p.batch(b).unwrap()).collect();
        let mut wanted = whole.batch(b).unwrap();
        merged.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(merged, wanted);
    }
}

/// The partners of a shuffled stream of 50 samples in 5 groups.
fn followed(batch: usize, at: (u64, u64)) -> BatchOrder {
    let sampler = |name| component::<dyn SamplerConfig>(ComponentKind::Sampler, name, "");
    let (leader, data) = (numbered(50, 5), numbered(40, 5));
    let partners = sampler("partner").open_beside(&data, &leader, 9).unwrap();
    let order =
        |data, sampler, seed| BatchOrder::new(data, sampler, batch, seed, World::new(at.0, at.1, at.0).unwrap());
    let leading = order(leader.clone(), sampler("shuffle").open(&leader, 5).unwrap(), 5);
    order(data, partners, 9).following(Some(Arc::new(leading)))
}

#[test]
fn partners_have_the_places_of_the_stream_that_they_follow() {
    let (leader, whole) = (order("shuffle", 50, 6, (0, 1)), followed(6, (0, 1)));
    let parts = [followed(3, (0, 2)), followed(3, (1, 2))];
    for b in [17, 3, 0] {
        let (leading, partners) = (leader.batch(b).unwrap(), whole.batch(b).unwrap());
        for ((index, position), (partner, place)) in leading.iter().zip(&partners) {
            assert_eq!((index % 5, position), (partner % 5, place));
        }
        let mut merged: Vec<_> = parts.iter().flat_map(|p| p.batch(b).unwrap()).collect();
        let mut wanted = partners;
        merged.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(merged, wanted);
    }
}

#[test]
fn pictures_are_decoded_and_resized_as_by_pil() {
    let tensors = weights::read(&reference("image_pipeline.safetensors")).unwrap();
    let wanted = json("image_pipeline.json");
    for name in ["same", "bigger", "smaller"] {
        let mut picture = codec::read(&reference(&format!("image_{name}.jpg"))).unwrap();
        let compare = |picture: &Picture, key: &str, bound: i32| {
            let wanted = Vec::<u8>::try_from(&tensors[&format!("{name}.{key}")].contiguous().view([-1])).unwrap();
            assert_eq!(picture.data.len(), wanted.len(), "{name} {key}");
            let worst = picture.data.iter().zip(&wanted).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs()).max();
            assert!(worst <= Some(bound), "{name} {key}: {worst:?} apart");
        };
        compare(&picture, "decoded_u8_hwc", 1);
        picture.resize(112, 112).unwrap();
        compare(&picture, "resized_u8_hwc", 1);
        let mut out = vec![0f32; 112 * 112 * 3];
        picture.write(&mut out).unwrap();
        let first: Vec<f64> = out.chunks_exact(3).take(16).map(|p| f64::from(p[0])).collect();
        for (a, b) in first.iter().zip(numbers(&wanted[name]["tensor"]["first16"])) {
            assert!((a - b).abs() <= 0.01, "{name}: found {a}, expected {b}");
        }
        let norm = out.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        let wanted = wanted[name]["tensor"]["norm"].as_f64().unwrap();
        assert!((norm - wanted).abs() / wanted < 0.01, "{name}: {norm} {wanted}");
    }
}

#[test]
fn synthesis_networks_have_the_published_names_and_shapes() {
    let arch = json("arch.json");
    let rename = Rename::named(&REGISTRY, "mtlface").unwrap();
    let overrides = [Override::Set("model.icm.sigma=0.1".to_owned())];
    let recipe = Recipe::read(&REGISTRY, &root().join("recipes/fas_scaf.toml"), &overrides).unwrap();
    let graph = Graph::new(&recipe).unwrap();
    let mut found = Model::shapes(&recipe, &graph, 10).unwrap();
    let counted = |module: &str| found.keys().filter(|k| k.starts_with(module)).count();
    assert_eq!(counted("icm.") + counted("decoder."), 227 - 9, "all but the nine masks");
    for (module, key) in [("generator", "AgingModule_7"), ("discriminator", "PatchDiscriminator_7_sn_4")] {
        for entry in arch[key]["entries"].as_array().unwrap().iter().filter(|e| e[3] != "mask") {
            let name = rename.apply(&format!("{module}.{}", entry[1].as_str().unwrap()));
            let shape: Vec<i64> = entry[2].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            assert_eq!(found.swap_remove(&name), Some(shape), "{name}");
        }
    }
    assert!(!found.keys().any(|k| k.starts_with("icm.") || k.starts_with("decoder.") || k.starts_with("critic.")));
}

#[test]
fn networks_have_the_published_names_and_shapes() {
    let arch = json("arch.json");
    let rename = Rename::named(&REGISTRY, "mtlface").unwrap();
    for network in ["ir34", "ir50", "ir64", "ir101", "irse101"] {
        let overrides = [Override::Set(format!("model.backbone.component={network}"))];
        let recipe = Recipe::read(&REGISTRY, &root().join("recipes/aifr_scaf.toml"), &overrides).unwrap();
        let graph = Graph::new(&recipe).unwrap();
        let found = Model::shapes(&recipe, &graph, 10).unwrap();
        let (mut compared, mut parameters) = (0, 0);
        let lists =
            [("backbone", network), ("estimation_network", "AgeEstimationModule_112_7"), ("head", "CosFace_512_10")];
        for (module, key) in lists {
            for entry in arch[key]["entries"].as_array().unwrap() {
                let name = rename.apply(&format!("{module}.{}", entry[1].as_str().unwrap()));
                let shape: Vec<i64> = entry[2].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
                assert_eq!(found.get(&name), Some(&shape), "{network}: {name}");
                compared += 1;
                if module == "backbone" && entry[4] == true {
                    parameters += shape.iter().product::<i64>();
                }
            }
        }
        // The second age estimator is the one that the identity part is trained against.
        let leak = found.keys().filter(|k| k.starts_with("leak.")).count();
        assert_eq!(found.len(), compared + leak, "{network} has other names as well");
        assert_eq!(parameters, arch[network]["n_param"].as_i64().unwrap(), "{network}");
    }
}

#[test]
fn the_masks_of_the_published_router() {
    let wanted = &json("small.json")["task_router"];
    for (groups, wanted) in wanted.as_object().unwrap() {
        let router = module("task_router", "sigma = 0.1\nblocks = 1");
        let context = Context { shapes_only: true, ..context(TensorKind::Double) };
        let params = Params::new("icm", Arc::new(context));
        let dims = IndexMap::from([("age_groups".to_owned(), Dim::Size(groups.parse().unwrap()))]);
        let mut sizes = Sizes::new(&dims);
        sizes.bind("batch channels height width", &[1, 8, 2, 2].map(Dim::Size)).unwrap();
        router.build(&params, &sizes).unwrap();
        let constants = params.take_constants();
        assert_eq!(constants.len(), 3, "the masks stand at every router");
        let masks = &constants["router._unit_mapping"];
        let width = wanted["conv_dim"].as_i64().unwrap();
        assert_eq!(masks.size(), [groups.parse().unwrap(), width]);
        for (row, range) in flat(masks).chunks(width as usize).zip(wanted["ranges_half_open"].as_array().unwrap()) {
            let range = range[0].as_u64().unwrap() as usize..range[1].as_u64().unwrap() as usize;
            let found: Vec<f64> = (0..row.len()).map(|c| f64::from(u8::from(range.contains(&c)))).collect();
            assert_eq!(row, found, "{groups} groups");
        }
    }
}

#[test]
fn spectral_norm_pass_by_pass() {
    let wanted = &json("small.json")["spectral_norm"]["calls"];
    let params = Params::new("layer", Arc::new(context(TensorKind::Float)));
    let layer = SpectralConv2d::new(&params, 3, 4, Conv::plain(3, 4, 2, 1)).unwrap();
    let store = params.take();
    for (k, (name, kind)) in
        [("bias", "bias"), ("weight_orig", "weight"), ("weight_u", "sn_vec"), ("weight_v", "sn_vec")].iter().enumerate()
    {
        assert_eq!(store.get_index(k).unwrap().0, name);
        let t = &store[*name].tensor;
        let values = Tensor::from_slice(&filled(302, k as u32, &t.size(), kind)).view(t.size().as_slice());
        tch::no_grad(|| t.shallow_clone().copy_(&values));
    }
    let x = Tensor::from_slice(&images(303, 2, 8)).view([2, 3, 8, 8]);
    for (i, call) in wanted.as_array().unwrap().iter().enumerate() {
        let out = layer.forward(&x, call["train"].as_bool().unwrap()).unwrap();
        let what = format!("pass {}", i + 1);
        near(&what, &flat(&out)[..16], &numbers(&call["out"]["first16"]), 2e-6);
        near(&what, &[out.norm().double_value(&[])], &[call["out"]["norm"].as_f64().unwrap()], 2e-6);
        near(&what, &flat(&store["weight_u"].tensor), &numbers(&call["u"]), 1e-6);
    }
}

#[test]
fn the_target_labels_of_the_published_run() {
    for (groups, wanted) in json("small.json")["fas_target_labels_first64"].as_object().unwrap() {
        let count: usize = groups.parse().unwrap();
        let config = component::<dyn SamplerConfig>(ComponentKind::Sampler, "published_targets", "by = \"group\"");
        let sampler = config.open(&numbered(10 * count, count), 5).unwrap();
        let drawn: Vec<usize> = (0..64).map(|position| sampler.index(0, position, 4).unwrap()).collect();
        let found: Vec<f64> = drawn.iter().map(|i| (i % count) as f64).collect();
        assert_eq!(found, numbers(wanted), "{groups} groups");
        let mut pictures = drawn.clone();
        pictures.sort_unstable();
        pictures.dedup();
        assert!(pictures.len() > 20, "other pictures each time");
    }
}
