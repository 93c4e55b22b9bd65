//! `tiles.rs` where no processor has AMX: nothing is taken.

use super::super::super::isa::Simd;
use super::super::super::matmul::pack::Packer;
use super::super::Shape;
use super::lines::Lines;
use half::bf16;
use std::convert::Infallible;
use std::marker::PhantomData;

pub(super) fn takes(_simd: Simd, _dim: usize) -> bool {
    false
}

pub(super) fn room_words(_s: &Shape) -> usize {
    0
}

pub(super) fn step(_s: &Shape) -> usize {
    1
}

pub(super) fn whole_tiles(_n: usize) -> usize {
    0
}

/// There is none.
pub(super) struct Tiles<'a>(Infallible, PhantomData<&'a ()>);

impl<'a> Tiles<'a> {
    pub(super) fn new(_packer: Packer, _shape: &'a Shape, _room: &'a mut [u32], _q: &[bf16]) -> Self {
        unreachable!("nothing is taken")
    }

    pub(super) fn dots(&self, _scores: &mut [f32], _k: Lines<'_, bf16>) {
        match self.0 {}
    }

    pub(super) fn sums(&mut self, _acc: &mut [f32], _weights: &[bf16], _v: Lines<'_, bf16>) {
        match self.0 {}
    }
}
