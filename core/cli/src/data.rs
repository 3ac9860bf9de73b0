//! `mtlrun data`: what is on the disk, told, joined, aligned, shared out, audited and packed.

use crate::progress::pictures;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mtl_alignment::Align;
use mtl_component::{Registry, Result};
use mtl_evaluation::commands::Audit;
use mtl_faces::{Convert, DescribeCard, DrawPairs, Extract, Inspect, Pack, Progress, Render, Split};
use std::sync::Arc;

/// Commands for data sets.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Say what record files, verification sets, lists, tables and folders hold
    Inspect(Inspect),
    /// Write a list for a published set: FG-NET, MORPH, CACD, AgeDB, UTKFace, IMDB-WIKI, LFW, ECAF, folders
    Convert(Convert),
    /// Bring pictures of faces to ArcFace's template, by points from files or by a detector
    Align(Align),
    /// Share out people to training and test, or pictures to a gallery and probes
    Split(Split),
    /// Draw verification pairs, of which ages and sexes do not tell the kinds apart
    Pairs(DrawPairs),
    /// Look for copies, contradictions, wrong labels, and people in training and test
    Audit(Audit),
    /// Pack pictures into a record file, or pairs into a verification set, as mxnet and insightface read them
    Pack(Pack),
    /// Write the pictures of a record file or a verification set into files, with a list
    Extract(Extract),
    /// Show the data card of a folder, and add to it
    Card(DescribeCard),
    /// Render made faces: a folder with a list, verification pairs and a data card, or a contact sheet
    Render(Render),
}

/// The exit code of `audit --strict` where it has found what it minds.
const FOUND: u8 = 3;

/// Runs one of them.
pub fn run(registry: &Arc<Registry>, command: &Data) -> Result<u8> {
    let text = match command {
        Data::Inspect(args) => args.run()?,
        Data::Convert(args) => counted(|progress| args.run(progress))?,
        Data::Align(args) => counted(|progress| args.run(progress))?,
        Data::Split(args) => args.run()?,
        Data::Pairs(args) => args.run()?,
        Data::Audit(args) => {
            let (text, minded) = counted(|progress| args.run(registry, progress, pictures()))?;
            println!("{text}");
            return Ok(if minded { FOUND } else { 0 });
        }
        Data::Pack(args) => counted(|progress| args.run(progress))?,
        Data::Extract(args) => counted(|progress| args.run(progress))?,
        Data::Card(args) => args.run()?,
        Data::Render(args) => counted(|progress| args.run(progress))?.join("\n"),
    };
    println!("{text}");
    Ok(0)
}

/// Shows how much of some work on pictures is done.
fn counted<T>(work: impl FnOnce(Progress<'_>) -> Result<T>) -> Result<T> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} pictures  eta {eta}") {
        bar.set_style(style);
    }
    let done = work(&|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}
