//! Where a process stands among those that train together: what launchers say in the environment.

use mtl_recipe::{Result, mistake};
use std::collections::HashMap;

/// The variable by which `mtlrun --nproc` tells a process that it has started it.
pub const LAUNCHED: &str = "MTLRUN_LAUNCHED";

/// A process among those that train together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: u64,
    /// How many there are.
    pub size: u64,
    /// Its number on its machine, from 0.
    pub local_rank: u64,
    /// How many there are on its machine.
    pub local_size: u64,
    /// The host that serves the store.
    pub host: String,
    /// The port of the store.
    pub port: u16,
    /// A launcher serves the store; without one, rank 0 does.
    pub served: bool,
    /// What tells runs apart that meet at the same store.
    pub run: String,
    /// How many times the processes have been started again.
    pub restarts: u64,
    /// `mtlrun --nproc` has started it, and speaks for processes that end without a word.
    pub launched: bool,
}

/// Names of variables for rank, size, rank on the machine, and size there.
type Names = [&'static str; 4];

const TORCHRUN: Names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];
const OPEN_MPI: Names =
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"];
const MPICH: Names = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"];
const SLURM: Names = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"];

/// The port of the store where nothing names one.
const PORT: u16 = 29500;

impl Place {
    /// That of this process; none if it is alone.
    ///
    /// # Errors
    /// A mistake if the environment contradicts itself.
    pub fn of_environment() -> Result<Option<Self>> {
        Self::of(&std::env::vars().collect())
    }

    /// That which variables describe: those of torchrun, which `mtlrun --nproc` sets as well, of srun, or of mpirun.
    ///
    /// # Errors
    /// A mistake if they contradict themselves.
    pub fn of(variables: &HashMap<String, String>) -> Result<Option<Self>> {
        let get = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
        // A batch script of Slurm has ranks as well, though only srun starts them.
        let by_srun = get("SLURM_STEP_ID").is_some();
        let known = [TORCHRUN, OPEN_MPI, MPICH, SLURM];
        let found = known.into_iter().filter(|names| *names != SLURM || by_srun);
        let Some(names) = found.into_iter().find(|[rank, size, ..]| get(rank).is_some() && get(size).is_some()) else {
            return Ok(None);
        };
        let number = |name: &str| -> Result<Option<u64>> {
            let Some(text) = get(name) else { return Ok(None) };
            match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => mistake!("the environment says {name}={text}: expected a number, from 0"),
            }
        };
        let [rank, size, local_rank, local_size] = names;
        let rank_name = rank;
        let (Some(rank), Some(size)) = (number(rank)?, number(size)?) else { return Ok(None) };
        // Launchers of one process train alone.
        if size <= 1 {
            return Ok(None);
        }
        let local_size = number(local_size)?.unwrap_or(if names == SLURM { 1 } else { size });
        let place = Self {
            rank,
            size,
            local_rank: number(local_rank)?.unwrap_or(rank % local_size.max(1)),
            local_size,
            host: match (get("MASTER_ADDR"), names == SLURM) {
                (Some(host), _) => host.to_owned(),
                (None, true) => match get("SLURM_STEP_NODELIST").or(get("SLURM_JOB_NODELIST")).map(first_host) {
                    Some(host) => host,
                    None => mistake!("nothing says where the ranks meet: set MASTER_ADDR to the host of rank 0"),
                },
                (None, false) if local_size == size => "127.0.0.1".into(),
                (None, false) => {
                    mistake!("nothing says where the {size} ranks meet: set MASTER_ADDR to the host of rank 0")
                }
            },
            port: match (number("MASTER_PORT")?, number("SLURM_JOB_ID")?.filter(|_| names == SLURM)) {
                (Some(port), _) => match u16::try_from(port) {
                    Ok(port) => port,
                    Err(_) => mistake!("the environment says MASTER_PORT={port}: expected a port below 65536"),
                },
                // Jobs that share a machine do not meet.
                (None, Some(job)) => 20_000 + (job % 20_000) as u16,
                (None, None) => PORT,
            },
            served: get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true")),
            run: get("TORCHELASTIC_RUN_ID").unwrap_or("run").to_owned(),
            restarts: number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
            launched: get(LAUNCHED).is_some(),
        };
        if place.rank >= size || place.local_rank >= place.local_size || place.local_size > size {
            mistake!(
                "the environment says {rank_name}={rank}, that there are {size} ranks, and that this is rank {} of {} on \
                 its machine: the launcher has set variables that do not fit together",
                place.local_rank,
                place.local_size
            );
        }
        Ok(Some(place))
    }
}

/// How many processes the run of this one has.
pub fn processes() -> u64 {
    Place::of_environment().ok().flatten().map_or(1, |place| place.size)
}

/// How many of them are on this machine.
pub fn local_processes() -> u64 {
    Place::of_environment().ok().flatten().map_or(1, |place| place.local_size)
}

/// The first host of a list of Slurm, such as `gpu[01-04,7],big1`.
fn first_host(list: &str) -> String {
    let first = match list.split_once('[') {
        Some((prefix, rest)) if !prefix.contains(',') => {
            let number = rest.split(['-', ',', ']']).next().unwrap_or_default();
            return format!("{prefix}{number}");
        }
        _ => list.split(',').next().unwrap_or_default(),
    };
    first.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Option<Place>> {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        Place::of(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn torchrun_says_all_of_it() {
        let found = place(
            "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node7 MASTER_PORT=1234 \
             TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=x TORCHELASTIC_RESTART_COUNT=2",
        );
        let wanted = Place {
            rank: 5,
            size: 8,
            local_rank: 1,
            local_size: 4,
            host: "node7".into(),
            port: 1234,
            served: true,
            run: "x".into(),
            restarts: 2,
            launched: false,
        };
        assert_eq!(found.unwrap(), Some(wanted));
    }

    #[test]
    fn srun_and_mpirun_are_understood() {
        let slurm = "SLURM_PROCID=9 SLURM_NTASKS=16 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=8 SLURM_JOB_ID=70123 \
                     SLURM_STEP_NODELIST=gpu[03-04,9],big1";
        assert_eq!(place(slurm).unwrap(), None, "a batch script alone starts no ranks");
        let found = place(&format!("{slurm} SLURM_STEP_ID=0")).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank, found.local_size), (9, 16, 1, 8));
        assert_eq!((found.host.as_str(), found.port, found.served), ("gpu03", 30_123, false));
        let mpi =
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2";
        let found = place(mpi).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.host.as_str(), found.port), (1, 2, "127.0.0.1", 29500));
        let found = place("PMI_RANK=3 PMI_SIZE=4 MASTER_ADDR=a MASTER_PORT=5").unwrap().unwrap();
        assert_eq!((found.rank, found.local_rank, found.host.as_str(), found.port), (3, 3, "a", 5));
        assert_eq!(first_host("a1,a2"), "a1");
        assert_eq!(first_host("a"), "a");
    }

    #[test]
    fn one_process_is_alone_and_contradictions_are_told() {
        assert_eq!(place("").unwrap(), None);
        assert_eq!(place("RANK=0 WORLD_SIZE=1").unwrap(), None);
        for (text, words) in [
            ("RANK=a WORLD_SIZE=2", "RANK=a"),
            ("RANK=2 WORLD_SIZE=2", "do not fit together"),
            ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=a", "do not fit together"),
            ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2", "set MASTER_ADDR"),
            ("RANK=1 WORLD_SIZE=2 MASTER_PORT=70000", "MASTER_PORT=70000"),
        ] {
            let error = place(text).unwrap_err();
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert_eq!(error.exit_status(), 2);
        }
    }
}
