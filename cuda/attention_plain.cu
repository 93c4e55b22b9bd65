// Causal attention for any head_dim up to PLAIN_HEAD_DIM, forward and backward, in f32 arithmetic on plain multiply-adds: the f32
// variant of attention_forward.cu, attention_backward.cu and decode.cu, and what bf16 falls back to at other head sizes.
// Formulas and layouts: attention.cuh, attention_backward.cu.
//
//   attention_plain      o (=), lse (=)      a warp for each query: lanes are 32 keys for the scores, then columns for the sums
//   attention_plain_dq   dq (=)              the same way, with the stats of attention_row_stats
//   attention_plain_dkv  dk, dv (=)          a warp for each key, lanes are 32 queries; heads of its group, queries ascending
//
// Launch: PLAIN_WARPS·32 threads; grid (⌈queries/PLAIN_WARPS⌉, heads, rows), dkv (⌈keys/PLAIN_WARPS⌉, kv_heads, rows).
#include "attention.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr int PLAIN_COLUMNS = PLAIN_HEAD_DIM / 32;  // of a head that a lane has: lane, lane + 32, ...

// A warp's own row of a head as floats in shared memory.
template <typename T>
__device__ __forceinline__ void keep_row(float* to, const T* row, int head_dim) {
    for (int i = threadIdx.x % 32; i < head_dim; i += 32) to[i] = to_float(row[i]);
    __syncwarp();
}

template <typename T>
__device__ __forceinline__ float dot(const float* a, const T* b, int head_dim) {
    float sum = 0.f;
    for (int i = 0; i < head_dim; i++) sum += a[i] * to_float(b[i]);
    return sum;
}

// sums[c] += weight·row[lane + 32·c]
template <typename T>
__device__ __forceinline__ void add_row(float (&sums)[PLAIN_COLUMNS], float weight, const T* row, int head_dim) {
#pragma unroll
    for (int c = 0; c < PLAIN_COLUMNS; c++) {
        const int i = threadIdx.x % 32 + 32 * c;
        if (i < head_dim) sums[c] += weight * to_float(row[i]);
    }
}

template <typename T>
__device__ __forceinline__ void store_row(T* row, const float (&sums)[PLAIN_COLUMNS], float factor, int head_dim) {
#pragma unroll
    for (int c = 0; c < PLAIN_COLUMNS; c++) {
        const int i = threadIdx.x % 32 + 32 * c;
        if (i < head_dim) row[i] = from_float<T>(factor * sums[c]);
    }
}

template <typename T>
__device__ __forceinline__ void attention_plain(T* o, float* lse, const T* q, const T* k, const T* v, const uint32_t* documents,
                                                int head_dim, Shape s) {
    __shared__ float rows[PLAIN_WARPS][PLAIN_HEAD_DIM];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, query = blockIdx.x * PLAIN_WARPS + warp;
    if (query >= s.queries) return;
    const int head = blockIdx.y, row = blockIdx.z, at = s.past() + query;
    const int64_t q_at = ((int64_t(row) * s.queries + query) * s.heads + head) * head_dim;
    const int64_t k_stride = int64_t(s.kv_heads) * head_dim;
    const int64_t k_at = int64_t(row) * s.keys * k_stride + head / (s.heads / s.kv_heads) * head_dim;
    if (documents) documents += int64_t(row) * s.keys;
    keep_row(rows[warp], q + q_at, head_dim);

    float sums[PLAIN_COLUMNS] = {}, top = -INFINITY, total = 0.f;
    for (int first = first_seen(at, s.window); first <= at; first += 32) {
        const int key = first + lane;
        float score = -INFINITY;
        if (sees(at, key, s, documents)) score = s.scale * dot(rows[warp], k + k_at + key * k_stride, head_dim);
        const float new_top = fmaxf(top, warp_max(score));
        if (new_top == -INFINITY) continue;  // no key of this document yet
        const float p = expf(score - new_top), old = expf(top - new_top);
        total = total * old + warp_sum(p);
#pragma unroll
        for (int c = 0; c < PLAIN_COLUMNS; c++) sums[c] *= old;
        for (int j = 0; j < min(32, at + 1 - first); j++)
            add_row(sums, __shfl_sync(FULL_WARP, p, j), v + k_at + (first + j) * k_stride, head_dim);
        top = new_top;
    }
    store_row(o + q_at, sums, 1.f / total, head_dim);
    if (lane == 0) lse[(int64_t(row) * s.heads + head) * s.queries + query] = top + logf(total);
}

// dq_i = scale·Σ_j ds_ij k_j, ds_ij = p_ij·(do_i·v_j − δ_i)
template <typename T>
__device__ __forceinline__ void attention_plain_dq(T* dq, const T* d_o, const float2* stats, const T* q, const T* k, const T* v,
                                                   const uint32_t* documents, int head_dim, Shape s) {
    __shared__ float q_rows[PLAIN_WARPS][PLAIN_HEAD_DIM], do_rows[PLAIN_WARPS][PLAIN_HEAD_DIM];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, query = blockIdx.x * PLAIN_WARPS + warp;
    if (query >= s.queries) return;
    const int head = blockIdx.y, row = blockIdx.z;
    const int64_t q_at = ((int64_t(row) * s.queries + query) * s.heads + head) * head_dim;
    const int64_t k_stride = int64_t(s.kv_heads) * head_dim;
    const int64_t k_at = int64_t(row) * s.keys * k_stride + head / (s.heads / s.kv_heads) * head_dim;
    const float2 stat = stats[(int64_t(row) * s.heads + head) * s.queries + query];
    if (documents) documents += int64_t(row) * s.keys;
    keep_row(q_rows[warp], q + q_at, head_dim);
    keep_row(do_rows[warp], d_o + q_at, head_dim);
    const float scale = s.scale * LOG2_E;

    float sums[PLAIN_COLUMNS] = {};
    for (int first = first_seen(query, s.window); first <= query; first += 32) {
        const int key = first + lane;
        float ds = 0.f;
        if (sees(query, key, s, documents)) {
            const float p = exp2f(scale * dot(q_rows[warp], k + k_at + key * k_stride, head_dim) - stat.x);
            ds = p * (dot(do_rows[warp], v + k_at + key * k_stride, head_dim) - stat.y);
        }
        for (int j = 0; j < min(32, query + 1 - first); j++)
            add_row(sums, __shfl_sync(FULL_WARP, ds, j), k + k_at + (first + j) * k_stride, head_dim);
    }
    store_row(dq + q_at, sums, s.scale, head_dim);
}

// dk_j = scale·Σ_i ds_ij q_i,  dv_j = Σ_i p_ij do_i
template <typename T>
__device__ __forceinline__ void attention_plain_dkv(T* dk, T* dv, const T* d_o, const float2* stats, const T* q, const T* k,
                                                    const T* v, const uint32_t* documents, int head_dim, Shape s) {
    __shared__ float k_rows[PLAIN_WARPS][PLAIN_HEAD_DIM], v_rows[PLAIN_WARPS][PLAIN_HEAD_DIM];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, key = blockIdx.x * PLAIN_WARPS + warp;
    if (key >= s.keys) return;
    const int kv_head = blockIdx.y, row = blockIdx.z, group = s.heads / s.kv_heads;
    const int64_t k_at = ((int64_t(row) * s.keys + key) * s.kv_heads + kv_head) * head_dim;
    const int64_t q_stride = int64_t(s.heads) * head_dim;
    if (documents) documents += int64_t(row) * s.keys;
    keep_row(k_rows[warp], k + k_at, head_dim);
    keep_row(v_rows[warp], v + k_at, head_dim);
    const float scale = s.scale * LOG2_E;

    const int64_t end = min(int64_t(s.queries), int64_t(key) + s.window);
    float dk_sums[PLAIN_COLUMNS] = {}, dv_sums[PLAIN_COLUMNS] = {};
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const int64_t q_at = int64_t(row) * s.queries * q_stride + head * head_dim;
        const float2* const head_stats = stats + (int64_t(row) * s.heads + head) * s.queries;
        for (int64_t first = key; first < end; first += 32) {
            const int64_t query = first + lane;
            float p = 0.f, ds = 0.f;
            if (query < end && sees(query, key, s, documents)) {
                const float2 stat = head_stats[query];
                p = exp2f(scale * dot(k_rows[warp], q + q_at + query * q_stride, head_dim) - stat.x);
                ds = p * (dot(v_rows[warp], d_o + q_at + query * q_stride, head_dim) - stat.y);
            }
            for (int j = 0; j < min(int64_t(32), end - first); j++) {
                add_row(dk_sums, __shfl_sync(FULL_WARP, ds, j), q + q_at + (first + j) * q_stride, head_dim);
                add_row(dv_sums, __shfl_sync(FULL_WARP, p, j), d_o + q_at + (first + j) * q_stride, head_dim);
            }
        }
    }
    store_row(dk + k_at, dk_sums, s.scale, head_dim);
    store_row(dv + k_at, dv_sums, 1.f, head_dim);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(PLAIN_WARPS * 32, 2)                                                     \
        attention_plain_##name(T* o, float* lse, const T* q, const T* k, const T* v, const uint32_t* documents,           \
                               int head_dim, int queries, int keys, int heads, int kv_heads, int window, float scale) {   \
        attention_plain(o, lse, q, k, v, documents, head_dim, Shape{queries, keys, heads, kv_heads, window, scale});      \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(PLAIN_WARPS * 32, 2)                                                     \
        attention_plain_dq_##name(T* dq, const T* d_o, const float2* stats, const T* q, const T* k,                       \
                                  const T* v, const uint32_t* documents, int head_dim, int queries, int keys, int heads,  \
                                  int kv_heads, int window, float scale) {                                                \
        attention_plain_dq(dq, d_o, stats, q, k, v, documents, head_dim,                                                  \
                           Shape{queries, keys, heads, kv_heads, window, scale});                                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(PLAIN_WARPS * 32, 2)                                                     \
        attention_plain_dkv_##name(T* dk, T* dv, const T* d_o, const float2* stats, const T* q,                           \
                                   const T* k, const T* v, const uint32_t* documents, int head_dim, int queries,          \
                                   int keys, int heads, int kv_heads, int window, float scale) {                          \
        attention_plain_dkv(dk, dv, d_o, stats, q, k, v, documents, head_dim,                                             \
                            Shape{queries, keys, heads, kv_heads, window, scale});                                        \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
