// Causal attention, backward, in bf16 on tensor cores (FlashAttention-2, 2307.08691, 3.1.2). Layouts: attention.cuh; queries == keys.
//
//   forward: o_i = Σ_j p_ij v_j, p_ij = exp(scale·q_i·k_j − lse_i). Undone, with p computed again from lse:
//   δ_i = do_i·o_i,  ds_ij = p_ij·(do_i·v_j − δ_i)                attention_delta: delta [rows,heads,queries] f32 (=)
//   dq_i = scale·Σ_j ds_ij k_j                                    attention_dq:    dq (=)
//   dk_j = scale·Σ_i ds_ij q_i,  dv_j = Σ_i p_ij do_i             attention_dkv:   dk, dv (=), over all heads that share the key
//
// dq and dk, dv are made by kernels of their own, each owning what it writes: two products more than one kernel that adds dq
// by atomics, and the same bits every time.
//
// Launch: attention_delta: ATTENTION_DELTA_THREADS, a warp for each (row, query, head). attention_dq: ATTENTION_DQ_THREADS, grid
// (⌈queries/ATTENTION_DQ_QUERIES⌉, heads, rows), shared (2·ATTENTION_DQ_QUERIES + 4·ATTENTION_DQ_KEYS)·(D+8)·2 bytes.
// attention_dkv: ATTENTION_DKV_THREADS, grid (⌈keys/ATTENTION_DKV_KEYS⌉, kv_heads, rows·⌈D/ATTENTION_DKV_COLUMNS⌉), shared
// (2·ATTENTION_DKV_KEYS + 4·ATTENTION_DKV_QUERIES)·(D+8)·2 + 16·ATTENTION_DKV_QUERIES bytes.
#include "attention.cuh"
#include "softmax_state.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

template <typename T>
__device__ __forceinline__ void delta(float* delta, const T* d_o, const T* o, int queries, int heads, int head_dim, int all) {
    constexpr int V = Vec<T>::N;
    const int index = blockIdx.x * (ATTENTION_DELTA_THREADS / 32) + threadIdx.x / 32;  // (row·queries + query)·heads + head
    if (index >= all) return;
    float sum = 0.f;
    if (head_dim % V != 0)  // rows that do not start on 16 bytes
        for (int i = threadIdx.x % 32; i < head_dim; i += 32)
            sum += to_float(d_o[int64_t(index) * head_dim + i]) * to_float(o[int64_t(index) * head_dim + i]);
    else
    for (int i = threadIdx.x % 32 * V; i < head_dim; i += 32 * V) {
        const Vec<T> a = load_vec(d_o + int64_t(index) * head_dim + i), b = load_vec(o + int64_t(index) * head_dim + i);
#pragma unroll
        for (int j = 0; j < V; j++) sum += a.x[j] * b.x[j];
    }
    sum = warp_sum(sum);
    const int token = index / heads, head = index % heads;
    if (threadIdx.x % 32 == 0) delta[(int64_t(token / queries) * heads + head) * queries + token % queries] = sum;
}

// Whether the query at sequence index `at` sees `key`; `documents` of the row or null.
__device__ __forceinline__ bool sees(int at, int key, const Shape& s, const uint32_t* documents) {
    return key <= at && at - key < s.window && at < s.queries && (!documents || documents[key] == documents[at]);
}

template <int D>
__device__ __forceinline__ void attention_dq(bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k,
                                             const bf16* v, const uint32_t* documents, Shape s) {
    constexpr int TILE = ATTENTION_DQ_KEYS, BLOCKS = TILE / 8;
    using Queries = HeadRows<D, ATTENTION_DQ_QUERIES, ATTENTION_DQ_THREADS>;
    using Keys = HeadRows<D, TILE, ATTENTION_DQ_THREADS>;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t q_rows = shared_address(memory), do_rows = q_rows + Queries::BYTES, k_rows = do_rows + Queries::BYTES;
    const uint32_t v_rows = k_rows + 2 * Keys::BYTES;
    const int row = blockIdx.z, head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const int query0 = (gridDim.x - 1 - blockIdx.x) * ATTENTION_DQ_QUERIES;
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    const int64_t q_offset = int64_t(row) * s.queries * q_stride + head * D, k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;

    const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    float row_lse[2], row_delta[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = query0 + warp_row + lane / 4 + 8 * half;
        const int64_t index = (int64_t(row) * s.heads + head) * s.queries + at;
        row_lse[half] = at < s.queries ? lse[index] * LOG2_E : INFINITY;  // a weight of 0 for rows that do not exist
        row_delta[half] = at < s.queries ? delta[index] : 0.f;
    }
    uint32_t stage = 0;
    const auto start = [&](int tile, uint32_t into) {
        Keys::start(k_rows + into, k + k_offset, k_stride, tile * TILE, s.keys);
        Keys::start(v_rows + into, v + k_offset, k_stride, tile * TILE, s.keys);
        cp_async_commit();
    };
    const uint32_t q_at = Queries::lane_at(q_rows + Queries::at(warp_row, 0), second_matrix(), third_matrix());
    const uint32_t do_at = q_at + Queries::BYTES;
    const uint32_t k_at = Keys::lane_at(k_rows, third_matrix(), second_matrix()), v_at = k_at + 2 * Keys::BYTES;
    const uint32_t k_down_at = Keys::lane_at(k_rows, second_matrix(), third_matrix());
    const int last = min(s.queries, query0 + ATTENTION_DQ_QUERIES) - 1, end = last / TILE + 1;
    Queries::start(q_rows, q + q_offset, q_stride, query0, s.queries);
    Queries::start(do_rows, d_o + q_offset, q_stride, query0, s.queries);
    const int first = first_seen(query0, s.window) / TILE;
    start(first, stage);
    float sums[D / 8][4] = {};
    const float scale = s.scale * LOG2_E;
#pragma unroll 1
    for (int tile = first; tile < end; tile++) {
        cp_async_wait<0>();
        __syncthreads();
        if (tile + 1 < end) start(tile + 1, stage ^ Keys::BYTES);
        const int key0 = tile * TILE;
        const bool whole = !documents && key0 + TILE - 1 <= query0 && last - key0 < s.window;
        float p[BLOCKS][4], slope[BLOCKS][4];
        multiply_rows<D, Queries, Keys>(p, q_at, k_at + stage);
        multiply_rows<D, Queries, Keys>(slope, do_at, v_at + stage);
#pragma unroll
        for (int j = 0; j < BLOCKS; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int at = query0 + warp_row + lane / 4 + 8 * (c / 2), key = key0 + 8 * j + lane % 4 * 2 + c % 2;
                const float weight = exp2_approx(p[j][c] * scale - row_lse[c / 2]);
                slope[j][c] = whole || sees(at, key, s, documents) ? weight * (slope[j][c] - row_delta[c / 2]) : 0.f;
            }
        accumulate_rows<Keys>(sums, slope, k_down_at + stage);
        stage ^= Keys::BYTES;
    }
    const float factor[2] = {s.scale, s.scale};
    store_rows<Queries>(dq + q_offset + (query0 + warp_row) * q_stride, q_stride, s.queries - query0 - warp_row,
                        reinterpret_cast<char*>(memory) + Queries::at(warp_row, 0), sums, factor);
}

// Scores are held transposed, keys down and queries across, so that they are the left operand of both sums as they stand.
template <int D>
__device__ __forceinline__ void attention_dkv(bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q,
                                              const bf16* k, const bf16* v, const uint32_t* documents, Shape s) {
    constexpr int TILE = ATTENTION_DKV_QUERIES, BLOCKS = TILE / 8, PARTS = (D + ATTENTION_DKV_COLUMNS - 1) / ATTENTION_DKV_COLUMNS;
    constexpr int COLUMNS = D / PARTS;
    using Keys = HeadRows<D, ATTENTION_DKV_KEYS, ATTENTION_DKV_THREADS>;
    using Queries = HeadRows<D, TILE, ATTENTION_DKV_THREADS>;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t k_rows = shared_address(memory), v_rows = k_rows + Keys::BYTES, q_rows = v_rows + Keys::BYTES;
    const uint32_t do_rows = q_rows + 2 * Queries::BYTES;
    float* const statistics = reinterpret_cast<float*>(reinterpret_cast<char*>(memory) + 2 * Keys::BYTES + 4 * Queries::BYTES);
    const int row = blockIdx.z / PARTS, column0 = blockIdx.z % PARTS * COLUMNS, kv_head = blockIdx.y, group = s.heads / s.kv_heads;
    const int key0 = blockIdx.x * ATTENTION_DKV_KEYS;
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    const int64_t k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;

    // Query tiles [first, end) of each head of the group, one head after the other.
    const int first = key0 / TILE, key_last = min(s.keys, key0 + ATTENTION_DKV_KEYS) - 1;
    const int seen_until = s.window < s.queries - key_last ? key_last + s.window : s.queries;
    const int end = (seen_until + TILE - 1) / TILE, per_head = end - first, all = group * per_head;
    uint32_t stage = 0;
    const auto start = [&](int i, uint32_t into) {
        const int head = kv_head * group + i / per_head, query0 = (first + i % per_head) * TILE;
        const int64_t offset = int64_t(row) * s.queries * q_stride + head * D;
        Queries::start(q_rows + into, q + offset, q_stride, query0, s.queries);
        Queries::start(do_rows + into, d_o + offset, q_stride, query0, s.queries);
        cp_async_commit();
        if (threadIdx.x < TILE) {  // log-sum-exp, and delta TILE on; +inf gives queries that do not exist no weight
            float* const to = statistics + (into ? 2 * TILE : 0) + threadIdx.x;
            const int at = query0 + threadIdx.x;
            const int64_t index = (int64_t(row) * s.heads + head) * s.queries + at;
            to[0] = at < s.queries ? lse[index] * LOG2_E : INFINITY;
            to[TILE] = at < s.queries ? delta[index] : 0.f;
        }
    };
    const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    const uint32_t k_at = Keys::lane_at(k_rows + Keys::at(warp_row, 0), second_matrix(), third_matrix()), v_at = k_at + Keys::BYTES;
    const uint32_t q_at = Queries::lane_at(q_rows, third_matrix(), second_matrix()), do_at = q_at + 2 * Queries::BYTES;
    const uint32_t q_down_at = Queries::lane_at(q_rows + Queries::at(0, 0) + column0 * 2, second_matrix(), third_matrix());
    const uint32_t do_down_at = q_down_at + 2 * Queries::BYTES;
    Keys::start(k_rows, k + k_offset, k_stride, key0, s.keys);
    Keys::start(v_rows, v + k_offset, k_stride, key0, s.keys);
    start(0, stage);
    float dk_sums[COLUMNS / 8][4] = {}, dv_sums[COLUMNS / 8][4] = {};
    const float scale = s.scale * LOG2_E;
#pragma unroll 1
    for (int i = 0; i < all; i++) {
        cp_async_wait<0>();
        __syncthreads();
        if (i + 1 < all) start(i + 1, stage ^ Queries::BYTES);
        const int query0 = (first + i % per_head) * TILE;
        const bool whole = !documents && query0 >= key_last && query0 + TILE <= s.queries && query0 + TILE - 1 - key0 < s.window;
        const float* const stats = statistics + (stage ? 2 * TILE : 0);
        float p[BLOCKS][4], slope[BLOCKS][4];
        multiply_rows<D, Keys, Queries>(p, k_at, q_at + stage);
        multiply_rows<D, Keys, Queries>(slope, v_at, do_at + stage);
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) {
            const int column = 8 * j + lane % 4 * 2;
            const float2 lse2 = *reinterpret_cast<const float2*>(stats + column);
            const float2 delta2 = *reinterpret_cast<const float2*>(stats + TILE + column);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int key = key0 + warp_row + lane / 4 + 8 * (c / 2), at = query0 + column + c % 2;
                const float weight = exp2_approx(p[j][c] * scale - (c % 2 ? lse2.y : lse2.x));
                const bool seen = whole || sees(at, key, s, documents);
                p[j][c] = seen ? weight : 0.f;
                slope[j][c] = seen ? weight * (slope[j][c] - (c % 2 ? delta2.y : delta2.x)) : 0.f;
            }
        }
        accumulate_rows<Queries>(dv_sums, p, do_down_at + stage);
        accumulate_rows<Queries>(dk_sums, slope, q_down_at + stage);
        stage ^= Queries::BYTES;
    }
    const float one[2] = {1.f, 1.f}, factor[2] = {s.scale, s.scale};
    const int64_t offset = k_offset + (key0 + warp_row) * k_stride + column0;
    const int left = s.keys - key0 - warp_row;
    char* const staging = reinterpret_cast<char*>(memory) + Keys::at(warp_row, 0);  // this warp's own rows of k
    store_rows<Keys>(dk + offset, k_stride, left, staging, dk_sums, factor);
    store_rows<Keys>(dv + offset, k_stride, left, staging, dv_sums, one);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(D)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DQ_THREADS)                                                    \
        attention_dq_d##D##_bf16(bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q,          \
                                 const bf16* k, const bf16* v, const uint32_t* documents, int queries, int keys,          \
                                 int heads, int kv_heads, int window, float scale) {                                      \
        attention_dq<D>(dq, d_o, lse, delta, q, k, v, documents, Shape{queries, keys, heads, kv_heads, window, scale});   \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DKV_THREADS)                                                   \
        attention_dkv_d##D##_bf16(bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta,              \
                                  const bf16* q, const bf16* k, const bf16* v, const uint32_t* documents, int queries,    \
                                  int keys, int heads, int kv_heads, int window, float scale) {                           \
        attention_dkv<D>(dk, dv, d_o, lse, delta, q, k, v, documents,                                                     \
                         Shape{queries, keys, heads, kv_heads, window, scale});                                           \
    }
ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(128)
ENTRY(256)

#define DELTA(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DELTA_THREADS)                                                 \
        attention_delta_##name(float* d, const T* d_o, const T* o, int queries, int heads, int head_dim, int all) {       \
        delta(d, d_o, o, queries, heads, head_dim, all);                                                                  \
    }
DELTA(bf16, bf16)
DELTA(float, f32)
