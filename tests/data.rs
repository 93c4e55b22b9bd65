//! Documents become the same rows however they are packed, and whatever is wrong with a file is said in one sentence.

use pose_engine::data::documents::{self, Source};
use pose_engine::data::tokenizer::{Tokenizer, bytes_as_json};
use pose_engine::data::{BatchPlaces, Corpus, Document, LoadOptions, Loader, Progress};
use pose_engine::error::{Error, Result};
use pose_engine::index::TokenId;
use pose_engine::positions::{ChunkLengths, Content, Method, Sampler};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

fn put(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn uncached() -> LoadOptions {
    LoadOptions { cache_dir: None, ..LoadOptions::default() }
}

fn load(paths: &[&Path]) -> Result<Corpus> {
    let paths: Vec<PathBuf> = paths.iter().map(|&path| path.into()).collect();
    Corpus::load(&paths, &Tokenizer::bytes(), &uncached(), None).map(|(corpus, _)| corpus)
}

/// Tokens as the text that they are bytes of.
fn text(tokens: &[TokenId]) -> String {
    Tokenizer::bytes().decode(tokens, false).unwrap()
}

fn texts(corpus: &Corpus) -> Vec<String> {
    corpus.documents.iter().map(|document| text(&document.tokens)).collect()
}

/// A tokenizer.json with one merge, so that it differs from bytes.
fn merging_json() -> String {
    let mut json: serde_json::Value = serde_json::from_str(&bytes_as_json()).unwrap();
    json["model"]["vocab"]["th"] = 258.into();
    json["model"]["merges"] = serde_json::json!(["t h"]);
    // What fine-tuning scripts leave behind; texts must not be cut by it.
    json["truncation"] =
        serde_json::json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = serde_json::json!({ "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 256, "pad_type_id": 0, "pad_token": "<bos>" });
    json.to_string()
}

// ---- documents

#[test]
fn a_document_is_the_same_however_it_is_packed() {
    let dir = TempDir::new().unwrap();
    let long: String = (0..30_000).map(|i| format!("Zeile {i} – größer\n")).collect();
    let lines: String = ["one", "", &long]
        .iter()
        .map(|text| format!("{}\n", serde_json::json!({ "n": 1, "text": text })))
        .collect();
    // Blank lines are no documents; the last line needs no end.
    let lines = format!("\n{}", lines.trim_end().replacen('\n', "\r\n\n", 1));
    let split = lines.len() / 2 - 1;
    let cut = |pack: fn(&[u8]) -> Vec<u8>| {
        [pack(&lines.as_bytes()[..split]), pack(&lines.as_bytes()[split..])].concat()
    };
    for (name, bytes) in [
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.jsonl.gz", gzip(lines.as_bytes())),
        ("a.jsonl.zst", zstd(lines.as_bytes())),
        ("two-members.jsonl.gz", cut(gzip)),
        ("two-frames.JSONL.ZST", cut(zstd)),
        ("bom.jsonl", [b"\xEF\xBB\xBF", lines.as_bytes()].concat()),
    ] {
        let corpus = load(&[&put(&dir, name, bytes)]).unwrap();
        assert_eq!(texts(&corpus), ["one", "", &long], "{name}");
        let names: Vec<_> = corpus.documents.iter().map(|d| d.name.rsplit_once(':').unwrap().1).collect();
        assert_eq!(names, ["2", "4", "5"], "{name}");
    }
    for (name, bytes) in [
        ("a.txt", long.clone().into_bytes()),
        ("a.txt.gz", gzip(long.as_bytes())),
        ("a.txt.zst", zstd(long.as_bytes())),
    ] {
        let corpus = load(&[&put(&dir, name, bytes)]).unwrap();
        assert_eq!(texts(&corpus), [long.as_str()], "{name}");
        assert!(corpus.documents[0].name.ends_with(name));
    }
    // A skippable frame is passed over.
    let skippable = [
        b"\x53\x2A\x4D\x18\x03\x00\x00\x00abc".as_slice(),
        &zstd(b"text"),
        b"\x50\x2A\x4D\x18\x00\x00\x00\x00",
    ]
    .concat();
    assert_eq!(texts(&load(&[&put(&dir, "skip.txt.zst", skippable)]).unwrap()), ["text"]);
}

#[test]
fn directories_stand_for_the_documents_in_them() {
    let dir = TempDir::new().unwrap();
    for name in
        ["d/b.txt", "d/a/z.txt", "d/c.jsonl", "d/readme.md", "d/.hidden.txt", "d/.git/x.txt", "d/noext"]
    {
        let bytes = if name.ends_with("jsonl") { format!("{{\"text\":\"{name}\"}}") } else { name.into() };
        put(&dir, name, bytes);
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("d"), dir.path().join("d/a/back")).unwrap();
    let last = put(&dir, "a.txt", "a.txt");
    let corpus = load(&[&dir.path().join("d"), &last]).unwrap();
    assert_eq!(texts(&corpus), ["d/a/z.txt", "d/b.txt", "d/c.jsonl", "a.txt"]);
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let dir = TempDir::new().unwrap();
    let good = gzip(b"some text that is long enough to be cut");
    let frame = zstd("some text".repeat(100).as_bytes());
    let mut wrong_sum = frame.clone();
    *wrong_sum.last_mut().unwrap() ^= 1;
    put(&dir, "empty/readme.md", "");
    for (name, bytes, said) in [
        ("latin1.txt", b"caf\xE9".as_slice(), "not UTF-8 at byte 3; convert it"),
        ("latin1.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"caf\xE9\"}", "not UTF-8 at line 2, byte 12"),
        ("empty.txt", b"", "the file has no text"),
        ("blank.txt", b" \n\n", "the file has no text"),
        ("empty.jsonl", b"\n", "the file has no lines"),
        (
            "cut.jsonl",
            b"{\"text\":\"a\"}\n\n{\"text\":\"b",
            "line 3: not valid JSON at column 10: EOF while parsing a string",
        ),
        ("list.jsonl", b"[1]", "line 1: not a JSON object"),
        (
            "field.jsonl",
            b"{\"content\":\"a\",\"id\":1}",
            "line 1: no field \"text\"; the line has \"content\", \"id\". Name the field with --text-field",
        ),
        ("number.jsonl", b"{\"text\":1}", "line 1: the field \"text\" is not a string"),
        ("table.csv", b"a,b", "not a kind of document that can be read; they are .txt and .jsonl"),
        ("gz.gz", b"a", "not a kind of document"),
        ("plain.txt.gz", b"not compressed", "damaged, cut short or not gzip"),
        ("cut.txt.gz", &good[..good.len() / 2], "damaged, cut short or not gzip"),
        ("plain.txt.zst", b"not compressed", "damaged, cut short or not zstd"),
        ("cut.txt.zst", &frame[..frame.len() / 2], "damaged, cut short or not zstd"),
        ("sum.txt.zst", &wrong_sum, "damaged, cut short or not zstd: the checksum of a zstd frame is wrong"),
    ] {
        let path = put(&dir, name, bytes);
        let error = load(&[&path]).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{name}: {error:?}");
        assert!(error.to_string().starts_with(&format!("{}: {said}", path.display())), "{error}");
    }
    let missing = load(&[&dir.path().join("nowhere.txt")]).unwrap_err().to_string();
    assert!(missing.contains("nowhere.txt: looking for documents failed: No such file"), "{missing}");
    let none = load(&[&dir.path().join("empty")]).unwrap_err().to_string();
    assert!(
        none.ends_with(
            "no documents in this directory; they are .txt and .jsonl, each also with .gz or .zst"
        ),
        "{none}"
    );
    assert_eq!(load(&[]).unwrap_err().exit_code(), 2);
    // The first file in order is the one named, also when several are bad.
    let first =
        load(&[&dir.path().join("latin1.txt"), &dir.path().join("empty.txt")]).unwrap_err().to_string();
    assert!(first.contains("latin1.txt"), "{first}");
}

#[test]
fn another_field_can_be_named() {
    let dir = TempDir::new().unwrap();
    let path = put(&dir, "a.jsonl", "{\"content\":\"here\",\"text\":1}");
    let options = LoadOptions { text_field: "content".into(), ..uncached() };
    let (corpus, _) = Corpus::load(&[path], &Tokenizer::bytes(), &options, None).unwrap();
    assert_eq!(texts(&corpus), ["here"]);
}

// ---- tokenizers

#[test]
fn the_byte_tokenizer_is_the_one_that_it_exports() {
    let (bytes, json) = (Tokenizer::bytes(), bytes_as_json());
    let exported = Tokenizer::from_json(json.as_bytes(), Path::new("tokenizer.json")).unwrap();
    assert_eq!((bytes.vocab_size(), exported.vocab_size()), (258, 258));
    let text: String =
        (0..0x3000).step_by(7).filter_map(char::from_u32).chain("  a \n\n b'll 🦀".chars()).collect();
    let tokens = bytes.encode(&text).unwrap();
    assert_eq!(exported.encode(&text).unwrap(), tokens);
    assert_eq!(exported.decode(&tokens, false).unwrap(), text);
    assert_eq!(bytes.decode(&tokens, false).unwrap(), text);
    let special = [TokenId(256), TokenId(104), TokenId(257)];
    for (skip, text) in [(true, "h"), (false, "<bos>h<eos>")] {
        assert_eq!(bytes.decode(&special, skip).unwrap(), text);
        assert_eq!(exported.decode(&special, skip).unwrap(), text);
    }
    assert_eq!(
        (bytes.token_id("<eos>"), exported.token_id("<eos>"), bytes.token_id("x")),
        (Some(257), Some(257), None)
    );
}

#[test]
fn a_models_tokenizer_is_loaded_with_its_special_tokens() {
    let dir = TempDir::new().unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json here; copy it"), "{error}");
    put(&dir, "tokenizer.model", "");
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("AutoTokenizer.from_pretrained"), "{error}");
    put(&dir, "tokenizer.json", "{}");
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer that can be used: "), "{error}");

    put(&dir, "tokenizer.json", merging_json());
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.vocab_size()), (None, None, 259));
    // Neither cut nor padded, whatever the file says.
    let ids: Vec<u32> = tokenizer.encode("the thing").unwrap().iter().map(|t| t.0).collect();
    assert_eq!(ids, [258, 101, 32, 258, 105, 110, 103]);
    assert_eq!(tokenizer.or_special_ids(Some(3), None).bos_id(), Some(3));

    put(
        &dir,
        "tokenizer_config.json",
        r#"{"bos_token":"<bos>","eos_token":{"content":"<eos>","special":true}}"#,
    );
    let tokenizer = Tokenizer::load(dir.path()).unwrap().or_special_ids(Some(3), None);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(256), Some(257)));
    put(&dir, "tokenizer_config.json", r#"{"bos_token":"<s>"}"#);
    let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("bos_token is \"<s>\", which is not in tokenizer.json"), "{error}");
}

#[test]
fn a_tokenizer_must_fit_the_model() {
    let tokenizer = Tokenizer::bytes();
    tokenizer.check_vocab(258).unwrap();
    tokenizer.check_vocab(320).unwrap();
    let error = tokenizer.check_vocab(257).unwrap_err().to_string();
    assert!(error.contains("ids up to 257, the model's embedding only 257 rows"), "{error}");
    let error = Tokenizer::bytes().or_special_ids(None, Some(9)).check_vocab(256).unwrap_err().to_string();
    assert!(error.contains("ids up to 257"), "bos and eos of the tokenizer go first: {error}");
}

#[test]
fn streamed_text_is_whole_characters_and_all_of_them() {
    let merging = Tokenizer::from_json(merging_json().as_bytes(), Path::new("t")).unwrap();
    for tokenizer in [Tokenizer::bytes(), merging] {
        let text = "the größte 🦀🦀 thing – ende é";
        let mut decoder = tokenizer.decoder(true);
        let mut pieces = Vec::new();
        for token in tokenizer.encode(text).unwrap().into_iter().chain([TokenId(257)]) {
            pieces.push(decoder.push(token).unwrap());
        }
        assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
        pieces.push(decoder.finish().unwrap());
        assert_eq!(pieces.concat(), text);
        // Bytes that never become a character come out as U+FFFD, with the text that follows or at the end.
        let mut decoder = tokenizer.decoder(true);
        let mut out: String = [0xFF, 0x61, 0xF0, 0x9F].map(|b| decoder.push(TokenId(b)).unwrap()).concat();
        out += &decoder.finish().unwrap();
        assert_eq!(out, tokenizer.decode(&[0xFF, 0x61, 0xF0, 0x9F].map(TokenId), true).unwrap());
    }
}

// ---- the cache

fn cached(paths: &[PathBuf], tokenizer: &Tokenizer, cache: &Path) -> (Corpus, Vec<String>) {
    let options = LoadOptions { cache_dir: Some(cache.into()), ..LoadOptions::default() };
    Corpus::load(paths, tokenizer, &options, None).unwrap()
}

fn cache_files(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn tokens_come_from_the_cache_until_something_changes() {
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("deep/cache");
    let lines = put(&dir, "a.jsonl", "{\"text\":\"the one\"}\n{\"text\":\"\"}\n{\"text\":\"two\"}");
    let paths = [lines.clone(), put(&dir, "b.txt", "other")];
    let bytes = Tokenizer::bytes();
    let (first, warnings) = cached(&paths, &bytes, &cache);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(cache_files(&cache).len(), 2);
    let written = std::fs::metadata(&cache_files(&cache)[0]).unwrap().modified().unwrap();
    assert_eq!(cached(&paths, &bytes, &cache), (first.clone(), vec![]));
    assert_eq!(
        std::fs::metadata(&cache_files(&cache)[0]).unwrap().modified().unwrap(),
        written,
        "read, not written"
    );

    // A renamed file is the same content under another name.
    let renamed = put(&dir, "c.jsonl", std::fs::read(&lines).unwrap());
    let (again, _) = cached(&[renamed], &bytes, &cache);
    assert!(again.documents[2].name.ends_with("c.jsonl:3"), "{:?}", again.documents[2].name);
    assert_eq!((&again.documents[0].tokens, cache_files(&cache).len()), (&first.documents[0].tokens, 2));

    // Another tokenizer, other text, other options: other tokens.
    let merging = Tokenizer::from_json(merging_json().as_bytes(), Path::new("t")).unwrap();
    let (merged, _) = cached(&paths, &merging, &cache);
    assert_eq!((merged.documents[0].tokens.len(), cache_files(&cache).len()), (6, 4));
    put(&dir, "b.txt", "changed");
    assert_eq!(text(&cached(&paths, &bytes, &cache).0.documents[3].tokens), "changed");
    let options =
        LoadOptions { bos: true, eos: true, cache_dir: Some(cache.clone()), ..LoadOptions::default() };
    let (marked, _) = Corpus::load(&paths, &bytes, &options, None).unwrap();
    assert_eq!(texts(&marked), ["<bos>the one<eos>", "<bos><eos>", "<bos>two<eos>", "<bos>changed<eos>"]);
    let error = Corpus::load(&paths, &merging, &options, None).unwrap_err().to_string();
    assert!(error.starts_with("--bos") && error.contains("no bos token"), "{error}");
}

#[test]
fn a_damaged_cache_is_made_anew_with_a_warning() {
    let dir = TempDir::new().unwrap();
    let cache = dir.path().join("cache");
    let paths = [put(&dir, "a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}")];
    let (first, _) = cached(&paths, &Tokenizer::bytes(), &cache);
    let file = cache_files(&cache).remove(0);
    let good = std::fs::read(&file).unwrap();
    assert_eq!(good.len(), 96 + 2 * 16 + 6 * 4);
    // Every bit in turn; lengths near 2^64 are among these.
    let flipped = (0..8 * good.len()).map(|bit| {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = [0, 50, 96, good.len() - 1].map(|len| good[..len].to_vec());
    for bytes in flipped.chain(cut).chain([[good.as_slice(), b"x"].concat()]) {
        std::fs::write(&file, &bytes).unwrap();
        let (corpus, warnings) = cached(&paths, &Tokenizer::bytes(), &cache);
        assert_eq!(corpus, first);
        assert!(warnings.len() == 1 && warnings[0].contains("token cache made anew"), "{warnings:?}");
        assert_eq!(std::fs::read(&file).unwrap(), good);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let dir = TempDir::new().unwrap();
    let not_a_directory = put(&dir, "file", "");
    let paths = [put(&dir, "a.txt", "one"), put(&dir, "b.txt", "two")];
    let (corpus, warnings) = cached(&paths, &Tokenizer::bytes(), &not_a_directory.join("cache"));
    assert_eq!(texts(&corpus), ["one", "two"]);
    assert!(
        !warnings.is_empty() && warnings.iter().any(|w| w.contains("tokens are not cached")),
        "{warnings:?}"
    );
}

#[test]
fn progress_reaches_the_end() {
    let dir = TempDir::new().unwrap();
    let paths: Vec<PathBuf> = (1..=9).map(|i| put(&dir, &format!("{i}.txt"), "x".repeat(i))).collect();
    let told = Mutex::new(Vec::new());
    let tell = |progress: Progress| told.lock().unwrap().push(progress);
    Corpus::load(&paths, &Tokenizer::bytes(), &uncached(), Some(&tell)).unwrap();
    let told = told.into_inner().unwrap();
    assert_eq!(told.len(), 9);
    assert!(told.contains(&Progress { done: 45, total: 45 }));
}

// ---- corpus and loader

/// Documents whose tokens say which one they are and where: 1000·document + place.
fn numbered(lengths: &[u32]) -> Corpus {
    let document = |(i, &len): (usize, &u32)| Document {
        name: format!("document {i}"),
        tokens: (0..len).map(|t| TokenId(10_000 * i as u32 + t)).collect(),
    };
    Corpus { documents: lengths.iter().enumerate().map(document).collect() }
}

fn sampler(method: Method, content: Content) -> Sampler {
    Sampler::new(method, 32, 256, 3, ChunkLengths::Paper, content).unwrap()
}

#[test]
fn short_documents_are_dropped_and_all_short_is_an_error() {
    let mut corpus = numbered(&[10, 33, 32, 50]);
    assert_eq!(corpus.retain_at_least(33), Ok(2));
    assert_eq!(corpus.tokens(), 83);
    let short = corpus.retain_at_least(51).unwrap_err();
    assert_eq!((short.documents, short.longest.as_str(), short.tokens), (2, "document 3", 50));
    assert_eq!(corpus.tokens(), 83, "what is refused is left as it is");
    assert_eq!(Corpus::default().retain_at_least(0).unwrap_err().to_string(), "there are no documents");

    let (loader, warning) =
        Loader::new(numbered(&[10, 33, 32, 50]), sampler(Method::Plain, Content::Uniform), 1).unwrap();
    assert_eq!(warning.unwrap(), "2 of 4 documents have fewer than 33 tokens and are not trained on");
    assert_eq!(loader.corpus().documents.len(), 2);
    let plain = sampler(Method::Plain, Content::Uniform);
    let error = Loader::new(numbered(&[10, 32]), plain, 1).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(error.starts_with("--train-len 32: each row takes 33 tokens"), "{error}");
    assert!(
        error.contains("the longest of 2 documents, document 1, has 32; lower --train-len to at most 31"),
        "{error}"
    );
    let error =
        Loader::new(numbered(&[256]), sampler(Method::Full, Content::Uniform), 1).unwrap_err().to_string();
    assert!(error.starts_with("--target-len 256: "), "{error}");
    assert!(Loader::new(Corpus::default(), sampler(Method::Plain, Content::Uniform), 1).is_err());
}

#[test]
fn targets_are_the_documents_next_tokens_at_chunk_joins_too() {
    for method in [Method::Pose, Method::Plain, Method::RandPos, Method::Full] {
        for content in [Content::Uniform, Content::Contiguous, Content::Aligned] {
            let (loader, _) = Loader::new(numbered(&[400, 257, 9_000]), sampler(method, content), 5).unwrap();
            let mut joins = 0;
            for row in 0..300 {
                let example = loader.example(2, row).unwrap();
                let window = loader.sampler().window();
                assert_eq!((example.tokens.len(), example.targets.len()), (window, window));
                let base = 10_000 * example.document as u32;
                let places: Vec<u32> =
                    example.content.iter().flat_map(|r| r.start as u32..r.end as u32).collect();
                assert!(example.tokens.iter().zip(&places).all(|(token, place)| token.0 == base + place));
                assert!(
                    example.targets.iter().zip(&places).all(|(target, place)| target.0 == base + place + 1)
                );
                joins += example.targets.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).count();
            }
            // There were joins to look at.
            assert_eq!(joins > 0, method == Method::Pose && content != Content::Contiguous);
        }
    }
}

#[test]
fn every_window_of_the_corpus_is_as_likely_as_any_other() {
    let (loader, _) =
        Loader::new(numbered(&[33, 36, 20, 64]), sampler(Method::Plain, Content::Uniform), 5).unwrap();
    // 1 + 4 + 32 windows.
    let rows = 37_000;
    let mut counts = std::collections::HashMap::new();
    for row in 0..rows {
        let example = loader.example(0, row).unwrap();
        *counts.entry((example.document, example.content[0].start)).or_insert(0u32) += 1;
    }
    assert_eq!(counts.len(), 37);
    // 36 degrees of freedom: above 76.4 with probability 1e-4.
    let chi2: f64 = counts.values().map(|&c| (f64::from(c) - 1e3).powi(2) / 1e3).sum();
    assert!(chi2 < 76.4, "{chi2}: {counts:?}");
}

#[test]
fn a_batch_is_its_rows() {
    for method in [Method::Pose, Method::RandPos] {
        let (loader, _) = Loader::new(numbered(&[400, 9_000]), sampler(method, Content::Uniform), 5).unwrap();
        let whole = loader.batch(7, 0..6).unwrap();
        assert_eq!((whole.rows, whole.window), (6, 32));
        let rows: Vec<_> = (0..6).map(|row| loader.example(7, row).unwrap()).collect();
        assert_eq!(whole.tokens, rows.iter().flat_map(|row| row.tokens.clone()).collect::<Vec<_>>());
        assert_eq!(whole.targets, rows.iter().flat_map(|row| row.targets.clone()).collect::<Vec<_>>());
        assert_eq!(whole.documents, rows.iter().map(|row| row.document).collect::<Vec<_>>());
        let positions = rows.iter().flat_map(|row| row.placement.positions(32));
        match &whole.places {
            BatchPlaces::Spans { spans, per_row } => {
                assert_eq!((*per_row, spans.len()), (3, 18));
                let given = spans.chunks(3).flat_map(|row| pose_engine::positions::rope_positions(row, 32));
                assert!(given.eq(positions));
            }
            BatchPlaces::List(list) => assert!(list.iter().copied().eq(positions)),
        }
        // Micro-batches, in any order and from other threads, are parts of the step.
        let late = std::thread::scope(|scope| scope.spawn(|| loader.batch(7, 4..6)).join().unwrap()).unwrap();
        assert_eq!(late.tokens, whole.tokens[4 * 32..]);
        assert_ne!(loader.batch(8, 0..6).unwrap().tokens, whole.tokens);
        assert_eq!(loader.batch(7, 3..3).unwrap().rows, 0);
    }
}

#[test]
fn a_row_in_words() {
    let (loader, _) = Loader::new(numbered(&[9_000]), sampler(Method::Pose, Content::Uniform), 5).unwrap();
    let example = loader.example(12, 3).unwrap();
    let words = loader.describe(12, 3);
    let first = &example.content[0];
    let start = format!(
        "batch 12, row 3: document 0, tokens {}..{} at positions 0..{}, tokens ",
        first.start,
        first.end,
        first.len()
    );
    assert!(words.starts_with(&start) && words.matches(" at positions ").count() == 3, "{words}");
    let (loader, _) = Loader::new(numbered(&[9_000]), sampler(Method::RandPos, Content::Uniform), 5).unwrap();
    assert!(loader.describe(0, 0).contains(" at positions from "));
}

#[test]
fn the_fingerprint_is_of_tokens_and_documents_not_of_names() {
    let corpus = numbered(&[5, 6]);
    let mut renamed = corpus.clone();
    renamed.documents[0].name = "elsewhere".into();
    assert_eq!(renamed.fingerprint(), corpus.fingerprint());
    let mut moved = corpus.clone();
    let token = moved.documents[1].tokens.remove(0);
    moved.documents[0].tokens.push(token);
    assert_ne!(moved.fingerprint(), corpus.fingerprint());
}

#[test]
fn sources_by_name() {
    let kind = |name: &str| Source::of(Path::new(name)).map(|source| (source.format, source.compression));
    use documents::{Compression::*, Format::*};
    assert_eq!(kind("x/a.b.TXT"), Some((Text, None)));
    assert_eq!(kind("a.jsonl.zst"), Some((JsonLines, Zstd)));
    assert_eq!(kind("a.txt.gz"), Some((Text, Gzip)));
    assert!([".gz", "a", "a.json", "a.zst", "txt", "a.txt.bz2", ""].iter().all(|name| kind(name).is_none()));
}
