// What the kernels of 8-bit codes with scales share: kv_int8.cu, adamw8.cu.
#pragma once
#include "common.cuh"

constexpr float LEAST_SCALE = 1.17549435e-38f;  // the least normal f32

// The scale of codes: 0 where it would be too small for one; with poison (0, or NaN of NaN and of infinity) added.
__device__ __forceinline__ float scale_of(float scale, float poison) { return (scale < LEAST_SCALE ? 0.f : scale) + poison; }
__device__ __forceinline__ float inverse_of(float scale) { return scale > 0.f ? 1.f / scale : 0.f; }

// Code j of the four in a word, with its sign.
__device__ __forceinline__ float code_of(uint32_t word, int j) { return float(int32_t(word << (24 - 8 * j)) >> 24); }
