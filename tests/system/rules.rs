//! Rules across the tables of a recipe: each found with its place, and none that fires on a good recipe.

use crate::support::{mtlrun, outcome, refused};

fn check(sets: &[&str]) -> (i32, String) {
    let mut command =
        mtlrun(&["check", "tests/recipes/made.toml", "--set", "phase.recognition.scheduler.milestones=[2]"]);
    for set in sets {
        command.args(["--set", set]);
    }
    outcome(&command.output().unwrap())
}

#[test]
fn what_cannot_come_about_is_refused() {
    for (sets, words) in [
        (&["dims.age_groups=9"][..], &["4 to 8 of them, found age_groups = 9"][..]),
        (
            &["run.checkpoint.best=verifcation.auc"],
            &["`verifcation`, which is not an evaluator", "did you mean `verification`"],
        ),
        (&["run.checkpoint.best=verification.acuracy"], &["measures no `acuracy`", "did you mean `accuracy`"]),
        (&["run.phases=[]"], &["`run.phases` names no phase"]),
        (&["run.checkpoint.best=accuracy"], &["expected evaluator.metric"]),
        (&["ema.modules=[\"bakbone\"]"], &["`bakbone`, which is not a module", "did you mean `backbone`"]),
        (&["phase.recognition.from=2", "phase.recognition.until=2"], &["ends at step 2, before it begins at 2"]),
        (&["loss.age.ramp={ from = 3, until = 1 }"], &["the ramp of the loss `age` ends at 1 before 3"]),
    ] {
        refused(check(sets), words);
    }
}

#[test]
fn what_is_legal_but_suspicious_is_a_warning() {
    assert_eq!(check(&[]), (0, String::new()));
    for (set, words) in [
        ("loss.domain.weight=0", "`domain` has weight 0"),
        ("loss.domain.ramp={ until = 9 }", "never reaches its weight: its ramp ends at step 9, the run at 3"),
        ("phase.recognition.from=3", "never runs: it begins after step 3, and the run has 3"),
        ("phase.recognition.scheduler.milestones=[7]", "the milestone 7 is not before the last step 3"),
        ("graph.more={ apply = \"detach\", in = { input = \"embedding\" } }", "nothing uses `more`"),
        ("evaluate.age.made.first=4", "`evaluate.age` measures on 2 of the people that `data.faces` trains on"),
    ] {
        let (code, text) = check(&[set]);
        assert!(code == 0 && text.contains("warning: ") && text.contains(words), "{set}: {code} {text}");
    }
    let (code, text) = check(&["run.precision=bf16", "model.backbone.precision=full"]);
    assert!(code == 0 && text.contains("no module has precision = \"amp\""), "{code} {text}");
}
