// RMSNorm (1910.07467), forward and backward.
//
//   rmsnorm           y[t,i] = x[t,i]·rstd[t]·w[i],  rstd[t] = 1/sqrt(mean_i x[t,i]² + eps)
//                     y (=), x [tokens,width] T; w [width] T; rstd (=) [tokens] f32
//   rmsnorm_backward  g = dy·w, x̂ = x·rstd:  dx[t,i] += rstd·(g − x̂·mean_j(g·x̂)),  partial[b,i] = Σ_t dy·x̂ over the rows of block b
//                     dx (+=: it already holds the residual branch's gradient), dy, x T; partial [NORM_BACKWARD_BLOCKS,width] f32 (=)
//   column_sum        out[i] += Σ_b x[b,i]: dw from the partial sums, and the gradient of a bias from dy; out (+=) [width] f32,
//                     x [rows,width] T. The warps of a block take rows in turn, and their sums are added in order
//
// Launch: ROW_THREADS threads. rmsnorm: any grid, it strides over rows. rmsnorm_backward: NORM_BACKWARD_BLOCKS blocks, each with
// a run of ⌈tokens/NORM_BACKWARD_BLOCKS⌉ rows. Dynamic shared memory: forward 2·width·sizeof(T), backward
// width·(4 + 3·sizeof(T)): rows stay on chip between the two passes over them. column_sum: COLUMN_SUM_THREADS threads, a
// block for each 32 vectors of columns. `width` divisible by 16 bytes of T goes by 16-byte accesses, any other by single elements.
#include "rows.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

template <typename T, int V>
__device__ __forceinline__ void rmsnorm_rows(T* y, float* rstd, const T* x, const T* w, int tokens, int width, float eps) {
    extern __shared__ uint4 memory[];
    __shared__ float slots[ROW_THREADS / 32];
    T* const weights = reinterpret_cast<T*>(memory);  // [width]
    T* const row = weights + width;                   // [width]
    using L = Lane<T, V>;
    each_vector<V>(width, [&](int i) { L::store(weights + i, L::load(w + i)); });
    for (int t = blockIdx.x; t < tokens; t += gridDim.x) {
        float squares = 0.f;
        each_vector<V>(width, [&](int i) {  // a thread reads back only what it stored itself: no barrier
            const Vec<T> v = L::load(x + int64_t(t) * width + i);
#pragma unroll
            for (int j = 0; j < V; j++) squares += v.x[j] * v.x[j];
            L::store(row + i, v);
        });
        const float r = 1.f / sqrtf(block_sum<ROW_THREADS>(squares, slots) / width + eps);
        if (threadIdx.x == 0) rstd[t] = r;
        each_vector<V>(width, [&](int i) {
            Vec<T> v = L::load(row + i);
            const Vec<T> u = L::load(weights + i);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] = v.x[j] * r * u.x[j];
            L::store(y + int64_t(t) * width + i, v);
        });
    }
}

// y = x·rstd·w undone, see the head of this file.
template <typename T, int V>
__device__ __forceinline__ void rmsnorm_backward_rows(T* dx, float* partial, const T* dy, const T* x, const float* rstd, const T* w,
                                                      int tokens, int width) {
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
        const float r = rstd[t];
        float dot = 0.f;
        each_vector<V>(width, [&](int i) {
            const Vec<T> d = L::load(dy + int64_t(t) * width + i), v = L::load(x + int64_t(t) * width + i);
            const Vec<T> u = L::load(weights + i);
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float normed = v.x[j] * r;
                dot += d.x[j] * u.x[j] * normed;
                sums[i + j] += d.x[j] * normed;
            }
            L::store(dy_row + i, d);
            L::store(x_row + i, v);
        });
        const float mean = block_sum<ROW_THREADS>(dot, slots) / width;
        each_vector<V>(width, [&](int i) {
            const Vec<T> d = L::load(dy_row + i), v = L::load(x_row + i), u = L::load(weights + i);
            Vec<T> out = L::load(dx + int64_t(t) * width + i);
#pragma unroll
            for (int j = 0; j < V; j++) out.x[j] += r * (d.x[j] * u.x[j] - v.x[j] * r * mean);
            L::store(dx + int64_t(t) * width + i, out);
        });
    }
    store_partial<V>(partial, sums, width);
}

template <typename T, int V>
__device__ __forceinline__ void column_sum(float* out, const T* x, int rows, int width) {
    constexpr int WARPS = COLUMN_SUM_THREADS / 32, COLUMNS = 32 * V;  // of a block
    __shared__ float parts[WARPS][V][32];                             // by warp, place in a lane's vector, lane
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * COLUMNS;
    Vec<T> sums = {};
    if (first + lane * V < width)
        for (int r = warp; r < rows; r += WARPS) {
            const Vec<T> v = Lane<T, V>::load(x + int64_t(r) * width + first + lane * V);
#pragma unroll
            for (int j = 0; j < V; j++) sums.x[j] += v.x[j];
        }
#pragma unroll
    for (int j = 0; j < V; j++) parts[warp][j][lane] = sums.x[j];
    __syncthreads();
    for (int i = threadIdx.x; i < min(COLUMNS, width - first); i += COLUMN_SUM_THREADS) {
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += parts[w][i % V][i / V];
        out[first + i] += sum;
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        rmsnorm_##name(T* y, float* rstd, const T* x, const T* w, int tokens, int width, float eps) {                     \
        if (width % Vec<T>::N == 0) rmsnorm_rows<T, Vec<T>::N>(y, rstd, x, w, tokens, width, eps);                        \
        else rmsnorm_rows<T, 1>(y, rstd, x, w, tokens, width, eps);                                                       \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        rmsnorm_backward_##name(T* dx, float* partial, const T* dy, const T* x, const float* rstd, const T* w,            \
                                int tokens, int width) {                                                                  \
        if (width % Vec<T>::N == 0) rmsnorm_backward_rows<T, Vec<T>::N>(dx, partial, dy, x, rstd, w, tokens, width);      \
        else rmsnorm_backward_rows<T, 1>(dx, partial, dy, x, rstd, w, tokens, width);                                     \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(COLUMN_SUM_THREADS)                                                      \
        column_sum_##name(float* out, const T* x, int rows, int width) {                                                  \
        if (width % Vec<T>::N == 0) column_sum<T, Vec<T>::N>(out, x, rows, width);                                        \
        else column_sum<T, 1>(out, x, rows, width);                                                                       \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)
