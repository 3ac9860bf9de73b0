//! Components against single numbers of the published implementation.

use crate::support::{fill, filled, images, json, reference, root};
use indexmap::IndexMap;
use mtl_core::component::{Block, Call, Dim, Factory, Kind, Params, Placement, Sizes, find};
use mtl_core::data::draw::Draw;
use mtl_core::data::image::Picture;
use mtl_core::data::{Column, Dataset, Field, Plan, SampleOut};
use mtl_core::graph::{Graph, Model};
use mtl_core::nn::{Conv, SpectralConv2d};
use mtl_core::recipe::{Node, Override, Recipe, load};
use serde_json::Value;
use std::sync::Arc;
use tch::{Device, Kind as TensorKind, Tensor};

fn node(toml: &str) -> Node {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(&path, toml).unwrap();
    load(&path, &[]).unwrap().root
}

fn block(kind: Kind, name: &str, config: &str) -> Box<dyn Block> {
    match &find(&[kind], name).unwrap().factory {
        Factory::Block(make) => make(&node(config)).unwrap(),
        _ => panic!("{name} is no block"),
    }
}

fn placement(kind: TensorKind) -> Placement {
    Placement { device: Device::Cpu, kind, channels_last: false, winograd: false, seed: 1, shapes_only: false }
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

fn run(
    block: &dyn Block,
    sizes: Sizes,
    params: &Params,
    inputs: Vec<Tensor>,
    before: impl Fn(&mut mtl_core::component::Store),
) -> Vec<Tensor> {
    let forward = block.build(params, &sizes).unwrap();
    let mut store = params.take();
    before(&mut store);
    let ports = block.ports();
    let wanted = vec![true; ports.outputs.len()];
    let call = Call {
        inputs: inputs.into_iter().map(Some).collect(),
        ports: &ports,
        train: true,
        wanted: &wanted,
        step: 1,
        total: 1,
    };
    forward.forward(&call).unwrap().into_iter().map(Option::unwrap).collect()
}

#[test]
fn cosface_values_and_gradients() {
    for (key, kind, bound) in [("cosface_f64", TensorKind::Double, 1e-12), ("cosface_f32", TensorKind::Float, 1e-5)] {
        let wanted = &json("small.json")[key];
        let head = block(Kind::Head, "cosface", "");
        let params = Params::new("identity", placement(kind));
        let mut sizes = Sizes::new(&IndexMap::from([("identities".to_owned(), Dim::Size(5))]));
        sizes.bind("batch size", &[Dim::Size(3), Dim::Size(8)]).unwrap();
        let x = from_fill(300, 0, &[3, 8], 1.0, kind).set_requires_grad(true);
        let labels = Tensor::from_slice(&numbers(&wanted["labels"]).iter().map(|v| *v as i64).collect::<Vec<_>>());
        // The weight is entry 0 of module 2 with fan-in 8.
        let weight = from_fill(2, 0, &[5, 8], 0.7 * (3.0f64 / 8.0).sqrt(), kind);
        let held = std::cell::RefCell::new(None);
        let logits = run(&*head, sizes, &params, vec![x.shallow_clone(), labels.shallow_clone()], |store| {
            let t = &store["weight"].tensor;
            tch::no_grad(|| t.shallow_clone().copy_(&weight));
            *held.borrow_mut() = Some(t.set_requires_grad(true));
        })
        .remove(0);
        near("logits", &flat(&logits), &numbers(&wanted["logits"]), bound);
        let loss = mtl_core::losses::cross_entropy(&logits, &labels, 0.0).unwrap();
        near("loss", &flat(&loss), &numbers(&wanted["loss"]), bound);
        loss.backward();
        near("input's gradient", &flat(&x.grad()), &numbers(&wanted["grad_input"]), bound * 10.0);
        near(
            "weight's gradient",
            &flat(&held.into_inner().unwrap().grad()),
            &numbers(&wanted["grad_weight"]),
            bound * 10.0,
        );
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

#[test]
fn expected_ages() {
    let wanted = &json("small.json")["dex"];
    for (key, kind, bound) in [("f64", TensorKind::Double, 1e-12), ("f32", TensorKind::Float, 1e-6)] {
        let logits = from_fill(300, 1, &[2, 101], 5.0, kind);
        // The age loss of a group-less recipe is the squared error of the expectation alone.
        let loss = block(Kind::Loss, "dex_age", "classification = 0.0");
        let mut sizes = Sizes::new(&IndexMap::from([("age_groups".to_owned(), Dim::Size(7))]));
        sizes.bind("batch ages", &[Dim::Size(1), Dim::Size(101)]).unwrap();
        for (row, age) in numbers(&wanted[key]).into_iter().enumerate() {
            let groups = Tensor::zeros([1, 7], (kind, Device::Cpu));
            let target = Tensor::zeros([1], (kind, Device::Cpu));
            let inputs = vec![logits.narrow(0, row as i64, 1), groups, target];
            let found = run(&*loss, sizes.clone(), &Params::new("loss", placement(kind)), inputs, |_| {}).remove(0);
            near("age", &[flat(&found)[0].sqrt()], &[age], bound);
        }
    }
}

#[test]
fn an_unknown_age_does_not_count() {
    let loss = block(Kind::Loss, "dex_age", "");
    let sizes = || {
        let mut s = Sizes::new(&IndexMap::from([("age_groups".to_owned(), Dim::Size(7))]));
        s.bind("batch ages", &[Dim::Size(2), Dim::Size(101)]).unwrap();
        s
    };
    let value = |ages: &[f64], rows: i64| {
        let inputs = vec![
            from_fill(300, 1, &[2, 101], 5.0, TensorKind::Double).narrow(0, 0, rows),
            from_fill(300, 2, &[2, 7], 1.0, TensorKind::Double).narrow(0, 0, rows),
            Tensor::from_slice(ages),
        ];
        flat(&run(&*loss, sizes(), &Params::new("loss", placement(TensorKind::Double)), inputs, |_| {}).remove(0))[0]
    };
    near("masked", &[value(&[23.0, -1.0], 2)], &[value(&[23.0], 1)], 1e-12);
    assert_eq!(value(&[-1.0, -1.0], 2), 0.0);
}

#[test]
fn the_learning_rate_of_the_published_run() {
    let small = json("small.json");
    let make = |config: &str| match &find(&[Kind::Scheduler], "warmup_multistep").unwrap().factory {
        Factory::Scheduler(make) => make(&node(config)).unwrap(),
        _ => panic!("no scheduler"),
    };
    let published = make("warmup = 1000\nmilestones = [20000, 23000]\nfloor = 1e-4");
    for (step, lr) in small["lr"].as_object().unwrap() {
        near(step, &[published.lr(0.1, step.parse().unwrap(), 36_000)], &[lr.as_f64().unwrap()], 1e-15);
    }
}

#[test]
fn the_decomposition_alone() {
    let wanted = &json("small.json")["fsm_train"];
    let kinds = [(TensorKind::Double, 1e-6), (TensorKind::Float, 1e-5)];
    let arch = json("arch.json");
    for (kind, bound) in kinds {
        let decomposition = block(Kind::Decomposition, "attention_decomposition", "");
        let mut sizes = Sizes::new(&IndexMap::new());
        let shape = [4, 512, 7, 7].map(Dim::Size);
        sizes.bind("batch channels height width", &shape).unwrap();
        let x = from_fill(300, 5, &[4, 512, 7, 7], 1.0, kind);
        let fsm: Vec<&Value> = arch["ir50"]["entries"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e[1].as_str().unwrap().starts_with("fsm."))
            .collect();
        let outputs = run(&*decomposition, sizes, &Params::new("decompose", placement(kind)), vec![x], |store| {
            for (k, entry) in fsm.iter().enumerate() {
                let name = entry[1].as_str().unwrap().trim_start_matches("fsm.");
                let t = &store[name].tensor;
                let values = crate::support::filled(304, k as u32, &t.size(), entry[3].as_str().unwrap());
                let values = Tensor::from_slice(&values).view(t.size().as_slice());
                tch::no_grad(|| t.shallow_clone().copy_(&values));
            }
        });
        for (out, key) in outputs.iter().zip(["x_id", "x_age"]) {
            near(key, &flat(out)[..16], &numbers(&wanted[key]["first16"]), bound);
            near(key, &[out.norm().double_value(&[])], &[wanted[key]["norm"].as_f64().unwrap()], bound);
        }
    }
}

struct Numbered(usize, Vec<(std::ops::Range<usize>, f64)>);

impl Dataset for Numbered {
    fn len(&self) -> usize {
        self.0
    }
    fn parts(&self) -> Vec<(std::ops::Range<usize>, f64)> {
        self.1.clone()
    }
    fn fields(&self) -> Vec<Field> {
        Vec::new()
    }
    fn sample(&self, _: usize, _: &mut Draw, _: &mut SampleOut<'_>) -> anyhow::Result<()> {
        Ok(())
    }
    fn fingerprint(&self) -> String {
        String::new()
    }
}

fn plan(sampler: &str, config: &str, n: usize, batch: usize, at: (u64, u64)) -> Plan {
    mixed(sampler, config, vec![(0..n, 1.0)], batch, at)
}

fn mixed(sampler: &str, config: &str, parts: Vec<(std::ops::Range<usize>, f64)>, batch: usize, at: (u64, u64)) -> Plan {
    let n = parts.last().map_or(0, |(r, _)| r.end);
    let data: Arc<dyn Dataset> = Arc::new(Numbered(n, parts));
    let sampler = match &find(&[Kind::Sampler], sampler).unwrap().factory {
        Factory::Sampler(make) => make(&node(config)).unwrap().open(&*data, 5).unwrap(),
        _ => panic!("no sampler"),
    };
    Plan::new(data, sampler, batch, 5, at)
}

#[test]
fn the_streams_of_the_published_sampler() {
    for (key, wanted) in json("small.json")["sampler"].as_object().unwrap() {
        let number = |tag: &str| -> u64 {
            let rest = &key[key.find(tag).unwrap() + tag.len()..];
            rest.split('_').next().unwrap().parse().unwrap()
        };
        let (world, rank, restore) = (number("world"), number("rank"), number("restore"));
        let plan = plan("published", "", 103, 4, (rank, world));
        let found: Vec<f64> = (restore..60).flat_map(|b| plan.batch(b)).map(|(index, _)| index as f64).collect();
        assert_eq!(found, numbers(&wanted["indices"]), "{key}");
    }
}

#[test]
fn shuffle_draws_every_sample_once_an_epoch_and_drops_no_tail() {
    let plan = plan("shuffle", "", 10, 4, (0, 1));
    let stream: Vec<usize> = (0..5).flat_map(|b| plan.batch(b)).map(|(i, _)| i).collect();
    for epoch in stream.chunks(10) {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(stream[..10], stream[10..]);
}

#[test]
fn lists_are_mixed_by_their_shares_and_each_is_used_up_evenly() {
    let plan = mixed("shuffle", "", vec![(0..7, 0.3), (7..30, 0.7)], 8, (0, 1));
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    for b in 0..70 {
        let batch: Vec<usize> = plan.batch(b).into_iter().map(|(i, _)| i).collect();
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
            assert_eq!(sorted.len(), n, "every sample once an epoch");
        }
    }
}

#[test]
fn ranks_share_the_stream_of_one() {
    let whole = plan("shuffle", "", 50, 6, (0, 1));
    let parts = [plan("shuffle", "", 50, 3, (0, 2)), plan("shuffle", "", 50, 3, (1, 2))];
    for b in 0..20 {
        let mut merged: Vec<_> = parts.iter().flat_map(|p| p.batch(b)).collect();
        let mut wanted = whole.batch(b);
        merged.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(merged, wanted);
    }
}

#[test]
fn pictures_are_decoded_and_resized_as_by_pil() {
    let tensors = mtl_core::weights::read(&reference("image_pipeline.safetensors")).unwrap();
    let wanted = json("image_pipeline.json");
    for name in ["same", "bigger", "smaller"] {
        let mut picture = Picture::read(&reference(&format!("image_{name}.jpg"))).unwrap();
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
    let rename = mtl_core::weights::Rename::named("mtlface").unwrap();
    let overrides = [Override::Set("model.icm.sigma=0.1".to_owned())];
    let mut recipe = Recipe::read(&root().join("recipes/fas_scaf.toml"), &overrides).unwrap();
    let graph = Graph::new(&mut recipe).unwrap();
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
    let rename = mtl_core::weights::Rename::named("mtlface").unwrap();
    for network in ["ir34", "ir50", "ir64", "ir101", "irse101"] {
        let overrides = [Override::Set(format!("model.backbone.component={network}"))];
        let mut recipe = Recipe::read(&root().join("recipes/aifr_scaf.toml"), &overrides).unwrap();
        let graph = Graph::new(&mut recipe).unwrap();
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
        let router = block(Kind::Icm, "task_router", "sigma = 0.1\nblocks = 1");
        let params = Params::new("icm", Placement { shapes_only: true, ..placement(TensorKind::Double) });
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
    let params = Params::new("layer", placement(TensorKind::Float));
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

/// Samples whose group is their number modulo the groups.
struct Grouped(usize);

impl Dataset for Grouped {
    fn len(&self) -> usize {
        10 * self.0
    }
    fn fields(&self) -> Vec<Field> {
        Vec::new()
    }
    fn sample(&self, _: usize, _: &mut Draw, _: &mut SampleOut<'_>) -> anyhow::Result<()> {
        Ok(())
    }
    fn column(&self, _: &str) -> Option<Column> {
        let labels = (0..self.len()).map(|i| (i % self.0) as i64).collect();
        Some(Column { labels, names: Some((0..self.0).map(|g| g.to_string()).collect()) })
    }
    fn fingerprint(&self) -> String {
        String::new()
    }
}

#[test]
fn the_target_labels_of_the_published_run() {
    for (groups, wanted) in json("small.json")["fas_target_labels_first64"].as_object().unwrap() {
        let data = Grouped(groups.parse().unwrap());
        let sampler = match &find(&[Kind::Sampler], "published_targets").unwrap().factory {
            Factory::Sampler(make) => make(&node("by = \"group\"")).unwrap().open(&data, 5).unwrap(),
            _ => panic!("no sampler"),
        };
        let drawn: Vec<usize> = (0..64).map(|position| sampler.index(0, position, 4)).collect();
        let found: Vec<f64> = drawn.iter().map(|i| (i % data.0) as f64).collect();
        assert_eq!(found, numbers(wanted), "{groups} groups");
        let mut pictures = drawn.clone();
        pictures.sort_unstable();
        pictures.dedup();
        assert!(pictures.len() > 20, "other pictures each time");
    }
}
