// Rows of a head in shared memory: how they lie there, how they come and how they go.
#pragma once
#include "common.cuh"

// The row of the i-th 16-byte chunk when each row has REST (2 or 4) chunks beyond whole lines of eight: eight chunks in a row of
// this order lie in 8/REST rows that are REST apart, which in HeadRows is in eight different bank groups.
template <int REST>
__device__ __forceinline__ int rest_row(int i) {
    const int in_eight = i % (8 * REST);
    return i / (8 * REST) * 8 + in_eight / 8 + REST * (in_eight % 8 / REST);
}

// `ROWS` rows of a head, D elements each, one after the other in shared memory. The row stride of D + 8 elements is an odd
// number of 16-byte chunks, so eight rows at one column lie in different banks; every address is a lane's own plus a constant.
template <int D, int ROWS>
struct HeadRows {
    static constexpr int STRIDE = (D + 8) * 2;  // bytes
    static constexpr int BYTES = ROWS * STRIDE;

    // A lane's address for ldmatrix of 16 x 16 blocks. `down`/`right`: whether its matrix is the second down, the second right.
    __device__ static uint32_t lane_at(uint32_t shared, int down, int right) {
        return shared + (threadIdx.x % 8 + 8 * down) * STRIDE + right * 16;
    }
    // What is added to it for the block at (row, column), both divisible by 16 (column: by 8).
    __device__ static constexpr uint32_t at(int row, int column) { return row * STRIDE + column * 2; }
};

// One thread's part in copying tiles of ROWS rows from ARRAYS arrays of one layout to shared memory, where they lie `APART` bytes
// from each other. It holds its place in the next tile and goes on from there, so that a main loop works out no address anew.
//
// Eight lanes that write at once write to eight different bank groups: whole lines of eight chunks first, then what rest_row says.
template <int D, int ROWS, int THREADS, int ARRAYS, int APART = 0>
struct Incoming {
    using Rows = HeadRows<D, ROWS>;
    static constexpr int WHOLE = D / 64 * 8, REST = D / 8 % 8;  // chunks of a row: whole lines of eight, and 0, 2 or 4 more
    static_assert(THREADS % WHOLE == 0 && (REST == 0 || THREADS % (8 * (REST | !REST)) == 0), "a pass must be whole rows");

    struct Part {
        const bf16* from[ARRAYS];  // the thread's first chunk of the tile
        uint32_t to;
        int left;                  // rows there are from that chunk's on

        __device__ void place(const bf16* const (&arrays)[ARRAYS], uint32_t shared, int64_t stride, int first, int end, int row, int chunk) {
#pragma unroll
            for (int i = 0; i < ARRAYS; i++) from[i] = arrays[i] + (first + row) * stride + chunk * 8;
            to = shared + row * Rows::STRIDE + chunk * 16;
            left = end - first - row;
        }
        template <int CHUNKS, bool ALL>
        __device__ void start(uint32_t stage, int64_t stride) const {
            constexpr int PASS = THREADS / CHUNKS;
#pragma unroll
            for (int row = 0; row < ROWS; row += PASS) {
                if (ROWS % PASS != 0 && row + threadIdx.x / CHUNKS >= ROWS) break;
                const bool there = ALL || row < left;
#pragma unroll
                for (int i = 0; i < ARRAYS; i++)
                    cp_async_16(to + stage + i * APART + row * Rows::STRIDE, from[i] + row * stride, there ? 16 : 0);
            }
        }
        __device__ void move(int64_t elements, int rows) {
#pragma unroll
            for (int i = 0; i < ARRAYS; i++) from[i] += elements;
            left -= rows;
        }
    };
    Part lines, rest;
    int64_t stride;

    // The first tile starts at row `first` of [.., stride]; rows from `end` on are zeros.
    __device__ Incoming(uint32_t shared, const bf16* const (&arrays)[ARRAYS], int64_t stride, int first, int end) : stride(stride) {
        lines.place(arrays, shared, stride, first, end, threadIdx.x / WHOLE, threadIdx.x % WHOLE);
        if constexpr (REST > 0)
            rest.place(arrays, shared, stride, first, end, rest_row<REST>(threadIdx.x), WHOLE + threadIdx.x % REST);
    }
    // Starts copying the tile, `stage` bytes on in shared memory. ALL: every row of it exists.
    template <bool ALL = false>
    __device__ void start(uint32_t stage) const {
        lines.template start<WHOLE, ALL>(stage, stride);
        if constexpr (REST > 0) rest.template start<REST, ALL>(stage, stride);
    }
    // Goes `rows` down (up where negative) and `elements` more.
    __device__ void move(int rows, int64_t elements = 0) {
        lines.move(rows * stride + elements, rows);
        if constexpr (REST > 0) rest.move(rows * stride + elements, rows);
    }
};

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
