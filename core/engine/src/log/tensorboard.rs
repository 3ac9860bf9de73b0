//! An event file that TensorBoard reads.

use super::histogram::Histogram;
use crate::machine;
use crate::png::png;
use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mtl_component::Picture;
use protobuf::well_known_types::Value;
use protobuf::{Message, RepeatedField};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tensorboard_proto::api::{DataType as HParamType, Experiment, HParamInfo, MetricInfo, Status};
use tensorboard_proto::attr_value::{AttrValue, AttrValue_ListValue};
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_proto::graph::GraphDef;
use tensorboard_proto::node_def::NodeDef;
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::{Summary_Image, Summary_Value};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;

const FILE_PREFIX: &str = "events.out.tfevents.";
const FILE_VERSION: &str = "brain.Event:2";

/// A full queue makes the callers wait, so this also bounds the images and histograms held in memory.
const QUEUE: usize = 256;

/// How long a record may stay in the buffer, unseen by a TensorBoard that watches the run.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Writes one event file on a thread of its own.
///
/// The methods queue a record with the present time and return; they wait only while the queue is full. The first
/// I/O error ends the writing: every later call, [`flush`](Self::flush) and [`finish`](Self::finish) return it.
/// Records reach the file within a few seconds without a flush.
///
/// TensorBoard may follow the newest file of a folder only, so a folder should have one writer at a time.
/// Dropping it writes what is queued, like [`finish`](Self::finish), but loses the error.
pub struct TensorBoard {
    path: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<OnceLock<io::Error>>,
}

/// The value of a hyperparameter.
#[derive(Clone, Debug, PartialEq)]
pub enum HParam {
    /// Shown and filtered as a number. NaN and infinities are written as text, for TensorBoard cannot send them to
    /// the browser as numbers and then shows no hyperparameters at all.
    Number(f64),
    /// Yes or no.
    Bool(bool),
    /// Any other value.
    Text(String),
}

/// What TensorBoard's graph tab shows.
#[derive(Clone, Debug, Default)]
pub struct GraphDrawing {
    /// The nodes, in any order.
    pub nodes: Vec<DrawnNode>,
}

/// A box in the graph tab.
#[derive(Clone, Debug, Default)]
pub struct DrawnNode {
    /// Unique in the graph. Slashes make nested scopes, which TensorBoard folds.
    pub name: String,
    /// The kind of operation.
    pub op: String,
    /// Names of the nodes this one reads: `name`, `name:output` for an output other than the first, or `^name` for
    /// an order without data.
    pub inputs: Vec<String>,
    /// Names and values shown with the node. TensorBoard leaves out values above 1024 bytes.
    pub attributes: Vec<(String, String)>,
    /// The shape of each output; -1 is an unknown size.
    pub output_shapes: Vec<Vec<i64>>,
}

enum Job {
    /// Makes a record on the writer's thread, so that the caller does not wait for compression and sorting.
    Event(Box<dyn FnOnce() -> io::Result<Event> + Send>),
    /// Nothing is sent: the one who waits is released when this end is dropped.
    Flush(Sender<()>),
}

impl TensorBoard {
    /// Makes the folder if needed and a new event file in it, `events.out.tfevents.<secs>.<host>.<pid>.<n>`.
    /// Another writer's file is never touched.
    ///
    /// A run that goes on from a checkpoint gives the first step that it will log as `purge_step`: TensorBoard
    /// then hides everything at that step and later from the folder's earlier files.
    ///
    /// # Errors
    /// The folder or the file cannot be made or written.
    pub fn create(dir: &Path, purge_step: Option<i64>) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut second = unix_time() as u64;
        if purge_step.is_some() {
            // TensorBoard reads a folder's files in the order of their names, and only what it has read already
            // can be hidden. A quick restart or another machine's clock must not put this file first.
            let last = last_second(dir).with_context(|| format!("list {}", dir.display()))?;
            second = second.max(last.map_or(0, |last| last.saturating_add(1)));
        }
        let (path, file) = create_file(dir, second)?;
        let file = Arc::new(file);
        let out = BufWriter::with_capacity(1 << 16, file.clone());
        let this = Self::start(path, out, move || file.sync_all())?;
        if let Some(step) = purge_step {
            // One reader takes the first start in a folder for the start of the whole run and hides nothing; a
            // second start is a restart for every reader, and hiding twice does no harm.
            for _ in 0..2 {
                let mut event = new_event(unix_time(), step);
                let mut log = SessionLog::new();
                log.set_status(SessionLog_SessionStatus::START);
                event.set_session_log(log);
                this.event(event)?;
            }
        }
        this.flush()?;
        Ok(this)
    }

    /// Starts the writer's thread on `out`. `sync` makes what is written durable; it runs once, at the end.
    fn start<W, S>(path: PathBuf, out: W, sync: S) -> Result<Self>
    where
        W: Write + Send + 'static,
        S: FnOnce() -> io::Result<()> + Send + 'static,
    {
        let (sender, receiver) = bounded(QUEUE);
        let failure = Arc::new(OnceLock::new());
        let kept = failure.clone();
        let thread = thread::Builder::new()
            .name("tensorboard".to_owned())
            .spawn(move || write_jobs(&receiver, out, sync, &kept))
            .context("start the TensorBoard writer")?;
        let this = Self { path, jobs: Some(sender), thread: Some(thread), failure };
        let mut version = new_event(unix_time(), 0);
        version.set_file_version(FILE_VERSION.to_owned());
        this.event(version)?;
        Ok(this)
    }

    /// A point of a curve. It is kept in single precision: values beyond its range become infinite.
    ///
    /// # Errors
    /// The tag is empty, or an earlier write failed.
    pub fn scalar(&self, tag: &str, value: f64, step: i64) -> Result<()> {
        let mut item = tagged(tag)?;
        item.set_simple_value(value as f32);
        self.summary(step, move || Ok(item))
    }

    /// A picture, kept without loss.
    ///
    /// # Errors
    /// The tag is empty, the picture is empty, or its size and its data disagree; or an earlier write failed.
    pub fn image(&self, tag: &str, picture: &Picture, step: i64) -> Result<()> {
        let mut item = tagged(tag)?;
        let Picture { width, height, ref data, .. } = *picture;
        ensure!(
            !data.is_empty() && width.checked_mul(height).and_then(|n| n.checked_mul(3)) == Some(data.len()),
            "the picture `{tag}` of {width}x{height} pixels has {} bytes of data",
            data.len()
        );
        let mut summary = Summary_Image::new();
        summary.set_width(i32::try_from(width).with_context(|| format!("width of the picture `{tag}`"))?);
        summary.set_height(i32::try_from(height).with_context(|| format!("height of the picture `{tag}`"))?);
        summary.set_colorspace(3);
        let picture = picture.clone();
        self.summary(step, move || {
            summary.set_encoded_image_string(png(&picture).map_err(|e| io::Error::other(format!("{e:#}")))?);
            item.set_image(summary);
            Ok(item)
        })
    }

    /// The distribution of `values`, in bins whose edges grow by a tenth from 1e-12 to 1e20 on both sides of zero.
    ///
    /// NaN and infinities are left out of every figure; returns how many they were. Nothing is written when no
    /// value is left. Values beyond the last edge count in the last bin.
    ///
    /// # Errors
    /// The tag is empty, or an earlier write failed.
    pub fn histogram(&self, tag: &str, values: &[f32], step: i64) -> Result<usize> {
        let mut item = tagged(tag)?;
        let finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let skipped = values.len() - finite.len();
        if finite.is_empty() {
            self.check()?;
            return Ok(skipped);
        }
        self.summary(step, move || {
            item.set_histo(Histogram::of(&finite).proto());
            Ok(item)
        })?;
        Ok(skipped)
    }

    /// As [`histogram`](Self::histogram), of values that have been counted.
    ///
    /// # Errors
    /// The tag is empty, or an earlier write failed.
    pub fn counted(&self, tag: &str, histogram: &Histogram, step: i64) -> Result<()> {
        let mut item = tagged(tag)?;
        if histogram.number() == 0.0 {
            return self.check();
        }
        item.set_histo(histogram.proto());
        self.summary(step, move || Ok(item))
    }

    /// A text in Markdown, shown under `tag/text_summary`.
    ///
    /// # Errors
    /// The tag is empty, or an earlier write failed.
    pub fn text(&self, tag: &str, markdown: &str, step: i64) -> Result<()> {
        ensure!(!tag.is_empty(), "a TensorBoard tag is empty");
        let mut item = tagged(&format!("{tag}/text_summary"))?;
        item.mut_metadata().mut_plugin_data().set_plugin_name("text".to_owned());
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_tensor_shape(shape(&[1]));
        tensor.set_string_val(RepeatedField::from_vec(vec![markdown.as_bytes().to_vec()]));
        item.set_tensor(tensor);
        self.summary(step, move || Ok(item))
    }

    /// The hyperparameters of the run, and the tags of the scalars that its row of the table shows.
    ///
    /// TensorBoard keeps the first that it reads in a folder: those of a resumed run change nothing.
    ///
    /// # Errors
    /// A name is given twice, or an earlier write failed.
    pub fn hparams(&self, params: &[(String, HParam)], metrics: &[String]) -> Result<()> {
        let now = unix_time();
        let mut experiment = Experiment::new();
        let mut session = SessionStartInfo::new();
        session.set_start_time_secs(now);
        for (name, param) in params {
            let mut value = Value::new();
            let kind = match param {
                HParam::Number(number) if number.is_finite() => {
                    value.set_number_value(*number);
                    HParamType::DATA_TYPE_FLOAT64
                }
                HParam::Number(number) => {
                    value.set_string_value(number.to_string());
                    HParamType::DATA_TYPE_STRING
                }
                HParam::Bool(flag) => {
                    value.set_bool_value(*flag);
                    HParamType::DATA_TYPE_BOOL
                }
                HParam::Text(text) => {
                    value.set_string_value(text.clone());
                    HParamType::DATA_TYPE_STRING
                }
            };
            let mut info = HParamInfo::new();
            info.set_name(name.clone());
            info.set_field_type(kind);
            experiment.mut_hparam_infos().push(info);
            ensure!(session.hparams.insert(name.clone(), value).is_none(), "hyperparameter `{name}` is given twice");
        }
        for tag in metrics {
            let mut metric = MetricInfo::new();
            metric.mut_name().set_tag(tag.clone());
            experiment.mut_metric_infos().push(metric);
        }
        let mut data = HParamsPluginData::new();
        data.set_experiment(experiment);
        self.hparams_item("experiment", &data)?;
        data.set_session_start_info(session);
        self.hparams_item("session_start_info", &data)
    }

    /// The outcome of the run, for its row in the table of hyperparameters.
    ///
    /// TensorBoard keeps the first outcome that it reads in a folder: a run that will be resumed should give none.
    ///
    /// # Errors
    /// An earlier write failed.
    pub fn session_end(&self, success: bool) -> Result<()> {
        let mut end = SessionEndInfo::new();
        end.set_status(if success { Status::STATUS_SUCCESS } else { Status::STATUS_FAILURE });
        end.set_end_time_secs(unix_time());
        let mut data = HParamsPluginData::new();
        data.set_session_end_info(end);
        self.hparams_item("session_end_info", &data)
    }

    /// The drawing for the graph tab; a later one replaces it.
    ///
    /// # Errors
    /// A node has no name or the name of another, or reads a node that is not drawn; or an earlier write failed.
    pub fn graph(&self, drawing: &GraphDrawing) -> Result<()> {
        let mut event = new_event(unix_time(), 0);
        event.set_graph_def(graph_def(drawing)?.write_to_bytes().context("encode the graph")?);
        self.event(event)
    }

    /// Waits until all that was logged before is in the file. It may still be lost if the machine stops;
    /// [`finish`](Self::finish) makes it durable.
    ///
    /// # Errors
    /// A write failed.
    pub fn flush(&self) -> Result<()> {
        let (held, released) = bounded(0);
        self.send(Job::Flush(held))?;
        // It always ends with an error, for nothing is ever sent: only the release matters.
        let _ = released.recv();
        self.check()
    }

    /// Writes what is queued, makes the file durable and ends the thread.
    ///
    /// # Errors
    /// Any write since the file was created failed.
    pub fn finish(mut self) -> Result<()> {
        self.close()
    }

    fn close(&mut self) -> Result<()> {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            bail!("the writer of {} panicked", self.path.display());
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            // Every call returns the error, and io::Error has no clone.
            Some(error) => Err(io::Error::new(error.kind(), error.to_string()))
                .with_context(|| format!("write {}", self.path.display())),
        }
    }

    fn send(&self, job: Job) -> Result<()> {
        self.check()?;
        match &self.jobs {
            Some(jobs) if jobs.send(job).is_ok() => Ok(()),
            _ => bail!("the writer of {} has stopped", self.path.display()),
        }
    }

    fn event(&self, event: Event) -> Result<()> {
        self.send(Job::Event(Box::new(move || Ok(event))))
    }

    fn summary(&self, step: i64, item: impl FnOnce() -> io::Result<Summary_Value> + Send + 'static) -> Result<()> {
        let mut event = new_event(unix_time(), step);
        self.send(Job::Event(Box::new(move || {
            event.mut_summary().mut_value().push(item()?);
            Ok(event)
        })))
    }

    fn hparams_item(&self, name: &str, data: &HParamsPluginData) -> Result<()> {
        let mut item = tagged(&format!("_hparams_/{name}"))?;
        let content = data.write_to_bytes().context("encode the hyperparameters")?;
        let plugin = item.mut_metadata().mut_plugin_data();
        plugin.set_plugin_name("hparams".to_owned());
        plugin.set_content(content);
        // All is in the metadata, but some readers skip a record without a value.
        let mut nothing = TensorProto::new();
        nothing.set_dtype(DataType::DT_FLOAT);
        nothing.set_tensor_shape(shape(&[0]));
        item.set_tensor(nothing);
        self.summary(0, move || Ok(item))
    }
}

impl Drop for TensorBoard {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// The writer's thread: ends when every sender is gone. After an error it only empties the queue, because a record
/// behind a torn one could not be read.
fn write_jobs<W: Write>(
    jobs: &Receiver<Job>,
    out: W,
    sync: impl FnOnce() -> io::Result<()>,
    failure: &OnceLock<io::Error>,
) {
    let mut records = RecordWriter::new(out);
    let mut unflushed: Option<Instant> = None;
    loop {
        let job = match unflushed {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(since) => jobs.recv_deadline(since + FLUSH_INTERVAL),
        };
        let closed = matches!(job, Err(RecvTimeoutError::Disconnected));
        // Dropped at the end of the turn: who waits for a flush must find its error.
        let mut _waiting = None;
        let result = match job {
            Ok(Job::Event(make)) => {
                unflushed.get_or_insert_with(Instant::now);
                make().and_then(|event| append(&mut records, &event))
            }
            Ok(Job::Flush(waiting)) => {
                _waiting = Some(waiting);
                unflushed = None;
                records.flush()
            }
            Err(_) => {
                unflushed = None;
                records.flush()
            }
        };
        if let Err(error) = result {
            let _ = failure.set(error);
            break;
        }
        if closed {
            if let Err(error) = sync() {
                let _ = failure.set(error);
            }
            return;
        }
    }
    for _ in jobs {}
}

fn append<W: Write>(records: &mut RecordWriter<W>, event: &Event) -> io::Result<()> {
    records.write(&event.write_to_bytes().map_err(io::Error::other)?)
}

/// Opens the first file of that second that no one has made before.
fn create_file(dir: &Path, second: u64) -> Result<(PathBuf, File)> {
    let host = host_name();
    let pid = std::process::id();
    let mut number = 0u64;
    loop {
        let path = dir.join(format!("{FILE_PREFIX}{second:010}.{host}.{pid}.{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
        }
    }
}

/// The latest second in the names of a folder's event files.
fn last_second(dir: &Path) -> io::Result<Option<u64>> {
    let mut last = None;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let second = name.to_str().and_then(|name| name.strip_prefix(FILE_PREFIX)?.split('.').next()?.parse().ok());
        last = last.max(second);
    }
    Ok(last)
}

/// The machine's name with nothing in it that a file name cannot hold.
fn host_name() -> String {
    let name = machine::host().unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Seconds since 1970.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn new_event(wall_time: f64, step: i64) -> Event {
    let mut event = Event::new();
    event.set_wall_time(wall_time);
    event.set_step(step);
    event
}

fn tagged(tag: &str) -> Result<Summary_Value> {
    ensure!(!tag.is_empty(), "a TensorBoard tag is empty");
    let mut item = Summary_Value::new();
    item.set_tag(tag.to_owned());
    Ok(item)
}

fn shape(sizes: &[i64]) -> TensorShapeProto {
    let mut shape = TensorShapeProto::new();
    for size in sizes {
        let mut dim = TensorShapeProto_Dim::new();
        dim.set_size(*size);
        shape.mut_dim().push(dim);
    }
    shape
}

fn graph_def(drawing: &GraphDrawing) -> Result<GraphDef> {
    let mut names = HashSet::new();
    for node in &drawing.nodes {
        ensure!(!node.name.is_empty(), "a node of the graph has no name");
        ensure!(names.insert(node.name.as_str()), "two nodes of the graph have the name `{}`", node.name);
    }
    let mut graph = GraphDef::new();
    for node in &drawing.nodes {
        for input in &node.inputs {
            ensure!(
                names.contains(source(input)),
                "node `{}` of the graph reads `{input}`, which is not drawn",
                node.name
            );
        }
        let mut def = NodeDef::new();
        def.set_name(node.name.clone());
        def.set_op(node.op.clone());
        def.set_input(node.inputs.iter().cloned().collect());
        for (name, value) in &node.attributes {
            let mut attribute = AttrValue::new();
            attribute.set_s(value.clone().into_bytes());
            def.mut_attr().insert(name.clone(), attribute);
        }
        if !node.output_shapes.is_empty() {
            let mut list = AttrValue_ListValue::new();
            list.set_shape(node.output_shapes.iter().map(|sizes| shape(sizes)).collect());
            let mut attribute = AttrValue::new();
            attribute.set_list(list);
            def.mut_attr().insert("_output_shapes".to_owned(), attribute);
        }
        graph.mut_node().push(def);
    }
    Ok(graph)
}

/// The name of the node that an input comes from.
fn source(input: &str) -> &str {
    let input = input.strip_prefix('^').unwrap_or(input);
    match input.rsplit_once(':') {
        Some((name, output)) if output.parse::<u32>().is_ok() => name,
        _ => input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::histogram::EDGES;
    use std::sync::Mutex;
    use tensorboard_proto::plugin_hparams::HParamsPluginData_oneof_data as Data;

    fn crc32c(data: &[u8]) -> u32 {
        !data.iter().fold(!0, |mut crc: u32, byte| {
            crc ^= u32::from(*byte);
            (0..8).for_each(|_| crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()));
            crc
        })
    }

    fn checksum(data: &[u8]) -> [u8; 4] {
        crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    }

    /// Reads every record; any wrong length or checksum fails the test.
    fn read(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(8);
            assert_eq!(rest[..4], checksum(head));
            let length = u64::from_le_bytes(head.try_into().unwrap()) as usize;
            let (data, rest) = rest[4..].split_at(length);
            assert_eq!(rest[..4], checksum(data));
            events.push(Event::parse_from_bytes(data).unwrap());
            bytes = &rest[4..];
        }
        events
    }

    fn read_file(path: &Path) -> Vec<Event> {
        read(&fs::read(path).unwrap())
    }

    /// What `log` writes, without the version.
    fn written(log: impl FnOnce(&TensorBoard)) -> Vec<Event> {
        let dir = tempfile::tempdir().unwrap();
        let board = TensorBoard::create(dir.path(), None).unwrap();
        let path = board.path.clone();
        log(&board);
        board.finish().unwrap();
        let mut events = read_file(&path);
        assert_eq!(events.remove(0).get_file_version(), "brain.Event:2");
        events
    }

    fn item(event: &Event) -> &Summary_Value {
        assert_eq!(event.get_summary().get_value().len(), 1);
        &event.get_summary().get_value()[0]
    }

    /// Takes `room` bytes, then refuses; keeps what it took.
    #[derive(Clone)]
    struct Full {
        room: usize,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Full {
        fn new(room: usize) -> Self {
            Self { room, taken: Arc::default() }
        }
    }

    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let mut taken = self.taken.lock().unwrap();
            let length = data.len().min(self.room - taken.len());
            if length == 0 {
                return Err(io::Error::new(ErrorKind::StorageFull, "no room"));
            }
            taken.extend(&data[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_readers_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn scalars_keep_order_step_and_time() {
        let before = unix_time();
        let events = written(|board| {
            for step in 0..1000 {
                board.scalar("loss/total", f64::from(step) / 3.0, step.into()).unwrap();
            }
            board.scalar("loss/total", f64::NAN, i64::MAX).unwrap();
        });
        let after = unix_time();
        assert_eq!(events.len(), 1001);
        for (step, event) in events[..1000].iter().enumerate() {
            assert_eq!(event.get_step(), step as i64);
            assert_eq!(item(event).get_tag(), "loss/total");
            assert_eq!(item(event).get_simple_value(), (step as f64 / 3.0) as f32);
        }
        assert!(events.iter().all(|event| (before..=after).contains(&event.get_wall_time())));
        assert!(events.is_sorted_by_key(Event::get_wall_time));
        assert_eq!(events[1000].get_step(), i64::MAX);
        assert!(item(&events[1000]).get_simple_value().is_nan());
    }

    #[test]
    fn pictures_of_any_shape_keep_every_pixel() {
        for (width, height) in [(4usize, 2usize), (2, 5), (1, 7)] {
            let data: Vec<u8> = (0..width * height * 3).map(|i| (i * 7) as u8).collect();
            let picture = Picture::new(width, height, data.clone()).unwrap();
            let events = written(|board| board.image("grid", &picture, 3).unwrap());
            let image = item(&events[0]).get_image();
            assert_eq!(
                (image.get_width(), image.get_height(), image.get_colorspace()),
                (width as i32, height as i32, 3)
            );
            let decoded = image::load_from_memory(image.get_encoded_image_string()).unwrap();
            assert_eq!((decoded.width() as usize, decoded.height() as usize), (width, height));
            assert_eq!(decoded.as_bytes(), data);
        }
    }

    #[test]
    fn pictures_whose_size_is_wrong_are_refused() {
        let good = Picture::new(2, 3, vec![0; 18]).unwrap();
        let bad = [
            Picture { height: 2, ..good.clone() },
            Picture { width: 0, data: vec![], ..good.clone() },
            Picture { width: usize::MAX, height: usize::MAX, ..good.clone() },
        ];
        let events = written(|board| {
            for picture in &bad {
                board.image("x", picture, 0).unwrap_err();
            }
            board.image("x", &good, 0).unwrap();
        });
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn histogram_counts_by_hand() {
        let values = [-1.5e-12, 0.5e-12, 1.05e-12, 1.15e-12, 1.19e-12, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let events = written(|board| assert_eq!(board.histogram("w", &values, 9).unwrap(), 3));
        let histogram = item(&events[0]).get_histo();
        let limits = [-1.61051, -1.4641, -1.331, -1.21, -1.1, -1.0, 0.0, 1.0, 1.1, 1.21];
        assert_eq!(histogram.get_bucket(), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0]);
        assert_eq!(histogram.get_bucket_limit().len(), limits.len());
        for (got, wanted) in histogram.get_bucket_limit().iter().zip(limits) {
            assert!((got * 1e12 - wanted).abs() < 1e-9, "{got} {wanted}e-12");
        }
        assert_eq!(histogram.get_num(), 5.0);
        assert_eq!(histogram.get_min(), f64::from(-1.5e-12f32));
        assert_eq!(histogram.get_max(), f64::from(1.19e-12f32));
        assert!((histogram.get_sum() - 2.39e-12).abs() < 1e-18);
        let squares = (2.25 + 0.25 + 1.05 * 1.05 + 1.15 * 1.15 + 1.19 * 1.19) * 1e-24;
        assert!((histogram.get_sum_squares() - squares).abs() < 1e-30);
    }

    #[test]
    fn values_on_an_edge_belong_to_the_bin_above() {
        let histogram = Histogram::of(&[0.0, -0.0]).proto();
        assert_eq!(histogram.get_bucket(), [0.0, 2.0]);
        assert_eq!(histogram.get_bucket_limit(), [0.0, 1e-12]);
    }

    #[test]
    fn values_beyond_the_edges_are_counted() {
        let histogram = Histogram::of(&[f32::MIN, f32::MAX, f32::MAX]).proto();
        let counts = histogram.get_bucket();
        assert_eq!((counts[1], counts[counts.len() - 1]), (1.0, 2.0));
        assert_eq!(counts.len(), EDGES.len());
        assert_eq!(histogram.get_bucket_limit(), *EDGES);
        assert!(EDGES.is_sorted());
    }

    #[test]
    fn a_histogram_of_nothing_is_not_written() {
        let events = written(|board| {
            assert_eq!(board.histogram("w", &[], 0).unwrap(), 0);
            assert_eq!(board.histogram("w", &[f32::NAN; 4], 0).unwrap(), 4);
        });
        assert!(events.is_empty());
    }

    #[test]
    fn text_is_a_string_tensor_of_the_text_plugin() {
        let events = written(|board| board.text("recipe", "# Größe", 2).unwrap());
        let item = item(&events[0]);
        assert_eq!(item.get_tag(), "recipe/text_summary");
        assert_eq!(item.get_metadata().get_plugin_data().get_plugin_name(), "text");
        assert_eq!(item.get_tensor().get_dtype(), DataType::DT_STRING);
        assert_eq!(item.get_tensor().get_string_val(), ["# Größe".as_bytes()]);
        assert_eq!(*item.get_tensor().get_tensor_shape(), shape(&[1]));
    }

    #[test]
    fn hparams_describe_and_close_a_session() {
        let params = [
            ("lr".to_owned(), HParam::Number(0.1)),
            ("amp".to_owned(), HParam::Bool(true)),
            ("loss".to_owned(), HParam::Text("arcface".to_owned())),
            ("clip".to_owned(), HParam::Number(f64::INFINITY)),
        ];
        let events = written(|board| {
            board.hparams(&params, &["val/top1".to_owned()]).unwrap();
            board.session_end(false).unwrap();
            board.hparams(&[params[0].clone(), params[0].clone()], &[]).unwrap_err();
        });
        let tags: Vec<&str> = events.iter().map(|event| item(event).get_tag()).collect();
        assert_eq!(tags, ["_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"]);
        let data: Vec<Option<Data>> = events
            .iter()
            .map(|event| {
                let plugin = item(event).get_metadata().get_plugin_data();
                assert_eq!(plugin.get_plugin_name(), "hparams");
                assert!(item(event).has_tensor());
                HParamsPluginData::parse_from_bytes(plugin.get_content()).unwrap().data
            })
            .collect();
        let [
            Some(Data::experiment(experiment)),
            Some(Data::session_start_info(start)),
            Some(Data::session_end_info(end)),
        ] = data.as_slice()
        else {
            panic!("{data:?}")
        };
        let infos: Vec<_> = experiment.get_hparam_infos().iter().map(|i| (i.get_name(), i.get_field_type())).collect();
        use HParamType::{DATA_TYPE_BOOL, DATA_TYPE_FLOAT64, DATA_TYPE_STRING};
        assert_eq!(
            infos,
            [
                ("lr", DATA_TYPE_FLOAT64),
                ("amp", DATA_TYPE_BOOL),
                ("loss", DATA_TYPE_STRING),
                ("clip", DATA_TYPE_STRING)
            ]
        );
        assert_eq!(experiment.get_metric_infos()[0].get_name().get_tag(), "val/top1");
        assert_eq!(start.get_hparams()["lr"].get_number_value(), 0.1);
        assert!(start.get_hparams()["amp"].get_bool_value());
        assert_eq!(start.get_hparams()["loss"].get_string_value(), "arcface");
        assert_eq!(start.get_hparams()["clip"].get_string_value(), "inf");
        assert_eq!(end.get_status(), Status::STATUS_FAILURE);
        assert!(start.get_start_time_secs() > 1e9 && end.get_end_time_secs() >= start.get_start_time_secs());
    }

    #[test]
    fn a_graph_keeps_nodes_attributes_and_shapes() {
        let nodes = vec![
            DrawnNode { name: "images".to_owned(), op: "input".to_owned(), ..DrawnNode::default() },
            DrawnNode {
                name: "backbone/conv1".to_owned(),
                op: "conv2d".to_owned(),
                inputs: vec!["images:0".to_owned(), "^images".to_owned()],
                attributes: vec![("kernel".to_owned(), "3x3".to_owned())],
                output_shapes: vec![vec![-1, 64, 56, 56], vec![]],
            },
        ];
        let events = written(|board| board.graph(&GraphDrawing { nodes: nodes.clone() }).unwrap());
        assert!(events[0].get_wall_time() > 1e9);
        let graph = GraphDef::parse_from_bytes(events[0].get_graph_def()).unwrap();
        assert_eq!(graph.get_node()[0].get_name(), "images");
        assert!(graph.get_node()[0].get_attr().is_empty());
        let node = &graph.get_node()[1];
        assert_eq!((node.get_name(), node.get_op()), ("backbone/conv1", "conv2d"));
        assert_eq!(node.get_input(), ["images:0", "^images"]);
        assert_eq!(node.get_attr()["kernel"].get_s(), b"3x3");
        let shapes = node.get_attr()["_output_shapes"].get_list().get_shape();
        assert_eq!(shapes, [shape(&[-1, 64, 56, 56]), shape(&[])]);

        let twice = GraphDrawing { nodes: vec![nodes[0].clone(), nodes[0].clone()] };
        assert!(graph_def(&twice).unwrap_err().to_string().contains("`images`"));
        let dangling = GraphDrawing { nodes: vec![nodes[1].clone()] };
        assert!(graph_def(&dangling).unwrap_err().to_string().contains("reads `images:0`"));
        graph_def(&GraphDrawing { nodes: vec![DrawnNode::default()] }).unwrap_err();
    }

    #[test]
    fn empty_tags_are_refused() {
        let events = written(|board| {
            board.scalar("", 1.0, 0).unwrap_err();
            board.text("", "x", 0).unwrap_err();
            board.histogram("", &[1.0], 0).unwrap_err();
        });
        assert!(events.is_empty());
    }

    #[test]
    fn two_writers_in_one_second_keep_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let (one, one_file) = create_file(dir.path(), 1_700_000_000).unwrap();
        (&one_file).write_all(b"one").unwrap();
        let (two, _) = create_file(dir.path(), 1_700_000_000).unwrap();
        assert_ne!(one, two);
        assert_eq!(fs::read(&one).unwrap(), b"one");
        let name = one.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
        assert!(name.ends_with(&format!(".{}.0", std::process::id())), "{name}");

        let boards: Vec<_> = (0..4).map(|_| TensorBoard::create(dir.path(), None).unwrap()).collect();
        for (step, board) in boards.iter().enumerate() {
            board.scalar("x", 1.0, step as i64).unwrap();
        }
        let paths: Vec<PathBuf> = boards.iter().map(|board| board.path.clone()).collect();
        boards.into_iter().for_each(|board| board.finish().unwrap());
        for (step, path) in paths.iter().enumerate() {
            assert_eq!(read_file(path)[1].get_step(), step as i64);
        }
    }

    #[test]
    fn a_resumed_run_starts_behind_the_earlier_files() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = unix_time() as u64 + 1000;
        fs::write(dir.path().join(format!("{FILE_PREFIX}{ahead}.other.1.0")), b"").unwrap();
        fs::write(dir.path().join(format!("{FILE_PREFIX}odd")), b"").unwrap();
        let board = TensorBoard::create(dir.path(), Some(40)).unwrap();
        let path = board.path.clone();
        board.finish().unwrap();
        assert!(path.to_str().unwrap().contains(&format!("{FILE_PREFIX}{}.", ahead + 1)));
        let events = read_file(&path);
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(events.len(), 3);
        for start in &events[1..] {
            assert_eq!(start.get_session_log().get_status(), SessionLog_SessionStatus::START);
            assert_eq!(start.get_step(), 40);
        }
    }

    #[test]
    fn a_folder_below_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = TensorBoard::create(&file.path().join("run"), None).err().unwrap();
        assert!(format!("{error:#}").contains("create"), "{error:#}");
    }

    #[test]
    fn a_write_error_reaches_every_later_call() {
        let full = Full::new(150);
        let taken = full.taken.clone();
        let board = TensorBoard::start(PathBuf::from("events"), full, || Ok(())).unwrap();
        board.scalar("a", 1.0, 0).unwrap();
        board.flush().unwrap();
        let error = (1..10_000).find_map(|step| board.scalar("a", 1.0, step).err()).unwrap();
        assert_eq!(format!("{error:#}"), "write events: no room");
        assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), ErrorKind::StorageFull);
        board.flush().unwrap_err();
        board.histogram("h", &[], 0).unwrap_err();
        board.session_end(true).unwrap_err();
        board.finish().unwrap_err();
        assert_eq!(taken.lock().unwrap().len(), 150);
    }

    #[test]
    fn a_flush_tells_of_the_error_it_met() {
        for _ in 0..100 {
            let out = BufWriter::with_capacity(1 << 16, Full::new(10));
            let board = TensorBoard::start(PathBuf::from("events"), out, || Ok(())).unwrap();
            board.flush().unwrap_err();
        }
    }

    #[test]
    fn finish_tells_of_an_error_after_the_last_call() {
        let out = BufWriter::with_capacity(1 << 16, Full::new(10));
        let board = TensorBoard::start(PathBuf::from("events"), out, || Ok(())).unwrap();
        board.scalar("a", 1.0, 0).unwrap();
        board.finish().unwrap_err();

        let board = TensorBoard::start(PathBuf::from("events"), Vec::new(), || Err(io::Error::other("lost"))).unwrap();
        board.flush().unwrap();
        assert_eq!(format!("{:#}", board.finish().unwrap_err()), "write events: lost");
    }

    #[test]
    fn dropping_writes_what_is_queued_and_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let board = TensorBoard::create(dir.path(), None).unwrap();
        let path = board.path.clone();
        board.scalar("a", 1.0, 5).unwrap();
        drop(board);
        assert_eq!(read_file(&path).len(), 2);

        let board = TensorBoard::start(PathBuf::from("events"), Full::new(0), || Ok(())).unwrap();
        drop(board);
    }

    #[test]
    fn a_panic_of_the_writer_is_an_error() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                panic!("broken")
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let board = TensorBoard::start(PathBuf::from("events"), Broken, || Ok(())).unwrap();
        (0..10_000).find_map(|step| board.scalar("a", 1.0, step).err()).unwrap();
        board.finish().unwrap_err();
    }

    #[test]
    fn many_threads_share_a_writer() {
        let events = written(|board| {
            thread::scope(|scope| {
                for worker in 0..4 {
                    scope.spawn(move || {
                        for step in 0..500 {
                            board.scalar(&format!("worker{worker}"), 0.0, step).unwrap();
                        }
                    });
                }
            });
        });
        assert_eq!(events.len(), 2000);
    }
}
