//! The fence around components: what they are asked goes through here, and nothing but a result comes out.
//!
//! A registration makes every component with a fence around it, and what the component makes gets one as well. The code
//! is compiled into the crate that registers: a panic is caught where it was raised, since none can leave a library that
//! was loaded.

use crate::cases::Cases;
use crate::data::{
    Column, Dataset, DatasetConfig, Open, OpenDataset, Partner, SampleOut, Sampler, SamplerConfig, Transform,
    TransformConfig, TransformDescription,
};
use crate::draw::Draw;
use crate::evaluator::{
    Evaluator, EvaluatorConfig, EvaluatorDescription, Inference, OpenEvaluator, ReadPicture, Report,
};
use crate::hook::{Hook, HookConfig, HookEvent, RunInfo};
use crate::host::{from, in_plugin, tell};
use crate::metric::{Metric, MetricConfig};
use crate::module::{Call, Module, ModuleConfig};
use crate::optimizer::{Optimizer, OptimizerConfig, OptimizerDescription, Update};
use crate::params::Params;
use crate::picture::{Normalization, Picture};
use crate::ports::{Description, Sizes};
use crate::scheduler::{Scheduler, SchedulerDescription};
use crate::source::{OpenSource, PictureSource, PictureSourceConfig, SourceDescription};
use mtl_recipe::error::Site;
use mtl_recipe::{Code, Error, Result, guarded_with};
use mtl_torch::ThreadState;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use tch::Tensor;

/// Whose calls these are.
#[derive(Clone, Copy)]
pub(crate) struct Whose {
    /// The crate of the component.
    pub origin: &'static str,
    /// Its family.
    pub family: &'static str,
    /// Its name.
    pub name: &'static str,
}

/// A component, or what it has made, behind its fence.
pub(crate) struct Fenced<P> {
    of: Whose,
    inner: ManuallyDrop<P>,
}

impl<P> Fenced<P> {
    pub(crate) fn new(of: Whose, inner: P) -> Self {
        Self { of, inner: ManuallyDrop::new(inner) }
    }

    /// Calls a method of what is inside.
    fn call<T>(&self, method: &str, call: impl FnOnce(&P) -> Result<T>) -> Result<T> {
        fenced(self.of, method, || call(&self.inner))
    }

    /// A model whose panics are those of this component.
    fn lent<'m>(&self, model: &'m dyn Inference, method: &str) -> Lent<&'m dyn Inference> {
        Lent { model: ManuallyDrop::new(model), site: site(self.of, method) }
    }

    fn call_mut<T>(&mut self, method: &str, call: impl FnOnce(&mut P) -> Result<T>) -> Result<T> {
        fenced(self.of, method, || call(&mut self.inner))
    }
}

impl<P> Drop for Fenced<P> {
    fn drop(&mut self) {
        // SAFETY: it is dropped here and nowhere else, and not used afterwards.
        let dropped = fenced(self.of, "drop", || unsafe {
            ManuallyDrop::drop(&mut self.inner);
            Ok(())
        });
        if let Err(error) = dropped {
            tell(&format!("{error:#}"));
        }
    }
}

/// Calls a method of a component. A panic becomes an error, and the state of the thread is put back; an error knows
/// which component it is from, and in which method.
pub(crate) fn fenced<T>(whose: Whose, method: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
    kept(call).map_err(|error| named(error, &site(whose, method)))
}

/// The same for a call whose site is known already.
fn of<T>(site: &Site, call: impl FnOnce() -> Result<T>) -> Result<T> {
    kept(call).map_err(|error| named(error, site))
}

/// Runs a call; a panic becomes an error, and the state of the thread is put back.
fn kept<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let state = ThreadState::now();
    guarded_with(call, || {
        let restored = state.and_then(|state| state.restore());
        if let Err(error) = restored {
            tell(&format!("the state of the thread could not be put back: {error:#}"));
        }
    })
}

fn site(of: Whose, method: &str) -> Site {
    Site {
        origin: from(of.origin),
        component: format!("{}/{}", of.family, of.name),
        method: method.to_owned(),
        plugin: in_plugin(),
    }
}

/// The error with the call that it came from; a panic that was raised there says so.
fn named(error: Error, site: &Site) -> Error {
    let raised_here = error.code() == Code::Panic && error.site().is_none();
    let error = error.at(|| site.clone());
    if !raised_here {
        return error;
    }
    let innermost = error.causes().is_empty();
    error.rephrase(|text| {
        innermost.then(|| format!("{} of {} panicked in `{}`: {text}", site.component, site.origin, site.method))
    })
}

macro_rules! boxed {
    ($of:expr, $inner:expr => $object:ty) => {
        Ok(Box::new(Fenced::new($of, $inner?)) as Box<$object>)
    };
}

impl ModuleConfig for Fenced<Box<dyn ModuleConfig>> {
    fn describe(&self) -> Result<Description> {
        self.call("describe", |inner| inner.describe())
    }

    fn build(&self, params: &Params, sizes: &Sizes) -> Result<Box<dyn Module>> {
        boxed!(self.of, self.call("build", |inner| inner.build(params, sizes)) => dyn Module)
    }
}

impl Module for Fenced<Box<dyn Module>> {
    fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
        self.call("forward", |inner| inner.forward(call))
    }
}

impl DatasetConfig for Fenced<Box<dyn DatasetConfig>> {
    fn describe(&self) -> Result<Description> {
        self.call("describe", |inner| inner.describe())
    }

    fn open(&self, open: &Open<'_>) -> Result<OpenDataset> {
        let opened = self.call("open", |inner| inner.open(open))?;
        let samples = Arc::new(Fenced::new(self.of, opened.samples));
        Ok(OpenDataset { samples, ..opened })
    }
}

impl Dataset for Fenced<Arc<dyn Dataset>> {
    fn sample(&self, index: usize, draw: &mut Draw, out: &mut SampleOut<'_>) -> Result<()> {
        self.call("sample", |inner| inner.sample(index, draw, out))
    }

    fn column(&self, name: &str) -> Result<Option<Column>> {
        self.call("column", |inner| inner.column(name))
    }

    fn place(&self, index: usize) -> Result<String> {
        self.call("place", |inner| inner.place(index))
    }

    fn files(&self) -> Result<Vec<&Path>> {
        fenced(self.of, "files", || self.inner.files())
    }
}

impl PictureSourceConfig for Fenced<Box<dyn PictureSourceConfig>> {
    fn describe(&self) -> Result<SourceDescription> {
        self.call("describe", |inner| inner.describe())
    }

    fn open(&self) -> Result<OpenSource> {
        let opened = self.call("open", |inner| inner.open())?;
        let pictures = Arc::new(Fenced::new(self.of, opened.pictures));
        Ok(OpenSource { pictures, ..opened })
    }
}

impl PictureSource for Fenced<Arc<dyn PictureSource>> {
    fn picture(&self, index: usize) -> Result<Picture> {
        self.call("picture", |inner| inner.picture(index))
    }

    fn encoded(&self, index: usize) -> Result<Option<Vec<u8>>> {
        self.call("encoded", |inner| inner.encoded(index))
    }

    fn variant(&self, index: usize, column: &str, value: f64) -> Result<Option<Picture>> {
        self.call("variant", |inner| inner.variant(index, column, value))
    }

    fn place(&self, index: usize) -> Result<String> {
        self.call("place", |inner| inner.place(index))
    }

    fn name(&self, index: usize) -> Result<String> {
        self.call("name", |inner| inner.name(index))
    }

    fn file(&self, index: usize) -> Result<Option<&Path>> {
        fenced(self.of, "file", || self.inner.file(index))
    }
}

impl SamplerConfig for Fenced<Box<dyn SamplerConfig>> {
    fn open(&self, data: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        boxed!(self.of, self.call("open", |inner| inner.open(data, seed)) => dyn Sampler)
    }

    fn open_beside(&self, data: &OpenDataset, leader: &OpenDataset, seed: u64) -> Result<Box<dyn Sampler>> {
        boxed!(self.of, self.call("open_beside", |inner| inner.open_beside(data, leader, seed)) => dyn Sampler)
    }
}

impl Sampler for Fenced<Box<dyn Sampler>> {
    fn index(&self, part: usize, position: u64, batch: u64) -> Result<usize> {
        self.call("index", |inner| inner.index(part, position, batch))
    }

    fn partner(&self, leader: usize, position: u64) -> Result<Partner> {
        self.call("partner", |inner| inner.partner(leader, position))
    }
}

impl TransformConfig for Fenced<Box<dyn TransformConfig>> {
    fn describe(&self) -> Result<TransformDescription> {
        self.call("describe", |inner| inner.describe())
    }

    fn open(&self) -> Result<Arc<dyn Transform>> {
        let opened = self.call("open", |inner| inner.open())?;
        Ok(Arc::new(Fenced::new(self.of, opened)))
    }
}

impl Transform for Fenced<Arc<dyn Transform>> {
    fn apply(&self, picture: &mut Picture, draw: &mut Draw) -> Result<()> {
        self.call("apply", |inner| inner.apply(picture, draw))
    }
}

impl OptimizerConfig for Fenced<Box<dyn OptimizerConfig>> {
    fn describe(&self) -> Result<OptimizerDescription> {
        self.call("describe", |inner| inner.describe())
    }

    fn open(&self) -> Result<Box<dyn Optimizer>> {
        boxed!(self.of, self.call("open", |inner| inner.open()) => dyn Optimizer)
    }
}

impl Optimizer for Fenced<Box<dyn Optimizer>> {
    fn step(&mut self, update: &Update<'_>) -> Result<()> {
        self.call_mut("step", |inner| inner.step(update))
    }

    fn state(&self) -> Result<Vec<(String, &Tensor)>> {
        fenced(self.of, "state", || self.inner.state())
    }

    fn load(&mut self, state: HashMap<String, Tensor>) -> Result<()> {
        self.call_mut("load", |inner| inner.load(state))
    }
}

impl Scheduler for Fenced<Box<dyn Scheduler>> {
    fn describe(&self, total: u64) -> Result<SchedulerDescription> {
        self.call("describe", |inner| inner.describe(total))
    }

    fn lr(&self, base: f64, step: u64, total: u64) -> Result<f64> {
        self.call("lr", |inner| inner.lr(base, step, total))
    }
}

impl EvaluatorConfig for Fenced<Box<dyn EvaluatorConfig>> {
    fn describe(&self) -> Result<EvaluatorDescription> {
        self.call("describe", |inner| inner.describe())
    }

    fn open(&self, open: &OpenEvaluator) -> Result<Box<dyn Evaluator>> {
        boxed!(self.of, self.call("open", |inner| inner.open(open)) => dyn Evaluator)
    }

    fn on_cases(&self, metric: &str, cases: &Cases, weights: &[f64]) -> Result<Option<f64>> {
        self.call("on_cases", |inner| inner.on_cases(metric, cases, weights))
    }
}

impl Evaluator for Fenced<Box<dyn Evaluator>> {
    fn check(&self, model: &dyn Inference) -> Result<()> {
        self.call("check", |inner| inner.check(&self.lent(model, "check")))
    }

    fn files(&self) -> Result<Vec<&Path>> {
        fenced(self.of, "files", || self.inner.files())
    }

    fn unresolved(&self) -> Result<Vec<(String, String)>> {
        self.call("unresolved", |inner| inner.unresolved())
    }

    fn evaluate(&self, model: &dyn Inference) -> Result<Report> {
        self.call("evaluate", |inner| inner.evaluate(&self.lent(model, "evaluate")))
    }
}

impl MetricConfig for Fenced<Box<dyn MetricConfig>> {
    fn describe(&self) -> Result<Metric> {
        self.call("describe", |inner| inner.describe())
    }

    fn measure(&self, cases: &Cases) -> Result<f64> {
        self.call("measure", |inner| inner.measure(cases))
    }
}

impl HookConfig for Fenced<Box<dyn HookConfig>> {
    fn problems(&self) -> Result<Vec<String>> {
        self.call("problems", |inner| inner.problems())
    }

    fn files(&self) -> Result<Vec<String>> {
        self.call("files", |inner| inner.files())
    }

    fn open(&self, run: &RunInfo<'_>) -> Result<Box<dyn Hook>> {
        boxed!(self.of, self.call("open", |inner| inner.open(run)) => dyn Hook)
    }
}

impl Hook for Fenced<Box<dyn Hook>> {
    fn on(&mut self, event: &HookEvent<'_>) -> Result<()> {
        self.call_mut("on", |inner| inner.on(event))
    }
}

/// A model as an evaluator gets it, lent or for its own. What the evaluator hands in, and the model may call in other
/// threads, is guarded on the side of the evaluator; the model is guarded on its own.
pub struct Lent<P> {
    model: ManuallyDrop<P>,
    /// Whose panics these are, where there are any.
    site: Site,
}

impl<'m> Lent<&'m dyn Inference> {
    /// The program's model.
    pub fn new(model: &'m dyn Inference) -> Self {
        let (origin, component, method) = ("the program".into(), "the model".into(), "run".into());
        Self { model: ManuallyDrop::new(model), site: Site { origin, component, method, plugin: false } }
    }
}

impl<P> Drop for Lent<P> {
    fn drop(&mut self) {
        // Nothing is to be done for a reference, and a guard would take the place of a panic under way for its own.
        if !std::mem::needs_drop::<P>() {
            return;
        }
        // SAFETY: it is dropped here and nowhere else, and not used afterwards.
        let dropped = kept(|| unsafe {
            ManuallyDrop::drop(&mut self.model);
            Ok(())
        });
        if let Err(error) = dropped {
            tell(&format!("a model could not be closed: {error:#}"));
        }
    }
}

impl<P> Lent<P> {
    fn call<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        of(&self.site, call)
    }

    /// Of a call that cannot fail, the value in the place of a panic's.
    fn plain<T: Default>(&self, call: impl FnOnce() -> T) -> T {
        self.call(|| Ok(call())).unwrap_or_else(|error| {
            tell(&format!("{error:#}"));
            T::default()
        })
    }
}

impl<P: Deref<Target: Inference>> Inference for Lent<P> {
    fn has(&self, wire: &str) -> bool {
        self.plain(|| self.model.has(wire))
    }

    fn sample_shape(&self, wire: &str) -> Result<Vec<i64>> {
        self.call(|| self.model.sample_shape(wire))
    }

    fn dim(&self, name: &str) -> Option<i64> {
        self.plain(|| self.model.dim(name))
    }

    fn setting(&self, path: &str) -> Option<serde_json::Value> {
        self.plain(|| self.model.setting(path))
    }

    fn needs(&self, wanted: &[&str], port: &str) -> Result<bool> {
        self.call(|| self.model.needs(wanted, port))
    }

    fn normalization(&self, wire: &str) -> Result<Normalization> {
        self.call(|| self.model.normalization(wire))
    }

    fn run(&self, given: &[(&str, &Tensor)], wanted: &[&str]) -> Result<Vec<Tensor>> {
        self.call(|| self.model.run(given, wanted))
    }

    fn pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        each: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let site = &self.site;
        let read = |index: usize| of(site, || read(index));
        let mut each = |batch: &Tensor| self.call(|| each(batch));
        self.call(|| self.model.pictures(feed, count, &read, batch_size, &mut each))
    }

    fn map_pictures(
        &self,
        feed: &str,
        count: usize,
        read: ReadPicture<'_>,
        batch_size: usize,
        map: &mut dyn FnMut(&Tensor) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let site = &self.site;
        let read = |index: usize| of(site, || read(index));
        let mut map = |batch: &Tensor| self.call(|| map(batch));
        self.call(|| self.model.map_pictures(feed, count, &read, batch_size, &mut map))
    }

    fn open_run(&self, run: &Path) -> Result<Box<dyn Inference>> {
        let opened = self.call(|| self.model.open_run(run))?;
        Ok(Box::new(Lent { model: ManuallyDrop::new(opened), site: self.site.clone() }))
    }

    fn started_from(&self, run: &Path) -> bool {
        self.plain(|| self.model.started_from(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::{Made, Registration};
    use crate::{ComponentKind, Context, register};
    use mtl_recipe::{ConfigValue, Origin, bail, mistake};
    use schemars::JsonSchema;
    use serde::Deserialize;
    use std::sync::Mutex;
    use tch::{Device, Kind};

    /// Goes wrong in every way.
    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Careless {}

    impl ModuleConfig for Careless {
        fn describe(&self) -> Result<Description> {
            mistake!("no such shape")
        }

        fn build(&self, _: &Params, _: &Sizes) -> Result<Box<dyn Module>> {
            Ok(Box::new(Built))
        }
    }

    struct Built;

    impl Module for Built {
        fn forward(&self, call: &Call<'_>) -> Result<Vec<Option<Tensor>>> {
            if call.step() == 0 {
                bail!("no step");
            }
            let autocast = mtl_torch::Autocast::new(Device::Cpu, Kind::BFloat16)?;
            std::mem::forget((autocast, tch::no_grad_guard()));
            panic!("in open scopes")
        }
    }

    impl Drop for Built {
        fn drop(&mut self) {
            panic!("while it is dropped");
        }
    }

    register!(Loss, "careless", Careless);

    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    #[test]
    fn nothing_but_a_result_comes_out() {
        crate::host::listen(|text| TOLD.lock().unwrap().push(text.to_owned()));
        let mut all = inventory::iter::<Registration>.into_iter();
        let of = all.find(|r| r.kind == ComponentKind::Loss && r.name == "careless").unwrap();
        let nothing = ConfigValue::empty(Origin { file: 0, span: 0..0 });
        let config = <dyn ModuleConfig>::made(of, &nothing).unwrap().unwrap();
        let error = config.describe().unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Mistake, "no such shape"));
        assert_eq!(error.site().unwrap().method, "describe");

        let context = Arc::new(Context::cpu(Kind::Float));
        let params = Params::new("m", context.clone());
        let module = config.build(&params, &Sizes::default()).unwrap();
        let ports = crate::Ports::new();
        let steps = [0, 1].map(|step| crate::Progress::at(step, 1));
        let call = |step: usize| Call {
            inputs: Vec::new(),
            ports: &ports,
            train: true,
            wanted: &[],
            progress: &steps[step],
            context: &context,
        };
        let error = module.forward(&call(0)).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Failure, "no step"));
        let before = ThreadState::now().unwrap();
        let error = module.forward(&call(1)).unwrap_err();
        let words = "loss/careless of the crate mtl-component panicked in `forward`: in open scopes";
        assert!(error.code() == Code::Panic && error.message().starts_with(words), "{error:?}");
        assert_eq!(ThreadState::now().unwrap(), before);

        drop(module);
        let told = TOLD.lock().unwrap();
        assert!(told[0].contains("loss/careless of the crate mtl-component panicked in `drop`: while"), "{told:?}");
    }
}
