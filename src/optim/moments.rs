//! The two moments of each trained parameter, in the order of the table.

use super::Optimizer;
use crate::backend::{Backend, Element, MOMENT_BLOCK, MomentCodes};
use crate::error::Result;
use crate::memory::{Kind, Ledger};
use crate::model::{Model, ParamSpec};

pub enum Moments<B: Backend> {
    /// In `Stat`.
    Full { m: Vec<B::Buf<B::Stat>>, v: Vec<B::Buf<B::Stat>> },
    /// As [`Backend::adamw8`] keeps them.
    Codes { m: Vec<Codes<B, i8>>, v: Vec<Codes<B, u8>> },
}

/// A parameter's moment in 8 bits.
pub struct Codes<B: Backend, C: Element> {
    pub codes: B::Buf<C>,
    pub scales: B::Buf<B::Stat>,
}

impl<B: Backend> Moments<B> {
    /// All zeros.
    pub(super) fn allocate(
        b: &B, ledger: &mut Ledger, model: &Model<B>, optimizer: Optimizer,
    ) -> Result<Moments<B>> {
        let mut full = |moment| -> Result<Vec<B::Buf<B::Stat>>> {
            let buf = |(_, spec): (_, &ParamSpec)| {
                ledger.buf(b, Kind::Moments, &format!("{moment} {}", spec.name), &spec.shape)
            };
            model.trained().map(buf).collect()
        };
        Ok(match optimizer {
            Optimizer::Adamw => Moments::Full { m: full("m")?, v: full("v")? },
            Optimizer::Adamw8bit => Moments::Codes {
                m: Codes::allocate(b, ledger, model, "m")?,
                v: Codes::allocate(b, ledger, model, "v")?,
            },
        })
    }
}

impl<B: Backend, C: Element> Codes<B, C> {
    fn allocate(b: &B, ledger: &mut Ledger, model: &Model<B>, moment: &str) -> Result<Vec<Self>> {
        let of = |(_, spec): (_, &ParamSpec)| {
            let name = |what: &str| format!("{moment} {what} {}", spec.name);
            let blocks = Self::blocks(spec.elements());
            Ok(Codes {
                codes: ledger.buf(b, Kind::Moments, &name("codes"), &spec.shape)?,
                scales: ledger.buf(b, Kind::Moments, &name("scales"), &[blocks])?,
            })
        };
        model.trained().map(of).collect()
    }

    /// How many scales there are of a parameter of `elements`.
    pub fn blocks(elements: usize) -> usize {
        elements.div_ceil(MOMENT_BLOCK)
    }

    pub(super) fn as_mut(&mut self) -> MomentCodes<'_, B, C> {
        MomentCodes { codes: &mut self.codes, scales: &mut self.scales }
    }
}
