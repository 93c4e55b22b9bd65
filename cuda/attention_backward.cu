// Causal attention, backward, in bf16 on tensor cores (FlashAttention-2, 2307.08691, 3.1.2). Layouts: attention.cuh; queries == keys.
//
//   forward: o_i = Σ_j p_ij v_j, p_ij = exp(scale·q_i·k_j − lse_i). Undone, with p computed again from lse:
//   δ_i = do_i·o_i,  ds_ij = p_ij·(do_i·v_j − δ_i)                attention_row_stats: stats [rows,heads,queries] pairs of f32 (=),
//                                                                 (lse_i·log2(e), δ_i)
//   dq_i = scale·Σ_j ds_ij k_j                                    attention_dq:    dq (=)
//   dk_j = scale·Σ_i ds_ij q_i,  dv_j = Σ_i p_ij do_i             attention_dkv:   dk, dv (=), over all heads that share the key
//
// dq and dk, dv are made by kernels of their own, each owning what it writes: two products more than one kernel that adds dq
// by atomics, and the same bits every time.
//
// Launch: attention_row_stats: ATTENTION_STATS_THREADS, a warp for each (row, query, head). attention_dq: ATTENTION_DQ_THREADS, grid
// (⌈queries/ATTENTION_DQ_QUERIES⌉, heads, rows), shared (2·ATTENTION_DQ_QUERIES + 4·ATTENTION_DQ_KEYS)·(D+8)·2 bytes.
// attention_dkv: ATTENTION_DKV_THREADS, grid (⌈keys/ATTENTION_DKV_KEYS⌉, kv_heads, rows·⌈D/ATTENTION_DKV_COLUMNS⌉), shared
// (2·ATTENTION_DKV_KEYS + 4·ATTENTION_DKV_QUERIES)·(D+8)·2 + 16·ATTENTION_DKV_QUERIES bytes.
#include "attention.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

// What the backward needs of each query, by pairs: attention_dkv brings a query's numbers by one copy and reads two queries' by one.
template <typename T>
__device__ __forceinline__ void row_stats(float2* stats, const T* d_o, const T* o, const float* lse, int queries, int heads, int head_dim,
                                          int all) {
    constexpr int V = Vec<T>::N;
    const int index = blockIdx.x * (ATTENTION_STATS_THREADS / 32) + threadIdx.x / 32;  // (row·queries + query)·heads + head
    if (index >= all) return;
    const T *const d_o_row = d_o + int64_t(index) * head_dim, *const o_row = o + int64_t(index) * head_dim;
    float sum = 0.f;
    if (head_dim % V == 0) {
        for (int i = threadIdx.x % 32 * V; i < head_dim; i += 32 * V) {
            const Vec<T> a = load_vec(d_o_row + i), b = load_vec(o_row + i);
#pragma unroll
            for (int j = 0; j < V; j++) sum += a.x[j] * b.x[j];
        }
    } else {  // rows that do not start on 16 bytes
        for (int i = threadIdx.x % 32; i < head_dim; i += 32) sum += to_float(d_o_row[i]) * to_float(o_row[i]);
    }
    sum = warp_sum(sum);
    const int token = index / heads, head = index % heads;
    const int64_t to = (int64_t(token / queries) * heads + head) * queries + token % queries;
    if (threadIdx.x % 32 == 0) stats[to] = make_float2(lse[to] * LOG2_E, sum);
}

// Scores become −inf where not `seen(row, column)`; `row`, `column`: of the warp's and the tile's first.
template <int BLOCKS, typename Seen>
__device__ __forceinline__ void hide(float (&scores)[BLOCKS][4], int row, int column, Seen seen) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < BLOCKS; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (!seen(row + lane / 4 + 8 * (c / 2), column + 8 * j + lane % 4 * 2 + c % 2)) scores[j][c] = -INFINITY;
}

// ds of queries down and keys across: `slope`, which is do·v, becomes p·(slope − δ).
template <int BLOCKS>
__device__ __forceinline__ void undo_softmax(float (&slope)[BLOCKS][4], const float (&scores)[BLOCKS][4], const float2 (&stats)[2], float scale) {
#pragma unroll
    for (int j = 0; j < BLOCKS; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            slope[j][c] = exp2_approx(scores[j][c] * scale - stats[c / 2].x) * (slope[j][c] - stats[c / 2].y);
}

template <int D>
__device__ __forceinline__ void attention_dq(bf16* dq, const bf16* d_o, const float2* stats, const bf16* q, const bf16* k, const bf16* v,
                                             const uint32_t* documents, Shape s) {
    constexpr int TILE = ATTENTION_DQ_KEYS, BLOCKS = TILE / 8;
    using Queries = HeadRows<D, ATTENTION_DQ_QUERIES>;
    using Keys = HeadRows<D, TILE>;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t q_rows = shared_address(memory), do_rows = q_rows + Queries::BYTES, k_rows = do_rows + Queries::BYTES;
    const uint32_t v_rows = k_rows + 2 * Keys::BYTES;
    const int row = blockIdx.z, head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const int query0 = (gridDim.x - 1 - blockIdx.x) * ATTENTION_DQ_QUERIES;
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    const int64_t q_offset = int64_t(row) * s.queries * q_stride + head * D, k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;

    const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    float2 row_stats[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int at = query0 + warp_row + lane / 4 + 8 * half;
        const int64_t index = (int64_t(row) * s.heads + head) * s.queries + at;
        row_stats[half] = at < s.queries ? stats[index] : make_float2(INFINITY, 0.f);  // a weight of 0 for rows that do not exist
    }
    const Tiles tiles = key_tiles<TILE>(query0, min(s.queries, query0 + ATTENTION_DQ_QUERIES) - 1, s.window, documents);
    Incoming<D, ATTENTION_DQ_QUERIES, ATTENTION_DQ_THREADS, 2, Queries::BYTES>(q_rows, {q + q_offset, d_o + q_offset}, q_stride, query0,
                                                                              s.queries).start(0);
    Incoming<D, TILE, ATTENTION_DQ_THREADS, 2, 2 * Keys::BYTES> incoming(k_rows, {k + k_offset, v + k_offset}, k_stride,
                                                                        (tiles.end - 1) * TILE, s.keys);
    incoming.start(0);
    cp_async_commit();
    uint32_t stage = 0;  // 0 or Keys::BYTES
    const auto arrived = [&](int tile) {  // the tile is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();
        if (tile == tiles.first) return;
        incoming.move(-TILE);
        incoming.template start<true>(stage ^ Keys::BYTES);  // only the last tile, which came first, can be short
        cp_async_commit();
    };
    LeftRows<D, Queries, D <= 128> q_left(q_rows + Queries::at(warp_row, 0)), do_left(do_rows + Queries::at(warp_row, 0));
    const uint32_t k_at = Keys::lane_at(k_rows, third_matrix(), second_matrix()), v_at = k_at + 2 * Keys::BYTES;
    const uint32_t k_down_at = Keys::lane_at(k_rows, second_matrix(), third_matrix());
    int tile = tiles.end - 1;
    arrived(tile);
    q_left.keep();
    do_left.keep();
    float sums[D / 8][4] = {}, scores[BLOCKS][4], slope[BLOCKS][4];
    multiply_rows<Keys>(scores, q_left, k_at + stage);
    multiply_rows<Keys>(slope, do_left, v_at + stage);
    const float scale = s.scale * LOG2_E;
    do {
        if (!tiles.plain(tile)) hide(scores, query0 + warp_row, tile * TILE, [&](int query, int key) { return sees(query, key, s, documents); });
#pragma unroll 1
        do {  // the main loop: a tile's sums, and the next tile's products
            undo_softmax(slope, scores, row_stats, scale);
            accumulate_rows<Keys>(sums, slope, k_down_at + stage);
            if (--tile < tiles.first) break;
            stage ^= Keys::BYTES;
            arrived(tile);
            multiply_rows<Keys>(scores, q_left, k_at + stage);
            multiply_rows<Keys>(slope, do_left, v_at + stage);
        } while (tiles.plain(tile));
    } while (tile >= tiles.first);
    const float factor[2] = {s.scale, s.scale};
    store_rows<Queries>(dq + q_offset + (query0 + warp_row) * q_stride, q_stride, s.queries - query0 - warp_row,
                        reinterpret_cast<char*>(memory) + Queries::at(warp_row, 0), sums, factor);
}

// Of TILE queries of a head, for a block's keys, `key0` the first.
template <int TILE>
__device__ __forceinline__ Tiles query_tiles(int key0, const Shape& s, const uint32_t* documents) {
    const auto seen_until = [&](int key) { return s.window < s.queries - key ? key + s.window : s.queries; };
    const int last = min(s.keys, key0 + ATTENTION_DKV_KEYS) - 1;
    return {key0 / TILE, (seen_until(last) + TILE - 1) / TILE, (last + TILE - 1) / TILE, documents ? 0 : seen_until(key0) / TILE};
}

// One thread's part in copying a tile of queries: rows of q, rows of do, and stats, each a constant from where a stage starts.
template <int D>
struct IncomingQueries {
    static constexpr int TILE = ATTENTION_DKV_QUERIES;
    using Rows = HeadRows<D, TILE>;
    static constexpr uint32_t DO_ROWS = Rows::BYTES, STATS = 2 * Rows::BYTES, STAGE = STATS + 8 * TILE;

    uint32_t stages;
    Incoming<D, TILE, ATTENTION_DKV_THREADS, 2, DO_ROWS> rows;
    const float2* stat;  // each of the first TILE threads brings a query's
    int left;            // queries from that one on
    int queries;         // of a head

    // The first tile starts at query `first` of a head, whose first query these point to.
    __device__ IncomingQueries(uint32_t stages, const bf16* q, const bf16* d_o, const float2* stats, int64_t stride, int first, int queries)
        : stages(stages), rows(stages, {q, d_o}, stride, first, queries), stat(stats + first + threadIdx.x), left(queries - first - threadIdx.x),
          queries(queries) {}

    __device__ void start(uint32_t stage) const {
        rows.start(stage);
        if (threadIdx.x < TILE) cp_async_8(stages + stage + STATS + 8 * threadIdx.x, stat, left > 0 ? 8 : 0);
        cp_async_commit();
    }
    // Goes `by` queries on, and to the next head where this one is `done`.
    __device__ void move(int by, bool done) {
        rows.move(by, done ? D : 0);
        stat += by + (done ? queries : 0);
        left -= by;
    }
};

// Of keys down and queries across: scores become p, and `slope`, which is v·do, becomes ds = p·(slope − δ). `stats_at`: the address of
// the stats of this lane's first two queries.
template <int BLOCKS>
__device__ __forceinline__ void undo_softmax_down(float (&p)[BLOCKS][4], float (&slope)[BLOCKS][4], uint32_t stats_at, float scale) {
#pragma unroll
    for (int j = 0; j < BLOCKS; j++) {
        const float4 two = load_shared_16(stats_at + 64 * j);  // of the queries of columns 2·(lane%4) and the next
        const float base[2] = {two.x, two.z}, shift[2] = {two.y, two.w};
#pragma unroll
        for (int c = 0; c < 4; c++) {
            p[j][c] = exp2_approx(p[j][c] * scale - base[c % 2]);
            slope[j][c] = p[j][c] * (slope[j][c] - shift[c % 2]);
        }
    }
}

// Scores are held transposed, keys down and queries across, so that they are the left operand of both sums as they stand. The tiles of
// all heads of the group come one head after the other.
template <int D>
__device__ __forceinline__ void attention_dkv(bf16* dk, bf16* dv, const bf16* d_o, const float2* stats, const bf16* q, const bf16* k,
                                              const bf16* v, const uint32_t* documents, Shape s) {
    using In = IncomingQueries<D>;
    constexpr int TILE = In::TILE, BLOCKS = TILE / 8, PARTS = (D + ATTENTION_DKV_COLUMNS - 1) / ATTENTION_DKV_COLUMNS, COLUMNS = D / PARTS;
    using Keys = HeadRows<D, ATTENTION_DKV_KEYS>;
    using Queries = typename In::Rows;
    extern __shared__ __align__(128) uint4 memory[];
    const uint32_t k_rows = shared_address(memory), v_rows = k_rows + Keys::BYTES, stages = v_rows + Keys::BYTES;
    const int row = blockIdx.z / PARTS, column0 = blockIdx.z % PARTS * COLUMNS, kv_head = blockIdx.y, group = s.heads / s.kv_heads;
    const int key0 = blockIdx.x * ATTENTION_DKV_KEYS;
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    const int64_t k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    const int64_t q_offset = int64_t(row) * s.queries * q_stride + int64_t(kv_head) * group * D;
    if (documents) documents += int64_t(row) * s.keys;

    Incoming<D, ATTENTION_DKV_KEYS, ATTENTION_DKV_THREADS, 2, Keys::BYTES>(k_rows, {k + k_offset, v + k_offset}, k_stride, key0,
                                                                          s.keys).start(0);
    const Tiles tiles = query_tiles<TILE>(key0, s, documents);
    const int per_head = tiles.end - tiles.first;
    In incoming(stages, q + q_offset, d_o + q_offset, stats + (int64_t(row) * s.heads + kv_head * group) * s.queries, q_stride,
                tiles.first * TILE, s.queries);
    uint32_t stage = 0;  // 0 or In::STAGE
    int tile = tiles.first, remaining = group * per_head;
    const auto arrived = [&] {  // the tile is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();
        if (remaining == 1) return;
        const bool last = tile + 1 == tiles.end;  // of this head
        incoming.move(last ? (1 - per_head) * TILE : TILE, last);
        incoming.start(In::STAGE - stage);
    };
    const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    const LeftRows<D, Keys, false> k_left(k_rows + Keys::at(warp_row, 0)), v_left(v_rows + Keys::at(warp_row, 0));
    const uint32_t q_at = Queries::lane_at(stages, third_matrix(), second_matrix());
    const uint32_t q_down_at = Queries::lane_at(stages + column0 * 2, second_matrix(), third_matrix());
    const uint32_t stats_at = stages + In::STATS + lane % 4 * 16;
    incoming.start(stage);
    arrived();
    float dk_sums[COLUMNS / 8][4] = {}, dv_sums[COLUMNS / 8][4] = {}, p[BLOCKS][4], slope[BLOCKS][4];
    multiply_rows<Queries>(p, k_left, q_at + stage);
    multiply_rows<Queries>(slope, v_left, q_at + stage + In::DO_ROWS);
    const float scale = s.scale * LOG2_E;
    do {
        if (!tiles.plain(tile)) hide(p, key0 + warp_row, tile * TILE, [&](int key, int query) { return sees(query, key, s, documents); });
#pragma unroll 1
        do {  // the main loop: a tile's sums, and the next tile's products
            undo_softmax_down(p, slope, stats_at + stage, scale);
            accumulate_rows<Queries>(dv_sums, p, q_down_at + stage + In::DO_ROWS);
            accumulate_rows<Queries>(dk_sums, slope, q_down_at + stage);
            if (--remaining == 0) break;
            tile = tile + 1 == tiles.end ? tiles.first : tile + 1;
            stage = In::STAGE - stage;
            arrived();
            multiply_rows<Queries>(p, k_left, q_at + stage);
            multiply_rows<Queries>(slope, v_left, q_at + stage + In::DO_ROWS);
        } while (tiles.plain(tile));
    } while (remaining > 0);
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
        attention_dq_d##D##_bf16(bf16* dq, const bf16* d_o, const float2* stats, const bf16* q, const bf16* k,                     \
                                 const bf16* v, const uint32_t* documents, int queries, int keys, int heads,              \
                                 int kv_heads, int window, float scale) {                                                 \
        attention_dq<D>(dq, d_o, stats, q, k, v, documents, Shape{queries, keys, heads, kv_heads, window, scale});        \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_DKV_THREADS)                                                   \
        attention_dkv_d##D##_bf16(bf16* dk, bf16* dv, const bf16* d_o, const float2* stats, const bf16* q,                \
                                  const bf16* k, const bf16* v, const uint32_t* documents, int queries, int keys,         \
                                  int heads, int kv_heads, int window, float scale) {                                     \
        attention_dkv<D>(dk, dv, d_o, stats, q, k, v, documents,                                                          \
                         Shape{queries, keys, heads, kv_heads, window, scale});                                           \
    }
ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(128)
ENTRY(256)

#define ROW_STATS(T, name)                                                                                                \
    extern "C" __global__ void __launch_bounds__(ATTENTION_STATS_THREADS)                                                 \
        attention_row_stats_##name(float2* stats, const T* d_o, const T* o, const float* lse, int queries, int heads,     \
                                   int head_dim, int all) {                                                               \
        row_stats(stats, d_o, o, lse, queries, heads, head_dim, all);                                                     \
    }
ROW_STATS(bf16, bf16)
ROW_STATS(float, f32)
