// What the attention kernels share: who sees whom, and the two products of a tile. Rows of a head: head_rows.cuh.
//
// Layouts. q, o, dq [rows,queries,heads,D], k, v, dk, dv [rows,keys,kv_heads,D], documents [rows,keys] u32 or null,
// lse [rows,heads,queries] f32. Query i sits at sequence index keys − queries + i and sees the keys up to that index, less than
// `window` places back (itself included), of its own document. Head h reads key/value head h / (heads/kv_heads).
// Nothing of size queries x keys exists: a tile of scores lives in registers.
#pragma once
#include "head_rows.cuh"

struct Shape {
    int queries, keys, heads, kv_heads;
    int window;   // INT_MAX where there is none
    float scale;  // of the scores before the softmax

    __device__ int past() const { return keys - queries; }
};

// The keys that a query at sequence index `at` sees: [first(at), at].
__device__ __forceinline__ int first_seen(int at, int window) { return at < window ? 0 : at - window + 1; }

// The first key that any query sees, or one a little before it: the first of TILE.
template <int TILE>
__device__ __forceinline__ int seen_from(const Shape& s) { return first_seen(s.past(), s.window) / TILE * TILE; }

// Whether the query at sequence index `at` sees `key` if they are of one document; a query that does not exist sees nothing.
__device__ __forceinline__ bool reaches(int at, int key, const Shape& s) { return key <= at && at - key < s.window && at < s.keys; }

// Whether it sees it; `documents` of the row or null. In two steps: nvcc makes predicates of these, but of one expression bytes, in
// twice the instructions.
__device__ __forceinline__ bool sees(int at, int key, const Shape& s, const uint32_t* documents) {
    bool seen = reaches(at, key, s);
    if (seen && documents) seen = documents[key] == documents[at];
    return seen;
}

// The tiles that a block goes through, [first, end). Those of [whole, whole_end) need no mask: each query sees each key.
struct Tiles {
    int first, end, whole, whole_end;

    __device__ bool plain(int tile) const { return tile >= whole && tile < whole_end; }
};

// Of TILE keys, for the queries at sequence indices `at` to `last`; no query's own key is in a whole one.
template <int TILE>
__device__ __forceinline__ Tiles key_tiles(int at, int last, int window, const uint32_t* documents) {
    return {first_seen(at, window) / TILE, last / TILE + 1, (first_seen(last, window) + TILE - 1) / TILE, documents ? 0 : at / TILE};
}

// Sixteen rows of a head as the left operand of products: read from shared memory each time, or KEPT in registers.
template <int D, typename Rows, bool KEPT>
struct LeftRows {
    uint32_t at;  // this lane's address, with the second matrix down and the third right
    uint32_t fragments[KEPT ? D / 16 : 1][4];

    __device__ explicit LeftRows(uint32_t rows) : at(Rows::lane_at(rows, second_matrix(), third_matrix())) {}
    // To be called when the rows have arrived.
    __device__ void keep() {
        if constexpr (KEPT)
#pragma unroll
            for (int d = 0; d < D / 16; d++) ldmatrix_x4(fragments[d], at + Rows::at(0, 16 * d));
    }
    __device__ void load(uint32_t (&a)[4], int d) const {
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = fragments[d][i];
        else
            ldmatrix_x4(a, at + Rows::at(0, 16 * d));
    }
};

// scores[16 x 8·BLOCKS] = left[16,D]·b[8·BLOCKS,D]ᵀ; `b_at`: this lane's address in the rows of b, with the third matrix down and
// the second right.
template <typename B, int D, typename Rows, bool KEPT, int BLOCKS>
__device__ __forceinline__ void multiply_rows(float (&scores)[BLOCKS][4], const LeftRows<D, Rows, KEPT>& left, uint32_t b_at) {
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[4];
        left.load(a, d);
#pragma unroll
        for (int j = 0; j < BLOCKS; j += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, b_at + B::at(8 * j, 16 * d));
            if (d == 0) {
                mma_bf16_from_zero(scores[j], a, b[0], b[1]);
                mma_bf16_from_zero(scores[j + 1], a, b[2], b[3]);
            } else {
                mma_bf16(scores[j], a, b[0], b[1]);
                mma_bf16(scores[j + 1], a, b[2], b[3]);
            }
        }
    }
}

// Sixteen rows of sums, times `factor` for each of a lane's two rows.
template <int COLUMNS>
__device__ __forceinline__ void scale_rows(float (&sums)[COLUMNS][4], const float (&factor)[2]) {
#pragma unroll
    for (int d = 0; d < COLUMNS; d++)
#pragma unroll
        for (int c = 0; c < 4; c++) sums[d][c] *= factor[c / 2];
}

// sums[16 x 8·COLUMNS] += weights[16 x 8·BLOCKS]·rows[8·BLOCKS, 8·COLUMNS], the weights rounded to bf16; `at`: this lane's
// address in the rows, with the second matrix down and the third right.
template <typename Rows, int BLOCKS, int COLUMNS>
__device__ __forceinline__ void accumulate_rows(float (&sums)[COLUMNS][4], const float (&weights)[BLOCKS][4], uint32_t at) {
#pragma unroll
    for (int j = 0; j < BLOCKS; j += 2) {
        // the sums of two blocks of 8 columns are, rounded, the left operand of the next product as they stand
        const uint32_t p[4] = {pack_bf16(weights[j][0], weights[j][1]), pack_bf16(weights[j][2], weights[j][3]),
                               pack_bf16(weights[j + 1][0], weights[j + 1][1]), pack_bf16(weights[j + 1][2], weights[j + 1][3])};
#pragma unroll
        for (int d = 0; d < COLUMNS; d += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, at + Rows::at(8 * j, 8 * d));
            mma_bf16(sums[d], p, b[0], b[1]);
            mma_bf16(sums[d + 1], p, b[2], b[3]);
        }
    }
}
