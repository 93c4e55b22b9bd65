// From the storage type to full precision: master weights from weights.
//
//   widen  y = x    y [len] f32 (=), x [len] T
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; four elements at a time, the last len mod 4 one by one.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernel

template <typename T>
__device__ __forceinline__ void widen(float* y, const T* x, int64_t len) {
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / 4; i += step) store_vec(y + i * 4, load_four(x + i * 4));
    const int64_t i = len / 4 * 4 + first;
    if (i < len) y[i] = to_float(x[i]);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) widen_##name(float* y, const T* x, int64_t len) {   \
        widen(y, x, len);                                                                                                 \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
