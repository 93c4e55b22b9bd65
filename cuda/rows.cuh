// What the kernels share that take a row for each block: norm.cu, layernorm.cu, unit.cu.
#pragma once
#include "common.cuh"

// Calls f(i) for the first element of each vector of V that this thread has in a row.
template <int V, typename F>
__device__ __forceinline__ void each_vector(int width, F f) {
    for (int i = threadIdx.x * V; i < width; i += ROW_THREADS * V) f(i);
}

// This block's sums [width], in shared memory, to its row of `partial` [blocks,width].
template <int V>
__device__ __forceinline__ void store_partial(float* partial, const float* sums, int width) {
    float* const out = partial + int64_t(blockIdx.x) * width;
    if constexpr (V > 1) {  // lanes next to each other store 16 bytes next to each other, so threads take sums of others
        __syncthreads();
        for (int i = threadIdx.x * 4; i < width; i += ROW_THREADS * 4) store_vec(out + i, load_vec(sums + i));
    } else {
        each_vector<1>(width, [&](int i) { out[i] = sums[i]; });
    }
}
