// GELU by its tanh (1606.08415), forward and backward.
//
//   gelu           y = x·σ(2u), u = √(2/π)·(x + 0.044715·x³), σ(x) = 1/(1+e^-x); the same as ½·x·(1 + tanh u)
//   gelu_backward  dx = dy·σ·(1 + 2·x·(1−σ)·u'),  u' = √(2/π)·(1 + 3·0.044715·x²)
//                  all [len] T; outputs (=)
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "elementwise.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr float GELU_SCALE = 0.79788456080286536f, GELU_CUBE = 0.044715f;

__device__ __forceinline__ float gate_of(float x) {
    return 1.f / (1.f + expf(-2.f * GELU_SCALE * x * (1.f + GELU_CUBE * x * x)));
}

__device__ __forceinline__ float forward_one(float x) { return x * gate_of(x); }

// y = x·σ(2u) undone
__device__ __forceinline__ float backward_one(float dy, float x) {
    const float gate = gate_of(x);
    return dy * gate * (1.f + 2.f * x * (1.f - gate) * GELU_SCALE * (1.f + 3.f * GELU_CUBE * x * x));
}

template <typename T>
__device__ __forceinline__ void gelu(T* y, const T* x, int64_t len) {
    elementwise<T>(len, [&](int64_t i, auto lane) {
        Vec<T> v = lane.load(x + i);
#pragma unroll
        for (int j = 0; j < lane.N; j++) v.x[j] = forward_one(v.x[j]);
        lane.store(y + i, v);
    });
}

template <typename T>
__device__ __forceinline__ void gelu_backward(T* dx, const T* dy, const T* x, int64_t len) {
    elementwise<T>(len, [&](int64_t i, auto lane) {
        const Vec<T> d = lane.load(dy + i);
        Vec<T> v = lane.load(x + i);
#pragma unroll
        for (int j = 0; j < lane.N; j++) v.x[j] = backward_one(d.x[j], v.x[j]);
        lane.store(dx + i, v);
    });
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS) gelu_##name(T* y, const T* x, int64_t len) {        \
        gelu(y, x, len);                                                                                                  \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                     \
        gelu_backward_##name(T* dx, const T* dy, const T* x, int64_t len) {                                               \
        gelu_backward(dx, dy, x, len);                                                                                    \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
