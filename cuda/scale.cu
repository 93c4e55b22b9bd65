// A number times every element: what comes out of an adapter's first product.
//
//   scale  x = factor·x    x [len] T, in place
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernel

template <typename T>
__device__ __forceinline__ void scale(T* x, float factor, int64_t len) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) {
        Vec<T> v = load_vec(x + i * V);
#pragma unroll
        for (int j = 0; j < V; j++) v.x[j] *= factor;
        store_vec(x + i * V, v);
    }
    const int64_t i = len / V * V + first;
    if (i < len) x[i] = from_float<T>(factor * to_float(x[i]));
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) scale_##name(T* x, float factor, int64_t len) {     \
        scale(x, factor, len);                                                                                            \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
