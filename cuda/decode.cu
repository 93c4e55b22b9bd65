// Attention of a few queries against a long KV cache (flash-decoding): the keys are split over blocks, whose partial results a
// second kernel puts together. Layouts: attention.cuh.
//
//   decode          rows of one key/value head (its grouped query heads x queries, at most DECODE_ROWS) against keys
//                   [seen_from + split·per_split, ...): part_o [splits,rows,kv_heads,DECODE_ROWS,D] f32 (=), each normed by its own sum;
//                   part_lse [splits,rows,kv_heads,DECODE_ROWS] f32 (=), −inf where a split has no key for a row
//   decode_combine  o (=), lse (=) from the parts, splits in ascending order
//
// A row is query row / group of head row % group of the group. One warp has sixteen of a tile's 64 keys, with a softmax state of
// its own; the four states meet at the end. Launch: decode: DECODE_THREADS, grid (splits, kv_heads, rows), shared
// (DECODE_ROWS + 4·DECODE_KEYS)·(D+8)·2 bytes (at least WARPS·DECODE_ROWS·(D+4)·4 for the meeting). decode_combine:
// DECODE_THREADS, grid (queries·heads, rows).
#include "attention.cuh"
#include "softmax_state.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr int WARPS = DECODE_THREADS / 32;

// The rows of a key/value head to shared memory, with zeros in place of those beyond `used`.
template <int D, typename Rows>
__device__ __forceinline__ void load_queries(char* to, const bf16* q, int row, int kv_head, int group, int used, const Shape& s) {
    for (int i = threadIdx.x; i < DECODE_ROWS * (D / 8); i += DECODE_THREADS) {
        const int r = i / (D / 8), chunk = i % (D / 8);
        uint4 x = make_uint4(0, 0, 0, 0);
        if (r < used)
            x = *reinterpret_cast<const uint4*>(q + ((int64_t(row) * s.queries + r / group) * s.heads + kv_head * group + r % group) * D + 8 * chunk);
        *reinterpret_cast<uint4*>(to + Rows::at(r, 8 * chunk)) = x;
    }
}

// The scores of a warp's sixteen keys, `key0` the first, become weights, added to the rows' states; `factor`: what the sums so far
// are to be multiplied by.
__device__ __forceinline__ void weigh(float (&scores)[2][4], float (&factor)[2], SoftmaxState (&state)[2], int key0, int end, int group,
                                      int used, const Shape& s, const uint32_t* documents) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = lane / 4 + 8 * half, at = s.past() + r / group;
        float seen = -INFINITY;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int key = key0 + 8 * j + lane % 4 * 2 + c;
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
}

// Where the warps' results meet in shared memory: for each warp and row D sums, then max and sum of its softmax.
template <int D>
struct Meeting {
    static constexpr int STRIDE = D + 4;
    float* memory;  // [WARPS][DECODE_ROWS][STRIDE]

    __device__ float* at(int warp, int r) const { return memory + (warp * DECODE_ROWS + r) * STRIDE; }

    // Leaves this warp's.
    __device__ void leave(const float (&o)[D / 8][4], const SoftmaxState (&state)[2]) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* const to = at(warp, lane / 4 + 8 * half);
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                *reinterpret_cast<float2*>(to + 8 * d + lane % 4 * 2) = make_float2(o[d][2 * half], o[d][2 * half + 1]);
            const float sum = quad_sum(state[half].sum);
            if (lane % 4 == 0) {
                to[D] = state[half].max;
                to[D + 1] = sum;
            }
        }
    }

    // Row r of all warps, normed by its sum, to `o` [D], and its log-sum-exp, by this warp.
    __device__ void put_together(float* o, float* lse, int r) const {
        const int lane = threadIdx.x % 32;
        float max = -INFINITY, sum = 0.f, share[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++) max = fmaxf(max, at(w, r)[D]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* const from = at(w, r) + D;
            share[w] = from[0] == -INFINITY ? 0.f : exp2_approx(from[0] - max);
            sum += share[w] * from[1];
        }
        const float inverse = sum == 0.f ? 0.f : 1.f / sum;
        for (int d = lane; d < D; d += 32) {
            float x = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) x += share[w] * at(w, r)[d];
            o[d] = x * inverse;
        }
        if (lane == 0) *lse = (max + log2f(sum)) * LN_2;
    }
};

template <int D>
__device__ __forceinline__ void decode(float* part_o, float* part_lse, const bf16* q, const bf16* k, const bf16* v,
                                       const uint32_t* documents, int per_split, Shape s) {
    using Queries = HeadRows<D, DECODE_ROWS>;
    using Keys = HeadRows<D, DECODE_KEYS>;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t q_rows = shared_address(memory), k_rows = q_rows + Queries::BYTES, v_rows = k_rows + 2 * Keys::BYTES;
    const int row = blockIdx.z, kv_head = blockIdx.y, group = s.heads / s.kv_heads, used = group * s.queries;
    const int64_t k_stride = int64_t(s.kv_heads) * D, k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;

    load_queries<D, Queries>(reinterpret_cast<char*>(memory), q, row, kv_head, group, used, s);
    const int warp = threadIdx.x / 32, begin = seen_from<DECODE_KEYS>(s) + blockIdx.x * per_split, end = min(s.keys, begin + per_split);
    uint32_t stage = 0;  // 0 or Keys::BYTES
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
        float scores[2][4], factor[2];
        multiply_rows<Keys>(scores, left, k_at + stage);
        weigh(scores, factor, state, key0 + 16 * warp, end, group, used, s, documents);
        scale_rows(o, factor);
        accumulate_rows<Keys>(o, scores, v_at + stage);
        stage ^= Keys::BYTES;
    }
    cp_async_wait<0>();
    __syncthreads();  // the tiles' memory is free: the warps' sums meet there
    const Meeting<D> meeting{reinterpret_cast<float*>(memory)};
    meeting.leave(o, state);
    __syncthreads();
    const int64_t part = (int64_t(blockIdx.x) * gridDim.z + row) * gridDim.y + kv_head;
    for (int r = warp; r < used; r += WARPS) {
        const int64_t to = part * DECODE_ROWS + r;
        meeting.put_together(part_o + to * D, part_lse + to, r);
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
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                          \
        decode_combine_##name(T* o, float* lse, const float* part_o, const float* part_lse, int splits, int queries,      \
                              int heads, int kv_heads, int head_dim) {                                                    \
        decode_combine(o, lse, part_o, part_lse, splits, queries, heads, kv_heads, head_dim);                             \
    }
COMBINE(bf16, bf16)
COMBINE(float, f32)
