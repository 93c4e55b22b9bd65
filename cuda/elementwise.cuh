// What the element-wise kernels share: gelu.cu, swiglu.cu, scale.cu, cast.cu.
#pragma once
#include "common.cuh"

// Calls f(i, lane) for the elements from i on that `lane` loads and stores: 16 bytes of T at a time, the last few one by one. The grid
// strides, of any size.
template <typename T, typename F>
__device__ __forceinline__ void elementwise(int64_t len, F f) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) f(i * V, Lane<T, V>());
    const int64_t i = len / V * V + first;
    if (i < len) f(i, Lane<T, 1>());
}
