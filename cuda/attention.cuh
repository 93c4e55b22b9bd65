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

// `ROWS` rows of a head, D elements each, one after the other in shared memory. The row stride of D + 8 elements is an odd
// number of 16-byte chunks, so eight rows at one column lie in different banks; every address is a lane's own plus a constant.
template <int D, int ROWS, int THREADS>
struct HeadRows {
    static constexpr int STRIDE = (D + 8) * 2;  // bytes
    static constexpr int BYTES = ROWS * STRIDE;
    static constexpr int WHOLE = D / 64 * 8, REST = D / 8 % 8;  // chunks of a row: whole lines of eight, and 0, 2 or 4 more

    // Starts copying rows [first, first + ROWS) of [.., stride] from p; rows from `end` on become zero. Eight lanes that
    // write at once write to eight different bank groups: a line of eight chunks, or the rest of 8/REST rows that lie REST apart.
    __device__ static void start(uint32_t shared, const bf16* p, int64_t stride, int first, int end) {
#pragma unroll
        for (int i = threadIdx.x; i < ROWS * WHOLE; i += THREADS) copy(shared, p, stride, first, end, i / WHOLE, i % WHOLE);
        if constexpr (REST > 0) {
#pragma unroll
            for (int i = threadIdx.x; i < ROWS * REST; i += THREADS) {
                const int in_eight = i % (8 * REST), row = in_eight / 8 + REST * (in_eight % 8 / REST);
                copy(shared, p, stride, first, end, i / (8 * REST) * 8 + row, WHOLE + i % REST);
            }
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
