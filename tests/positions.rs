//! The positions that training rows get are the paper's: their form for every seed, their distribution against its formulas,
//! and the distances they cover.

use pose_engine::error::Error;
use pose_engine::index::{ChunkSpan, RopePosition, SeqIndex};
use pose_engine::positions::coverage::Coverage;
use pose_engine::positions::{ChunkLengths, Content, Method, Placement, Sample, Sampler, rope_positions};
use proptest::prelude::*;

#[path = "positions/later.rs"]
mod later;

const LENGTHS: [ChunkLengths; 2] = [ChunkLengths::Paper, ChunkLengths::Reference];
const CONTENT: [Content; 3] = [Content::Uniform, Content::Contiguous, Content::Aligned];

fn pose(train: usize, target: usize, chunks: usize, lengths: ChunkLengths, content: Content) -> Sampler {
    Sampler::new(Method::Pose, train, target, chunks, lengths, content).unwrap()
}

fn spans(placement: &Placement) -> &[ChunkSpan] {
    match placement {
        Placement::Spans(spans) => spans,
        Placement::List(_) => panic!("a list where spans were expected"),
    }
}

/// Lengths l_i and biases u_i of one row.
fn chunks(sampler: &Sampler, row: u32) -> (Vec<usize>, Vec<usize>) {
    let placement = sampler.placement(1, 0, row);
    let spans = spans(&placement);
    let ends = spans[1..].iter().map(|s| s.start.0 as usize).chain([sampler.window()]);
    let lengths = spans.iter().zip(ends).map(|(s, end)| end - s.start.0 as usize).collect();
    (lengths, spans.iter().map(|s| s.bias as usize).collect())
}

fn check_content(sampler: &Sampler, sample: &Sample, document_len: usize) {
    assert_eq!(sample.content.iter().map(|range| range.len()).sum::<usize>(), sampler.window());
    assert!(sample.content.windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert!(sample.content.last().unwrap().end < document_len, "the last target is inside the document");
}

proptest! {
    #[test]
    fn pose_rows_have_the_papers_form(
        seed: u64, step in 0u64..1 << 40, row: u32, chunk_count in 2usize..=8, train in 8usize..300, skip in 0usize..5000,
        spare in 0usize..3000, lengths in prop::sample::select(&LENGTHS), content in prop::sample::select(&CONTENT),
    ) {
        let (target, document_len) = (train + skip, train + 1 + spare);
        let sampler = pose(train, target, chunk_count, lengths, content);
        let sample = sampler.sample(seed, step, row, document_len).unwrap();
        let spans = spans(&sample.placement);
        prop_assert_eq!(spans.len(), chunk_count);
        prop_assert_eq!(sampler.spans_per_row(), Some(chunk_count));
        prop_assert_eq!(spans[0], ChunkSpan::default(), "starts at 0 with u_0 = 0");
        prop_assert!(spans.windows(2).all(|s| s[0].start < s[1].start && s[0].bias <= s[1].bias));
        prop_assert!((spans[chunk_count - 1].start.0 as usize) < train, "the last chunk has a token");

        let positions = sample.placement.positions(train);
        prop_assert_eq!(positions.len(), train);
        prop_assert!(positions.windows(2).all(|p| p[0] < p[1]));
        prop_assert!((positions[train - 1].0 as usize) < target);
        let starts_chunk = |t: usize| spans.iter().any(|s| s.start.0 as usize == t);
        prop_assert!((1..train).all(|t| starts_chunk(t) || positions[t].0 == positions[t - 1].0 + 1));

        check_content(&sampler, &sample, document_len);
        let ranges = &sample.content;
        let starts: Vec<usize> = spans.iter().map(|s| s.start.0 as usize).chain([train]).collect();
        prop_assert!((0..chunk_count).all(|i| ranges[i].len() == starts[i + 1] - starts[i]));
        let gap = |i: usize| ranges[i].start - ranges[i - 1].end;
        match content {
            Content::Contiguous => prop_assert!((1..chunk_count).all(|i| gap(i) == 0)),
            Content::Aligned if spans[chunk_count - 1].bias as usize <= spare => {
                prop_assert!((1..chunk_count).all(|i| gap(i) == (spans[i].bias - spans[i - 1].bias) as usize));
            }
            Content::Aligned => prop_assert_eq!(ranges[chunk_count - 1].end + 1, document_len, "clipped to fit"),
            Content::Uniform => (),
        }
        // One row alone, without its content, is the same again.
        prop_assert_eq!(sampler.placement(seed, step, row), sample.placement);
    }

    #[test]
    fn other_methods_have_their_form(seed: u64, row: u32, train in 2usize..300, skip in 0usize..5000, spare in 0usize..50) {
        let target = train + skip;
        for method in [Method::Full, Method::Plain, Method::RandPos] {
            // Chunks are no matter to them.
            let sampler = Sampler::new(method, train, target, 0, ChunkLengths::Paper, Content::Uniform).unwrap();
            let window = if method == Method::Full { target } else { train };
            prop_assert_eq!((sampler.window(), sampler.document_len()), (window, window + 1));
            let sample = sampler.sample(seed, 3, row, window + 1 + spare).unwrap();
            check_content(&sampler, &sample, window + 1 + spare);
            prop_assert_eq!(sample.content.len(), 1);
            let positions = sample.placement.positions(window);
            if method == Method::RandPos {
                prop_assert_eq!(sampler.spans_per_row(), None);
                prop_assert_eq!(positions.len(), train);
                prop_assert!(positions.windows(2).all(|p| p[0] < p[1]) && (positions[train - 1].0 as usize) < target);
            } else {
                prop_assert!(positions.into_iter().eq((0..window as u32).map(RopePosition)));
            }
        }
    }
}

/// Pearson's statistic of drawn values against a distribution over 0..probability.len(), and what it exceeds with a
/// probability of 1e-4 where they agree (Wilson & Hilferty).
fn chi_square(values: &[usize], probability: &[f64]) -> (f64, f64) {
    let mut counts = vec![0.0; probability.len()];
    values.iter().for_each(|&v| counts[v] += 1.0);
    let n = values.len() as f64;
    let cells = counts.iter().zip(probability).filter(|(count, p)| **p > 0.0 || **count > 0.0);
    let statistic = cells.map(|(count, p)| (count - n * p).powi(2) / (n * p)).sum();
    let freedom = probability.iter().filter(|p| **p > 0.0).count() as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    (statistic, freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3))
}

fn assert_follows(values: &[usize], probability: &[f64]) {
    assert!((probability.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let (statistic, bound) = chi_square(values, probability);
    assert!(statistic < bound, "chi-square {statistic} over {bound}");
}

/// The same test refuses a formula that is wrong.
fn assert_refuses(values: &[usize], probability: &[f64]) {
    let (statistic, bound) = chi_square(values, probability);
    assert!(statistic > 3.0 * bound, "chi-square {statistic} near {bound}");
}

/// Uniform over `range`, as an array over 0..len.
fn uniform(range: std::ops::RangeInclusive<usize>, len: usize) -> Vec<f64> {
    let p = 1.0 / range.clone().count() as f64;
    (0..len).map(|v| if range.contains(&v) { p } else { 0.0 }).collect()
}

const ROWS: u32 = 40_000;

#[test]
fn first_chunk_is_as_long_as_the_paper_says() {
    let first = |lengths| {
        let sampler = pose(33, 200, 2, lengths, Content::Uniform);
        (0..ROWS).map(|row| chunks(&sampler, row).0[0]).collect::<Vec<_>>()
    };
    let (paper, reference) = (uniform(1..=32, 33), uniform(1..=17, 33));
    assert_follows(&first(ChunkLengths::Paper), &paper);
    assert_follows(&first(ChunkLengths::Reference), &reference);
    assert_refuses(&first(ChunkLengths::Paper), &reference);
    assert_refuses(&first(ChunkLengths::Reference), &paper);
    // One token less at an end is noticed too.
    assert_refuses(&first(ChunkLengths::Paper), &uniform(1..=31, 33));
}

#[test]
fn more_chunks_split_the_window_uniformly() {
    let sampler = pose(8, 20, 3, ChunkLengths::Paper, Content::Uniform);
    let rows: Vec<Vec<usize>> = (0..ROWS).map(|row| chunks(&sampler, row).0).collect();
    let splits: Vec<Vec<usize>> =
        (1..=6).flat_map(|a| (1..=7 - a).map(move |b| vec![a, b, 8 - a - b])).collect();
    let index: Vec<usize> =
        rows.iter().map(|row| splits.iter().position(|split| split == row).unwrap()).collect();
    assert_eq!(splits.len(), 21);
    assert_follows(&index, &uniform(0..=20, 21));
    // Not so the rule l_0 ~ U{1..6}, l_1 ~ U{1..what is left}.
    let greedy: Vec<f64> = splits.iter().map(|split| 1.0 / 6.0 / (7 - split[0]) as f64).collect();
    assert_refuses(&index, &greedy);
}

#[test]
fn reference_lengths_for_more_chunks_are_an_even_share_at_most() {
    for (train, count, limit) in [(30, 3, 10), (31, 3, 11), (5, 4, 1), (8, 8, 1)] {
        let sampler = pose(train, 100, count, ChunkLengths::Reference, Content::Uniform);
        let rows: Vec<Vec<usize>> = (0..5_000).map(|row| chunks(&sampler, row).0).collect();
        for i in 0..count - 1 {
            let values: Vec<usize> = rows.iter().map(|row| row[i]).collect();
            assert_eq!((values.iter().min(), values.iter().max()), (Some(&1), Some(&limit)));
        }
        assert!(rows.iter().all(|row| row[count - 1] >= 1 && row.iter().sum::<usize>() == train));
    }
}

#[test]
fn skipping_biases_follow_the_papers_formula() {
    let longest = 40;
    let sampler = pose(16, 16 + longest, 3, ChunkLengths::Paper, Content::Uniform);
    let rows: Vec<Vec<usize>> = (0..ROWS).map(|row| chunks(&sampler, row).1).collect();
    let bias = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<_>>();
    assert_follows(&bias(1), &uniform(0..=longest, longest + 1));
    assert_refuses(&bias(1), &uniform(0..=longest - 1, longest + 1));
    // u_2 ~ U{u_1..longest}: P(k) is the mean over u_1 = j <= k of 1/(longest - j + 1).
    let n = longest + 1;
    let second: Vec<f64> =
        (0..n).map(|k| (0..=k).map(|j| 1.0 / (n - j) as f64).sum::<f64>() / n as f64).collect();
    assert_follows(&bias(2), &second);
    // The larger of two uniform values is another distribution.
    let larger: Vec<f64> = (0..n).map(|k| (2 * k + 1) as f64 / (n * n) as f64).collect();
    assert_refuses(&bias(2), &larger);
    // Lengths say nothing about biases.
    let (long, short): (Vec<u32>, Vec<u32>) = (0..ROWS).partition(|&row| chunks(&sampler, row).0[0] > 4);
    for rows in [long, short] {
        let values: Vec<usize> = rows.iter().map(|&row| chunks(&sampler, row).1[1]).collect();
        assert_follows(&values, &uniform(0..=longest, n));
    }
}

#[test]
fn content_is_drawn_from_the_whole_document() {
    let (train, room) = (16, 60);
    let offsets = |content, target| {
        let sampler = pose(train, target, 3, ChunkLengths::Paper, content);
        let sample = |row| sampler.sample(1, 0, row, train + 1 + room).unwrap();
        let offsets = |sample: Sample| -> Vec<usize> {
            let starts = spans(&sample.placement).iter().map(|s| s.start.0 as usize);
            sample.content.iter().zip(starts).map(|(range, start)| range.start - start).collect()
        };
        (0..ROWS).map(sample).map(offsets).collect::<Vec<_>>()
    };
    let even = uniform(0..=room, room + 1);
    let contiguous = offsets(Content::Contiguous, 50);
    assert!(contiguous.iter().all(|v| v[0] == v[1] && v[1] == v[2]));
    assert_follows(&contiguous.iter().map(|v| v[0]).collect::<Vec<_>>(), &even);
    // Any chunk of uniform content lies evenly in the document, ...
    let uniform = offsets(Content::Uniform, 50);
    let any: Vec<usize> = uniform.iter().enumerate().map(|(row, v)| v[row % 3]).collect();
    assert_follows(&any, &even);
    // ... and which one it is tells: the last is the largest of three.
    assert_refuses(&uniform.iter().map(|v| v[2]).collect::<Vec<_>>(), &even);
}

#[test]
fn rows_are_the_same_from_several_threads_and_alone() {
    let sampler = pose(64, 4096, 4, ChunkLengths::Paper, Content::Uniform);
    let draw = |row| sampler.sample(42, 9, row, 10_000).unwrap();
    let in_order: Vec<Sample> = (0..400).map(draw).collect();
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..4)
            .map(|t| scope.spawn(move || (t..400).step_by(4).rev().map(draw).collect::<Vec<_>>()))
            .collect();
        for (t, job) in jobs.into_iter().enumerate() {
            let rows: Vec<Sample> = job.join().unwrap();
            assert!(rows.iter().rev().eq(in_order[t..].iter().step_by(4)));
        }
    });
    assert_eq!(draw(399), in_order[399]);
    // Rows, steps and seeds differ from each other.
    let others = [
        sampler.sample(42, 9, 1, 10_000),
        sampler.sample(42, 10, 0, 10_000),
        sampler.sample(43, 9, 0, 10_000),
    ];
    assert!(others.into_iter().all(|other| other.unwrap() != in_order[0]));
}

#[test]
fn what_is_drawn_stays_the_same_from_version_to_version() {
    // A run that is resumed by a later version must meet the same rows: a change here breaks every checkpoint.
    let sampler = pose(2048, 16_384, 2, ChunkLengths::Paper, Content::Uniform);
    let sample = sampler.sample(42, 7, 3, 100_000).unwrap();
    let expected = [ChunkSpan::default(), ChunkSpan { start: SeqIndex(1229), bias: 13_475 }];
    assert_eq!((spans(&sample.placement), sample.content), (&expected[..], vec![69..1298, 30_505..31_324]));
}

#[test]
fn positions_of_spans() {
    let span = |start, bias| ChunkSpan { start: SeqIndex(start), bias };
    let positions =
        |spans: &[ChunkSpan], len| rope_positions(spans, len).into_iter().map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(positions(&[span(0, 0), span(2, 5), span(3, 5)], 5), [0, 1, 7, 8, 9]);
    assert!(positions(&[span(0, 0)], 0).is_empty());
    assert!(positions(&[], 0).is_empty());
}

#[test]
fn what_cannot_be_drawn_is_refused_with_the_flag() {
    let refused = |train, target, chunks| match Sampler::new(
        Method::Pose,
        train,
        target,
        chunks,
        ChunkLengths::Paper,
        Content::Uniform,
    ) {
        Err(Error::Usage { flag, value, problem }) => format!("{flag} {value}: {problem}"),
        other => panic!("{other:?}"),
    };
    assert!(
        refused(2048, 1024, 2)
            .starts_with("--target-len 1024: the target is shorter than the training window of 2048")
    );
    assert!(refused(2048, 4096, 1).starts_with("--chunks 1: PoSE skips between chunks"));
    assert!(refused(2048, 4096, 0).starts_with("--chunks 0"));
    assert!(refused(4, 4096, 5).starts_with("--chunks 5: a window of 4 tokens"));
    assert!(refused(1, 4096, 2).starts_with("--train-len 1: "));
    assert!(refused(2048, 1 << 33, 2).starts_with("--target-len 8589934592: "));
    let short =
        pose(16, 64, 2, ChunkLengths::Paper, Content::Uniform).sample(0, 0, 0, 16).unwrap_err().to_string();
    assert!(short.contains("17 tokens") && short.contains("this one has 16"), "{short}");
}

/// Every distance between two tokens of a row, by trying all pairs.
fn distances(positions: &[RopePosition], target: usize) -> Vec<bool> {
    let mut seen = vec![false; target];
    for (i, late) in positions.iter().enumerate() {
        positions[..=i].iter().for_each(|early| seen[(late.0 - early.0) as usize] = true);
    }
    seen
}

#[test]
fn coverage_counts_the_pairs_of_the_very_rows() {
    let lengths = ChunkLengths::Paper;
    for (method, count) in
        [(Method::Pose, 2), (Method::Pose, 5), (Method::RandPos, 0), (Method::Full, 0), (Method::Plain, 0)]
    {
        for (train, target) in [(16, 200), (16, 17), (63, 64), (64, 64), (40, 129)] {
            let sampler = Sampler::new(method, train, target, count, lengths, Content::Uniform).unwrap();
            let mut expected = vec![0.0; target];
            for row in 0..50 {
                let positions = sampler.placement(11, 0, row).positions(sampler.window());
                let seen = distances(&positions, target);
                expected
                    .iter_mut()
                    .zip(seen)
                    .for_each(|(count, seen)| *count += if seen { 1.0 } else { 0.0 });
            }
            expected.iter_mut().for_each(|count| *count /= 50.0);
            assert_eq!(
                Coverage::drawn(&sampler, 11, 50).probability,
                expected,
                "{method:?} {count} {train} {target}"
            );
        }
    }
}

#[test]
fn drawn_coverage_meets_the_formula() {
    for lengths in LENGTHS {
        for (train, target) in [(32, 256), (33, 90), (2, 10), (64, 64)] {
            let sampler = pose(train, target, 2, lengths, Content::Uniform);
            let rows = 20_000;
            let (exact, drawn) = (Coverage::exact(&sampler).unwrap(), Coverage::drawn(&sampler, 5, rows));
            // Five standard deviations of a mean over `rows` rows.
            let apart = |exact: &Coverage| {
                let far = |(p, q): &(&f64, &f64)| {
                    let deviation = (*p * (1.0 - *p) / rows as f64).sqrt();
                    (*p - *q).abs() > 5.0 * deviation + 1e-9
                };
                exact.probability.iter().zip(&drawn.probability).filter(far).count()
            };
            assert_eq!(apart(&exact), 0, "{lengths:?} {train} {target}");
            // The other rule's formula is noticed where it differs.
            let other =
                if lengths == ChunkLengths::Paper { ChunkLengths::Reference } else { ChunkLengths::Paper };
            let other = Coverage::exact(&pose(train, target, 2, other, Content::Uniform)).unwrap();
            let differs = exact.probability.iter().zip(&other.probability).any(|(p, q)| (p - q).abs() > 0.03);
            assert!(!differs || apart(&other) > 0);
        }
    }
}

#[test]
fn coverage_summaries() {
    let summary = |method, count| {
        let sampler = Sampler::new(method, 16, 64, count, ChunkLengths::Paper, Content::Uniform).unwrap();
        (Coverage::drawn(&sampler, 1, 2_000).summary(), Coverage::exact(&sampler))
    };
    let (plain, exact) = summary(Method::Plain, 0);
    assert_eq!(
        (plain.min, plain.mean, plain.never.as_slice()),
        (0.0, 15.0 / 63.0, std::slice::from_ref(&(16..64)))
    );
    assert_eq!(exact.unwrap().summary(), plain);
    let (full, exact) = summary(Method::Full, 0);
    assert_eq!((full.min, full.mean, full.never.len()), (1.0, 1.0, 0));
    assert_eq!(exact.unwrap().summary(), full);
    let (pose, _) = summary(Method::Pose, 2);
    assert!(pose.min > 0.0 && pose.never.is_empty(), "PoSE trains every distance: {pose:?}");
    assert!(summary(Method::RandPos, 0).1.is_none());
}
