// Causal attention, forward, in bf16 on tensor cores (FlashAttention-2, 2307.08691). Layouts: attention.cuh.
//
//   o_i = Σ_j p_ij v_j,  p_ij = exp(scale·q_i·k_j − lse_i),  lse_i = log Σ_j exp(scale·q_i·k_j)    o (=) bf16, lse (=) f32
//
// A block takes ATTENTION_QUERIES queries of one head, sixteen a warp, and goes through the keys that any of them sees, a tile
// at a time from the last to the first, two tiles in shared memory: one is multiplied while the next arrives. The main loop
// takes a tile's weights and values and multiplies the next tile's keys. It is left for tiles that not every query sees whole
// (the diagonal's, the window's edge, all with documents), which need a mask, and where weights have grown so large that sums
// must be rescaled: no maximum is sought in it. The tile of a row's own key is left to the mask, so each row has a maximum before
// the main loop.
//
// Launch: ATTENTION_THREADS; grid (⌈queries/ATTENTION_QUERIES⌉, heads, rows); dynamic shared memory
// (ATTENTION_QUERIES + 4·tile)·(D+8)·2 bytes, tile = ATTENTION_KEYS, in the narrow kernels ATTENTION_KEYS_NARROW.
#include "attention.cuh"
#include "softmax_state.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

template <int D, int TILE_>
struct Forward {
    static constexpr int TILE = TILE_;  // keys
    static constexpr int KEY_BLOCKS = TILE / 8;
    using Queries = HeadRows<D, ATTENTION_QUERIES>;
    using Keys = HeadRows<D, TILE>;

    Shape s;
    const uint32_t* documents;  // of this row, or null
    float scale;                // of the scores, log2(e) included
    int first_query;            // sequence index of this thread's first row of scores; the second is 8 on
    LeftRows<D, Queries, D <= 128> q;
    uint32_t k_at, v_at;        // this lane's addresses for ldmatrix in the first of the two stages
    float o[D / 8][4];
    SoftmaxState state[2];

    // Sets the scores of keys that a query does not see to −inf. `key0`: the tile's first.
    __device__ void mask(float (&scores)[KEY_BLOCKS][4], int key0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = first_query + 8 * half;
            const uint32_t own = documents && at < s.keys ? documents[at] : 0;  // read once, for all keys
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int key = key0 + 8 * j + threadIdx.x % 4 * 2 + c;
                    bool seen = reaches(at, key, s);
                    if (seen && documents) seen = documents[key] == own;
                    if (!seen) scores[j][2 * half + c] = -INFINITY;
                }
        }
    }

    // Raises the rows' maxima to what the tile has. Weights are at most 1 from here on.
    __device__ void raise(const float (&scores)[KEY_BLOCKS][4]) {
        float seen[2] = {-INFINITY, -INFINITY}, factor[2];
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; j++) {
            seen[0] = fmaxf(seen[0], fmaxf(scores[j][0], scores[j][1]));
            seen[1] = fmaxf(seen[1], fmaxf(scores[j][2], scores[j][3]));
        }
#pragma unroll
        for (int half = 0; half < 2; half++) factor[half] = state[half].raise(quad_max(seen[half]) * scale);
        scale_rows(o, factor);
    }

    // Turns scores into weights and adds them to the rows' sums; false, and nothing added, where some row must be raised first. Rows
    // that have just been `raised` need not be: of scores beyond 2^28 the rounding alone can pass the limit, for ever.
    __device__ bool weigh(float (&scores)[KEY_BLOCKS][4], bool raised) {
        const float base[2] = {state[0].base(), state[1].base()};
        float sum[2] = {};
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                scores[j][c] = exp2_approx(scores[j][c] * scale - base[c / 2]);
                sum[c / 2] += scores[j][c];
            }
        if (!raised && __any_sync(FULL_WARP, fmaxf(sum[0], sum[1]) > SoftmaxState::LIMIT)) return false;
        state[0].sum += sum[0];
        state[1].sum += sum[1];
        return true;
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

template <int D, int TILE>
__device__ __forceinline__ void attention(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const uint32_t* documents,
                                          Shape s) {
    using F = Forward<D, TILE>;
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

    const int at0 = s.past() + query0;
    const Tiles tiles = key_tiles<F::TILE>(at0, min(s.keys, at0 + ATTENTION_QUERIES) - 1, s.window, documents);

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    F f{s, documents ? documents + int64_t(row) * s.keys : nullptr, s.scale * LOG2_E, at0 + warp * 16 + lane / 4,
        LeftRows<D, Queries, D <= 128>(q_rows + Queries::at(warp * 16, 0)), Keys::lane_at(k_rows, third_matrix(), second_matrix()),
        Keys::lane_at(v_rows, second_matrix(), third_matrix())};
#pragma unroll
    for (int d = 0; d < D / 8; d++) f.o[d][0] = f.o[d][1] = f.o[d][2] = f.o[d][3] = 0.f;

    Incoming<D, ATTENTION_QUERIES, ATTENTION_THREADS, 1>(q_rows, {q}, q_stride, query0, s.queries).start(0);
    Incoming<D, F::TILE, ATTENTION_THREADS, 2, 2 * Keys::BYTES> incoming(k_rows, {k, v}, k_stride, (tiles.end - 1) * F::TILE, s.keys);
    incoming.start(0);
    cp_async_commit();
    uint32_t stage = 0;  // 0 or Keys::BYTES
    const auto arrived = [&](int tile) {  // the tile is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();  // for all; and all are done with the other stage
        if (tile == tiles.first) return;
        incoming.move(-F::TILE);
        incoming.template start<true>(stage ^ Keys::BYTES);  // only the last tile, which came first, can be short
        cp_async_commit();
    };
    int tile = tiles.end - 1;
    arrived(tile);
    f.q.keep();
    float scores[F::KEY_BLOCKS][4];
    multiply_rows<Keys>(scores, f.q, f.k_at + stage);
    for (bool light = true;; light = true) {
        if (!tiles.plain(tile)) f.mask(scores, tile * F::TILE);
        f.raise(scores);
        bool raised = true;
#pragma unroll 1
        do {  // the main loop
            light = f.weigh(scores, raised);
            if (!light) break;
            raised = false;
            accumulate_rows<Keys>(f.o, scores, f.v_at + stage);
            if (--tile < tiles.first) break;
            stage ^= Keys::BYTES;
            arrived(tile);
            multiply_rows<Keys>(scores, f.q, f.k_at + stage);
        } while (tiles.plain(tile));
        if (tile < tiles.first) break;
        if (!light) multiply_rows<Keys>(scores, f.q, f.k_at + stage);  // its scores are overwritten
    }
    f.finish(o + (int64_t(row) * s.queries + query0) * q_stride + head * D, q_stride,
             lse + (int64_t(row) * s.heads + head) * s.queries + query0, s.queries - query0, reinterpret_cast<char*>(memory));
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(name, D, TILE)                                                                                              \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)                                                       \
        name##_d##D##_bf16(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, const uint32_t* documents,   \
                           int queries, int keys, int heads, int kv_heads, int window, float scale) {                     \
        attention<D, TILE>(o, lse, q, k, v, documents, Shape{queries, keys, heads, kv_heads, window, scale});             \
    }
ENTRY(attention, 64, ATTENTION_KEYS)
ENTRY(attention, 80, ATTENTION_KEYS)
ENTRY(attention, 96, ATTENTION_KEYS)
ENTRY(attention, 128, ATTENTION_KEYS)
ENTRY(attention_narrow, 128, ATTENTION_KEYS_NARROW)
ENTRY(attention_narrow, 256, ATTENTION_KEYS_NARROW)
