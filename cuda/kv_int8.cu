// Keys and values of the cache as 8-bit codes with one scale for each head of a token, x = scale·code. Formulas: kv_quantise and
// attention_int8 in src/backend/mod.rs.
//
//   kv_quantise    codes [heads, D] (=), scales [heads] (=) of x [heads, D], heads = tokens·kv_heads; KV_LANES for a head
//   kv_dequantise  x [heads, D] (=), each element rounded to T once; KV_ELEMENTS a thread
//   decode_int8    as decode in decode.cu, over codes and with f32 arithmetic: part_o, part_lse (=), for decode_combine
//
// Launch: kv_quantise, kv_dequantise: ELEMENTWISE_THREADS, grid striding. decode_int8: DECODE_THREADS, grid (splits, kv_heads, rows), shared
// as DecodeMemory lays it out.
#include "attention.cuh"
#include "codes.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

// f(i, x[i]) for a lane's share of a head: 16 bytes at a time where a head is made of them.
template <typename T, typename F>
__device__ __forceinline__ void each_of_head(const T* x, int head_dim, F f) {
    constexpr int N = Vec<T>::N;
    const int lane = threadIdx.x % KV_LANES;
    if (head_dim % N == 0) {
        for (int i = lane * N; i < head_dim; i += KV_LANES * N) {
            const Vec<T> v = load_vec(x + i);
#pragma unroll
            for (int j = 0; j < N; j++) f(i + j, v.x[j]);
        }
    } else {
        for (int i = lane; i < head_dim; i += KV_LANES) f(i, to_float(x[i]));
    }
}

template <typename T>
__device__ __forceinline__ void kv_quantise(int8_t* codes, float* scales, const T* x, int head_dim, int64_t heads) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x / KV_LANES;
    // all lanes of a warp go round equally often, so that they can shuffle
    const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / KV_LANES;
    for (int64_t head = first; head - first % (32 / KV_LANES) < heads; head += step) {
        const bool there = head < heads;
        float top = 0.f, poison = 0.f;  // poison: 0, or NaN of NaN and of infinity
        if (there)
            each_of_head(x + head * head_dim, head_dim, [&](int, float value) {
                top = fmaxf(top, fabsf(value));
                poison += value * 0.f;
            });
#pragma unroll
        for (int d = KV_LANES / 2; d > 0; d /= 2) {
            top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, d));
            poison += __shfl_xor_sync(FULL_WARP, poison, d);
        }
        if (!there) continue;
        const float scale = scale_of(top / 127.f, poison), inverse = inverse_of(scale);
        int8_t* const to = codes + head * head_dim;
        each_of_head(x + head * head_dim, head_dim, [&](int i, float value) { to[i] = int8_t(__float2int_rn(value * inverse)); });
        if (threadIdx.x % KV_LANES == 0) scales[head] = scale;
    }
}

template <typename T>
__device__ __forceinline__ void kv_dequantise(T* x, const int8_t* codes, const float* scales, int head_dim, int64_t heads) {
    const int64_t all = heads * head_dim, step = int64_t(gridDim.x) * blockDim.x, first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    static_assert(KV_ELEMENTS == sizeof(uint4), "the codes of a thread are one load");
    if (head_dim % KV_ELEMENTS != 0) {
        for (int64_t i = first; i < all; i += step) x[i] = from_float<T>(scales[i / head_dim] * float(codes[i]));
        return;
    }
    for (int64_t i = KV_ELEMENTS * first; i < all; i += KV_ELEMENTS * step) {
        const uint4 word = *reinterpret_cast<const uint4*>(codes + i);
        const uint32_t words[4] = {word.x, word.y, word.z, word.w};
        const float scale = scales[i / head_dim];
        constexpr int N = Vec<T>::N;
#pragma unroll
        for (int part = 0; part < KV_ELEMENTS; part += N) {
            Vec<T> out;
#pragma unroll
            for (int j = 0; j < N; j++) out.x[j] = scale * code_of(words[(part + j) / 4], (part + j) % 4);
            store_vec(x + i + part, out);
        }
    }
}

// What a block of decode_int8 keeps in shared memory.
struct DecodeMemory {
    uint32_t *k, *v;                    // [DECODE_KEYS][stride] words of four codes; an odd stride: lanes on keys below each other meet different banks
    float* q;                           // [DECODE_ROWS][4·words]
    float* weights;                     // [DECODE_ROWS][DECODE_KEYS]
    float *factors, *tops, *totals;     // [DECODE_ROWS]
    float *k_scales, *v_scales;         // [DECODE_KEYS]
    int words, stride;

    __device__ DecodeMemory(void* memory, int head_dim) : words((head_dim + 3) / 4), stride(words | 1) {
        k = static_cast<uint32_t*>(memory);
        v = k + DECODE_KEYS * stride;
        q = reinterpret_cast<float*>(v + DECODE_KEYS * stride);
        weights = q + DECODE_ROWS * 4 * words;
        factors = weights + DECODE_ROWS * DECODE_KEYS;
        tops = factors + DECODE_ROWS;
        totals = tops + DECODE_ROWS;
        k_scales = totals + DECODE_ROWS;
        v_scales = k_scales + DECODE_KEYS;
    }
};

// The codes of DECODE_KEYS heads, `stride` bytes apart; those from `left` on are zeros.
__device__ __forceinline__ void load_codes(uint32_t* to, const DecodeMemory& m, const int8_t* from, int64_t stride, int left, int head_dim) {
    if (head_dim % 16 == 0) {
        const int chunks = head_dim / 16;
        for (int i = threadIdx.x; i < DECODE_KEYS * chunks; i += DECODE_THREADS) {
            const int key = i / chunks, chunk = i % chunks;
            uint4 x = make_uint4(0, 0, 0, 0);
            if (key < left) x = *reinterpret_cast<const uint4*>(from + key * stride + 16 * chunk);
            uint32_t* const row = to + key * m.stride + 4 * chunk;
            row[0] = x.x, row[1] = x.y, row[2] = x.z, row[3] = x.w;
        }
        return;
    }
    for (int i = threadIdx.x; i < DECODE_KEYS * m.words; i += DECODE_THREADS) {
        const int key = i / m.words, word = i % m.words;
        uint32_t x = 0;
        for (int b = 0; b < 4; b++)
            if (key < left && 4 * word + b < head_dim) x |= uint32_t(uint8_t(from[key * stride + 4 * word + b])) << (8 * b);
        to[key * m.stride + word] = x;
    }
}

constexpr int SCORE_ROWS = DECODE_ROWS * DECODE_KEYS / DECODE_THREADS;  // of one key that a thread has
constexpr int VALUE_ROWS = DECODE_ROWS / (DECODE_THREADS / (PLAIN_HEAD_DIM / 4));  // of one word of columns that a thread has, at most
static_assert(DECODE_THREADS % DECODE_KEYS == 0, "a thread stays with its key");

// weights[r][key] = scale·log2(e)·q_r·k_key, −inf where r does not see the key.
__device__ __forceinline__ void score_keys(const DecodeMemory& m, const uint32_t* documents, int key0, int end, int used, int group, const Shape& s) {
    constexpr int APART = DECODE_THREADS / DECODE_KEYS;
    const int key = threadIdx.x % DECODE_KEYS, first = threadIdx.x / DECODE_KEYS;
    float sums[SCORE_ROWS] = {};
    for (int w = 0; w < m.words; w++) {
        const uint32_t word = m.k[key * m.stride + w];
#pragma unroll
        for (int i = 0; i < SCORE_ROWS; i++) {
            const int r = first + APART * i;
            if (r >= used) break;
            const float4 q = *reinterpret_cast<const float4*>(m.q + (r * m.words + w) * 4);
            sums[i] += q.x * code_of(word, 0) + q.y * code_of(word, 1) + q.z * code_of(word, 2) + q.w * code_of(word, 3);
        }
    }
    const float scale = m.k_scales[key] * (s.scale * LOG2_E);
#pragma unroll
    for (int i = 0; i < SCORE_ROWS; i++) {
        const int r = first + APART * i, index = key0 + key, at = s.past() + r / group;
        if (r >= used) break;
        const bool visible = sees(at, index, s, documents) && index < end;  // the other way round takes a stack on sm_120
        m.weights[r * DECODE_KEYS + key] = visible ? sums[i] * scale : -INFINITY;
    }
}

// The online softmax over a tile: scores become weights with the values' scales in them; a warp for every fourth row.
__device__ __forceinline__ void weigh_keys(const DecodeMemory& m, int used) {
    const int lane = threadIdx.x % 32;
    for (int r = threadIdx.x / 32; r < used; r += DECODE_THREADS / 32) {
        float* const row = m.weights + r * DECODE_KEYS;
        float seen = -INFINITY;
#pragma unroll
        for (int key = 0; key < DECODE_KEYS; key += 32) seen = fmaxf(seen, row[key + lane]);
        const float old = m.tops[r], top = fmaxf(old, warp_max(seen)), base = top == -INFINITY ? 0.f : top;
        float sum = 0.f;
#pragma unroll
        for (int key = 0; key < DECODE_KEYS; key += 32) {
            const float p = exp2f(row[key + lane] - base);
            sum += p;
            row[key + lane] = p * m.v_scales[key + lane];
        }
        sum = warp_sum(sum);
        __syncwarp();
        if (lane == 0) {
            const float factor = exp2f(old - base);
            m.factors[r] = factor;
            m.tops[r] = top;
            m.totals[r] = m.totals[r] * factor + sum;
        }
    }
}

template <typename T>
__device__ __forceinline__ void decode_int8(float* part_o, float* part_lse, const T* q, const int8_t* k, const float* k_scales,
                                            const int8_t* v, const float* v_scales, const uint32_t* documents, int head_dim,
                                            int per_split, Shape s) {
    extern __shared__ __align__(128) uint4 memory[];
    const DecodeMemory m(memory, head_dim);
    const int row = blockIdx.z, kv_head = blockIdx.y, group = s.heads / s.kv_heads, used = group * s.queries;
    if (documents) documents += int64_t(row) * s.keys;
    for (int i = threadIdx.x; i < DECODE_ROWS * 4 * m.words; i += DECODE_THREADS) {
        const int r = i / (4 * m.words), c = i % (4 * m.words);
        const int64_t from = ((int64_t(row) * s.queries + r / group) * s.heads + kv_head * group + r % group) * head_dim + c;
        m.q[i] = r < used && c < head_dim ? to_float(q[from]) : 0.f;
    }
    if (threadIdx.x < DECODE_ROWS) {
        m.tops[threadIdx.x] = -INFINITY;
        m.totals[threadIdx.x] = 0.f;
    }

    const int word = threadIdx.x % m.words, apart = DECODE_THREADS / m.words, first = threadIdx.x / m.words;
    float sums[VALUE_ROWS][4] = {};
    const int begin = seen_from<DECODE_KEYS>(s) + blockIdx.x * per_split, end = min(s.keys, begin + per_split);
    for (int key0 = begin; key0 < end; key0 += DECODE_KEYS) {
        __syncthreads();  // the last tile has been read
        const int64_t head = (int64_t(row) * s.keys + key0) * s.kv_heads + kv_head, stride = int64_t(s.kv_heads) * head_dim;
        load_codes(m.k, m, k + head * head_dim, stride, end - key0, head_dim);
        load_codes(m.v, m, v + head * head_dim, stride, end - key0, head_dim);
        if (threadIdx.x < DECODE_KEYS) {
            const bool there = threadIdx.x < end - key0;
            const int64_t at = head + int64_t(threadIdx.x) * s.kv_heads;
            m.k_scales[threadIdx.x] = there ? k_scales[at] : 0.f;
            m.v_scales[threadIdx.x] = there ? v_scales[at] : 0.f;
        }
        __syncthreads();
        score_keys(m, documents, key0, end, used, group, s);
        __syncthreads();
        weigh_keys(m, used);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < VALUE_ROWS; i++) {
            const int r = first + apart * i;
            const float factor = first < apart && r < used ? m.factors[r] : 0.f;
#pragma unroll
            for (int b = 0; b < 4; b++) sums[i][b] *= factor;
        }
        for (int key = 0; key < min(DECODE_KEYS, end - key0); key++) {
            const uint32_t codes = m.v[key * m.stride + word];
#pragma unroll
            for (int i = 0; i < VALUE_ROWS; i++) {
                const int r = first + apart * i;
                if (first >= apart || r >= used) break;
                const float p = m.weights[r * DECODE_KEYS + key];
#pragma unroll
                for (int b = 0; b < 4; b++) sums[i][b] += p * code_of(codes, b);
            }
        }
    }
    const int64_t part = (int64_t(blockIdx.x) * gridDim.z + row) * gridDim.y + kv_head;
#pragma unroll
    for (int i = 0; i < VALUE_ROWS; i++) {
        const int r = first + apart * i;
        if (first >= apart || r >= used) break;
        const float total = m.totals[r], inverse = total == 0.f ? 0.f : 1.f / total;
#pragma unroll
        for (int b = 0; b < 4; b++)
            if (4 * word + b < head_dim) part_o[(part * DECODE_ROWS + r) * head_dim + 4 * word + b] = sums[i][b] * inverse;
    }
    if (threadIdx.x < used) part_lse[part * DECODE_ROWS + threadIdx.x] = (m.tops[threadIdx.x] + log2f(m.totals[threadIdx.x])) * LN_2;
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                                  \
        kv_quantise_##name(int8_t* codes, float* scales, const T* x, int head_dim, int64_t heads) {                           \
        kv_quantise(codes, scales, x, head_dim, heads);                                                                       \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                                  \
        kv_dequantise_##name(T* x, const int8_t* codes, const float* scales, int head_dim, int64_t heads) {                   \
        kv_dequantise(x, codes, scales, head_dim, heads);                                                                     \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                              \
        decode_int8_##name(float* part_o, float* part_lse, const T* q, const int8_t* k, const float* k_scales,                \
                           const int8_t* v, const float* v_scales, const uint32_t* documents, int head_dim, int per_split,    \
                           int queries, int keys, int heads, int kv_heads, int window, float scale) {                         \
        decode_int8(part_o, part_lse, q, k, k_scales, v, v_scales, documents, head_dim, per_split,                            \
                    Shape{queries, keys, heads, kv_heads, window, scale});                                                    \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
