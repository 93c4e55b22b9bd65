//! Bytes of a checkpoint as f32. Files are little-endian and promise no alignment.

use crate::model::config::Dtype;
use half::{bf16, f16};

/// out = the numbers that `bytes` holds. f16 and bf16 convert without rounding.
pub(super) fn to_f32(bytes: &[u8], dtype: Dtype, out: &mut Vec<f32>) {
    out.clear();
    match dtype {
        Dtype::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        Dtype::Bf16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
    }
}

/// The index of a flat element, as `[3, 17]`.
pub(super) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (place, &size) in index.iter_mut().zip(shape).rev() {
        *place = flat % size.max(1);
        flat /= size.max(1);
    }
    index
}
