// The online softmax (2205.14135) of one row, in units of log2: scores are multiplied by scale·log2(e) first.
//
// After any number of keys, sum = Σ 2^(s_j − max) and the output is Σ 2^(s_j − max)·v_j / sum. `max` need not be the true
// maximum, only near it: a tile whose weights add up to more than LIMIT is weighed again after `raise`, so that sums are rescaled
// rarely, and LIMIT times the number of tiles stays far from what f32 and bf16 can hold. A row that has seen no key has max = −inf, sum = 0;
// its output is 0 and its log-sum-exp −inf.
#pragma once
#include "common.cuh"

struct SoftmaxState {
    static constexpr float LIMIT = 256.f;  // of a lane's weights of one tile; after `raise` each is at most 1, or a few where scores reach 2^24
    float max = -INFINITY, sum = 0.f;  // `sum` is this lane's share until `finish`

    // Raises max to `seen` if that is higher; returns what all sums so far are multiplied by.
    __device__ float raise(float seen) {
        if (seen <= max) return 1.f;
        const float factor = exp2_approx(max - seen);  // 0 for the first keys: max was −inf
        max = seen;
        sum *= factor;
        return factor;
    }
    // The weight of a score, 2^(score − max); 0 for −inf, also where no key was seen at all.
    __device__ float base() const { return max == -INFINITY ? 0.f : max; }
    // Log-sum-exp in natural units, of the whole row's sum.
    __device__ float log_sum_exp() const { return (max + log2f(sum)) * LN_2; }
};

// Sum and maximum over the four lanes that share a row of an mma fragment.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}
