//! Processes (ranks) that train one model together: where each stands, how they meet, and how they end together.
//!
//! A launcher starts the processes and says in their environment where they stand ([`Place`]). They meet at a store of
//! keys and values, which the launcher or rank 0 serves. Tensors go through groups ([`World`]); words go through the store:
//! what each is about to do ([`Intent`]), where it is ([`Whereabouts`]), and what went wrong.

mod agreement;
mod faults;
mod place;
mod position;

pub use agreement::Intent;
pub use place::{LAUNCHED, Place, local_processes, processes};
pub use position::Whereabouts;

use faults::Fault;
use mtl_component::World;
use mtl_recipe::{Context, Error, Result, bail};
use mtl_torch::{Group, Reduction, Store, Work};
use position::{Position, Seen, hanging};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// How long processes wait for each other to start.
const START: Duration = Duration::from_secs(600);
/// How long gloo waits for another process before it gives up. Hangs are found long before, by positions.
const COLLECTIVE: Duration = Duration::from_secs(24 * 3600);
/// How often positions are written and read.
const BEAT: Duration = Duration::from_secs(2);
/// How often faults are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// How long the thread that trains may take to end by itself when another process has failed.
const GRACE: Duration = Duration::from_secs(4);

/// The key under which rank 0 says which folder the run is in; it outlives a start of the processes.
const FOLDER: &str = "folder";
/// What `mtlrun --nproc` calls a run, of which its store serves one.
pub const RUN: &str = "mtlrun";

/// The part of a store that belongs to a run, and the part of that which belongs to one start of its processes.
fn parts_of(store: &Store, run: &str, restarts: u64) -> Result<(Store, Store)> {
    let lasting = store.under(&format!("mtlrun/{run}"))?;
    let of_start = lasting.under(&restarts.to_string())?;
    Ok((lasting, of_start))
}

/// The key of a rank's signs of life.
fn beats_of(rank: u64) -> String {
    format!("at/{rank}")
}

/// What a process has in common with the others.
struct Joined {
    place: Place,
    /// What belongs to this start of the processes.
    store: Store,
    /// What outlives it.
    lasting: Store,
    /// The network address of this process.
    address: String,
    ended: AtomicBool,
    /// The exit status of this process was settled, and its message told.
    settled: AtomicBool,
}

/// The processes of a run, as one of them sees them.
#[derive(Clone)]
pub struct Ranks {
    joined: Option<Arc<Joined>>,
    /// Where this process is.
    pub whereabouts: Arc<Whereabouts>,
}

/// A sign of life.
#[derive(Serialize, Deserialize)]
struct Beat {
    beat: u64,
    position: Position,
}

/// What signals have asked of one process or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// To stop, with this exit status.
    pub stop: Option<u8>,
    /// To save.
    pub save: bool,
}

impl Ranks {
    /// A process that trains alone.
    pub fn alone() -> Self {
        Self { joined: None, whereabouts: Arc::default() }
    }

    /// Meets the other processes at their store.
    ///
    /// # Errors
    /// If the store cannot be reached or served.
    pub fn join(place: Place) -> Result<Self> {
        let (host, port) = (&place.host, place.port);
        let connected = match place.rank == 0 && !place.served {
            true => Store::serve(host, port, START).map(|(store, _)| store),
            false => Store::connect(host, port, START),
        };
        let base = connected.with_context(|| {
            format!(
                "rank {} of {} cannot meet the others at {host}:{port} (MASTER_ADDR and MASTER_PORT)",
                place.rank, place.size
            )
        })?;
        let (lasting, store) = parts_of(&base, &place.run, place.restarts)?;
        let address = own_address(host, port);
        let joined = Arc::new(Joined {
            place,
            store,
            lasting,
            address,
            ended: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        });
        let ranks = Self { joined: Some(joined), whereabouts: Arc::default() };
        let watching = ranks.clone();
        std::thread::Builder::new().name("ranks".into()).spawn(move || watching.watch())?;
        Ok(ranks)
    }

    /// Whether other processes take part.
    pub fn are_several(&self) -> bool {
        self.joined.is_some()
    }

    /// Where this process stands, if it is not alone.
    pub fn place(&self) -> Option<&Place> {
        self.joined.as_ref().map(|joined| &joined.place)
    }

    /// Whether this process writes files and messages.
    pub fn leads(&self) -> bool {
        self.place().is_none_or(|place| place.rank == 0)
    }

    /// The processes without the means to communicate tensors.
    fn apart(&self) -> Result<World> {
        match self.place() {
            Some(place) => World::new(place.rank, place.size, place.local_rank),
            None => Ok(World::alone()),
        }
    }

    /// The folder of the run that an earlier start of these processes has begun.
    ///
    /// # Errors
    /// If the store is gone.
    pub fn begun(&self) -> Result<Option<String>> {
        match &self.joined {
            Some(joined) if joined.place.restarts > 0 => Ok(joined.lasting.get(FOLDER)?),
            _ => Ok(None),
        }
    }

    /// What rank 0 makes and all have. The others wait for it, however long it takes.
    ///
    /// # Errors
    /// That of making it in rank 0; in the others if a process fails meanwhile.
    pub fn share<T: Serialize + DeserializeOwned>(&self, key: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(joined) = &self.joined else { return make() };
        if joined.place.rank == 0 {
            let made = make()?;
            joined.store.set(key, &serde_json::to_string(&made)?)?;
            return Ok(made);
        }
        let text = self.wait_for(&joined.store, key)?;
        serde_json::from_str(&text).with_context(|| format!("`{key}` in the store is damaged"))
    }

    /// Says in which folder the run is.
    ///
    /// # Errors
    /// If the store is gone.
    pub fn tell_folder(&self, folder: &str) -> Result<()> {
        match &self.joined {
            Some(joined) => Ok(joined.lasting.set(FOLDER, folder)?),
            None => Ok(()),
        }
    }

    fn wait_for(&self, store: &Store, key: &str) -> Result<String> {
        let Some(joined) = &self.joined else { bail!("a process alone waits for nobody") };
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(value) = store.get(key)? {
                return Ok(value);
            }
            if faults::any(&joined.store)? {
                return Err(self.lost("another rank has failed"));
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(100));
        }
    }

    /// An error whose cause is another process.
    fn lost(&self, what: &str) -> Error {
        Error::failure(format!("{}{what}", mtl_torch::LOST))
    }

    /// Waits until all processes have come to the same place.
    ///
    /// # Errors
    /// If one fails meanwhile.
    pub fn meet(&self, place: &str) -> Result<()> {
        let Some(joined) = &self.joined else { return Ok(()) };
        let key = format!("meet/{place}");
        if joined.store.add(&format!("{key}/count"), 1)? == joined.place.size as i64 {
            joined.store.set(&key, "all")?;
        }
        self.wait_for(&joined.store, &key).map(|_| ())
    }

    /// Connects the processes: tensors on the CPU go through gloo, those on GPUs through NCCL.
    ///
    /// # Errors
    /// If a process fails before, or they cannot reach each other.
    pub fn connect(&self, device: Device) -> Result<World> {
        match self.group("tensors", device)? {
            // It lives as long as the program: tensors and hooks of autograd hold on to it.
            Some(group) => Ok(self.apart()?.with(Box::leak(Box::new(group)))),
            None => self.apart(),
        }
    }

    fn group(&self, name: &str, device: Device) -> Result<Option<Group>> {
        let Some(joined) = &self.joined else { return Ok(None) };
        // Whoever is not there any more is told by its own words, and not by a time that runs out.
        self.meet(&format!("group/{name}"))?;
        let interface = std::env::var("GLOO_SOCKET_IFNAME").ok().filter(|name| !name.is_empty());
        let place = (joined.place.rank, joined.place.size);
        let store = joined.store.under(&format!("group/{name}"))?;
        if let Device::Cuda(index) = device {
            let made = Group::nccl(&store, place, index, COLLECTIVE);
            return made.map(Some).with_context(|| format!("rank {} cannot connect to the others", joined.place.rank));
        }
        let made = Group::gloo(&store, place, interface.as_deref(), &joined.address, COLLECTIVE);
        made.map(Some).with_context(|| {
            format!(
                "rank {} cannot connect to the others from its address {}; GLOO_SOCKET_IFNAME names another network \
                 interface",
                joined.place.rank, joined.address
            )
        })
    }

    /// Decisions that all take together.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn decisions(&self) -> Result<Decisions> {
        // Never closed: closing waits for collectives under way, which may wait for a process that has failed.
        let group = self.group("decisions", Device::Cpu)?.map(|group| &*Box::leak(Box::new(group)));
        Ok(Decisions { group, pending: None })
    }

    /// Checks that every process intends the same.
    ///
    /// # Errors
    /// In the first process that does not, with the thing that differs.
    pub fn agree(&self, intent: &Intent) -> Result<()> {
        let Some(joined) = &self.joined else { return Ok(()) };
        let leader: Intent = self.share("intent", || Ok(intent.clone()))?;
        intent.agrees(joined.place.rank, &leader)?;
        self.meet("intent")
    }

    /// Ends the part of this process. An error is handed back where this process is the one to tell it; otherwise its exit
    /// status is.
    ///
    /// # Errors
    /// That of the given result, if nobody else tells it.
    pub fn conclude(&self, result: Result<u8>) -> Result<u8> {
        let Some(joined) = &self.joined else { return result };
        let concluded = match result {
            Ok(code) => {
                self.whereabouts.done();
                let _ = self.beat(u64::MAX);
                Ok(code)
            }
            Err(error) => self.settle(joined, error),
        };
        joined.ended.store(true, Ordering::SeqCst);
        concluded
    }

    fn settle(&self, joined: &Joined, error: Error) -> Result<u8> {
        joined.settled.store(true, Ordering::SeqCst);
        let own = Fault::of(joined.place.rank, &error);
        let rank = joined.place.rank;
        let named = |error: Error| {
            let position = self.whereabouts.now().0;
            // A mistake that any of them would have met is nobody's own.
            if position.step == 0 && error.exit_status() == 2 {
                return error;
            }
            error.context(format!("rank {rank} has failed {}", position.words()))
        };
        match faults::settled(&joined.store, &own, joined.place.size) {
            Ok(told) if told == own && own.cause => {
                self.write_error_file(&own);
                Err(named(error))
            }
            Ok(told) if told == own => {
                let text = format!(
                    "a rank has ended without a word, so that rank {rank} cannot go on {}: {}",
                    self.whereabouts.now().0.words(),
                    own.text
                );
                self.write_error_file(&Fault { text: text.clone(), ..own });
                // The launcher knows which one, and how it ended.
                if joined.place.launched { Ok(1) } else { Err(Error::failure(text)) }
            }
            Ok(told) => {
                self.write_error_file(&told);
                Ok(told.status)
            }
            // The store is served by the launcher, which ends everything, or by rank 0.
            Err(_) if own.cause => Err(named(error)),
            Err(gone) if joined.place.launched || joined.place.served => Err(named(gone)),
            Err(_) => Err(Error::failure(format!(
                "rank 0, which the others meet at, has ended without a word; rank {rank} was {}",
                self.whereabouts.now().0.words()
            ))),
        }
    }

    /// Writes what torchrun shows of a process that has failed.
    fn write_error_file(&self, fault: &Fault) {
        let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE").filter(|path| !path.is_empty()) else { return };
        let time = jiff::Timestamp::now().as_second().to_string();
        let message = serde_json::json!({
            "message": { "message": fault.text, "extraInfo": { "py_callstack": fault.text, "timestamp": time } }
        });
        let _ = mtl_recipe::files::write_atomically(path.as_ref(), message.to_string().as_bytes());
    }

    fn beat(&self, beat: u64) -> Result<()> {
        let Some(joined) = &self.joined else { return Ok(()) };
        let position = self.whereabouts.now().0;
        let text = serde_json::to_string(&Beat { beat, position })?;
        Ok(joined.store.set(&beats_of(joined.place.rank), &text)?)
    }

    /// What the thread beside training does: it says that the process is alive, watches the others, and ends the process
    /// if another has failed and training does not end by itself, since it waits for that one.
    fn watch(&self) {
        let Some(joined) = &self.joined else { return };
        let size = joined.place.size as usize;
        // Rank 0 watches all, and the others watch rank 0: the store is asked for as little as that.
        let watched = if joined.place.rank == 0 { 0..size } else { 0..1 };
        let mut seen = vec![Seen::new(Instant::now()); watched.len()];
        let (mut beats, mut last) = (0, None::<Instant>);
        let mut failed: Option<Instant> = None;
        while !joined.ended.load(Ordering::SeqCst) {
            if last.is_none_or(|last| last.elapsed() >= BEAT) {
                beats += 1;
                last = Some(Instant::now());
                if self.beat(beats).is_err() {
                    // Without a store nobody can be watched; training finds out by itself.
                    return;
                }
                if failed.is_none()
                    && let Some((rank, why)) = self.hangs(joined, watched.clone(), &mut seen)
                {
                    let text = format!("rank {rank} {why}");
                    let fault = Fault { rank: joined.place.rank, cause: true, status: 1, text };
                    if let Ok(told) = faults::settled(&joined.store, &fault, joined.place.size)
                        && told == fault
                        && !joined.settled.swap(true, Ordering::SeqCst)
                    {
                        self.write_error_file(&fault);
                        tracing::error!("{}", fault.text);
                    }
                    // Training waits for the one that hangs: it will not end by itself.
                    failed = Instant::now().checked_sub(2 * GRACE).or(failed);
                }
            }
            if failed.is_none() && faults::any(&joined.store).unwrap_or(false) {
                failed = Some(Instant::now());
            }
            // A process that tells its own fault takes as long as that takes.
            let settles = joined.settled.load(Ordering::SeqCst);
            let grace = if settles { 2 * GRACE } else { GRACE };
            if failed.is_some_and(|since| since.elapsed() >= grace) {
                let first = faults::all(&joined.store).unwrap_or_default().into_iter().find(|fault| fault.cause);
                std::process::exit(first.map_or(1, |fault| fault.status.into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn hangs(&self, joined: &Joined, watched: std::ops::Range<usize>, seen: &mut [Seen]) -> Option<(usize, String)> {
        let now = Instant::now();
        for (rank, seen) in watched.zip(seen.iter_mut()) {
            let text = joined.store.get(&beats_of(rank as u64)).ok().flatten();
            if let Some(beat) = text.and_then(|text| serde_json::from_str::<Beat>(&text).ok()) {
                seen.note(beat.beat, beat.position, now);
            }
        }
        hanging(seen, self.whereabouts.now().1, now)
    }
}

/// Where a rank of a start of processes was when it last gave a sign of life, for the launcher that serves the store.
pub fn told_position(store: &Store, restarts: u64, rank: u64) -> Option<String> {
    let (_, store) = parts_of(store, RUN, restarts).ok()?;
    let beat: Beat = serde_json::from_str(&store.get(&beats_of(rank)).ok()??).ok()?;
    Some(beat.position.words())
}

/// The address of this machine in the network through which it reaches a host.
fn own_address(host: &str, port: u16) -> String {
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Nothing is sent: the system only chooses the way.
        socket.connect((host, port))?;
        socket.local_addr()
    });
    found.map_or_else(|_| "127.0.0.1".into(), |address| address.ip().to_string())
}

/// Decisions that all processes take together. They travel beside the steps: what one wishes in a step, all have heard
/// after the next.
pub struct Decisions {
    group: Option<&'static Group>,
    pending: Option<Work>,
}

impl Decisions {
    /// Tells what this process wishes after a step, and gives what all wished after the step before. A process that is
    /// alone hears itself at once.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn exchange(&mut self, own: Wish) -> Result<Wish> {
        let Some(group) = self.group else { return Ok(own) };
        let words = Tensor::from_slice(&[own.stop.map_or(0, i64::from), i64::from(own.save)]);
        let started = group.start_all_reduce(words, Reduction::Max)?;
        let Some(before) = self.pending.replace(started) else { return Ok(Wish::default()) };
        let heard = Vec::<i64>::try_from(before.wait()?).context("reading what the ranks wish")?;
        Ok(Wish { stop: u8::try_from(heard[0]).ok().filter(|code| *code > 0), save: heard[1] > 0 })
    }

    /// Whether any process says yes. All wait for it.
    ///
    /// # Errors
    /// If a process is gone.
    pub fn any(&self, yes: bool) -> Result<bool> {
        let Some(group) = self.group else { return Ok(yes) };
        let word = Tensor::from_slice(&[i64::from(yes)]);
        group.all_reduce(&word, Reduction::Max)?;
        Ok(word.f_int64_value(&[0])? > 0)
    }
}
