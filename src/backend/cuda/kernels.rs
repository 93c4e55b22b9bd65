//! The names of all kernels that the backend launches, to be found when the device is opened.

/// Head sizes that the tensor core kernels of attention have.
pub(super) const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// In bf16 and in f32, as `NAME_bf16` and `NAME_f32`.
const BOTH: &[&str] = &[
    "embed",
    "embed_backward",
    "rmsnorm",
    "rmsnorm_backward",
    "column_sum",
    "layernorm",
    "layernorm_backward",
    "unit_rows",
    "unit_rows_backward",
    "swiglu",
    "swiglu_backward",
    "gelu",
    "gelu_backward",
    "rope",
    "attention_row_stats",
    "attention_plain",
    "attention_plain_dq",
    "attention_plain_dkv",
    "decode_combine",
    "kv_quantise",
    "kv_dequantise",
    "decode_int8",
    "cross_entropy",
    "add_bias",
    "scale",
    "widen",
    "adamw",
    "adamw8",
    "matmul_nt",
    "matmul_nn",
    "matmul_tn",
];
/// In bf16 alone.
const TENSOR: &[&str] = &[
    "matmul_nt_f32out_bf16",
    "matmul_nt_ragged_bf16",
    "matmul_nt_f32out_ragged_bf16",
    "matmul_nn_ragged_bf16",
    "matmul_tn_ragged_bf16",
    "matmul_few_bf16",
    "matmul_few_f32out_bf16",
];
const OF_A_HEAD: &[&str] = &["attention_dq", "attention_dkv", "decode"];
/// The forward pass in tiles of 64 keys, and of 32, which take less shared memory.
const FORWARD: &[&str] = &[
    "attention_d64_bf16",
    "attention_d80_bf16",
    "attention_d96_bf16",
    "attention_d128_bf16",
    "attention_narrow_d128_bf16",
    "attention_narrow_d256_bf16",
];

/// All kernels for weights and activations in `suffix`, `bf16` or `f32`.
pub(super) fn names(suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = BOTH.iter().map(|name| format!("{name}_{suffix}")).collect();
    // what takes f32 alone is needed in both
    names.extend(
        ["column_sum_f32", "sum_squares", "sample", "peak_mma_bf16", "peak_fma_f32"].map(String::from),
    );
    if suffix == "bf16" {
        names.extend(TENSOR.iter().chain(FORWARD).map(|name| name.to_string()));
        let of_head = |d: usize| OF_A_HEAD.iter().map(move |name| format!("{name}_d{d}_bf16"));
        names.extend(HEAD_DIMS.into_iter().flat_map(of_head));
    }
    names.sort();
    names.dedup();
    names
}
