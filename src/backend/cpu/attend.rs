//! Attention over keys and values as they are: plans, scratch, and the two passes of `attention`.

use super::Cpu;
use super::attention::source::Source;
use super::attention::{Forward, ForwardPlan, backward};
use super::buffer::Buf;
use super::check;
use super::math::CpuFloat;
use crate::backend::{AttentionShape, operands};
use crate::error::Result;
use crate::index::DocumentId;

impl<E: CpuFloat> Cpu<E> {
    pub(super) fn attention(
        &self, o: &mut Buf<E>, lse: &mut Buf<f32>, q: &Buf<E>, k: &Buf<E>, v: &Buf<E>,
        documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        operands::attention::<Self>(check::DEVICE, (o, lse), [q, k, v], documents, s)?;
        if s.query_elements() == 0 {
            return Ok(());
        }
        let (k, v) = (Source::Plain(k.as_slice()), Source::Plain(v.as_slice()));
        self.attend(&self.forward_plan(s), (o, lse), q, (k, v), documents);
        Ok(())
    }

    pub(super) fn attention_backward(
        &self, dq: &mut Buf<E>, dk: &mut Buf<E>, dv: &mut Buf<E>, d_o: &Buf<E>, o: &Buf<E>, lse: &Buf<f32>,
        q: &Buf<E>, k: &Buf<E>, v: &Buf<E>, documents: Option<&Buf<DocumentId>>, s: AttentionShape,
    ) -> Result<()> {
        operands::attention_backward::<Self>(
            check::DEVICE,
            [dq, dk, dv, d_o],
            (o, lse),
            [q, k, v],
            documents,
            s,
        )?;
        if s.query_elements() == 0 {
            return Ok(());
        }
        let plan = self.backward_plan(s);
        let words = plan.scratch_words();
        let mut scratch = self.arena.take(words);
        let operands = backward::Backward {
            dq: dq.as_mut_slice(),
            dk: dk.as_mut_slice(),
            dv: dv.as_mut_slice(),
            d_o: d_o.as_slice(),
            o: o.as_slice(),
            lse: lse.as_slice(),
            q: q.as_slice(),
            k: k.as_slice(),
            v: v.as_slice(),
            documents: documents.map(|d| d.as_slice()),
        };
        backward::backward(&plan, &self.workers, scratch.words(words), operands);
        Ok(())
    }

    pub(super) fn forward_plan(&self, s: AttentionShape) -> ForwardPlan {
        ForwardPlan::new::<E>(self.packer, self.workers.threads(), s)
    }

    pub(super) fn backward_plan(&self, s: AttentionShape) -> backward::Plan {
        backward::Plan::new(self.packer, self.workers.threads(), s)
    }

    /// A forward pass as planned, of operands that are as long as the shape asks for.
    pub(super) fn attend(
        &self, plan: &ForwardPlan, (o, lse): (&mut Buf<E>, &mut Buf<f32>), q: &Buf<E>,
        (k, v): (Source<'_, E>, Source<'_, E>), documents: Option<&Buf<DocumentId>>,
    ) {
        let words = plan.scratch_words();
        let (o, lse, q) = (o.as_mut_slice(), lse.as_mut_slice(), q.as_slice());
        let operands = Forward { o, lse, q, k, v, documents: documents.map(|d| d.as_slice()) };
        plan.run(&self.workers, self.arena.take(words).words(words), operands);
    }
}
