// AdamW with moments of 8 bits, over all parameters in one launch. Formulas: adamw8 in src/backend/mod.rs.
//
//   adamw8   codes and scales of a block of MOMENT_BLOCK → m, v → adamw (optim.cu) → codes and scales
//            all in place; all but param and codes f32
//
// Launch: ADAMW_THREADS, one block for each run of ADAMW_RUN elements of a tensor, as in optim.cu. A warp has a block of moments at a
// time, eight elements a lane, and so needs no other warp for its maximum.
#include "adam.cuh"
#include "codes.cuh"
#include "philox.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

constexpr int PARTS = MOMENT_BLOCK / 128;  // of a block: four elements a lane
constexpr float M_MOST = 127.f * 127.f, V_MOST = 255.f * 255.f;
static_assert(PARTS * 128 == MOMENT_BLOCK && ADAMW_RUN % MOMENT_BLOCK == 0, "a warp has whole parts, a run whole blocks");

// One parameter tensor; the same layout in Rust (backend/cuda).
template <typename T>
struct Adam8Tensor {
    T* param;
    float* master;  // null: param is the master
    int8_t* m_codes;
    float* m_scales;
    uint8_t* v_codes;
    float* v_scales;
    const float* grad;
    int64_t len;
    float decay;
    float unused;
};
// Of the random numbers: the key, and the counter's words 2 and 3 (words 0 and 1 are the draw and the tensor).
struct Rounding {
    uint32_t key_low, key_high, step, purpose;
};

// Four elements of a block, of which `count` are there; the others have moments of 0.
struct Four {
    float m[4], v[4];
};

// Code j of the four in a word, without a sign.
__device__ __forceinline__ float v_code(uint32_t word, int j) { return float(word >> 8 * j & 0xffu); }

// Four consecutive codes as a word, and back.
__device__ __forceinline__ uint32_t load_codes(const void* codes, int count) {
    if (count == 4) return *static_cast<const uint32_t*>(codes);
    uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < 3; j++)
        if (j < count) word |= uint32_t(static_cast<const uint8_t*>(codes)[j]) << 8 * j;
    return word;
}
__device__ __forceinline__ void store_codes(void* codes, uint32_t word, int count) {
    if (count == 4) {
        *static_cast<uint32_t*>(codes) = word;
        return;
    }
#pragma unroll
    for (int j = 0; j < 3; j++)
        if (j < count) static_cast<uint8_t*>(codes)[j] = uint8_t(word >> 8 * j);
}

__device__ __forceinline__ Four decode(uint32_t m_word, uint32_t v_word, float m_unit, float v_unit) {
    Four x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const float c = code_of(m_word, j), d = v_code(v_word, j), root = d * d * v_unit;
        x.m[j] = c * fabsf(c) * m_unit;
        x.v[j] = root * root;
    }
    return x;
}

// The parameters from `at` on, and their moments, one step further.
template <typename T>
__device__ __forceinline__ void advance(const Adam8Tensor<T>& t, int64_t at, int count, Four& x, const AdamStep& s) {
    if (count == 4) {
        Vec<float> p = t.master ? load_vec(t.master + at) : load_four(t.param + at);
        const Vec<float> grad = load_vec(t.grad + at);
#pragma unroll
        for (int j = 0; j < 4; j++) p.x[j] = adam_one(p.x[j], x.m[j], x.v[j], grad.x[j], t.decay, s);
        if (t.master) store_vec(t.master + at, p);
        store_four(t.param + at, p);
        return;
    }
#pragma unroll
    for (int j = 0; j < 3; j++)
        if (j < count) {
            const int64_t i = at + j;
            const float p = adam_one(t.master ? t.master[i] : to_float(t.param[i]), x.m[j], x.v[j], t.grad[i], t.decay, s);
            if (t.master) t.master[i] = p;
            t.param[i] = from_float<T>(p);
        }
}

__device__ __forceinline__ float unit_of(uint32_t bits) { return (float(bits) + 0.5f) * (1.f / 65536.f); }

__device__ __forceinline__ uint32_t encode_m(float m, float inverse, float unit) {
    const float y = fminf(fabsf(m) * inverse * M_MOST, M_MOST), c = floorf(sqrtf(y));
    const float code = c + (unit * (2.f * c + 1.f) < y - c * c ? 1.f : 0.f);
    return uint32_t(__float2int_rn(copysignf(code, m))) & 0xffu;
}
// (c+1)⁴ − c⁴ and y² − c⁴ as products, which are exact enough in f32.
__device__ __forceinline__ uint32_t encode_v(float root, float inverse, float unit) {
    const float y = fminf(root * inverse * V_MOST, V_MOST), c = floorf(sqrtf(y));
    const bool up = unit * ((2.f * c + 1.f) * (2.f * c * (c + 1.f) + 1.f)) < (y - c * c) * (y + c * c);
    return uint32_t(__float2int_rn(fmaxf(c + (up ? 1.f : 0.f), root > 0.f ? 1.f : 0.f)));
}

// A warp's block of moments, from element `first` on.
template <typename T>
__device__ __forceinline__ void step_block(const Adam8Tensor<T>& t, uint32_t tensor, int64_t first, const AdamStep& s, const Rounding& r) {
    const int64_t block = first / MOMENT_BLOCK;
    const float m_unit = t.m_scales[block] / M_MOST, v_unit = t.v_scales[block] / V_MOST;
    const int lane = threadIdx.x % 32;
    Four x[PARTS];
    float m_top = 0.f, v_top = 0.f, m_poison = 0.f, v_poison = 0.f;  // poison: 0, or NaN of NaN and of infinity
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int64_t at = first + 128 * p + 4 * lane;
        const int count = int(max(int64_t(0), min(int64_t(4), t.len - at)));
        x[p] = decode(load_codes(t.m_codes + at, count), load_codes(t.v_codes + at, count), m_unit, v_unit);
        advance(t, at, count, x[p], s);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            x[p].v[j] = sqrtf(x[p].v[j]);
            m_top = fmaxf(m_top, fabsf(x[p].m[j]));
            v_top = fmaxf(v_top, x[p].v[j]);
            m_poison += x[p].m[j] * 0.f;
            v_poison += x[p].v[j] * 0.f;
        }
    }
    const float m_scale = scale_of(warp_max(m_top), warp_sum(m_poison)), v_scale = scale_of(warp_max(v_top), warp_sum(v_poison));
    const float m_inverse = inverse_of(m_scale), v_inverse = inverse_of(v_scale);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int64_t at = first + 128 * p + 4 * lane;
        const int count = int(max(int64_t(0), min(int64_t(4), t.len - at)));
        const uint4 drawn = philox4x32(make_uint4(uint32_t(at / 4), tensor, r.step, r.purpose), make_uint2(r.key_low, r.key_high));
        const uint32_t words[4] = {drawn.x, drawn.y, drawn.z, drawn.w};
        uint32_t m_word = 0, v_word = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            m_word |= encode_m(x[p].m[j], m_inverse, unit_of(words[j] & 0xffffu)) << 8 * j;
            v_word |= encode_v(x[p].v[j], v_inverse, unit_of(words[j] >> 16)) << 8 * j;
        }
        store_codes(t.m_codes + at, m_word, count);
        store_codes(t.v_codes + at, v_word, count);
    }
    if (lane == 0) t.m_scales[block] = m_scale, t.v_scales[block] = v_scale;
}

template <typename T>
__device__ __forceinline__ void adamw8(const Adam8Tensor<T>* tensors, const AdamRun* runs, const AdamStep& s, const Rounding& r) {
    const AdamRun run = runs[blockIdx.x];
    const Adam8Tensor<T> t = tensors[run.tensor];
    const int64_t start = int64_t(run.run) * ADAMW_RUN, end = min(t.len, start + ADAMW_RUN);
    const int64_t mine = start + threadIdx.x / 32 * MOMENT_BLOCK;
    for (int64_t first = mine; first < end; first += ADAMW_THREADS / 32 * MOMENT_BLOCK) step_block(t, run.tensor, first, s, r);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ADAMW_THREADS)                                                           \
        adamw8_##name(const Adam8Tensor<T>* tensors, const AdamRun* runs, AdamStep step, Rounding rounding) {             \
        adamw8(tensors, runs, step, rounding);                                                                            \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)
