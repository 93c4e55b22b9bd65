// Cross-entropy of a chunk of tokens from their logits, and at once its gradient. The head's products around it are those of
// matmul.cu: logits of a few hundred tokens exist at a time, never [tokens, vocab] of all (model head in docs/kernels.md).
//
//   nll[t] = log Σ_j exp(z_tj) − z_t,target;  0 where the target is IGNORED_TOKEN            nll (=) [tokens] f32
//   slope[t,:] = scale·weights[t]·(softmax(z_t) − onehot(target));  0 for ignored tokens    slope (=) [tokens,vocab] T, or null
//   A logit that is NaN makes nll and slopes NaN. A target that is neither a row nor IGNORED_TOKEN ends the kernel with a trap.
//
//   z [tokens,vocab] f32, targets [tokens] u32, weights [tokens] f32 or null: all 1. nll is not weighted
//
//   stats [tokens,tiles] pairs (max z, Σ exp(z − max)) of pieces of a row, as matmul_nt_f32out leaves them; or null: found here,
//   which reads the logits twice
//
//   add_bias  z[t,j] += bias[j], over [tokens,vocab] f32; bias [vocab] T. For heads that have one, before the loss, which then
//   finds its stats itself. Launch: SOFTMAX_THREADS, a block for each token.
//
// In f32 slope may be z itself. `vocab` divisible by 16 bytes of T goes by 16-byte accesses. Launch: a block of SOFTMAX_THREADS for each token.
#include "common.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

// A sum of exponentials, Σ exp(z − largest). It is NaN as soon as one z is; −inf adds nothing.
struct Exponentials {
    float largest = -INFINITY, sum = 0.f;

    __device__ void add(float z) { add(make_float2(z, 1.f)); }
    // A piece's largest z, and its sum.
    __device__ void add(float2 piece) {
        if (piece.x == -INFINITY) {  // all of it, or what is not NaN
            if (isnan(piece.y)) sum = piece.y;
            return;
        }
        if (piece.x > largest) {
            sum *= expf(largest - piece.x);
            largest = piece.x;
        }
        sum += piece.y * expf(piece.x - largest);
    }
};

// Those of this thread's share of a row: of its pieces' stats, or of all its logits.
template <bool WIDE>
__device__ __forceinline__ Exponentials share(const float* z, int vocab, const float2* stats, int tiles) {
    Exponentials mine;
    if (stats) {
        for (int i = threadIdx.x; i < tiles; i += SOFTMAX_THREADS) mine.add(stats[i]);
    } else if constexpr (WIDE) {
        for (int i = threadIdx.x * 4; i < vocab; i += SOFTMAX_THREADS * 4) {
            const Vec<float> four = load_vec(z + i);
#pragma unroll
            for (int j = 0; j < 4; j++) mine.add(four.x[j]);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) mine.add(z[i]);
    }
    return mine;
}

// What becomes of a logit: scale·(softmax − onehot), zero where the token is ignored.
struct Slope {
    float max, factor, scale;  // factor: scale/Σ, or 0
    int target;                // or -1

    __device__ float operator()(float z, int i) const {
        const float p = factor == 0.f ? 0.f : factor * expf(z - max);
        return i == target ? p - scale : p;
    }
    __device__ Vec<float> four(const float* z, int i) const {
        Vec<float> v = load_vec(z + i);
#pragma unroll
        for (int j = 0; j < 4; j++) v.x[j] = (*this)(v.x[j], i + j);
        return v;
    }
};

template <bool WIDE>
__device__ __forceinline__ void store_slopes(float* out, const float* z, int vocab, Slope slope) {
    if constexpr (WIDE) {
        for (int i = threadIdx.x * 4; i < vocab; i += SOFTMAX_THREADS * 4) store_vec(out + i, slope.four(z, i));
    } else {
        for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) out[i] = slope(z[i], i);
    }
}

// A lane loads four logits of each of two runs of 128 and trades with its neighbour, so that both loads and stores of a warp are
// 16 bytes next to each other: the even lane stores eight slopes of the first run, the odd lane of the second.
template <bool WIDE>
__device__ __forceinline__ void store_slopes(bf16* out, const float* z, int vocab, Slope slope) {
    if constexpr (WIDE) {
        const int lane = threadIdx.x % 32;
        const bool odd = lane % 2;
        for (int first = threadIdx.x / 32 * 256; first < vocab; first += SOFTMAX_THREADS * 8) {
            uint2 own[2] = {};
#pragma unroll
            for (int run = 0; run < 2; run++)
                if (const int i = first + 128 * run + 4 * lane; i < vocab) {
                    const Vec<float> v = slope.four(z, i);
                    own[run] = make_uint2(pack_bf16(v.x[0], v.x[1]), pack_bf16(v.x[2], v.x[3]));
                }
            const uint2 kept = odd ? own[1] : own[0], given = odd ? own[0] : own[1];
            const uint2 got = make_uint2(__shfl_xor_sync(FULL_WARP, given.x, 1), __shfl_xor_sync(FULL_WARP, given.y, 1));
            const uint2 low = odd ? got : kept, high = odd ? kept : got;
            if (const int i = first + 128 * odd + lane / 2 * 8; i < vocab)
                *reinterpret_cast<uint4*>(out + i) = make_uint4(low.x, low.y, high.x, high.y);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) out[i] = from_float<bf16>(slope(z[i], i));
    }
}

template <typename T, bool WIDE>
__device__ __forceinline__ void cross_entropy(float* nll, T* slope, const float* logits, const uint32_t* targets, const float* weights,
                                              const float2* stats, int tiles, int vocab, float scale) {
    __shared__ float slots[SOFTMAX_THREADS / 32];
    const int token = blockIdx.x;
    const float* const z = logits + int64_t(token) * vocab;
    const uint32_t target = targets[token];
    const bool counts = target != IGNORED_TOKEN;
    if (counts && target >= uint32_t(vocab)) __trap();
    Exponentials mine;
    if (counts) mine = share<WIDE>(z, vocab, stats ? stats + int64_t(token) * tiles : nullptr, tiles);
    const float max = block_max<SOFTMAX_THREADS>(mine.largest, slots);
    const float sum = block_sum<SOFTMAX_THREADS>(mine.largest == -INFINITY ? mine.sum : mine.sum * expf(mine.largest - max), slots);
    const float at_target = counts ? z[target] : 0.f;
    if (threadIdx.x == 0) nll[token] = counts ? max - at_target + logf(sum) : 0.f;
    if (!slope) return;
    if (weights) scale *= weights[token];
    __syncthreads();  // slope may be z: all have read the target's
    store_slopes<WIDE>(slope + int64_t(token) * vocab, z, vocab, Slope{max, counts ? scale / sum : 0.f, scale, counts ? int(target) : -1});
}

template <typename T>
__device__ __forceinline__ void add_bias(float* logits, const T* bias, int vocab) {
    float* const z = logits + int64_t(blockIdx.x) * vocab;
    if (vocab % 4 == 0) {
        for (int i = threadIdx.x * 4; i < vocab; i += SOFTMAX_THREADS * 4) {
            Vec<float> v = load_vec(z + i);
            const Vec<float> b = load_four(bias + i);
#pragma unroll
            for (int j = 0; j < 4; j++) v.x[j] += b.x[j];
            store_vec(z + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += SOFTMAX_THREADS) z[i] += to_float(bias[i]);
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS) add_bias_##name(float* logits, const T* bias, int vocab) { \
        add_bias(logits, bias, vocab);                                                                                    \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS)                                                         \
        cross_entropy_##name(float* nll, T* slope, const float* logits, const uint32_t* targets, const float* weights,    \
                             const float2* stats, int tiles, int vocab, float scale) {                                    \
        if (vocab % Vec<T>::N == 0)                                                                                       \
            cross_entropy<T, true>(nll, slope, logits, targets, weights, stats, tiles, vocab, scale);                     \
        else                                                                                                              \
            cross_entropy<T, false>(nll, slope, logits, targets, weights, stats, tiles, vocab, scale);                    \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
