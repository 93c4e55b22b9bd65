// LayerNorm (1607.06450), forward and backward.
//
//   layernorm           y[t,i] = (x[t,i] − μ)·rstd·w[i] + bias[i],  μ = mean_i x[t,i],  rstd = 1/sqrt(mean_i (x[t,i] − μ)² + eps)
//                       y (=), x [tokens,width] T; w, bias [width] T; stats (=) [tokens] pairs (μ, rstd) f32
//   layernorm_backward  g = dy·w, x̂ = (x − μ)·rstd:  dx[t,i] += rstd·(g − mean_j g − x̂·mean_j(g·x̂)),
//                       partial[b,i] = Σ_t dy·x̂ over the rows of block b; column_sum of norm.cu makes dw of it
//                       dx (+=), dy, x T; partial [NORM_BACKWARD_BLOCKS,width] f32 (=)
//
// Launch: as rmsnorm and rmsnorm_backward of norm.cu. Dynamic shared memory: forward 3·width·sizeof(T), backward
// width·(4 + 3·sizeof(T)).
#include "rows.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

template <typename T, int V>
__device__ __forceinline__ void layernorm_rows(T* y, float2* stats, const T* x, const T* w, const T* bias, int tokens, int width,
                                               float eps) {
    extern __shared__ uint4 memory[];
    __shared__ float slots[ROW_THREADS / 32];
    T* const weights = reinterpret_cast<T*>(memory);  // [width]
    T* const biases = weights + width;                // [width]
    T* const row = biases + width;                    // [width]
    using L = Lane<T, V>;
    each_vector<V>(width, [&](int i) {
        L::store(weights + i, L::load(w + i));
        L::store(biases + i, L::load(bias + i));
    });
    for (int t = blockIdx.x; t < tokens; t += gridDim.x) {
        float sum = 0.f, squares = 0.f;
        each_vector<V>(width, [&](int i) {  // a thread reads back only what it stored itself: no barrier
            const Vec<T> v = L::load(x + int64_t(t) * width + i);
#pragma unroll
            for (int j = 0; j < V; j++) sum += v.x[j];
            L::store(row + i, v);
        });
        const float mean = block_sum<ROW_THREADS>(sum, slots) / width;
        each_vector<V>(width, [&](int i) {
            const Vec<T> v = L::load(row + i);
#pragma unroll
            for (int j = 0; j < V; j++) squares += (v.x[j] - mean) * (v.x[j] - mean);
        });
        const float r = 1.f / sqrtf(block_sum<ROW_THREADS>(squares, slots) / width + eps);
        if (threadIdx.x == 0) stats[t] = make_float2(mean, r);
        each_vector<V>(width, [&](int i) {
            Vec<T> v = L::load(row + i);
            const Vec<T> u = L::load(weights + i), b = L::load(biases + i);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] = (v.x[j] - mean) * r * u.x[j] + b.x[j];
            L::store(y + int64_t(t) * width + i, v);
        });
    }
}

// g = dy·w, rounded: in a row where all g are the same, g − mean g must be zero, and not what a fused product leaves.
__device__ __forceinline__ float slope(float dy, float w) { return __fmul_rn(dy, w); }

// y = x̂·w + bias undone, see the head of this file.
template <typename T, int V>
__device__ __forceinline__ void layernorm_backward_rows(T* dx, float* partial, const T* dy, const T* x, const float2* stats,
                                                        const T* w, int tokens, int width) {
    extern __shared__ uint4 memory[];
    __shared__ float slots[ROW_THREADS / 32];
    float* const sums = reinterpret_cast<float*>(memory);  // [width]: this block's share of dw
    T* const weights = reinterpret_cast<T*>(sums + width); // [width]
    T* const dy_row = weights + width;                     // [width]
    T* const x_row = dy_row + width;                       // [width]
    using L = Lane<T, V>;
    each_vector<V>(width, [&](int i) {
        L::store(weights + i, L::load(w + i));
#pragma unroll
        for (int j = 0; j < V; j++) sums[i + j] = 0.f;
    });
    const int run = (tokens + gridDim.x - 1) / gridDim.x;
    for (int t = blockIdx.x * run; t < min(tokens, int(blockIdx.x + 1) * run); t++) {
        const float2 of_row = stats[t];
        const float mean = of_row.x, r = of_row.y;
        float total = 0.f, dot = 0.f;
        each_vector<V>(width, [&](int i) {
            const Vec<T> d = L::load(dy + int64_t(t) * width + i), v = L::load(x + int64_t(t) * width + i);
            const Vec<T> u = L::load(weights + i);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float normed = (v.x[j] - mean) * r, g = slope(d.x[j], u.x[j]);
                total += g;
                dot += g * normed;
                sums[i + j] += d.x[j] * normed;
            }
            L::store(dy_row + i, d);
            L::store(x_row + i, v);
        });
        const float mean_g = block_sum<ROW_THREADS>(total, slots) / width;
        const float mean_gx = block_sum<ROW_THREADS>(dot, slots) / width;
        each_vector<V>(width, [&](int i) {
            const Vec<T> d = L::load(dy_row + i), v = L::load(x_row + i), u = L::load(weights + i);
            Vec<T> out = L::load(dx + int64_t(t) * width + i);
#pragma unroll
            for (int j = 0; j < V; j++) out.x[j] += r * (slope(d.x[j], u.x[j]) - mean_g - (v.x[j] - mean) * r * mean_gx);
            L::store(dx + int64_t(t) * width + i, out);
        });
    }
    store_partial<V>(partial, sums, width);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        layernorm_##name(T* y, float2* stats, const T* x, const T* w, const T* bias, int tokens, int width, float eps) {  \
        if (width % Vec<T>::N == 0) layernorm_rows<T, Vec<T>::N>(y, stats, x, w, bias, tokens, width, eps);               \
        else layernorm_rows<T, 1>(y, stats, x, w, bias, tokens, width, eps);                                              \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        layernorm_backward_##name(T* dx, float* partial, const T* dy, const T* x, const float2* stats, const T* w,        \
                                  int tokens, int width) {                                                                \
        if (width % Vec<T>::N == 0) layernorm_backward_rows<T, Vec<T>::N>(dx, partial, dy, x, stats, w, tokens, width);   \
        else layernorm_backward_rows<T, 1>(dx, partial, dy, x, stats, w, tokens, width);                                  \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
