//! The gradients of the trained parameters, and where they lie.
//!
//! A projection's output is read last by the backward pass of what comes after it, and the gradient of its weights is made
//! right after that. So where a layer keeps its activations and a step is one pass, the gradient *lodges*: it moves into the
//! memory of the output, and the next forward pass takes it back.

use super::{Model, ParamId, ParamSpec, params::Linear};
use crate::backend::{Backend, Buffer, MatmulShape};
use crate::error::Result;
use crate::memory::{Kind, Ledger};

/// Summed over the micro-batches of a step.
pub struct Gradients<B: Backend> {
    /// By [`ParamId`].
    tensors: Vec<Gradient<B>>,
}

/// Where a gradient is added to; None where its parameter is frozen or not there.
type Trained<'a, B> = Option<&'a mut <B as Backend>::Buf<<B as Backend>::Stat>>;

enum Gradient<B: Backend> {
    Frozen,
    /// In memory of its own.
    Owner(B::Buf<B::Stat>),
    /// In the memory of its projection's output from the backward pass to the next forward pass, else empty.
    Lodger(B::Buf<B::Stat>),
}

impl<B: Backend> Gradient<B> {
    fn here(&mut self) -> Trained<'_, B> {
        match self {
            Gradient::Frozen => None,
            Gradient::Owner(t) | Gradient::Lodger(t) => Some(t),
        }
    }
}

impl<B: Backend> Gradients<B> {
    /// Each in memory of its own.
    pub fn allocate(b: &B, ledger: &mut Ledger, specs: &[ParamSpec]) -> Result<Self> {
        Self::with_lodgers(b, ledger, specs, |_| false)
    }

    /// Those of the projections of all layers but the first `recomputed` lodge in the activations, in which
    /// [`TrainBuffers::with_lodgers`](super::buffers::TrainBuffers::with_lodgers) makes room for them. For steps of one pass:
    /// with another the sum would be lost.
    pub fn lodging(b: &B, ledger: &mut Ledger, model: &Model<B>, recomputed: usize) -> Result<Self> {
        let kept = model.ids.layers.iter().skip(recomputed);
        let lodgers: Vec<ParamId> = kept.flat_map(|layer| layer.linears().map(|l| l.weight)).collect();
        Self::with_lodgers(b, ledger, &model.specs, |id| lodgers.contains(&id))
    }

    fn with_lodgers(
        b: &B, ledger: &mut Ledger, specs: &[ParamSpec], lodges: impl Fn(ParamId) -> bool,
    ) -> Result<Self> {
        let gradient = |(i, spec): (usize, &ParamSpec)| {
            Ok(match spec.trained {
                false => Gradient::Frozen,
                true if lodges(ParamId(i)) => Gradient::Lodger(b.alloc(0)?),
                true => Gradient::Owner(ledger.buf(b, Kind::Gradients, &row_name(spec), &spec.shape)?),
            })
        };
        Ok(Gradients { tensors: specs.iter().enumerate().map(gradient).collect::<Result<_>>()? })
    }

    pub(super) fn lodges(&self, id: ParamId) -> bool {
        matches!(self.tensors[id.0], Gradient::Lodger(_))
    }

    /// Before the first pass of a step. What lodges is zeroed when it moves in.
    pub fn zero(&mut self, b: &B, specs: &[ParamSpec]) -> Result<()> {
        self.tensors.iter_mut().zip(specs).try_for_each(|(gradient, spec)| match gradient {
            Gradient::Owner(t) => b.zero(t, spec.elements()),
            Gradient::Lodger(_) | Gradient::Frozen => Ok(()),
        })
    }

    /// Nothing reads a projection's output `y` any more: the gradient of its weights, if it lodges, moves in, as zeros.
    pub(super) fn move_in(
        &mut self, b: &B, w: &Linear, y: &mut B::Buf<B::Act>, s: MatmulShape,
    ) -> Result<()> {
        let Gradient::Lodger(t) = &mut self.tensors[w.weight.0] else { return Ok(()) };
        b.exchange(y, t);
        b.zero(t, s.n * s.k)
    }

    /// Undoes [`Gradients::move_in`]: y is about to be written again.
    pub(super) fn move_out(&mut self, b: &B, w: &Linear, y: &mut B::Buf<B::Act>) {
        match &mut self.tensors[w.weight.0] {
            Gradient::Lodger(t) if !t.is_empty() => b.exchange(y, t),
            _ => {}
        }
    }

    /// Where a parameter's gradient is added to; None where it is frozen.
    pub fn of(&mut self, id: ParamId) -> Option<&mut B::Buf<B::Stat>> {
        self.tensors[id.0].here()
    }

    /// Of two parameters at once, the second of which is later in the table or not there.
    pub(super) fn pair(
        &mut self, first: ParamId, second: Option<ParamId>,
    ) -> (Trained<'_, B>, Trained<'_, B>) {
        let at = second.map_or(self.tensors.len(), |id| id.0);
        let (before, after) = self.tensors.split_at_mut(at);
        (before.get_mut(first.0).and_then(Gradient::here), after.first_mut().and_then(Gradient::here))
    }

    /// A parameter's gradient; None where it is frozen.
    pub fn get(&self, id: ParamId) -> Option<&B::Buf<B::Stat>> {
        match &self.tensors[id.0] {
            Gradient::Frozen => None,
            Gradient::Owner(t) | Gradient::Lodger(t) => Some(t),
        }
    }

    /// The gradients, in the order of the table.
    pub fn trained(&self) -> impl Iterator<Item = &B::Buf<B::Stat>> {
        (0..self.tensors.len()).filter_map(|i| self.get(ParamId(i)))
    }

    /// √Σ g² of each trained parameter, in the order of the table.
    pub fn norms(&self, b: &B, specs: &[ParamSpec]) -> Result<Vec<f64>> {
        let lengths = specs.iter().filter(|spec| spec.trained).map(ParamSpec::elements);
        let tensors: Vec<_> = self.trained().zip(lengths).collect();
        Ok(b.sum_squares(&tensors)?.into_iter().map(f64::sqrt).collect())
    }
}

/// What the plan calls a parameter's gradient.
pub(super) fn row_name(spec: &ParamSpec) -> String {
    format!("d {}", spec.name)
}
