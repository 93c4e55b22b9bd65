// What the products of matmul.cu and matmul_few.cu do with a finished sum.
#pragma once
#include "common.cuh"

// What happens to a finished sum: C = sum (+ bias) (+ old), `old` the residual or C itself.
template <typename Out>
struct Epilogue {
    static constexpr int V = Vec<Out>::N;  // elements that `store` takes
    Out* c;           // [rows, columns]
    const Out* old;   // [rows, columns] or null; may be c
    const bf16* bias; // [columns] or null
    int rows, columns;

    __device__ float one(float sum, int64_t at, int column) const {
        if (bias) sum += to_float(bias[column]);
        if (old) sum += to_float(old[at]);
        return sum;
    }

    // 16 bytes of C from `sums` in shared memory, where they are all inside and aligned; else one by one.
    __device__ void store(const float* sums, int row, int column) const {
        if (row >= rows || column >= columns) return;
        const int64_t at = int64_t(row) * columns + column;
        if (columns % V == 0) {
            Vec<Out> v;
#pragma unroll
            for (int j = 0; j < V; j += 4) {
                const Vec<float> four = load_vec(sums + j);
#pragma unroll
                for (int l = 0; l < 4; l++) v.x[j + l] = four.x[l];
            }
            if (bias) {
#pragma unroll
                for (int j = 0; j < V; j++) v.x[j] += to_float(bias[column + j]);
            }
            if (old) {
                const Vec<Out> before = load_vec(old + at);
#pragma unroll
                for (int j = 0; j < V; j++) v.x[j] += before.x[j];
            }
            store_vec(c + at, v);
        } else {
            for (int j = 0; j < min(V, columns - column); j++) c[at + j] = from_float<Out>(one(sums[j], at + j, column + j));
        }
    }

    // Called by a whole warp for each row of a tile, 16 bytes of sums in each lane.
    __device__ void row_done(const float*, int, int) const {}
};

// Logits, and of every row and tile of MATMUL_N columns (max z, Σ exp(z − max)): what the loss would read all logits for once more.
struct LogitEpilogue : Epilogue<float> {
    float2* stats;  // [rows, ⌈columns/MATMUL_N⌉] or null

    __device__ void row_done(const float* sums, int row, int column) const {
        if (!stats || row >= rows) return;
        const Vec<float> z = load_vec(sums);
        float largest = -INFINITY, sum = 0.f;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (column + j < columns) largest = fmaxf(largest, z.x[j]);
        largest = warp_max(largest);
        const float base = largest == -INFINITY ? 0.f : largest;  // so that −inf adds nothing, and NaN is passed on
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (column + j < columns) sum += expf(z.x[j] - base);
        sum = warp_sum(sum);
        const int tiles = (columns + MATMUL_N - 1) / MATMUL_N;
        if (threadIdx.x % 32 == 0) stats[int64_t(row) * tiles + column / MATMUL_N] = make_float2(largest, sum);
    }
};
