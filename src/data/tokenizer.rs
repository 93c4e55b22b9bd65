//! Text to tokens and back: a Hugging Face tokenizer.json, or bytes.

use super::decoder::Decoder;
use super::guarded::guarded;
use super::pieces::{Cut, Encoded};
use crate::error::{Error, Result};
use crate::index::TokenId;
use crate::regular;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// First token of a document in the byte tokenizer.
const BYTE_BOS: u32 = 256;
/// Last token of a document in the byte tokenizer.
const BYTE_EOS: u32 = 257;
const BYTE_SPECIAL: [(u32, &str); 2] = [(BYTE_BOS, "<bos>"), (BYTE_EOS, "<eos>")];

/// A tokenizer with its special tokens and a hash that says which one it is.
pub struct Tokenizer {
    kind: Kind,
    /// For messages.
    path: PathBuf,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    /// What its own post-processing puts in front of a text.
    in_front: Option<u32>,
    /// Length of tokenizer.json.
    file_bytes: usize,
    fingerprint: [u8; 32],
}

enum Kind {
    HuggingFace(Box<tokenizers::Tokenizer>),
    Bytes,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({}, {} tokens)", self.path.display(), self.vocab_size)
    }
}

impl Tokenizer {
    /// Token b is byte b; 256 starts a document and 257 ends it. For the presets, which have no tokenizer of their own.
    pub fn bytes() -> Self {
        Tokenizer {
            kind: Kind::Bytes,
            path: "byte tokenizer".into(),
            vocab_size: 258,
            bos: Some(BYTE_BOS),
            eos: Some(BYTE_EOS),
            in_front: None,
            file_bytes: 0,
            fingerprint: *blake3::hash(b"pose-engine byte tokenizer 1").as_bytes(),
        }
    }

    /// tokenizer.json of a model's directory, with bos and eos from tokenizer_config.json where they are named there.
    ///
    /// Errors: no tokenizer.json, one that cannot be used, a special token that is not in it.
    pub fn load(model_dir: &Path) -> Result<Self> {
        let path = model_dir.join("tokenizer.json");
        let bytes = regular::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::file(model_dir, no_tokenizer(model_dir)),
            _ => Error::io(&path, "reading the tokenizer", e),
        })?;
        let mut tokenizer = Self::from_json(&bytes, &path)?;
        let config = model_dir.join("tokenizer_config.json");
        if config.is_file() {
            tokenizer.special_tokens(&config)?;
        }
        Ok(tokenizer)
    }

    /// From the bytes of a tokenizer.json; `path` is for messages. Has no bos or eos yet.
    ///
    /// Errors: what the `tokenizers` crate cannot use.
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self> {
        let refused = |e: String| Error::file(path, format!("not a tokenizer that can be used: {e}"));
        let Used { inner, vocab_size, in_front } =
            guarded(|| Used::of(json)).map_err(refused)?.map_err(|e| refused(e.to_string()))?;
        if vocab_size == 0 {
            return Err(Error::file(path, "the tokenizer has no tokens"));
        }
        Ok(Tokenizer {
            kind: Kind::HuggingFace(Box::new(inner)),
            path: path.into(),
            vocab_size,
            bos: None,
            eos: None,
            in_front,
            file_bytes: json.len(),
            fingerprint: *blake3::hash(json).as_bytes(),
        })
    }

    /// Takes bos and eos from tokenizer_config.json: a string, or an object with the string in "content".
    fn special_tokens(&mut self, path: &Path) -> Result<()> {
        let text = regular::read(path).map_err(|e| Error::io(path, "reading the special tokens", e))?;
        let config: Value =
            serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))?;
        let id = |key: &str| -> Result<Option<u32>> {
            let value = &config[key];
            let Some(token) = value.as_str().or_else(|| value["content"].as_str()) else { return Ok(None) };
            let missing =
                || Error::file(path, format!("{key} is \"{token}\", which is not in tokenizer.json"));
            self.token_id(token).ok_or_else(missing).map(Some)
        };
        (self.bos, self.eos) = (id("bos_token")?, id("eos_token")?);
        Ok(())
    }

    /// The ids of the model's config.json where the tokenizer's own files name none.
    pub fn or_special_ids(mut self, bos: Option<u32>, eos: Option<u32>) -> Self {
        self.bos = self.bos.or(bos);
        self.eos = self.eos.or(eos);
        self
    }

    /// The tokens of a text, no special ones added. (Special tokens that are spelled out in the text are recognized, as in
    /// transformers.)
    ///
    /// Errors: a text that the tokenizer cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(|b| TokenId(b.into())).collect()),
            Kind::HuggingFace(inner) => {
                let ids = if Cut::USUAL.cuts(text) {
                    Cut::USUAL.encode(text, |piece| self.encode_piece(inner, piece))?
                } else {
                    self.encoding(|| inner.encode_fast(text, false))?.get_ids().to_vec()
                };
                Ok(bytemuck::cast_vec(ids))
            }
        }
    }

    fn encode_piece(&self, inner: &tokenizers::Tokenizer, piece: &str) -> Result<Encoded> {
        let encoding = self.encoding(|| inner.encode(piece, false))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    fn encoding(
        &self, encode: impl FnOnce() -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        let failed = |e: String| Error::file(&self.path, format!("tokenizing failed: {e}"));
        guarded(encode).map_err(failed)?.map_err(|e| failed(e.to_string()))
    }

    /// The text of some tokens; bytes that are no UTF-8 become U+FFFD, ids that do not exist nothing.
    ///
    /// Errors: what the tokenizer's decoder refuses.
    pub fn decode(&self, tokens: &[TokenId], skip_special: bool) -> Result<String> {
        match &self.kind {
            Kind::Bytes => Ok(decode_bytes(tokens, skip_special)),
            Kind::HuggingFace(inner) => {
                let failed = |e: String| Error::file(&self.path, format!("decoding failed: {e}"));
                let text =
                    guarded(|| inner.decode(bytemuck::cast_slice(tokens), skip_special)).map_err(failed)?;
                text.map_err(|e| failed(e.to_string()))
            }
        }
    }

    /// Decodes token by token, for text that is printed as it is generated.
    pub fn decoder(&self, skip_special: bool) -> Decoder<'_> {
        Decoder::new(self, skip_special)
    }

    /// The id of a token spelled as in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::Bytes => BYTE_SPECIAL.iter().find(|(_, name)| *name == token).map(|(id, _)| *id),
            Kind::HuggingFace(inner) => inner.token_to_id(token),
        }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that starts a document.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a document.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the tokenizer's own post-processing puts bos in front of a text.
    pub fn adds_bos(&self) -> bool {
        self.bos.is_some() && self.in_front == self.bos
    }

    /// About what the tokenizer takes in memory: a multiple of its file, measured with vocabularies of 32k to 128k.
    pub fn resident_bytes(&self) -> usize {
        const TIMES_FILE: usize = 12;
        self.file_bytes * TIMES_FILE
    }

    /// Gives back the memory of words met so far: they lie scattered over all that tokenizing a library took, and would keep
    /// much of it from going back to the system.
    pub fn forget_words(&self) {
        if let Kind::HuggingFace(inner) = &self.kind
            && let tokenizers::ModelWrapper::BPE(model) = inner.get_model()
        {
            model.clear_cache();
        }
    }

    /// blake3 of tokenizer.json: what a token cache is valid for.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Errors: ids, bos and eos included, that a model with `model_vocab` embeddings has no row for. (Spare rows in the
    /// model are common and fine.)
    pub fn check_vocab(&self, model_vocab: usize) -> Result<()> {
        let special = self.bos.max(self.eos).map_or(0, |id| id as usize + 1);
        let needed = self.vocab_size.max(special);
        if needed <= model_vocab {
            return Ok(());
        }
        let problem = format!(
            "the tokenizer has ids up to {}, the model's embedding only {model_vocab} rows; they do not belong together: \
             take the tokenizer files of this very model",
            needed - 1
        );
        Err(Error::file(&self.path, problem))
    }
}

/// A tokenizer as it is used here.
struct Used {
    inner: tokenizers::Tokenizer,
    /// One more than its largest id (not the number of entries: ids may have gaps).
    vocab_size: usize,
    in_front: Option<u32>,
}

impl Used {
    fn of(json: &[u8]) -> tokenizers::Result<Used> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        // A file saved after fine-tuning may say to cut every text at 512 tokens, or to fill it up to them.
        inner.with_truncation(None)?.with_padding(None);
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let letter = guarded(|| inner.encode_fast("a", true)).ok().and_then(tokenizers::Result::ok);
        let in_front =
            letter.filter(|tokens| tokens.len() > 1).and_then(|tokens| tokens.get_ids().first().copied());
        // It adds special tokens, which are not asked for, and moves the places of others.
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        Ok(Used { inner, vocab_size, in_front })
    }
}

fn no_tokenizer(dir: &Path) -> String {
    if dir.join("tokenizer.model").is_file() {
        "no tokenizer.json here, only a SentencePiece tokenizer.model; make one with transformers: \
         AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            .into()
    } else {
        "no tokenizer.json here; copy it from the model's repository".into()
    }
}

fn decode_bytes(tokens: &[TokenId], skip_special: bool) -> String {
    let mut bytes = Vec::with_capacity(tokens.len());
    for token in tokens {
        match u8::try_from(token.0) {
            Ok(byte) => bytes.push(byte),
            Err(_) if skip_special => (),
            Err(_) => {
                let name = BYTE_SPECIAL.iter().find(|(id, _)| *id == token.0);
                bytes.extend(name.map_or("", |(_, name)| name).bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte tokenizer as a tokenizer.json, so that other software can use the model too: the same ids for every text.
pub fn bytes_as_json() -> String {
    // Byte-level vocabularies spell each byte as a printable character: itself where it is one, else one from 256 on.
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut spare = 256..;
    let mut spell =
        |b: u8| if printable(&b) { Some(b.into()) } else { spare.next().and_then(char::from_u32) };
    let mut vocab: serde_json::Map<String, Value> =
        (0..=255u8).filter_map(|b| Some((spell(b)?.to_string(), Value::from(b)))).collect();
    vocab.extend(BYTE_SPECIAL.map(|(id, name)| (name.to_string(), Value::from(id))));
    let added = BYTE_SPECIAL.map(|(id, name)| {
        serde_json::json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false });
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [] },
    });
    format!("{json:#}\n")
}
