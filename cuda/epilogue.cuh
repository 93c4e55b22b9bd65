// What the products of matmul.cu and matmul_few.cu do with a finished sum.
#pragma once
#include "common.cuh"

// What happens to a finished sum: C = sum (+ bias) (+ old), `old` the residual or C itself.
template <typename Out>
struct Epilogue {
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
        constexpr int V = Vec<Out>::N;
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
};
