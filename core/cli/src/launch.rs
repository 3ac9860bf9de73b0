//! `mtlrun --nproc N`: starts the processes of a run on this machine, and again where one fails.
//!
//! It sets the variables that torchrun sets, so that a process need not know who has started it.

use crate::arguments::Ranks;
use crate::children::{Children, PAUSE};
use crate::messages;
use mtl_component::{Result, mistake};
use mtl_engine::ranks::{LAUNCHED, RUN, told_position};
use mtl_recipe::Context;
use mtl_torch::Store;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::low_level::signal_name;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the others may take to end when one has failed: they say why within it.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the store is waited for, and kept for the other machines.
const MEET: Duration = Duration::from_secs(600);

/// The processes of this machine among those of the run.
struct Plan {
    nproc: u64,
    nodes: u64,
    node: u64,
    host: String,
    port: u16,
    /// Kept as long as the processes run.
    store: Store,
}

/// Starts the processes of a run and waits for them; the exit code is theirs.
///
/// # Errors
/// A mistake on the command line, or if a process cannot be started.
pub fn launch(ranks: &Ranks) -> Result<u8> {
    let plan = plan(ranks)?;
    let children = Children::listen(&[SIGINT, SIGTERM, SIGHUP, SIGUSR1], |signal| signal != SIGUSR1)?;
    let mut restarts = 0;
    loop {
        let code = attempt(&plan, &children, restarts, ranks.max_restarts)?;
        // What the user has to mend is not mended by another start, and who was asked to stop does not start again.
        if [0, 2].contains(&code) || children.asked().is_some() || restarts >= ranks.max_restarts {
            return Ok(code);
        }
        restarts += 1;
        messages::line(&format!(
            "note: starting the ranks again, from the newest checkpoint ({restarts} of {} restarts)",
            ranks.max_restarts
        ));
    }
}

fn plan(ranks: &Ranks) -> Result<Plan> {
    let (nproc, nodes, node) = (ranks.nproc.unwrap_or(1), ranks.nnodes, ranks.node_rank);
    if node >= nodes {
        mistake!("--node-rank {node}: there are {nodes} machines (--nnodes), counted from 0");
    }
    let Some(meeting) = &ranks.rdzv else {
        if nodes > 1 {
            mistake!("--nnodes {nodes} needs --rdzv HOST:PORT, the address of machine 0 where all meet");
        }
        let (store, port) = Store::serve("127.0.0.1", 0, MEET)?;
        return Ok(Plan { nproc, nodes, node, host: "127.0.0.1".into(), port, store });
    };
    let Some((host, port)) = meeting.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) else {
        mistake!("--rdzv {meeting}: expected HOST:PORT, such as gpu01:29500");
    };
    let store = match node {
        0 => Store::serve(host, port, MEET)
            .map(|(store, _)| store)
            .with_context(|| format!("serving {meeting} (--rdzv)"))?,
        _ => Store::connect(host, port, MEET)
            .with_context(|| format!("machine 0 cannot be reached at {meeting} (--rdzv)"))?,
    };
    Ok(Plan { nproc, nodes, node, host: host.to_owned(), port, store })
}

/// One process of this machine.
struct Started {
    rank: u64,
    child: Child,
    status: Option<ExitStatus>,
    /// Those that hand on what it writes.
    output: Vec<JoinHandle<()>>,
}

/// Starts all processes once, and waits for them.
fn attempt(plan: &Plan, children: &Arc<Children>, restarts: u64, most: u64) -> Result<u8> {
    let mut all = Vec::new();
    for local in 0..plan.nproc {
        all.push(start(plan, children, local, restarts, most)?);
    }
    let mut failed: Option<Instant> = None;
    while all.iter().any(|one| one.status.is_none()) {
        for one in all.iter_mut().filter(|one| one.status.is_none()) {
            one.status = children.ended(&mut one.child)?;
            if one.status.is_some_and(|status| !status.success()) {
                failed.get_or_insert_with(Instant::now);
            }
        }
        // A process that is stopped, or waits for one that is gone, does not end by itself.
        if failed.is_some_and(|since| since.elapsed() > PATIENCE) {
            children.send(Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
    let given_up = failed.is_some_and(|since| since.elapsed() > PATIENCE);
    for one in &mut all {
        one.output.drain(..).for_each(|thread| drop(thread.join()));
    }
    let codes: Vec<u8> = all.iter().filter_map(|one| one.status?.code()).map(|code| code as u8).collect();
    let ended: Vec<(u64, i32)> = all.iter().filter_map(|one| Some((one.rank, one.status?.signal()?))).collect();
    // One that was killed from here had failed to end when another did.
    if let Some((rank, signal)) = ended.first().filter(|_| !given_up || codes.iter().all(|code| *code == 0)) {
        let name = signal_name(*signal).unwrap_or("a signal");
        let place = told_position(&plan.store, restarts, *rank);
        let place = place.map(|place| format!("; it was last seen {place}")).unwrap_or_default();
        let hint = if name == "SIGKILL" { ". Where memory runs out, the system ends processes so" } else { "" };
        messages::line(&format!("error: rank {rank} was ended by {name}{place}{hint}"));
    }
    // Of several, a mistake is the one to mend; a wish to stop is the same for all.
    let worst = codes.iter().copied().filter(|code| *code != 0).min_by_key(|code| (*code != 2, *code));
    Ok(worst.unwrap_or(if ended.is_empty() { 0 } else { 1 }))
}

fn start(plan: &Plan, children: &Children, local: u64, restarts: u64, most: u64) -> Result<Started> {
    let rank = plan.node * plan.nproc + local;
    // The program that runs, also after another was built in its place.
    let mut command = Command::new("/proc/self/exe");
    let variables = [
        ("RANK", rank),
        ("WORLD_SIZE", plan.nproc * plan.nodes),
        ("LOCAL_RANK", local),
        ("LOCAL_WORLD_SIZE", plan.nproc),
        ("GROUP_RANK", plan.node),
        ("MASTER_PORT", plan.port.into()),
        ("TORCHELASTIC_RESTART_COUNT", restarts),
        ("TORCHELASTIC_MAX_RESTARTS", most),
    ];
    command
        .arg0("mtlrun")
        .args(std::env::args_os().skip(1))
        .envs(variables.map(|(name, value)| (name, value.to_string())))
        .env("MASTER_ADDR", &plan.host)
        .env("TORCHELASTIC_USE_AGENT_STORE", "True")
        .env("TORCHELASTIC_RUN_ID", RUN)
        .env(LAUNCHED, "1");
    // The first process shows its progress as if it were alone.
    if rank > 0 {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = children.start(&mut command)?;
    let mut output = Vec::new();
    if let Some(out) = child.stdout.take() {
        output.push(handing_on(rank, out, |line| messages::result(&line)));
    }
    if let Some(err) = child.stderr.take() {
        output.push(handing_on(rank, err, |line| messages::line(&line)));
    }
    Ok(Started { rank, child, status: None, output })
}

/// Hands on lines of a process, with its rank before them.
fn handing_on(rank: u64, from: impl Read + Send + 'static, show: fn(String)) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            show(format!("[rank {rank}] {}", String::from_utf8_lossy(&line).trim_end()));
            line.clear();
        }
    })
}
