// Which token comes next, for each row: greedy, by temperature, from a nucleus (1904.09751).
//
//   w_i = exp((z_i − max z)·inverse),  inverse = 1/temperature
//   nucleus = {i: w_i ≥ τ},  τ the largest with Σ_nucleus w ≥ top_p·Σ w: the fewest likeliest tokens, equals together
//   tokens[r] = the first i of the nucleus, by index, where the running sum of its weights exceeds unit·(their sum)
//   greedy: the first of the largest logits.  A row with a logit that is no finite number gets IGNORED_TOKEN.
//
//   tokens [rows] u32 (=), logits [rows,vocab] f32 (in place: weights are left there), units [rows] f32 in [0,1)
//
// Launch: a block of SAMPLE_THREADS for each row.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr uint32_t SMALLEST = 1;             // bits of the smallest weight but 0: what weighs nothing is never drawn
constexpr uint32_t ABOVE_ONE = 0x3f800001u;  // one more than the bits of 1.f, the largest weight

// Sum of the values of all threads before this one, and of all threads.
__device__ __forceinline__ float2 sum_before(float x, float* slots) {
    const int lane = threadIdx.x % 32;
    float upto = x;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float other = __shfl_up_sync(FULL_WARP, upto, d);
        if (lane >= d) upto += other;
    }
    if (lane == 31) slots[threadIdx.x / 32] = upto;
    __syncthreads();
    float before = 0.f, all = 0.f;
    for (int w = 0; w < SAMPLE_THREADS / 32; w++) {
        if (w == threadIdx.x / 32) before = all;
        all += slots[w];
    }
    const float left = __shfl_up_sync(FULL_WARP, upto, 1);
    return make_float2(before + (lane == 0 ? 0.f : left), all);
}

// The bits of τ. Weights are not negative, so their bits are in their order: a bisection over them.
__device__ __forceinline__ uint32_t threshold(const float* weights, int vocab, float wanted, float* slots) {
    uint32_t low = SMALLEST, high = ABOVE_ONE;  // the weights from `low` on are enough, those from `high` on are not
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        float sum = 0.f;
        for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS)
            if (__float_as_uint(weights[i]) >= middle) sum += weights[i];
        if (block_sum<SAMPLE_THREADS>(sum, slots) >= wanted) low = middle;
        else high = middle;
    }
    return low;
}

// The first token of the nucleus whose running sum exceeds its share; rounding may leave none, then the last of the nucleus.
__device__ __forceinline__ void draw(uint32_t* first, int* last, const float* weights, int vocab, uint32_t least, float unit, float* slots) {
    const int run = (vocab + SAMPLE_THREADS - 1) / SAMPLE_THREADS, from = threadIdx.x * run, to = min(vocab, from + run);
    float mine = 0.f;
    for (int i = from; i < to; i++)
        if (__float_as_uint(weights[i]) >= least) mine += weights[i];
    const float2 sums = sum_before(mine, slots);
    const float wanted = unit * sums.y;
    float running = sums.x;
    for (int i = from; i < to; i++) {
        if (__float_as_uint(weights[i]) < least) continue;
        running += weights[i];
        atomicMax(last, i);
        if (running > wanted) {
            atomicMin(first, uint32_t(i));
            break;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- entry point

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample(uint32_t* tokens, float* logits, const float* units, int vocab, float inverse, float top_p, int greedy) {
    __shared__ float slots[SAMPLE_THREADS / 32];
    __shared__ uint32_t first;
    __shared__ int last;
    float* const z = logits + int64_t(blockIdx.x) * vocab;
    if (threadIdx.x == 0) {
        first = IGNORED_TOKEN;
        last = 0;
    }
    float largest = -INFINITY;
    int at = 0;
    bool broken = false;
    for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
        const float x = z[i];
        broken |= !isfinite(x);
        if (x > largest) {
            largest = x;
            at = i;
        }
    }
    if (__syncthreads_or(broken)) {
        if (threadIdx.x == 0) tokens[blockIdx.x] = IGNORED_TOKEN;
        return;
    }
    const float max = block_max<SAMPLE_THREADS>(largest, slots);
    if (greedy) {
        if (largest == max) atomicMin(&first, uint32_t(at));
    } else {
        float sum = 0.f;
        for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
            z[i] = exp2f((z[i] - max) * inverse * LOG2_E);
            sum += z[i];
        }
        const float wanted = top_p * block_sum<SAMPLE_THREADS>(sum, slots);
        const uint32_t least = top_p < 1.f ? threshold(z, vocab, wanted, slots) : SMALLEST;
        draw(&first, &last, z, vocab, least, units[blockIdx.x], slots);
    }
    __syncthreads();
    if (threadIdx.x == 0) tokens[blockIdx.x] = first == IGNORED_TOKEN ? uint32_t(last) : first;
}
