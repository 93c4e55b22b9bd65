// What all kernel files share: the two storage types, 16-byte vectors of them, sums over warps and blocks.
//
// Conventions of every kernel file. Matrices are row-major and dense. Outputs come first, then inputs, then sizes. Storage is
// bf16 or f32 (`T`), arithmetic and statistics f32. "=" writes an output without reading it, "+=" adds to it. Buffers start
// on a 256-byte boundary, as the driver's allocator gives them. A launch shape that is not derived from tiles.cuh is given
// at the kernel. Sums are taken in an order that the shape alone decides: the same bits on every run, and on every GPU
// whose shared memory takes the same kernels (see backend/cuda/attention.rs).
#pragma once
#include <cuda_bf16.h>
#include <cstdint>

#include "ptx.cuh"
#include "tiles.cuh"

using bf16 = __nv_bfloat16;
constexpr uint32_t FULL_WARP = 0xffffffffu;
constexpr uint32_t IGNORED_TOKEN = 0xffffffffu;  // a target that takes no part in the loss
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }

// 16 bytes of T in registers, as floats.
template <typename T>
struct Vec {
    static constexpr int N = 16 / sizeof(T);
    float x[N];
};

__device__ __forceinline__ Vec<float> load_vec(const float* p) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ Vec<bf16> load_vec(const bf16* p) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    Vec<bf16> out;
#pragma unroll
    for (int i = 0; i < 4; i++) {  // a bf16 is the upper half of the f32 of the same value
        out.x[2 * i] = __uint_as_float(words[i] << 16);
        out.x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return out;
}
// Four elements, as 16 bytes of f32 beside them.
__device__ __forceinline__ Vec<float> load_four(const float* p) { return load_vec(p); }
__device__ __forceinline__ Vec<float> load_four(const bf16* p) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)}};
}
__device__ __forceinline__ void store_vec(float* p, const Vec<float>& v) {
    *reinterpret_cast<float4*>(p) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}
__device__ __forceinline__ void store_vec(bf16* p, const Vec<bf16>& v) {
    *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(v.x[0], v.x[1]), pack_bf16(v.x[2], v.x[3]),
                                              pack_bf16(v.x[4], v.x[5]), pack_bf16(v.x[6], v.x[7]));
}

// V elements: a vector, or one where 16 bytes do not divide what there is.
template <typename T, int V>
struct Lane {
    static constexpr int N = V;
    __device__ static Vec<T> load(const T* p) {
        if constexpr (V > 1) return load_vec(p);
        Vec<T> v;
        v.x[0] = to_float(*p);
        return v;
    }
    __device__ static void store(T* p, const Vec<T>& v) {
        if constexpr (V > 1) store_vec(p, v);
        else *p = from_float<T>(v.x[0]);
    }
};

// The same of f32, read from T: four elements or one.
template <int V, typename T>
__device__ __forceinline__ Vec<float> load_some(const T* p) {
    if constexpr (V == 4) return load_four(p);
    return {{to_float(*p)}};
}

// Sum (or maximum) over a warp; every lane gets it.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
    return x;
}

// Sum over a block of THREADS; every thread gets it. `slots` holds one float for each warp; it may be used again at once.
template <int THREADS>
__device__ __forceinline__ float block_sum(float x, float* slots) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.f;
#pragma unroll
    for (int w = 0; w < THREADS / 32; w++) x += slots[w];
    __syncthreads();
    return x;
}
template <int THREADS>
__device__ __forceinline__ float block_max(float x, float* slots) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
    __syncthreads();
    x = slots[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) x = fmaxf(x, slots[w]);
    __syncthreads();
    return x;
}
