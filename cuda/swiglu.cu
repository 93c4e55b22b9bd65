// SwiGLU (2002.05202), forward and backward.
//
//   swiglu           y = silu(gate)·up, silu(x) = x·σ(x), σ(x) = 1/(1+e^-x)
//   swiglu_backward  d_gate = dy·up·σ·(1 + gate·(1−σ)),  d_up = dy·gate·σ
//                    all [len] T; outputs (=)
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

__device__ __forceinline__ float forward_one(float gate, float up) { return gate * sigmoid(gate) * up; }

// y = gate·σ(gate)·up undone
__device__ __forceinline__ void backward_one(float& d_gate, float& d_up, float dy, float gate, float up) {
    const float s = sigmoid(gate);
    d_gate = dy * up * s * (1.f + gate * (1.f - s));
    d_up = dy * gate * s;
}

template <typename T>
__device__ __forceinline__ void swiglu(T* y, const T* gate, const T* up, int64_t len) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) {
        const Vec<T> g = load_vec(gate + i * V), u = load_vec(up + i * V);
        Vec<T> out;
#pragma unroll
        for (int j = 0; j < V; j++) out.x[j] = forward_one(g.x[j], u.x[j]);
        store_vec(y + i * V, out);
    }
    const int64_t i = len / V * V + first;
    if (i < len) y[i] = from_float<T>(forward_one(to_float(gate[i]), to_float(up[i])));
}

template <typename T>
__device__ __forceinline__ void swiglu_backward(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up, int64_t len) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = first; i < len / V; i += step) {
        const Vec<T> d = load_vec(dy + i * V), g = load_vec(gate + i * V), u = load_vec(up + i * V);
        Vec<T> dg, du;
#pragma unroll
        for (int j = 0; j < V; j++) backward_one(dg.x[j], du.x[j], d.x[j], g.x[j], u.x[j]);
        store_vec(d_gate + i * V, dg);
        store_vec(d_up + i * V, du);
    }
    const int64_t i = len / V * V + first;
    if (i < len) {
        float dg, du;
        backward_one(dg, du, to_float(dy[i]), to_float(gate[i]), to_float(up[i]));
        d_gate[i] = from_float<T>(dg);
        d_up[i] = from_float<T>(du);
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                     \
        swiglu_##name(T* y, const T* gate, const T* up, int64_t len) {                                                    \
        swiglu(y, gate, up, len);                                                                                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                     \
        swiglu_backward_##name(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up, int64_t len) {                \
        swiglu_backward(d_gate, d_up, dy, gate, up, len);                                                                 \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
