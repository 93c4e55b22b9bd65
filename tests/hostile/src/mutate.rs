//! Damage, the same for the same number: what a tester without a coverage-guided fuzzer would try.

use pose_engine::random::{Purpose, Stream};

/// Numbers that lie where lengths and counts go wrong.
const NUMBERS: [u64; 9] =
    [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF, u64::MAX, u64::MAX / 4 + 1];
/// What stands between or within the words of a text.
const WORDS: [&str; 12] =
    ["{", "[", "\"", "\\u0000", "1e999", "-1", "null", "18446744073709551615", "../", "\u{1b}[2J", "\n", ""];

/// A file with some of its bytes changed, cut, doubled, or exchanged for those of another.
pub fn mutate(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Stream::new(number, Purpose::Task, 0, 0);
    let mut bytes = seeds[random.below_usize(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        change(&mut bytes, seeds, &mut random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Stream) {
    let at = random.below_usize(bytes.len() + 1);
    let end = (at + random.below_usize(32)).min(bytes.len());
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 => {
            let number = NUMBERS[random.below_usize(NUMBERS.len())].to_le_bytes();
            let size = [1, 2, 4, 8][random.below_usize(4)].min(bytes.len() - at);
            bytes[at..at + size].copy_from_slice(&number[..size]);
        }
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        5 => {
            let other = &seeds[random.below_usize(seeds.len())];
            let from = random.below_usize(other.len() + 1);
            let part = &other[from..(from + 64).min(other.len())];
            bytes.splice(at..end, part.iter().copied());
        }
        _ => {
            let word = WORDS[random.below_usize(WORDS.len())];
            bytes.splice(at..end, word.bytes());
        }
    }
}
