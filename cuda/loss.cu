// Cross-entropy of a chunk of tokens from their logits, and at once its gradient. The head's products around it are those of
// matmul.cu: logits of a few hundred tokens exist at a time, never [tokens, vocab] of all (model head in docs/kernels.md).
//
//   nll[t] = log Σ_j exp(z_tj) − z_t,target;  0 where the target is IGNORED_TOKEN            nll (=) [tokens] f32
//   slope[t,:] = scale·(softmax(z_t) − onehot(target));  0 for ignored tokens               slope (=) [tokens,vocab] T, or null
//   z [tokens,vocab] f32, targets [tokens] u32
//
// In f32 slope may be z itself. Launch: a block of SOFTMAX_THREADS for each token.
#include "common.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

template <typename T>
__device__ __forceinline__ void cross_entropy(float* nll, T* slope, const float* logits, const uint32_t* targets, int vocab, float scale) {
    __shared__ float slots[SOFTMAX_THREADS / 32];
    const int token = blockIdx.x;
    const float* const z = logits + int64_t(token) * vocab;
    const uint32_t target = targets[token];
    float largest = -INFINITY, sum = 0.f;
    if (target != IGNORED_TOKEN) {
        for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) {  // one pass: the sum is rescaled when the maximum grows
            const float x = z[i];
            if (x > largest) {
                sum *= expf(largest - x);
                largest = x;
            }
            sum += expf(x - largest);
        }
    }
    const float max = block_max<SOFTMAX_THREADS>(largest, slots);
    sum = block_sum<SOFTMAX_THREADS>(largest == -INFINITY ? 0.f : sum * expf(largest - max), slots);
    const bool counts = target != IGNORED_TOKEN;
    const float at_target = counts ? z[target] : 0.f;
    if (threadIdx.x == 0) nll[token] = counts ? max - at_target + logf(sum) : 0.f;
    if (!slope) return;
    __syncthreads();  // slope may be z: all have read the target's
    const float factor = counts ? scale / sum : 0.f;
    T* const out = slope + int64_t(token) * vocab;
    for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) {
        const float p = counts ? factor * expf(z[i] - max) : 0.f;
        out[i] = from_float<T>(i == int(target) ? p - scale : p);
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS)                                                         \
        cross_entropy_##name(float* nll, T* slope, const float* logits, const uint32_t* targets, int vocab, float scale) { \
        cross_entropy(nll, slope, logits, targets, vocab, scale);                                                         \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
