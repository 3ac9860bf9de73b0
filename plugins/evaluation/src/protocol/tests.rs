use std::collections::BTreeSet;

use schemars::schema_for;

use super::folds::ranges as fold_ranges;
use super::*;

/// Accuracy over contiguous folds, with the deviation of the convention.
#[derive(Debug)]
struct Judged {
    mean: f64,
    deviation: f64,
    fold_accuracies: Vec<f64>,
    thresholds: Vec<f64>,
}

fn k_fold(scores: &[f64], same: &[bool], folds: usize, convention: Convention) -> Result<Judged> {
    let found = super::k_fold(scores, same, &Folds::contiguous(scores.len(), folds), convention)?;
    let deviation = convention.deviation(found.spread);
    let Accuracy { mean, fold_accuracies, thresholds, .. } = found;
    Ok(Judged { mean, deviation, fold_accuracies, thresholds })
}

fn report(
    distances: &[f64],
    same: &[bool],
    gaps: Option<&[Option<f64>]>,
    settings: &ReportSettings,
) -> Result<PairReport> {
    super::report(distances, same, gaps, None, settings)
}

/// The reading of the IJB scripts on all points.
fn tar_at_far(curve: &Roc, target: f64) -> f64 {
    1.0 - curve.read(Reading { rule: Rule::Nearest, target }).fnmr
}

const BOTH: [Convention; 2] = [Convention::Insightface, Convention::Facexzoo];

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
}

fn all_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        close(*f, *e);
    }
}

fn fails<T>(result: Result<T>, parts: &[&str]) {
    let message = format!("{:#}", result.err().expect("an error"));
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// Scores on a grid of `levels` values in `low..=high`, so that few levels give many ties;
    /// the first two pairs are of different kinds.
    fn pairs(&mut self, n: usize, levels: u64, low: f64, high: f64) -> (Vec<f64>, Vec<bool>) {
        let scores = (0..n).map(|_| low + (high - low) * self.below(levels + 1) as f64 / levels as f64).collect();
        let same = (0..n).map(|i| if i < 2 { i == 0 } else { self.below(2) == 0 }).collect();
        (scores, same)
    }
}

/// 3007 pairs whose figures under scikit-learn 1.9.1 and NumPy 2.4.6 the tests below quote.
/// Distances are multiples of 0.001, so many coincide with thresholds.
fn reference_pairs() -> (Vec<f64>, Vec<bool>) {
    let same = (0..3007u64).map(|i| i * 31 % 7 < 4);
    let distance = same.clone().zip(0..).map(|(same, i)| {
        let thousandths =
            if same { 200 + i * 7919 % 1009 + i * 6007 % 797 } else { 900 + i * 7919 % 1009 + i * 5003 % 911 };
        thousandths as f64 / 1000.0
    });
    (distance.collect(), same.collect())
}

fn negated(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| -v).collect()
}

/// Straight from the definitions: no sorting, one pass over the pairs for each threshold.
fn naive_k_fold(scores: &[f64], same: &[bool], folds: usize, convention: Convention) -> Judged {
    let n = scores.len();
    let mut fold_of = Vec::new();
    for fold in 0..folds {
        let size = n / folds + if fold < n % folds { 1 } else { 0 };
        fold_of.extend(vec![fold; size]);
    }
    assert_eq!(fold_of.len(), n);
    let mut fold_accuracies = Vec::new();
    let mut thresholds = Vec::new();
    for fold in 0..folds {
        let train: Vec<usize> = (0..n).filter(|&i| fold_of[i] != fold).collect();
        let test: Vec<usize> = (0..n).filter(|&i| fold_of[i] == fold).collect();
        let rate = |kind: bool, t: f64| {
            let of_kind = train.iter().filter(|&&i| same[i] == kind);
            let accepted = of_kind.clone().filter(|&&i| scores[i] > t).count();
            accepted as f64 / of_kind.count() as f64
        };
        let (grid, merits): (Vec<f64>, Vec<f64>) = match convention {
            Convention::Insightface => (0..400)
                .map(|i| i as f64 * 0.01)
                .map(|t| {
                    let right = train.iter().filter(|&&i| (scores[i] < t) == same[i]);
                    (t, right.count() as f64 / train.len() as f64)
                })
                .unzip(),
            Convention::Facexzoo => {
                let values = train.iter().map(|&i| scores[i]);
                let low = values.clone().fold(f64::INFINITY, f64::min);
                let high = values.fold(f64::NEG_INFINITY, f64::max);
                (1..=1000)
                    .map(|i| low + (high - low) / 1000.0 * i as f64)
                    .map(|t| (t, rate(true, t) - rate(false, t)))
                    .unzip()
            }
        };
        let mut best = 0;
        for i in 1..merits.len() {
            if merits[i] > merits[best] {
                best = i;
            }
        }
        let t = grid[best];
        let right = test.iter().filter(|&&i| match convention {
            Convention::Insightface => (scores[i] < t) == same[i],
            Convention::Facexzoo if same[i] => scores[i] > t,
            Convention::Facexzoo => scores[i] < t,
        });
        fold_accuracies.push(right.count() as f64 / test.len() as f64);
        thresholds.push(t);
    }
    let k = folds as f64;
    let mean = fold_accuracies.iter().sum::<f64>() / k;
    let squares: f64 = fold_accuracies.iter().map(|a| (a - mean) * (a - mean)).sum();
    let deviation = match convention {
        Convention::Insightface => (squares / k).sqrt(),
        Convention::Facexzoo => (squares / (k - 1.0) / k).sqrt(),
    };
    Judged { mean, deviation, fold_accuracies, thresholds }
}

fn naive_auc(similarity: &[f64], same: &[bool]) -> f64 {
    let (mut wins, mut contests) = (0.0, 0.0);
    for i in (0..same.len()).filter(|&i| same[i]) {
        for j in (0..same.len()).filter(|&j| !same[j]) {
            contests += 1.0;
            if similarity[i] > similarity[j] {
                wins += 1.0;
            } else if similarity[i] == similarity[j] {
                wins += 0.5;
            }
        }
    }
    wins / contests
}

/// (FAR, TAR) for every threshold, by counting; largest threshold first.
fn naive_points(similarity: &[f64], same: &[bool]) -> Vec<(f64, f64)> {
    let mut thresholds = vec![f64::INFINITY];
    thresholds.extend(similarity);
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let rate = |kind: bool, t: f64| {
        let of_kind = (0..same.len()).filter(|&i| same[i] == kind);
        let accepted = of_kind.clone().filter(|&i| similarity[i] >= t).count();
        accepted as f64 / of_kind.count() as f64
    };
    thresholds.iter().map(|&t| (rate(false, t), rate(true, t))).collect()
}

#[test]
fn insightface_grid_has_400_thresholds_and_takes_the_first_best() {
    // Every threshold in (0.1, 3.5] separates these; 0.11 is the first on the grid.
    let scores = [0.1, 3.5, 0.1, 3.5];
    let same = [true, false, true, false];
    let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
    assert_eq!(found.thresholds, [11.0 * 0.01; 2]);
    assert_eq!(found.mean, 1.0);
    assert_eq!(found.deviation, 0.0);

    // 3.99 is the last threshold and accepts the first distance only.
    let scores = [3.985, 3.995, 3.985, 3.995];
    let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
    assert_eq!(found.thresholds, [399.0 * 0.01; 2]);
    assert_eq!(found.mean, 1.0);

    // Beyond the grid nothing separates: the first threshold, 0, rejects every pair.
    let scores = [3.995, 4.0, 3.995, 4.0];
    let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
    assert_eq!(found.thresholds, [0.0; 2]);
    assert_eq!(found.mean, 0.5);
}

#[test]
fn insightface_accepts_strictly_below_the_threshold() {
    // The others' distances put the threshold at 0.26, the distance of both pairs of fold 2:
    // it accepts neither.
    let scores = [0.25, 1.0, 0.26, 0.26];
    let same = [true, false, true, false];
    let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
    assert_eq!(found.thresholds[1], 0.26);
    assert_eq!(found.fold_accuracies[1], 0.5);
    // A training distance equal to a threshold needs the next one.
    let scores = [0.5, 1.0, 0.5, 1.0];
    let found = k_fold(&scores, &same, 2, Convention::Insightface).unwrap();
    assert_eq!(found.thresholds, [0.51, 0.51]);
}

#[test]
fn facexzoo_counts_a_score_on_the_threshold_as_wrong() {
    // Trained on -1 and 1 the grid is -0.998, -0.996, ..., 1 and its first value separates.
    let same = [true, false, true, false];
    let first = -1.0 + 2.0 / 1000.0;
    let scores = [1.0, -1.0, first, first];
    let found = k_fold(&scores, &same, 2, Convention::Facexzoo).unwrap();
    assert_eq!(found.thresholds[1], first);
    assert_eq!(found.fold_accuracies[1], 0.0);
    // Trained on two equal scores every threshold is that score and accepts nothing.
    assert_eq!(found.thresholds[0], first);
    assert_eq!(found.fold_accuracies[0], 1.0);
}

#[test]
fn deviation_is_of_the_population_or_the_standard_error() {
    // Fold accuracies 1, 1 and 0.5 by construction.
    let distances = [0.2, 2.0, 0.2, 2.0, 3.0, 2.0];
    let same = [true, false, true, false, true, false];
    let found = k_fold(&distances, &same, 3, Convention::Insightface).unwrap();
    all_close(&found.fold_accuracies, &[1.0, 1.0, 0.5]);
    close(found.mean, 2.5 / 3.0);
    close(found.deviation, (0.5 / 9.0_f64).sqrt());
    let cosines: Vec<f64> = distances.iter().map(|d| 1.0 - d / 2.0).collect();
    let found = k_fold(&cosines, &same, 3, Convention::Facexzoo).unwrap();
    all_close(&found.fold_accuracies, &[1.0, 1.0, 0.5]);
    close(found.deviation, (0.5 / 18.0_f64).sqrt());
}

#[test]
fn first_folds_take_the_remainder() {
    let ranges = |n, k| fold_ranges(n, k).collect::<Vec<_>>();
    assert_eq!(ranges(7, 3), [0..3, 3..5, 5..7]);
    assert_eq!(ranges(6, 3), [0..2, 2..4, 4..6]);
    assert_eq!(ranges(3, 3), [0..1, 1..2, 2..3]);
    for n in 2..40 {
        for k in 2..=n {
            let joined: Vec<usize> = fold_ranges(n, k).flatten().collect();
            assert!(joined.into_iter().eq(0..n));
        }
    }
}

#[test]
fn k_fold_agrees_with_the_definitions() {
    let mut random = Random(1);
    let mut compared = 0;
    for round in 0..60 {
        let n = 12 + random.below(90) as usize;
        let folds = 2 + random.below(9) as usize;
        let levels = [4, 40, 400, 100_003][round % 4];
        for (convention, low, high) in [(Convention::Insightface, 0.0, 4.0), (Convention::Facexzoo, -1.0, 1.0)] {
            let (scores, same) = random.pairs(n, levels, low, high);
            let Ok(found) = k_fold(&scores, &same, folds, convention) else {
                continue;
            };
            let expected = naive_k_fold(&scores, &same, folds, convention);
            assert_eq!(found.fold_accuracies, expected.fold_accuracies);
            assert_eq!(found.thresholds, expected.thresholds);
            close(found.mean, expected.mean);
            close(found.deviation, expected.deviation);
            compared += 1;
        }
    }
    assert!(compared > 100);
}

#[test]
fn k_fold_agrees_with_scikit_learn() {
    let (distances, same) = reference_pairs();
    let found = k_fold(&distances, &same, 10, Convention::Insightface).unwrap();
    close(found.mean, 0.8257375415282391);
    close(found.deviation, 0.007_668_243_733_749_866);
    all_close(&found.thresholds, &[1.59, 1.57, 1.57, 1.58, 1.57, 1.59, 1.57, 1.57, 1.58, 1.57]);
    close(found.fold_accuracies[3], 0.8372093023255814);
    close(found.fold_accuracies[9], 0.81);

    let cosines: Vec<f64> = distances.iter().map(|d| 1.0 - d / 2.0).collect();
    let found = k_fold(&cosines, &same, 10, Convention::Facexzoo).unwrap();
    close(found.mean, 0.8217530454042082);
    close(found.deviation, 0.0018253720417203572);
    all_close(
        &found.thresholds,
        &[0.25607, 0.243899, 0.272257, 0.238743, 0.238743, 0.249055, 0.238743, 0.2390155, 0.238743, 0.238743],
    );
    close(found.fold_accuracies[0], 0.813953488372093);
    close(found.fold_accuracies[7], 0.83);
}

#[test]
fn roc_takes_ties_as_one_step() {
    let similarity = [0.9, 0.5, 0.5, 0.1];
    let same = [true, true, false, false];
    let curve = roc(&similarity, &same).unwrap();
    let point = |threshold, far, tar| RocPoint { threshold, fmr: far, tmr: tar };
    let points: Vec<RocPoint> = curve.points().collect();
    assert_eq!(
        points,
        [point(None, 0.0, 0.0), point(Some(0.9), 0.0, 0.5), point(Some(0.5), 0.5, 1.0), point(Some(0.1), 1.0, 1.0),]
    );
    // Of four contests three are won and one is drawn.
    close(curve.auc(), 0.875);
    // FAR and FRR go from (0, 0.5) to (0.5, 0) and meet half-way.
    close(curve.eer(), 0.25);
    // Zeros of either sign are equal.
    let curve = roc(&[0.0, -0.0, -0.0, 0.0], &same).unwrap();
    assert_eq!(curve.points().count(), 2);
    close(curve.auc(), 0.5);
    close(curve.eer(), 0.5);
}

#[test]
fn perfect_and_inverted_lists_reach_the_ends() {
    let same = [true, true, false, false, false];
    let best = roc(&[5.0, 4.0, 3.0, 2.0, 1.0], &same).unwrap();
    assert_eq!((best.auc(), best.eer()), (1.0, 0.0));
    assert_eq!(tar_at_far(&best, 0.0), 1.0);
    let worst = roc(&[1.0, 2.0, 3.0, 4.0, 5.0], &same).unwrap();
    assert_eq!((worst.auc(), worst.eer()), (0.0, 1.0));
    assert_eq!(tar_at_far(&worst, 0.0), 0.0);
}

#[test]
fn tar_is_read_at_the_nearest_far_and_ties_take_the_larger() {
    // (0, 0), (0, 0.25), (0.25, 0.25), (0.25, 0.75), (0.5, 0.75), (0.5, 1), ...
    let similarity = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0];
    let same = [true, false, true, true, false, true, false, false];
    let curve = roc(&similarity, &same).unwrap();
    let tar = |far| tar_at_far(&curve, far);
    assert_eq!(tar(0.0), 0.25);
    assert_eq!(tar(0.1), 0.25);
    assert_eq!(tar(0.2), 0.75);
    assert_eq!(tar(0.25), 0.75);
    // 0.125 lies exactly between 0 and 0.25, and 0.375 between 0.25 and 0.5.
    assert_eq!(tar(0.125), 0.75);
    assert_eq!(tar(0.375), 1.0);
    assert_eq!(tar(1.0), 1.0);
    for target in ["-0.1", "0", "1.1", "nan"] {
        fails(format!("nearest:{target}").parse::<Reading>(), &["above 0 and up to 1", target]);
    }
    fails("best:0.1".parse::<Reading>(), &["no rule \"best\"", "`at_most:0.001`"]);
    fails("0.1".parse::<Reading>(), &["a rule and a false match rate"]);
    for name in ["fnmr_at_fmr_0.001", "fnmr_at_fmr_0.05_nearest_sklearn"] {
        assert_eq!(Reading::of_metric(name).unwrap().metric(), name);
    }
}

#[test]
fn roc_figures_agree_with_counting() {
    let mut random = Random(2);
    for round in 0..80 {
        let n = 2 + random.below(60) as usize;
        let levels = [1, 3, 20, 100_003][round % 4];
        let (similarity, same) = random.pairs(n, levels, -1.0, 1.0);
        let curve = roc(&similarity, &same).unwrap();
        let points = naive_points(&similarity, &same);
        let found: Vec<(f64, f64)> = curve.points().map(|p| (p.fmr, p.tmr)).collect();
        assert_eq!(found, points);
        close(curve.auc(), naive_auc(&similarity, &same));

        // The crossing by bisection along the polyline: position s lies on segment floor(s).
        let at = |s: f64| {
            let i = (s as usize).min(points.len() - 2);
            let (a, b, t) = (points[i], points[i + 1], s - i as f64);
            (a.0 + t * (b.0 - a.0), 1.0 - a.1 - t * (b.1 - a.1))
        };
        let (mut low, mut high) = (0.0, (points.len() - 1) as f64);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            let (far, frr) = at(middle);
            if far < frr {
                low = middle;
            } else {
                high = middle;
            }
        }
        let (far, frr) = at(high);
        close(far, frr);
        close(curve.eer(), far);

        for target in [0.0, 1e-3, 0.1, 0.25, 0.5, 0.77, 1.0] {
            let distance = |p: &(f64, f64)| (p.0 - target).abs();
            let least = points.iter().map(distance).fold(f64::INFINITY, f64::min);
            let expected = points.iter().filter(|p| distance(p) == least).map(|p| p.1).fold(0.0, f64::max);
            close(tar_at_far(&curve, target), expected);
        }
    }
}

#[test]
fn roc_agrees_with_scikit_learn() {
    let (distances, same) = reference_pairs();
    let curve = roc(&negated(&distances), &same).unwrap();
    assert_eq!(curve.points().count(), 1806);
    close(curve.auc(), 0.9162089128086168);
    close(curve.eer(), 0.17858330562021948);
    for (far, tar) in [
        (1e-4, 0.3333333333333333),
        (1e-3, 0.35136707388016286),
        (1e-2, 0.4397905759162304),
        (1e-1, 0.7161140197789413),
        (0.5, 0.9866201279813845),
    ] {
        close(tar_at_far(&curve, far), tar);
    }
}

#[test]
fn flip_tests_by_hand() {
    let (plain, flipped) = ([3.0, 4.0], [0.0, 10.0]);
    let combine = |test: FlipTest| -> Vec<f64> {
        let row = test.combine(&plain, Some(&flipped)).unwrap();
        row.into_iter().map(f64::from).collect()
    };
    let check = |test, expected: &[f64]| {
        let found = combine(test);
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-7, "{test:?}: {f} is not {e}");
        }
    };
    check(FlipTest::None, &[0.6, 0.8]);
    let norm = 205.0_f64.sqrt();
    check(FlipTest::SumRaw, &[3.0 / norm, 14.0 / norm]);
    let norm = (0.36_f64 + 1.8 * 1.8).sqrt();
    check(FlipTest::SumNorm, &[0.6 / norm, 1.8 / norm]);
    let norm = 125.0_f64.sqrt();
    check(FlipTest::Concat, &[3.0 / norm, 4.0 / norm, 0.0, 10.0 / norm]);
    assert_eq!(FlipTest::None.combine(&plain, None).unwrap(), [0.6_f32, 0.8]);
}

#[test]
fn flip_tests_refuse_what_they_cannot_combine() {
    for test in [FlipTest::SumRaw, FlipTest::SumNorm, FlipTest::Concat] {
        fails(test.combine(&[1.0, 0.0], None), &["mirrored image", "found none"]);
        fails(test.combine(&[1.0, 0.0], Some(&[1.0])), &["expected 2", "found 1"]);
        fails(test.combine(&[f32::NAN, 0.0], Some(&[1.0, 0.0])), &["norm NaN"]);
    }
    fails(FlipTest::SumRaw.combine(&[1.0, -2.0], Some(&[-1.0, 2.0])), &["norm 0"]);
    fails(FlipTest::None.combine(&[0.0; 3], None), &["norm 0"]);
    // Squares of large f32 values overflow in f32 but not here.
    assert_eq!(FlipTest::None.combine(&[f32::MAX, 0.0], None).unwrap(), [1.0, 0.0]);
}

#[test]
fn distance_and_cosine_by_hand() {
    close(squared_distance(&[1.0, 2.0], &[4.0, -2.0]).unwrap(), 25.0);
    close(cosine(&[3.0, 0.0], &[1.0, 1.0]).unwrap(), 0.5_f64.sqrt());
    close(cosine(&[2.0, 0.0], &[-7.0, 0.0]).unwrap(), -1.0);
    fails(squared_distance(&[1.0], &[1.0, 2.0]), &["expected 1", "found 2"]);
    fails(cosine(&[1.0], &[1.0, 2.0]), &["expected 1", "found 2"]);
    fails(cosine(&[0.0, 0.0], &[1.0, 2.0]), &["product 0"]);
    // On unit vectors the two measure the same thing.
    let a = FlipTest::None.combine(&[0.3, -1.2, 2.0], None).unwrap();
    let b = FlipTest::None.combine(&[1.5, 0.2, 0.7], None).unwrap();
    let gap = squared_distance(&a, &b).unwrap() - (2.0 - 2.0 * cosine(&a, &b).unwrap());
    assert!(gap.abs() < 1e-6);
}

#[test]
fn report_combines_the_parts() {
    let (distances, same) = reference_pairs();
    for convention in BOTH {
        let settings = ReportSettings { convention, ..ReportSettings::default() };
        let gaps: Vec<Option<f64>> =
            (0..same.len()).map(|i| (i % 11 != 0).then_some((i * 13 % 101) as f64 / 2.0)).collect();
        let found = report(&distances, &same, Some(&gaps), &settings).unwrap();
        let scores: Vec<f64> = match convention {
            Convention::Insightface => distances.clone(),
            Convention::Facexzoo => distances.iter().map(|d| 1.0 - d / 2.0).collect(),
        };
        let expected = naive_k_fold(&scores, &same, 10, convention);
        close(found.accuracy, expected.mean);
        close(found.deviation, expected.deviation);
        close(found.threshold, expected.thresholds.iter().sum::<f64>() / 10.0);
        assert_eq!((found.pairs, found.same), (3007, 1719));
        close(found.auc, 0.9162089128086168);
        close(found.eer, 0.17858330562021948);
        assert_eq!(found.readings.len(), 3);
        assert_eq!(found.readings[1].reading, Reading::at_most(1e-2));
        assert!((0.005..=0.01).contains(&found.readings[1].reached));

        let labels: Vec<&str> = found.by_gap.iter().map(|r| r.label.as_str()).collect();
        assert_eq!(labels, ["0-4", "5-9", "10-19", "20-29", "30-39", "40+"]);
        for row in &found.by_gap {
            let inside: Vec<usize> = (0..same.len())
                .filter(|&i| {
                    gaps[i].is_some_and(|gap| gap >= f64::from(row.from) && row.to.is_none_or(|to| gap < f64::from(to)))
                })
                .collect();
            // The first 7 of the 10 folds hold 301 pairs, the others 300.
            let fold = |i: usize| {
                if i < 2107 { i / 301 } else { 7 + (i - 2107) / 300 }
            };
            let right = inside.iter().filter(|&&i| {
                let t = expected.thresholds[fold(i)];
                match convention {
                    Convention::Insightface => (scores[i] < t) == same[i],
                    Convention::Facexzoo if same[i] => scores[i] > t,
                    Convention::Facexzoo => scores[i] < t,
                }
            });
            assert_eq!(row.pairs, inside.len());
            close(row.accuracy.unwrap(), right.count() as f64 / inside.len() as f64);
            let row_same: Vec<bool> = inside.iter().map(|&i| same[i]).collect();
            assert_eq!(row.same, row_same.iter().filter(|s| **s).count());
            let row_similarity: Vec<f64> = inside.iter().map(|&i| -distances[i]).collect();
            close(row.auc.unwrap(), naive_auc(&row_similarity, &row_same));
        }
        let unknown = gaps.iter().filter(|gap| gap.is_none()).count();
        let counted: usize = found.by_gap.iter().map(|row| row.pairs).sum();
        assert_eq!(counted + unknown, 3007);
    }
}

#[test]
fn gap_rows_end_before_the_next_edge() {
    let distances = [0.1, 2.0, 0.1, 2.0, 0.1, 2.0];
    let same = [true, false, true, false, true, false];
    let gaps = [0.0, 1.0, 1.999, 29.5, 30.0, 100.0].map(Some);
    let settings =
        ReportSettings { folds: FoldChoice::Count(3), gap_edges: vec![1, 2, 20, 30, 40], ..ReportSettings::default() };
    let found = report(&distances, &same, Some(&gaps), &settings).unwrap();
    let row = |label: &str, from, to, pairs, same, accuracy, auc| GapRow {
        label: label.into(),
        from,
        to,
        pairs,
        same,
        accuracy,
        auc,
    };
    assert_eq!(
        found.by_gap,
        [
            row("1", 1, Some(2), 2, 1, Some(1.0), Some(1.0)),
            row("2-19", 2, Some(20), 0, 0, None, None),
            row("20-29", 20, Some(30), 1, 0, Some(1.0), None),
            row("30-39", 30, Some(40), 1, 1, Some(1.0), None),
            row("40+", 40, None, 1, 0, Some(1.0), None),
        ]
    );
    let found = report(&distances, &same, None, &settings).unwrap();
    assert!(found.by_gap.is_empty());
}

#[test]
fn refusals_say_what_is_wrong() {
    let same = [true, false, true, false];
    let settings = ReportSettings { folds: FoldChoice::Count(2), ..ReportSettings::default() };
    let good = [0.1, 2.0, 0.1, 2.0];
    let bad = [0.1, 2.0, f64::NAN, 2.0];
    fails(report(&bad, &same, None, &settings), &["pair 2", "NaN"]);
    fails(k_fold(&bad, &same, 2, Convention::Insightface), &["pair 2", "NaN"]);
    fails(roc(&bad, &same), &["pair 2", "NaN"]);
    let bad = [0.1, -0.3, 0.1, 2.0];
    fails(report(&bad, &same, None, &settings), &["squared distance of pair 1", "-0.3", "between 0 and 4"]);
    fails(k_fold(&good, &same, 2, Convention::Facexzoo), &["cosine of pair 1", "between -1 and 1"]);
    fails(report(&good, &[true; 4], None, &settings), &["found 4", "the same person"]);
    fails(report(&good, &[false; 4], None, &settings), &["found 4", "different people"]);
    fails(roc(&good, &[true; 4]), &["the same person"]);
    fails(report(&[], &[], None, &settings), &["found none"]);
    fails(report(&good, &same[..3], None, &settings), &["4 scores", "3 flags"]);
    for folds in [0, 1, 5] {
        for convention in BOTH {
            let scores = [0.1, 1.0, 0.1, 1.0];
            fails(k_fold(&scores, &same, folds, convention), &["2 folds", &format!("found {folds}")]);
        }
    }
    // An ungrouped list: all same pairs first.
    fails(
        k_fold(&good, &[true, true, false, false], 2, Convention::Insightface),
        &["fold 1 of 2", "0 same and 2 different"],
    );
    let gaps = [Some(1.0), None];
    fails(report(&good, &same, Some(&gaps), &settings), &["expected 4", "age gaps", "found 2"]);
    for gap in [-1.0, f64::NAN] {
        let gaps = [None, None, None, Some(gap)];
        fails(report(&good, &same, Some(&gaps), &settings), &["gap of pair 3", &format!("{gap}")]);
    }
    for edges in [vec![], vec![0, 5, 5], vec![5, 0]] {
        let settings = ReportSettings { gap_edges: edges, ..settings.clone() };
        fails(report(&good, &same, Some(&[None; 4]), &settings), &["strictly rising"]);
    }
}

#[test]
fn regression_and_group_figures_by_hand() {
    close(mean_absolute_error(&[20.0, 31.5, 60.0], &[22.0, 30.0, 60.0]).unwrap(), 3.5 / 3.0);
    fails(mean_absolute_error(&[1.0], &[1.0, 2.0]), &["expected 2", "found 1"]);
    fails(mean_absolute_error(&[], &[]), &["found none"]);
    fails(mean_absolute_error(&[1.0, f64::NAN], &[1.0, 2.0]), &["prediction 1", "NaN"]);
    let (predicted, target) = ([0, 1, 4, 6], [0, 2, 4, 3]);
    close(group_accuracy(&predicted, &target, 0).unwrap(), 0.5);
    close(group_accuracy(&predicted, &target, 1).unwrap(), 0.75);
    close(group_accuracy(&predicted, &target, 3).unwrap(), 1.0);
    fails(group_accuracy(&[1], &[], 0), &["expected 0", "found 1"]);
    fails(group_accuracy(&[], &[], 0), &["found none"]);
}

#[test]
fn settings_are_written_in_snake_case_and_described() {
    let names = |values: serde_json::Value| -> BTreeSet<String> {
        let values = values.as_array().unwrap();
        values.iter().map(|v| v.as_str().unwrap().into()).collect()
    };
    let written = serde_json::json!([FlipTest::None, FlipTest::SumRaw, FlipTest::SumNorm, FlipTest::Concat]);
    let expected = ["none", "sum_raw", "sum_norm", "concat"];
    assert_eq!(names(written), expected.map(String::from).into());
    let expected = ["insightface", "facexzoo"];
    assert_eq!(names(serde_json::json!(BOTH)), expected.map(String::from).into());
    assert_eq!(Convention::default(), Convention::Insightface);
    assert_eq!(FlipTest::default(), FlipTest::SumRaw);
    for schema in [schema_for!(Convention), schema_for!(FlipTest)] {
        let variants = schema.get("oneOf").unwrap().as_array().unwrap();
        assert!(variants.iter().all(|v| v.get("description").is_some()));
    }
}

/// Figures that NumPy, SciPy and scikit-learn give on small lists.
fn numbers() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../../tests/reference/numbers.json")).unwrap()
}

fn list(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn readings_are_those_of_the_reference() {
    let numbers = &numbers()["verification"];
    let similarity = list(&numbers["similarity"]);
    let same: Vec<bool> = list(&numbers["same"]).into_iter().map(|s| s == 1.0).collect();
    let curve = roc(&similarity, &same).unwrap();
    let (fmr, tmr): (Vec<f64>, Vec<f64>) = curve.points().map(|point| (point.fmr, point.tmr)).unzip();
    all_close(&fmr, &list(&numbers["roc"]["far"]));
    all_close(&tmr, &list(&numbers["roc"]["tar"]));
    close(curve.auc(), numbers["auc"].as_f64().unwrap());
    // The reference finds the crossing by bisection.
    assert!((curve.eer() - numbers["eer_linear"].as_f64().unwrap()).abs() < 1e-9);
    for (rule, key) in [(Rule::Nearest, "tar_nearest_exact"), (Rule::NearestSklearn, "tar_nearest_sklearn_default")] {
        for row in numbers[key].as_array().unwrap() {
            let row = list(row);
            let found = curve.read(Reading { rule, target: row[0] });
            close(1.0 - found.fnmr, row[1]);
            close(found.fmr, row[2]);
        }
    }
    for row in numbers["fnmr_at_fmr"].as_array().unwrap() {
        let found = curve.read(Reading::at_most(row["target_fmr"].as_f64().unwrap()));
        close(found.fnmr, row["fnmr"].as_f64().unwrap());
        close(found.fmr, row["fmr_reached"].as_f64().unwrap());
        assert_eq!(found.resolved, row["resolved"].as_bool().unwrap(), "{row}");
        // The threshold gives the rates.
        let accepted = |kind: bool| {
            let all = similarity.iter().zip(&same).filter(|(_, same)| **same == kind);
            all.filter(|(s, _)| **s >= found.threshold).count() as f64 / 12.0
        };
        close(accepted(false), found.fmr);
        close(1.0 - accepted(true), found.fnmr);
    }
}

#[test]
fn folds_are_those_of_the_reference() {
    let numbers = &numbers()["folds"];
    let distances = list(&numbers["distance"]);
    let same: Vec<bool> = list(&numbers["same"]).into_iter().map(|s| s == 1.0).collect();
    let found = k_fold(&distances, &same, 5, Convention::Insightface).unwrap();
    let expected = &numbers["insightface"];
    close(found.mean, expected["mean"].as_f64().unwrap());
    close(found.deviation, expected["population_deviation"].as_f64().unwrap());
    all_close(&found.fold_accuracies, &list(&expected["fold_accuracies"]));
    let cosines: Vec<f64> = distances.iter().map(|d| 1.0 - d / 2.0).collect();
    let found = k_fold(&cosines, &same, 5, Convention::Facexzoo).unwrap();
    let expected = &numbers["facexzoo"];
    close(found.mean, expected["mean"].as_f64().unwrap());
    close(found.deviation, expected["standard_error"].as_f64().unwrap());
    all_close(&found.fold_accuracies, &list(&expected["fold_accuracies"]));
}

#[test]
fn pairs_count_as_often_as_their_weights_say() {
    let mut random = Random(9);
    for round in 0..40 {
        let (similarity, same) = random.pairs(30, [3, 1000][round % 2], -1.0, 1.0);
        let weights: Vec<f64> = (0..30).map(|i| if i < 2 { 1.0 } else { random.below(4) as f64 }).collect();
        let repeated: Vec<usize> = (0..30).flat_map(|i| vec![i; weights[i] as usize]).collect();
        let pick = |i: &usize| (similarity[*i], same[*i]);
        let (all, kinds): (Vec<f64>, Vec<bool>) = repeated.iter().map(pick).unzip();
        let (weighted, plain) = (weighted_roc(&similarity, &same, &weights).unwrap(), roc(&all, &kinds).unwrap());
        close(weighted.auc(), plain.auc());
        close(weighted.eer(), plain.eer());
        for target in [0.01, 0.1, 0.3] {
            let reading = Reading::at_most(target);
            assert_eq!(weighted.read(reading), plain.read(reading));
        }
    }
}

#[test]
fn what_a_list_cannot_tell_has_no_number() {
    let same: Vec<bool> = (0..600).map(|i| i % 2 == 0).collect();
    let distances: Vec<f64> = (0..600).map(|i| f64::from(i * 7919 % 601) / 300.0 + f64::from(i % 2)).collect();
    let found = report(&distances, &same, None, &ReportSettings::default()).unwrap();
    let row = &found.readings[0];
    assert_eq!((row.fnmr, row.reached, row.resolution), (None, 0.0, 1.0 / 300.0));
    assert!(found.readings[1].fnmr.is_some() && found.readings[1].reached <= 0.01);
    assert_eq!(found.intervals, INDEPENDENT);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["readings"][0]["reading"], "at_most:0.001");
    assert!(json["readings"][0]["fnmr"].is_null());
    let nested = found.readings[2].nested.unwrap();
    assert!((nested.fmr - 0.1).abs() < 0.05, "{nested:?}");
}

#[test]
fn the_first_of_equal_logits_is_taken() {
    assert_eq!(largest(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
    assert_eq!(largest(&[f32::NEG_INFINITY; 3]).unwrap(), 0);
    fails(largest(&[0.0, f32::NAN]), &["logit 1 is not a number"]);
    fails(largest(&[]), &["no logits"]);
}

#[test]
fn figures_of_ages_are_those_of_the_reference() {
    let numbers = &numbers()["age"];
    let (found, truth) = (list(&numbers["found"]), list(&numbers["truth"]));
    let number = |name: &str| numbers[name].as_f64().unwrap();
    close(mean_absolute_error(&found, &truth).unwrap(), number("mae"));
    let figures = AgeFigures::of(&found, &truth).unwrap();
    close(figures.rmse, number("rmse"));
    close(figures.bias, number("bias"));
    close(figures.cs5, number("cs5"));
    close(figures.cs10, number("cs10"));
    close(figures.pearson.unwrap(), number("pearson"));
    close(figures.r2.unwrap(), number("r2"));
    assert_eq!(AgeFigures::of(&[1.0, 2.0], &[3.0, 3.0]).unwrap().r2, None);
}

#[test]
fn figures_of_ageing_are_those_of_the_reference() {
    let numbers = &numbers()["ageing"];
    let centres = list(&numbers["wanted_centres"]);
    let seen: Vec<Vec<f64>> = numbers["seen"].as_array().unwrap().iter().map(list).collect();
    let intervals: Vec<Vec<f64>> = numbers["group_intervals_left_open"].as_array().unwrap().iter().map(list).collect();
    let all = || seen.iter().flat_map(|row| row.iter().enumerate());
    let mean_of = |values: Vec<f64>| mean(&values);
    close(mean_of(all().map(|(g, s)| (s - centres[g]).abs()).collect()), numbers["mae_to_centre"].as_f64().unwrap());
    let outside = all().map(|(g, s)| beyond(*s, intervals[g][0], intervals[g][1]));
    close(mean_of(outside.collect()), numbers["mae_to_interval"].as_f64().unwrap());
    close(mean_of(all().map(|(g, s)| s - centres[g]).collect()), numbers["signed_bias"].as_f64().unwrap());
    let courses: Vec<Course> = seen.iter().map(|row| Course::of(&centres, row)).collect();
    let slopes = list(&numbers["slope_seen_per_wanted_year"]);
    all_close(&courses.iter().map(|c| c.slope).collect::<Vec<_>>(), &slopes);
    all_close(&courses.iter().map(|c| c.range).collect::<Vec<_>>(), &list(&numbers["range_of_seen"]));
    let falling: usize = courses.iter().map(|c| c.falling_steps).sum();
    close(falling as f64 / 18.0, numbers["share_of_falling_steps"].as_f64().unwrap());
    let largest = courses.iter().map(|c| c.largest_fall).fold(0.0, f64::max);
    close(largest, numbers["largest_fall"].as_f64().unwrap());
    let rough = mean_of(courses.iter().map(|c| c.roughness).collect());
    close(rough, numbers["roughness_mean_abs_second_difference"].as_f64().unwrap());
    // The centres of four groups are not at equal distances; who is seen at just the wanted ages is smooth.
    let uneven = [15.0, 35.0, 45.0, 55.0];
    close(Course::of(&uneven, &uneven).roughness, 0.0);
    // 55 where the line from 35 to 45 is at 41.7, and 45 where that from 55 to 55 is at 55.
    close(Course::of(&uneven, &[35.0, 55.0, 45.0, 55.0]).roughness, (2.0 * 40.0 / 3.0 + 20.0) / 2.0);
    let rising = courses.iter().filter(|c| c.rising).count();
    close(rising as f64 / 3.0, numbers["strictly_rising_share"].as_f64().unwrap());
    for ((row, expected), rank) in
        seen.iter().zip(numbers["pearson"].as_array().unwrap()).zip(list(&numbers["spearman"]))
    {
        match expected.as_f64() {
            Some(expected) => close(pearson(&centres, row).unwrap(), expected),
            None => assert_eq!(pearson(&centres, row), None),
        }
        close(crate::likeness::rank_correlation(&centres, row), rank);
    }
}

#[test]
fn a_curve_of_a_million_pairs_keeps_its_low_rates() {
    let mut random = Random(4);
    let (similarity, same): (Vec<f64>, Vec<bool>) =
        (0..200_000).map(|i| (random.below(1_000_000) as f64 + f64::from(i % 2) * 600_000.0, i % 2 == 1)).unzip();
    let curve = roc(&similarity, &same).unwrap();
    let points = curve.thinned(1000);
    assert!(points.len() <= 1000 && points.len() > 300, "{}", points.len());
    assert!(points.windows(2).all(|pair| pair[0].fmr <= pair[1].fmr && pair[0].tmr <= pair[1].tmr));
    let between = |from: f64, to: f64| points.iter().filter(|point| point.fmr >= from && point.fmr < to).count();
    assert!(between(1e-5, 1e-4) >= 5 && between(1e-4, 1e-3) > 50, "{} {}", between(1e-5, 1e-4), between(1e-4, 1e-3));
    assert_eq!((points[0].fmr, points[points.len() - 1].fmr), (0.0, 1.0));
    let few = roc(&[3.0, 2.0, 1.0], &[true, false, true]).unwrap();
    assert_eq!(few.thinned(1000).len(), 4);
}
