//! Tests of the whole program: the command line, training runs, and the numbers of the published implementation.

mod ageing;
mod bad_input;
mod commands;
mod cuda;
mod data;
mod earlier;
mod evaluation;
mod hostile;
mod long;
mod lost_work;
mod made_faces;
mod numbers;
mod parity;
mod plugins;
mod random_training;
mod ranks;
mod records;
mod references;
mod rules;
mod runs;
mod schema;
mod silent;
mod snapshots;
mod support;
mod synthesis;
mod validators;

// Components register themselves when their crates are linked.
use mtl_evaluation as _;
use mtl_recognition as _;
use mtl_standard as _;
use mtl_synthesis as _;
