// Attention of a few queries against a long KV cache (flash-decoding): the keys are split over blocks, whose partial results a
// second kernel puts together. Layouts: attention.cuh.
//
//   decode          rows of one key/value head (its grouped query heads x queries, at most DECODE_ROWS) against keys
//                   [split·per_split, ...): part_o [splits,rows,kv_heads,DECODE_ROWS,D] f32 (=), each normed by its own sum;
//                   part_lse [splits,rows,kv_heads,DECODE_ROWS] f32 (=), −inf where a split has no key for a row
//   decode_combine  o (=), lse (=) from the parts, splits in ascending order
//
// A row is query row / group of head row % group of the group. One warp has sixteen of a tile's 64 keys, with a softmax state of
// its own; the four states meet at the end. Launch: decode: DECODE_THREADS, grid (splits, kv_heads, rows), shared
// (DECODE_ROWS + 4·DECODE_KEYS)·(D+8)·2 bytes (at least 4·16·(D+4)·4 for the meeting). decode_combine: 128 threads, grid
// (queries·heads, rows).
#include "attention.cuh"
#include "softmax_state.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr int WARPS = DECODE_THREADS / 32;

template <int D>
__device__ __forceinline__ void decode(float* part_o, float* part_lse, const bf16* q, const bf16* k, const bf16* v,
                                       const uint32_t* documents, int per_split, Shape s) {
    using Queries = HeadRows<D, DECODE_ROWS>;
    using Keys = HeadRows<D, DECODE_KEYS>;
    extern __shared__ __align__(128) uint4 memory[];
    char* const bytes = reinterpret_cast<char*>(memory);
    const uint32_t q_rows = shared_address(memory), k_rows = q_rows + Queries::BYTES, v_rows = k_rows + 2 * Keys::BYTES;
    const int row = blockIdx.z, kv_head = blockIdx.y, group = s.heads / s.kv_heads, used = group * s.queries;
    const int64_t k_stride = int64_t(s.kv_heads) * D, k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    for (int i = threadIdx.x; i < DECODE_ROWS * (D / 8); i += DECODE_THREADS) {
        const int r = i / (D / 8), chunk = i % (D / 8);
        uint4 x = make_uint4(0, 0, 0, 0);
        if (r < used)
            x = *reinterpret_cast<const uint4*>(q + ((int64_t(row) * s.queries + r / group) * s.heads + kv_head * group + r % group) * D + 8 * chunk);
        *reinterpret_cast<uint4*>(bytes + Queries::at(r, 8 * chunk)) = x;
    }
    const int begin = blockIdx.x * per_split, end = min(s.keys, begin + per_split);
    uint32_t stage = 0;
    Incoming<D, DECODE_KEYS, DECODE_THREADS, 2, 2 * Keys::BYTES> incoming(k_rows, {k + k_offset, v + k_offset}, k_stride, begin, end);
    LeftRows<D, Queries, false> left(q_rows);
    const uint32_t k_at = Keys::lane_at(k_rows + Keys::at(16 * warp, 0), third_matrix(), second_matrix());
    const uint32_t v_at = Keys::lane_at(v_rows + Keys::at(16 * warp, 0), second_matrix(), third_matrix());
    SoftmaxState state[2];
    float o[D / 8][4] = {};
    incoming.start(stage);
    cp_async_commit();
#pragma unroll 1
    for (int key0 = begin; key0 < end; key0 += DECODE_KEYS) {
        cp_async_wait<0>();
        __syncthreads();
        if (key0 + DECODE_KEYS < end) {
            incoming.move(DECODE_KEYS);
            incoming.start(stage ^ Keys::BYTES);
            cp_async_commit();
        }
        float scores[2][4];
        multiply_rows<Keys>(scores, left, k_at + stage);
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = lane / 4 + 8 * half, at = s.past() + r / group;
            float seen = -INFINITY;
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int key = key0 + 16 * warp + 8 * j + lane % 4 * 2 + c;
                    const bool visible = r < used && key < end && sees(at, key, s, documents);
                    float& x = scores[j][2 * half + c];
                    x = visible ? x * (s.scale * LOG2_E) : -INFINITY;
                    seen = fmaxf(seen, x);
                }
            factor[half] = state[half].raise(quad_max(seen));
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float& x = scores[j][2 * half + c];
                    x = exp2_approx(x - state[half].base());
                    state[half].sum += x;
                }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int c = 0; c < 4; c++) o[d][c] *= factor[c / 2];
        accumulate_rows<Keys>(o, scores, v_at + stage);
        stage ^= Keys::BYTES;
    }
    cp_async_wait<0>();
    __syncthreads();  // the tiles' memory is free: the warps' sums meet there

    constexpr int STRIDE = D + 4;
    float* const met = reinterpret_cast<float*>(bytes);  // [WARPS][DECODE_ROWS][STRIDE]: D sums, then max and sum
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float* const to = met + (warp * DECODE_ROWS + lane / 4 + 8 * half) * STRIDE;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            *reinterpret_cast<float2*>(to + 8 * d + lane % 4 * 2) = make_float2(o[d][2 * half], o[d][2 * half + 1]);
        const float sum = quad_sum(state[half].sum);
        if (lane % 4 == 0) {
            to[D] = state[half].max;
            to[D + 1] = sum;
        }
    }
    __syncthreads();
    const int64_t part = (int64_t(blockIdx.x) * gridDim.z + row) * gridDim.y + kv_head;
    for (int r = warp; r < used; r += WARPS) {
        float max = -INFINITY, sum = 0.f, share[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) max = fmaxf(max, met[(w * DECODE_ROWS + r) * STRIDE + D]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* const from = met + (w * DECODE_ROWS + r) * STRIDE + D;
            share[w] = from[0] == -INFINITY ? 0.f : exp2_approx(from[0] - max);
            sum += share[w] * from[1];
        }
        const float inverse = sum == 0.f ? 0.f : 1.f / sum;
        for (int d = lane; d < D; d += 32) {
            float x = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) x += share[w] * met[(w * DECODE_ROWS + r) * STRIDE + d];
            part_o[(part * DECODE_ROWS + r) * D + d] = x * inverse;
        }
        if (lane == 0) part_lse[part * DECODE_ROWS + r] = (max + log2f(sum)) * LN_2;
    }
}

template <typename T>
__device__ __forceinline__ void decode_combine(T* o, float* lse, const float* part_o, const float* part_lse, int splits, int queries,
                                               int heads, int kv_heads, int head_dim) {
    const int row = blockIdx.y, query = blockIdx.x / heads, head = blockIdx.x % heads, group = heads / kv_heads;
    const int r = query * group + head % group;
    const int64_t part = (int64_t(row) * kv_heads + head / group) * DECODE_ROWS + r, step = int64_t(gridDim.y) * kv_heads * DECODE_ROWS;
    float max = -INFINITY, sum = 0.f;
    for (int i = 0; i < splits; i++) max = fmaxf(max, part_lse[part + i * step]);
    for (int i = 0; i < splits; i++) sum += part_lse[part + i * step] == -INFINITY ? 0.f : expf(part_lse[part + i * step] - max);
    const float total = max + logf(sum);
    for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
        float x = 0.f;
        for (int i = 0; i < splits; i++) {
            const float share = sum == 0.f ? 0.f : expf(part_lse[part + i * step] - total);
            if (share != 0.f) x += share * part_o[(part + i * step) * head_dim + d];
        }
        o[((int64_t(row) * queries + query) * heads + head) * head_dim + d] = from_float<T>(x);
    }
    if (threadIdx.x == 0) lse[(int64_t(row) * heads + head) * queries + query] = total;
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(D)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                          \
        decode_d##D##_bf16(float* part_o, float* part_lse, const bf16* q, const bf16* k, const bf16* v,                   \
                           const uint32_t* documents, int per_split, int queries, int keys, int heads, int kv_heads,      \
                           int window, float scale) {                                                                     \
        decode<D>(part_o, part_lse, q, k, v, documents, per_split, Shape{queries, keys, heads, kv_heads, window, scale}); \
    }
ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(128)
ENTRY(256)

#define COMBINE(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                     \
        decode_combine_##name(T* o, float* lse, const float* part_o, const float* part_lse, int splits, int queries,      \
                              int heads, int kv_heads, int head_dim) {                                                    \
        decode_combine(o, lse, part_o, part_lse, splits, queries, heads, kv_heads, head_dim);                             \
    }
COMBINE(bf16, bf16)
COMBINE(float, f32)
