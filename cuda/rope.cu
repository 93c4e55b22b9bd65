// Rotary position embedding (2104.09864) with PoSE's skipping bias, in place on q and k.
//
//   (a, b) of each pair becomes f·(a·cos φ − b·sin φ, b·cos φ + a·sin φ),  φ = ±2π·position·turns[pair]/2^64
//   q [rows·tokens,heads,head_dim], k [rows·tokens,kv_heads,head_dim] T, in place; turns [rotary_dim/2] u64
//   places, per_row > 0: chunk spans [rows,per_row] of {start, skipping bias} u32: token t of the chunk that starts at or before
//   it is at position t + bias (2309.10400); per_row 0: a position for each token, [rows·tokens] u32
//   sign −1 turns back: the transpose of the rotation, hence its backward. f: YaRN's attention factor.
//
// The phase is exact at any position: a frequency is a 64-bit fraction of a turn and the product wraps (docs/numerics.md).
// Launch: a block of ROPE_THREADS for each token; dynamic shared memory: rotary_dim floats, cos and sin of each pair.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

struct Span {
    uint32_t start, bias;
};

// Position of token t of `row` that is token number `index` of all.
__device__ __forceinline__ uint32_t position_of(const uint32_t* places, int per_row, int row, uint32_t t, int index) {
    if (per_row == 0) return places[index];
    const Span* spans = reinterpret_cast<const Span*>(places) + int64_t(row) * per_row;
    uint32_t bias = spans[0].bias;
    for (int i = 1; i < per_row; i++) {
        const Span span = spans[i];
        if (span.start <= t) bias = span.bias;
    }
    return t + bias;
}

// cos and sin of 2π·phase/2^64. The phase is split into quarter turns and a rest of at most an eighth either way, whose f32
// is good to 2^-27 of a turn.
__device__ __forceinline__ float2 cos_sin(uint64_t phase) {
    const uint64_t quarter = (phase + (1ull << 61)) >> 62;
    const int64_t rest = int64_t(phase - (quarter << 62));
    float sine, cosine;
    sincospif(float(int32_t(rest >> 32)) * (2.f / 4294967296.f), &sine, &cosine);
    const float c = quarter & 1 ? sine : cosine, s = quarter & 1 ? cosine : sine;
    return make_float2((quarter == 1 || quarter == 2) ? -c : c, quarter >= 2 ? -s : s);
}

__device__ __forceinline__ void rotate(float& a, float& b, float2 turn) {
    const float first = a * turn.x - b * turn.y;
    b = b * turn.x + a * turn.y;
    a = first;
}

// The heads of one token. `pairs` = rotary_dim/2. V elements of a half at a time, or one.
template <typename T, int V>
__device__ __forceinline__ void rotate_half_split(T* x, const float2* turns, int heads, int head_dim, int pairs) {
    const int per_head = pairs / V;
    for (int i = threadIdx.x; i < heads * per_head; i += ROPE_THREADS) {
        const int head = i / per_head, pair = i % per_head * V;
        T* const low = x + int64_t(head) * head_dim + pair;
        T* const high = low + pairs;
        if constexpr (V == 1) {
            float a = to_float(*low), b = to_float(*high);
            rotate(a, b, turns[pair]);
            *low = from_float<T>(a);
            *high = from_float<T>(b);
        } else {
            Vec<T> a = load_vec(low), b = load_vec(high);
#pragma unroll
            for (int j = 0; j < V; j++) rotate(a.x[j], b.x[j], turns[pair + j]);
            store_vec(low, a);
            store_vec(high, b);
        }
    }
}

template <typename T, int V>
__device__ __forceinline__ void rotate_interleaved(T* x, const float2* turns, int heads, int head_dim, int pairs) {
    const int per_head = 2 * pairs / V;
    for (int i = threadIdx.x; i < heads * per_head; i += ROPE_THREADS) {
        const int head = i / per_head, at = i % per_head * V;
        T* const p = x + int64_t(head) * head_dim + at;
        if constexpr (V == 2) {
            float a = to_float(p[0]), b = to_float(p[1]);
            rotate(a, b, turns[at / 2]);
            p[0] = from_float<T>(a);
            p[1] = from_float<T>(b);
        } else {
            Vec<T> v = load_vec(p);
#pragma unroll
            for (int j = 0; j < V; j += 2) rotate(v.x[j], v.x[j + 1], turns[(at + j) / 2]);
            store_vec(p, v);
        }
    }
}

template <typename T>
__device__ __forceinline__ void rotate_heads(T* x, const float2* turns, int heads, int head_dim, int pairs, int interleaved) {
    constexpr int V = Vec<T>::N;
    if (interleaved) {
        if (head_dim % V == 0 && 2 * pairs % V == 0) rotate_interleaved<T, V>(x, turns, heads, head_dim, pairs);
        else rotate_interleaved<T, 2>(x, turns, heads, head_dim, pairs);
    } else {
        if (head_dim % V == 0 && pairs % V == 0) rotate_half_split<T, V>(x, turns, heads, head_dim, pairs);
        else rotate_half_split<T, 1>(x, turns, heads, head_dim, pairs);
    }
}

template <typename T>
__device__ __forceinline__ void rope(T* q, T* k, const uint32_t* places, const uint64_t* turns, int per_row, int tokens, int heads,
                                     int kv_heads, int head_dim, int rotary_dim, int interleaved, float sign, float factor) {
    extern __shared__ uint4 memory[];
    float2* const table = reinterpret_cast<float2*>(memory);  // [rotary_dim/2]
    const int index = blockIdx.x, pairs = rotary_dim / 2;
    const uint64_t position = position_of(places, per_row, index / tokens, index % tokens, index);
    for (int pair = threadIdx.x; pair < pairs; pair += ROPE_THREADS) {
        const float2 turn = cos_sin(position * turns[pair]);
        table[pair] = make_float2(factor * turn.x, factor * sign * turn.y);
    }
    __syncthreads();
    rotate_heads(q + int64_t(index) * heads * head_dim, table, heads, head_dim, pairs, interleaved);
    rotate_heads(k + int64_t(index) * kv_heads * head_dim, table, kv_heads, head_dim, pairs, interleaved);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROPE_THREADS)                                                            \
        rope_##name(T* q, T* k, const uint32_t* places, const uint64_t* turns, int per_row, int tokens, int heads,        \
                    int kv_heads, int head_dim, int rotary_dim, int interleaved, float sign, float factor) {              \
        rope(q, k, places, turns, per_row, tokens, heads, kv_heads, head_dim, rotary_dim, interleaved, sign, factor);     \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
