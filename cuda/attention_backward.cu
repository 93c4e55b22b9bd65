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
#include "softmax_state.cuh"

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
    // Tiles [first, end) are seen by some query, [whole, whole_end) by all of them, entirely.
    const int last = min(s.queries, query0 + ATTENTION_DQ_QUERIES) - 1;
    const int first = first_seen(query0, s.window) / TILE, end = last / TILE + 1;
    const int whole = (first_seen(last, s.window) + TILE - 1) / TILE, whole_end = documents ? 0 : (query0 + 1) / TILE;
    Incoming<D, ATTENTION_DQ_QUERIES, ATTENTION_DQ_THREADS, 2, Queries::BYTES>(q_rows, {q + q_offset, d_o + q_offset}, q_stride, query0,
                                                                              s.queries).start(0);
    Incoming<D, TILE, ATTENTION_DQ_THREADS, 2, 2 * Keys::BYTES> incoming(k_rows, {k + k_offset, v + k_offset}, k_stride, (end - 1) * TILE,
                                                                        s.keys);
    incoming.start(0);
    cp_async_commit();
    uint32_t stage = 0;  // 0 or Keys::BYTES
    const auto arrived = [&](int tile) {  // the tile is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();
        if (tile == first) return;
        incoming.move(-TILE);
        incoming.template start<true>(stage ^ Keys::BYTES);  // only the last tile, which came first, can be short
        cp_async_commit();
    };
    LeftRows<D, Queries, D <= 128> q_left(q_rows + Queries::at(warp_row, 0)), do_left(do_rows + Queries::at(warp_row, 0));
    const uint32_t k_at = Keys::lane_at(k_rows, third_matrix(), second_matrix()), v_at = k_at + 2 * Keys::BYTES;
    const uint32_t k_down_at = Keys::lane_at(k_rows, second_matrix(), third_matrix());
    int tile = end - 1;
    arrived(tile);
    q_left.keep();
    do_left.keep();
    float sums[D / 8][4] = {}, p[BLOCKS][4], slope[BLOCKS][4];
    multiply_rows<Keys>(p, q_left, k_at + stage);
    multiply_rows<Keys>(slope, do_left, v_at + stage);
    const float scale = s.scale * LOG2_E;
    const auto plain = [&] { return tile >= whole && tile < whole_end; };
    do {
        if (!plain()) {
#pragma unroll
            for (int j = 0; j < BLOCKS; j++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    if (!sees(query0 + warp_row + lane / 4 + 8 * (c / 2), tile * TILE + 8 * j + lane % 4 * 2 + c % 2, s, documents))
                        p[j][c] = -INFINITY;
        }
#pragma unroll 1
        do {  // the main loop: a tile's sums, and the next tile's products
#pragma unroll
            for (int j = 0; j < BLOCKS; j++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    slope[j][c] = exp2_approx(p[j][c] * scale - row_stats[c / 2].x) * (slope[j][c] - row_stats[c / 2].y);
            accumulate_rows<Keys>(sums, slope, k_down_at + stage);
            if (--tile < first) break;
            stage ^= Keys::BYTES;
            arrived(tile);
            multiply_rows<Keys>(p, q_left, k_at + stage);
            multiply_rows<Keys>(slope, do_left, v_at + stage);
        } while (plain());
    } while (tile >= first);
    const float factor[2] = {s.scale, s.scale};
    store_rows<Queries>(dq + q_offset + (query0 + warp_row) * q_stride, q_stride, s.queries - query0 - warp_row,
                        reinterpret_cast<char*>(memory) + Queries::at(warp_row, 0), sums, factor);
}

// Scores are held transposed, keys down and queries across, so that they are the left operand of both sums as they stand.
template <int D>
__device__ __forceinline__ void attention_dkv(bf16* dk, bf16* dv, const bf16* d_o, const float2* stats, const bf16* q, const bf16* k,
                                              const bf16* v, const uint32_t* documents, Shape s) {
    constexpr int TILE = ATTENTION_DKV_QUERIES, BLOCKS = TILE / 8, PARTS = (D + ATTENTION_DKV_COLUMNS - 1) / ATTENTION_DKV_COLUMNS;
    constexpr int COLUMNS = D / PARTS;
    using Keys = HeadRows<D, ATTENTION_DKV_KEYS>;
    using Queries = HeadRows<D, TILE>;
    extern __shared__ __align__(128) uint4 memory[];
    // A stage: a tile's rows of q, those of do, and its queries' stats. Everything in it lies a constant from where it starts.
    constexpr uint32_t DO_ROWS = Queries::BYTES, STATS = 2 * Queries::BYTES, STAGE = STATS + 8 * TILE;
    const uint32_t k_rows = shared_address(memory), v_rows = k_rows + Keys::BYTES, stages = v_rows + Keys::BYTES;
    const int row = blockIdx.z / PARTS, column0 = blockIdx.z % PARTS * COLUMNS, kv_head = blockIdx.y, group = s.heads / s.kv_heads;
    const int key0 = blockIdx.x * ATTENTION_DKV_KEYS;
    const int64_t q_stride = int64_t(s.heads) * D, k_stride = int64_t(s.kv_heads) * D;
    const int64_t k_offset = int64_t(row) * s.keys * k_stride + kv_head * D;
    if (documents) documents += int64_t(row) * s.keys;

    // Query tiles [first, end) of each head of the group, one head after the other; [whole, whole_end) see every key.
    const int first = key0 / TILE, key_last = min(s.keys, key0 + ATTENTION_DKV_KEYS) - 1;
    const int seen_until = s.window < s.queries - key_last ? key_last + s.window : s.queries;
    const int end = (seen_until + TILE - 1) / TILE, per_head = end - first;
    const int whole = (key_last + TILE - 1) / TILE, all_seen_until = s.window < s.queries - key0 ? key0 + s.window : s.queries;
    const int whole_end = documents ? 0 : all_seen_until / TILE;

    const int64_t q_offset = int64_t(row) * s.queries * q_stride + int64_t(kv_head) * group * D;
    Incoming<D, ATTENTION_DKV_KEYS, ATTENTION_DKV_THREADS, 2, Keys::BYTES>(k_rows, {k + k_offset, v + k_offset}, k_stride, key0,
                                                                          s.keys).start(0);
    Incoming<D, TILE, ATTENTION_DKV_THREADS, 2, DO_ROWS> incoming(stages, {q + q_offset, d_o + q_offset}, q_stride, first * TILE, s.queries);
    // Each of the first TILE threads brings a query's stats as well.
    const float2* stat = stats + (int64_t(row) * s.heads + kv_head * group) * s.queries + first * TILE + threadIdx.x;
    int queries_left = s.queries - first * TILE - threadIdx.x;  // from that query on
    const auto start = [&](uint32_t into) {
        incoming.start(into);
        if (threadIdx.x < TILE) cp_async_8(stages + into + STATS + 8 * threadIdx.x, stat, queries_left > 0 ? 8 : 0);
        cp_async_commit();
    };
    uint32_t stage = 0;  // 0 or STAGE
    int tile = first, remaining = group * per_head;
    const auto arrived = [&] {  // the tile is there, and the next is on its way
        cp_async_wait<0>();
        __syncthreads();
        if (remaining == 1) return;
        const bool last = tile + 1 == end;  // of this head
        const int rows = last ? (1 - per_head) * TILE : TILE;
        incoming.move(rows, last ? D : 0);
        stat += rows + (last ? s.queries : 0);
        queries_left -= rows;
        start(STAGE - stage);
    };
    const int warp_row = threadIdx.x / 32 * 16, lane = threadIdx.x % 32;
    const LeftRows<D, Keys, false> k_left(k_rows + Keys::at(warp_row, 0)), v_left(v_rows + Keys::at(warp_row, 0));
    const uint32_t q_at = Queries::lane_at(stages, third_matrix(), second_matrix());
    const uint32_t q_down_at = Queries::lane_at(stages + column0 * 2, second_matrix(), third_matrix());
    const uint32_t stats_at = stages + STATS + lane % 4 * 16;
    start(stage);
    arrived();
    float dk_sums[COLUMNS / 8][4] = {}, dv_sums[COLUMNS / 8][4] = {}, p[BLOCKS][4], slope[BLOCKS][4];
    multiply_rows<Queries>(p, k_left, q_at + stage);
    multiply_rows<Queries>(slope, v_left, q_at + stage + DO_ROWS);
    const float scale = s.scale * LOG2_E;
    const auto plain = [&] { return tile >= whole && tile < whole_end; };
    do {
        if (!plain()) {
#pragma unroll
            for (int j = 0; j < BLOCKS; j++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    if (!sees(tile * TILE + 8 * j + lane % 4 * 2 + c % 2, key0 + warp_row + lane / 4 + 8 * (c / 2), s, documents))
                        p[j][c] = -INFINITY;
        }
#pragma unroll 1
        do {  // the main loop: a tile's sums, and the next tile's products
#pragma unroll
            for (int j = 0; j < BLOCKS; j++) {
                const float4 two = load_shared_16(stats_at + stage + 64 * j);  // of the queries of columns 2·(lane%4) and the next
                const float base[2] = {two.x, two.z}, shift[2] = {two.y, two.w};
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    p[j][c] = exp2_approx(p[j][c] * scale - base[c % 2]);
                    slope[j][c] = p[j][c] * (slope[j][c] - shift[c % 2]);
                }
            }
            accumulate_rows<Queries>(dv_sums, p, q_down_at + stage + DO_ROWS);
            accumulate_rows<Queries>(dk_sums, slope, q_down_at + stage);
            if (--remaining == 0) break;
            tile = tile + 1 == end ? first : tile + 1;
            stage = STAGE - stage;
            arrived();
            multiply_rows<Queries>(p, k_left, q_at + stage);
            multiply_rows<Queries>(slope, v_left, q_at + stage + DO_ROWS);
        } while (plain());
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
