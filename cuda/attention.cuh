// What the attention kernels share: who sees whom, rows of a head in shared memory, and the fragments read from there.
//
// Layouts. q, o, dq [rows,queries,heads,D], k, v, dk, dv [rows,keys,kv_heads,D], documents [rows,keys] u32 or null,
// lse [rows,heads,queries] f32. Query i sits at sequence index keys − queries + i and sees the keys up to that index, less than
// `window` places back (itself included), of its own document. Head h reads key/value head h / (heads/kv_heads).
// Nothing of size queries x keys exists: a tile of scores lives in registers.
#pragma once
#include "common.cuh"

struct Shape {
    int queries, keys, heads, kv_heads;
    int window;   // INT_MAX where there is none
    float scale;  // of the scores before the softmax

    __device__ int past() const { return keys - queries; }
};

// The keys that a query at sequence index `at` sees: [first(at), at].
__device__ __forceinline__ int first_seen(int at, int window) { return at < window ? 0 : at - window + 1; }

// The row of the i-th 16-byte chunk when each row has REST (2 or 4) chunks beyond whole lines of eight: eight chunks in a row of
// this order lie in 8/REST rows that are REST apart, which in HeadRows is in eight different bank groups.
template <int REST>
__device__ __forceinline__ int rest_row(int i) {
    const int in_eight = i % (8 * REST);
    return i / (8 * REST) * 8 + in_eight / 8 + REST * (in_eight % 8 / REST);
}

// `ROWS` rows of a head, D elements each, one after the other in shared memory. The row stride of D + 8 elements is an odd
// number of 16-byte chunks, so eight rows at one column lie in different banks; every address is a lane's own plus a constant.
template <int D, int ROWS, int THREADS>
struct HeadRows {
    static constexpr int STRIDE = (D + 8) * 2;  // bytes
    static constexpr int BYTES = ROWS * STRIDE;
    static constexpr int WHOLE = D / 64 * 8, REST = D / 8 % 8;  // chunks of a row: whole lines of eight, and 0, 2 or 4 more

    // Starts copying rows [first, first + ROWS) of [.., stride] from p; rows from `end` on become zero. Eight lanes that
    // write at once write to eight different bank groups: a line of eight chunks, or what rest_row says.
    __device__ static void start(uint32_t shared, const bf16* p, int64_t stride, int first, int end) {
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * WHOLE; i += THREADS) copy(shared, p, stride, first, end, i / WHOLE, i % WHOLE);
        if constexpr (REST > 0) {
#pragma unroll
            for (int i = threadIdx.x; i < ROWS * REST; i += THREADS) copy(shared, p, stride, first, end, rest_row<REST>(i), WHOLE + i % REST);
        }
    }

    __device__ static void copy(uint32_t shared, const bf16* p, int64_t stride, int first, int end, int row, int chunk) {
        const bool inside = first + row < end;
        cp_async_16(shared + row * STRIDE + chunk * 16, p + (inside ? (first + row) * stride : 0) + chunk * 8, inside ? 16 : 0);
    }

    // A lane's address for ldmatrix of 16 x 16 blocks. `down`/`right`: whether its matrix is the second down, the second right.
    __device__ static uint32_t lane_at(uint32_t shared, int down, int right) {
        return shared + (threadIdx.x % 8 + 8 * down) * STRIDE + right * 16;
    }
    // What is added to it for the block at (row, column), both divisible by 16 (column: by 8).
    __device__ static constexpr uint32_t at(int row, int column) { return row * STRIDE + column * 2; }
};

// The row and column halves of the four matrices that ldmatrix_x4 reads, by lane: second matrix, third matrix.
__device__ __forceinline__ int second_matrix() { return threadIdx.x / 8 % 2; }
__device__ __forceinline__ int third_matrix() { return threadIdx.x / 16 % 2; }

// scores[16 x 8·BLOCKS] = a[16,D]·b[8·BLOCKS,D]ᵀ, both rows in shared memory, at this lane's addresses: `a_at` with the second
// matrix down and the third right, `b_at` with the third down and the second right.
template <int D, typename A, typename B, int BLOCKS>
__device__ __forceinline__ void multiply_rows(float (&scores)[BLOCKS][4], uint32_t a_at, uint32_t b_at) {
#pragma unroll
    for (int j = 0; j < BLOCKS; j++) scores[j][0] = scores[j][1] = scores[j][2] = scores[j][3] = 0.f;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[4];
        ldmatrix_x4(a, a_at + A::at(0, 16 * d));
#pragma unroll
        for (int j = 0; j < BLOCKS; j += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, b_at + B::at(8 * j, 16 * d));
            mma_bf16(scores[j], a, b[0], b[1]);
            mma_bf16(scores[j + 1], a, b[2], b[3]);
        }
    }
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

// Sixteen rows of sums, times `factor` for each of a lane's two rows, to rows [first, ..) of `out`, of which `left` exist. They
// pass through `staging` (generic address of sixteen rows that only this warp uses), so that stores are whole 16 bytes next to
// each other.
template <typename Rows, int COLUMNS>
__device__ __forceinline__ void store_rows(bf16* out, int64_t stride, int left, char* staging, const float (&sums)[COLUMNS][4],
                                           const float (&factor)[2]) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int d = 0; d < COLUMNS; d++)
            *reinterpret_cast<uint32_t*>(staging + Rows::at(lane / 4 + 8 * half, 8 * d) + lane % 4 * 4) =
                pack_bf16(sums[d][2 * half] * factor[half], sums[d][2 * half + 1] * factor[half]);
    __syncwarp();
    constexpr int WHOLE = COLUMNS / 8 * 8, REST = COLUMNS % 8;
    const auto copy = [&](int row, int chunk) {
        if (row < left)
            *reinterpret_cast<uint4*>(out + row * stride + 8 * chunk) = *reinterpret_cast<const uint4*>(staging + Rows::at(row, 8 * chunk));
    };
#pragma unroll
    for (int i = lane; i < 16 * WHOLE; i += 32) copy(i / WHOLE, i % WHOLE);
    if constexpr (REST > 0) {
#pragma unroll
        for (int i = lane; i < 16 * REST; i += 32) copy(rest_row<REST>(i), WHOLE + i % REST);
    }
}
