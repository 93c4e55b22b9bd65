//! Randomness as a function, not a state: what is drawn depends on (seed, purpose, step, row, draw) and on nothing else,
//! so it is the same on any number of threads and exact after a resume.
//!
//! Philox4x32-10 of Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC'11): ten rounds of a
//! keyed bijection on 128 bits. The key is the seed; the counter says which number is wanted.

/// What numbers are drawn for. Two purposes never share a number. The values are part of the format of a resumed run:
/// add new ones at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Chunk lengths, skipping biases, positions.
    Positions = 0,
    /// Where in a document the chunks are cut.
    Content = 1,
    /// Which document a row is cut from.
    Document = 2,
    /// Initial weights.
    Init = 3,
    /// Tokens drawn in generation.
    Sampling = 4,
    /// Evaluation tasks.
    Task = 5,
    /// Whether a code of an optimizer's moment is rounded up or down.
    Rounding = 6,
    /// Which corpus of a mixture a row is cut from.
    Corpus = 7,
}

/// One block: 128 random bits for a 64-bit key and a 128-bit counter, words in the order of the Random123 library.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox4x32_lanes(counter.map(|word| [word]), key).map(|[word]| word)
}

/// N blocks beside each other, for the compiler to vectorise: word w of block l is `[w][l]`, in and out.
#[inline(always)]
pub fn philox4x32_lanes<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let ([mut x0, mut x1, mut x2, mut x3], [mut k0, mut k1]) = (counters, key);
    for _ in 0..10 {
        for l in 0..N {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(x0[l]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(x2[l]);
            (x0[l], x2[l]) = ((p1 >> 32) as u32 ^ x1[l] ^ k0, (p0 >> 32) as u32 ^ x3[l] ^ k1);
            (x1[l], x3[l]) = (p1 as u32, p0 as u32);
        }
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [x0, x1, x2, x3]
}

/// The numbers of one (seed, purpose, step, row), one after the other. 2^34 words of 32 bits, then it starts again.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    /// Words 1 to 3 of the counter: row, step, purpose with the step's high bits.
    place: [u32; 3],
    /// The next block to compute.
    draw: u32,
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream's first number comes next. `step` counts up to 2^56; higher bits are ignored.
    pub fn new(seed: u64, purpose: Purpose, step: u64, row: u32) -> Self {
        let high = (purpose as u32) << 24 | (step >> 32) as u32 & 0x00FF_FFFF;
        let place = [row, step as u32, high];
        Stream { key: [seed as u32, (seed >> 32) as u32], place, draw: 0, block: [0; 4], used: 4 }
    }

    /// The same stream from its block `draw` on (four words of 32 bits a block), to share out a long run of numbers.
    pub fn from_draw(mut self, draw: u32) -> Self {
        (self.draw, self.used) = (draw, 4);
        self
    }

    /// The stream's blocks `draw..draw + N`, as [`philox4x32_lanes`] leaves them: its word 4·(draw + l) + w is `[w][l]`.
    #[inline(always)]
    pub fn lanes<const N: usize>(&self, draw: u32) -> [[u32; N]; 4] {
        let [row, step, high] = self.place;
        let draws = std::array::from_fn(|l| draw.wrapping_add(l as u32));
        philox4x32_lanes([draws, [row; N], [step; N], [high; N]], self.key)
    }

    /// Key, and words 1 to 3 of the counter, whose word 0 is the draw: for who computes the stream elsewhere.
    pub fn coordinates(&self) -> ([u32; 2], [u32; 3]) {
        (self.key, self.place)
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let [row, step, high] = self.place;
            self.block = philox4x32([self.draw, row, step, high], self.key);
            self.draw = self.draw.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// 64 random bits, the low word first.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// A whole number from 0 to n-1, each with the same probability (Lemire, 1805.10941); 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Of the 2^64 products x·n, each high half must keep equally many; the 2^64 mod n surplus ones have a small
        // low half and are drawn again.
        let surplus = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= surplus {
                return (product >> 64) as u64;
            }
        }
    }

    /// [`Stream::below`] for sizes.
    pub fn below_usize(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// A multiple of 2^-53 from [0, 1).
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A place in `weights`, each with a probability proportional to its weight: none negative, their sum finite and
    /// above 0.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit_f64() * weights.iter().sum::<f64>();
        let passed = |w: &f64| {
            left -= w;
            left < 0.0
        };
        // what rounding leaves over goes to the last that can be drawn at all
        let last = || weights.iter().rposition(|w| *w > 0.0).unwrap_or(0);
        weights.iter().position(passed).unwrap_or_else(last)
    }

    /// Mean 0, variance 1 (Box & Muller). Takes exactly one block, so that a stream of normals can be entered anywhere
    /// by [`Stream::from_draw`]; the second number that the method offers is left.
    pub fn normal(&mut self) -> f64 {
        // 1 - u is never 0, whose logarithm would be infinite.
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit_f64()).cos()
    }

    /// `count` different numbers below `n` in ascending order, every such set with the same probability (Floyd's
    /// algorithm F2, CACM 30(9), 1987). All n of them where `count` is larger.
    pub fn distinct_sorted(&mut self, count: usize, n: usize) -> Vec<usize> {
        let mut chosen = std::collections::BTreeSet::new();
        for top in n - count.min(n)..n {
            let draw = self.below_usize(top + 1);
            if !chosen.insert(draw) {
                chosen.insert(top);
            }
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows "philox4x32 10" of tests/kat_vectors in the Random123 distribution.
    #[test]
    fn known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32(counter, key), answer);
        }
    }

    #[test]
    fn every_coordinate_matters() {
        let first = |seed, purpose, step, row| Stream::new(seed, purpose, step, row).next_u64();
        let all = [
            first(1, Purpose::Positions, 1, 1),
            first(2, Purpose::Positions, 1, 1),
            first(1 | 1 << 40, Purpose::Positions, 1, 1),
            first(1, Purpose::Content, 1, 1),
            first(1, Purpose::Positions, 2, 1),
            first(1, Purpose::Positions, 1 | 1 << 40, 1),
            first(1, Purpose::Positions, 1, 2),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(first(1, Purpose::Positions, 1, 1), all[0]);
    }

    #[test]
    fn a_stream_can_be_entered_anywhere() {
        let stream = Stream::new(7, Purpose::Init, 0, 3);
        let mut whole = stream.clone();
        let normals: Vec<f64> = (0..10).map(|_| whole.normal()).collect();
        let mut late = stream.clone().from_draw(6);
        assert_eq!(late.normal(), normals[6]);
        let (lanes, mut words) = (stream.lanes::<8>(3), stream.from_draw(3));
        for l in 0..8 {
            assert_eq!(lanes.map(|word| word[l]), [0; 4].map(|_| words.next_u32()));
        }
    }

    #[test]
    fn below_is_uniform_and_refuses_nothing() {
        let mut stream = Stream::new(5, Purpose::Task, 0, 0);
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.below(1), 0);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[stream.below_usize(7)] += 1);
        // 6 degrees of freedom: chi-square above 22.5 has probability 0.001.
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 22.5, "{counts:?}");
        // 3·2^62 is where a plain remainder would give the lower third twice as often.
        let n = 3u64 << 62;
        let low = (0..30_000).filter(|_| stream.below(n) < n / 3).count();
        assert!((9_600..10_400).contains(&low), "{low}");
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        let mut stream = Stream::new(9, Purpose::Init, 0, 0);
        let n = 100_000;
        let x: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let moment = |k| x.iter().map(|x| x.powi(k)).sum::<f64>() / f64::from(n);
        assert!(moment(1).abs() < 0.015 && (moment(2) - 1.0).abs() < 0.025 && (moment(4) - 3.0).abs() < 0.2);
    }

    #[test]
    fn distinct_numbers_are_distinct_sorted_and_uniform() {
        let mut stream = Stream::new(3, Purpose::Positions, 0, 0);
        assert_eq!(stream.distinct_sorted(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(stream.distinct_sorted(9, 2), [0, 1]);
        assert!(stream.distinct_sorted(0, 0).is_empty());
        let mut counts = std::collections::HashMap::new();
        for _ in 0..20_000 {
            *counts.entry(stream.distinct_sorted(2, 5)).or_insert(0) += 1;
        }
        // All 10 pairs, about 2000 times each (standard deviation 42).
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|c| (1_800..2_200).contains(c)), "{counts:?}");
        assert!(counts.keys().all(|pair| pair[0] < pair[1]));
    }
}
