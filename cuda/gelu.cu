// GELU by its tanh (1606.08415), forward and backward.
//
//   gelu           y = x·σ(2u), u = √(2/π)·(x + 0.044715·x³), σ(x) = 1/(1+e^-x); the same as ½·x·(1 + tanh u)
//   gelu_backward  dx = dy·σ·(1 + 2·x·(1−σ)·u'),  u' = √(2/π)·(1 + 3·0.044715·x²)
//                  all [len] T; outputs (=)
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "common.cuh"

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
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) {
        Vec<T> v = load_vec(x + i * V);
#pragma unroll
        for (int j = 0; j < V; j++) v.x[j] = forward_one(v.x[j]);
        store_vec(y + i * V, v);
    }
    const int64_t i = len / V * V + first;
    if (i < len) y[i] = from_float<T>(forward_one(to_float(x[i])));
}

template <typename T>
__device__ __forceinline__ void gelu_backward(T* dx, const T* dy, const T* x, int64_t len) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) {
        const Vec<T> d = load_vec(dy + i * V);
        Vec<T> v = load_vec(x + i * V);
#pragma unroll
        for (int j = 0; j < V; j++) v.x[j] = backward_one(d.x[j], v.x[j]);
        store_vec(dx + i * V, v);
    }
    const int64_t i = len / V * V + first;
    if (i < len) dx[i] = from_float<T>(backward_one(to_float(dy[i]), to_float(x[i])));
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
