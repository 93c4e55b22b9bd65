//! Text: lines of JSON, questions, compressed files, and the cache of tokens.

use super::texts;
use crate::budget::Budget;
use crate::{Desk, Target};
use pose_engine::data::cache::{self, Key};
use pose_engine::data::documents::Source;
use pose_engine::data::{Tokenizer, bytes_as_json};
use pose_engine::eval::tasks::{self, Format};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

pub const JSONL: Target = Target { name: "jsonl", read: jsonl, seeds: jsonl_seeds, budget: Budget::PARSED };
pub const TASK: Target = Target { name: "task", read: task, seeds: task_seeds, budget: Budget::PARSED };
/// What compressed files may become here.
const LIMIT: u64 = 1 << 20;
/// That, twice while a growing text moves.
const GUNZIPPED: Budget = Budget { base: 16 << 20, times: 128 };
/// And the 128 MiB that a frame may have the decoder keep, three times while that moves to twice as much.
const DECOMPRESSED: Budget = Budget { base: 400 << 20, times: 128 };
pub const GZIP: Target = Target { name: "gzip", read: gzip, seeds: gzip_seeds, budget: GUNZIPPED };
pub const ZSTD: Target = Target { name: "zstd", read: zstd, seeds: zstd_seeds, budget: DECOMPRESSED };
pub const TOKEN_CACHE: Target =
    Target { name: "token_cache", read: token_cache, seeds: token_cache_seeds, budget: Budget::PARSED };

/// That of the presets, by the library that reads all others.
fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        Tokenizer::from_json(bytes_as_json().as_bytes(), Path::new("bytes")).expect("our own tokenizer")
    })
}

fn documents(desk: &Desk, name: &str, bytes: &[u8]) {
    let path = desk.lay(name, bytes);
    let source = Source::of(&path).expect("a kind of file that is read");
    let source = Source { max_decompressed: Some(LIMIT), ..source };
    let mut total = 0;
    let _ = source.read("text", &mut |text| {
        total += text.text.len() as u64;
        tokenizer().encode(&text.text).map(drop)
    });
    assert!(total <= LIMIT.max(bytes.len() as u64), "{total} bytes of a file of {}", bytes.len());
}

fn jsonl(desk: &Desk, bytes: &[u8]) {
    documents(desk, "a.jsonl", bytes);
    documents(desk, "a.txt", bytes);
}

const LINES: &str =
    "{\"text\": \"one\", \"n\": [1, {\"a\": null}]}\n\n{\"text\": \"two \\u00e9\\ud83d\\ude00\"}\r\n";

fn jsonl_seeds() -> Vec<Vec<u8>> {
    texts(&[LINES, "\u{FEFF}{\"text\": \"\"}", "{\"other\": 1}\n"])
}

/// From one format to the next: so written, a new one does not compile until it has its place.
fn after(format: Format) -> Option<Format> {
    match format {
        Format::Plain => Some(Format::Boolq),
        Format::Boolq => Some(Format::Piqa),
        Format::Piqa => Some(Format::Winogrande),
        Format::Winogrande => Some(Format::TruthfulqaMc1),
        Format::TruthfulqaMc1 => Some(Format::TruthfulqaMc2),
        Format::TruthfulqaMc2 => Some(Format::Arc),
        Format::Arc => Some(Format::Hellaswag),
        Format::Hellaswag => None,
    }
}

fn task(desk: &Desk, bytes: &[u8]) {
    let path = desk.lay("a.jsonl", bytes);
    for format in std::iter::successors(Some(Format::Plain), |&format| after(format)) {
        for question in tasks::read(&path, format, " ", None).into_iter().flatten() {
            let _ = (question.context(0), question.continuation(0), question.answered(), question.check());
        }
    }
}

fn task_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"context": "2 + 2 =", "choices": ["3", "4"], "answer": 1}"#,
        r#"{"context": "c", "choices": ["3", "4"], "labels": [0, 1]}"#,
        r#"{"passage": "p", "question": "q", "label": 1}"#,
        r#"{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}"#,
        r#"{"sentence": "The _ ran.", "option1": "fox", "option2": "hill", "answer": "1"}"#,
        r#"{"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}, "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}}"#,
        r#"{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}"#,
        r#"{"activity_label": "Run", "ctx_a": "A man", "ctx_b": "he", "endings": ["runs", "[title] sits"], "label": "0"}"#,
    ])
}

/// Decompressing takes its time, so each file is read as one of both.
fn of_either_kind<'a>(bytes: &[u8], names: [&'a str; 2]) -> &'a str {
    names[bytes.len() % 2]
}

fn gzip(desk: &Desk, bytes: &[u8]) {
    documents(desk, of_either_kind(bytes, ["a.jsonl.gz", "a.txt.gz"]), bytes);
}

fn gzip_seeds() -> Vec<Vec<u8>> {
    let packed = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).and_then(|()| encoder.finish()).expect("a stream")
    };
    let (lines, zeros) = (packed(LINES.as_bytes()), packed(&[b'a'; 70_000]));
    vec![[&lines[..], &lines].concat(), lines, zeros]
}

fn zstd(desk: &Desk, bytes: &[u8]) {
    documents(desk, of_either_kind(bytes, ["a.jsonl.zst", "a.txt.zst"]), bytes);
}

fn zstd_seeds() -> Vec<Vec<u8>> {
    let packed =
        |text: &[u8]| ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest);
    let long: String = (0..400).map(|i| format!("{{\"text\": \"line {i} of many\"}}\n")).collect();
    let skippable =
        [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &packed(LINES.as_bytes())].concat();
    vec![packed(LINES.as_bytes()), packed(long.as_bytes()), packed(&[b'a'; 70_000]), skippable]
}

/// Bytes of a cache file before its table.
const HEADER: usize = 96;

/// As it is, and with the key and the hash that would make it pass for ours.
fn token_cache(desk: &Desk, bytes: &[u8]) {
    let source = Source::of(&desk.lay("of.txt", b"text")).expect("a kind of file that is read");
    let key = Key::of(&source, &Tokenizer::bytes(), "text", None, None).expect("a readable file");
    let path = key.path(desk.path());
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    desk.lay(name, bytes);
    let _ = cache::read(desk.path(), key, 258);
    if bytes.len() >= HEADER {
        let mut sealed = bytes.to_vec();
        let stem = name.trim_end_matches(".tokens").as_bytes().chunks_exact(2);
        let key_bytes = stem.map(|hex| {
            let hex = std::str::from_utf8(hex).expect("hexadecimal");
            u8::from_str_radix(hex, 16).expect("hexadecimal")
        });
        sealed.splice(32..64, key_bytes);
        let hash = blake3::hash(&sealed[HEADER..]);
        sealed[64..96].copy_from_slice(hash.as_bytes());
        desk.lay(name, &sealed);
        let _ = cache::read(desk.path(), key, 258);
    }
}

fn token_cache_seeds() -> Vec<Vec<u8>> {
    let file = |documents: &[(u64, &[u32])]| {
        let tokens: u64 = documents.iter().map(|(_, tokens)| tokens.len() as u64).sum();
        let mut bytes = b"POSETOKS".to_vec();
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend((documents.len() as u64).to_le_bytes());
        bytes.extend(tokens.to_le_bytes());
        bytes.extend([0; 64]);
        documents.iter().for_each(|(line, tokens)| {
            bytes.extend(line.to_le_bytes());
            bytes.extend((tokens.len() as u64).to_le_bytes());
        });
        documents.iter().flat_map(|(_, tokens)| *tokens).for_each(|t| bytes.extend(t.to_le_bytes()));
        bytes
    };
    vec![file(&[(0, &[1, 2, 3])]), file(&[(1, &[256, 5]), (2, &[]), (9, &[7])]), file(&[])]
}
