// Causal attention, forward, in bf16 on tensor cores (FlashAttention-2, 2307.08691). Layouts: attention.cuh.
//
//   o_i = Σ_j p_ij v_j,  p_ij = exp(scale·q_i·k_j − lse_i),  lse_i = log Σ_j exp(scale·q_i·k_j)    o (=) bf16, lse (=) f32
//
// A block takes ATTENTION_QUERIES queries of one head, sixteen a warp, and goes through the keys that any of them sees, a tile
// at a time, two tiles in shared memory: one is multiplied while the next arrives. Tiles that every query sees whole come
// first, without a mask; then those at the window's edge and the diagonal. With documents every tile is masked.
//
// Launch: ATTENTION_THREADS; grid (⌈queries/ATTENTION_QUERIES⌉, heads, rows); dynamic shared memory
// (ATTENTION_QUERIES + 4·tile)·(D+8)·2 bytes, tile = ATTENTION_KEYS, for D 256 ATTENTION_KEYS_WIDE.
#include "attention.cuh"
#include "softmax_state.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

template <int D>
struct Forward {
    static constexpr int TILE = D > 128 ? ATTENTION_KEYS_WIDE : ATTENTION_KEYS;
    static constexpr bool KEEP_Q = D <= 128;  // fragments of q stay in registers
    static constexpr int KEY_BLOCKS = TILE / 8, DEPTH = D / 16;
    using Queries = HeadRows<D, ATTENTION_QUERIES, ATTENTION_THREADS>;
    using Keys = HeadRows<D, TILE, ATTENTION_THREADS>;

    Shape s;
    const uint32_t* documents;  // of this row, or null
    int first_query;            // sequence index of this thread's first row of scores; the second is 8 on
    uint32_t q_at, k_at, v_at;  // this lane's addresses for ldmatrix; keys and values in the first of the two stages
    uint32_t q[KEEP_Q ? DEPTH : 1][4];
    float o[D / 8][4];
    SoftmaxState state[2];

    // scores[16 x TILE] of this warp = q·kᵀ, in log2 units when multiplied by `scale`.
    __device__ void multiply_keys(float (&scores)[KEY_BLOCKS][4], uint32_t stage) {
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; j++) scores[j][0] = scores[j][1] = scores[j][2] = scores[j][3] = 0.f;
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            uint32_t a[4];
            if constexpr (!KEEP_Q) ldmatrix_x4(a, q_at + Queries::at(0, 16 * d));
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; j += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, k_at + stage + Keys::at(8 * j, 16 * d));
                mma_bf16(scores[j], KEEP_Q ? q[KEEP_Q ? d : 0] : a, b[0], b[1]);
                mma_bf16(scores[j + 1], KEEP_Q ? q[KEEP_Q ? d : 0] : a, b[2], b[3]);
            }
        }
    }

    // Sets the scores of keys that a query does not see to −inf. `key0`: the tile's first.
    __device__ void mask(float (&scores)[KEY_BLOCKS][4], int key0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = first_query + 8 * half, from = first_seen(at, s.window);
            const uint32_t own = documents && at < s.keys ? documents[at] : 0;
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int key = key0 + 8 * j + threadIdx.x % 4 * 2 + c;
                    bool seen = key <= at && key >= from && key < s.keys;
                    if (seen && documents) seen = documents[key] == own;
                    if (!seen) scores[j][2 * half + c] = -INFINITY;
                }
        }
    }

    // One tile of keys and values.
    template <bool MASKED>
    __device__ void tile(int key0, uint32_t stage) {
        float scores[KEY_BLOCKS][4];
        multiply_keys(scores, stage);
        if constexpr (MASKED) mask(scores, key0);
        const float scale = s.scale * LOG2_E;
        float seen[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; j++) {
            seen[0] = fmaxf(seen[0], fmaxf(scores[j][0], scores[j][1]));
            seen[1] = fmaxf(seen[1], fmaxf(scores[j][2], scores[j][3]));
        }
        seen[0] = quad_max(seen[0]) * scale;
        seen[1] = quad_max(seen[1]) * scale;
        if (__builtin_expect(__any_sync(FULL_WARP, state[0].outgrown(seen[0]) || state[1].outgrown(seen[1])), 0)) rescale(seen);
        const float base[2] = {state[0].base(), state[1].base()};
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                scores[j][c] = exp2_approx(scores[j][c] * scale - base[c / 2]);
                state[c / 2].sum += scores[j][c];
            }
        accumulate_rows<Keys>(o, scores, v_at + stage);
    }

    __device__ void rescale(const float (&seen)[2]) {
        const float factor[2] = {state[0].raise(seen[0]), state[1].raise(seen[1])};
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int c = 0; c < 4; c++) o[d][c] *= factor[c / 2];
    }

    // The warp's sixteen rows of o and lse to memory, by way of its own rows of q. `out`, `lse`: the block's first row; `left`:
    // rows there are from it on.
    __device__ void finish(bf16* out, int64_t stride, float* lse, int left, char* q_rows) {
        const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            SoftmaxState& st = state[half];
            st.sum = quad_sum(st.sum);
            inverse[half] = st.sum > 0.f ? 1.f / st.sum : 0.f;
            const int in_block = warp_row + lane / 4 + 8 * half;
            if (lane % 4 == 0 && in_block < left) lse[in_block] = st.log_sum_exp();
        }
        store_rows<Queries>(out + warp_row * stride, stride, left - warp_row, q_rows + Queries::at(warp_row, 0), o, inverse);
    }
};

template <int D>
__device__ __forceinline__ void attention(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const uint32_t* documents,
                                          Shape s) {
    using F = Forward<D>;
    using Queries = typename F::Queries;
    using Keys = typename F::Keys;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t q_rows = shared_address(memory), k_rows = q_rows + Queries::BYTES, v_rows = k_rows + 2 * Keys::BYTES;
    const int row = blockIdx.z, head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const int query0 = (gridDim.x - 1 - blockIdx.x) * ATTENTION_QUERIES;  // the longest first
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    q += int64_t(row) * s.queries * q_stride + head * D;
    k += int64_t(row) * s.keys * k_stride + kv_head * D;
    v += int64_t(row) * s.keys * k_stride + kv_head * D;

    // Tiles [first, end) are seen by some query, [whole, whole_end) by all of them, entirely.
    const int at0 = s.past() + query0, at_last = min(s.keys, at0 + ATTENTION_QUERIES) - 1;
    const int first = first_seen(at0, s.window) / F::TILE, end = at_last / F::TILE + 1;
    const int from_last = first_seen(at_last, s.window);
    int whole = (from_last + F::TILE - 1) / F::TILE;
    int whole_end = max(whole, (at0 + 1) / F::TILE);
    if (documents) whole = whole_end = first;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    F f;
    f.s = s;
    f.documents = documents ? documents + int64_t(row) * s.keys : nullptr;
    f.first_query = at0 + warp * 16 + lane / 4;
    f.q_at = Queries::lane_at(q_rows + Queries::at(warp * 16, 0), second_matrix(), third_matrix());
    f.k_at = Keys::lane_at(k_rows, third_matrix(), second_matrix());
    f.v_at = Keys::lane_at(v_rows, second_matrix(), third_matrix());
#pragma unroll
    for (int d = 0; d < D / 8; d++) f.o[d][0] = f.o[d][1] = f.o[d][2] = f.o[d][3] = 0.f;

    uint32_t stage = 0;  // 0 or Keys::BYTES
    const auto start = [&](int tile, uint32_t into) {
        Keys::start(k_rows + into, k, k_stride, tile * F::TILE, s.keys);
        Keys::start(v_rows + into, v, k_stride, tile * F::TILE, s.keys);
        cp_async_commit();
    };
    // Whole tiles first, then the others from left to right.
    const int unmasked = whole_end - whole, all = end - first;
    const auto tile_number = [&](int i) {
        if (i < unmasked) return whole + i;
        i += first - unmasked;
        return i < whole ? i : i + unmasked;
    };
    const auto arrived = [&](int i) {  // tile i is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();  // for all; and all are done with the other stage
        if (i + 1 < all) start(tile_number(i + 1), stage ^ Keys::BYTES);
    };
    Queries::start(q_rows, q, q_stride, query0, s.queries);
    start(tile_number(0), stage);
    if constexpr (F::KEEP_Q) {
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int d = 0; d < F::DEPTH; d++) ldmatrix_x4(f.q[d], f.q_at + Queries::at(0, 16 * d));
    }
    int i = 0;
#pragma unroll 1
    for (; i < unmasked; i++) {  // the main loop
        arrived(i);
        f.template tile<false>(0, stage);
        stage ^= Keys::BYTES;
    }
#pragma unroll 1
    for (; i < all; i++) {
        arrived(i);
        f.template tile<true>(tile_number(i) * F::TILE, stage);
        stage ^= Keys::BYTES;
    }
    f.finish(o + (int64_t(row) * s.queries + query0) * q_stride + head * D, q_stride,
             lse + (int64_t(row) * s.heads + head) * s.queries + query0, s.queries - query0, reinterpret_cast<char*>(memory));
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(D)                                                                                                          \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)                                                       \
        attention_d##D##_bf16(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const uint32_t* documents, \
                              int queries, int keys, int heads, int kv_heads, int window, float scale) {                  \
        attention<D>(o, lse, q, k, v, documents, Shape{queries, keys, heads, kv_heads, window, scale});                   \
    }
ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(128)
ENTRY(256)
