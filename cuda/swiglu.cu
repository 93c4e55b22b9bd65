// SwiGLU (2002.05202), forward and backward.
//
//   swiglu           y = silu(gate)·up, silu(x) = x·σ(x), σ(x) = 1/(1+e^-x)
//   swiglu_backward  d_gate = dy·up·σ·(1 + gate·(1−σ)),  d_up = dy·gate·σ
//                    all [len] T; outputs (=)
//
// Launch: any grid of ELEMENTWISE_THREADS, it strides; 16-byte accesses, the last len mod 16 bytes by single elements.
#include "elementwise.cuh"

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
    elementwise<T>(len, [&](int64_t i, auto lane) {
        const Vec<T> g = lane.load(gate + i), u = lane.load(up + i);
        Vec<T> out;
#pragma unroll
        for (int j = 0; j < lane.N; j++) out.x[j] = forward_one(g.x[j], u.x[j]);
        lane.store(y + i, out);
    });
}

template <typename T>
__device__ __forceinline__ void swiglu_backward(T* d_gate, T* d_up, const T* dy, const T* gate, const T* up, int64_t len) {
    elementwise<T>(len, [&](int64_t i, auto lane) {
        const Vec<T> d = lane.load(dy + i), g = lane.load(gate + i), u = lane.load(up + i);
        Vec<T> dg, du;
#pragma unroll
        for (int j = 0; j < lane.N; j++) backward_one(dg.x[j], du.x[j], d.x[j], g.x[j], u.x[j]);
        lane.store(d_gate + i, dg);
        lane.store(d_up + i, du);
    });
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
