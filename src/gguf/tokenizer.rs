//! The vocabulary of a GGUF file as a tokenizer.json.
//!
//! Two kinds. "gpt2": byte-level BPE, with merges in the file and a name (`tokenizer.ggml.pre`) for how text is cut into words before;
//! the names' regular expressions are those of llama.cpp. "llama": SentencePiece's BPE, with scores and no merges; a piece
//! may be merged of any two pieces, the best score first, so merges are all ways to cut each piece into two, sorted by score.

use super::reader::{Gguf, Value};
use crate::error::Result;
use crate::names;
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

/// Longer tokens are damage.
const MOST_BYTES: usize = 4096;

/// `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// The files that make a tokenizer.
pub struct TokenizerFiles {
    /// tokenizer.json
    pub tokenizer: Json,
    /// tokenizer_config.json
    pub config: Json,
    /// For people: "byte-level BPE" or "SentencePiece".
    pub kind: &'static str,
}

/// The vocabulary: token i is `texts[i]`, of type `types[i]`.
struct Vocabulary<'a> {
    texts: Vec<&'a str>,
    types: Vec<i64>,
    ids: HashMap<&'a str, usize>,
}

/// # Errors
/// No tokenizer in the file, one of another kind or cut in an unknown way, one that contradicts itself or the `rows` of the embedding.
pub fn tokenizer(gguf: &Gguf<'_>, rows: usize) -> Result<TokenizerFiles> {
    let model = gguf.text("tokenizer.ggml.model")?;
    let hint = "give --tokenizer DIR, a directory with the model's own tokenizer.json";
    let Some(model) = model else { return Err(gguf.error(format!("has no tokenizer; {hint}"))) };
    let vocabulary = Vocabulary::read(gguf, rows)?;
    let (kind, parts) = match model {
        "gpt2" => ("byte-level BPE", byte_level(gguf, &vocabulary, hint)?),
        "llama" => ("SentencePiece", sentencepiece(gguf, &vocabulary)?),
        other => {
            let unknown = names::unknown("kind of tokenizer to import", other, &["gpt2", "llama"]);
            return Err(gguf.error(format!("tokenizer.ggml.model is \"{other}\": {unknown}; {hint}")));
        }
    };
    let special = Special::read(gguf, &vocabulary, model)?;
    let mut tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added(&special) });
    if let (Some(all), Json::Object(parts)) = (tokenizer.as_object_mut(), parts) {
        all.extend(parts);
        all.insert("post_processor".into(), special.post_processor());
    }
    Ok(TokenizerFiles { tokenizer, config: special.config(gguf)?, kind })
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &Gguf<'a>, rows: usize) -> Result<Vocabulary<'a>> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens = gguf.require(TOKENS, gguf.array(TOKENS)?)?;
        if tokens.len > rows || tokens.len == 0 {
            return Err(gguf.error(format!("has {} tokens, and the embedding {rows} rows", tokens.len)));
        }
        let mut texts = Vec::new();
        for (i, value) in tokens.values().enumerate() {
            let text = match value {
                Value::Text(bytes) if bytes.len() <= MOST_BYTES => std::str::from_utf8(bytes).ok(),
                _ => None,
            };
            let wrong = || {
                gguf.error(format!("{TOKENS}: token {i} is no text of at most {MOST_BYTES} bytes of UTF-8"))
            };
            texts.push(text.ok_or_else(wrong)?);
        }
        let types: Vec<i64> = match gguf.array(TYPES)? {
            None => vec![1; texts.len()],
            Some(types) => types.values().map(whole).collect::<Option<_>>().unwrap_or_default(),
        };
        if types.len() != texts.len() {
            return Err(gguf.error(format!("{TYPES} should be {} whole numbers", texts.len())));
        }
        let mut ids = HashMap::new();
        for (i, text) in texts.iter().enumerate() {
            if let Some(other) = ids.insert(*text, i) {
                return Err(gguf.error(format!("{TOKENS}: tokens {other} and {i} are both {text:?}")));
            }
        }
        Ok(Vocabulary { texts, types, ids })
    }

    fn json(&self) -> Json {
        Json::Object(self.texts.iter().enumerate().map(|(i, text)| (text.to_string(), json!(i))).collect())
    }

    /// Tokens that are recognised in a text as they are spelled, before it is cut.
    fn added(&self, special: &Special<'_>) -> Json {
        let named = [special.bos, special.eos, special.unknown].into_iter().flatten().collect::<Vec<_>>();
        let is_special =
            |i: usize| matches!(self.types[i], CONTROL | UNKNOWN) || named.contains(&(i, self.texts[i]));
        let token = |i: usize| {
            json!({ "id": i, "content": self.texts[i], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": is_special(i) })
        };
        (0..self.texts.len()).filter(|&i| is_special(i) || self.types[i] == USER_DEFINED).map(token).collect()
    }
}

fn whole(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Unsigned(n) => i64::try_from(n).ok(),
        Value::Signed(n) => Some(n),
        _ => None,
    }
}

/// A special token: its id and its spelling.
type Named<'a> = Option<(usize, &'a str)>;

struct Special<'a> {
    bos: Named<'a>,
    eos: Named<'a>,
    unknown: Named<'a>,
    padding: Named<'a>,
    add_bos: bool,
    add_eos: bool,
}

impl<'a> Special<'a> {
    fn read(gguf: &Gguf<'a>, vocabulary: &Vocabulary<'a>, model: &str) -> Result<Special<'a>> {
        let named = |name: &str| -> Result<Named<'a>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let Some(id) = gguf.size(&key)? else { return Ok(None) };
            match vocabulary.texts.get(id) {
                Some(text) => Ok(Some((id, *text))),
                None => {
                    Err(gguf.error(format!("{key} is {id}, and there are {} tokens", vocabulary.texts.len())))
                }
            }
        };
        let flag = |name: &str, default: bool| {
            gguf.boolean(&format!("tokenizer.ggml.{name}")).map(|f| f.unwrap_or(default))
        };
        let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or("");
        Ok(Special {
            bos: named("bos")?,
            eos: named("eos")?,
            unknown: named("unknown")?,
            padding: named("padding")?,
            // what llama.cpp does where the file does not say
            add_bos: flag("add_bos_token", model == "llama" || LLAMA_3.contains(&pre))?,
            add_eos: flag("add_eos_token", false)?,
        })
    }

    /// Puts bos in front of a text, and eos behind it, where they are asked for.
    fn post_processor(&self) -> Json {
        let (bos, eos) = (self.bos.filter(|_| self.add_bos), self.eos.filter(|_| self.add_eos));
        let token = |(_, text): (usize, &str), part: usize| json!({ "SpecialToken": { "id": text, "type_id": part } });
        let text = |part: usize| {
            let sequence =
                json!({ "Sequence": { "id": if part == 0 { "A" } else { "B" }, "type_id": part } });
            bos.map(|t| token(t, part))
                .into_iter()
                .chain([sequence])
                .chain(eos.map(|t| token(t, part)))
                .collect::<Vec<_>>()
        };
        let known = |(id, text): (usize, &str)| {
            (text.to_string(), json!({ "id": text, "ids": [id], "tokens": [text] }))
        };
        let known: Map<String, Json> = bos.into_iter().chain(eos).map(known).collect();
        let pair = [text(0), text(1)].concat();
        json!({ "type": "TemplateProcessing", "single": text(0), "pair": pair, "special_tokens": known })
    }

    fn config(&self, gguf: &Gguf<'_>) -> Result<Json> {
        let spelled = |token: Named<'_>| token.map_or(Json::Null, |(_, text)| json!(text));
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
            "bos_token": spelled(self.bos), "eos_token": spelled(self.eos), "unk_token": spelled(self.unknown),
            "pad_token": spelled(self.padding), "add_bos_token": self.add_bos, "add_eos_token": self.add_eos,
        });
        if let Some(template) = gguf.text("tokenizer.chat_template")? {
            config["chat_template"] = json!(template);
        }
        Ok(config)
    }
}

const LLAMA_3: [&str; 3] = ["llama-bpe", "llama3", "llama-v3"];
const QWEN_2: [&str; 2] = ["qwen2", "deepseek-r1-qwen"];
/// Cut as GPT-2 cuts, digit by digit.
const DIGITS: [&str; 4] = ["smollm", "starcoder", "refact", "command-r"];
const GPT_2: [&str; 2] = ["gpt-2", "phi-2"];

const LLAMA_3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text becomes words: (normalizer, pre_tokenizer, whether a word that is a token is taken whole).
fn words(pre: &str, prefix: bool) -> Option<(Json, Json, bool)> {
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex });
    let split = |regex: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] })
    };
    let digits = || {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        json!({ "type": "Sequence", "pretokenizers": [digits, bytes(true)] })
    };
    let is = |names: &[&str]| names.contains(&pre);
    match () {
        () if is(&GPT_2) => Some((Json::Null, bytes(true), false)),
        () if is(&DIGITS) => Some((Json::Null, digits(), false)),
        () if is(&LLAMA_3) => Some((Json::Null, split(LLAMA_3_WORDS), true)),
        () if is(&QWEN_2) => Some((json!({ "type": "NFC" }), split(QWEN_2_WORDS), false)),
        () => None,
    }
}

fn byte_level(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>, hint: &str) -> Result<Json> {
    let pre = gguf.text("tokenizer.ggml.pre")?;
    let pre =
        pre.ok_or_else(|| gguf.error(format!("does not say how text is cut (tokenizer.ggml.pre); {hint}")))?;
    let prefix = gguf.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    let Some((normalizer, cut, whole_words)) = words(pre, prefix) else {
        let known = [&GPT_2[..], &DIGITS, &LLAMA_3, &QWEN_2].concat();
        let unknown = names::unknown("way to cut text that is imported", pre, &known);
        return Err(gguf.error(format!("tokenizer.ggml.pre is \"{pre}\": {unknown}; {hint}")));
    };
    let merges = merges(gguf, vocabulary)?;
    Ok(json!({
        "normalizer": normalizer, "pre_tokenizer": cut,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": bpe(vocabulary, merges, whole_words, None),
    }))
}

fn bpe(vocabulary: &Vocabulary<'_>, merges: Json, whole_words: bool, unknown: Option<&str>) -> Json {
    // in SentencePiece's vocabularies what is no piece is spelled in bytes
    let bytes = unknown.is_some();
    json!({ "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": bytes, "byte_fallback": bytes, "ignore_merges": whole_words,
        "vocab": vocabulary.json(), "merges": merges })
}

/// The file's own merges, "LEFT RIGHT" each, of tokens that are in the vocabulary.
fn merges(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = gguf.require(MERGES, gguf.array(MERGES)?)?;
    let mut pairs = Vec::new();
    for (i, merge) in merges.values().enumerate() {
        let text = if let Value::Text(bytes) = merge { std::str::from_utf8(bytes).ok() } else { None };
        let known = |&(left, right): &(&str, &str)| {
            let merged = [left, right].concat();
            [left, right, &merged].iter().all(|t| vocabulary.ids.contains_key(*t))
        };
        match text.and_then(|text| text.split_once(' ')).filter(known) {
            Some((left, right)) => pairs.push(json!([left, right])),
            None => {
                return Err(gguf.error(format!("{MERGES}: merge {i} is not two tokens that make a third")));
            }
        }
    }
    Ok(Json::Array(pairs))
}

fn sentencepiece(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    let merges = merges_by_score(gguf, vocabulary)?;
    let prefix = gguf.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let restore = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let prepend = prefix.then(|| json!({ "type": "Prepend", "prepend": "▁" }));
    let strip = prefix.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let normalizers: Vec<Json> = prepend.into_iter().chain([replace]).collect();
    let decoders = [restore, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    let decoders: Vec<Json> = decoders.into_iter().chain(strip).collect();
    let unknown =
        vocabulary.types.iter().position(|&t| t == UNKNOWN).map_or("<unk>", |i| vocabulary.texts[i]);
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers }, "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": bpe(vocabulary, merges, false, Some(unknown)),
    }))
}

/// A piece merged of two: its score, the two ids.
type Merge = (f64, usize, usize);

fn merges_by_score(gguf: &Gguf<'_>, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = gguf.require(SCORES, gguf.array(SCORES)?)?;
    let number = |value| if let Value::Float(x) = value { Some(x).filter(|x| !x.is_nan()) } else { None };
    let scores: Vec<f64> = scores.values().map_while(number).collect();
    if scores.len() != vocabulary.texts.len() {
        return Err(gguf.error(format!("{SCORES} should be {} numbers", vocabulary.texts.len())));
    }
    let spelled = |i: usize| !matches!(vocabulary.types[i], UNKNOWN | CONTROL | BYTE);
    let id = |text: &str| vocabulary.ids.get(text).copied().filter(|&i| spelled(i));
    let mut merges: Vec<Merge> = Vec::new();
    for (i, text) in vocabulary.texts.iter().enumerate().filter(|&(i, _)| spelled(i)) {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        merges.extend(cuts.filter_map(|(left, right)| Some((scores[i], id(left)?, id(right)?))));
    }
    // the best score first; of one piece the cut with the earlier pieces
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let pair = |(_, left, right): Merge| json!([vocabulary.texts[left], vocabulary.texts[right]]);
    Ok(merges.into_iter().map(pair).collect())
}
