// What AdamW's kernels share: the step's numbers, one element's update, which block has which run of a tensor. The structs have
// the same layout in Rust (backend/cuda).
#pragma once
#include "common.cuh"

struct AdamRun {
    uint32_t tensor, run;
};
struct AdamStep {
    float lr, beta1, beta2, eps, correction1, correction2, grad_scale;  // correction: 1/(1 − beta^step)
};

__device__ __forceinline__ float adam_one(float p, float& m, float& v, float grad, float decay, const AdamStep& s) {
    const float g = grad * s.grad_scale;
    m = s.beta1 * m + (1.f - s.beta1) * g;
    v = s.beta2 * v + (1.f - s.beta2) * g * g;
    return p - s.lr * (m * s.correction1 / (sqrtf(v * s.correction2) + s.eps) + decay * p);
}

// Four consecutive elements of a parameter.
__device__ __forceinline__ void store_four(float* p, const Vec<float>& v) { store_vec(p, v); }
__device__ __forceinline__ void store_four(bf16* p, const Vec<float>& v) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(v.x[0], v.x[1]), pack_bf16(v.x[2], v.x[3]));
}
