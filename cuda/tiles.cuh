// The sizes that kernels and their launches share: the one table of them.
//
// build.rs turns every `constexpr int NAME = VALUE;` below into a Rust constant of the same name, so that a launch shape
// cannot differ from what its kernel was compiled for. Sizes are in elements unless said otherwise.
#pragma once

// Element-wise and row kernels: threads of a block.
constexpr int ELEMENTWISE_THREADS = 256;
constexpr int ROW_THREADS = 256;        // rmsnorm, layernorm, unit_rows: one row at a time for each block
constexpr int NORM_BACKWARD_BLOCKS = 128;  // partial sums of dw; by this number alone, so sums do not depend on the GPU
constexpr int ROPE_THREADS = 128;
constexpr int EMBED_BACKWARD_THREADS = 256;
constexpr int EMBED_BACKWARD_COLUMNS = 4;  // of a thread: 16 bytes of d_table, lanes next to each other in whole lines
constexpr int EMBED_BACKWARD_SHARES = 32;  // each takes the token ids that are its number modulo this
constexpr int COLUMN_SUM_THREADS = 256;
constexpr int SOFTMAX_THREADS = 512;
constexpr int SAMPLE_THREADS = 1024;
constexpr int SUM_THREADS = 256;
constexpr int SUM_BLOCKS = 256;         // partial sums of the global norm
constexpr int ADAMW_THREADS = 256;
constexpr int ADAMW_RUN = 4096;         // elements of one block
constexpr int MOMENT_BLOCK = 256;       // elements that share the scales of their 8-bit moments

// matmul in bf16 on tensor cores: a block's tile of the output, the depth of one stage, stages in flight.
constexpr int MATMUL_M = 128;
constexpr int MATMUL_N = 128;
constexpr int MATMUL_K = 32;
constexpr int MATMUL_STAGES = 4;
constexpr int MATMUL_THREADS = 128;     // 2 x 2 warps of 64 x 64
constexpr int MATMUL_SHARED_BYTES = 65536;
// matmul_nt of a few rows: rows of x at most, outputs of a block, whose warps share the depth.
constexpr int MATMUL_FEW_ROWS = 8;
constexpr int MATMUL_FEW_OUTPUTS = 32;
constexpr int MATMUL_FEW_THREADS = 256;
// matmul in f32 on plain multiply-adds.
constexpr int MATMUL_F32_M = 64;
constexpr int MATMUL_F32_N = 64;
constexpr int MATMUL_F32_K = 16;
constexpr int MATMUL_F32_THREADS = 256; // 16 x 16 threads of 4 x 4

// attention in bf16: queries and keys of a tile; a warp has 16 rows.
constexpr int ATTENTION_QUERIES = 128;
constexpr int ATTENTION_KEYS = 64;
constexpr int ATTENTION_KEYS_NARROW = 32;  // where shared memory is short: for head_dim 256, and for 128 on some GPUs
constexpr int ATTENTION_THREADS = 256;
constexpr int ATTENTION_DQ_QUERIES = 64;
constexpr int ATTENTION_DQ_KEYS = 32;
constexpr int ATTENTION_DQ_THREADS = 128;
constexpr int ATTENTION_DKV_KEYS = 64;
constexpr int ATTENTION_DKV_QUERIES = 32;
constexpr int ATTENTION_DKV_THREADS = 128;
constexpr int ATTENTION_DKV_COLUMNS = 128;  // of dk and dv that one block keeps; head_dim 256 takes two blocks
// attention on plain multiply-adds: f32, and head sizes that the tensor core kernels do not have; a warp for each query or key.
constexpr int PLAIN_WARPS = 8;
constexpr int PLAIN_HEAD_DIM = 256;     // at most
constexpr int ATTENTION_STATS_THREADS = 256;
// attention for decoding: up to 16 rows (queries x grouped heads) at a time, each of 4 warps on 16 of 64 keys.
constexpr int DECODE_ROWS = 16;
constexpr int DECODE_KEYS = 64;
constexpr int DECODE_THREADS = 128;
// keys and values as 8-bit codes: lanes that quantise a head, elements that a thread multiplies out by one load of codes.
constexpr int KV_LANES = 8;
constexpr int KV_ELEMENTS = 16;
// The benchmarks' yardstick.
constexpr int PEAK_BLOCKS = 1056;
constexpr int PEAK_THREADS = 256;
constexpr int PEAK_CHAINS = 8;
