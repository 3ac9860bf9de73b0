//! One component of each kind.

use mtl_component::{
    Better, Call, Cases, Column, DType, Dataset, DatasetConfig, Description, Diagnostic, Draw, Evaluator,
    EvaluatorConfig, EvaluatorDescription, Field, Hook, HookConfig, HookEvent, Inference, Init, Layout, Metric,
    MetricConfig, Module, ModuleConfig, Open, OpenDataset, OpenEvaluator, OpenSource, Optimizer, OptimizerConfig, OptimizerDescription, Params,
    Picture, PictureSource, PictureSourceConfig, Ports, RecipeView, Report, Result, Role, RunInfo, SampleOut, Sampler,
    SamplerConfig, Scheduler, SchedulerDescription, Sizes, SourceColumn, SourceDescription, Transform, TransformConfig, TransformDescription, Update, bail, mistake, register,
    rule, single,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Goes wrong where it is told to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Faulty {
    /// The method that panics.
    #[serde(default = "nothing")]
    fault: String,
    /// Whether decoding it goes well.
    #[serde(default = "yes", deserialize_with = "careful")]
    #[allow(dead_code, reason = "only its decoding matters")]
    careful: bool,
}

fn yes() -> bool {
    true
}

fn careful<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<bool, D::Error> {
    let careful = bool::deserialize(from)?;
    assert!(careful, "told to");
    Ok(careful)
}

fn nothing() -> String {
    assert!(std::env::var_os("FAULTY_DEFAULT").is_none(), "the default of a key panics");
    String::new()
}

impl Faulty {
    fn at(&self, method: &str) {
        assert_ne!(self.fault, method, "told to");
    }
}

struct Made(Faulty);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.at("drop");
    }
}

fn made<T: From<Made>>(config: &Faulty, method: &str) -> Result<T> {
    config.at(method);
    Ok(Made(config.clone()).into())
}

macro_rules! into {
    ($owner:ident: $($object:path),*) => { $(
        impl From<Made> for $owner<dyn $object> {
            fn from(made: Made) -> Self {
                $owner::new(made)
            }
        }
    )* };
}
into!(Box: Sampler, Optimizer, Evaluator, Hook);
into!(Arc: Transform);

impl ModuleConfig for Faulty {
    fn describe(&self) -> Result<Description> {
        self.at("describe");
        let shape = "batch channels height width";
        let ports = Ports::new().input("features", DType::Float, shape);
        Ok(ports.output("identity", DType::Float, shape).output("age", DType::Float, shape).into())
    }

    fn build(&self, params: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        self.at("build");
        match self.fault.as_str() {
            "a mistake" => mistake!("the plugin finds {} channels", sizes.get("channels")?),
            "a failure" => bail!("the plugin has failed"),
            _ => {}
        }
        let gate = params.param("gate", &[sizes.get("channels")?, 1, 1], Init::Const(0.5), Role::Weight)?;
        Ok(Box::new(Gate(Made(self.clone()), gate)))
    }
}

struct Gate(Made, Tensor);

impl Module for Gate {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        self.0.0.at("forward");
        let x = call.get("features")?;
        let age = x.f_mul(&self.1)?;
        let rest = x.f_sub(&age)?;
        Ok(match self.0.0.fault.as_str() {
            // tch panics where an operator has no other way to fail.
            "libtorch" => vec![Some(x.matmul(&Tensor::zeros([3, 3], (Kind::Float, Device::Cpu)))), Some(age)],
            "scopes" => {
                let autocast = mtl_torch::Autocast::new(Device::Cpu, Kind::BFloat16)?;
                let no_grad = tch::no_grad_guard();
                // Neither is closed as the panic goes through.
                std::mem::forget((autocast, no_grad));
                panic!("in scopes of no gradient and of another precision")
            }
            "thread" => {
                assert!(std::thread::spawn(|| panic!("in a thread of its own")).join().is_err());
                vec![Some(rest), Some(age)]
            }
            "backward" => {
                // Its gradient needs the value that is overwritten.
                let squared = age.f_exp()?;
                let _ = squared.detach().f_zero_()?;
                vec![Some(rest), Some(squared)]
            }
            // On a GPU: a tensor of the CPU, a number that is read, and one that is read before it is there.
            "mixed" => vec![Some(rest.f_add(&Tensor::f_zeros(x.size(), (x.kind(), Device::Cpu))?)?), Some(age)],
            "reads" => {
                assert!(age.f_sum(None::<Kind>)?.f_double_value(&[])?.is_finite());
                vec![Some(rest), Some(age)]
            }
            "early" => {
                let early = mtl_torch::copy_to(&age, Device::Cpu)?.f_exp()?;
                vec![Some(rest), Some(early.f_to_device(age.device())?)]
            }
            "device" => vec![Some(rest), Some(age.f_to_device(Device::Vulkan)?)],
            "shape" => vec![Some(rest), Some(age.f_narrow(1, 0, 1)?)],
            "type" => vec![Some(rest), Some(age.f_to_kind(Kind::Int64)?)],
            "count" => vec![Some(rest)],
            _ => vec![Some(rest), Some(age)],
        })
    }
}

impl DatasetConfig for Faulty {
    fn describe(&self) -> Result<Description> {
        self.at("describe");
        let ports = Ports::new().output("image", DType::Float, "batch 3 16 16");
        let ports = ports.output("age", DType::Float, "batch").output("identity", DType::Int, "batch");
        Ok(Description::from(ports).declares(&["identities"]))
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        self.at("open");
        for transform in &open.transforms {
            transform.apply(&mut Picture::new(4, 4, vec![0; 48])?, &mut Draw::new(&[1]))?;
        }
        let fields = vec![
            Field { name: "image", shape: vec![3, 16, 16], layout: Layout::Image },
            Field { name: "age", shape: Vec::new(), layout: Layout::Float },
            Field { name: "identity", shape: Vec::new(), layout: Layout::Int },
        ];
        let opened = OpenDataset::new(Arc::new(Made(self.clone())), 24, fields, "faulty".into());
        Ok(OpenDataset { sizes: vec![("identities", 4)], ..opened })
    }
}

impl Dataset for Made {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        self.0.at("sample");
        out.float(0).fill_with(|| draw.range(-1.0, 1.0) as f32);
        out.float(1)[0] = (index % 80) as f32;
        out.int(0)[0] = index as i64 % 4;
        Ok(())
    }

    fn column(&self, name: &str) -> Result<Option<Column>> {
        self.0.at("column");
        // A label that no head can take is reported with its place.
        let beyond = if self.0.fault == "place" { 9 } else { 0 };
        let labels = (0..24).map(|i| i % 4 + beyond).collect();
        Ok((name == "identity").then_some(Column { labels, names: None }))
    }

    fn place(&self, index: usize) -> Result<String> {
        self.0.at("place");
        Ok(format!("picture {index}"))
    }

    fn files(&self) -> Result<Vec<&Path>> {
        self.0.at("files");
        Ok(Vec::new())
    }
}

impl PictureSourceConfig for Faulty {
    fn describe(&self) -> Result<SourceDescription> {
        self.at("describe");
        Ok(SourceDescription::default())
    }

    fn open(&self) -> Result<OpenSource> {
        self.at("open");
        let identity = SourceColumn { name: "identity".into(), values: (0..24).map(|i| f64::from(i % 4)).collect(), names: None };
        Ok(OpenSource::new(Arc::new(Made(self.clone())), 24, "faulty".into()).with(identity))
    }
}

impl PictureSource for Made {
    fn picture(&self, _: usize) -> Result<Picture> {
        self.0.at("picture");
        Picture::new(16, 16, vec![0; 16 * 16 * 3])
    }

    fn file(&self, _: usize) -> Result<Option<&Path>> {
        self.0.at("file");
        Ok(None)
    }
}

impl TransformConfig for Faulty {
    fn describe(&self) -> Result<TransformDescription> {
        self.at("describe");
        Ok(TransformDescription::default())
    }

    fn open(&self) -> Result<Arc<dyn Transform>> {
        made(self, "open")
    }
}

impl Transform for Made {
    fn apply(&self, _: &mut Picture, _: &mut Draw) -> Result<()> {
        self.0.at("apply");
        Ok(())
    }
}

impl SamplerConfig for Faulty {
    fn open(&self, _: &OpenDataset, _: u64) -> Result<Box<dyn Sampler>> {
        made(self, "open")
    }
}

impl Sampler for Made {
    fn index(&self, _: usize, position: u64, _: u64) -> Result<usize> {
        self.0.at("index");
        Ok(position as usize % 24)
    }
}

impl OptimizerConfig for Faulty {
    fn describe(&self) -> Result<OptimizerDescription> {
        self.at("describe");
        Ok(OptimizerDescription::default())
    }

    fn open(&self) -> Result<Box<dyn Optimizer>> {
        made(self, "open")
    }
}

impl Optimizer for Made {
    fn step(&mut self, _: &Update<'_>) -> Result<()> {
        self.0.at("step");
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        self.0.at("state");
        Ok(Vec::new())
    }

    fn load(&mut self, _: HashMap<String, Tensor>) -> Result<()> {
        self.0.at("load");
        Ok(())
    }
}

impl Scheduler for Faulty {
    fn describe(&self, _: u64) -> Result<SchedulerDescription> {
        self.at("describe");
        Ok(SchedulerDescription::default())
    }

    fn lr(&self, base: f64, step: u64, _: u64) -> Result<f64> {
        // After a checkpoint: what was sound stays.
        if step > 4 {
            self.at("lr");
        }
        Ok(base)
    }
}

impl EvaluatorConfig for Faulty {
    fn describe(&self) -> Result<EvaluatorDescription> {
        self.at("describe");
        let metrics = vec![Metric::new("length", Better::Smaller)];
        Ok(EvaluatorDescription { metrics, ..EvaluatorDescription::default() })
    }

    fn open(&self, _: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        made(self, "open")
    }

    fn on_cases(&self, _: &str, cases: &Cases, _: &[f64]) -> Result<Option<f64>> {
        self.at("on_cases");
        Ok(cases.column("length").map(|lengths| lengths.iter().sum()))
    }
}

impl Evaluator for Made {
    fn check(&self, model: &dyn Inference) -> Result<()> {
        self.0.at("check");
        model.sample_shape("embedding")?;
        Ok(())
    }

    fn files(&self) -> Result<Vec<&Path>> {
        self.0.at("files");
        Ok(Vec::new())
    }

    fn unresolved(&self) -> Result<Vec<(String, String)>> {
        self.0.at("unresolved");
        Ok(Vec::new())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        self.0.at("evaluate");
        let read = |index: usize| {
            // It is called in threads of the program.
            self.0.at("read");
            Picture::new(16, 16, vec![index as u8; 768])
        };
        let each = &mut |batch: &Tensor| {
            self.0.at("each");
            tch::no_grad(|| self.0.at("no grad"));
            model.run(&[("faces.image", batch)], &["embedding"]).map(|_| ())
        };
        model.pictures("faces.image", 4, &read, 2, each)?;
        let columns = [("length".to_owned(), vec![1.0, 2.0])].into_iter().collect();
        let cases = Some(Cases { of: "two".into(), columns });
        Ok(Report { metrics: [("length".to_owned(), 1.0)].into_iter().collect(), cases, ..Report::default() })
    }
}

impl MetricConfig for Faulty {
    fn describe(&self) -> Result<Metric> {
        self.at("describe");
        Ok(Metric::new("own", Better::Smaller))
    }

    fn measure(&self, _: &Cases) -> Result<f64> {
        self.at("measure");
        Ok(1.0)
    }
}

impl HookConfig for Faulty {
    fn problems(&self) -> Result<Vec<String>> {
        self.at("problems");
        Ok(Vec::new())
    }

    fn files(&self) -> Result<Vec<String>> {
        self.at("files");
        Ok(Vec::new())
    }

    fn open(&self, _: &RunInfo<'_>) -> Result<Box<dyn Hook>> {
        made(self, "open")
    }
}

impl Hook for Made {
    fn on(&mut self, _: &HookEvent<'_>) -> Result<()> {
        self.0.at("on");
        Ok(())
    }
}

/// A loss that no gradient comes from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Detached {}

impl ModuleConfig for Detached {
    fn describe(&self) -> Result<Description> {
        Ok(Ports::new().input("input", DType::Float, "...").output("loss", DType::Float, "").into())
    }

    fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
        Ok(Box::new(self.clone()))
    }
}

impl Module for Detached {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        single(call.get("input")?.f_mean(None::<Kind>)?.f_detach()?)
    }
}

fn judge(recipe: &RecipeView<'_>, _: &mut Vec<Diagnostic>) {
    assert_ne!(recipe.integer("run.seed"), Some(666), "told to");
}

rule!("faulty", [], judge);
register!(Module("decomposition"), "faulty", Faulty);
register!(Loss, "detached", Detached);
register!(Dataset, "faulty", Faulty);
register!(Source, "faulty", Faulty);
register!(Transform, "faulty", Faulty);
register!(Sampler, "faulty", Faulty);
register!(Optimizer, "faulty", Faulty);
register!(Scheduler, "faulty", Faulty);
register!(Evaluator, "faulty", Faulty);
register!(Metric, "faulty", Faulty);
register!(Hook, "faulty", Faulty);
