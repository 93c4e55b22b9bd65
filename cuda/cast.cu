// From the storage type to full precision: master weights from weights.
//
//   widen  y = x    y [len] f32 (=), x [len] T
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; four elements at a time, the last len mod 4 one by one.
#include "elementwise.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernel

template <typename T>
__device__ __forceinline__ void widen(float* y, const T* x, int64_t len) {
    elementwise<float>(len, [&](int64_t i, auto lane) { lane.store(y + i, load_some<lane.N>(x + i)); });
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) widen_##name(float* y, const T* x, int64_t len) {   \
        widen(y, x, len);                                                                                                 \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
