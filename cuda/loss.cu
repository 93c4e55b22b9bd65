// Cross-entropy of a chunk of tokens from their logits, and at once its gradient. The head's products around it are those of
// matmul.cu: logits of a few hundred tokens exist at a time, never [tokens, vocab] of all (model head in docs/kernels.md).
//
//   nll[t] = log Σ_j exp(z_tj) − z_t,target;  0 where the target is IGNORED_TOKEN            nll (=) [tokens] f32
//   slope[t,:] = scale·(softmax(z_t) − onehot(target));  0 for ignored tokens               slope (=) [tokens,vocab] T, or null
//   z [tokens,vocab] f32, targets [tokens] u32
//
// In f32 slope may be z itself. `vocab` divisible by 16 bytes of T goes by 16-byte accesses. Launch: a block of SOFTMAX_THREADS for each token.
#include "common.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

// V logits in a row; 16-byte accesses where V is more than one.
template <int V>
struct Logits {
    float x[V];

    __device__ explicit Logits(const float* z) {
        if constexpr (V == 1) {
            x[0] = *z;
        } else {
#pragma unroll
            for (int j = 0; j < V; j += 4) {
                const Vec<float> four = load_vec(z + j);
#pragma unroll
                for (int i = 0; i < 4; i++) x[j + i] = four.x[i];
            }
        }
    }
};

template <typename T, int V>
__device__ __forceinline__ void cross_entropy(float* nll, T* slope, const float* logits, const uint32_t* targets, int vocab, float scale) {
    __shared__ float slots[SOFTMAX_THREADS / 32];
    const int token = blockIdx.x;
    const float* const z = logits + int64_t(token) * vocab;
    const uint32_t target = targets[token];
    float largest = -INFINITY, sum = 0.f;
    if (target != IGNORED_TOKEN) {
        for (int i = threadIdx.x * V; i < vocab; i += SOFTMAX_THREADS * V) {  // one pass: the sum is rescaled when the maximum grows
            const Logits<V> here(z + i);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float x = here.x[j];
                if (x > largest) {
                    sum *= expf(largest - x);
                    largest = x;
                }
                sum += expf(x - largest);
            }
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
    for (int i = threadIdx.x * V; i < vocab; i += SOFTMAX_THREADS * V) {
        const Logits<V> here(z + i);
        float p[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            p[j] = counts ? factor * expf(here.x[j] - max) : 0.f;
            if (i + j == int(target)) p[j] -= scale;
        }
        if constexpr (V == 1) {
            out[i] = from_float<T>(p[0]);
        } else {
            Vec<T> piece;
#pragma unroll
            for (int j = 0; j < V; j++) piece.x[j] = p[j];
            store_vec(out + i, piece);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS)                                                         \
        cross_entropy_##name(float* nll, T* slope, const float* logits, const uint32_t* targets, int vocab, float scale) { \
        constexpr int V = Vec<T>::N;                                                                                      \
        if (vocab % V == 0)                                                                                               \
            cross_entropy<T, V>(nll, slope, logits, targets, vocab, scale);                                               \
        else                                                                                                              \
            cross_entropy<T, 1>(nll, slope, logits, targets, vocab, scale);                                               \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
