// A number times every element: what comes out of an adapter's first product.
//
//   scale  x = factor·x    x [len] T, in place
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "elementwise.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernel

template <typename T>
__device__ __forceinline__ void scale(T* x, float factor, int64_t len) {
    elementwise<T>(len, [&](int64_t i, auto lane) {
        Vec<T> v = lane.load(x + i);
#pragma unroll
        for (int j = 0; j < lane.N; j++) v.x[j] *= factor;
        lane.store(x + i, v);
    });
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) scale_##name(T* x, float factor, int64_t len) {     \
        scale(x, factor, len);                                                                                            \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
