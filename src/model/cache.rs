//! One layer's keys and values, kept as activations are or as 8-bit integers.

use super::Config;
use crate::backend::{AttentionShape, Backend, KvShape, Quantised};
use crate::error::Result;
use crate::index::DocumentId;
use crate::memory::{Kind, Ledger};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// As activations.
    #[default]
    Act,
    /// 8-bit integers, one scale for each head of a token ([`Backend::kv_quantise`]).
    Int8,
}

/// Room for the keys and values of `capacity` tokens.
pub enum Cache<B: Backend> {
    /// [capacity, g, c] each.
    Act {
        k: B::Buf<B::Act>,
        v: B::Buf<B::Act>,
    },
    Int8 {
        k: Codes<B>,
        v: Codes<B>,
    },
}

/// Codes [capacity, g, c] and scales [capacity, g].
pub struct Codes<B: Backend> {
    codes: B::Buf<i8>,
    scales: B::Buf<B::Stat>,
}

impl<B: Backend> Codes<B> {
    fn new(b: &B, ledger: &mut Ledger, name: &str, shape: [usize; 3]) -> Result<Self> {
        let codes = ledger.buf(b, Kind::KvCache, name, &shape)?;
        let scales = ledger.buf(b, Kind::KvCache, &format!("{name}.scales"), &shape[..2])?;
        Ok(Codes { codes, scales })
    }

    fn view(&self) -> Quantised<'_, B> {
        Quantised { codes: &self.codes, scales: &self.scales }
    }
}

impl<B: Backend> Cache<B> {
    pub(super) fn new(
        b: &B, ledger: &mut Ledger, name: &str, c: &Config, capacity: usize, format: CacheFormat,
    ) -> Result<Self> {
        let shape = [capacity, c.num_key_value_heads, c.head_dim];
        let (k, v) = (format!("{name}.k"), format!("{name}.v"));
        Ok(match format {
            CacheFormat::Act => Cache::Act {
                k: ledger.buf(b, Kind::KvCache, &k, &shape)?,
                v: ledger.buf(b, Kind::KvCache, &v, &shape)?,
            },
            CacheFormat::Int8 => {
                Cache::Int8 { k: Codes::new(b, ledger, &k, shape)?, v: Codes::new(b, ledger, &v, shape)? }
            }
        })
    }

    /// Keeps the keys and values of the tokens that come after the first `past`.
    pub(super) fn append(
        &mut self, b: &B, past: usize, new_k: &B::Buf<B::Act>, new_v: &B::Buf<B::Act>, s: KvShape,
    ) -> Result<()> {
        match self {
            Cache::Act { k, v } => {
                let width = s.kv_heads * s.head_dim;
                b.copy(k, past * width, new_k, 0, s.tokens * width)?;
                b.copy(v, past * width, new_v, 0, s.tokens * width)
            }
            Cache::Int8 { k, v } => {
                b.kv_quantise(&mut k.codes, &mut k.scales, past, new_k, s)?;
                b.kv_quantise(&mut v.codes, &mut v.scales, past, new_v, s)
            }
        }
    }

    /// Attention of q over what is kept.
    pub(super) fn attend(
        &self, b: &B, o: &mut B::Buf<B::Act>, lse: &mut B::Buf<B::Stat>, q: &B::Buf<B::Act>,
        documents: Option<&B::Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        match self {
            Cache::Act { k, v } => b.attention(o, lse, q, k, v, documents, s),
            Cache::Int8 { k, v } => b.attention_int8(o, lse, q, k.view(), v.view(), documents, s),
        }
    }
}
