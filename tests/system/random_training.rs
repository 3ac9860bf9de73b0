//! Random small recipes, trained: whatever the check lets through trains, or says why not.

use crate::support::{Faces, mtlrun, outcome, root};
use mtl_component::Draw;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many; another number by the variable `MTLRUN_RANDOM`.
const RECIPES: u64 = 500;
/// Nothing this small takes longer.
const LONGEST: Duration = Duration::from_secs(120);

/// Draws one of some texts.
fn one<'t>(draw: &mut Draw, of: &[&'t str]) -> &'t str {
    of[draw.below(of.len() as u64) as usize]
}

/// The overrides of a random recognition network.
fn recognition(draw: &mut Draw) -> Vec<String> {
    let pick = |draw: &mut Draw, of: &[&str]| one(draw, of).to_owned();
    let number = |draw: &mut Draw, from: u64, to: u64| from + draw.below(to - from + 1);
    // Now and then a size that does not come out even.
    let size = 16 * number(draw, 1, 4) - u64::from(draw.below(10) == 0);
    let mut sets = vec![
        format!("run.precision={}", pick(draw, &["float32", "float32", "bf16", "fp16", "float64"])),
        format!("run.channels_last={}", pick(draw, &["true", "false"])),
        format!("data.faces.size={size}"),
        format!("data.faces.batch_size={}", number(draw, 1, 9)),
        format!("model.backbone.width={}", number(draw, 1, 24)),
        format!(
            "model.backbone.depths=[{}, {}, {}, {}]",
            number(draw, 1, 2),
            number(draw, 1, 2),
            number(draw, 1, 2),
            number(draw, 1, 2)
        ),
        format!("model.embed.size={}", number(draw, 1, 40)),
        format!("model.embed.dropout={}", pick(draw, &["0.0", "0.4", "0.9"])),
        format!("model.age.hidden={}", number(draw, 1, 20)),
        format!("model.identity.component={}", pick(draw, &["cosface", "arcface", "normface", "softmax"])),
        format!("phase.recognition.accumulate={}", number(draw, 1, 3)),
        format!("dims.age_groups={}", number(draw, 4, 9)),
    ];
    let transforms: Vec<String> = [
        "{ component = \"horizontal_flip\" }",
        "{ component = \"random_crop\", min_scale = 0.5 }",
        "{ component = \"color_jitter\", brightness = 0.3, contrast = 0.3, saturation = 0.3 }",
        "{ component = \"blur\" }",
        "{ component = \"grayscale\" }",
        "{ component = \"jpeg\" }",
    ]
    .into_iter()
    .filter(|_| draw.below(3) == 0)
    .map(str::to_owned)
    .chain([format!("{{ component = \"resize\", size = {size} }}"), "{ component = \"normalize\" }".to_owned()])
    .collect();
    sets.push(format!("data.faces.transforms=[{}]", transforms.join(", ")));
    let optimizer = pick(draw, &["sgd", "adam", "adamw"]);
    sets.push(format!("phase.recognition.optimizer={{ component = \"{optimizer}\", lr = 0.001, groups = [] }}"));
    let scheduler = pick(draw, &["constant", "cosine", "polynomial"]);
    sets.push(format!("phase.recognition.scheduler={{ component = \"{scheduler}\" }}"));
    let sometimes = [
        "run.winograd=true",
        "model.backbone.precision=amp",
        "model.decompose.precision=amp",
        "phase.recognition.clip_norm=1.0",
        "ema={ modules = [\"backbone\"] }",
        "data.faces.sampler={ component = \"balanced\", by = \"identity\" }",
        "phase.recognition.optimizer.weight_decay=0.01",
        "run.histogram_every=1",
        "model.backbone.component=irse50",
        "run.threads=2",
        "evaluate.age={ component = \"age\", every = 1 }",
    ];
    sets.extend(sometimes.into_iter().filter(|_| draw.below(5) == 0).map(str::to_owned));
    sets
}

/// The overrides of a random synthesis network.
fn synthesis(draw: &mut Draw) -> Vec<String> {
    let pick = |draw: &mut Draw, of: &[&str]| one(draw, of).to_owned();
    let number = |draw: &mut Draw, from: u64, to: u64| from + draw.below(to - from + 1);
    let size = 16 * number(draw, 1, 3);
    let batch = number(draw, 1, 5);
    let mut sets = vec![
        format!("run.precision={}", pick(draw, &["float32", "float32", "bf16", "fp16", "float64"])),
        format!("run.channels_last={}", pick(draw, &["true", "false"])),
        format!("data.faces.size={size}"),
        format!("data.targets.size={size}"),
        format!("data.faces.batch_size={batch}"),
        format!("data.targets.batch_size={}", if draw.below(10) == 0 { 3 } else { batch }),
        format!("model.backbone.width={}", number(draw, 1, 16)),
        format!("model.critic.width={}", number(draw, 1, 12)),
        format!("model.critic.layers={}", number(draw, 1, 3)),
        format!("phase.generator.accumulate={}", number(draw, 1, 2)),
        format!("run.phases={}", pick(draw, &["[\"critic\", \"generator\"]", "[\"generator\", \"critic\"]"])),
    ];
    if draw.below(3) == 0 {
        sets.push(format!("model.icm={{ component = \"one_hot\", width = {}, blocks = 1 }}", number(draw, 1, 20)));
    } else {
        sets.push(format!("model.icm.units={}", number(draw, 1, 9)));
        sets.push(format!("model.icm.blocks={}", number(draw, 1, 2)));
        sets.push(format!("model.icm.sigma={}", pick(draw, &["0.0", "0.1", "0.125", "0.5"])));
    }
    let sometimes = [
        "run.winograd=true",
        "model.icm.precision=amp",
        "model.decoder.precision=amp",
        "model.critic.precision=amp",
        "phase.generator.clip_norm=1.0",
        "phase.critic.every=2",
        "run.images_every=1",
    ];
    sets.extend(sometimes.into_iter().filter(|_| draw.below(4) == 0).map(str::to_owned));
    sets
}

/// Whether the words of a failed run are those of a run that has told its reason.
fn told(text: &str) -> bool {
    ["error: "].iter().any(|words| text.contains(words))
        && ["fault of its own", "native code crashed", "memory allocation of"].iter().all(|words| !text.contains(words))
}

#[test]
#[ignore = "minutes: cargo xtask test --long"]
fn random_small_recipes_train_or_are_refused() {
    let faces = Faces::new(4, 3);
    let dir = TempDir::new().unwrap();
    let teacher = dir.path().join("teacher");
    faces.train(&teacher, &["-q"]);
    let count = std::env::var("MTLRUN_RANDOM").ok().and_then(|n| n.parse().ok()).unwrap_or(RECIPES);
    let (mut trained, mut refused, mut failed) = (0, 0, Vec::new());
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..count {
        let mut draw = Draw::new(&[17, number]);
        let ageing = draw.below(4) == 0;
        let (recipe, mut sets) = if ageing {
            ("tests/recipes/tiny_age.toml", synthesis(&mut draw))
        } else {
            ("tests/recipes/tiny.toml", recognition(&mut draw))
        };
        if ageing {
            // Of another width than the teacher's: the encoder starts from its own weights.
            sets.extend(["backbone", "decompose", "age"].map(|module| format!("model.{module}.random=true")));
        } else {
            sets.push(format!("data.faces.list={}", faces.path("list.txt").display()));
            if sets.iter().any(|set| set.starts_with("evaluate.age")) {
                sets.push(format!("evaluate.age.list={}", faces.path("list.txt").display()));
            }
        }
        sets.push("run.steps=2".into());
        let overrides = || sets.iter().flat_map(|set| ["--set", set.as_str()]);
        let unset: &[&str] = if ageing {
            &["--unset", "model.backbone.weights", "--unset", "model.decompose.weights", "--unset", "model.age.weights"]
        } else {
            &[]
        };
        let arguments: Vec<&str> = overrides().chain(unset.iter().copied()).collect();
        let (code, text) = outcome(&mtlrun(&[&["check", recipe], &arguments[..]].concat()).output().unwrap());
        if code != 0 {
            assert!(code == 2 && told(&text), "recipe {number} {sets:?}: {code} {text}");
            refused += 1;
            let first = text.lines().find(|line| line.starts_with("error")).unwrap_or_default();
            *reasons.entry(first.replace(|c: char| c.is_ascii_digit(), "")).or_insert(0) += 1;
            continue;
        }
        let out = dir.path().join("run");
        let _ = std::fs::remove_dir_all(&out);
        let mut command = mtlrun(&[&[recipe, "-q", "--out", out.to_str().unwrap()], &arguments[..]].concat());
        let mut child = command.current_dir(root()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > LONGEST {
                child.kill().unwrap();
                panic!("recipe {number} hangs: {sets:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (code, text) = outcome(&child.wait_with_output().unwrap());
        if code == 0 {
            trained += 1;
            continue;
        }
        assert!(matches!(code, 1 | 2) && told(&text), "recipe {number} {sets:?}: {code} {text}");
        failed.push(format!("recipe {number}: {}", text.lines().find(|l| l.starts_with("error")).unwrap_or_default()));
    }
    println!("refused: {reasons:#?}");
    println!(
        "{trained} trained, {refused} refused by the check, {} told why not:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(trained * 2 > count, "only {trained} of {count} trained");
    assert!(failed.is_empty(), "the check lets recipes through that do not train");
}
