//! The methods that came after PoSE, and the two that are this project's own.

use super::*;
use pose_engine::positions::adaptive::{BINS, bin};
use pose_engine::positions::{DistanceWeights, SYNTHETIC_PIECE};

const LATER: [Method; 5] =
    [Method::Cream, Method::LongRecipe, Method::Axolotl, Method::Balanced, Method::Adaptive];

fn sampler(method: Method, train: usize, target: usize, count: usize) -> Sampler {
    Sampler::new(method, train, target, count, ChunkLengths::Paper, Content::Uniform).unwrap()
}

fn positions(sampler: &Sampler, seed: u64, row: u32) -> Vec<usize> {
    let positions = sampler.placement(seed, 0, row).positions(sampler.window());
    positions.into_iter().map(|p| p.0 as usize).collect()
}

/// The tokens of a row that are not one position after the token before them.
fn jumps(positions: &[usize]) -> Vec<usize> {
    (1..positions.len()).filter(|&t| positions[t] != positions[t - 1] + 1).collect()
}

proptest! {
    #[test]
    fn rows_have_a_windows_form(
        seed: u64, step in 0u64..1 << 40, row: u32, train in 40usize..200, skip in 0usize..600, spare in 0usize..900,
        count in 2usize..=5, content in prop::sample::select(&CONTENT),
    ) {
        for method in LATER {
            let target = if method == Method::Cream { (train + skip).min(train * train / 8 - train) } else { train + skip };
            let sampler = Sampler::new(method, train, target, count, ChunkLengths::Paper, content).unwrap();
            prop_assert_eq!((sampler.window(), sampler.document_len()), (train, train + 1));
            let document_len = train + 1 + spare;
            let sample = sampler.sample(seed, step, row, document_len).unwrap();
            check_content(&sampler, &sample, document_len);
            let positions = sample.placement.positions(train);
            prop_assert_eq!(positions.len(), train);
            prop_assert!(positions.windows(2).all(|p| p[0] < p[1]), "{:?}", method);
            prop_assert!((positions[train - 1].0 as usize) < target, "{:?}", method);
            prop_assert_eq!(positions[0].0, 0);
            let spans = match &sample.placement {
                Placement::Spans(spans) => Some(spans.len()),
                Placement::List(_) => None,
            };
            prop_assert_eq!(spans, sampler.spans_per_row(), "{:?}", method);
            prop_assert_eq!(sampler.placement(seed, step, row), sample.placement, "a row alone is the same again");
        }
    }

    #[test]
    fn pieces_of_text_stay_whole(seed: u64, row: u32, train in 8usize..200, skip in 0usize..9000, spare in 0usize..300,
        every in 2usize..40) {
        let target = train + skip;
        let starts = |i: usize| i % every == 3;
        for sampler in [sampler(Method::LongRecipe, train, target, 0), sampler(Method::Axolotl, train, target, 2).splitting(true)] {
            prop_assert!(sampler.reads_text() && sampler.spans_per_row().is_none());
            let sample = sampler.sample_text(seed, 1, row, train + 1 + spare, &starts).unwrap();
            check_content(&sampler, &sample, train + 1 + spare);
            prop_assert_eq!(sample.content.len(), 1, "text as it stands");
            let first = sample.content[0].start;
            let positions: Vec<usize> = sample.placement.positions(train).into_iter().map(|p| p.0 as usize).collect();
            prop_assert!(positions.windows(2).all(|p| p[0] < p[1]) && positions[train - 1] < target);
            let jumps = jumps(&positions);
            match sampler.method() {
                // one more: where the stretch from 0 ends
                Method::LongRecipe => {
                    prop_assert!(jumps.iter().skip(1).all(|&t| starts(first + t)));
                    prop_assert!(jumps.first().is_none_or(|&t| starts(first + t) || t <= train.div_ceil(2)));
                }
                _ => prop_assert!(jumps.iter().all(|&t| starts(first + t) && t >= 2)),
            }
        }
    }
}

#[test]
fn cream_places_the_middle_by_a_truncated_gaussian() {
    let (window, target) = (60, 300);
    let sampler = sampler(Method::Cream, window, target, 0);
    let f = 5.0f64;
    let mut last = Vec::new();
    for row in 0..ROWS {
        let placement = sampler.placement(3, 0, row);
        let spans = spans(&placement);
        let (head, tail) = (spans[1].start.0 as usize, window - spans[2].start.0 as usize);
        assert!(head == tail && (head == 20), "4f is a third of the window here");
        assert_eq!(spans[2].bias as usize, target - window, "the tail ends at the target");
        last.push(spans[2].start.0 as usize - 1 + spans[1].bias as usize);
    }
    let expected = |sigma: f64| {
        let x = |i: usize| 2.0 + (2.0 * f - 2.0) * i as f64 / 999.0;
        let density: Vec<f64> =
            (0..1000).map(|i| (-0.5 * ((x(i) - 1.0 - f) / sigma).powi(2)).exp()).collect();
        let sum: f64 = density.iter().sum();
        let mut probability = vec![0.0; target];
        for (i, density) in density.iter().enumerate() {
            let alpha = x(i).floor() as usize;
            let (low, high) = (20 + 19 * alpha / 2, alpha * window / 2 - 20 - 1);
            (low..=high).for_each(|e| probability[e] += density / sum / (high - low + 1) as f64);
        }
        probability
    };
    assert_follows(&last, &expected(3.0));
    assert_refuses(&last, &expected(1.0));
    // The two lengths of head and tail, where they differ, are tossed for.
    let sampler = self::sampler(Method::Cream, 99, 396, 0);
    let long = |row| usize::from(spans(&sampler.placement(3, 0, row))[1].start.0 == 33);
    let short = |row| spans(&sampler.placement(3, 0, row))[1].start.0 == 16;
    assert!((0..500).all(|row| long(row) == 1 || short(row)));
    assert_follows(&(0..ROWS).map(long).collect::<Vec<_>>(), &[0.5, 0.5]);
}

#[test]
fn longrecipe_lays_all_sentences_and_then_a_stretch_from_zero() {
    let (window, target, longest) = (100, 1_000_000, 999_900.0);
    let sampler = sampler(Method::LongRecipe, window, target, 0);
    let rows: Vec<Vec<usize>> = (0..ROWS).map(|row| positions(&sampler, 5, row)).collect();
    // The skips are so large that no cut goes unseen but one row in thousands. Sentence 0 is not moved, so a stretch that ends
    // in it shows only where sentence 1 begins.
    let first: Vec<usize> = rows.iter().map(|row| jumps(row)[0]).collect();
    let mut probability = uniform(1..=50, 60);
    let in_first: f64 = probability[..SYNTHETIC_PIECE].iter().sum();
    probability[..SYNTHETIC_PIECE].fill(0.0);
    probability[SYNTHETIC_PIECE] += in_first;
    assert_follows(&first, &probability);
    // Token 50 is behind every stretch, in sentence 2 of 5: the third of five sorted numbers, however much the stretch took.
    let third_of_five = |x: f64| x.powi(3) * (10.0 - 15.0 * x + 6.0 * x * x);
    let largest_of_five = |x: f64| x.powi(5);
    for (token, cdf) in [(50, &third_of_five as &dyn Fn(f64) -> f64), (window - 1, &largest_of_five)] {
        let scaled =
            |row: &Vec<usize>| (cdf((row[token] - token) as f64 / longest) * 20.0).min(19.0) as usize;
        assert_follows(&rows.iter().map(scaled).collect::<Vec<_>>(), &uniform(0..=19, 20));
    }
}

#[test]
fn longrecipes_skip_after_the_stretch_sums_the_gaps_before_it() {
    // n = 86 sentences of 24 tokens; b_k is (Lt-Lc)·(k+1)/(n+1) in the mean, and sentence 0 stays
    let (window, target, rows) = (2048, 16384, 4000);
    let sampler = sampler(Method::LongRecipe, window, target, 0);
    let count = window.div_ceil(SYNTHETIC_PIECE) as f64;
    let bias = |r: usize| match r / SYNTHETIC_PIECE {
        0 => 0.0,
        k => (target - window) as f64 * (k + 1) as f64 / (count + 1.0),
    };
    let expected = (1..=1024).map(bias).sum::<f64>() / 1024.0;
    let skip = |row| {
        let positions = positions(&sampler, 9, row);
        let first = (0..window).find(|&t| positions[t] != t).unwrap_or(window - 1);
        if first <= SYNTHETIC_PIECE { 0.0 } else { (positions[first] - first) as f64 }
    };
    let mean = (0..rows).map(skip).sum::<f64>() / f64::from(rows);
    assert!((mean - expected).abs() < 200.0, "{mean} where {expected} is expected");
}

#[test]
fn axolotl_has_equal_chunks_with_cumulative_skips() {
    let sampler = sampler(Method::Axolotl, 33, 73, 4);
    let biases: Vec<usize> = (0..ROWS)
        .map(|row| {
            let placement = sampler.placement(2, 0, row);
            let spans = spans(&placement);
            assert!(spans.iter().map(|s| s.start.0).eq([0, 8, 16, 24]));
            spans[1].bias as usize
        })
        .collect();
    assert_follows(&biases, &uniform(0..=40, 41));
    let sample = sampler.sample(2, 0, 7, 500).unwrap();
    assert!(
        sample.content.windows(2).all(|pair| pair[0].end == pair[1].start),
        "contiguous whatever --content says"
    );
}

#[test]
fn axolotl_never_skips_before_its_first_early_cut() {
    // chunks of one token: no skip before token 1, PoSE's skips before the others
    let one_each = sampler(Method::Axolotl, 5, 45, 4);
    let biases =
        |row| spans(&one_each.placement(2, 0, row)).iter().map(|s| s.bias as usize).collect::<Vec<_>>();
    assert!((0..500).all(|row| biases(row)[1] == 0));
    assert_follows(&(0..ROWS).map(|row| biases(row)[2]).collect::<Vec<_>>(), &uniform(0..=40, 41));
    let split = sampler(Method::Axolotl, 8, 1008, 2).splitting(true);
    // tokens that begin a chunk, and those before which there may be a skip
    for (tokens, cuts) in [
        (&[0, 1, 5][..], &[1, 5][..]),
        (&[0, 5], &[5]),
        (&[1, 5], &[5]),
        (&[1, 2], &[2]),
        (&[2, 3], &[2, 3]),
        (&[0], &[]),
        (&[], &[]),
    ] {
        let mut seen = std::collections::BTreeSet::new();
        for row in 0..200 {
            let sample = split.sample_text(4, 0, row, 9, &|t| tokens.contains(&t)).unwrap();
            let positions: Vec<usize> = sample.placement.positions(8).iter().map(|p| p.0 as usize).collect();
            seen.extend(jumps(&positions));
        }
        assert!(seen.iter().eq(cuts), "{tokens:?}: {seen:?}");
    }
}

/// Least and mean probability over the distances that are not within every row's chunks.
fn flatness(coverage: &Coverage, from: usize) -> (f64, f64) {
    let far = &coverage.probability[from..];
    (far.iter().copied().fold(f64::INFINITY, f64::min), far.iter().sum::<f64>() / far.len() as f64)
}

#[test]
fn balanced_is_flatter_than_pose() {
    for (train, target, count) in [
        (256usize, 2048, 2),
        (255, 4096, 2),
        (256, 2048, 3),
        (256, 4096, 4),
        (256, 4096, 8),
        (64, 65, 2),
        (64, 64, 3),
    ] {
        // the first chunk, which has what is left over, trains all below its length
        let from = train / count + train % count;
        let exact = Coverage::exact(&sampler(Method::Balanced, train, target, count)).unwrap();
        assert!(exact.probability[..from].iter().all(|&p| p == 1.0), "{train} {target} {count}");
        let (least, mean) = flatness(&exact, from);
        let pose =
            Coverage::drawn(&pose(train, target, count, ChunkLengths::Paper, Content::Uniform), 3, 20_000);
        let (pose_least, pose_mean) = flatness(&pose, from);
        if target > 2 * train {
            assert!(least / mean > 0.75, "{train} {target} {count}: least {least} of mean {mean}");
            // more chunks train more distances a row, and PoSE's own biases are evener then
            let times = if count == 2 { 10.0 } else { 1.5 };
            assert!(
                least / mean > times * pose_least / pose_mean,
                "{count} chunks, PoSE: {pose_least} of {pose_mean}, balanced {least} of {mean}"
            );
        }
        if count == 2 {
            // no mixture of rows of two even chunks can do better than this
            let bound = ((train - 1) as f64 / (target - train.div_ceil(2)) as f64).min(1.0);
            assert!(least <= bound + 1e-12 && least > 0.85 * bound, "{least} of {bound}");
        }
    }
}

#[test]
fn balanced_reaches_512_windows_in_at_most_4096_rows() {
    let (train, target) = (64, 32768);
    let exact = Coverage::exact(&sampler(Method::Balanced, train, target, 2)).unwrap();
    let bound = (train - 1) as f64 / (target - train / 2) as f64;
    let (least, _) = flatness(&exact, train / 2);
    assert!(least <= bound && least > 0.7 * bound, "{least} of {bound}");
    // probabilities are whole numbers of 4096 rows
    assert!(exact.probability.iter().all(|p| (p * 4096.0).fract() == 0.0));
}

#[test]
fn balanced_rows_are_those_of_the_mixture() {
    let sampler = sampler(Method::Balanced, 64, 700, 3);
    let (exact, rows) = (Coverage::exact(&sampler).unwrap(), 20_000);
    let drawn = Coverage::drawn(&sampler, 5, rows);
    for (p, q) in exact.probability.iter().zip(&drawn.probability) {
        assert!((p - q).abs() < 5.0 * (p * (1.0 - p) / rows as f64).sqrt() + 1e-9, "{p} {q}");
    }
}

#[test]
fn adaptive_draws_distances_by_their_weights() {
    let (train, target) = (32, 32 * BINS + 1);
    let mut need = [0.0; BINS];
    (need[9], need[3]) = (3.0, 1.0);
    for (floor, count) in [(0.0, 2), (0.25, 2), (0.25, 4)] {
        let weights = DistanceWeights::by_need(&need, floor);
        assert!(weights.are_probabilities());
        let sampler = sampler(Method::Adaptive, train, target, count).weighted(weights);
        let drawn = Coverage::drawn(&sampler, 1, 20_000);
        for b in 0..BINS {
            for d in bin(b, target) {
                let promised = weights.0[b] / 32.0;
                let p = drawn.probability[d];
                assert!(
                    p >= promised - 5.0 * (promised / 20_000.0).sqrt(),
                    "distance {d}: {p} below {promised}"
                );
            }
        }
        let mean = |b: usize| bin(b, target).map(|d| drawn.probability[d]).sum::<f64>() / 32.0;
        assert!(mean(9) > 4.0 * mean(14), "{floor} {count}");
        if count == 2 {
            // with more, the chunks between train shorter distances whatever the weights
            assert!(mean(9) > 2.0 * mean(3), "{floor}");
        }
        if floor == 0.0 {
            assert_eq!(mean(15), 0.0, "what nothing asks for is left out");
        }
    }
    // Without need all are alike, and a row is a function of the weights too.
    let sampler = sampler(Method::Adaptive, train, target, 2);
    assert_eq!(DistanceWeights::by_need(&[-1.0; BINS], 0.1), DistanceWeights::default());
    assert_eq!(DistanceWeights::by_need(&[f64::NAN; BINS], 0.1), DistanceWeights::default());
    let weighted = sampler.clone().weighted(DistanceWeights::by_need(&need, 0.0));
    assert!((0..50).any(|row| sampler.placement(1, 0, row) != weighted.placement(1, 0, row)));
    assert_eq!(weighted.placement(1, 0, 9), weighted.clone().placement(1, 0, 9));
    assert_ne!(sampler, weighted);
    let (least, mean) = flatness(&Coverage::drawn(&sampler, 1, 20_000), train);
    assert!(least > 0.0005 && mean > 0.05, "every distance of a window of {train}: {least} {mean}");
}

#[test]
fn bins_share_out_all_distances() {
    for target in [2, 3, 16, 17, 18, 1000, 1 << 20] {
        let all: Vec<usize> = (0..BINS).flat_map(|b| bin(b, target)).collect();
        assert!(all.into_iter().eq(1..target));
        let sampler = sampler(Method::Adaptive, 2, target, 2);
        let placed = (0..200).map(|row| positions(&sampler, 0, row)[1]);
        assert!(placed.max() <= Some(target - 1));
    }
}

#[test]
fn what_later_methods_cannot_draw_is_refused() {
    let refused = |method, train, target, count| {
        Sampler::new(method, train, target, count, ChunkLengths::Paper, Content::Uniform)
            .unwrap_err()
            .to_string()
    };
    let cream = refused(Method::Cream, 64, 600, 0);
    assert!(cream.starts_with("--target-len 600: --method cream keeps"), "{cream}");
    let longest = 511;
    assert!(cream.contains(&format!("at most {longest}")), "{cream}");
    sampler(Method::Cream, 64, longest, 0).placement(0, 0, 0);
    assert!(refused(Method::Cream, 64, longest + 1, 0).contains("leaves none"));
    assert!(refused(Method::Balanced, 2048, 4096, 65).contains("at most 64 chunks"));
    let far = refused(Method::Balanced, 64, 131072, 2);
    assert!(far.starts_with("--target-len 131072: --method balanced spreads rows of 64 tokens"), "{far}");
    assert!(far.contains("at most 32768, raise --train-len to at least 256, or take --method pose"), "{far}");
    assert!(refused(Method::Balanced, 64, 32769, 3).contains("at most 32768"));
    let many = refused(Method::Balanced, 2048, 1 << 20, 64);
    assert!(many.starts_with("--chunks 64: --method balanced would take minutes"), "{many}");
    for (train, target, count) in
        [(64, 32768, 2), (64, 32768, 3), (2048, 1 << 20, 2), (2048, 1 << 20, 8), (2048, 1 << 15, 64)]
    {
        // the furthest that each can: quick to say, and placed when the first row is drawn
        sampler(Method::Balanced, train, target, count);
    }
    assert!(refused(Method::Axolotl, 2048, 4096, 1).starts_with("--chunks 1: --method axolotl skips"));
    assert!(refused(Method::Adaptive, 8, 4096, 9).contains("a window of 8 tokens"));
}

#[test]
fn a_recipe_file_names_the_nearest_method() {
    let error = Method::try_from("balance".to_string()).unwrap_err();
    assert!(
        error.contains("cream, longrecipe, axolotl, balanced, adaptive; the nearest is balanced"),
        "{error}"
    );
    for method in LATER {
        assert_eq!(Method::try_from(method.to_string()), Ok(method));
    }
}

#[test]
fn coverage_of_later_methods_counts_the_very_rows() {
    for method in LATER {
        let sampler = sampler(method, 40, 129, 3);
        let mut expected = vec![0.0; 129];
        for row in 0..50 {
            let seen = distances(&sampler.placement(11, 0, row).positions(40), 129);
            expected.iter_mut().zip(seen).for_each(|(count, seen)| *count += f64::from(u8::from(seen)));
        }
        expected.iter_mut().for_each(|count| *count /= 50.0);
        assert_eq!(Coverage::drawn(&sampler, 11, 50).probability, expected, "{method}");
    }
}
